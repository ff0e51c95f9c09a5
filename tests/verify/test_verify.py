"""The verifier holds what the tables claim, and catches what is broken."""

from __future__ import annotations

import functools
import inspect
import re
import subprocess
import sys
from pathlib import Path

import broken
import pytest
import torch

from textdiff import verify as package
from textdiff.core.resolve import attribute
from textdiff.processes import PROCESSES, TOKENS
from textdiff.processes.mask import Mask
from textdiff.samplers import SAMPLERS
from textdiff.verify.rows import Asked
from textdiff.verify.spaces import Space, corrupted_law
from textdiff.verify.tokens import DEFAULT, Setting, build
from textdiff.verify.tokens import check as checked
from textdiff.verify.walk import verify

SMALL = Space.random(2, 3, seed=5)
PAGE = (Path(__file__).parents[2] / "docs" / "frame.md").read_text(encoding="utf-8")


setting = functools.cache(Setting.of)


def check(space, process, sampler, *, step=None, claim=None, **options):
    return checked(Asked(process, sampler, options, step=step, claim=claim), setting(process, space))


KEPT = ("in form", "matching")  # what rows are held to, beside those of the tables


@pytest.fixture(scope="module")
def rows():
    return [row for process in TOKENS for row in verify(process=process)]


def by_pair(rows):
    """The rows of one position a step, by sampler, process and options."""
    return {(row.sampler, row.process, row.options): row for row in rows if row.steps >= 3}


def test_every_line_of_the_tables_is_checked_and_holds(rows):
    pairs = {(row.sampler, row.process) for row in rows}
    serving = {(s, p) for s, line in SAMPLERS.items() for p in TOKENS if line.serves(p)}
    kept = {(s, f"mask, {name}") for s in ("improved", "confidence", "margin", "entropy") for name in KEPT}
    kept |= {(s, f"ascending, {name}") for s in ("improved", "baseline") for name in KEPT}
    assert pairs == serving | kept | {("improved", "mask, in form, matching")}
    assert [row for row in rows if not row.ok] == []
    exact = {(row.sampler, row.process) for row in rows if row.claim == "exact"}
    assert exact == {(s, p) for s, line in SAMPLERS.items() for p in TOKENS if line.is_exact(p)}


def test_what_is_called_approximate_is(rows):
    """But for two that go one position at a time here: entropy-bounded steps, and masks of which one alone would be drawn anew."""
    for row in rows:
        if row.claim == "approximate" and not row.options.startswith(("gamma=", "share=0.2")):
            assert row.total_variation > 1e-3, row


# -- the figures that the documentation prints -------------------------------------------------------------------------------


def shown(figure: float, digits: int = 3) -> str:
    return f"{figure:.{digits}f}".removeprefix("0")


def cells() -> dict[tuple[str, str, str], str]:
    """The table of docs/frame.md: sampler, process and options (a share, if any) -> what is printed."""
    head, _, *lines = re.search(r"(\| sampler \| mask .*?\n)\n", PAGE, flags=re.S)[1].splitlines()
    names = [cell.strip() for cell in head.strip("|").split("|")]
    table = {}
    for line in lines:
        first, *row = [cell.strip() for cell in line.strip("|").split("|")]
        share = re.search(r"share (\.\d+)", first)
        for sampler in re.findall(r"`([a-z-]+)`", first):
            for name, cell in zip(names[1:], row, strict=True):
                if name in PROCESSES and cell:
                    table[sampler, name, f"share={float(share[1])}" if share else ""] = cell
    return table


def test_the_table_of_total_variations_prints_what_is_computed(rows):
    computed = {
        (sampler, process, options if options.startswith("share=") else ""): row
        for (sampler, process, options), row in by_pair(rows).items()
        if process in PROCESSES
    }
    table = cells()
    assert table.keys() == computed.keys()
    for key, cell in table.items():
        row = computed[key]
        if cell == "**exact**":
            assert row.claim == "exact" and row.total_variation < 1e-6, key
        elif cell == "exact at γ = 0":
            assert check(DEFAULT, "mask", "entropy-bounded", gamma=0.0).total_variation < 1e-6
        else:
            assert shown(row.total_variation) == cell, key
    default = SAMPLERS["refresh"]
    assert re.search(r"`refresh`, share (\.\d+) \(the default\)", PAGE)[1] == shown(
        inspect.signature(attribute(default.path)).parameters["share"].default, 1
    )


