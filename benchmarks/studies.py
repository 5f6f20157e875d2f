"""Simulated width-scaling studies with a known truth, for `estimators.py` and the tests. No training, no torch.

Units: x = log2(lr) in octaves, z = log2(n / 256). A study's optimum and stability edge lie at mu + alpha z + xi_n,
where the irregularity xi_n of single widths ("jitter") has a standard deviation of 0.04 octave (`mild`) or 0.12
(`hard`).

Three worlds. `NOTE` is rebuilt from the description in the project's statistics note: three asymmetric valleys (slow
left, steep right), an edge with scatter per seed and per run, NaN and half-recovered divergences, loss spikes. `OTHER`
shares no formula with it: piecewise, cosh-walled, softplus-walled and quartic valleys, noise that grows towards the
edge, heavy-tailed or correlated jitter, skewed edge scatter. Estimators were tuned on these two. `FRESH` was written
when they stood, and is for judging alone: other valleys and jitter again; nothing may be chosen by looking at it.
`KINDS` are what real studies have and smooth worlds have not.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from pipeline.analysis.study.runs import Runs

Floats = NDArray[np.float64]
Valley = Callable[[Floats, float], Floats]
"""Height above the bottom at u octaves from it, of unit curvature there or thereabouts; the number is an asymmetry in
0..1."""
Jitter = Callable[[np.random.Generator, int], Floats]
"""Irregularities of n widths, of standard deviation 1."""

WidthSet = Literal[3, 4, 6]
WIDTHS: dict[WidthSet, tuple[int, ...]] = {n: tuple(4 ** (4 + i) for i in range(n)) for n in (3, 4, 6)}
JITTER = {"mild": 0.04, "hard": 0.12}
_GOLDEN = (math.sqrt(5) - 1) / 2


def _exponential(u: Floats, asymmetry: float) -> Floats:
    k = 0.3 + 0.6 * asymmetry
    found: Floats = (np.exp(np.clip(k * u, -50, 8)) - 1 - k * u) / k**2
    return found


def _saturating(u: Floats, asymmetry: float) -> Floats:
    """Parabola that bends into a line on the left and up on the right."""
    left, right = 0.2 + 0.4 * asymmetry, 0.15 + 0.3 * asymmetry
    return np.where(u < 0, u**2 / (2 * (1 + left * np.abs(u))), u**2 * (1 + right * np.abs(u)) / 2)


def _logcosh(u: Floats, asymmetry: float) -> Floats:
    """log cosh on the left, cosh on the right."""
    a, b = 0.3 + 0.5 * asymmetry, 0.4 + 0.5 * asymmetry
    return np.where(u < 0, np.log(np.cosh(a * u)) / a**2, (np.cosh(np.clip(b * u, -8, 8)) - 1) / b**2)


def _piecewise(u: Floats, asymmetry: float) -> Floats:
    """A parabola within a third of an octave, straight walls outside, the right one steeper."""
    knee, slope = 0.35, np.where(u < 0, 0.6, 0.9 + 0.9 * asymmetry)
    return slope * np.where(np.abs(u) < knee, u**2 / (2 * knee), np.abs(u) - knee / 2)


def _cosh(u: Floats, asymmetry: float) -> Floats:
    """Walls that rise exponentially on both sides, about twice as fast on the right."""
    k = np.where(u < 0, 0.35, 0.45 + 0.4 * asymmetry)
    found: Floats = (np.cosh(np.clip(k * u, -8, 8)) - 1) / k**2
    return found


def _softplus(u: Floats, asymmetry: float) -> Floats:
    """Two softplus walls: lines far out, a round bottom; shifted and lowered so that the bottom is at 0."""
    p, q, s = 0.5, 1.0 + 0.8 * asymmetry, 2.0

    def height(at: Floats) -> Floats:
        found: Floats = (p * np.logaddexp(0, -s * at) + q * np.logaddexp(0, s * (at - 1))) / s
        return found

    def slope(at: float) -> float:
        return float(q * expit(s * (at - 1)) - p * expit(-s * at))

    bottom = float(brentq(slope, -5, 5))
    found: Floats = height(u + bottom) - height(np.array(bottom))
    return found


def _quartic(u: Floats, asymmetry: float) -> Floats:
    """A flat bottom, with a little curvature, between quartic walls."""
    right = 1 + asymmetry * (u > 0)
    return 0.25 * u**2 * right + 0.06 * np.clip(u, -6, 6) ** 4 / (1 + 0.25 * u**2) * right


def _morse(u: Floats, asymmetry: float) -> Floats:
    """A plateau on the left, an exponential wall on the right (Morse potential)."""
    k = 0.2 + 0.15 * asymmetry
    found: Floats = np.expm1(np.clip(k * u, -50, 6)) ** 2 / (2 * k**2)
    return found


def _power(u: Floats, asymmetry: float) -> Floats:
    """Powers between a line and a parabola, the right one higher; smoothed at the bottom."""
    right = u > 0
    power = np.where(right, 1.6 + 0.4 * asymmetry, 1.4)
    found: Floats = np.where(right, 0.7, 0.5) * ((u * u + 0.09) ** (power / 2) - 0.09 ** (power / 2))
    return found


def _rational(u: Floats, asymmetry: float) -> Floats:
    """A parabola that turns into a line on the left and into a quartic on the right."""
    left, right = 0.15 + 0.3 * asymmetry, 0.05 + 0.15 * asymmetry
    return np.where(u < 0, u**2 / (2 * (1 + left * np.abs(u))), u**2 * (1 + right * u**2) / 2)


def _normal(rng: np.random.Generator, n: int) -> Floats:
    return rng.standard_normal(n)


def _student(rng: np.random.Generator, n: int) -> Floats:
    """Student's t on 4 degrees of freedom, at unit variance."""
    return rng.standard_t(4, n) / math.sqrt(2)


