"""Spectra: operator norms between RMS norms of a weight W, its reference R and their difference, and their ratios.

Shapes: O fan-out, I fan-in. W and R are (O, I), gains (O,).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.diagnostics.layers import Layer
from pipeline.diagnostics.operator_norm import operator_norm, rms_operator_norm, update_rank
from pipeline.diagnostics.sums import Sums

PAIRS = {
    "alignment_effective": ("effective", "operator_norm_update", "input"),
    "alignment_rms": ("effective", "update_rms", "input"),
    "alignment_propagating": ("propagating", "operator_norm_reference", "input_change"),
}


class Spectra:
    """The spectral part of a coordinate check: weight i is the work of rank i modulo the number of ranks.

    An embedding acts on one-hot vectors, so its norm is the largest RMS of a row; a gain is a diagonal matrix; a bias
    acts on the constant 1.
    """

    def __init__(self, rank: int, world: int, *, fixed_reference: bool) -> None:
        self.rank, self.world, self.fixed_reference = rank, world, fixed_reference
        self._starts: dict[str, Tensor] = {}  # right singular vectors, on the CPU
        self._references: dict[str, Tensor] = {}

    def begin(self, sums: Sums) -> None:
        self._sums, self._turn = sums, 0

    def weight(self, layer: Layer, W: Tensor, R: Tensor) -> None:
        """W and R (fan_out, fan_in), or gains."""
        for part, start, end in layer.rows(len(W)):
            if not self._mine(name := f"{part}.weight"):
                continue
            rows = slice(start, end)
            before = W[rows], R[rows], W[rows] - R[rows]
            match layer.kind:
                case "linear":
                    self._linear(name, *before)
                case "embedding":
                    self._put(name, *(torch.linalg.vector_norm(A, dim=1).max() / math.sqrt(A.shape[1]) for A in before))
                    self._put_change(name, before[2], self._norm(f"{name} rank", before[2], operator_norm))
                case "norm":
                    largest = [A.abs().max() for A in before]
                    self._put(name, *largest)
                    self._put_change(name, before[2], largest[2])

    def bias(self, layer: Layer, b: Tensor, b_R: Tensor) -> None:
        for part, start, end in layer.rows(len(b)):
            if not self._mine(name := f"{part}.bias"):
                continue
            vectors = b[start:end], b_R[start:end], b[start:end] - b_R[start:end]
            norms = [torch.linalg.vector_norm(v) for v in vectors]
            self._put(name, *(norm / math.sqrt(end - start) for norm in norms))
            self._put_change(name, vectors[2], norms[2])

    def aligned(self, means: dict[str, float]) -> dict[str, float]:
        """The same numbers with alignment ratios |A x| / (|A| |x|) for the pairs (W - R, x), by operator and by RMS
        norm of A, and (R, x - x_R)."""
        ratios = {}
        for key in means:
            quantity, _, name = key.partition("/")
            if quantity != "operator_norm":
                continue
            for ratio, (above, norm, size) in PAIRS.items():
                below = means[f"{norm}/{name}"] * means.get(f"{size}/{name}", 0.0)
                if below != 0:
                    ratios[f"{ratio}/{name}"] = means[f"{above}/{name}"] / below
        return means | ratios

    def _mine(self, name: str) -> bool:
        """Whether it is this rank's turn; if not, it has no share in the numbers."""
        self._turn += 1
        if self._turn % self.world == self.rank:
            return True
        for quantity in (
            "operator_norm", "operator_norm_reference", "operator_norm_update", "update_rms", "update_rank"
        ):  # fmt: skip
            self._sums.add(f"{quantity}/{name}", 0.0, 0)
        return False

    def _linear(self, name: str, W: Tensor, R: Tensor, difference: Tensor) -> None:
        norms = []
        for which, A in {"": W, " reference": R, " update": difference}.items():
            key = name + which
            if key in self._references:
                norms.append(self._references[key])
                continue
            norm = self._norm(key, A, rms_operator_norm)
            norms.append(norm)
            if which == " reference" and self.fixed_reference:
                self._references[key] = norm
        self._put(name, *norms)
        self._put_change(name, difference, norms[2] * math.sqrt(W.shape[0] / W.shape[1]), summed=W.shape[1])

    def _norm(self, key: str, A: Tensor, measure: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        """From where the last measurement under that key ended."""
        start = self._starts.get(key)
        norm, vector = measure(A, None if start is None else start.to(A.device))
        self._starts[key] = vector.cpu()
        return norm

    def _put(self, name: str, norm: Tensor, reference: Tensor, update: Tensor) -> None:
        self._sums.add(f"operator_norm/{name}", norm, 1)
        self._sums.add(f"operator_norm_reference/{name}", reference, 1)
        self._sums.add(f"operator_norm_update/{name}", update, 1)

    def _put_change(self, name: str, difference: Tensor, sigma: Tensor, summed: int = 1) -> None:
        """The RMS of the entries of W - R times the products that a sum of the layer has, and |W - R|_F / |W - R|_2, of
        which there is none where nothing has changed."""
        rms = torch.linalg.vector_norm(difference) / math.sqrt(difference.numel())
        self._sums.add(f"update_rms/{name}", summed * rms, 1)
        changed = sigma != 0
        rank = torch.where(changed, update_rank(difference, sigma), 0.0)
        self._sums.add(f"update_rank/{name}", rank, changed)
