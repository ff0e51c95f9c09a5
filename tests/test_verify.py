"""The verifier holds what the tables claim, and catches what is broken."""

from __future__ import annotations

import broken
import pytest
import torch

from textdiff.core.resolve import attribute
from textdiff.core.rng import Rng
from textdiff.processes import TOKENS
from textdiff.samplers import SAMPLERS
from textdiff.verify.tokens import Space, check, corrupted_law, enumerate_draws, verify

SMALL = Space.random(2, 3, seed=5)


@pytest.fixture(scope="module")
def rows():
    return list(verify())


def test_every_line_of_the_tables_is_checked_and_holds(rows):
    pairs = {(row.sampler, row.process) for row in rows}
    in_form = {("improved", "mask, in form"), ("confidence", "mask, in form")}
    assert pairs == {(s, p) for s, entry in SAMPLERS.items() for p in entry.processes if p in TOKENS} | in_form
    assert [row for row in rows if not row.ok] == []
    claimed = {(row.sampler, row.process) for row in rows if row.claim == "exact"}
    assert claimed == {(s, p) for s, entry in SAMPLERS.items() for p in entry.exact}


def test_what_is_called_approximate_is(rows):
    """But for entropy-bounded steps, which with a tight bound on a small space go one position at a time."""
    for row in rows:
        if row.claim == "approximate" and row.sampler != "entropy-bounded":
            assert row.total_variation > 1e-3, row


def test_the_shipped_prior_costs_something_for_replacement_alone(rows):
    for row in rows:
        if row.claim == "exact":
            assert (row.shipped_prior > 1e-4) == (row.process == "replacement")


def test_the_mask_bound_is_tight_and_the_others_are_bounds(rows):
    for row in rows:
        if row.process == "mask":
            assert abs(row.excess) < 1e-9
        elif row.process in ("redraw", "mask, in form"):
            assert row.excess is None
        else:
            assert row.excess > 0


def test_forwards_are_what_the_table_of_samplers_says(rows):
    for row in rows:
        if SAMPLERS[row.sampler].cost == "1 a step":
            assert row.forwards <= row.steps + 1e-9
            if row.sampler in ("improved", "edit", "confidence"):
                assert abs(row.forwards - row.steps) < 1e-9


EXACT = [(s, p) for s, entry in SAMPLERS.items() for p in entry.exact]


@pytest.mark.parametrize(("sampler", "process"), EXACT)
@pytest.mark.parametrize("seed", [11, 12])
def test_exact_samplers_are_exact_on_other_laws_too(sampler, process, seed):
    for space in (Space.random(2, 4, seed), Space.random(3, 2, seed + 10, concentration=0.2)):
        row = check(space, process, sampler)
        assert row.total_variation < 1e-6 and row.ok


@pytest.mark.parametrize("gamma", [0.0, 1e-9])
def test_entropy_bounded_is_exact_at_gamma_0(gamma):
    step = attribute(SAMPLERS["entropy-bounded"].path)(gamma)
    assert check(Space.random(3, 3, seed=3), "mask", "entropy-bounded", step=step, claim="exact").ok


def test_entropy_bounded_pays_for_its_speed():
    step = attribute(SAMPLERS["entropy-bounded"].path)(10.0)
    row = check(Space.random(3, 3, seed=3), "mask", "entropy-bounded", step=step)
    assert row.forwards == pytest.approx(1) and row.total_variation > 0.05


# -- what is broken is caught -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "process"),
    [
        ("low_confidence", "mask"),
        ("greedy", "mask"),
        ("one_short", "mask"),
        ("forgets_given", "mask"),
        ("leaves_masks", "mask"),
        ("wrong_level", "mask"),
        ("wrong_level", "replacement"),
        ("shaped_by_level", "mask"),
    ],
)
def test_a_broken_sampler_that_claims_to_be_exact_is_caught(sampler, process):
    like = "gibbs" if sampler == "wrong_level" else "improved"
    row = check(Space.random(3, 3), process, like, step=getattr(broken, sampler)(), claim="exact")
    assert not row.ok


