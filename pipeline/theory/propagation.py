"""How every quantity of a training run scales with width n: the paper's scaling arguments, step by step (2, C.1, F.7).

A run is followed in orders of magnitude only. Every quantity is Θ(n^e); a product adds exponents, a sum keeps the
larger one, because no two terms of the refined coordinate check cancel. The passes below are the ones a network makes:

    forward   h = W_0 x + ΔW x, split into effective and propagating update     (RCC), (alpha-rms)
    backward  W^T times the signal, with W = W_0 + ΔW                            C.1, "Backward pass"
    update    SGD keeps the gradient's scale, Adam sets every entry to Θ(1),     C.1, "Adam"
              Muon the operator norm to that of the matrix's shape

and repeated until nothing changes any more: "after many steps". A sum over n terms counts n where the terms are
correlated (law of large numbers) and n^1/2 where they are not (central limit): ΔW x counts n (p = 1), W_0 Δx counts
n^1/2 in hidden layers (q = 1/2) and n in the readout (q = 1). No floats: exponents are fractions.

Batch size, training time, depth and d_in do not grow with n; Adam's epsilon is small against every gradient that is not
zero; weight decay, whose product with the learning rate is held fixed, moves no exponent. An embedding row that no
token of a batch names has no gradient and no update; the rows that are named move like any input weight.

Long: one derivation, to be read from top to bottom.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from pipeline.entries.losses import TheoryLoss
from pipeline.parameterization.rules import Family, Role
from pipeline.theory.orders import NONE, ONE, ROOT_N, ZERO, Change, N, Theta, power


@dataclass(frozen=True)
class Weight:
    """A weight at initialization: `init` entries of W_0, learning rate eta * n^-alpha * n^-c, and its fan-in and
    fan-out.

    `trained_as` is its role, which fixes init and c; `acts_as` is the kind of map that its exponents follow.
    """

    name: str
    trained_as: Role
    acts_as: Role
    init: Theta
    c: Fraction
    fan_in: Theta
    fan_out: Theta
    init_sum: Theta
    """What |W_0|_RMS->RMS counts beyond the entries: n^1/2 of a random square matrix, n of a wide one with few rows."""
    step: Theta | None
    """Entries of an update over its learning rate, where the optimizer normalizes the gradient: of Adam 1. Muon's s u
    v^T has entries s / (fan_in fan_out)^1/2, as the rank of a gradient does not grow with n. None: SGD."""

    @property
    def init_norm(self) -> Theta:
        return self.init * self.init_sum


@dataclass(frozen=True)
class Network:
    """Weights in the order of the forward pass, and the bystanders: predicted, but too small a part to feed back.

    Every layer but the first reads x_(l-1), which is h_(l-1) or, where the network is `normalized`, norm(h_(l-1)). It
    makes h_l = W_l x_(l-1), to which a residual network (`stream`) adds h_(l-1). `vector` is the norms' gains and
    biases, or the biases of the layers: where the network has neither `gains` nor `biases`, what one would do.
    """

    input: Weight
    hidden: tuple[Weight, ...]
    output: Weight
    vector: Weight
    bystanders: tuple[Weight, ...]
    normalized: bool
    stream: bool
    heads: bool
    """The bystanders are tensors that all heads share; otherwise the readout's bias."""
    gains: bool
    """The norms' gains move."""
    biases: bool
    """Layers and readout of an MLP have them."""
    tied: bool
    """Input and output are one tensor, whose gradient is the sum of both."""
    logit_norm: bool
    """The loss sees normalized logits."""
    large_output: bool
    """d_out >> n."""
    frozen: frozenset[str] = frozenset()
    """Names of weights that have no gradient."""
    small_steps: bool = False
    """Nothing ever outgrows its initial value unless that is zero: see `plus`."""

    def plus(self, initial: Theta, change: Theta) -> Theta:
        """initial + change. Under `small_steps`, the constant before the change is so small that at every width looked
        at the initial value dominates, whatever the exponents: the finite-width departure of E.1, Figure E.2."""
        return initial if self.small_steps and initial != ZERO else initial + change

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.input, self.vector, *self.hidden, self.output, *self.bystanders)


@dataclass(frozen=True)
class LayerScales:
    """Scales of one weight's layer after some number of updates. Entries and signals as RMS over entries."""

    update: Theta
    """ΔW, entries."""
    update_norm: Theta
    """|ΔW|_RMS->RMS. One direction dominates ΔW and the input is aligned with it: fan_in times the entries."""
    effective: Theta
    """|ΔW x|_RMS."""
    propagating: Theta
    """|W_0 Δx|_RMS."""
    output: Theta
    """|x|_RMS after this layer: activations, the residual stream, or the logits."""
    effect: Theta
    """The effective update against the scale of what the rest of the network sees: a norm divides the embedding by its
    own scale. Elsewhere the same as `effective`."""
    signal: Theta
    """The backpropagated signal, dL/dh entries."""
    gradient: Theta
    """dL/dW entries."""

    @property
    def change(self) -> Theta:
        """Effective plus propagating update."""
        return self.effective + self.propagating


