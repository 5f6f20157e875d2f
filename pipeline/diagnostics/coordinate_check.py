"""The refined coordinate check (paper, section 4): what updates of a weight, and of all before it, do to its output.

With W the weight now, R the reference weight, x and x_R their inputs on the same probe,
``W x - R x_R = (W - R) x + R (x - x_R)``: the effective update of the weight itself and the update that propagates from
the layers before. All is computed in hooks of one forward pass, so that nothing but the reference inputs is ever held
of the whole model, and a weight that a strategy shards is there when it is needed.

Shapes: O fan-out, I fan-in.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.diagnostics import attention
from pipeline.diagnostics.layers import Layer, ShapeOf, inner, layers, normalized, own_shape, walk
from pipeline.diagnostics.logits import logit_metrics
from pipeline.diagnostics.precision import measured
from pipeline.diagnostics.probe import hooked
from pipeline.diagnostics.quantities import OTHERS, Quantities, cosine_of_others
from pipeline.diagnostics.spectra import Spectra
from pipeline.diagnostics.sums import Reduce, Sums
from pipeline.models.roles import Readout
from pipeline.products import Linear

# what a run's record calls logit_rms is that of its training batch
ON_THE_PROBE = {
    "probe_loss": "probe_loss",
    "logit_rms": "probe_logit_rms",
    "max_probability": "max_probability",
    "entropy": "entropy",
}


class CoordinateCheck:
    """Measures a model on a fixed probe, against its weights and activations at a reference point.

    `refer` is called once the model is ready to run (reference ``init``), or after the step before (``previous``);
    `check` after the step to be measured. With several data-parallel ranks all of them call both alike; each runs its
    share of the probe. Quantities and names: see `pipeline.diagnostics`.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor | None = None,
        *,
        initial: Callable[[str], Tensor] | None = None,
        spectra: bool = False,
        forward: Callable[[Tensor], Any] | None = None,
        rank: int = 0,
        world: int = 1,
        reduce: Reduce | None = None,
        shape: ShapeOf = own_shape,
    ) -> None:
        """`inputs` (N, ...) and, for what is measured of the logits, `targets` (N, ...): class indices, one per
        position; negative ones do not count.

        `initial(name)` is the reference weight of that name, for the reference ``init``; without it the reference is
        ``previous``. `forward` runs the model, by default a plain call. `reduce` adds a tensor up over the ranks;
        `shape` tells a parameter's where a strategy has taken it apart.
        """
        self.model, self.initial = inner(model), initial
        self.forward = forward or self.model
        self.rank, self.world, self.reduce = rank, world, reduce or (lambda total: total)
        self.counted = rank < len(inputs)
        mine = slice(rank, None, world) if self.counted else slice(0, 1)  # a pass may be the work of all ranks
        self.inputs = inputs[mine]
        self.targets = None if targets is None else targets[mine].flatten()
        self.layers, self.left_out = layers(self.model, shape)
        """`left_out`: names of parameters that are not reported, and why."""
        modules = list(walk(self.model))
        self._attentions = [(name, m) for name, m in modules if isinstance(m, attention.Attention)]
        self._relus = [Layer(name, m, "linear", {}) for name, m in modules if isinstance(m, nn.ReLU)]
        self._readout = next((layer for layer in self.layers if isinstance(layer.module, Readout)), None)
        self._spectra = Spectra(rank, world, fixed_reference=initial is not None) if spectra else None
        self._inputs: dict[tuple[str, int], Tensor] = {}  # x_R by layer and call, on the CPU
        self._weights: dict[str, Tensor] = {}  # R, on the CPU, where it is the previous step's

    # -----------------------------------------------------------------------------------------------------------------
    # Passes

    def refer(self) -> None:
        """Note the reference's inputs of every layer: of the initial weights, put in layer by layer, or of the weights
        as they are, which are noted too."""
        borrowed: list[tuple[Tensor, Tensor]] = []

        def put_in(layer: Layer) -> None:
            for attribute in layer.tensors:
                weight = layer.tensor(attribute)
                assert weight is not None
                borrowed.append((weight, weight.clone()))
                weight.data.copy_(self._reference(layer, attribute))

        def put_back() -> None:
            while borrowed:
                weight, original = borrowed.pop()
                weight.data.copy_(original)

        def after(layer: Layer, x: Tensor, output: Tensor) -> None:
            self._note(layer, self._call(layer), x, output)
            put_back()

        self._inputs.clear()
        self._outputs: dict[str, weakref.ref[Tensor]] = {}
        try:
            output = self._pass(self.layers, after, put_in if self.initial else None)
        finally:
            put_back()
        called = {name for name, _ in self._inputs}
        for layer in self.layers:
            if layer.name not in called:
                self.left_out = dict.fromkeys(layer.tensors.values(), "its layer is not called") | self.left_out
        self.layers = [layer for layer in self.layers if layer.name in called]
        if self._readout is None and self.targets is not None:
            logits = getattr(output, "logits", output)
            self._readout = next((a for a in self.layers if self._made(a, logits)), None)

    def check(self, *, refer: bool = False) -> dict[str, float]:
        """All quantities, now. Those that are not defined, such as the cosine with zero, are left out.

        `refer`: these weights and inputs are the next check's reference ``previous``, noted in the same pass.
        """
        if not self._inputs:
            raise ValueError("refer() comes before check(): there is nothing to compare with yet")
        sums = self._sums = Sums(self._device)
        self._quantities = Quantities(sums, self.counted)
        self._last: tuple[Layer, Tensor] | None = None
        if self._spectra:
            self._spectra.begin(sums)

        def see(name: str, module: attention.Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
            attention.add_internals(sums, name, module, q, k, v, mask, self.counted)

        def after(layer: Layer, x: Tensor, output: Tensor) -> None:
            if isinstance(layer.module, nn.ReLU):
                self._activation(x, output)
                return
            call = self._call(layer)
            self._measure(layer, call, x, output)
            if refer:
                self._note(layer, call, x, output)

        with attention.watched(self._attentions, see):
            self._pass([*self.layers, *self._relus], after)
        self._last = None
        means, vectors = sums.reduced(self.reduce, self.rank, self.world)
        if "logits" in vectors:
            metrics = logit_metrics(vectors["logits"])
            means |= {name: metrics[key] for key, name in ON_THE_PROBE.items() if key in metrics}
        for key in [key for key in vectors if key.startswith(f"{OTHERS}/")]:
            if (cosine := cosine_of_others(vectors[key])) is not None:
                means[key] = cosine
        return self._spectra.aligned(means) if self._spectra else means

    def _pass(
        self, layers: list[Layer], after: Callable[..., None], before: Callable[[Layer], None] | None = None
    ) -> Any:
        self._calls: dict[str, int] = {}
        self._next_weights: dict[str, Tensor] = {}
        self._noted: dict[int, tuple[weakref.ref[Tensor], int, Tensor]] = {}
        with torch.no_grad(), measured(self.model, self._device), hooked(layers, after, before):
            output = self.forward(self.inputs.to(self._device))
        self._weights |= self._next_weights  # now: tied weights are another layer's reference too
        return output

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _call(self, layer: Layer) -> tuple[str, int]:
        """The layer's name and how often it has been called before in this pass."""
        count = self._calls.get(layer.name, 0)
        self._calls[layer.name] = count + 1
        return layer.name, count

    # -----------------------------------------------------------------------------------------------------------------
    # The reference

    def _note(self, layer: Layer, call: tuple[str, int], x: Tensor, output: Tensor) -> None:
        kept = normalized(layer, x) if layer.kind == "norm" else x
        if kept is None:
            self.left_out |= dict.fromkeys(layer.tensors.values(), f"a {type(layer.module).__name__} is no norm")
            return
        self._inputs[call] = self._copied(kept)
        self._outputs[layer.name] = weakref.ref(output)
        if self.initial is None:
            for attribute, name in layer.tensors.items():
                weight = layer.tensor(attribute)
                assert weight is not None
                self._next_weights[name] = weight.to("cpu", copy=True)

    def _copied(self, x: Tensor) -> Tensor:
        """On the CPU; layers that share an input share the copy."""
        known = self._noted.get(id(x))
        if known is not None and known[0]() is x and known[1] == x._version:
            return known[2]
        copied = x.detach().to("cpu", copy=True)
        self._noted[id(x)] = (weakref.ref(x), x._version, copied)
        return copied

    def _made(self, layer: Layer, output: Any) -> bool:
        return layer.kind == "linear" and self._outputs[layer.name]() is output

    def _reference(self, layer: Layer, attribute: str) -> Tensor:
        name = layer.tensors[attribute]
        return self.initial(name) if self.initial else self._weights[name]

    # -----------------------------------------------------------------------------------------------------------------
    # Measuring

    def _activation(self, x: Tensor, output: Tensor) -> None:
        """Of a ReLU: how much of what the last linear layer, or the norm behind it, gave it is cut off."""
        if self._last is not None and self._last[1].data_ptr() == x.data_ptr():  # DeepSpeed hands on a view
            zeros = (output == 0).sum() if self.counted else 0.0
            self._sums.add(f"sparsity/{self._last[0].name}", zeros, output.numel() * self.counted)

    def _measure(self, layer: Layer, call: tuple[str, int], x: Tensor, output: Tensor) -> None:
        if layer.kind == "norm" and self._last is not None and self._last[1].data_ptr() == x.data_ptr():
            self._last = (self._last[0], output)
        weight = self._pair(layer, "weight")
        bias = self._pair(layer, "bias")
        add, x_R = self._quantities, self._inputs[call].to(x.device)
        if weight is not None:
            match layer.kind:
                case "linear":
                    self._last = (layer, output)
                    plain = type(layer.module).forward in (nn.Linear.forward, Linear.forward)
                    add.linear(layer, x, x_R, *weight, _without_bias(layer, output) if plain else None)
                case "embedding":
                    add.embedding(layer, x, *weight)
                case "norm":
                    z = normalized(layer, x)
                    assert z is not None
                    add.norm(layer, z, x_R, *weight)
        if layer is self._readout and self.targets is not None and weight is not None:
            normalize = isinstance(layer.module, Readout) and layer.module.normalize
            add.logits(x, weight[0], bias[0] if bias else None, self.targets, normalize=normalize)
        if call[1] == 0:  # what does not depend on the input
            if bias is not None:
                add.bias(layer, *bias)
            if self._spectra and weight is not None:
                self._spectra.weight(layer, *weight)
            if self._spectra and bias is not None:
                self._spectra.bias(layer, *bias)

    def _pair(self, layer: Layer, attribute: str) -> tuple[Tensor, Tensor] | None:
        """Weight and reference (O, I), of norms: gains, in fp32 at least."""
        if (value := layer.tensor(attribute)) is None:
            return None
        dtype = torch.promote_types(value.dtype, torch.float32)
        reference = self._reference(layer, attribute).to(value.device, dtype)
        value = value.to(dtype)
        if layer.kind == "norm" and attribute == "weight" and layer.offset:
            return value + layer.offset, reference + layer.offset
        if layer.transposed and attribute == "weight":
            return value.T, reference.T
        return value, reference


def _without_bias(layer: Layer, output: Tensor) -> Tensor:
    bias = layer.tensor("bias")
    return output if bias is None else output - bias
