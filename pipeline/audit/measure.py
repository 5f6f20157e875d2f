"""What is measured of one build: its tensors as they start, what they do, and what a few steps of training change.

Every measurement is a flat dict ``(quantity, label) -> value``. Quantities:

- ``init`` RMS of the entries; ``lr``, ``weight_decay``, ``eps`` of its group; ``rate`` what one step moves under a unit
  gradient (`pipeline.audit.optimizers`)
- ``multiplier``: what the forward pass puts on the tensor beside the tensor itself: RMS of what it adds to the output
  over that of its plain product with its input. Of an output this is taken at the logits; of an input, and of a matrix
  behind which stands no more than a multiplier and a sum, where the next module reads it; of any other tensor where
  its own module ends. ``std`` = init * multiplier, ``speed`` = rate * multiplier (SGD, whose gradient has it once more:
  multiplier^2), the invariants of abc-symmetry
- ``input`` |x| and ``output`` what the tensor adds to its module's output, at initialization
- after the last step ``effective`` |(W - W_0) x| and ``propagating`` |W_0 (x - x_0)| (design, section 4), with all
  multipliers; ``gradient``: RMS; ``kept``: what Adam's eps leaves of the update, mean of |g| / (|g| + eps)
- of the model ``logits``, ``loss``; of an attention ``attention``: RMS of its logits, and ``heads``
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.audit.builds import Built
from pipeline.audit.layout import End
from pipeline.audit.optimizers import Response, without_decay
from pipeline.audit.passes import Call, Pass, Passes

Values = dict[tuple[str, str], float]


def with_roles(builds: Sequence[Built], ends: Sequence[End]) -> list[End]:
    """Which outputs are readouts, and what raw parameters with one growing dimension do, seen at the two narrowest of
    `builds`. A readout is what changes the logits and nothing that another matrix reads."""
    built, owners = builds[0], [end.owner for end in ends]
    passes = Passes(built, owners)
    at_first, wider = passes.run(), Passes(builds[1], owners).run()
    matrices = {e.owner for e in ends if len(built.parameters[e.tensor].shape) > 1}
    found = []
    for end in ends:
        if end.role == "output" or (end.shape == "raw" and end.role == "input"):
            changed = passes.run({end.tensor: _random(built.parameters[end.tensor])}, _others(end, at_first, ends))
            inner = any(
                name != end.owner and name in changed.calls and _differ(changed.calls[name].x, at_first.calls[name].x)
                for name in matrices
                if name in at_first.calls
            )
            raw = end.shape == "raw"
            read = built.parameters[end.tensor].untyped_storage().data_ptr() in at_first.multiplied
            sums = not raw or _widths(at_first, end) != _widths(wider, end)
            if raw and not read:  # it is added, or acts on each number alone
                end = replace(end, role="input", inner=False)
            elif not inner:
                end = replace(end, role="output", inner=False, fan_in=end.fan_in or 1.0)
            elif sums:
                end = replace(end, role="hidden", inner=True, fan_in=end.fan_in or 1.0)
            else:
                end = replace(end, role="input", inner=False)
        found.append(end)
    return found


def _widths(at: Pass, end: End) -> int:
    """Length of the vectors that the end's module reads."""
    x = at.calls[end.owner].x if end.owner in at.calls else None
    return 0 if x is None or not x.is_floating_point() or not x.ndim else x.shape[-1]


def _along(one: Tensor, other: Tensor) -> bool:
    """Whether one is a multiple of the other."""
    if one.shape != other.shape:
        return False
    return abs(F.cosine_similarity(one.flatten(), other.flatten(), dim=0).item()) > 0.999


