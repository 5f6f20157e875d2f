"""Axes: what differs between the curves of a family, and along which learning rates are predicted. One entry each;
width is the axis of our own studies, the others are those of tables of other people's runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """An axis by its `--axis` name, and how people speak of its levels."""

    name: str
    noun: str
    nouns: str
    one: str
    """A level in a sentence, ``{}`` in the place of its number: ``width {}``."""
    many: str
    symbol: str
    """Of a level, in formulas."""
    smallest: str = "smallest"
    largest: str = "largest"
    smaller: str = "smaller"
    wander: tuple[float, ...] | None = None
    """How likely its exponents are to wander by each value of `fit.law.WANDER`; None: as along all axes together."""
    cost_power: float | None = None
    """A run's compute goes like this power of the level; None: not known."""
    columns: tuple[str, ...] = ()
    """What other people call it, in small letters with underscores; beside `name`."""

    @property
    def title(self) -> str:
        """Of a plot's axis."""
        return f"{self.noun} {self.symbol}" if self.symbol else self.noun


WIDTH = Axis(
    "width",
    "width",
    "widths",
    "width {}",
    "widths {}",
    "n",
    "narrowest",
    "widest",
    "narrower",
    # learned from how predictions came out at the largest width, of 17 real studies at four times the widest trained
    # (benchmarks/real.py) and of 9 families of two other sources; the prior of all axes counts as one family more
    wander=(0.745, 0.134, 0.065, 0.048, 0.008),
    cost_power=2,
    columns=(
        "d_model", "n_embd", "hidden_size", "hidden_dim", "model_dim", "dim_model", "d_hidden", "n_embed", "embed_dim",
        "embedding_dim", "embedding_size", "width_size", "d_hid", "dim", "emb_dim", "model_width",
    ),
)  # fmt: skip

AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        WIDTH,
        Axis(
            "parameters",
            "model size",
            "model sizes",
            "{} parameters",
            "{} parameters",
            "N",
            columns=(
                "n_params", "num_params", "params", "param_count", "parameter_count", "n_parameters", "num_parameters",
                "model_size", "non_embedding_params", "total_params",
            ),
        ),
        Axis(
            "tokens",
            "token budget",
            "token budgets",
            "{} tokens",
            "{} tokens",
            "D",
            cost_power=1,
            columns=(
                "n_tokens", "num_tokens", "train_tokens", "training_tokens", "total_tokens", "token_budget",
                "max_tokens", "tokens_seen",
            ),
        ),
        Axis(
            "batch",
            "batch size",
            "batch sizes",
            "batch size {}",
            "batch sizes {}",
            "B",
            columns=("batch_size", "global_batch", "global_batch_size", "train_batch_size", "bs", "gbs", "bsz"),
        ),
        Axis(
            "depth",
            "depth",
            "depths",
            "depth {}",
            "depths {}",
            "L",
            cost_power=1,
            columns=("n_layer", "n_layers", "num_layers", "num_hidden_layers", "layers", "num_layer"),
        ),
    )
}  # fmt: skip
"""Those with names; any other column of a table may be one too (`of_column`)."""


def of_column(name: str) -> Axis:
    """The axis that a column of a table is."""
    return Axis(name, name, f"levels of {name}", f"{name} {{}}", f"{name} {{}}", "")
