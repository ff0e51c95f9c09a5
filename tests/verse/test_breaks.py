"""Where a text breaks into lines, whatever characters it has."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from textdiff.verse.forms import _Breaks, breaks, split_at_punctuation


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("床月_ \n，。·'\u3000\u2028—（x") | st.characters()))
def test_a_text_breaks_at_white_space_and_punctuation_alone(text):
    wanted = [c.isspace() or (unicodedata.category(c).startswith("P") and c != "_") for c in text]
    assert [breaks(c) for c in text] == wanted
    assert split_at_punctuation(text) == "".join(" " if one else c for c, one in zip(text, wanted, strict=True)).split()


def test_what_is_remembered_of_characters_is_bounded():
    table = _Breaks()
    "".join(map(chr, range(0x10000, 0x1A000))).translate(table)
    assert len(table) == 1 << 15
