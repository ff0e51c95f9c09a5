"""The replacement process: exactly m(t) positions carry another token (method §3).

`Replacement` draws a *different* token (V − 1 choices), so the noise can be read off (x0, x_t) and the draft is drawn with
exactly m differences from x_t.  `Redraw` draws from all V, its own included; the corrupted set is then open and `recover`
draws it from its posterior, a uniform superset of the differing positions.

The prior is uniform.  The exact law of x_1 avoids each position's own token, p(x_1,i = v) = (1 − p_i(v))/(V − 1), which
matters for tiny alphabets only; the bound pays for it with n·log(V/(V − 1)).

Bound of one reverse edit (m → m − 1), S the corrupted positions, P(i, v) the rule that picks position and token:

    KL = (1/m) Σ_{i∈S} [ −log m − log P(i, x0_i) ]                                                                   (1)
    marginal rule  P(i, v) = q_i(v) / Σ_j d_j,   d_j = 1 − q_j(x_t,j)                                                (2)
    count rule     P(i, v) = π_i/m · q_i(v)/d_i,   π_i = P(i differs | m differ)                                     (3)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from textdiff.core.bridges import reuse
from textdiff.core.contracts import Prediction, State
from textdiff.core.errors import AskedError
from textdiff.core.levels import count
from textdiff.core.predictions import CountConditioned, inclusion, log1mexp
from textdiff.core.rng import Rng
from textdiff.processes.ranks import ByRank, TokenNoise


def uniform_tokens(vocabulary: Tensor, where: Tensor, *, rng: Rng) -> Tensor:
    """A uniform token of `vocabulary` (V,) at `where` (B, L) bool, some token elsewhere, (B, L)."""
    return vocabulary[rng.integers(torch.where(where, len(vocabulary), 1))]


def other_tokens(vocabulary: Tensor, x: Tensor, where: Tensor, *, rng: Rng) -> Tensor:
    """At `where` (B, L) bool a uniform token of `vocabulary` (V,), sorted, that differs from x, some token elsewhere, (B, L)."""
    index = torch.searchsorted(vocabulary, x)
    inside = vocabulary[index.clamp(max=len(vocabulary) - 1)] == x
    drawn = rng.integers(torch.where(where, len(vocabulary) - inside.long(), 1))
    return vocabulary[drawn + (inside & (drawn >= index)).long()]


@dataclass(frozen=True, eq=False)
class Replacement(ByRank):
    """Exactly m(t) of a row's free positions carry a different token of `vocabulary` (V,), sorted ids."""

    vocabulary: Tensor
    rule: str = "marginal"  # the rule whose bound `bound` gives: marginal or count
    # What noise may be where not every token may stand everywhere: (x (B, L), where (B, L), *, rng, differ) -> (B, L).
    tokens: Callable[..., Tensor] | None = None

    bridge = reuse

    def prior(self, given: Tensor, free: Tensor, *, rng: Rng) -> Tensor:
        if self.tokens is not None:
            return self.tokens(given, free, rng=rng, differ=False)
        return torch.where(free, uniform_tokens(self.vocabulary, free, rng=rng), given)

    def noise(self, x0: Tensor, t: Tensor, *, rng: Rng) -> TokenNoise:
        rank = rng.ranks(t > 0)
        if self.tokens is not None:
            return TokenNoise(rank, self.tokens(x0, t > 0, rng=rng, differ=True))
        return TokenNoise(rank, other_tokens(self.vocabulary, x0, t > 0, rng=rng))

    def recover(self, x0: Tensor, x_t: Tensor, t: Tensor, *, rng: Rng) -> TokenNoise:
        return TokenNoise(rng.ranks(t > 0, first=x_t != x0), x_t)

    def sketch(self, x_t: Tensor) -> None:
        return None  # which positions were replaced shows only beside a draft

    def consistent(self, prediction: Prediction, state: State) -> CountConditioned:
        m = count(state.t, state.free)
        return CountConditioned(prediction.by_token(), state.x, m, m)

    def bound(self, prediction: Prediction, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        free = t > 0
        m = count(t, free)
        if not torch.equal(m, count(torch.where(free, s, 0.0), free) + 1):
            raise AskedError("the replacement bound is defined for steps of one position; pass levels one count apart")
        stay, right = prediction.by_token().log_prob(x_t, x0)
        if self.rule == "marginal":
            pick = right - torch.where(free, log1mexp(stay), -torch.inf).logsumexp(-1, keepdim=True)
        else:
            pick = inclusion(torch.where(free, stay, 0.0), m) - m.double().log()[:, None] + right - log1mexp(stay)
        pick = torch.where(right > -torch.inf, pick, -torch.inf)  # a token that cannot be, rather than −inf − (−inf)
        corrupted = free & (x_t != x0)
        excess = torch.where(corrupted, -pick - m.double().log()[:, None], 0.0)
        return excess.sum(-1) / m

    def prior_bound(self, x0: Tensor, free: Tensor) -> Tensor:
        size = len(self.vocabulary)
        return free.sum(-1) * torch.log(torch.tensor(size / (size - 1), dtype=torch.float64, device=x0.device))


@dataclass(frozen=True, eq=False)
class Redraw(ByRank):
    """Exactly m(t) of a row's free positions are redrawn from `vocabulary` (V,), perhaps to what they were."""

    vocabulary: Tensor

    bridge = reuse

    def prior(self, given: Tensor, free: Tensor, *, rng: Rng) -> Tensor:
        return torch.where(free, uniform_tokens(self.vocabulary, free, rng=rng), given)

    def noise(self, x0: Tensor, t: Tensor, *, rng: Rng) -> TokenNoise:
        return TokenNoise(rng.ranks(t > 0), uniform_tokens(self.vocabulary, t > 0, rng=rng))

    def recover(self, x0: Tensor, x_t: Tensor, t: Tensor, *, rng: Rng) -> TokenNoise:
        """The corrupted set S is a uniform one of size m that contains the differing positions, in random order."""
        free, differing = t > 0, x_t != x0
        unseen = rng.subset(free & ~differing, count(t, free) - differing.sum(-1))
        return TokenNoise(rng.ranks(free, first=differing | unseen), x_t)

    def sketch(self, x_t: Tensor) -> None:
        return None

    def consistent(self, prediction: Prediction, state: State) -> CountConditioned:
        m = count(state.t, state.free)
        return CountConditioned(prediction.by_token(), state.x, torch.zeros_like(m), m)

    def bound(self, prediction: Prediction, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        raise NotImplementedError("the redraw variant hides which positions it touched; use replacement's bound")

    def prior_bound(self, x0: Tensor, free: Tensor) -> Tensor:
        return torch.zeros(len(x0), device=x0.device)
