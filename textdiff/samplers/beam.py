"""The likeliest texts of a chain that writes its holes in a fixed order, one at a time.

A beam keeps the `width` likeliest beginnings.  Each has its exact probability, the product (1) of `likelihood`, and so have the texts
that are left at the end.  A text that the beam has lost is no likelier than the beginning of it that was left out:

    −log p(any other text) ≥ min over the beginnings left out of −log p(beginning)                                    (1)

so that those of the found texts which are likelier than that are the likeliest of all, for certain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.predictions import TokenPredictor, positions_of


@dataclass(frozen=True)
class Found:
    """Texts and −log p of each, the likeliest first."""

    ids: Tensor  # (W, L)
    nats: Tensor  # (W,) float64
    others: float  # (1): −log p of every other text is at least this; infinite where there is none


def likeliest(
    x: Tensor,
    holes: Tensor,
    *,
    predictor: TokenPredictor,
    width: int,
    condition: Callable[[int], Tensor | None] = lambda rows: None,
    written: Callable[[], object] = lambda: None,
) -> Found:
    """At most `width` texts of x (L,) with its `holes` (h,) written in the order in which they are named.

    x shows [MASK] there.  `condition` gives what the network is told, for so many rows.  `written` is called after each hole.
    """
    rows, nats, others = x[None], torch.zeros(1, dtype=torch.float64, device=x.device), torch.inf
    free = torch.zeros_like(x, dtype=torch.bool).index_fill(0, holes, True)
    for done, at in enumerate(holes.tolist()):
        here = torch.zeros_like(rows, dtype=torch.bool)
        here[:, at] = True
        t = (free.double() * (1 - done / len(holes))).expand(len(rows), -1)
        query = Query(rows, t, at=positions_of(here), condition=condition(len(rows)))
        log_q = predictor(query).by_token().logits().double().log_softmax(-1)  # (W, V)
        longer = (nats[:, None] - log_q).flatten()
        nats, place = longer.topk(min(width + 1, len(longer)), largest=False)
        if len(nats) > width:
            others = min(others, nats[-1].item())
        kept = nats[:width].isfinite()
        nats, place = nats[:width][kept], place[:width][kept]
        rows = rows[place // log_q.shape[1]]
        rows[:, at] = place % log_q.shape[1]
        written()
    return Found(rows, nats, others)
