"""What `theory` predicts for the quantities of the refined coordinate check (design, section 4), weight by weight."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

import numpy as np

from pipeline.analysis.fit.theory import setting_of
from pipeline.config import RunConfig
from pipeline.entries.kinds import Place
from pipeline.theory.network import Setting
from pipeline.theory.orders import ONE, ROOT_N, ZERO, Theta
from pipeline.theory.predict import LayerHistory, Prediction, predict

Size = Literal["finite", "large"] | None
_SIZES: tuple[Size, Size] = ("finite", "large")


@dataclass(frozen=True)
class Theory:
    """Exponents of n over `widths` for runs of `config` under lr ~ n^lr_exponent."""

    config: RunConfig
    lr_exponent: Fraction
    widths: tuple[int, ...]
    clipping: bool = False
    """It acted in nearly every step."""

    def exponent(self, place: Place, quantity: str, step: int) -> float | None:
        """The predicted width exponent of `quantity` after `step` updates; None: no prediction, or exactly zero.

        The readout's initial weight is the one place where n against d_out matters: between their limits its exponents
        are those of 1 + sqrt(n/d_out) over the widths (5.2).
        """
        if place.layer is None:
            return None
        if place.layer == "output" and quantity == "update":
            parts = [self.exponent(place, part, step) for part in ("effective", "propagating")]
            return max((part for part in parts if part is not None), default=None)
        try:
            if place.layer != "output" or quantity not in ("propagating", "operator_norm_reference"):
                found = self._exponent(None, place, quantity, step)
                return None if found is None else float(found)
            few, many = (self._exponent(size, place, quantity, step) for size in _SIZES)
        except ValueError:  # a setting that theory does not know, or a step past the last one that it follows
            return None
        if few is None or many is None:
            return None
        return float(many) + float(few - many) * 2 * readout_slope(self.widths, self.config.d_out)

    @property
    def setting(self) -> Setting:
        """As theory describes it. Raises `ValueError` where it does not know it."""
        large = self.config.d_out > np.exp(np.mean(np.log(self.widths)))
        return setting_of(self.config, d_out="large" if large else "finite", clipping=self.clipping)

    @property
    def hangs_on_clipping(self) -> bool:
        """Whether clipping in every step would be another prediction."""
        try:
            settings = [dataclasses.replace(self.setting, clipping=acts) for acts in (False, True)]
        except ValueError:
            return False
        without, clipped = (predict(one, -self.lr_exponent, small_steps=True).steps for one in settings)
        return without != clipped

    @property
    def regime(self) -> str | None:
        """Definition 1's, in the limit of many steps and large n; None: theory does not know the setting."""
        try:
            return predict(self.setting, -self.lr_exponent).regime
        except ValueError:
            return None

    def _exponent(self, d_out: Size, place: Place, quantity: str, step: int) -> Fraction | None:
        prediction = self._prediction(d_out)
        assert place.layer is not None
        scale = _scale(prediction.setting, prediction.layer(place.layer), place, quantity, step)
        return None if scale is None else scale.exponent

    def _prediction(self, d_out: Size) -> Prediction:
        if d_out not in self._known:
            setting = self.setting
            setting = setting if d_out is None else dataclasses.replace(setting, d_out=d_out)
            self._known[d_out] = predict(setting, -self.lr_exponent, small_steps=True)
        return self._known[d_out]

    @cached_property
    def _known(self) -> dict[Size, Prediction]:
        return {}


def readout_slope(widths: Sequence[int], d_out: int) -> float:
    """Slope of log(1 + sqrt(n/d_out)) on log n over the widths: from 0 (d_out >> n) to 1/2 (n >> d_out)."""
    n = np.array(widths, dtype=np.float64)
    return float(np.polyfit(np.log(n), np.log(1 + np.sqrt(n / d_out)), 1)[0])


def _scale(setting: Setting, layer: LayerHistory, place: Place, quantity: str, step: int) -> Theta | None:
    now = layer.at(step)
    # what reads the embedding: its relative change differs from that of later inputs, by how the first block is built
    unclear = place.first and (place.group in ("mlp.fc", "norms") or place.layer == "key_value")
    propagating = ZERO if place.part in ("bias", "embedding") else None if unclear else now.propagating
    match quantity:
        case "effective":
            return now.effective
        case "propagating":
            return propagating
        case "update":
            return None if propagating is None else now.effective + propagating
        case "gradient":
            return layer.at(step - 1).gradient if step > 0 else None
        case "operator_norm_update":
            return now.update_norm
        case "operator_norm_reference":
            return ONE if place.part == "gain" else None if place.part == "bias" else layer.weight.init_norm
        case "alignment_effective" | "alignment_propagating":
            return ONE
        case "output":
            return _output(setting, layer, place, step)
    return None


def _output(setting: Setting, layer: LayerHistory, place: Place, step: int) -> Theta:
    """|W x|. `LayerScales.output` is what follows the layer, which in a residual network is more than W x."""
    now = layer.at(step)
    if place.part == "gain":
        return ONE
    if place.part != "bias" and (not setting.stream or place.layer in ("input", "output")):
        return now.output
    initial = ZERO if place.part == "bias" else layer.weight.init * ROOT_N
    return initial if initial != ZERO else now.effective
