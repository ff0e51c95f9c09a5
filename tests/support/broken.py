"""Samplers and processes that are wrong on purpose, in the ways the field gets them wrong.  `verify` must catch each one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from textdiff.core.contracts import Query
from textdiff.core.levels import alpha, count
from textdiff.core.predictions import Categorical, positions_of, predict
from textdiff.processes.mask import Mask
from textdiff.processes.ranks import ByRank, TokenNoise
from textdiff.processes.replacement import Replacement, uniform_tokens
from textdiff.samplers.ancestral import improved
from textdiff.samplers.edit import marginal


def _open(state, process):
    sketch = process.sketch(state.x)
    return state.free & (sketch < 0 if sketch is not None else True)


def low_confidence():
    """Draws every masked token and keeps those whose own probability came out highest."""

    def step(state, s, *, predictor, process, rng):
        masked = _open(state, process)
        prediction = predict(state, masked, predictor=predictor, process=process)
        draft = prediction.draw(rng=rng)
        sure = torch.where(masked, prediction.log_prob(draft)[0], -torch.inf)
        taken = count(state.t, state.free) - count(s, state.free)
        place = sure.argsort(-1, descending=True).argsort(-1)
        x = torch.where(masked & (place < taken[:, None]), draft, state.x)
        return replace(state, x=x, t=s, x0=draft, forwards=state.forwards + 1)

    return step


def greedy():
    """Takes the likeliest token where it should draw."""

    def step(state, s, *, predictor, process, rng):
        def sure(query):
            def peak(logits, *_):
                return torch.where(logits == logits.amax(-1, keepdim=True), 0.0, -torch.inf)

            return predictor(query).map(peak)

        return improved()(state, s, predictor=sure, process=process, rng=rng)

    return step


def plug_in():
    """Puts the mean of q into the posterior of the uniform process instead of averaging the posterior over q."""

    def step(state, s, *, predictor, process, rng):
        size = len(process.vocabulary)
        everywhere = positions_of(torch.ones_like(state.x, dtype=torch.bool))
        prediction = predictor(Query(state.x, state.t))
        q = prediction.logits().softmax(-1)[:, process.vocabulary].view(*state.x.shape, size)
        a_s, r = alpha(s)[..., None], (alpha(state.t) / alpha(s))[..., None]
        is_x = process.vocabulary == state.x[..., None]
        posterior = (r * is_x + (1 - r) / size) * (a_s * q + (1 - a_s) / size)
        x = Categorical.from_logits(posterior.log().flatten(0, 1), state.x, everywhere).draw(rng=rng)
        return replace(state, x=x, t=s, x0=x, forwards=state.forwards + 1)

    return step


def one_short():
    """Leaves one position more than it was told to."""

    def step(state, s, *, predictor, process, rng):
        n = state.free.sum(-1, keepdim=True)
        more = torch.where(state.free, torch.minimum(s + 1 / n, state.t), 0.0)
        return replace(improved()(state, more, predictor=predictor, process=process, rng=rng), t=s)

    return step


def forgets_given():
    """Draws a draft for the whole text and keeps it everywhere in the end, given or not."""

    def step(state, s, *, predictor, process, rng):
        after = improved()(state, s, predictor=predictor, process=process, rng=rng)
        if (s > 0).any():
            return after
        draft = predictor(Query(state.x, state.t)).draw(rng=rng)
        return replace(after, x=torch.where(state.free, after.x, draft))

    return step


def leaves_masks():
    """Stops one level early."""

    def step(state, s, *, predictor, process, rng):
        if (s > 0).any():
            return improved()(state, s, predictor=predictor, process=process, rng=rng)
        return replace(state, t=s)

    return step


def wrong_level():
    """A corrector that noises one position and says it noised all of them."""

    def step(state, s, *, predictor, process, rng):
        if (s > state.t).any():
            x = process.corrupt(state.x, s, process.noise(state.x, s, rng=rng))
            return replace(state, x=x, t=state.free.double())
        moves = marginal() if process.sketch(state.x) is None else improved()
        return moves(state, s, predictor=predictor, process=process, rng=rng)

    return step


def shaped_by_level():
    """Sharpens the prediction as the level falls, as a low-precision draw would."""

    def step(state, s, *, predictor, process, rng):
        def sharp(query):
            return predictor(query).map(lambda logits, *_: logits * 1.05)

        return improved()(state, s, predictor=sharp, process=process, rng=rng)

    return step


def global_generator():
    """Draws from torch's own generator."""

    def step(state, s, *, predictor, process, rng):
        after = improved()(state, s, predictor=predictor, process=process, rng=rng)
        return replace(after, x=torch.where(torch.rand(after.x.shape) < 2, after.x, state.x))

    return step


def continuous():
    """Draws by Gumbel noise."""

    def step(state, s, *, predictor, process, rng):
        masked = _open(state, process)
        predict(state, masked, predictor=predictor, process=process)
        gumbel = -(-rng.uniform(*state.x.shape[1:]).log()).log()
        return replace(state, x=(state.x + gumbel.long()), t=s)

    return step


@dataclass(frozen=True, eq=False)
class SameToken(ByRank):
    """Replacement that may redraw the same token, and does not know it."""

    vocabulary: torch.Tensor

    def __getattr__(self, name):
        return getattr(Replacement(self.vocabulary), name)

    def noise(self, x0, t, *, rng):
        return TokenNoise(rng.ranks(t > 0), uniform_tokens(self.vocabulary, t > 0, rng=rng))


@dataclass(frozen=True, eq=False)
class OffByOne:
    """A mask process that masks one position too few at every level but the first."""

    vocabulary: torch.Tensor

    def __getattr__(self, name):
        return getattr(Mask(len(self.vocabulary)), name)

    def noise(self, x0, t, *, rng):
        free = t > 0
        noise = Mask(len(self.vocabulary)).noise(x0, t, rng=rng)
        return TokenNoise(noise.rank + torch.where(t < 1, 1 / free.sum(-1, keepdim=True), 0.0), noise.token)


@dataclass(frozen=True, eq=False)
class Own:
    """A mask process of the user's own, and a right one."""

    vocabulary: torch.Tensor

    def __getattr__(self, name):
        return getattr(Mask(len(self.vocabulary)), name)
