"""benchmarks/augmentation.py: the texts to train on and to be tested with are different ones, and its rows are what they say."""

from __future__ import annotations

import itertools

import pytest
from tiny import CHARACTERS, poem_model

from benchmarks import augmentation
from textdiff import Pipeline
from textdiff.core.errors import AskedError

RECORDS = [
    {"text": "\n".join("".join(CHARACTERS[(k * 7 + j * (3 + odd) + i * 5) % 50] for i in range(5)) for j in range(4)), "dynasty": d}
    for k, (odd, d) in itertools.product(range(14), enumerate(("tang", "song")))
]  # fmt: skip


def test_train_and_test_share_no_text_and_have_the_labels_equally_often() -> None:
    first, again, other = (augmentation.split(RECORDS, "dynasty", 4, 6, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [record["dynasty"] for record in first.train] == ["song", "tang"] * 4
    assert sorted(record["dynasty"] for record in first.test) == ["song"] * 6 + ["tang"] * 6
    assert not {record["text"] for record in first.train} & {record["text"] for record in first.test}
    with pytest.raises(AskedError, match="there are 14 texts of dynasty 'song', and 19 are needed"):
        augmentation.split(RECORDS, "dynasty", 4, 15, 0)


def test_the_control_exchanges_the_share_of_characters_and_keeps_the_lines() -> None:
    texts = [record["text"] for record in RECORDS]
    copies = augmentation.exchanged(texts, 0.3, 3, seed=0)
    assert len({copy for several in copies for copy in several}) == 3 * len(texts)
    for text, several in zip(texts, copies, strict=True):
        for copy in several:
            assert [len(line) for line in copy.split("\n")] == [5] * 4
            assert sum(a != b for a, b in zip(text, copy, strict=True)) <= 6


def test_every_way_has_a_row_and_nothing_added_is_no_difference(capsys) -> None:
    pipe = Pipeline(poem_model())
    rows = augmentation.effects(pipe, RECORDS, "dynasty", examples=(2, 3), seeds=2, test=8, n=2, steps=4)
    assert [(row.examples, row.way) for row in rows] == list(
        itertools.product((2, 3), ("none", "random", "model", "told"))
    )
    for row in rows:
        assert row.low <= row.difference <= row.high and 0 <= row.accuracy <= 1 and row.seeds == 2
        assert (row.changed == 0) == (row.way == "none") and row.changed <= 0.2
    assert [(row.difference, row.low, row.high) for row in rows if row.way == "none"] == [(0, 0, 0)] * 2
    assert augmentation.line(rows[0]).count("|") == 6
