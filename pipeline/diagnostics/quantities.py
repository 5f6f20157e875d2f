"""The quantities of a coordinate check, layer by layer, as sums over positions.

W is a weight, R its reference, x and x_R their inputs. ``effective + propagating = update = W x - R x_R``. Differences
are those of weights and inputs, never of two outputs.

Shapes: P positions, I fan-in, O fan-out, D length of a normalized vector, V rows of an embedding or readout, K sums of
the logits.
"""

import math

import torch
from torch import Tensor

from pipeline.diagnostics.layers import Layer
from pipeline.diagnostics.logits import logit_sums
from pipeline.diagnostics.sums import Sums

OTHERS = "cosine_other"

CHUNK = 2**21  # numbers of a layer's output that are held at once: the size of a cache, since they are read often


class Quantities:
    """Adds what is measured of a layer to `sums`, or takes part with nothing, where the positions are not `counted`.
    `pairs`: whether positions are several, that may be compared with each other."""

    def __init__(self, sums: Sums, counted: bool, pairs: bool = True) -> None:
        self.sums, self.counted, self.pairs = sums, counted, pairs

    def linear(self, layer: Layer, x: Tensor, x_R: Tensor, W_OI: Tensor, R_OI: Tensor, y: Tensor | None = None) -> None:
        """`y`: the output without bias, where it is at hand."""
        fan_out, fan_in = W_OI.shape
        x_PI = x.reshape(-1, fan_in).to(W_OI.dtype)
        change_PI = x_PI - x_R.reshape(-1, fan_in).to(W_OI.dtype)
        y_PO = None if y is None else y.reshape(-1, fan_out).to(W_OI.dtype)
        difference_OI = W_OI - R_OI
        rows = max(1, CHUNK // fan_out)
        names = [(f"{name}.weight", slice(start, end)) for name, start, end in layer.rows(fan_out)]
        starts = {name: R_OI[part].any() for name, part in names}
        for start in range(0, len(x_PI), rows):
            chunk = slice(start, start + rows)
            effective = x_PI[chunk] @ difference_OI.T
            propagating = change_PI[chunk] @ R_OI.T
            output = x_PI[chunk] @ W_OI.T if y_PO is None else y_PO[chunk]
            for name, part in names:
                self._outputs(name, effective[:, part], propagating[:, part], output[:, part], starts[name])
        for quantity, vectors in {"input": x_PI, "input_change": change_PI}.items():
            norms_P = torch.linalg.vector_norm(vectors, dim=1)
            for name, _ in names:
                self._mean(quantity, name, norms_P, fan_in)

    def norm(self, layer: Layer, z: Tensor, z_R: Tensor, g: Tensor, g_R: Tensor) -> None:
        """A gain g is a diagonal matrix on the normalized input z."""
        name, dim, g, g_R = f"{layer.name}.weight", g.numel(), g.flatten(), g_R.flatten()
        z_PD = z.reshape(-1, dim).to(g.dtype)
        change_PD = z_PD - z_R.reshape(-1, dim).to(g.dtype)
        for quantity, vectors in {"input": z_PD, "input_change": change_PD}.items():
            self._mean(quantity, name, torch.linalg.vector_norm(vectors, dim=1), dim)
        self._outputs(name, (g - g_R) * z_PD, g_R * change_PD, g * z_PD, g_R.any())

    def embedding(self, layer: Layer, tokens: Tensor, W_VD: Tensor, R_VD: Tensor) -> None:
        """Inputs are one-hot, of norm 1, and never change."""
        name, tokens_P = f"{layer.name}.weight", tokens.flatten()
        output, reference = W_VD[tokens_P], R_VD[tokens_P]
        self._outputs(name, output - reference, torch.zeros_like(output), output, R_VD.any())
        self._constant_input(name)

    def bias(self, layer: Layer, b: Tensor, b_R: Tensor) -> None:
        """A vector that acts on the constant 1; the same for all positions and ranks."""
        for part, start, end in layer.rows(len(b)):
            name, now, before = f"{part}.bias", b[start:end], b_R[start:end]
            everywhere = Quantities(self.sums, counted=True, pairs=False)
            everywhere._outputs(name, (now - before)[None], torch.zeros_like(now)[None], now[None], before.any())
            everywhere._constant_input(name)

    def logits(
        self, h: Tensor, W_VD: Tensor, bias_V: Tensor | None, targets_P: Tensor, *, normalize: bool = False
    ) -> None:
        """What `logit_metrics` needs, of the positions whose target is not negative."""
        targets_P = targets_P.to(h.device)
        h_PD = h.reshape(-1, h.shape[-1])
        if (targets_P < 0).any():
            h_PD, targets_P = h_PD[targets_P >= 0], targets_P[targets_P >= 0]
        rows = max(1, CHUNK // len(W_VD))
        sums_K = logit_sums(h_PD, W_VD, targets_P, bias_V, normalize=normalize, chunk_rows=rows)
        self.sums.vector("logits", sums_K if self.counted else torch.zeros_like(sums_K))

    def _constant_input(self, name: str) -> None:
        self.sums.add(f"input/{name}", 1.0, 1)
        self.sums.add(f"input_change/{name}", 0.0, 1)

    def _outputs(self, name: str, effective: Tensor, propagating: Tensor, output: Tensor, starts: Tensor) -> None:
        """Of the two parts of the output's change and the output, all (P, O). `effective` is overwritten. `starts`:
        whether R is anything but zero."""
        dim = output.shape[1]
        self._mean("effective", name, torch.linalg.vector_norm(effective, dim=1), dim)
        self._mean("propagating", name, torch.linalg.vector_norm(propagating, dim=1), dim)
        update = effective.add_(propagating)
        update_P, output_P = (torch.linalg.vector_norm(v, dim=1).double() for v in (update, output))
        self._mean("update", name, update_P, dim)
        self._mean("output", name, output_P, dim)
        # R x_R, of a zero R only rounding errors; its inner product with W x by the law of cosines, from norms
        before = torch.sub(output, update, out=update)
        before_P = torch.linalg.vector_norm(before, dim=1).double()
        defined_P = (output_P != 0) & (before_P != 0) & starts
        cosine_P = (output_P.square() + before_P.square() - update_P.square()) / (2 * output_P * before_P)
        cosine_P = torch.where(defined_P, cosine_P, 0.0)
        self._add(f"cosine/{name}", cosine_P.sum(), defined_P.sum())
        if self.pairs:
            self._pairs(name, (output, output_P), (before, before_P * starts), cosine_P, defined_P)

    def _pairs(
        self, name: str, now: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor], same_P: Tensor, defined_P: Tensor
    ) -> None:
        """What `cosine_of_others` needs: the sums of the unit vectors of both outputs, which are (P, O) with their
        norms (P,), how many these are, and what the pairs of a position with itself have in it."""
        units_O = [(_inverse(norms_P).to(vectors.dtype) @ vectors).double() for vectors, norms_P in (now, before)]
        counts = [(norms_P != 0).sum() for _, norms_P in (now, before)]
        rest = torch.stack([*counts, defined_P.sum(), same_P.sum()]).double()
        value = torch.cat([*units_O, rest])
        self.sums.vector(f"{OTHERS}/{name}", value if self.counted else torch.zeros_like(value))

    def _mean(self, quantity: str, name: str, norms_P: Tensor, dim: int) -> None:
        self._add(f"{quantity}/{name}", norms_P.sum(dtype=torch.float64) / math.sqrt(dim), norms_P.numel())

    def _add(self, key: str, total: Tensor, count: Tensor | int) -> None:
        self.sums.add(key, total if self.counted else 0.0, count if self.counted else 0)


def _inverse(norms_P: Tensor) -> Tensor:
    """1 / norm; 0 of none."""
    return torch.where(norms_P != 0, 1 / norms_P, 0.0)


def cosine_of_others(sums: Tensor) -> float | None:
    """The mean cosine of W x at one position and R x_R at another one, over all ordered pairs; None without any. `sums`
    as `Quantities` adds them up: (2 O + 4,)."""
    now_O, before_O = sums[:-4].view(2, -1)
    now, before, both, same = sums[-4:].tolist()
    n_pairs = now * before - both
    return (float(now_O @ before_O) - same) / n_pairs if n_pairs > 0 else None