def _correlated(rng: np.random.Generator, n: int) -> Floats:
    """Neighbouring widths err alike: AR(1), correlation 1/2."""
    found = rng.standard_normal(n)
    for i in range(1, n):
        found[i] = 0.5 * found[i - 1] + math.sqrt(0.75) * found[i]
    return found


def _uniform(rng: np.random.Generator, n: int) -> Floats:
    return rng.uniform(-math.sqrt(3), math.sqrt(3), n)


def _laplace(rng: np.random.Generator, n: int) -> Floats:
    return rng.laplace(size=n) / math.sqrt(2)


@dataclass(frozen=True)
class World:
    """A family of studies."""

    name: str
    valleys: tuple[Valley, ...]
    jitters: tuple[Jitter, ...]
    seed_scatter: tuple[float, float]
    """Range of the standard deviation over seeds of the edge, octaves."""
    run_scatter: float
    skewed_edge: float
    """Share of the edge's scatter that is exponential, towards smaller learning rates."""
    noise: tuple[float, float]
    """Range of a run's loss noise, nats, at the bottom of the valley."""
    noise_growth: float
    """Relative growth of the noise per octave above the optimum."""
    amplitude: tuple[float, float]
    """Range of the valley's curvature, nats per octave^2."""


NOTE = World(
    "note",
    (_exponential, _saturating, _logcosh),
    (_normal,),
    (0.15, 0.36),
    0.05,
    0.0,
    (0.003, 0.012),
    0.5,
    (0.03, 0.12),
)
OTHER = World(
    "other",
    (_piecewise, _cosh, _softplus, _quartic),
    (_normal, _student, _correlated),
    (0.1, 0.4),
    0.1,
    0.5,
    (0.003, 0.012),
    1.0,
    (0.03, 0.15),
)
FRESH = World(
    "fresh",
    (_morse, _power, _rational),
    (_uniform, _laplace),
    (0.12, 0.38),
    0.08,
    0.3,
    (0.003, 0.012),
    0.7,
    (0.03, 0.13),
)
WORLDS = {world.name: world for world in (NOTE, OTHER, FRESH)}


@dataclass(frozen=True)
class Design:
    """Which runs a study makes: widths, seeds, and a grid of `spacing` octaves over `span` octaves at every width."""

    n_widths: WidthSet = 4
    n_seeds: int = 2
    spacing: float = 1.0
    staggered: bool = False
    """Shift the grid's phase over seeds and widths."""
    span: float = 10.0


