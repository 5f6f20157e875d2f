"""The optimum below grid resolution: one valley shape shared by all widths, fitted to the losses of the stable runs.

L = a_n + s_(n, seed) + c_n G(V(x - x_n; k); p), log c_n linear in log width (`valley_shape`). A penalized robust
least-squares problem, solved by Levenberg-Marquardt with analytic derivatives. The intercepts s pair the runs of a
seed; they are shrunk and eliminated, so that the cost grows linearly with the number of runs.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.fit.valley_shape import Robust, huber, shape, student
from pipeline.analysis.study.runs import Bools, Floats, Ints, Runs

# Octaves below and above a width's optimum whose runs enter: beyond, valleys have shapes of their own.
WINDOW = (-5.0, 3.0)

_OFF_LINE_SD = 0.02  # octaves, of x_n around a power law, while a first curve is looked for

# Priors, weak: curvature and asymmetry of valleys as met in practice, in nats per octave^2 and per octave.
_K_MEAN, _K_SD = 0.5, 0.3
_LOG_C_MEAN, _LOG_C_SD = math.log(0.06), 2.0
_P_MEAN, _P_SD = 1.0, 0.4
_LEAST_P = 0.2
_DRIFT_SD = 0.12  # of log c, per doubling of width
_PILOT_SD = 1.0  # octaves, of x_n around the pilot

_PSEUDO = 6.0  # observations that the pooled variance counts for, beside a width's own
_LEAST_RUNS, _LEAST_LRS = 3, 2  # in the window, for a width to enter
_LEAST_NOISE = 1e-6  # nats: where runs agree to the last digit
_SEED_SD = 0.01  # floor of the seeds' scatter, in units of the noise


@dataclass(frozen=True)
class Valley:
    """The fitted optimum of each width. `x` and `covariance` are in octaves."""

    widths: tuple[float, ...]
    x: Floats
    covariance: Floats
    level: Floats
    """Loss at the bottom, a_n."""
    curvature: Floats
    """c_n."""
    asymmetry: float
    """k; positive: steeper above the optimum."""
    sharpness: float
    """p."""
    noise: Floats
    """Per width, standard deviation of one run around the curve."""
    n_used: Ints
    """Runs per width in the window."""

    def loss(self, place: int, x: Floats) -> Floats:
        """The fitted curve of a width."""
        found: Floats = (
            self.level[place] + self.curvature[place] * shape(x - self.x[place], self.asymmetry, self.sharpness)[0]
        )
        return found


def fit_valley(runs: Runs, stable: Bools, pilot: dict[float, float]) -> Valley | None:
    """Fit the widths that `pilot` names, with their grid optima in octaves, to the `stable` runs with a finite loss.

    Widths with fewer than three runs or two learning rates within the window take no part. None: no width is left.
    """
    usable = stable & np.isfinite(runs.loss)
    kept = []
    for n, centre in pilot.items():
        near = runs.x[usable & (runs.width == n) & _near(runs.x, centre)]
        if len(near) >= _LEAST_RUNS and len(np.unique(near)) >= _LEAST_LRS:
            kept.append(n)
    if not kept:
        return None
    usable &= np.isin(runs.width, kept)
    order = np.lexsort((runs.x, runs.seed, runs.width))
    problem = _Problem(runs.where(order[usable[order]]), tuple(kept), np.array([pilot[n] for n in kept]))
    return problem.solve()


def _near(x: Floats, centre: float | Floats) -> Bools:
    found: Bools = (x - centre >= WINDOW[0]) & (x - centre <= WINDOW[1])
    return found


class _Problem:
    """Parameters: x_n and a_n per width, log c at the mean width, its drift with log2 width, k, p."""

    def __init__(self, runs: Runs, widths: tuple[float, ...], pilot: Floats) -> None:
        self.n = len(widths)
        self.widths = widths
        self.pilot = pilot
        self.all_x, self.all_y = runs.x, runs.loss
        self.all_place = np.searchsorted(np.array(widths), runs.width)
        z = np.log2(np.array(widths, dtype=np.float64))
        self.z = z - z.mean()
        self.all_group = np.cumsum(
            np.r_[True, (np.diff(runs.width) != 0) | (np.diff(runs.seed) != 0)] if len(runs) else []
        ) - 1  # fmt: skip
        n = self.n
        self.precision = np.zeros(2 * n + 4)
        self.precision[:n] = _PILOT_SD**-2
        self.bend = np.zeros((n, n))
        """Precision of the x_n off a power law."""
        self.precision[2 * n :] = _LOG_C_SD**-2, _DRIFT_SD**-2, _K_SD**-2, _P_SD**-2
        self.centre = np.zeros(2 * n + 4)
        self.centre[:n] = pilot
        self.centre[2 * n :] = _LOG_C_MEAN, 0.0, _K_MEAN, _P_MEAN

    def solve(self) -> Valley:
        theta = self.centre.copy()
        noise = np.zeros(0)
        seed_sd = 0.0
        used = np.zeros(0, dtype=np.bool_)
        for _ in range(5):
            window = _near(self.all_x, theta[: self.n][self.all_place])
            counts = np.bincount(self.all_place[window], minlength=self.n)
            if len(used) and (np.array_equal(window, used) or counts.min() < _LEAST_RUNS):
                break
            used = window
            self._select(window)
            if not len(noise):
                theta, noise, seed_sd = self._start(theta)
            theta, noise, seed_sd = self._descend(theta, noise, seed_sd)
        covariance = self._covariance(theta, noise, seed_sd)
        n = self.n
        return Valley(
            widths=self.widths,
            x=theta[:n].copy(),
            covariance=covariance[:n, :n],
            level=theta[n : 2 * n].copy(),
            curvature=np.exp(theta[2 * n] + theta[2 * n + 1] * self.z),
            asymmetry=float(theta[2 * n + 2]),
            sharpness=float(theta[2 * n + 3]),
            noise=noise,
            n_used=np.bincount(self.place, minlength=n).astype(np.int64),
        )

    def _select(self, window: Bools) -> None:
        self.x, self.y, self.place = self.all_x[window], self.all_y[window], self.all_place[window]
        group = self.all_group[window]
        first = np.flatnonzero(np.r_[True, np.diff(group) != 0])
        self.first = first
        self.group = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(group)]))
        self.per_width: Floats = np.bincount(self.place, minlength=self.n).astype(np.float64)
        self.rows = np.arange(len(self.x))

    def _start(self, theta: Floats) -> tuple[Floats, Floats, float]:
        """A curve that single runs cannot pull away: nearly least absolute deviations, of an average shape and with
        optima on a power law. A spike must not pass for the wall of a valley elsewhere."""
        for place in range(self.n):
            theta[self.n + place] = np.min(self.y[self.place == place])
        residual = self.y - theta[self.n : 2 * self.n][self.place]
        tight = max(0.05 * float(np.median(np.abs(residual))), _LEAST_NOISE)
        line = np.stack([np.ones(self.n), self.z], axis=1)
        self.bend = (np.eye(self.n) - line @ np.linalg.pinv(line)) / _OFF_LINE_SD**2
        weak, self.precision = self.precision, self.precision.copy()
        self.precision[2 * self.n + 1 :] = 0.02**-2
        theta, free, intercept, total = self._levenberg(theta, np.full(self.n, tight), tight, huber)
        self.precision = weak
        noise = np.full(self.n, max(1.5 * float(np.median(np.abs(free))), _LEAST_NOISE))
        self.bend = np.zeros((self.n, self.n))
        return theta, *self._scales(free, intercept, total, noise)

    def _model(self, theta: Floats) -> tuple[Floats, Floats]:
        """Residuals without the seeds' intercepts, and the Jacobian of the curve."""
        n = self.n
        c = np.exp(theta[2 * n] + theta[2 * n + 1] * self.z)[self.place]
        v, du, dk, dp = shape(self.x - theta[:n][self.place], theta[2 * n + 2], theta[2 * n + 3])
        cv = c * v
        jacobian = np.zeros((len(self.x), 2 * n + 4))
        jacobian[self.rows, self.place] = -c * du
        jacobian[self.rows, n + self.place] = 1.0
        jacobian[:, 2 * n] = cv
        jacobian[:, 2 * n + 1] = cv * self.z[self.place]
        jacobian[:, 2 * n + 2] = c * dk
        jacobian[:, 2 * n + 3] = c * dp
        return self.y - theta[n : 2 * n][self.place] - cv, jacobian

    def _profile(self, residual: Floats, weight: Floats, seed_sd: float) -> tuple[Floats, Floats]:
        """The seeds' intercepts given the curve, and their precisions."""
        total = np.add.reduceat(weight, self.first) + seed_sd**-2
        return np.add.reduceat(weight * residual, self.first) / total, total

    def _descend(self, theta: Floats, noise: Floats, seed_sd: float) -> tuple[Floats, Floats, float]:
        """Alternate between the scales and the curve until neither moves."""
        for _ in range(12):
            before = theta
            theta, free, intercept, total = self._levenberg(theta, noise, seed_sd, student)
            noise, seed_sd = self._scales(free, intercept, total, noise)
            if np.max(np.abs(theta - before)[: self.n]) < 1e-3 and np.max(np.abs(theta - before)[2 * self.n :]) < 1e-2:
                break
        return theta, noise, seed_sd

    def _levenberg(
        self, theta: Floats, noise: Floats, seed_sd: float, loss: Robust
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Minimize over the curve at fixed scales, by reweighting."""
        n, sigma = self.n, noise[self.place]
        residual, jacobian = self._model(theta)
        weight, intercept, total, cost = self._reweighted(theta, residual, sigma, seed_sd, loss)
        damping = 1e-3
        for _ in range(12):
            hessian, gradient, _, _ = self._normal_equations(theta, residual, jacobian, weight, seed_sd)
            for _ in range(6):
                damped = hessian.copy()
                damped[np.diag_indices_from(damped)] *= 1 + damping
                step = np.linalg.solve(damped, gradient)
                trial = theta + step
                trial[-1] = max(trial[-1], _LEAST_P)
                new = self._model(trial)
                state = self._reweighted(trial, new[0], sigma, seed_sd, loss)
                if state[3] <= cost + 1e-12:
                    break
                damping = max(damping, 1e-3) * 8
            else:
                break
            gained = cost - state[3]
            theta, (residual, jacobian), (weight, intercept, total, cost) = trial, new, state
            damping *= 0.2
            if gained < 1e-4 or (np.max(np.abs(step[:n])) < 1e-4 and np.max(np.abs(step[2 * n :])) < 1e-3):
                break
        return theta, residual - intercept[self.group], intercept, total

    def _reweighted(
        self, theta: Floats, residual: Floats, sigma: Floats, seed_sd: float, loss: Robust
    ) -> tuple[Floats, Floats, Floats, float]:
        """Weights, the intercepts and their precisions under them, and the cost (a negative log posterior)."""
        weight = sigma**-2.0
        for _ in range(2):
            intercept, total = self._profile(residual, weight, seed_sd)
            factor, cost = loss(np.abs(residual - intercept[self.group]) / sigma)
            weight = factor * sigma**-2.0
        off = theta - self.centre
        penalty = float(intercept @ intercept) / seed_sd**2 + float(off @ (self.precision * off))
        penalty += float(theta[: self.n] @ self.bend @ theta[: self.n])
        return weight, intercept, total, float(cost.sum()) + 0.5 * penalty

    def _scales(self, free: Floats, intercept: Floats, total: Floats, noise: Floats) -> tuple[Floats, float]:
        """Noise per width, shrunk towards the pooled one, and the scatter of the seeds' intercepts (both by EM)."""
        n, m = self.n, len(self.x)
        share = max(m - 2 * n - 4, 0.3 * m) / m  # of the runs, left over by the curve's parameters
        for _ in range(4):
            factor, _ = student(np.abs(free) / noise[self.place])
            squares = np.bincount(self.place, weights=factor * free * free, minlength=n)
            pooled = max(float(squares.sum()) / (share * m), _LEAST_NOISE**2)
            noise = np.sqrt((_PSEUDO * pooled + squares) / (_PSEUDO + share * self.per_width))
        spread = float(intercept @ intercept) + float(np.sum(1 / total)) + 0.2 * pooled
        return noise, max(math.sqrt(spread / (len(intercept) + 2)), _SEED_SD * math.sqrt(pooled))

    def _normal_equations(
        self, theta: Floats, residual: Floats, jacobian: Floats, weight: Floats, seed_sd: float
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Hessian and gradient with the intercepts eliminated, the Jacobian's group sums and the groups' precisions."""
        weighted = jacobian * weight[:, None]
        sums = np.add.reduceat(weighted, self.first, axis=0)
        total = np.add.reduceat(weight, self.first) + seed_sd**-2
        pulled = np.add.reduceat(weight * residual, self.first) / total
        hessian = jacobian.T @ weighted - sums.T @ (sums / total[:, None])
        gradient = weighted.T @ residual - sums.T @ pulled + self.precision * (self.centre - theta)
        gradient[: self.n] -= self.bend @ theta[: self.n]
        hessian[: self.n, : self.n] += self.bend
        hessian[np.diag_indices_from(hessian)] += self.precision
        hessian[np.diag_indices_from(hessian)] *= 1 + 1e-9
        return hessian, gradient, sums, total

    def _covariance(self, theta: Floats, noise: Floats, seed_sd: float) -> Floats:
        """The model's, its variances raised to HC3's where those are larger."""
        residual, jacobian = self._model(theta)
        sigma = noise[self.place]
        weight, intercept, _, _ = self._reweighted(theta, residual, sigma, seed_sd, student)
        free = residual - intercept[self.group]
        hessian, _, sums, total = self._normal_equations(theta, residual, jacobian, weight, seed_sd)
        model = np.asarray(np.linalg.inv(hessian), dtype=np.float64)
        centred = jacobian - (sums / total[:, None])[self.group]
        reach = centred @ model
        leverage = weight * (np.sum(reach * centred, axis=1) + 1 / total[self.group])
        pull = weight * free / np.maximum(1 - leverage, 0.1)
        influence = reach[:, : self.n] * pull[:, None]
        # Compared for the slope over widths, and raised by one factor: as weights of single widths the sandwich's
        # variances are too noisy. One width: for its place.
        direction = self.z if self.n > 1 else np.ones(1)
        robust = float(np.sum((influence @ direction) ** 2))
        assumed = float(direction @ model[: self.n, : self.n] @ direction)
        found: Floats = model * max(1.0, robust / max(assumed, 1e-300))
        return found
