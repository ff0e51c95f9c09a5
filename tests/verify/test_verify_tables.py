"""A line of a table is all that `verify` needs: what is added is checked, and what is wrong in it is noticed."""

from __future__ import annotations

import pytest

from textdiff.processes import PROCESSES
from textdiff.processes import Entry as Process
from textdiff.samplers import SAMPLERS
from textdiff.samplers import Entry as Sampler
from textdiff.verify import tokens, vectors
from textdiff.verify.spaces import Space
from textdiff.verify.walk import verify

COVERED = Process(
    path="toys:covered", summary="toy", needs=("mask_id",), data="tokens", first="improved", counts=True, masks=True
)
SQUARE = Process(path="toys:Square", summary="toy", needs=(), data="values", first="improved", bounded=False)
PLAIN = Sampler(path="toys:plain", summary="toy", cost="1 a step", exact_with=("masks",), converges=True)


@pytest.fixture
def added(monkeypatch):
    """Adds a line to a table for one test."""
    monkeypatch.setattr(vectors, "ROWS", 500)
    monkeypatch.setattr(tokens, "DEFAULT", Space.random(2, 3))

    def add(name, line):
        monkeypatch.setitem(PROCESSES if isinstance(line, Process) else SAMPLERS, name, line)

    return add


def test_a_process_of_tokens_that_is_added_is_checked_with_every_sampler_that_serves_it(added):
    added("covered", COVERED)
    rows = list(verify(process="covered"))
    assert {row.sampler for row in rows} == {s for s, line in SAMPLERS.items() if line.serves("covered")} > {"gibbs"}
    assert all(row.ok and row.excess == pytest.approx(0, abs=1e-9) for row in rows)
    assert {row.sampler for row in rows if row.claim == "exact"} > {"improved", "edit", "confidence"}


def test_a_process_of_values_that_is_added_is_checked_with_every_sampler_that_serves_it(added):
    added("square", SQUARE)
    rows = list(verify(process="square"))
    assert {row.sampler: row.claim for row in rows} == {"baseline": "approximate", "improved": "in limit"}
    assert all(row.ok and row.excess is None for row in rows)


def test_a_sampler_that_is_added_is_checked_with_every_process_that_it_serves(added):
    added("plain", PLAIN)
    listed: list = []
    next(verify(sampler="plain", progress=lambda work: listed.extend(work) or work))
    assert {row.args[0].process for row in listed} == {*PROCESSES}
    shown = ("mask", "gaussian", "cold")
    rows = [row() for row in listed if row.args[0].process in shown]
    assert all(row.ok for row in rows)
    claims = {row.process: row.claim for row in rows}
    assert claims["mask"] == "exact" and claims["gaussian"] == claims["cold"] == "in limit"


def test_everything_is_walked_when_nothing_is_named(added, monkeypatch):
    added("covered", COVERED)
    added("square", SQUARE)
    added("plain", PLAIN)
    listed = []
    next(iter(verify(progress=lambda work: listed.extend(work) or work)), None)
    asked = {(row.args[0].process, row.args[0].sampler) for row in listed}
    assert asked == {(p, s) for p in PROCESSES for s, line in SAMPLERS.items() if line.serves(p)}


@pytest.mark.parametrize(
    ("name", "line", "sampler"),
    [
        ("off", Process(path="broken:OffByOne", summary="toy", needs=("vocabulary",), data="tokens", first="improved",
                        counts=True, masks=True), "improved"),
        ("shrunk", Process(path="toys:Shrunk", summary="toy", needs=(), data="values", first="improved"), "improved"),
    ],
)  # fmt: skip
def test_a_wrong_process_that_is_added_is_noticed(added, name, line, sampler):
    added(name, line)
    rows = list(verify(process=name, sampler=sampler))
    assert rows and not any(row.ok for row in rows if row.process == name)


def test_a_wrong_sampler_that_is_added_is_noticed_with_every_kind_of_process(added):
    added("early", Sampler(path="toys:early", summary="toy", cost="1 a step"))
    for process in ("uniform", "gaussian", "cold", "embedding"):
        assert not any(row.ok for row in verify(process=process, sampler="early")), process
