"""Steps of second order: a draft from two looks, at x_t and at a point on the way (Karras et al., 2022; Zhou et al., 2023).

Every (ᾱ, β̄) has an angle θ = atan2(β̄, ᾱ) and a radius r.  With z = x/r, both the improved bridge (DDIM) and the
probability-flow ODE turn z,

    dz/dθ = v,    v = ε̂ cos θ − x̂0 sin θ,    z = x̂0 cos θ + ε̂ sin θ                                                  (1)

and DDIM is the solution for a draft x̂0 that stays as it is.  What remains is the change of the draft along the way, so
both methods here look again at (x_u, u), t > u ≥ s, where DDIM leads, and then go the whole way with

    x̂0 = x̂0(x_t, t) + c · (x̂0(x_u, u) − x̂0(x_t, t))                                                                  (2)

    heun    u = s,  c = sin θ_t/(2 sin θ_s cos²((θ_t − θ_s)/2)), the trapezoid rule for (1);  c = 0 where s = 0
    amed    u and c of each interval learned: by the mean value theorem a point u with c = 1 exists for each coordinate

In λ = β̄/ᾱ, the variable of Karras et al., the rule would be c = λ_t/(2λ_s), which has no bound where ᾱ_t is nearly 0, at
level 1 of flow and cosine; in θ nothing is singular.  Text is taken at its expected embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, ScheduledProcess, State, Step, scheduled, spread
from textdiff.core.errors import AskedError
from textdiff.core.loop import sample
from textdiff.core.predictions import predict
from textdiff.core.rng import Rng

Look = Callable[[ScheduledProcess, Tensor, Tensor], tuple[Tensor, Tensor]]  # (process, t, s) -> u and c of (2), like t


def two_looks(look: Look) -> Step:
    """A step by (2).  Two forwards for each row that moves, one where c is 0 throughout."""

    def step(state: State, s: Tensor, *, predictor: Predictor, process: Process, rng: Rng) -> State:
        encode = scheduled(process).encode
        moving = process.moves(state.t, s)
        if not moving.any():
            return replace(state, t=s)
        where = state.free & spread(moving, state.free)
        draft = predict(state, where, predictor=predictor, process=process).expect(encode)[0]
        u, c = look(scheduled(process), state.t, s)
        again = where & (c != 0)
        if again.any():
            x_u = process.bridge(draft, state.x, state.t, u, rng=rng)
            there = replace(state, x=x_u, t=u, x0=_decoded(process, draft, state))
            change = predict(there, again, predictor=predictor, process=process).expect(encode)[0] - draft
            draft = draft + torch.where(spread(again, draft), spread(c, draft).to(draft.dtype) * change, 0.0)
        x = process.bridge(draft, state.x, state.t, s, rng=rng)
        x = torch.where(spread(moving, x), x, state.x)
        forwards = state.forwards + where.flatten(1).any(-1) + again.flatten(1).any(-1)
        return replace(state, x=x, t=s, x0=_decoded(process, draft, state), forwards=forwards)

    return step


def _decoded(process: Process, draft: Tensor, state: State) -> Tensor:
    """The draft as data, like `given`."""
    x0 = process.decode(draft)
    return torch.where(spread(state.free, x0), x0, state.given)


def heun() -> Step:
    """The trapezoid rule, with one forward in the last step; levels may also rise (inversion)."""

    def look(process: ScheduledProcess, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        (a_t, b_t), (a_s, b_s) = process.schedule(t), process.schedule(s)
        here, there = torch.atan2(b_t, a_t), torch.atan2(b_s, a_s)
        c = here.sin() / (2 * there.sin() * ((here - there) / 2).cos().square())
        return s, torch.where(s > 0, c, 0.0)

    return two_looks(look)


def amed(table: Sequence[Sequence[float]]) -> Step:
    """Mean-value steps by the rows (t, s, u, c) of `table`, plain numbers such as `fit_amed` gives."""

    def look(process: ScheduledProcess, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.tensor(table, dtype=torch.float64, device=t.device).reshape(-1, 4)
        now, then = t.flatten(1).amax(-1), s.flatten(1).amax(-1)  # (B,)
        distance = (rows[:, 0] - now[:, None]).abs() + (rows[:, 1] - then[:, None]).abs()
        gap, row = distance.min(-1)
        lost = ((gap > 1e-6) & (now != then)).nonzero()[:, 0].tolist()
        if lost:
            t_, s_ = now[lost[0]].item(), then[lost[0]].item()
            raise AskedError(
                f"no row of the table leads from level {t_:g} to {s_:g}; walk the levels that it was fitted to"
            )
        u, c = (spread(rows[row, k], t).expand_as(t) for k in (2, 3))
        return torch.where(t > 0, u, 0.0), c

    return two_looks(look)


@torch.no_grad()
def fit_amed(
    given: Tensor,
    free: Tensor,
    levels: Sequence[float],
    *,
    predictor: Predictor,
    process: Process,
    rng: Rng,
    condition: Any = None,
    fine: int = 24,
    tries: int = 12,
    last: bool = True,
) -> list[list[float]]:
    """The table of `amed` for `levels` (from below 1 down to 0), one row (t, s, u, c) a step.

    A teacher walks each interval in `fine` steps of `heun`.  From where the pupil stands, each of `tries` points u of the
    interval is tried with the c that is best for it in least squares (x_s is affine in c), and the best pair goes into the table.
    Where `last` is False the last step has one forward, c = 0.
    """

    def walk(x: Tensor, t: float, to: Sequence[float], step: Step) -> Tensor:
        parts = {"predictor": predictor, "process": process, "rng": rng, "condition": condition}
        *_, end = sample(given, free, to, step, start=x, level=t, **parts)
        return end.x

    def pupil(x: Tensor, row: list[float]) -> Tensor:
        return walk(x, row[0], [row[1]], amed([row]))

    x, t, table = process.prior(given, free, rng=rng), 1.0, []
    aim = x
    for s in levels:
        aim = walk(aim, t, [t + (s - t) * k / fine for k in range(1, fine)] + [s], heun())
        best, x_s = [t, s, t, 0.0], pupil(x, [t, s, t, 0.0])
        if s > 0 or last:
            start, least = x_s, math.inf
            for k in range(tries):
                u = s + (t - s) * (k + (s <= 0)) / (tries + 1)  # level 0 itself has nothing to look at
                effect = pupil(x, [t, s, u, 1.0]) - start
                c = ((aim - start) * effect).sum() / effect.square().sum().clamp(min=1e-30)
                error = (start + c * effect - aim).square().sum().item()
                if error < least:
                    least, best, x_s = error, [t, s, u, c.item()], start + c * effect
        table.append(best)
        x, t = x_s, s
    return table
