"""What looking inside costs: coordinate checks against the package torch-module-monitor, and as a share of training.

``pip install --no-deps torch-module-monitor==0.1.0`` (Bordt; the refined coordinate check of Haas et al. 2025), then
``python -m benchmarks.diagnostics`` prints Markdown tables. Each variant runs in processes of its own, in turns, so
that a machine's slow minutes fall on all of them; medians of processor seconds are reported. In each, plain and
monitored training steps alternate, and a monitored step's cost is what it takes beyond a plain one.

Ours runs on a probe of 8 sequences after the step, theirs on the batch that is trained on, since it compares
activations of the training forward pass with those of a second model. Their memory and time would fall with a smaller
batch, but only together with training's.
"""

import argparse
import copy
import dataclasses
import importlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import litgpt
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import ModelConfig, RunConfig
from pipeline.diagnostics.coordinate_check import CoordinateCheck
from pipeline.diagnostics.sharpness import Sharpness
from pipeline.losses import linear_loss
from pipeline.models.build import build
from pipeline.models.gpt import litgpt_config
from pipeline.models.init import initial_values, initialize_
from pipeline.scaling import scaling_of
from pipeline.training.monitor import gradients

CONFIG = RunConfig(width=512, seq_len=128, global_batch=32, model=ModelConfig(n_layer=4, vocab_size=2048))
PROBE = 8


class Training:
    """Plain training with all logits at once, which both can follow; random tokens take as long as any."""

    def __init__(self, config: RunConfig) -> None:
        torch.manual_seed(0)
        self.model = litgpt.GPT(litgpt_config(config.model, config.width, config.seq_len))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        tokens = torch.randint(0, config.model.vocab_size, (config.global_batch, config.seq_len + 1))
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step(self, inside: Callable[[], None] = lambda: None) -> None:
        loss = F.cross_entropy(self.model(self.inputs).flatten(0, 1), self.targets.flatten())
        inside()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _ours(training: Training, spectra: bool, probe: int = PROBE) -> tuple[CoordinateCheck, Callable[[], None]]:
    start = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    check = CoordinateCheck(
        training.model, training.inputs[:probe], training.targets[:probe], initial=start.__getitem__, spectra=spectra
    )
    check.refer()

    def monitored() -> None:
        training.step()
        check.check()

    return check, monitored


def _package() -> Any:
    try:
        return importlib.import_module("torch_module_monitor")
    except ImportError:
        sys.exit("pip install --no-deps torch-module-monitor==0.1.0")


def _theirs(training: Training) -> tuple[Any, Callable[[], None]]:
    package = _package()
    reference = copy.deepcopy(training.model)
    monitor = package.ModuleMonitor(monitor_step_fn=lambda step: step % 2 == 0)
    monitor.set_module(training.model)
    monitor.set_reference_module(reference)
    check = package.RefinedCoordinateCheck(monitor)

    def monitored() -> None:
        monitor.begin_step((monitor.current_step or 0) + 2)
        with torch.no_grad():
            reference(training.inputs)
        training.step(check.refined_coordinate_check)
        monitor.end_step()

    return monitor, monitored


def cost(variant: str, batch: int, repeats: int) -> dict[str, float]:
    """Median seconds of a plain step and of what a monitored one takes beyond it; MB above the peak of plain
    training."""
    training = Training(dataclasses.replace(CONFIG, global_batch=batch, micro_batch=batch))
    training.step()
    training.step()
    before = _peak()
    _, monitored = _theirs(training) if variant == "theirs" else _ours(training, spectra=variant == "ours, spectra")
    monitored()  # spectra start from nothing
    plain, beyond = [], []
    for _ in range(repeats):
        plain.append(_seconds(training.step))
        beyond.append(_seconds(monitored))
    step = statistics.median(plain)
    return {"step": step, "seconds": statistics.median(beyond) - step, "mb": _peak() - before}


def equality() -> dict[str, float]:
    """Largest relative difference of every quantity that both report, over all weights, after three steps, on the whole
    batch. Theirs are means of 2-norms over tokens, the fused qkv as one."""
    config = dataclasses.replace(CONFIG, width=128, base_width=128, global_batch=8, micro_batch=8)
    training = Training(config)
    check, _ = _ours(training, spectra=False, probe=8)
    for layer in check.layers:
        layer.parts = ()
    monitor, _ = _theirs(training)
    for _ in range(3):
        training.step()
    ours = check.check()
    reference = monitor.reference_module
    theirs = _package().RefinedCoordinateCheck(monitor)
    monitor.begin_step(2)
    with torch.no_grad():
        reference(training.inputs)
        training.model(training.inputs)
        theirs.refined_coordinate_check()
    monitor.end_step()
    found: dict[str, float] = dict(monitor.storage.get_step_metrics(2))
    worst: dict[str, float] = {}
    for layer in check.layers:
        weight = layer.tensor("weight")
        assert weight is not None
        name = layer.name
        fan_out = weight.shape[0] if layer.kind != "embedding" else weight.shape[1]
        prefix = f"{name}.weight"
        pairs = {"effective": f"RCC (W_t-W_0)x_t/{prefix}/l2norm", "propagating": f"RCC W_0(x_t-x_0)/{prefix}/l2norm",
                 "output": f"RCC (W_t-W_0)x_t/{prefix}/W_t x_t/l2norm"}  # fmt: skip
        sizes = dict.fromkeys(pairs, fan_out)
        match layer.kind:
            case "embedding":
                pairs = {"effective": f"RCC (W_t-W_0)x_t/{name}/l2norm"}
            case "linear":
                pairs |= {"input": f"RCC x_t/{name}/l2norm", "input_change": f"RCC (x_t-x_0)/{name}/l2norm"}
                sizes |= dict.fromkeys(("input", "input_change"), weight.shape[1])
            case "norm":
                pairs |= {"input": f"RCC (W_t-W_0)x_t/{prefix}/x_t/l2norm",
                          "input_change": f"RCC W_0(x_t-x_0)/{prefix}/x_t-x_0/l2norm"}  # fmt: skip
                sizes |= dict.fromkeys(("input", "input_change"), fan_out)
        for quantity, key in pairs.items():
            other = found[key] / sizes[quantity] ** 0.5
            off = abs(ours[f"{quantity}/{prefix}"] - other) / max(abs(other), 1e-12)
            worst[quantity] = max(worst.get(quantity, 0.0), off)
    return worst | {"weights": float(len(check.layers))}


