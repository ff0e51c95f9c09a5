"""What a prediction says of values that stand in bins: 17 grays, say, and nothing between them.

Where the noise is finer than the bins, x_t alone tells x0; a network trained on squares leaves an error of about the size of
the noise all the same, and its bound pays for it at each halving of the noise.  With μ the predicted mean and e its
deviation, the law of a value over the bins g is taken for

    q(g) ∝ exp(−(g − μ)²/2e²)                                                                                          (1)

and its mean and deviation take the place of μ and e where e is under half a bin.  Exact where values are independent and
uniform, μ = x_t/ᾱ, e = β̄/ᾱ; where e is wide, (1) knows less than μ does, since values are not uniform (most of a picture
is black), and e differs from place to place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from textdiff.core.contracts import Bins, Query, spread
from textdiff.core.predictions import Normal, ValuePredictor

LEAST = 1e-5  # of a deviation, in bins: 0 would say that nothing else is possible


def in_bins(
    predictor: ValuePredictor, bins: Bins, deviation: Callable[[Tensor], Tensor], finest: float = 0.5
) -> ValuePredictor:
    """`predictor` with the knowledge of where values stand; `deviation` is e of (1) by level, as `posterior_deviation` gives it.

    Where e is `finest` bins or more, the prediction keeps its mean and has the deviation e.
    Needs memory for as many numbers as there are bins at every value.
    """
    count = round((bins.high - bins.low) / bins.width) + 1

    def predict(query: Query) -> Normal:
        x_t, t = query.x_t, query.t
        prediction = predictor(query)
        known = bins.low + bins.width * torch.arange(count, dtype=torch.float64, device=x_t.device)
        centre = prediction.mean.double()
        wide = spread(deviation(t), x_t).double().clamp(min=LEAST * bins.width).expand_as(centre)
        law = (-0.5 * ((known - centre[..., None]) / wide[..., None]).square()).softmax(-1)  # (B, …, bins)
        mean = (law * known).sum(-1)
        around = (law * (known - mean[..., None]).square()).sum(-1).sqrt().clamp(min=LEAST * bins.width)
        fine, kind = wide < finest * bins.width, prediction.mean.dtype
        mean, around = torch.where(fine, mean, centre), torch.where(fine, around, wide)
        return replace(prediction, mean=mean.to(kind), deviation=around.to(kind))

    return predict
