"""The rows of processes that noise embedded tokens: Monte Carlo on texts of two positions, and quadrature on texts of one.

The posterior of a text is exact everywhere: p(x_t | x0) of each text is the Gaussian that the process's own `noise` and `corrupt`
give.  On texts of two positions the predictor gives the marginals alone, so that a chain comes to p(x0) only as its steps
grow in number.  On texts of one position, of two tokens, nothing is approximate; a sampler that follows the mean of the
embeddings is exact there only where the text is known.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.core.schedules import cosine, flow
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verify.normals import FINE, corrupted, expected_bound, moments
from textdiff.verify.rows import Asked, Row, construct
from textdiff.verify.spaces import Space, total_variation
from textdiff.verify.tokens import sampler_line
from textdiff.verify.values import STEPS, moved, run, with_steps

ROWS = 10_000  # texts of the Monte Carlo
TWO = Space.random(2, 3, seed=1)
ONE = Space.random(1, 2, seed=2)
TABLE = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.3, -0.9]], dtype=torch.float64)
SIGNED = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)


def posterior(process: Process, space: Space) -> Predictor:
    """The marginals of p(x0 | x_t) for embedded texts of `space`, by Bayes' rule over all of them."""
    items = space.support()
    texts = space.decode(items)  # (N, L)
    token = torch.nn.functional.one_hot(texts, space.size).double()  # (N, L, V)

    @functools.cache
    def whitened(level: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of p(x_t | x0): inverse roots (L·D, N·L·D) of the covariances, the means seen through them (N·L·D,), and log|root| (N,)."""

        def noised(x0: Tensor, rng: Rng) -> Tensor:
            return corrupted(process, x0.expand(len(rng.keys), -1), level, rng)

        of = [moments(functools.partial(noised, x0)) for x0 in texts]
        root = torch.linalg.cholesky(torch.stack([law.covariance for law in of]))
        inverse = torch.linalg.inv(root)
        centre = (inverse @ torch.stack([law.mean for law in of])[..., None]).flatten()
        return inverse.flatten(0, 1).T, centre, root.diagonal(dim1=1, dim2=2).log().sum(-1)

    def predict(query: Query) -> Categorical:
        x_t, t, at = query.x_t, query.t, query.at
        at = at if at is not None else positions_of(torch.ones(x_t.shape[:2], dtype=torch.bool))
        levels, q = t.amax(-1), torch.zeros(*x_t.shape[:2], space.size, dtype=torch.float64)
        for level in torch.unique(levels).tolist():
            here = levels == level
            inverse, centre, scale = whitened(level)
            white = (x_t[here].flatten(1) @ inverse - centre).view(-1, len(texts), len(inverse))  # (B, N, L·D)
            joint = space.p0[items].log() - white.square().sum(-1) / 2 - scale
            q[here] = torch.einsum("bn,nlv->blv", joint.softmax(-1), token)
        return Categorical.from_logits(q.log()[at], torch.zeros(x_t.shape[:2], dtype=torch.long), at)

    return predict


def only_token_2(query: Query) -> Categorical:
    """Sure of one token everywhere."""
    x_t = query.x_t
    logits = torch.tensor([-torch.inf, -torch.inf, 0.0]).expand(*x_t.shape[:2], 3)
    return Categorical.from_logits(logits, torch.zeros(x_t.shape[:2], dtype=torch.long))


@functools.cache
def made(name: str) -> tuple[Process, Predictor, Process, float | None]:
    """A process on texts of two positions with its predictor, on texts of one position, and there its bound minus the entropy."""
    process = construct(name, table=TABLE, vocabulary=torch.arange(3), schedule=cosine())
    # Under `flow` the prior is the exact law at level 1.
    small = with_steps(construct(name, table=SIGNED, vocabulary=torch.arange(2), schedule=flow()))
    items = ONE.support()
    try:
        bound = expected_bound(
            small, posterior(small, ONE), lambda item, _: ONE.decode(item), items, ONE.p0[items], FINE, 1
        )
    except NotImplementedError:
        return process, posterior(process, TWO), small, None
    return process, posterior(process, TWO), small, bound - ONE.entropy


def check(asked: Asked) -> Row:
    """One sampler with a process of embedded texts."""
    process, predictor, small, excess = made(asked.process)
    step, line = asked.built(), sampler_line(asked.sampler)

    def far(steps: int, exact: bool = True) -> tuple[float, float]:
        given = torch.zeros(ROWS, 2, dtype=torch.long)
        share = ((torch.arange(ROWS).double() + 0.5) / ROWS)[:, None]
        texts = TWO.decode((TWO.p0.cumsum(0) < share).sum(-1))
        rng = Rng(torch.arange(ROWS))
        x, forwards = run(process, step, steps, predictor, given, rng, (lambda _: texts) if exact else None)
        return total_variation(torch.bincount(TWO.code(x), minlength=len(TWO.p0)) / ROWS, TWO.p0), forwards

    one = ONE
    if line.by_mean:
        one = replace(one, p0=torch.zeros_like(one.p0).index_fill(0, torch.tensor([1]), 1.0))
    alone = posterior(small, one)

    def end(item: Tensor, rng: Rng) -> Tensor:
        return one.code(run(small, step, 2, alone, one.decode(item), rng)[0])

    _, outcome, weight = enumerate_draws(end, one.support()[:1], 1, FINE)
    law = torch.zeros_like(one.p0).index_add_(0, outcome, weight)
    steps = STEPS // 2
    claim = asked.claim or ("in limit" if line.converges else "approximate")
    whole, forwards = far(steps)
    return Row(
        space="V=3 L=2",
        process=asked.process,
        sampler=asked.sampler,
        options=asked.shown(),
        steps=steps,
        claim=claim,
        total_variation=whole,
        shipped_prior=far(steps, exact=False)[0],
        excess=excess,
        forwards=forwards,
        one_position=total_variation(law, one.p0),
        astray=moved(process, step, torch.zeros(4, 6, dtype=torch.long), only_token_2),
        finer=far(4 * steps)[0] if claim == "in limit" else None,
        noise=float((TWO.p0 * (1 - TWO.p0) / (2 * math.pi * ROWS)).sqrt().sum()),
    )


def work(
    process: str, samplers: Sequence[str], full: bool, claim: str | None, named: bool
) -> Iterator[Callable[[], Row]]:
    """The rows of a process with those of `samplers` that serve it."""
    for sampler in samplers:
        if sampler_line(sampler).serves(process):
            yield functools.partial(check, Asked(process, sampler, {}, claim=claim))
