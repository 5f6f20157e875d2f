"""Predicted learning-rate exponents: the largest stable rate, the optimal one, and each layer's own edge.

Two-layer nets: Remark 3 lets controlled divergence under cross-entropy reach over 0 <= alpha < 1, Remark C.14 over
0 <= alpha < 1/2. The logits' edge is the readout's, alpha = 1, at any depth: Remark 3 holds here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from pipeline.parameterization.rules import HALF, Role
from pipeline.theory.network import Setting, network
from pipeline.theory.orders import ONE, Theta, power
from pipeline.theory.predict import LayerHistory, Regime, Status, predict, regime_of, run
from pipeline.theory.propagation import Network, Weight, clip_factor, gradient_norm


@dataclass(frozen=True)
class Claim:
    """A predicted exponent d log(lr) / d log(n), where it comes from and why. Exponent None: no bound, every
    learning rate qualifies."""

    exponent: Fraction | None
    status: Status
    source: str
    reason: str


@dataclass(frozen=True)
class Edges:
    """The learning-rate exponents of a setting."""

    max_stable: Claim
    """Edge of the catastrophic regime; what published runs measured where that differs from the derivation."""
    optimal: Claim
    derived_max_stable: Claim
    """The edge of the catastrophic regime by the scaling arguments alone (Definition C.11a)."""
    stable: Claim
    """Edge of the stable regime: the largest rate under which logits do not diverge either."""
    layers: dict[Role, Claim]
    """Per kind of layer that the network has: the largest rate under which its effective update is bounded, given
    stable inputs (Definition C.11b, Remark 3)."""


DEEP = 8
"""Edges are the same from this depth on, and found there."""


def edges(setting: Setting) -> Edges:
    """Predicted max-stable and optimal learning-rate exponents, with their status."""
    setting = replace(setting, depth=min(setting.depth, DEEP))
    net = network(setting)

    def regime(alpha: Fraction) -> Regime:
        return regime_of(*run(net, setting, alpha))

    max_alpha = _smallest_alpha(lambda alpha: regime(alpha) != "catastrophic")
    stable_alpha = _smallest_alpha(lambda alpha: regime(alpha) == "stable")
    derived = _claim(max_alpha, "derived", *_max_stable_reason(setting, max_alpha, stable_alpha))
    stable = _claim(stable_alpha, "derived", "Definition 1", "beyond it logits grow with width")
    observed = _observed_with_norms(setting)
    return Edges(
        max_stable=observed or derived,
        optimal=observed or _optimal(setting, max_alpha, stable_alpha),
        derived_max_stable=derived,
        stable=stable,
        layers={
            weight.acts_as: _claim(
                _layer_edge(setting, weight), "derived", "Remark 3, C.11b", "its effective update diverges"
            )
            for weight in _one_of_each_kind(setting)
        },
    )


def _claim(alpha: Fraction | None, status: Status, source: str, reason: str) -> Claim:
    return Claim(None if alpha is None else -alpha, status, source, reason)


def _max_stable_reason(setting: Setting, max_alpha: Fraction | None, stable_alpha: Fraction | None) -> tuple[str, str]:
    if max_alpha is None and setting.train == "readout":
        return "C.1, F.5.1", "random features: no activation moves, and diverging logits only saturate the loss"
    if max_alpha is None:
        return "F.4", "diverging logits end training before any activation diverges"
    if max_alpha == stable_alpha and setting.feeds_back:
        if two_layer_linear(setting):
            source = "Proposition C.18, Remark C.19" if setting.global_lr else "Proposition C.18, C.4.1"
            return source, "beyond it loss and sharpness grow from the first steps on"
        return "Proposition 2" if setting.global_lr else "C.3.3", "diverging logits feed back into the gradient"
    if setting.depth == 2 and not setting.has("input"):
        return "C.1", "the first layer is fixed: beyond it the gains and biases diverge"
    if setting.depth == 2:
        return "Remark 3", "no hidden layer: beyond it the input layer's activations diverge"
    if setting.orthogonalizes:
        return "C.1 with Muon's updates", "beyond it hidden activations diverge"
    if setting.family == "adam":
        return "Remark C.15" if setting.global_lr else "C.1", "beyond it hidden activations diverge"
    return "Proposition 2" if setting.global_lr else "F.7", "beyond it hidden activations diverge"


def _optimal(setting: Setting, max_alpha: Fraction | None, stable_alpha: Fraction | None) -> Claim:
    """Section 5.1: the optimum follows the edge, the only stable rate at which the layers slowest to learn still
    learn."""
    if setting.activation == "linear":
        return _claim(stable_alpha, "observed", "F.5.2", "a linear net gains nothing from features; logits stay stable")
    if setting.saturates:
        return _claim(stable_alpha, "conjectured", "F.4", "diverging logits end training: their gradient vanishes")
    edge = stable_alpha if max_alpha is None else max_alpha
    at_edge = None if edge is None else predict(setting, edge)
    if at_edge and at_edge.regime == "stable" and all(map(_width_independent, at_edge.layers)):
        return _claim(edge, "derived", "C.1", "every layer's updates are independent of width")
    if max_alpha is None:
        return _claim(stable_alpha, "conjectured", "5.1", "no other edge")
    if setting.feeds_back:
        return _claim(max_alpha, "conjectured", "5.1", "under smaller rates not even the logits move")
    layers = "the input layer learns" if setting.depth == 2 else "hidden layers learn"
    return _claim(max_alpha, "conjectured", "5.1", f"of all stable rates {layers} features at this one only")


def _width_independent(layer: LayerHistory) -> bool:
    if layer.weight.acts_as == "finite" or not layer.present:
        return True  # never a bottleneck: its rate is the base rate
    late = layer.scales[-1]
    return late.effect == ONE and not late.propagating.diverges


def _observed_with_norms(setting: Setting) -> Claim | None:
    """Published GPT runs under Adam, one learning rate for all weights, trainable norms (section 5.1, Figure 5)."""
    one_rate = setting.global_lr and setting.lr_exponent("hidden") == 0 and setting.init_exponent("output") == HALF
    trained = setting.train == "all" and setting.train_norms and not setting.tied
    norms = setting.architecture.normalized and trained and setting.qk_norm
    adam = setting.family == "adam" and not setting.orthogonalizes
    if not (adam and one_rate and norms) or setting.derivative != "cross_entropy":
        return None
    return Claim(-HALF, "observed", "5.1, Figure 5", "trainable norms stabilize rates beyond the hidden layers' edge")


def _one_of_each_kind(setting: Setting) -> tuple[Weight, ...]:
    net = network(setting)
    return tuple(w for w in (net.input, net.vector, *net.hidden[:1], net.output) if setting.has(w.acts_as))


def two_layer_linear(setting: Setting) -> bool:
    """The model of C.4, f = v u x under MSE and gradient descent."""
    linear = setting.activation == "linear" and not (setting.norms or setting.biases or setting.logit_norm)
    whole = setting.train == "all" and setting.family == "sgd" and setting.derivative == "mse"
    return setting.depth == 2 and linear and whole


def _layer_edge(setting: Setting, weight: Weight) -> Fraction | None:
    """Remark 3: the rate above which a layer's effective update diverges, given stable inputs and a bounded chi.

    The signal is the readout's weight, W_0 or the update that outgrew it, whichever is larger (F.7).
    """
    net = network(setting)
    output = net.output

    def bounded(alpha: Fraction) -> bool:
        rates = {w.name: power(-alpha - w.c) for w in (*net.hidden[:1], net.input, net.vector, output)}
        if weight.step is not None:
            return not (rates[weight.name] * weight.step * weight.fan_in).diverges
        first = output.init if setting.readout_init == "standard" else rates["output"]
        gradients = _gradients(net, first)
        clip = clip_factor(gradient_norm(tuple(_one_of_each_kind(setting)), gradients)) if setting.clipping else ONE
        gradients = _gradients(net, output.init + rates["output"] * clip)
        return not (rates[weight.name] * clip * gradients[weight.name] * weight.fan_in).diverges

    return _smallest_alpha(bounded)


def _gradients(net: Network, signal: Theta) -> dict[str, Theta]:
    """Gradient entries where activations and chi are Θ(1): of the readout 1, elsewhere the signal; a norm that reads
    the embedding divides by the embedding's scale."""
    embedding = signal + signal / net.input.init if net.normalized else signal
    ends = {"input": embedding + ONE, "output": embedding + ONE} if net.tied else {"input": embedding, "output": ONE}
    return {**ends, "vector": signal} | {w.name: signal for w in net.hidden[:1]}


def _smallest_alpha(holds: Callable[[Fraction], bool]) -> Fraction | None:
    """The smallest alpha from which on `holds` is true; None: true everywhere looked, alpha in [-8, 8].

    Edges are where exponents that are linear in alpha, with small whole slopes, cross zero: a fraction with a small
    denominator, found by bisection and then checked on both sides. Raises `ValueError` where it never holds.
    """
    low, high = Fraction(-8), Fraction(8)
    if not holds(high):
        raise ValueError("unstable at every learning rate: the initialization itself diverges with width")
    if holds(low):
        return None
    step = Fraction(1, 4)
    while high - low > step:
        middle = low + step * ((high - low) / step // 2)
        low, high = (low, middle) if holds(middle) else (middle, high)
    slack = Fraction(1, 64)
    if not holds(high - slack):
        return high
    while high - low > Fraction(1, 1000):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    edge = high.limit_denominator(24)
    assert holds(edge), f"no simple edge near {high}"
    assert not holds(edge - Fraction(1, 1000)), f"no simple edge near {high}"
    return edge
