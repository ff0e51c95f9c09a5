"""The tables of processes and samplers: what a line says is true, and a new line needs no edit elsewhere."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from tables import VOCABULARY, process_of, some_free, texts

from textdiff.core.contracts import Query
from textdiff.core.levels import count
from textdiff.core.resolve import attribute
from textdiff.core.rng import Rng
from textdiff.networks.tokenization import POEM_SPECIALS, SLOT_WORDS, TEXT_SPECIALS
from textdiff.processes import PROCESSES, TOKENS
from textdiff.processes import Entry as Process
from textdiff.samplers import SAMPLERS, serving

every_process = pytest.mark.parametrize("name", PROCESSES)
every_sampler = pytest.mark.parametrize("name", SAMPLERS)
every_process_of_tokens = pytest.mark.parametrize("name", TOKENS)


def corrupted(name, level=0.4):
    process, x0, free = process_of(name), texts(64, 9), some_free(64, 9)
    t = free.double() * level
    rng = Rng(range(64))
    return process, x0, process.corrupt(x0, t, process.noise(x0, t, rng=rng)), t, free


def a_process(**changes):
    """The line of somebody's own mask process."""
    return dataclasses.replace(PROCESSES["mask"], path="mine:Mine", **changes)


@every_sampler
def test_a_sampler_needs_and_is_exact_with_what_lines_of_processes_say(name):
    entry = SAMPLERS[name]
    offered = {f.name for f in dataclasses.fields(Process)} | {"edits", "any_order", "encodes", "degrades"}
    assert {*entry.needs, *(entry.exact_with or ())} <= offered
    assert set(entry.exact) <= set(entry.processes) != set()


@every_sampler
def test_the_options_of_a_sampler_are_arguments_with_defaults(name):
    parameters = inspect.signature(attribute(SAMPLERS[name].path)).parameters
    assert set(parameters) == set(SAMPLERS[name].options)
    assert all(p.default is not inspect.Parameter.empty for p in parameters.values())


@every_process
def test_the_first_sampler_of_a_process_serves_it(name):
    assert PROCESSES[name].first in serving(name)


@every_process
def test_a_process_is_built_with_what_its_line_needs(name):
    parameters = inspect.signature(attribute(PROCESSES[name].path)).parameters
    open_ = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert open_ or set(PROCESSES[name].needs) <= set(parameters)
    required = {
        p.name for p in parameters.values() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    assert required <= set(PROCESSES[name].needs)


@every_process_of_tokens
def test_a_process_counts_masks_and_replaces_as_its_line_says(name):
    entry, (process, x0, x_t, t, free) = PROCESSES[name], corrupted(name)
    differing = (x_t != x0).sum(-1)
    assert torch.equal(differing, count(t, free)) == (entry.counts and (entry.masks or entry.replaces))
    assert bool((differing <= count(t, free)).all()) == entry.counts
    assert (process.sketch(x_t) is not None) == entry.masks
    assert hasattr(process, "rule") == entry.ruled
    assert not entry.replaces or bool(torch.isin(x_t, VOCABULARY).all())


@every_process_of_tokens
def test_a_process_has_a_bound_where_its_line_says_so(name):
    from tables import Table

    process, x0, x_t, t, free = corrupted(name, level=0.5)
    n = free.sum(-1, keepdim=True)
    s = torch.where(free, (count(t, free)[:, None] - 1).clamp(min=0) / n, 0.0)
    moved = count(t, free) > 0
    asked = [a[moved] for a in (x0, x_t, t, s)]
    prediction = Table(9)(Query(asked[1], asked[2]))
    if PROCESSES[name].bounded:
        assert bool(process.bound(prediction, *asked).isfinite().all())
    else:
        with pytest.raises(NotImplementedError):
            process.bound(prediction, *asked)


def test_a_new_line_has_its_samplers_by_what_it_offers(monkeypatch):
    monkeypatch.setitem(PROCESSES, "mine", a_process())
    assert {name for name, entry in SAMPLERS.items() if "mine" in entry.processes} == set(serving("mask"))
    assert {name for name, entry in SAMPLERS.items() if "mine" in entry.exact} == {
        name for name, entry in SAMPLERS.items() if "mask" in entry.exact
    }
    monkeypatch.setitem(PROCESSES, "mine", a_process(masks=False, renews=False))
    assert serving("mine") == serving("uniform")


def test_the_vocabulary_of_poems_names_the_processes_that_are_told():
    assert SLOT_WORDS["process"] == ("mask", "replacement", "uniform")  # as in the packaged model
    assert len(POEM_SPECIALS) == 93
    assert TEXT_SPECIALS[:3] == ("[mask]", "[replacement]", "[uniform]") and len(TEXT_SPECIALS) == 68