def _differ(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and (one.shape != other.shape or not torch.equal(one, other))


def _others(end: End, at: Pass, ends: Sequence[End]) -> dict[str, object]:
    """What a tensor's other owners gave, so that they give it again whatever is in the tensor."""
    owners = {e.owner for e in ends if e.tensor == end.tensor and e.owner != end.owner}
    return {owner: at.calls[owner].output for owner in owners if owner in at.calls}


def _random(like: Tensor) -> Tensor:
    """Entries of RMS one."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return z / z.square().mean().sqrt()


def _rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item() if x.numel() else math.nan


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Of one build."""

    values: Values
    outputs: int
    """d_out: numbers per position of the model's output."""


def measure(built: Built, ends: Sequence[End], response: Mapping[str, Response], steps: int) -> Measured:
    """All of it. The build is used up."""
    values: Values = {}
    passes = Passes(built, [end.owner for end in ends])
    start = {name: p.detach().clone() for name, p in built.parameters.items()}
    first = passes.run()
    for end in ends:
        _facts(values, built, end, response[end.tensor])
    values["logits", ""], values["loss", ""] = _rms(first.logits), first.loss
    for name, (size, heads) in first.attention.items():
        values["attention", name], values["heads", name] = size, heads
    for end in ends:
        _invariants(values, passes, built, end, first, ends, response[end.tensor])
    without_decay(built)
    for _ in range(steps):
        passes.step()
    for end in ends:
        p = built.parameters[end.tensor]
        if p.grad is not None and (seen := p.grad[p.grad != 0].abs().double()).numel():
            values["gradient", end.label] = _rms(seen)
            eps = values.get(("eps", end.label))
            if eps is not None and response[end.tensor].family == "adam":
                values["kept", end.label] = (seen / (seen + eps)).mean().item()
    last = passes.run()
    for end in ends:
        _updates(values, passes, end, ends, first, last, start)
    values["last_loss", ""] = last.loss
    return Measured(values, first.logits.shape[-1] if first.logits.ndim > 1 else 1)


def _facts(values: Values, built: Built, end: End, response: Response) -> None:
    p = built.parameters[end.tensor]
    group = built.group(p)
    values["init", end.label] = _rms(p.detach())
    values["rate", end.label] = response.rate
    for key in ("lr", "weight_decay", "eps"):
        if isinstance(group.get(key), int | float | Tensor):
            values[key, end.label] = float(group[key])
    for place, beta in enumerate(group.get("betas", ())):
        values[f"beta{place + 1}", end.label] = float(beta)


def _invariants(
    values: Values, passes: Passes, built: Built, end: End, first: Pass, ends: Sequence[End], response: Response
) -> None:
    call = first.calls.get(end.owner)
    if call is None:  # its tensors are used from outside, or not at all
        values["multiplier", end.label] = 1.0
        values["std", end.label], values["speed", end.label] = values["init", end.label], response.rate
        return
    zero = {end.tensor: torch.zeros_like(built.parameters[end.tensor])}
    silent, own = passes.replay(end.owner, call, zero), passes.replay(end.owner, call, {})
    if silent is not None and own is not None:
        values["output", end.label] = _rms(own - silent)
    x = 1.0 if end.shape == "embedding" or call.x is None or not call.x.is_floating_point() else _rms(call.x)
    if end.role in ("input", "hidden", "output"):
        values["input", end.label] = x
    multiplier = _multiplier(passes, built, end, first, ends, call, silent, x)
    values["multiplier", end.label] = multiplier
    values["std", end.label] = values["init", end.label] * multiplier
    values["speed", end.label] = response.rate * multiplier ** (2 if response.family == "sgd" else 1)


def _multiplier(
    passes: Passes,
    built: Built,
    end: End,
    first: Pass,
    ends: Sequence[End],
    call: Call,
    silent: Tensor | None,
    x: float,
) -> float:
    """Of the tensor as it starts, or of random entries where it starts at zero. 1 where it cannot be told: where these
    do not act on their own and in proportion to their size."""
    p = built.parameters[end.tensor]
    z = p.detach().clone()
    if not z.any():
        z = (torch.ones_like(z) if p.ndim == 1 else _random(p) / math.sqrt(_terms(p, end))).to(z)
    plain = _plain_sum(p, end, call, z.double(), x)
    reads = None
    if end.role in ("input", "hidden", "output"):
        pinned = _others(end, first, ends)
        whole = [first if not pinned and torch.equal(z, p) else passes.run({end.tensor: z}, pinned)]
        whole += [passes.run({end.tensor: v}, pinned) for v in (2 * z, 0 * z)]
        if end.role == "output":
            one, two, none = (found.logits.double() for found in whole)
            return _proportion(one - none, two - none, plain / x if x else 0) or 1.0
        reads = _reads(end, *(found.calls for found in whole))
    outputs = [passes.replay(end.owner, call, {end.tensor: v}) for v in (z, 2 * z)] if silent is not None else []
    own = [out - silent for out in outputs if out is not None and silent is not None]
    # behind a hidden matrix may stand more than a multiplier: an activation, an attention
    if reads is not None and (end.role == "input" or (own and _along(reads[0], own[0]))):
        behind = _proportion(*reads, plain)
        if behind is not None:
            return behind
    if not own or not end.alone:
        return 1.0
    return _proportion(own[0], own[1], plain) or 1.0


def _plain_sum(p: Tensor, end: End, call: Call, z: Tensor, x: float) -> float:
    """RMS of what z alone makes of the input, which is exact for a matrix, and that of independent terms else."""
    if p.ndim == 1:
        return _rms(z)
    if end.shape == "embedding":
        read = call.x is not None and call.x.dtype in (torch.long, torch.int) and int(call.x.max()) < len(z)
        return _rms(z[call.x]) if read else _rms(z)
    if call.x is not None and p.ndim == 2 and call.x.is_floating_point():
        for matrix, sums in ((z, (0,)), (z.T, (1,))):
            if call.x.shape[-1] == len(matrix) and end.sums in (sums, None):
                return _rms(call.x.double() @ matrix)
    return math.sqrt(_terms(p, end)) * x * _rms(z)


def _terms(p: Tensor, end: End) -> float:
    """How many each of its outputs sums; of a matrix of unknown orientation, that of a square one."""
    if end.sums is not None:
        return math.prod(p.shape[d] for d in end.sums)
    growing = [p.shape[d] for d in end.grows]
    return 1 if end.role == "input" else math.prod(growing) ** (1 / max(1, len(growing)))


def _proportion(one: Tensor, two: Tensor, unit: float) -> float | None:
    """`one` in units, if `two` is twice as large."""
    size = _rms(one)
    if size == 0 or unit == 0 or not math.isclose(_rms(two), 2 * size, rel_tol=0.05):
        return None
    return size / unit


Calls = Mapping[str, Call]


def _reads(end: End, one: Calls, two: Calls, none: Calls) -> tuple[Tensor, Tensor] | None:
    """What the next module that reads an end's output gets of the tensor once and twice as large."""
    names = list(none)
    later = names[names.index(end.owner) + 1 :] if end.owner in none and end.shape != "raw" else names
    for name in later:
        a, b, c = (calls[name].x if name in calls else None for calls in (one, two, none))
        if a is None or b is None or c is None or not c.is_floating_point() or not a.shape == b.shape == c.shape:
            continue
        if _differ(a, c):
            return (a - c).double(), (b - c).double()
    return None


def _updates(
    values: Values, passes: Passes, end: End, ends: Sequence[End], first: Pass, last: Pass, start: Mapping[str, Tensor]
) -> None:
    now, before = last.calls.get(end.owner), first.calls.get(end.owner)
    if now is None or before is None:
        return
    reference = {end.tensor: start[end.tensor]}
    after, with_start = passes.replay(end.owner, now, {}), passes.replay(end.owner, now, reference)
    if after is None or with_start is None:
        return
    if end.role == "output":  # what stands behind the readout counts
        pinned = _others(end, last, ends)
        values["effective", end.label] = _rms(last.logits.double() - passes.run(reference, pinned).logits)
    else:
        values["effective", end.label] = _rms(after - with_start)
    if now.x is None or before.x is None or now.x.shape != before.x.shape or not now.x.is_floating_point():
        return
    at_start = passes.replay(end.owner, before, reference)
    if at_start is not None and at_start.shape == with_start.shape:
        values["propagating", end.label] = _rms(with_start - at_start)