@dataclass
class Truth:
    """One study's truth, which answers any run asked of it. Arrays have one entry per width."""

    world: World
    widths: tuple[int, ...]
    alpha: float
    """Exponent of the optimum."""
    beta: float
    """Exponent of the edge."""
    optimum: Floats
    """log2 of the optimal learning rate, jitter included."""
    edge: Floats
    """log2 of the max-stable learning rate, jitter included."""
    level: Floats
    curvature: Floats
    valley: Valley
    asymmetry: float
    noise: float
    seed_level: float
    seed_scatter: float
    rng: np.random.Generator
    turn: float = 0.0
    """Change of the asymmetry per octave of width."""
    dip: float = 0.0
    """Depth of a second dip two octaves below the optimum, in units of the curvature."""
    shift: float = 0.0
    """Standard deviation over seeds of the optimum, octaves."""
    recovered: float = 0.1
    """Share of the unstable runs that half recover unseen: finite, and not seen to have left."""
    flat: bool = False
    """No valley: losses do not depend on the learning rate."""
    falls: bool = False
    """Training losses near zero: they fall by a factor of 3 an octave up to a cliff of 3 nats at the optimum."""
    bottom: float = 0.0
    """Where the formulas' height is least, octaves from their middle."""
    seeds: dict[tuple[int, int], tuple[float, float, float]] = field(default_factory=dict)
    """Level, edge shift and optimum shift of each (width, seed) met so far."""

    def _of_seed(self, place: int, seed: int) -> tuple[float, float, float]:
        if (place, seed) not in self.seeds:
            edge = self._scatter(self.seed_scatter)
            level = self.seed_level * float(self.rng.standard_normal())
            shift = self.shift * float(self.rng.standard_normal()) if self.shift else 0.0
            self.seeds[place, seed] = (level, edge, shift)
        return self.seeds[place, seed]

    def height(self, place: int, u: float) -> float:
        """Of the valley, u octaves from the bottom."""
        if self.flat:
            return 0.0
        u += self.bottom
        if self.falls:
            return 0.55 * (math.hypot(u, 0.3) - 0.3 - 0.6 * u) + 3 / (1 + math.exp(-12 * (u - 0.8))) * (u > -2)
        z = math.log2(self.widths[place] / self.widths[0])
        height = float(self.valley(np.array([u]), self.asymmetry + self.turn * z)[0])
        return float(self.curvature[place]) * (height - self.dip * math.exp(-(((u + 2) / 0.4) ** 2)))

    def _scatter(self, sd: float) -> float:
        if self.rng.random() < self.world.skewed_edge:
            return float(sd * (1 - self.rng.exponential()))
        return float(sd * self.rng.standard_normal())

    def run(self, place: int, x: float, seed: int) -> tuple[float, bool]:
        """Final loss (nan: diverged) and whether the trajectory left for good, of one run at width `place`."""
        level, edge, shift = self._of_seed(place, seed)
        rng, u = self.rng, x - self.optimum[place] - shift
        noise = self.noise * (1 + self.world.noise_growth * max(u, 0.0)) * float(rng.standard_normal())
        if self.falls:
            return float(1e-3 * math.exp(self.height(place, u) + 10 * (level + noise))), False
        loss = self.level[place] + level + self.height(place, u) + noise
        if x > self.edge[place] + edge + self._scatter(self.world.run_scatter):
            fate = rng.random()
            if fate < 0.5:
                return math.nan, False
            return float(loss + rng.uniform(0.2, 3.0)), bool(fate < 1 - self.recovered)
        if rng.random() < 0.02:
            loss += rng.exponential(0.3)  # a spike at the end
        return float(min(loss, self.level[place] + 6)), False


