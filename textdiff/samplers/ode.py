"""The probability-flow ODE: likelihood, inversion, interpolation (Song et al., 2021; Grathwohl et al., FFJORD, 2019; method §4).

    ẋ = ᾱ′ x̂0 + β̄′ ε̂,    ε̂ = (x − ᾱ x̂0)/β̄,    score ∇ log p_t = −ε̂/β̄                                                (1)

carries the law of x_t from level to level.  With the angle θ = atan2(β̄, ᾱ), the radius r and z = x/r it reads

    dz/dθ = (z cos θ − x̂0)/sin θ                                                                                     (2)

for every schedule: β̄′ may be infinite at level 0, ᾱ may be 0 at level 1, and a schedule made of a table has kinks, and
(2) knows none of that.  So (2) is what is solved, and

    log p(x0) = log N(z_1; 0, 1) + ∫ Σ_k ∂(dz_k/dθ)/∂z_k dθ                                                           (3)

from a first level above 0, where z is x0 itself, to level 1, where z has the law of `Gaussian.prior`.  Hutchinson's estimate of
the sum is u·∂(u·dz/dθ)/∂z with E uuᵀ = 1: ±1 with equal odds, or normal.  Needs scipy, the extra `ode`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Bins, Process, Query, State, Step, spread
from textdiff.core.errors import AskedError
from textdiff.core.loop import sample
from textdiff.core.predictions import Normal, ValuePredictor, noise_of
from textdiff.core.rng import Rng
from textdiff.core.schedules import Schedule, slopes
from textdiff.samplers.ancestral import improved

FIRST = 1e-3  # level that stands for 0, where (2) cannot be evaluated: the lowest that networks are trained at


def score(prediction: Normal, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """∇ log p_t(x_t), like x_t."""
    _, beta = schedule(t)
    return -noise_of(prediction, x_t, t, schedule) / spread(beta, x_t).to(x_t.dtype)


def velocity(prediction: Normal, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """ẋ of (1), like x_t."""
    da, db = (spread(slope, x_t).to(x_t.dtype) for slope in slopes(schedule, t))
    return da * prediction.mean + db * noise_of(prediction, x_t, t, schedule)


def angle(schedule: Schedule, t: float) -> float:
    """θ at a level; it rises with the level."""
    alpha, beta = schedule(torch.tensor(t, dtype=torch.float64))
    return math.atan2(beta.item(), alpha.item())


def level_at(schedule: Schedule, theta: float) -> float:
    """The level at which θ is reached, to 1e-12: the search divides an interval into 1000 parts, four times over."""
    low, high = 0.0, 1.0
    for _ in range(4):
        grid = torch.linspace(low, high, 1001, dtype=torch.float64)
        alpha, beta = schedule(grid)
        k = min(max(int(torch.searchsorted(torch.atan2(beta, alpha), theta)), 1), 1000)
        low, high = grid[k - 1].item(), grid[k].item()
    return high


def log_likelihood(
    x0: Tensor,
    predictor: ValuePredictor,
    schedule: Schedule,
    *,
    seeds: Tensor,
    probes: int | None = 1,
    normal: bool = False,
    condition: Any = None,
    first: float = FIRST,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    rows: int = 64,
) -> Tensor:
    """log p(x0) of a density by (3), nats per example, (B,) float64, for a predictor of Normal predictions.

    x0 (B, …), seeds (B,).  `probes` for each example, ±1 or `normal`; None takes the exact sum, one backward pass a
    coordinate.  `rows` examples share their steps, so that an example's value hangs on the others within the tolerances.
    """
    try:
        from scipy.integrate import solve_ivp
    except ImportError:
        raise AskedError("the ODE's likelihood needs scipy, which is not here; pip install 'textdiff[ode]'") from None
    if probes is not None and probes < 1:
        raise AskedError(f"probes is {probes}; it must be at least 1, or None for the exact divergence")
    start, end = angle(schedule, first), angle(schedule, 1.0)
    result = []
    for piece in torch.arange(len(x0), device=x0.device).split(rows):
        x, of_piece = x0[piece], condition[piece] if isinstance(condition, Tensor) else condition
        size, count = x[0].numel(), len(x)
        directions = _probes(x, seeds[piece], probes, normal)

        def slope(
            theta: float, y: Any, x: Tensor = x, condition: Any = of_piece, directions: Tensor = directions
        ) -> Any:
            z = torch.as_tensor(y[: x.numel()], device=x.device).view_as(x)
            dz, divergence = _turn(predictor, schedule, theta, z.to(x.dtype), condition, directions)
            return torch.cat([dz.double().flatten(), divergence.double()]).cpu().numpy()

        y = torch.cat([x.double().flatten(), torch.zeros(count, dtype=torch.float64, device=x.device)]).cpu().numpy()
        solved = solve_ivp(slope, (start, end), y, rtol=rtol, atol=atol, t_eval=[end])
        if not solved.success:
            raise RuntimeError(f"the probability-flow ODE was not solved: {solved.message}")
        last = torch.as_tensor(solved.y[:, -1], device=x.device)
        z, gained = last[: count * size].view(count, size), last[count * size :]
        result.append(gained - 0.5 * (z.square().sum(-1) + size * math.log(2 * math.pi)))
    return torch.cat(result)


def _probes(x: Tensor, seeds: Tensor, probes: int | None, normal: bool) -> Tensor:
    """Directions u, (K, B, …); the unit vectors where `probes` is None."""
    if probes is None:
        basis = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).view(-1, 1, *x.shape[1:])
        return basis.expand(-1, *x.shape)
    drawn = Rng(seeds, device=x.device).normal(probes, *x.shape[1:]).to(x.dtype).transpose(0, 1)
    return (drawn if normal else drawn.sign()) / float(probes**0.5)


def _turn(
    predictor: ValuePredictor, schedule: Schedule, theta: float, z: Tensor, condition: Any, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """dz/dθ of (2), like z, and Σ u·∂(u·dz/dθ)/∂z over `directions` (K, B, …), (B,)."""
    level = level_at(schedule, theta)
    with torch.inference_mode(False), torch.enable_grad():
        z = z.clone().requires_grad_()
        t = torch.full((len(z),) + (1,) * (z.ndim - 1), level, dtype=torch.float64, device=z.device)
        radius = torch.hypot(*(spread(rate, z).to(z.dtype) for rate in schedule(t)))
        said = condition.clone() if isinstance(condition, Tensor) else condition  # inference tensors are not saved
        mean = predictor(Query(radius * z, t, condition=said)).mean
        dz = (math.cos(theta) * z - mean) / math.sin(theta)
        divergence = torch.zeros(len(z), dtype=z.dtype, device=z.device)
        for u in directions.clone():
            (back,) = torch.autograd.grad(dz, z, u, retain_graph=True)
            divergence = divergence + (back * u).flatten(1).sum(-1)
    return dz.detach(), divergence


def dequantised(x0: Tensor, bins: Bins, *, seeds: Tensor) -> Tensor:
    """x0 spread evenly over its bins: its −E log p, less the logarithm of the bins' widths, bounds −log P(x0) from above."""
    return x0 + bins.width * (Rng(seeds, device=x0.device).uniform(*x0.shape[1:]) - 0.5).to(x0.dtype)


