"""Rows of a batch that ask the same question are answered once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, TokenPredictor, positions_of


def shared(predictor: TokenPredictor) -> TokenPredictor:
    """`predictor`, which sees one of the rows of a batch that are equal in all that it is asked; a condition is (B, P)."""

    def predict(query: Query) -> Categorical:
        x_t, t, at, condition = query.x_t, query.t, query.at, query.condition
        asked = torch.ones_like(x_t, dtype=torch.bool)
        if at is not None:
            asked = torch.zeros_like(asked).index_put(at, torch.ones_like(at[0], dtype=torch.bool))
        said = [condition.double()] if isinstance(condition, Tensor) else []
        key = torch.cat([x_t.double(), t.double(), asked.double(), *said], 1)
        kinds, kind = key.unique(dim=0, return_inverse=True)
        row = torch.arange(len(key), device=key.device)
        first = torch.full((len(kinds),), len(key), device=key.device).scatter_reduce(0, kind, row, "amin")
        some = condition[first] if said else condition
        base = predictor(
            replace(query, x_t=x_t[first], t=t[first], at=positions_of(asked[first]), condition=some)
        ).by_token()
        at, size = positions_of(asked), asked.sum(-1)
        begin, before = size[first].cumsum(0) - size[first], size.cumsum(0) - size
        place = begin[kind[at[0]]] + torch.arange(len(at[0]), device=key.device) - before[at[0]]
        return Categorical(lambda index: base.read(place[index]), at, x_t)

    return predict
