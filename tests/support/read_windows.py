"""A process that reads a run's training windows as all its ranks would, step by step, and can be killed at any time."""

import contextlib
import hashlib
import json
import time
from pathlib import Path

import torch

from pipeline.config import RunConfig
from pipeline.data.open import open_data
from pipeline.files import write_atomic


def read(config: RunConfig, folder: Path, world_size: int, pause: float = 0.0, state_every: int = 3) -> None:
    """Append a line ``step sha256`` per global batch to ``folder/hashes`` until `config.steps`, going on from
    ``folder/state.json`` where there is one; `pause` seconds after each."""
    state_file, hashes_file = folder / "state.json", folder / "hashes"
    saved = json.loads(state_file.read_text()) if state_file.exists() else {"step": 0}
    step = saved["step"]
    lines = hashes_file.read_text().splitlines()[:step] if step else []
    write_atomic(hashes_file, "".join(line + "\n" for line in lines))

    ranks = [open_data(config).train for _ in range(world_size)]
    if step:
        for rank in ranks:
            rank.restore(step, torch.tensor(saved["state"], dtype=torch.int64))
    with contextlib.ExitStack() as stack, hashes_file.open("a") as hashes:
        for rank in ranks:
            stack.callback(rank.close)
        micro_batch = config.global_batch // world_size
        batches = [
            rank.batches(first_step=step, micro_batch=micro_batch, rank=number, world_size=world_size)
            for number, rank in enumerate(ranks)
        ]
        while step < config.steps:
            rows = torch.cat([next(batch) for batch in batches])
            step += 1
            hashes.write(f"{step} {hashlib.sha256(rows.numpy().tobytes()).hexdigest()}\n")
            hashes.flush()
            time.sleep(pause)
            if step % state_every == 0 or step == config.steps:
                state = sum((rank.state(step) for rank in ranks), torch.zeros((), dtype=torch.int64))
                write_atomic(state_file, json.dumps({"step": step, "state": state.tolist()}))
