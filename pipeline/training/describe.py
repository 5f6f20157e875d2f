"""A description of a run that is not trained: `pipeline train --dry_run`."""

from dataclasses import dataclass

import torch

from pipeline.config import ModelConfig, RunConfig, run_settings
from pipeline.console import wrapped
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.models.build import about, build, flops_per_token, parameter_count
from pipeline.parameterization.rules import ROLES
from pipeline.scaling import scaling_of
from pipeline.strict_yaml import dump_yaml


@dataclass(frozen=True)
class Size:
    """What a run takes."""

    parameters: int
    flops: float
    """Forward and backward over all of its tokens, without attention's softmax and the optimizer."""
    memory: float
    """Bytes of weights, gradients and optimizer state in fp32, unsharded; activations come on top."""
    disk: float
    """Bytes that it leaves: records, and its last checkpoint where that is kept."""


RECORD = 200  # bytes of a line of metrics.jsonl, about


def size(config: RunConfig) -> Size:
    """Without making a weight."""
    with torch.device("meta"):
        model, _ = build(config)
    count = parameter_count(model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    state = 4 * trained * OPTIMIZERS[config.optimizer].moments(config)
    kept = 4 * count + state if config.keep_checkpoint else 0
    records = RECORD * config.last_step / config.log_interval
    flops = flops_per_token(model, config) * config.total_tokens
    return Size(count, flops, 4.0 * (count + trained) + state, kept + records)


def named(config: RunConfig) -> list[str]:
    """What an architecture that was asked for by name keeps here and what it replaces, as lines; none for the default
    one, whose settings are the recipes' own."""
    if config.model.name == ModelConfig().name:
        return []
    return [line for text in about(config) for line in wrapped(text, "  ")]


def describe(config: RunConfig) -> str:
    """The resolved config as YAML, then its size and cost, and the learning rate and initial std of every role."""
    with torch.device("meta"):
        model, specs = build(config)
    whole = size(config)
    scaling = scaling_of(config)
    trained = {specs[name] for name, parameter in model.named_parameters() if parameter.requires_grad}
    ruled = config.depth_scaling != "none"  # else a tensor's place does not matter
    rows = {}
    for spec in sorted(specs.values(), key=lambda spec: ROLES.index(spec.role)):
        name = f"{spec.role}, {spec.place}" if ruled and spec.place != "trunk" else spec.role
        if spec in trained or name not in rows:
            lr = f"{config.lr * scaling.lr(spec.role, spec.place):.4g}" if spec in trained else "not trained"
            rows[name] = f"# {name:{8 + 12 * ruled}} {lr:<14} {scaling.init(spec.role, spec.place):.4g}"
    return "\n".join(
        [
            dump_yaml(run_settings(config)).rstrip(),
            "",
            *(f"#{line}" for line in named(config)),
            f"# run         {config.run_dir}",
            f"# parameters  {whole.parameters:,}",
            f"# tokens      {config.total_tokens:,} ({config.last_step} steps of {config.tokens_per_step:,})",
            f"# FLOPs       {whole.flops:.3g} (forward and backward, without attention's softmax and the optimizer)",
            "#",
            f"# {'role':{8 + 12 * ruled}} {'peak lr':<14} initial std / std at base width",
            *rows.values(),
        ]
    )
