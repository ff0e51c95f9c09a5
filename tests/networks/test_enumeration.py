"""The stand-in for chance that walks through every outcome: its draws have the laws of the real ones."""

from __future__ import annotations

import pytest
import torch

from textdiff.core.rng import Rng
from textdiff.verify.enumeration import enumerate_draws

FREE = torch.tensor([True, False, True, True])
WEIGHTS = torch.tensor([0.1, 0.0, 0.6, 0.3])


def code(x: torch.Tensor) -> torch.Tensor:
    return (x.long() * 5 ** torch.arange(x.shape[-1])).sum(-1)


DRAWS = {
    "ranks": lambda rng, n: code((rng.ranks(FREE.expand(n, -1)) * 3 - 0.5).clamp(max=4).round()),
    "ranks first": lambda rng, n: code(
        (rng.ranks(FREE.expand(n, -1), first=torch.tensor([False, True, True, True]).expand(n, -1)) * 3 - 0.5)
        .clamp(max=4)
        .round()
    ),
    "subset": lambda rng, n: code(rng.subset(FREE.expand(n, -1), torch.full((n,), 2))),
    "successive": lambda rng, n: code(
        rng.successive(
            lambda mask: WEIGHTS.log().expand(n, -1), torch.tensor([True] * 4).expand(n, -1), torch.full((n,), 2)
        )
    ),
    "bernoulli": lambda rng, n: code(rng.bernoulli(WEIGHTS.expand(n, -1))),
    "bernoulli, one a row": lambda rng, n: rng.bernoulli(WEIGHTS[2].expand(n)).long(),
    "integers": lambda rng, n: code(rng.integers(torch.tensor([1, 2, 3, 4]).expand(n, -1))),
    "categorical": lambda rng, n: rng.categorical(WEIGHTS.log().expand(n, -1)),
    "categorical at": lambda rng, n: code(
        rng.categorical(
            WEIGHTS.log().expand(2 * n, -1), at=(torch.arange(n).repeat_interleave(2), torch.tensor([1, 3]).repeat(n))
        ).view(n, 2)
    ),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_enumerated_draws_have_the_frequencies_of_real_ones(draw):
    """Two routes to one law: every outcome with its weight, and 20,000 rows of the generator that ships."""
    rows = 20_000
    _, outcome, weight = enumerate_draws(lambda items, rng: DRAWS[draw](rng, len(items)), torch.zeros(1), 4)
    law = torch.zeros(5**4, dtype=torch.float64).index_add_(0, outcome, weight)
    assert abs(law.sum().item() - 1) < 1e-12
    share = torch.bincount(DRAWS[draw](Rng(torch.arange(rows)), rows), minlength=5**4) / rows
    assert (share[law == 0] == 0).all()
    assert (abs(share - law) < 5 * (law * (1 - law) / rows).sqrt() + 1e-9).all()


def test_a_draw_for_some_rows_has_its_law_and_leaves_the_others_alone():
    logits = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()

    def f(items: torch.Tensor, rng: Rng) -> torch.Tensor:
        some = (items == 1).nonzero()[:, 0]
        drawn = torch.full_like(items, 9)
        drawn[some] = rng.rows(some).categorical(logits.expand(len(some), -1))
        return drawn

    index, outcome, weight = enumerate_draws(f, torch.tensor([0, 1]), 1)
    assert outcome[index == 0].tolist() == [9] and weight[index == 0].tolist() == [1.0]
    found = torch.zeros(3, dtype=torch.float64).index_add_(0, outcome[index == 1], weight[index == 1])
    assert torch.allclose(found, logits[0].exp())