@dataclass(frozen=True)
class Snapshot:
    """Everything after `step` updates."""

    step: int
    layers: Mapping[str, LayerScales]
    logits: Theta
    loss_derivative: Theta
    """chi = dL/df."""
    activations: Theta
    """The largest activation of any layer but the logits."""
    gradient_norm: Theta
    """Norm of all gradients together."""


@dataclass(frozen=True)
class _Pass:
    """One layer's forward pass: its input u, the input's change, both updates and its output."""

    input: Theta
    input_change: Change
    effective: Change
    propagating: Change
    output: Theta


Moved = Mapping[str, Change]


def _forward(net: Network, moved: Moved) -> dict[str, _Pass]:
    """(RCC): Δh = ΔW x + W_0 Δx, layer by layer, for weights that have moved by `moved`."""
    effective = moved[net.input.name]
    x_0, dx = net.input.init, effective
    x = net.plus(x_0, dx.total)
    passes = {net.input.name: _Pass(ONE, NONE, effective, NONE, x)}
    if net.biases:
        dx = dx + moved[net.vector.name]
        x = net.plus(x_0, dx.total)
    for weight in (*net.hidden, net.output):
        u_0, u, du = x_0, x, dx
        if net.normalized:  # a norm hands on relative changes; its gains and biases add their own (C.1: input-like)
            gains = moved[net.vector.name] if net.gains else NONE
            du = dx / x + gains
            u_0, u = ONE, net.plus(ONE, gains.total)
        effective = moved[weight.name] * N * u  # p = 1
        propagating = du * (weight.init * ROOT_N)  # q = 1/2
        if weight is net.output and not net.large_output:
            aligned = weight.init * N * du.along  # q = 1: Δx goes along W_0^T (F.7); with d_out >> n, 1/2 (5.2)
            propagating = propagating + Change(aligned, ZERO)
        change = effective + propagating
        if net.biases:
            change = change + moved[(net.bystanders[0] if weight is net.output else net.vector).name]
        h_0 = weight.init * ROOT_N * u_0  # W_0 x_0: independent, zero mean
        if net.stream and weight is not net.output:
            h_0, change = h_0 + x_0, change + dx
        x_0, dx, x = h_0, change, net.plus(h_0, change.total)
        passes[weight.name] = _Pass(u, du, effective, propagating, x)
    return passes


def _loss_derivative(net: Network, loss: TheoryLoss, family: Family, logits: Theta) -> Theta:
    """chi = dL/df (section 4, F.4): bounded under cross-entropy, the residual f - y under MSE. Normalized logits bound
    it under any loss, and divide it by the scale of the logits, but for vanishing ones, where the norm's epsilon acts.

    MSE of the softmax saturates: once logits diverge its derivative is smaller than any power of n. That stops SGD;
    Adam, which divides the scale away, goes on.
    """
    if net.logit_norm:
        return ONE / (ONE + logits)
    if loss == "mse":
        return ONE + logits
    if loss == "softmax_mse" and family == "sgd" and logits.diverges:
        return ZERO
    return ONE


def _backward(net: Network, moved: Moved, passes: Mapping[str, _Pass], chi: Theta) -> dict[str, tuple[Change, Change]]:
    """Signal dL/dh and gradient dL/dW = signal * x^T of every weight (C.1, "Backward pass"; F.7)."""
    last = passes[net.output.name]
    result = {net.output.name: (Change(chi, ZERO), Change(chi, ZERO) * last.input)}
    # dL/dx_L = W_t^T chi with W_t = W_0 + ΔW
    signal = Change(net.plus(net.output.init, moved[net.output.name].total), net.output.init) * chi
    result[net.vector.name] = (signal, signal)
    before = [net.input, *net.hidden]
    if net.normalized:
        signal = signal / passes[before[-1].name].output
    for weight, previous in reversed(list(zip(net.hidden, before, strict=False))):
        result[weight.name] = (signal, signal * passes[weight.name].input)
        through = signal * net.plus(weight.init * ROOT_N, moved[weight.name].total * N)
        if net.normalized:  # a norm's derivative divides by the scale of what it normalizes
            through = through / passes[previous.name].output
        signal = through + signal if net.stream else through  # the residual connection adds the signal itself
    result[net.input.name] = (signal, signal)
    for weight in net.bystanders:
        result[weight.name] = _bystander_gradient(net, weight, passes, result, chi)
    if net.tied:
        both = result[net.input.name][1] + result[net.output.name][1]
        result |= {weight.name: (result[weight.name][0], both) for weight in (net.input, net.output)}
    return result | {name: (result[name][0], NONE) for name in net.frozen}


