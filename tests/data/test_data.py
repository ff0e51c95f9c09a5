"""The sample corpus that lies beside the code."""

import json
from collections import Counter
from pathlib import Path

import pytest

from textdiff.verse import forms as verse
from textdiff.verse import sounds

PATH = Path(__file__).parents[2] / "data" / "poems.jsonl"
POEMS = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]


def lines(poem: dict) -> list[str]:
    return poem["text"].split("\n")


def test_there_are_poems_in_all_four_forms():
    count = Counter(poem["form"] for poem in POEMS)
    assert set(count) == set(verse.FORMS) and len(POEMS) >= 84
    assert count["wuyan-jueju"] >= 24 and count["qiyan-jueju"] >= 36
    assert count["wuyan-lushi"] >= 12 and count["qiyan-lushi"] >= 12


@pytest.mark.parametrize("poem", POEMS, ids=lambda poem: f"{poem['form']}-{poem['title']}")
def test_every_poem_has_its_shape_and_its_rhyme(poem):
    assert set(poem) == {"form", "text", "title", "author"} and poem["title"] and poem["author"] == "textdiff"
    assert verse.get_form(poem["form"]).split(poem["text"]) == lines(poem)
    assert sounds.rhyme_level(lines(poem)) is True and sounds.rhyme_distinct(lines(poem))


def test_most_poems_are_regulated():
    assert sum(verse.regulated(lines(poem)) for poem in POEMS) >= 0.95 * len(POEMS)


def test_every_character_is_simplified_and_has_a_reading():
    unread = {c for poem in POEMS for line in lines(poem) for c in line if not sounds.readings(c)}
    assert not unread


def test_no_line_stands_twice():
    twice = [line for line, n in Counter(line for poem in POEMS for line in lines(poem)).items() if n > 1]
    assert not twice


def test_the_vocabulary_is_varied():
    count = Counter(c for poem in POEMS for c in poem["text"] if c != "\n")
    assert len(count) > 700 and max(count.values()) < 0.03 * sum(count.values())
