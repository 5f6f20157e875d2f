"""What other people's builds amount to, by name, and that right ones raise nothing, whatever their seed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.audit.audit import audit
from pipeline.parameterization.rules import TABLE
from tests.audit import foreign, models

WIDTHS = (64, 128, 256)

RIGHT: dict[str, tuple[Callable[[int], Any], str]] = {
    "GPT, plain": (models.sp_gpt, "sp"),
    "GPT, muP by groups": (models.mup_gpt, "mup"),
    "GPT, fixed KV heads": (models.mup_gqa, "mup"),
    "GPT, heads that grow": (models.mup_heads, "mup"),
    "GPT, 1/m on the logits": (models.mup_multiplier, "mup"),
    "GPT, tied, 1/m on the logits": (models.mup_tied, "mup"),
    "conv net with batch norms": (models.mup_conv, "mup"),
    "experts": (models.mup_moe, "mup"),
    "MLP, SGD": (models.mup_mlp_sgd, "mup"),
    "NTK, SGD": (models.ntk_mlp, "ntp"),
    "NTK, Adam": (models.ntk_mlp_adam, "ntp"),
    "mup's MLP": (foreign.package_mlp, "mup"),
    "mup's Transformer": (foreign.package_transformer, "mup"),
    "GPTNeoX, plain AdamW": (foreign.sp_neox, "sp"),
    "GPTNeoX, muP by groups": (foreign.mup_neox, "mup"),
    "Llama, plain AdamW": (foreign.sp_llama, "sp"),
    "Llama, muP by groups": (foreign.mup_llama, "mup"),
    "ours, GPT": (foreign.ours_gpt, "mup"),
    "ours, MLP": (foreign.ours_mlp, "mup"),
    "torch's encoder, plain": (models.sp_encoder, "sp"),
}


def seeded(build: Callable[[int], Any], shift: int) -> Callable[[int], Any]:
    """The build under other seeds."""

    def shifted(width: int) -> Any:
        torch.manual_seed(torch.initial_seed() + shift)
        return build(width)

    return shifted


@pytest.mark.slow
@pytest.mark.parametrize("case", RIGHT)
def test_right_builds_are_named_and_raise_nothing(case: str) -> None:
    build, name = RIGHT[case]
    found = audit(seeded(build, 1000 + 7 * list(RIGHT).index(case)), WIDTHS, seeds=1)
    assert (found.named.name, found.named.offset) == (name, 0.0)
    assert found.findings == ()
    assert found.ok


TOLD = [
    (param, kind)
    for kind, family in (("gpt", "adam"), ("sgd", "sgd"), ("adam", "adam"))
    for param, entry in TABLE.items()
    if {"input", "vector", "hidden", "output"} <= entry.lr.get(family, {}).keys()
]
"""Entries with a rule for every role under that optimizer."""


@pytest.mark.slow
@pytest.mark.parametrize(("param", "kind"), TOLD)
def test_every_entry_of_the_table_is_told(param: str, kind: str) -> None:
    """Of a GPT under AdamW, and of an MLP under SGD and Adam. An entry that is another at finite widths is among those
    that fit."""
    if kind == "gpt":
        found = audit(lambda n: foreign.ours_gpt(n, param), (64, 128, 256), seeds=1)
    else:
        found = audit(lambda n: foreign.ours_mlp(n, param, kind), (64, 128, 256), seeds=1)
    assert param in found.fits
    assert found.findings == ()


def test_one_rate_for_all_that_falls_is_said() -> None:
    def build(n: int) -> Any:
        model = models.MLP(n)
        return model, torch.optim.Adam(model.parameters(), lr=0.064 / n)

    found = audit(build, (32, 64, 128), seeds=1)
    assert (found.named.name, found.named.offset) == ("sp", -1.0)
    assert found.findings == ()


@pytest.mark.slow
def test_tied_and_default_transformers_are_named_and_what_is_wrong_is_said() -> None:
    """transformers' initializer_range is one std at every width; a tied head has the embedding's."""
    default = audit(foreign.default_llama, WIDTHS, seeds=1)
    assert default.named.name == "sp"
    assert {f.quantity for f in default.findings} == {"std"}
    off = {f.label for f in default.findings}
    assert off == {end.label for end in default.evidence.ends if end.role in ("hidden", "output")}
    tied = audit(foreign.tied_llama, WIDTHS, seeds=1)
    assert tied.named.name == "sp"
    assert "model.embed_tokens.weight as lm_head.weight" in {f.label for f in tied.findings}
    assert "model.embed_tokens.weight" not in {f.label for f in tied.findings}


@pytest.mark.slow
def test_unit_scaling_is_mup_but_for_its_embedding() -> None:
    """u-muP's rate of embeddings goes like n^-1/2 (rules-2026): another rule, and the only one."""
    found = audit(foreign.unit_scaled, WIDTHS, seeds=1)
    if "umup" in TABLE:
        assert "umup" in found.fits
        assert found.findings == ()
        found = audit(foreign.unit_scaled, WIDTHS, expect="mup", seeds=1)
    assert found.named.name == "mup"
    (finding,) = found.findings
    assert (finding.label, finding.quantity) == ("embed.weight", "rate")
    assert finding.found == pytest.approx(-0.5, abs=0.02)


@pytest.mark.slow
def test_muon_is_a_family_of_its_own() -> None:
    """Beside AdamW as a second optimizer. Its hidden matrices are held to the table's rule for it, where it has one."""
    found = audit(models.muon_gpt, WIDTHS, seeds=1)
    hidden = [end for end in found.evidence.ends if end.role == "hidden"]
    assert {found.evidence.family(end) for end in hidden} == {"muon"}
    for end in hidden:  # of the size of its own shape
        rate = found.evidence.exponent("rate", end.label)
        assert rate is not None
        assert abs(rate.value) < 0.1
    assert found.named.name == "mup"
    assert found.findings == ()
    knows = "muon" in TABLE["mup"].lr
    assert set(found.unjudged) == (set() if knows else set(hidden))
    assert audit(models.muon_gpt, (64, 128), expect="mup", seeds=1).ok is knows
