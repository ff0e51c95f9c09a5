"""What a process keeps for the next request is bounded, whatever it is asked."""

from __future__ import annotations

import multiprocessing
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import poem_model

from textdiff.core.errors import AskedError
from textdiff.pipeline.match.law import pattern_for
from textdiff.pipeline.text import TextPipeline
from textdiff.pipeline.writable import vocabulary
from textdiff.shaping.match import automaton as automata
from textdiff.shaping.match.automaton import Automaton, Spelling, automaton
from textdiff.shaping.match.expression import parse
from textdiff.shaping.match.kept import Kept, bytes_of
from textdiff.verse.forms import get_form
from textdiff.verse.prosody import Prosody
from textdiff.verse.tunes import pattern_of

FRESH = multiprocessing.get_context("forkserver")  # in which oneDNN has computed nothing yet


def memory() -> float:
    """Resident MB of this process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def growth_of_products(answers: Any) -> None:
    """What 300 numbers of rows of one product add to the memory that 100 others have taken."""
    from textdiff.networks.lean.products import packed

    torch.set_num_threads(1)
    with torch.inference_mode():
        product, x, before = packed(torch.ones(16, 16), None), torch.ones(400, 16), 0.0
        for rows in range(1, 401):
            product(x[:rows])
            before = memory() if rows == 100 else before
    answers.put(memory() - before)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how much memory a process has")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
def test_products_of_ever_new_shapes_take_no_more_memory_after_the_first_ones():
    answers = FRESH.SimpleQueue()
    process = FRESH.Process(target=growth_of_products, args=(answers,))
    process.start()
    grown = answers.get()
    process.join()
    assert grown < 40, "300 more would be 150 MB"


def test_what_strangers_ask_fills_no_cache_beyond_its_bound():
    pipe = TextPipeline.of(poem_model(form="wuyan-jueju"))
    model, form = pipe.model, get_form("五绝")
    for k in range(80):
        vocabulary(model).law(form, Prosody.parse("strict", rhyme=f"prefer:{k}"))
        plan, expression = pipe.plan(match=f".{{{k}}}.*\n.*"), parse(f".{{{k}}}.*")
        assert pattern_for(model, form, plan) is not None
        automaton(expression, frozenset("ab"))
        pattern_of(get_form(f"tune:{'中' * (k % 7 + 1)}，{'平' * (k // 7 % 7 + 1)}。"), True, False)
    assert len(vocabulary(model).laws) <= 64 and len(automata._AUTOMATA) <= 64
    assert pattern_of.cache_info().currsize <= 32


def test_of_large_values_fewer_are_kept_and_the_newest_always():
    kept = Kept[torch.Tensor](most=1000, count=5)
    for k in range(9):
        kept.get(k, lambda k=k: torch.zeros(50 if k < 8 else 5000, dtype=torch.int64))
        assert kept.bytes <= 1000 or len(kept) == 1
        assert kept.get(k, lambda: pytest.fail("it is kept")).ndim == 1
    assert len(kept) == 1
    for k in range(9):
        kept.get(-k, lambda: torch.zeros(1))
    assert len(kept) == 5


def test_a_text_that_an_automaton_reads_is_not_remembered():
    machine = automaton(parse("(ab)*"), frozenset("ab"))
    before = {name: bytes_of(value) for name, value in vars(machine).items()}
    for k in range(20):
        machine.matches("ab" * k)
    assert {name: bytes_of(value) for name, value in vars(machine).items()} == before


@pytest.mark.parametrize("write", [automata._automaton, lambda tree, letters: _tokens(tree, letters)])
def test_an_expression_that_tells_too_much_apart_is_refused_before_its_table_is_made(monkeypatch, write):
    monkeypatch.setattr(automata, "MOST_ENTRIES", 20)
    with pytest.raises(AskedError, match=r"too many tokens apart|states"):
        write(parse("a1|b2|c3|d4|e5|f6"), frozenset("abcdef123456"))


def _tokens(tree: Any, letters: frozenset[str]) -> Any:
    machine = Automaton(
        np.arange(30).reshape(10, 3) % 10, np.ones(10, dtype=bool), {c: k % 3 for k, c in enumerate(sorted(letters))}
    )
    return automata._tokens_in(machine, Spelling((tuple(sorted(letters)),)))
