"""The uniform process: independent positions, Markov (UDLM, SEDD-uniform; method §3).

    p(x_t = b | x0 = v) = α_t [b = v] + (1 − α_t)/V,      p(x_t = b | x_s = a) = r [a = b] + (1 − r)/V,   r = α_t/α_s   (1)

Its bridge is the usual posterior p(x_s = a | x_t = b, x0 = v) ∝ p(b | a) p(a | v).  Averaged over v ~ q it is

    p(a | b) = p(b | a) · [ α_s q(a)/p(b | a as x0) + (1 − α_s)/V · Z ],    Z = Σ_v q(v)/p(b | v)                       (2)

and *not* the posterior at the mean of q.  A step draws x̂0 first; the bound uses (2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from textdiff.core.contracts import Prediction, State
from textdiff.core.levels import alpha
from textdiff.core.rng import Rng
from textdiff.processes.replacement import uniform_tokens


@dataclass(frozen=True)
class FlagNoise:
    """ε at one level: which positions are redrawn, and to what."""

    flag: Tensor  # (B, L) bool
    token: Tensor  # (B, L)


@dataclass(frozen=True, eq=False)
class Uniform:
    """With probability 1 − α_t a token is redrawn from all of `vocabulary` (V,), its own value included."""

    vocabulary: Tensor
    steps: int = 64  # steps of the bound; more are tighter

    def prior(self, given: Tensor, free: Tensor, *, rng: Rng) -> Tensor:
        return torch.where(free, uniform_tokens(self.vocabulary, free, rng=rng), given)

    def noise(self, x0: Tensor, t: Tensor, *, rng: Rng) -> FlagNoise:
        return FlagNoise(rng.bernoulli(1 - alpha(t)), uniform_tokens(self.vocabulary, t > 0, rng=rng))

    def corrupt(self, x0: Tensor, t: Tensor, noise: FlagNoise) -> Tensor:
        return torch.where(noise.flag & (t > 0), noise.token, x0)

    def recover(self, x0: Tensor, x_t: Tensor, t: Tensor, *, rng: Rng) -> FlagNoise:
        """The flags given (x0, x_t), at level t alone: to go to another level use `bridge`."""
        size = len(self.vocabulary)
        redrawn = (1 - alpha(t)) / size
        same = redrawn / (alpha(t) + redrawn)
        return FlagNoise(rng.bernoulli(torch.where(x_t == x0, same, 1.0)), x_t)

    def renew(self, noise: FlagNoise, x0: Tensor, t: Tensor, share: float | Tensor, *, rng: Rng) -> FlagNoise:
        """The noise drawn anew at a `share` of the free positions; still of level t alone."""
        other, where = self.noise(x0, t, rng=rng), rng.bernoulli(torch.where(t > 0, share, 0.0))
        return FlagNoise(torch.where(where, other.flag, noise.flag), torch.where(where, other.token, noise.token))

    def decode(self, x: Tensor) -> Tensor:
        return x

    def sketch(self, x_t: Tensor) -> None:
        return None

    def consistent(self, prediction: Prediction, state: State) -> Prediction:
        return prediction

    def moves(self, t: Tensor, s: Tensor) -> Tensor:
        return (s < t).any(-1)

    def bridge(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, rng: Rng) -> Tensor:
        """x_s ~ p(x_s | x_t, x0), (B, L): x0's token, x_t's token, or a uniform one, in two stages."""
        size = len(self.vocabulary)
        a_s, r = alpha(s), alpha(t) / alpha(s).clamp(min=1e-300)
        # p(b | a) p(a | v) is a sum of four products: r·α_s needs a = b = v; the others leave x0, x_t or anyone.
        both = torch.where(x_t == x0, r * a_s, 0.0)
        keep_x0 = (1 - r) / size * a_s
        keep_xt = r * (1 - a_s) / size
        anyone = (1 - r) * (1 - a_s) / size
        weights = torch.stack([both + keep_x0, keep_xt, anyone], -1)
        rows, positions = torch.ones_like(x0, dtype=torch.bool).nonzero(as_tuple=True)
        which = rng.categorical(weights.log().flatten(0, 1), at=(rows, positions)).view_as(x0)
        drawn = uniform_tokens(self.vocabulary, (t > 0) & (which == 2), rng=rng)
        x = torch.where(which == 0, x0, torch.where(which == 1, x_t, drawn))
        return torch.where(t > 0, x, x0)

    def weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Every free position counts once."""
        return (t > 0).float()

    def bound_steps(self, n: Tensor) -> Tensor:
        return torch.full_like(n, self.steps)

    def bound(self, prediction: Prediction, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """KL of p(x_s | x_t, x0) to the mixture (2), summed over positions, (B,) nats."""
        size, vocabulary = len(self.vocabulary), self.vocabulary

        def kl(log_q: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
            q = log_q[:, vocabulary].double().exp()  # (n, V)
            b, v = x_t[rows, positions][:, None], x0[rows, positions][:, None]
            a_t, a_s = alpha(t[rows, positions])[:, None].double(), alpha(s[rows, positions])[:, None].double()
            r = a_t / a_s
            is_b, is_v = vocabulary == b, vocabulary == v
            to_b = torch.where(is_b, r, 0.0) + (1 - r) / size  # p(b | a)
            b_from = torch.where(is_b, a_t, 0.0) + (1 - a_t) / size  # p(b | x0 = a)
            z = (q / b_from).sum(-1, keepdim=True)
            mixture = to_b * (a_s * q / b_from + (1 - a_s) / size * z)
            truth = to_b * (torch.where(is_v, a_s, 0.0) + (1 - a_s) / size)
            truth = truth / (torch.where(b == v, a_t, 0.0) + (1 - a_t) / size)
            return torch.where(truth > 0, truth * (truth.log() - mixture.log()), 0.0).sum(-1)

        return prediction.by_token().statistic(kl).masked_fill(t == 0, 0.0).sum(-1)

    def prior_bound(self, x0: Tensor, free: Tensor) -> Tensor:
        """0: at level 1 every position is redrawn (α_1 = 0)."""
        return torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
