"""Runs to export, and what their exports hold."""

from pathlib import Path
from typing import Any

import litgpt
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.cli.export import main
from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.files import file_sha256
from pipeline.models import gpt
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.trainer import train

TEXT = "the union of states and people ask what rate a wide network bears 7."
LITGPT_FILES = {"model.safetensors", "model_config.yaml", "tokenizer.json", "tokenizer_config.json", "export.json"}
PLAIN_FILES = {"torch/model.py", "torch/settings.json", "torch/model.safetensors"}


def trained(config: RunConfig) -> Path:
    train(config, show_progress=False)
    return config.run_dir


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file, by its path; hidden ones too."""
    return {str(p.relative_to(folder)): file_sha256(p) for p in folder.rglob("*") if p.is_file()}


def loaded(folder: Path) -> litgpt.GPT:
    """As the README says: litgpt's own class, strictly."""
    model = litgpt.GPT(litgpt.Config.from_checkpoint(folder))
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    return model


def tokens_of(config: RunConfig) -> Tensor:
    return torch.randint(0, config.model.vocab_size, (3, config.seq_len), generator=torch.Generator().manual_seed(0))


def logits_of_the_run(config: RunConfig) -> Tensor:
    """This project's model with the parameters of the checkpoint."""
    model = gpt.build(config.model, config.width, config.seq_len)
    checkpoint = Checkpoint(RunDir(config.run_dir).checkpoint)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.tensor(f"model.{name}"))
    with torch.no_grad():
        return model.logits(tokens_of(config))


def same_logits(config: RunConfig, model: Any) -> None:
    with torch.no_grad():
        assert torch.equal(model(tokens_of(config)), logits_of_the_run(config))


def refusal(*argv: object) -> str:
    with pytest.raises(RequestError) as refused:
        main([str(arg) for arg in argv])
    assert "\n" not in str(refused.value)
    return str(refused.value)