def bin_nats(log_density: Tensor, dimensions: int, bins: Bins) -> Tensor:
    """Nats of data in bins from the log-density of dequantised data (B,): −log p − d log width; for `bits_per_dimension`."""
    return -log_density - dimensions * math.log(bins.width)


@torch.no_grad()
def invert(
    x0: Tensor,
    levels: Iterable[float],
    *,
    predictor: ValuePredictor,
    process: Process,
    step: Step | None = None,
    condition: Any = None,
    first: float = FIRST,
) -> Tensor:
    """x_t at the last of the rising `levels`, from which the same step leads back to x0: the sampling loop, run upwards.

    Nothing is drawn: `step` is the improved one (DDIM) or another without fresh noise, such as heun().
    """
    free = torch.ones(x0.shape, dtype=torch.bool, device=x0.device)
    state: State
    *_, state = sample(
        x0,
        free,
        levels,
        step or improved(),
        predictor=predictor,
        process=process,
        rng=Rng(torch.zeros(len(x0), dtype=torch.long), device=x0.device),
        condition=condition,
        start=x0,
        level=first,
    )
    return state.x


def interpolate(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Points on the great circle from a to b (B, …), one for each of `weights` (W,), (W, B, …): 0 gives a, 1 gives b.

    For noise, or inverted data: the straight line would lead through points of too little noise.
    """
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=-1).clamp(-1, 1)
    omega = cosine.acos()[None, :, None]  # (1, B, 1)
    w = weights.double()[:, None, None]
    arc = omega.sin()
    apart = arc > 1e-6
    safe = torch.where(apart, arc, 1.0)
    of_a = torch.where(apart, ((1 - w) * omega).sin() / safe, 1 - w)
    of_b = torch.where(apart, (w * omega).sin() / safe, w)
    return (of_a * flat_a + of_b * flat_b).to(a.dtype).view(len(weights), *a.shape)
