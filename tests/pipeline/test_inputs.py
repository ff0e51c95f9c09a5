"""What a program passes: numbers of numpy, columns of tables, and what is none of these."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny import QUATRAIN, poem_model, sentence_model

from textdiff.core.errors import AskedError
from textdiff.pipeline.options import CHOICES
from textdiff.pipeline.score.template import Template
from textdiff.pipeline.text import TextPipeline

POEMS, WORDS = TextPipeline(poem_model()), TextPipeline(sentence_model())
HOLED = QUATRAIN.replace("明", "□")


@pytest.mark.parametrize("seeds", [range(4, 6), (4, 5), np.array([4, 5]), torch.tensor([4, 5]), iter([4, 5])], ids=type)
def test_seeds_may_stand_in_any_sequence(seeds: Any) -> None:
    assert POEMS.generate(n=2, seed=seeds, steps=1) == POEMS.generate(n=2, seed=[4, 5], steps=1)


def test_seeds_of_scores_may_stand_in_any_sequence() -> None:
    wanted = POEMS.score([QUATRAIN] * 2, seed=[4, 5], levels=2)
    for seeds in (range(4, 6), np.array([4, 5]), torch.tensor([4, 5])):
        assert POEMS.score([QUATRAIN] * 2, seed=seeds, levels=2) == wanted
    assert POEMS.score(QUATRAIN, seed=np.int64(4), levels=2) == POEMS.score(QUATRAIN, seed=torch.tensor(4), levels=2)


@pytest.mark.parametrize("column", [np.array, tuple, iter, lambda words: np.array(words, dtype=object)])
def test_words_for_each_text_may_stand_in_any_column(column: Callable[[list[Any]], Any]) -> None:
    expected = POEMS.fill([HOLED] * 2, title=["月", "春"], form=["wujue", "wujue"], steps=1)
    assert POEMS.fill([HOLED] * 2, title=column(["月", "春"]), form=column(["wujue"] * 2), steps=1) == expected


@pytest.mark.parametrize("title", [5, 0.5, torch.tensor(2), b"x", {"a": "b"}])
def test_what_is_no_word_and_no_column_of_words_is_refused(title: Any) -> None:
    for call in (lambda: POEMS.restore(HOLED, title=title), lambda: POEMS.score(QUATRAIN, title=title)):
        with pytest.raises(AskedError, match="; pass a word, or one for each text"):
            call()


def test_rows_of_a_batch_and_fillings_are_whole_numbers_of_any_kind() -> None:
    two = np.int64(2)
    assert POEMS.refine(QUATRAIN, rounds=1, batch_size=two) == POEMS.refine(QUATRAIN, rounds=1, batch_size=2)
    for name in ("top", "width"):
        with pytest.raises(AskedError, match=f"{name} is None; it must be a whole number"):
            POEMS.restore(HOLED, **{name: None})


def test_nothing_in_a_column_is_no_word() -> None:
    titles = np.array(["月", np.nan], dtype=object)
    assert POEMS.fill([HOLED] * 2, title=titles, steps=1) == POEMS.fill([HOLED] * 2, title=["月", None], steps=1)
    with pytest.raises(AskedError, match="title has 5; pass text, or None"):
        POEMS.fill([HOLED] * 2, title=["月", 5], steps=1)


def test_numbers_of_numpy_are_numbers() -> None:
    half, two = np.float32(0.5), np.int64(2)
    assert POEMS.fill(HOLED, temperature=half, steps=two) == POEMS.fill(HOLED, temperature=0.5, steps=2)
    revised = POEMS.refine(QUATRAIN, rounds=np.int64(1), k=two, keep=np.array([1]), freeze=[(two, two)])
    assert revised == POEMS.refine(QUATRAIN, rounds=1, k=2, keep=[1], freeze=[(2, 2)])
    varied = POEMS.augment(QUATRAIN, n=two, strength=half, keep=[(np.int64(0), two)], levels=0)
    assert varied == POEMS.augment(QUATRAIN, n=2, strength=0.5, keep=[(0, 2)], levels=0)
    for words in (np.array(["cat", "dog"]), iter(["cat", "dog"])):
        assert WORDS.choose("the {x} sat.", x=words) == WORDS.choose("the {x} sat.", x=["cat", "dog"])
    (slot,) = Template.parse("{n} cats", {"n": np.arange(1, 3)}).slots
    assert [type(label) for label in slot.labels] == [int, int]
    (chosen,) = WORDS.choose("the {x} sat.", x={"one": [np.str_("cat")], "two": np.array(["dog", "mat"])})
    assert chosen.labels == WORDS.choose("the {x} sat.", x={"one": "cat", "two": ["dog", "mat"]})[0].labels


BEYOND = [
    (call, name)
    for call, names in {
        "generate": ("n", "steps", "batch_size", "length", "best_of", "particles", "seed"),
        "fill": ("n", "seed"),
        "refine": ("rounds", "k", "patience", "variations", "batch_size", "seed"),
        "augment": ("n", "tries", "levels", "batch_size"),
        "score": ("levels", "repeats", "batch_size"),
        "detail": ("batch_size",),
        "restore": ("top", "width", "batch_size"),
    }.items()
    for name in names
]


@pytest.mark.parametrize("number", [2**63, 10**5000], ids=["2**63", "10**5000"])
@pytest.mark.parametrize(("call", "name"), BEYOND)
def test_a_number_that_no_run_comes_to_the_end_of_is_refused(call: str, name: str, number: int) -> None:
    texts = {"generate": (), "fill": (HOLED,), "restore": (HOLED,)}.get(call, (QUATRAIN,))
    said = "9223372036854775808" if number == 2**63 else r"10\^5000"
    with pytest.raises(AskedError, match=rf"^{name} is {said}; .* (at most|64 bits)"):
        getattr(POEMS, call)(*texts, **{name: number})


@pytest.mark.parametrize("name", ["batch_size", "levels"])
def test_a_file_is_read_by_numbers_that_a_run_comes_to_the_end_of(name: str) -> None:
    with pytest.raises(AskedError, match=f"{name} is 10\\^30; it must be at most 2147483647"):
        POEMS.evaluate([QUATRAIN], **{name: 10**30})


@pytest.mark.parametrize("order", ["random:1000000", "random:" + "9" * 5000, "random:0"])
def test_orders_beyond_all_number_are_refused(order: str) -> None:
    with pytest.raises(AskedError, match=r"expected .*K up to 999999"):
        POEMS.score(QUATRAIN, order=order)


def test_a_revision_ends_when_nothing_is_left_to_do_however_many_rounds_it_may_take() -> None:
    most = 2**31 - 1
    assert POEMS.refine(QUATRAIN, rounds=most, steps=1) == POEMS.refine(QUATRAIN, rounds=50, steps=1)
    varied = POEMS.augment(QUATRAIN, n=1, tries=most, steps=1, levels=0)
    assert varied == POEMS.augment(QUATRAIN, n=1, tries=50, steps=1, levels=0)


RECORD = {"text": QUATRAIN, "title": "月"}
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "generate": ((), {"form": "wujue", "steps": 1}),
    "stream": ((), {"form": "wujue", "steps": 1}),
    "fill": ((HOLED,), {"steps": 1}),
    "each": (([HOLED],), {"steps": 1}),
    "refine": ((QUATRAIN,), {"steps": 1, "rounds": 1}),
    "augment": ((QUATRAIN,), {"steps": 1, "levels": 0, "n": 1}),
    "score": ((QUATRAIN,), {"levels": 1}),
    "detail": ((QUATRAIN,), {}),
    "evaluate": (([RECORD],), {"levels": 1}),
    "choose": ((QUATRAIN.replace("明", "{x}"),), {"slots": {"x": ["明", "白"]}}),
    "restore": ((HOLED,), {"top": 1, "width": 1}),
    "retrieve": (([RECORD, {**RECORD, "title": "春"}],), {"levels": 1, "titles": 2}),
}
OTHERS = (
    "texts",
    "records",
    "templates",
    "options",
    "callback",
    "watch",
    "left",
    "wrong",
    "changes",
    "more",
    "generator",
)
WITHOUT_DIMENSION = (torch.tensor(3), torch.tensor(0.5), np.array(3), np.int64(3), np.float32(0.5), np.array("五绝"))


@pytest.mark.parametrize("call", CALLS)
def test_a_value_without_a_dimension_is_the_number_or_is_refused(call: str) -> None:
    texts, usual = CALLS[call]
    names = [name for name in inspect.signature(getattr(POEMS, call)).parameters if name not in OTHERS]
    drawing = [name for name, one in CHOICES.items() if one.kind != "image" and call in one.calls]
    for name in dict.fromkeys(names + drawing):
        for value in WITHOUT_DIMENSION:
            try:
                found = list(getattr(POEMS, call)(*texts, **{**usual, name: value}))
            except AskedError as refused:
                assert "\n" not in str(refused) and len(str(refused)) > 10, (name, value)
            else:
                assert found, (name, value)


@pytest.mark.parametrize("three", [torch.tensor(3), np.array(3), np.int64(3)], ids=type)
@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("generate", "n"),
        ("generate", "seed"),
        ("refine", "rounds"),
        ("refine", "k"),
        ("augment", "n"),
        ("augment", "levels"),
        ("score", "levels"),
        ("evaluate", "levels"),
        ("evaluate", "seed"),
        ("retrieve", "seed"),
        ("restore", "top"),
    ],
)
def test_a_number_without_a_dimension_is_that_number(call: str, name: str, three: Any) -> None:
    texts, usual = CALLS[call]
    asked = getattr(POEMS, call)
    assert asked(*texts, **{**usual, name: three}) == asked(*texts, **{**usual, name: 3})


def test_the_seed_of_a_record_may_be_any_whole_number_and_nothing_else() -> None:
    expected = POEMS.evaluate([RECORD | {"seed": 3}], levels=1)
    assert POEMS.evaluate([RECORD | {"seed": torch.tensor(3)}], levels=1) == expected
    with pytest.raises(AskedError, match="seed is 'x'; it must be a whole number"):
        POEMS.evaluate([RECORD | {"seed": "x"}], levels=1)
    chosen = [WORDS.choose("the {x} sat.", x=["cat", "dog"], order="random:2", seed=s) for s in (3, np.int64(3))]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("texts", [None, 5, QUATRAIN.encode(), {"text": QUATRAIN}])
@pytest.mark.parametrize("call", ["fill", "score", "refine", "augment", "restore", "choose"])
def test_what_is_no_text_and_no_list_of_texts_is_refused(call: str, texts: Any) -> None:
    more = {"slots": {"x": ["a", "b"]}} if call == "choose" else {}
    with pytest.raises(AskedError, match="; pass a text, or a list of texts"):
        getattr(POEMS, call)(texts, **more)


@pytest.mark.parametrize(("name", "value"), [("keep", 1), ("keep", "1"), ("freeze", "1:1"), ("freeze", 5)])
def test_lines_and_places_that_stay_are_lists(name: str, value: Any) -> None:
    with pytest.raises(AskedError, match=f"{name} is {value!r}; pass a list of "):
        POEMS.refine(QUATRAIN, **{name: value})
