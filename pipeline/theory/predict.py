"""What a parameterization predicts at a learning rate: the regime, and what each layer learns.

Derived from the exponents of `rules.TABLE`, never from a name, by following the orders of magnitude of a run
(`propagation`); `edges` predicts the learning rates themselves. The learning rate is lr = eta * n^-alpha, larger alpha
for smaller rates, as in the paper; predicted learning-rate exponents are signed slopes d log(lr) / d log(n) = -alpha,
as in the design. Every prediction carries a status:

- derived: follows from the scaling arguments,
- conjectured: the paper's hypothesis, or this project's extension of its arguments,
- observed: measured in the published runs; the scaling arguments say otherwise or nothing.

    setting = Setting(rules.get("sp"), optimizer="sgd", model="mlp")
    predict(setting, HALF).layer("hidden").at(3).effective     # Θ(n^0), three steps under lr = eta * n^-1/2
    predict(setting, HALF).regime                              # "controlled divergence"
    edges.edges(setting).max_stable.exponent                   # -1/2
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from pipeline.theory.network import Setting, network
from pipeline.theory.propagation import LayerScales, Network, Snapshot, Weight, simulate

Regime = Literal["stable", "controlled divergence", "catastrophic"]
Status = Literal["derived", "conjectured", "observed"]


@dataclass(frozen=True)
class LayerHistory:
    """One kind of weight and its scales over the run. `acts_as` may differ from the role that it is `trained_as`: keys
    and values of a fixed number of KV heads train as hidden and act as output (design, section 4)."""

    weight: Weight
    present: bool
    """The network trains such weights; otherwise what one would do: a bias of the MLP, fixed qk-norm gains."""
    status: Status
    scales: tuple[LayerScales, ...]
    settled: bool

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def initial(self) -> LayerScales:
        return self.scales[0]

    def at(self, step: int) -> LayerScales:
        """Scales after `step` updates. Raises `ValueError` past the last step followed of a run that does not
        settle."""
        if step >= len(self.scales) and not self.settled:
            raise ValueError(f"step {step}: exponents grow with every step and were followed to {len(self.scales) - 1}")
        return self.scales[min(step, len(self.scales) - 1)]

    @property
    def many(self) -> LayerScales | None:
        """Scales after many steps; None: they grow with every step."""
        return self.scales[-1] if self.settled else None

    @property
    def learns(self) -> bool:
        """Its effective updates do not vanish with width, after many steps (section 2: maximal stable feature
        learning)."""
        return not self.scales[-1].effect.vanishes


@dataclass(frozen=True)
class Prediction:
    """A run under lr = eta * n^-alpha. Its layers: input, vector, hidden1, hidden2, ..., output, finite and, with a
    fixed number of KV heads, key_value."""

    setting: Setting
    alpha: Fraction
    regime: Regime
    """After many steps (Definition 1)."""
    steps: tuple[Snapshot, ...]
    """After 0, 1, 2, ... updates; the last one holds from then on where `settled`."""
    settled: bool
    layers: tuple[LayerHistory, ...]

    def layer(self, name: str) -> LayerHistory:
        """The layer called `name`; "hidden" is the last hidden one: the first alone follows an input-like layer, whose
        updates may vanish, so that its propagating update differs. Raises `ValueError` for no such layer."""
        found = {layer.name: layer for layer in self.layers}
        if name == "hidden":
            name = f"hidden{self.setting.depth - 2}"
        if name not in found:
            raise ValueError(f"no layer {name!r}: choose one of {', '.join(found)}")
        return found[name]

    @property
    def stopped(self) -> tuple[str, ...]:
        """Layers that stop learning features: their effective updates vanish as n grows."""
        return tuple(layer.name for layer in self.layers if layer.present and not layer.learns)

    @property
    def outrun(self) -> bool:
        """The readout's own update is lost beside diverging logits: it no longer moves the softmax (F.7)."""
        late, own = self.steps[-1].logits, self.layer("output").scales[-1].effective
        return late.diverges and late + own != own


def predict(setting: Setting, alpha: Fraction, small_steps: bool = False) -> Prediction:
    """Follow a run under lr = eta * n^-alpha until its exponents settle.

    `small_steps` predicts what finite widths show under a tiny eta, where no update has outgrown what it is added to.
    The two differ only where updates grow faster with n than initial values do: SP at a constant rate (E.1, Figure
    E.2).
    """
    net = network(setting, small_steps)
    steps, settled = run(net, setting, alpha)
    layers = []
    for weight in net.weights:
        # shared by a growing number of heads, or by embedding and readout: this project's argument, not the paper's
        shared = (weight in net.bystanders and net.heads) or (net.tied and weight in (net.input, net.output))
        status: Status = "conjectured" if shared else "derived"
        layers.append(
            LayerHistory(
                weight,
                setting.has(weight.trained_as) and setting.has(weight.acts_as),
                status,
                tuple(step.layers[weight.name] for step in steps),
                settled,
            )
        )
    return Prediction(setting, alpha, regime_of(steps, settled), steps, settled, tuple(layers))


def run(net: Network, setting: Setting, alpha: Fraction) -> tuple[tuple[Snapshot, ...], bool]:
    """Snapshots of `net`, and whether they settled (`propagation.simulate`)."""
    # every pass reaches every layer, so that what settles does within a few steps, whatever the depth
    limit = 2 * min(setting.depth, 8) + 8
    return _simulated(net, setting.family, setting.derivative, setting.clipping, alpha, limit)


_simulated = lru_cache(maxsize=1024)(simulate)


def regime_of(steps: tuple[Snapshot, ...], settled: bool) -> Regime:
    """Definition 1, after many steps. Growth without end reaches logits and activations alike (C.3.3)."""
    last = steps[-1]
    if not settled or (last.logits.diverges and last.activations.diverges):
        return "catastrophic"
    return "controlled divergence" if last.logits.diverges or last.activations.diverges else "stable"