def test_the_bounds_and_the_cost_of_the_prior_are_printed_as_computed(rows):
    row = {(sampler, process): row for (sampler, process, _), row in by_pair(rows).items()}
    said = re.search(r"costs `edit` (\S+),", PAGE)[1]
    assert said == shown(row["edit", "replacement"].shipped_prior)
    mask, marginal, count = re.search(
        r"mask (\S+), ascending 0,\s+replacement (\S+) nats by the marginal rule and (\S+) by the count rule", PAGE
    ).groups()
    assert mask == "0" and abs(row["improved", "mask"].excess) < 1e-9
    assert marginal == shown(row["edit", "replacement"].excess, 2)
    assert count == shown(row["edit-count", "replacement"].excess, 2)
    uniform, steps = re.search(r"uniform (\.\d+) at (\d+) steps", PAGE).groups()
    assert uniform == shown(row["improved", "uniform"].excess)
    assert int(steps) == build("uniform", SMALL).steps


# -- laws of the rows --------------------------------------------------------------------------------------------------------


def test_the_shipped_prior_costs_something_for_replacement_alone(rows):
    for row in rows:
        if row.claim == "exact":
            assert (row.shipped_prior > 1e-4) == (row.process == "replacement")


def test_the_mask_bound_is_tight_and_the_others_are_bounds(rows):
    for row in rows:
        if row.process in ("mask", "ascending"):
            assert abs(row.excess) < 1e-9
        elif row.process == "redraw" or row.process.endswith(KEPT):
            assert row.excess is None
        else:
            assert row.excess > 0


def test_forwards_are_what_the_table_of_samplers_says(rows):
    for row in rows:
        if SAMPLERS[row.sampler].cost == "1 a step":
            assert row.forwards <= row.steps + 1e-9
            if row.sampler in ("improved", "edit", "confidence"):
                assert abs(row.forwards - row.steps) < 1e-9


EXACT = [(s, p) for s, line in SAMPLERS.items() for p in TOKENS if line.is_exact(p)]


@pytest.mark.parametrize(("sampler", "process"), EXACT)
@pytest.mark.parametrize("seed", [11, pytest.param(12, marks=pytest.mark.slow)])
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
    row = check(DEFAULT, process, like, step=getattr(broken, sampler)(), claim="exact")
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
    assert rows and not any(row.ok for row in rows if row.process == process)


# -- a user's own -------------------------------------------------------------------------------------------------------


def test_a_users_own_sampler_is_checked_by_its_path():
    rows = list(verify(sampler="textdiff.samplers.order:margin", process="mask", claim="exact"))
    assert [row.process for row in rows] == ["mask"] and rows[0].ok
    assert not any(row.ok for row in verify(sampler="broken:greedy", process="mask"))


def test_a_users_own_process_is_checked_with_the_samplers_it_fits():
    rows = list(verify(process="broken:Own"))
    assert {row.sampler for row in rows} == {s for s, line in SAMPLERS.items() if line.serves("mask")}
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


# -- spaces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", TOKENS)
def test_the_law_of_corruption_is_a_law(process):
    law = corrupted_law(SMALL, build(process, SMALL), 0.5)
    assert torch.allclose(law[SMALL.support()].sum(-1), torch.ones(9, dtype=torch.float64))


def test_a_process_without_a_hash_has_its_law_too():
    class Plain(Mask):
        __hash__ = None  # type: ignore[assignment]  # as a dataclass that is not frozen

    mask = build("mask", SMALL)
    assert torch.equal(corrupted_law(SMALL, Plain(mask.mask_id), 0.5), corrupted_law(SMALL, mask, 0.5))


def test_a_space_with_a_given_token_keeps_to_it():
    given = SMALL.given_first()
    assert given.n == 1 and given.entropy < SMALL.entropy
    assert (given.decode(given.support())[:, 0] == 0).all()
    assert abs(given.p0.sum().item() - 1) < 1e-12


def test_the_package_offers_the_walk_and_its_parts_without_importing_them():
    assert package.verify is verify
    assert {getattr(package, name).__name__ for name in package.NAMES} == {*package.NAMES}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018
    code = "import sys, textdiff.verify; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
