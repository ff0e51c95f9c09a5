"""Analytic variance: how far x0 may lie from the mean that a network predicts (Bao, Li, Zhu and Zhang, 2022; method §4).

For the exact predictor the posterior of x0 has, on average over coordinates and over x_t, the variance

    σ̄_t² = β̄_t²/ᾱ_t² · (1 − P_t),    P_t = E‖ε_θ(x_t, t)‖²/d                                                          (1)
          = E‖x0 − x̂0‖²/d                                                                                            (2)

which the data bound: with m² the data's variance per coordinate, averaged, no predictor need leave more than a linear one
would on isotropic data, λ²m²/(λ² + m²), λ = β̄/ᾱ (linear estimation and Jensen's inequality).  Between the levels of a
table the share of that bound is interpolated; for isotropic data it is 1 throughout.  For a predictor that is not exact
(1) is an estimate, and (2) what minimises the bound on −log p (Bao et al., "imperfect mean", 2022).  So use (2), by="error",
for every predictor that was trained, and where a likelihood is computed; use (1), by="power", which is the default, to draw as
the paper does, and for exact predictors.  On a law of two points, at t = .9, (1) gave .958 for a true .976, and (2) came closer.

P_t is estimated by 1 − E[‖ε‖² − ‖ε_θ‖²]/d over pairs of ±ε, ε the noise of x_t: what is subtracted from 1 is then no larger
than what (1) needs, where the sampling error of E‖ε_θ‖² itself would be multiplied by β̄²/ᾱ², up to 1e8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Query, spread
from textdiff.core.errors import AskedError
from textdiff.core.predictions import Normal, ValuePredictor
from textdiff.core.rng import Rng
from textdiff.core.schedules import Schedule


@dataclass(frozen=True)
class NoisePower:
    """What one pass over data says of a predictor, as plain numbers."""

    levels: tuple[float, ...]  # rising, in (0, 1]
    powers: tuple[float, ...]  # P_t of (1)
    errors: tuple[float, ...]  # (2), in the data's own unit squared
    deviation: float  # m, the data's own deviation per coordinate

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> NoisePower:
        known = {f.name for f in fields(cls)}
        if set(numbers) != known:
            raise AskedError(
                f"a table of noise power has {', '.join(sorted(numbers))}; expected {', '.join(sorted(known))}"
            )
        levels, powers, errors = (tuple(map(float, numbers[k])) for k in ("levels", "powers", "errors"))
        return cls(levels, powers, errors, float(numbers["deviation"]))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.no_grad()
def noise_power(
    predictor: ValuePredictor,
    schedule: Schedule,
    x0: Tensor,
    levels: Sequence[float],
    *,
    seeds: Tensor,
    condition: Any = None,
    rows: int = 256,
) -> NoisePower:
    """The table of (1) and (2) over data x0 (B, …) at `levels`; seeds (B,), `rows` examples at a time.

    Two forwards an example and level.  A level at which ᾱ is 0 tells nothing and is refused.
    """
    levels = sorted(float(level) for level in levels)
    alphas, betas = schedule(torch.tensor(levels, dtype=torch.float64))
    if not levels or levels[0] <= 0 or levels[-1] > 1 or not bool((alphas > 0).all()):
        raise AskedError(f"levels are {levels}; each must lie in (0, 1] and leave something of the data")
    size = x0.numel()
    cross, square = torch.zeros(2, len(levels), dtype=torch.float64)
    table = torch.stack([torch.tensor(levels, dtype=torch.float64), alphas, betas]).to(x0.device)
    ones = (1,) * (x0.ndim - 1)
    for some in torch.arange(len(levels)).split(max(1, rows // len(x0))):
        for piece in torch.arange(len(x0), device=x0.device).split(rows):
            x, level = x0[piece].repeat(len(some), *ones), some.repeat_interleave(len(piece))
            t, alpha, beta = (column[level].view(-1, *ones) for column in table)
            said = (
                condition[piece].repeat(len(some), *(1,) * (condition.ndim - 1))
                if isinstance(condition, Tensor)
                else condition
            )
            streams = [Rng(seeds[piece], stream=j, device=x.device) for j in some.tolist()]
            noise = torch.cat([rng.normal(*x.shape[1:]) for rng in streams]).to(x.dtype)
            signal, noised = alpha.to(x.dtype) * x, beta.to(x.dtype) * noise
            for sign in (1, -1):
                error = (x - predictor(Query(signal + sign * noised, t, condition=said)).mean).double()
                for total, of_value in ((cross, sign * noise * error), (square, error.square())):
                    total.index_add_(0, level, of_value.flatten(1).sum(-1).cpu() / (2 * size))
    ratio = alphas / betas  # ε − ε_θ = −(ᾱ/β̄)(x0 − x̂0)
    powers = 1 + 2 * ratio * cross + ratio.square() * square
    deviation = x0.double().var(0, correction=0).mean().sqrt()
    return NoisePower(tuple(levels), tuple(powers.tolist()), tuple(square.tolist()), deviation.item())


def posterior_deviation(
    table: NoisePower, schedule: Schedule, *, most: float | None = None, by: str = "power"
) -> Callable[[Tensor], Tensor]:
    """t -> σ̄_t, like t, between 0 and `most` (the deviation of the data by default); by "power" (1) or "error" (2)."""
    if by not in ("power", "error"):
        raise AskedError(f"by is {by!r}; expected power, as E‖ε_θ‖² says, or error, as the predictor's own error does")
    known = torch.tensor(table.levels, dtype=torch.float64)
    limit = table.deviation if most is None else most
    spare = max(table.deviation, 1e-12) ** 2

    def widest(t: Tensor) -> Tensor:
        """λ²m²/(λ² + m²)."""
        alpha, beta = schedule(t)
        return beta.square() * spare / (beta.square() + alpha.square() * spare)

    alpha, beta = schedule(known)
    left = torch.tensor(table.errors, dtype=torch.float64)
    if by == "power":
        left = (beta / alpha).square() * (1 - torch.tensor(table.powers, dtype=torch.float64)).clamp(min=0)
    shares = left / widest(known)

    def deviation(t: Tensor) -> Tensor:
        levels, share = known.to(t.device), shares.to(t.device)
        high = torch.searchsorted(levels, t.double().contiguous()).clamp(min=1).clamp(max=len(levels) - 1)
        low = (high - 1).clamp(min=0)
        gap = (levels[high] - levels[low]).clamp(min=1e-12)
        place = ((t - levels[low]) / gap).clamp(0, 1)
        between = share[low] + place * (share[high] - share[low])
        return (between * widest(t)).clamp(0, limit**2).sqrt()

    return deviation


def analytic(
    predictor: ValuePredictor,
    table: NoisePower,
    schedule: Schedule,
    *,
    most: float | None = None,
    last: float = 0.0,
    by: str = "power",
) -> ValuePredictor:
    """`predictor`, a Normal one, with the deviation of `posterior_deviation`.

    None at levels up to `last`, the level that the last step starts from (1/steps where steps are even): what is drawn
    there stays in the result.  A bound takes it at every level, last 0.
    """
    wide = posterior_deviation(table, schedule, most=most, by=by)

    def predict(query: Query) -> Normal:
        x_t, t = query.x_t, query.t
        prediction = predictor(query)
        deviation = torch.where(t > last + 1e-9, wide(t), 0.0)
        return replace(prediction, deviation=spread(deviation, x_t).to(prediction.mean.dtype))

    return predict