def draw(
    world: World,
    n_widths: WidthSet,
    jitter: float,
    rng: np.random.Generator,
    gap: tuple[float, float] = (0.9, 3.0),
    alpha: float | None = None,
) -> Truth:
    """A random study whose optimum lies `gap` octaves below the edge on average over widths, and never less than 2/3 of
    the smaller bound at any width, jitter apart; `alpha` fixes the exponent of the optimum. Where the gap may be
    smaller than 0.3, optimum and edge share their exponent."""
    widths = WIDTHS[n_widths]
    z = np.log2(np.array(widths) / 256)
    drawn, middle = rng.uniform(-1.1, 0.2), rng.uniform(*gap)
    alpha = drawn if alpha is None else alpha
    room = (middle - gap[0] * 2 / 3) / np.max(np.abs(z - z.mean()))
    tilt = float(np.clip(rng.uniform(-0.2, 0.2), -room, room)) if gap[0] > 0.3 else 0.0
    mu = rng.uniform(-10, -6)
    jitters = world.jitters[rng.integers(len(world.jitters))]
    valley, asymmetry = world.valleys[rng.integers(len(world.valleys))], rng.random()
    # the edge is where training breaks down, not where the valley's smooth shoulder rises by the label's margin of 1
    shoulder = float(valley(np.array([middle + abs(tilt) * 3 + 0.5]), asymmetry)[0])
    curvature = min(math.exp(rng.uniform(*np.log(world.amplitude))), 0.8 / shoulder)
    base = mu + alpha * z
    return Truth(
        world=world,
        widths=widths,
        alpha=alpha,
        beta=alpha + tilt,
        optimum=base + jitter * jitters(rng, len(z)),
        edge=base + middle + tilt * (z - z.mean()) + jitter * jitters(rng, len(z)),
        level=rng.uniform(4, 5) - rng.uniform(0.05, 0.2) * z,
        curvature=curvature * np.exp(rng.normal(0, 0.08) * z),
        valley=valley,
        asymmetry=asymmetry,
        noise=math.exp(rng.uniform(*np.log(world.noise))),
        seed_level=0.01,
        seed_scatter=math.exp(rng.uniform(*np.log(world.seed_scatter))),
        rng=rng,
    )


@dataclass(frozen=True)
class Kind:
    """What a smooth world has not."""

    changes: Mapping[str, float | bool]
    """Of `Truth`."""
    jitter: float = 0.04
    gap: tuple[float, float] = (0.9, 3.0)


KINDS = {
    "growing asymmetry": Kind({"turn": 0.25}),
    "two dips": Kind({"dip": 1.2}),
    "seed-shifted optima": Kind({"shift": 0.35}),
    "irregular widths": Kind({}, jitter=0.3),
    "cliff after a hundredfold fall": Kind({"falls": True}),
    "Adam-like gap": Kind({}, gap=(4.0, 6.0)),
    "half-recovered runs": Kind({"recovered": 0.4}),
    "saturation": Kind({}, gap=(0.0, 0.2)),
    "no valley": Kind({"flat": True}),
}


def draw_kind(kind: Kind, world: World, n_widths: WidthSet, rng: np.random.Generator) -> Truth:
    """A random study of a kind. A second dip is never the deeper one; the optimum of one that falls to a cliff is where
    its height is least."""
    truth = draw(world, n_widths, kind.jitter, rng, kind.gap)
    for name, value in kind.changes.items():
        setattr(truth, name, value)
    truth.dip = min(truth.dip, 0.8 * float(truth.valley(np.array([-2.0]), truth.asymmetry)[0]))
    if truth.falls:
        u = np.linspace(-1, 2, 3001)
        truth.bottom = float(u[np.argmin([truth.height(0, at) for at in u.tolist()])])
        truth.optimum = truth.optimum + truth.bottom
    return truth


def make_runs(truth: Truth, design: Design) -> Runs:
    """The runs of `design`: at every width a grid around the middle of its valley and edge, with a random phase."""
    rng = truth.rng
    phase = rng.random()
    rows: list[tuple[int, float, int, float, bool]] = []
    for place, width in enumerate(truth.widths):
        middle = (truth.optimum[place] + truth.edge[place]) / 2 - 1 + rng.uniform(-0.5, 0.5)
        for seed in range(design.n_seeds):
            turn = (place * design.n_seeds + seed) * _GOLDEN if design.staggered else 0.0
            shift = (phase + turn) % 1
            first = math.ceil((middle - design.span / 2) / design.spacing - shift)
            count = round(design.span / design.spacing)
            for x in (np.arange(first, first + count) + shift) * design.spacing:
                loss, left = truth.run(place, float(x), seed)
                rows.append((width, 2.0**x, seed, loss, left))
    columns: Sequence[Sequence[float]] = list(zip(*rows, strict=True))
    return Runs.of(*columns)
