"""Networks that predict noise, data or a velocity, as predictors of q(x0 | x_t)  (method §4).

What comes out of the network is turned into the mean of x0 here and nowhere else:

    noise      x̂0 = (x_t − β̄ ε_θ)/ᾱ
    data       x̂0
    v          x̂0 = ᾱ x_t − β̄ v_θ,  v = ᾱ ε − β̄ x0                          variance-preserving schedules
    velocity   x̂0 = (β̄ u_θ − β̄′ x_t)/(ᾱ′ β̄ − β̄′ ᾱ),  u = ᾱ′ x0 + β̄′ ε       any schedule; flow: x_t − t·u
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from textdiff.core.contracts import Query, spread
from textdiff.core.errors import AskedError
from textdiff.core.predictions import Normal, ValuePredictor
from textdiff.core.resolve import unknown
from textdiff.core.schedules import Schedule, slopes

# (network's output, x_t, ᾱ, β̄, ᾱ′, β̄′) -> x̂0
OUTPUTS: dict[str, Callable[..., Tensor]] = {
    "noise": lambda out, x, a, b, da, db: (x - b * out) / a,
    "data": lambda out, x, a, b, da, db: out,
    "v": lambda out, x, a, b, da, db: a * x - b * out,
    "velocity": lambda out, x, a, b, da, db: (b * out - db * x) / (da * b - db * a),
}

# (x_t (B, …), level (B,), condition) -> like x_t
Network = Callable[[Tensor, Tensor, Any], Tensor]


def denoiser(
    network: Network, schedule: Schedule | None = None, output: str = "noise", power: int = 2
) -> ValuePredictor:
    """`network` as a predictor; it reads each row's highest level.  `schedule` may be missing for output "data"."""
    if output not in OUTPUTS:
        raise unknown("output", output, OUTPUTS)
    if schedule is None and output != "data":
        raise AskedError(f"output {output!r} is turned into data by a schedule, and there is none; pass one")

    def predict(query: Query) -> Normal:
        x_t, t, condition = query.x_t, query.t, query.condition
        level = t.flatten(1).amax(-1)  # (B,)
        out = network(x_t, level, condition)
        if schedule is None or output == "data":
            return Normal.point(out, power)
        rates = (spread(rate, x_t).to(x_t.dtype) for rate in (*schedule(level), *slopes(schedule, level)))
        return Normal.point(OUTPUTS[output](out, x_t, *rates), power)

    return predict
