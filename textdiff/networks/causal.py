"""A causal language model as a predictor that can only draw.

q(x0 | x_t) need not factorise for the baseline sampler (method §7): the draft is drawn from left to right,

    x̂0_i ~ p(· | x̂0_<i),   and x̂0_i is the known token where one is known                                          (1)

so known tokens act on what stands to their right alone.  There is no probability of a draft given what stands on both
sides, hence no `nll`, no `mode` and no bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Query
from textdiff.core.predictions import OnlyDrawn
from textdiff.core.rng import Rng


@dataclass(frozen=True)
class Autoregressive(OnlyDrawn):
    """The law (1) at `open_` (B, L) bool; the tokens of `known` (B, L) elsewhere."""

    next_logits: Callable[[Tensor], Tensor]  # (B, k) tokens so far, k ≥ 0 -> (B, V) logits of the next
    known: Tensor
    open_: Tensor

    def pin(self, x: Tensor, where: Tensor) -> Autoregressive:
        """The prediction with x (B, L) certain at `where` (B, L) bool."""
        return replace(self, known=torch.where(where, x, self.known), open_=self.open_ & ~where)

    def draw(self, *, rng: Rng) -> Tensor:
        """x̂0 by (1), (B, L); one forward for each position that is open in some row."""
        x = self.known
        for i in range(x.shape[1]):
            rows = self.open_[:, i].nonzero()[:, 0]
            # A position that is open in no row is drawn as well, for nobody: no row may notice what is open in others.
            logits = self.next_logits(x[rows, :i]) if len(rows) else torch.zeros(0, 1, device=x.device)
            place = torch.full_like(rows, i)
            x = x.index_put((rows, place), rng.categorical(logits, at=(rows, place)))
        return x


def causal_lm(model: Any, content: Tensor, start_id: int) -> Predictor:
    """The predictor of an `AutoModelForCausalLM`: text begins after `start_id`, and only `content` ids (C,) are drawn.

    For the mask and uniform processes; the counted replacement processes need marginals.  A draft is drawn whole, as its
    tokens hang on those to their left: `at` picks rows alone.  The level and the condition are not heard.
    """

    def next_logits(prefix: Tensor) -> Tensor:
        ids = torch.cat([prefix.new_full((len(prefix), 1), start_id), prefix], 1)
        logits: Tensor = model(input_ids=ids, logits_to_keep=1).logits[:, -1].float()
        allowed = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        allowed[content] = True
        return logits.masked_fill(~allowed, -torch.inf)

    def predict(query: Query) -> Autoregressive:
        x_t, at = query.x_t, query.at
        open_ = torch.ones_like(x_t, dtype=torch.bool)
        if at is not None:
            open_ = torch.zeros_like(open_).index_fill(0, at[0].unique_consecutive(), True)
        return Autoregressive(next_logits, x_t, open_)

    return predict