def _bystander_gradient(
    net: Network, weight: Weight, passes: Mapping[str, _Pass], signals: Mapping[str, tuple[Change, Change]], chi: Theta
) -> tuple[Change, Change]:
    """A readout bias sees chi. A tensor that all heads share (qk-norm; keys and values of a fixed number of KV heads)
    sums the signals of a number of heads that grows with n: uncorrelated at first, then correlated as far as features
    moved along the readout."""
    if not net.heads:
        return Change(chi, ZERO), Change(chi, ZERO)
    last = net.hidden[-1].name
    heads = net.plus(ROOT_N, N * passes[net.output.name].input_change.along)
    signal = signals[last][0] * heads
    return signal, signal * (passes[last].input if weight.fan_in == N else ONE)


def gradient_norm(weights: tuple[Weight, ...], gradients: Mapping[str, Theta]) -> Theta:
    """Norm of all gradients: entries times the root of their number."""
    total = ZERO
    for weight in weights:
        if gradients[weight.name].exponent is not None:
            size = weight.fan_in * weight.fan_out
            assert size.exponent is not None
            total = total + gradients[weight.name] * power(size.exponent / 2)
    return total


def clip_factor(norm: Theta) -> Theta:
    """What clipping at a fixed norm multiplies the gradient by: 1 / norm where that norm grows with n, else nothing."""
    return ONE / norm if norm.diverges else ONE


def _steps(net: Network, alpha: Fraction, clip: Theta, gradients: Mapping[str, Change]) -> dict[str, Change]:
    """One update of every weight, lr * gradient (Definition C.3) or lr * normalized gradient (C.1, "Adam"; Muon)."""
    result = {}
    for weight in net.weights:
        gradient, rate = gradients[weight.name], power(-alpha - weight.c)
        if weight.step is None:
            result[weight.name] = gradient * (rate * clip)
        elif gradient.total.exponent is None:
            result[weight.name] = NONE
        else:
            result[weight.name] = gradient / gradient.total * (rate * weight.step)
    return result


def _snapshot(
    net: Network,
    step: int,
    moved: Moved,
    passes: Mapping[str, _Pass],
    signals: Mapping[str, tuple[Change, Change]],
    chi: Theta,
    norm: Theta,
) -> Snapshot:
    layers = {}
    last = passes[net.output.name]
    for weight in net.weights:
        update = moved[weight.name].total
        if weight.name in passes:
            p = passes[weight.name]
            effective, propagating, output = p.effective.total, p.propagating.total, p.output
        elif not net.normalized or (weight in net.bystanders and not net.heads):  # biases act on the constant input 1
            effective, propagating, output = update, ZERO, ONE
        elif weight.fan_in == N:  # keys and values of a fixed number of heads: few rows, like a readout
            effective, propagating = update * N * last.input, weight.init * N * last.input_change.total
            output = weight.init * ROOT_N + effective + propagating
        else:  # gains act as diagonal matrices on the normalized input
            effective, propagating = update, last.input_change.total
            output = ONE + effective
        effect = effective / output if weight is net.input and net.normalized else effective
        signal, gradient = signals[weight.name]
        layers[weight.name] = LayerScales(
            update, update * weight.fan_in, effective, propagating, output, effect, signal.total, gradient.total
        )
    activations = last.input
    for name in (net.input.name, *(w.name for w in net.hidden)):
        activations = activations + passes[name].output
    return Snapshot(step, layers, last.output, chi, activations, norm)


def simulate(
    net: Network, family: Family, loss: TheoryLoss, clipping: bool, alpha: Fraction, limit: int
) -> tuple[tuple[Snapshot, ...], bool]:
    """Snapshots after 0, 1, 2, ... updates under lr = eta * n^-alpha, and whether the scales settled within `limit`.

    The last snapshot then holds for every later step. Scales that do not settle grow with every step: the cascading
    exponents of C.3.3. All exponents are multiples of one fraction and no ΔW shrinks, so what is bounded settles.
    """
    moved: dict[str, Change] = {weight.name: NONE for weight in net.weights}
    history: list[Snapshot] = []
    for step in range(limit + 1):
        passes = _forward(net, moved)
        logits = passes[net.output.name].output
        chi = _loss_derivative(net, loss, family, logits)
        signals = _backward(net, moved, passes, chi)
        norm = gradient_norm(
            (net.input, net.vector, *net.hidden, net.output), {name: g.total for name, (_, g) in signals.items()}
        )
        history.append(_snapshot(net, step, moved, passes, signals, chi, norm))
        clip = clip_factor(norm) if clipping else ONE
        steps = _steps(net, alpha, clip, {name: gradient for name, (_, gradient) in signals.items()})
        after = {name: change + steps[name] for name, change in moved.items()}
        if after == moved:
            return tuple(history), True
        moved = after
    return tuple(history), False