@pytest.mark.parametrize(
    ("sampler", "process"),
    [("plug_in", "uniform"), ("greedy", "mask"), ("greedy", "replacement"), ("greedy", "uniform")]
    + [("one_short", "mask"), ("leaves_masks", "mask"), ("shaped_by_level", "mask")],
)
def test_a_broken_sampler_is_caught_on_one_position_whatever_it_claims(sampler, process):
    row = check(SMALL, process, "improved", step=getattr(broken, sampler)(), claim="approximate")
    assert not row.ok and row.one_position > 1e-3


@pytest.mark.parametrize(
    ("sampler", "process"), [("forgets_given", "mask"), ("forgets_given", "replacement"), ("forgets_given", "uniform")]
)
def test_a_sampler_that_forgets_a_given_token_is_caught_whatever_it_claims(sampler, process):
    row = check(SMALL, process, "improved", step=getattr(broken, sampler)(), claim="approximate")
    assert not row.ok and row.astray > 1e-3


@pytest.mark.parametrize("sampler", ["one_short", "leaves_masks"])
def test_a_mask_that_is_left_is_caught_whatever_is_claimed(sampler):
    row = check(SMALL, "mask", "improved", step=getattr(broken, sampler)(), claim="approximate")
    assert not row.ok and row.astray == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("process", "sampler"), [("broken:SameToken", "edit"), ("broken:OffByOne", "improved"), ("broken:OffByOne", "edit")]
)
def test_a_broken_process_is_caught(process, sampler):
    rows = list(verify(process=process, sampler=sampler, claim="exact"))
    assert rows and not any(row.ok for row in rows)


# -- a user's own -------------------------------------------------------------------------------------------------------


def test_a_users_own_sampler_is_checked_by_its_path():
    rows = list(verify(sampler="textdiff.samplers.order:margin", process="mask", claim="exact"))
    assert [row.process for row in rows] == ["mask"] and rows[0].ok
    assert not any(row.ok for row in verify(sampler="broken:greedy", process="mask"))


def test_a_users_own_process_is_checked_with_the_samplers_it_fits():
    rows = list(verify(process="broken:Own"))
    assert {row.sampler for row in rows} == {s for s, entry in SAMPLERS.items() if "mask" in entry.processes}
    assert all(row.ok for row in rows)
    exact = {row.sampler: row.total_variation < 1e-9 for row in rows if row.steps >= 3}
    assert exact["improved"] and exact["gibbs"] and not exact["baseline"]


@pytest.mark.parametrize("path", ["broken:nothing", "no_such_module:x", "broken", "improvedd"])
def test_a_path_that_names_nothing_is_a_clear_error(path):
    with pytest.raises(ValueError, match="module:attribute"):
        list(verify(sampler=path, process="mask"))
    with pytest.raises(ValueError, match="module:attribute"):
        list(verify(process=path))


def test_a_draw_that_cannot_be_enumerated_says_so():
    with pytest.raises(ValueError, match="continuous draw"):
        check(SMALL, "mask", "improved", step=broken.continuous())


def test_a_draw_from_elsewhere_is_found_out():
    with pytest.raises(ValueError, match="torch's own generator"):
        check(SMALL, "mask", "improved", step=broken.global_generator())


def test_an_unknown_claim_is_refused():
    with pytest.raises(ValueError, match="approximate"):
        list(verify(claim="perfect"))


# -- the enumeration itself ---------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("process", TOKENS)
def test_the_law_of_corruption_is_a_law(process):
    from textdiff.verify.tokens import build

    law = corrupted_law(SMALL, build(process, SMALL), 0.5)
    assert torch.allclose(law[SMALL.support()].sum(-1), torch.ones(9, dtype=torch.float64))


def test_a_space_with_a_given_token_keeps_to_it():
    given = SMALL.given_first()
    assert given.n == 1 and given.entropy < SMALL.entropy
    assert (given.decode(given.support())[:, 0] == 0).all()
    assert abs(given.p0.sum().item() - 1) < 1e-12


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