def overhead(width: int, repeats: int) -> dict[str, float]:
    """Seconds of this project's training step, of a check with and without spectra, of the gradients' norms, and of a
    measurement of the sharpness, in turns."""
    config = dataclasses.replace(CONFIG, width=width)
    model, specs = build(config)
    initialize_(model, specs, scaling_of(config), 0)
    tokens = torch.randint(0, config.model.vocab_size, (config.global_batch, config.seq_len + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def backward() -> None:
        h: Tensor = model(inputs)
        loss = linear_loss(h.flatten(0, 1), model.readout.weight, targets.flatten()).loss
        torch.autograd.backward(loss)

    def step() -> None:
        optimizer.zero_grad()
        backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    draw = initial_values(model, specs, scaling_of(config), 0)
    kept = {name: draw(name) for name in specs}.__getitem__
    checks = {
        name: CoordinateCheck(model, inputs[:PROBE], targets[:PROBE], initial=initial, spectra=spectra)
        for name, initial, spectra in (
            ("check", kept, False), ("check, W_0 drawn again", draw, False), ("check with spectra", kept, True)
        )
    }  # fmt: skip
    sharpness = Sharpness(model, inputs[:PROBE], targets[:PROBE], "cross_entropy")
    step()
    for check in checks.values():
        check.refer()
        check.check()
    sharpness.measure()
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        actions: dict[str, Callable[[], object]] = {
            "step": step,
            "gradients": lambda: gradients(checks["check"], torch.device("cpu"), of_zero=False),
            **{name: check.check for name, check in checks.items()},
            "sharpness": sharpness.measure,
            "step again": step,
        }
        for name, action in actions.items():
            times.setdefault(name, []).append(_seconds(action))
    times["step"] += times.pop("step again")
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(action: Callable[[], Any]) -> float:
    """Processor time, which others on the machine do not add to; there is one thread."""
    start = time.process_time()
    action()
    return time.process_time() - start


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _child(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.diagnostics", "--one", *map(str, arguments)]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", default="32,64")
    parser.add_argument("--widths", default="512")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(1)
        what, *rest = args.one
        match what:
            case "cost":
                print(json.dumps(cost(rest[0], int(rest[1]), int(rest[2]))))
            case "equality":
                print(json.dumps(equality()))
            case _:
                print(json.dumps(overhead(int(rest[0]), int(rest[1]))))
        return
    c = CONFIG
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread, fp32, {args.rounds} rounds of "
          f"{args.repeats} repeats. GPT with {c.model.n_layer} blocks, {c.seq_len} tokens, vocabulary "
          f"{c.model.vocab_size}, "
          f"AdamW.\n")  # fmt: skip
    print(
        "The same quantities on the same batch (width 128, 8 sequences, after 3 steps), largest relative difference:\n"
    )
    same = _child("equality")
    print(f"| {' | '.join(same)} |\n|{'---|' * len(same)}")
    print(f"| {' | '.join(f'{v:.0f}' if k == 'weights' else f'{v:.1e}' for k, v in same.items())} |\n", flush=True)
    print(
        "| batch | variant | plain step, s | a monitored step's extra, s | time / theirs | extra memory, MB | memory "
        "/ theirs |"
    )
    print("|---|---|---|---|---|---|---|")
    for batch in map(int, args.batches.split(",")):
        runs: dict[str, list[dict[str, float]]] = {"theirs": [], "ours": [], "ours, spectra": []}
        for _ in range(args.rounds):
            for variant, found in runs.items():
                found.append(_child("cost", variant, batch, args.repeats))
        theirs = _medians(runs["theirs"])
        # in one round all run one after another: ratios of the same round, so that slow minutes fall out
        for variant, found in runs.items():
            m = _medians(found)
            pairs = list(zip(found, runs["theirs"], strict=True))
            ratio = statistics.median((a["seconds"] / a["step"]) / (b["seconds"] / b["step"]) for a, b in pairs)
            print(f"| {batch} x {c.seq_len} | {variant} | {m['step']:.2f} | {m['seconds']:.2f} | {ratio:.3f} | "
                  f"{m['mb']:.0f} | {m['mb'] / theirs['mb']:.3f} |", flush=True)  # fmt: skip
    print(f"\nShare of training time, batch {c.global_batch} x {c.seq_len}, probes of {PROBE} sequences:\n")
    print("| width | what | seconds | in training steps | every | of training |")
    print("|---|---|---|---|---|---|")
    for width in map(int, args.widths.split(",")):
        runs_at = [_child("overhead", width, args.repeats) for _ in range(args.rounds)]
        m = _medians(runs_at)
        for name, seconds in m.items():
            ratio = statistics.median(run[name] / run["step"] for run in runs_at)
            every = {"step": 1, "sharpness": 500}.get(name, 100)
            print(f"| {width} | {name} | {seconds:.2f} | {ratio:.2f} | {every} | {ratio / every:.2%} |", flush=True)


if __name__ == "__main__":
    main()
