"""The forty poems that docs/poems.md prints are those that the commands beside them write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import textdiff

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "poems.md").read_text(encoding="utf-8").split("## Forty poems")[1]


def printed() -> dict[str, list[str]]:
    """Form -> its ten poems without line breaks."""
    found = {}
    for form, block in re.findall(r"`textdiff generate --form (\S+) -n 10`.*?```text\n(.*?)```", PAGE, flags=re.S):
        numbers, *poems = zip(*re.findall(r"^(\d)  (.*(?:\n   .*)?)", block, flags=re.M), strict=True)
        assert numbers == tuple("0123456789")
        found[form] = [re.sub(r"\s", "", poem) for poem in poems[0]]
    return found


def test_there_are_ten_of_each_form_and_the_first_quatrain_is_that_of_the_readme() -> None:
    poems = printed()
    assert {form: len(ten) for form, ten in poems.items()} == dict.fromkeys(
        ("wuyan-jueju", "qiyan-jueju", "wuyan-lushi", "qiyan-lushi"), 10
    )
    quoted = re.search(r"^> (.*)\n> (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M)
    assert quoted is not None and "".join(quoted.groups()) == poems["qiyan-jueju"][0]


@pytest.mark.slow
def test_the_poems_are_those_that_the_commands_write() -> None:
    pipe = textdiff.load("poems-zh-writer")
    for form, poems in printed().items():
        assert [re.sub(r"\s", "", one.text) for one in pipe.generate(form=form, n=10)] == poems
