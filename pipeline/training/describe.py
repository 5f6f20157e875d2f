"""What a run would be, without training it: `pipeline train --dry_run`."""

import torch
import yaml

from pipeline.config import RunConfig, run_settings
from pipeline.models import gpt
from pipeline.optim import FAMILY
from pipeline.parameterization import rules


def describe(config: RunConfig) -> str:
    """The resolved config as YAML, then its size and cost, and the learning rate and initial std of every role."""
    with torch.device("meta"):
        model = gpt.build(config.model, config.width, config.seq_len)
    flops = gpt.flops_per_token(model, config.seq_len) * config.total_tokens
    parameterization, point = rules.get(config.param), config.width_point
    rows = [
        f"# {role:8} {config.lr * parameterization.lr_factor(role, FAMILY[config.optimizer], point):<14.4g}"
        f" {parameterization.init_factor(role, point, config.embedding_init):.4g}"
        for role in rules.ROLES
    ]
    return "\n".join(
        [
            yaml.safe_dump(run_settings(config), sort_keys=False).rstrip(),
            "",
            f"# run         {config.run_dir}",
            f"# parameters  {gpt.parameter_count(model):,}",
            f"# tokens      {config.total_tokens:,} ({config.steps} steps of {config.global_batch} x {config.seq_len})",
            f"# FLOPs       {flops:.3g} (forward and backward, without attention's softmax and the optimizer)",
            "#",
            "# role     peak lr        initial std / std at base width",
            *rows,
        ]
    )
