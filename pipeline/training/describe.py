"""A description of a run that is not trained: `pipeline train --dry_run`."""

import torch
import yaml

from pipeline.config import RunConfig, run_settings
from pipeline.models.build import build, flops_per_token, parameter_count
from pipeline.parameterization.rules import ROLES
from pipeline.scaling import scaling_of


def describe(config: RunConfig) -> str:
    """The resolved config as YAML, then its size and cost, and the learning rate and initial std of every role."""
    with torch.device("meta"):
        model, specs = build(config)
    flops = flops_per_token(model, config) * config.total_tokens
    scaling = scaling_of(config)
    present = {spec.role for spec in specs.values()}
    trained = {specs[name].role for name, parameter in model.named_parameters() if parameter.requires_grad}
    rows = [
        f"# {role:8} {f'{config.lr * scaling.lr(role):.4g}' if role in trained else 'not trained':<14} "
        f"{scaling.init(role):.4g}"
        for role in ROLES
        if role in present
    ]
    return "\n".join(
        [
            yaml.safe_dump(run_settings(config), sort_keys=False).rstrip(),
            "",
            f"# run         {config.run_dir}",
            f"# parameters  {parameter_count(model):,}",
            f"# tokens      {config.total_tokens:,} ({config.last_step} steps of {config.tokens_per_step:,})",
            f"# FLOPs       {flops:.3g} (forward and backward, without attention's softmax and the optimizer)",
            "#",
            "# role     peak lr        initial std / std at base width",
            *rows,
        ]
    )
