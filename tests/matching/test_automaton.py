"""Expressions and their automata, against Python's own `re`."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textdiff.core.errors import AskedError
from textdiff.shaping.match import automaton as automata
from textdiff.shaping.match.automaton import Spelling, automaton, tokens_in
from textdiff.shaping.match.expression import parse

ALPHABET = "ab春1 \n-]"
TEXTS = ["".join(text) for n in range(4) for text in itertools.product(ALPHABET, repeat=n)]
ATOMS = [
    "a",
    "b",
    "春",
    "1",
    ".",
    r"\d",
    r"\w",
    r"\s",
    r"\W",
    r"\n",
    r"\-",
    "[ab]",
    "[^a]",
    "[a-b春]",
    r"[\D1]",
    "[]a-]",
    "[^]b]",
]
REPEATS = ["*", "+", "?", "{2}", "{1,}", "{,2}", "{1,2}", "{0}"]


def joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(parts, max_size=3).map("".join),
        st.lists(parts, min_size=1, max_size=3).map(lambda options: f"({'|'.join(options)})"),
        st.tuples(parts, st.sampled_from(REPEATS)).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    )


EXPRESSIONS = st.recursive(st.sampled_from(ATOMS), joined, max_leaves=8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(EXPRESSIONS, st.booleans())
def test_an_automaton_accepts_what_python_matches_in_full(expression, anything):
    expression = "(?s)" * anything + expression
    machine, python = automaton(parse(expression), frozenset(ALPHABET)), re.compile(expression)
    assert [machine.matches(text) for text in TEXTS] == [bool(python.fullmatch(text)) for text in TEXTS]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(EXPRESSIONS)
def test_the_matches_in_a_text_are_the_longest_ones_from_left_to_right(expression):
    machine, python = automaton(parse(expression), frozenset(ALPHABET)), re.compile(expression)
    for text in TEXTS[::19]:
        at, expected = 0, []
        while at < len(text):
            ends = [end for end in range(at + 1, len(text) + 1) if python.fullmatch(text, at, end)]
            expected += [(at, ends[-1])] if ends else []
            at = ends[-1] if ends else at + 1
        assert list(machine.found(text)) == expected


def test_an_expression_that_keeps_python_busy_forever_is_soon_done():
    text = "a" * 3000 + "!"
    machine = automaton(parse("((a|a)+)+b"), frozenset(text + "b"))
    assert not list(machine.found(text)) and [*machine.found(text[:9] + "b")] == [(0, 10)]


@pytest.mark.parametrize(
    "text", ["a[", "a)", "(a", "a**", "*a", "a{2", "{2}", "a{3,1}", "[b-a]", "[a-", "a\\", "(?P<n>a)"]
)
def test_what_python_refuses_or_takes_otherwise_is_refused_at_its_character(text):
    with pytest.raises(AskedError, match=r"at character \d"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("^a", "leave it out"), ("a$", r"write \\\$"), (r"(a)\1", "write 1 alone"), ("(?=a)", "use"), ("(?i)a", "use"),
        (r"\b", "write b alone"), ("a*?", "twice"), ("a{2000}", "at most 1000"), ("(" * 99 + "a", "nest"), ("a" * 99_999, "at most"),
    ],
)  # fmt: skip
def test_what_no_automaton_here_can_check_is_refused_with_the_way_out(text, way):
    with pytest.raises(AskedError, match=way):
        parse(text)


@pytest.mark.parametrize("text", ["(.*a.{20}){2}", "((a{99}){99}){99}"])
def test_an_expression_that_would_need_too_much_is_refused_soon(text):
    with pytest.raises(AskedError, match="more than"):
        automaton(parse(text), frozenset("ab"))


def test_an_expression_that_leaves_too_many_ways_open_is_refused(monkeypatch):
    monkeypatch.setattr(automata, "MOST_MOVES", 10_000)
    with pytest.raises(AskedError, match="too many ways"):
        automaton(parse("([ab]?c?){90}"), frozenset("abc"))


def test_tokens_lead_where_their_characters_lead_in_each_form():
    forms = (("a", "ab", "", "春", ""), (" a", "", "b", "", ""))
    spelling = Spelling(forms)
    machine = automaton(parse("(a| )*b?.*春|b"), spelling.alphabet)
    tokens = tokens_in(machine, spelling)
    for form, texts in enumerate(forms):
        for token, text in enumerate(texts):
            kind = tokens.of_token[token]
            assert tokens.written[form, kind] == bool(text)
            if text:
                assert tokens.following[form][:, kind].tolist() == machine.after(text).tolist()
    assert [token for token, kind in enumerate(tokens.of_token) if kind == 0] == [4]


def test_tokens_that_an_expression_does_not_tell_apart_are_one_class():
    spelling = Spelling((tuple("abcdefgh"),))
    tokens = tokens_in(automaton(parse("a.*"), spelling.alphabet), spelling)
    assert tokens.following.shape[2] == 3  # none, a, and all others
    assert len(set(tokens.of_token[1:].tolist())) == 1


def test_states_from_which_nothing_is_accepted_are_left_out():
    machine = automaton(parse("ab|ac[^\\d\\D]"), frozenset("abc"))
    assert machine.states == 3
