"""Simplified and traditional characters."""

from __future__ import annotations

import sys

import pytest
from tiny import CHARACTERS, QUATRAIN

from textdiff.verse import script

OLD = "牀前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。"


@pytest.fixture
def without_opencc(monkeypatch):
    monkeypatch.setitem(sys.modules, "opencc", None)
    script._opencc.cache_clear()
    yield
    script._opencc.cache_clear()


def test_a_poem_goes_there_and_back():
    pytest.importorskip("opencc")
    assert script.traditional(QUATRAIN) == OLD and script.simplified(OLD) == QUATRAIN
    assert script.simplified(script.traditional(CHARACTERS)) == CHARACTERS
    assert script.simplified(QUATRAIN) == QUATRAIN and script.traditional("the cat") == "the cat"


def test_words_decide_and_so_it_is_lossy():
    pytest.importorskip("opencc")
    assert script.traditional("头发") == "頭髮" and script.traditional("出发") == "出發"
    assert script.simplified("髮") == script.simplified("發") == "发"


def test_taiwan_and_hong_kong_have_their_own():
    pytest.importorskip("opencc")
    assert [script.traditional("床里", variant=name) for name in ("t", "tw", "hk")] == ["牀裏", "床裡", "牀裏"]
    with pytest.raises(ValueError, match="variant 'cn' is unknown; pass one of t, tw, hk"):
        script.traditional("床", variant="cn")


def test_no_text_grows_or_shrinks(monkeypatch):
    pytest.importorskip("opencc")

    def longer(text: str) -> str:
        return text.replace("头发", "一头长发").replace("头", "頭").replace("月", "月月")

    monkeypatch.setattr(script, "_opencc", lambda name: longer)
    assert script.traditional("头发月") == "頭发月"


def test_simplified_text_needs_no_opencc(without_opencc):
    assert script.simplified(QUATRAIN) == QUATRAIN and not script.available()
    assert script.converter("simplified")(QUATRAIN) == QUATRAIN
    for call in (
        lambda: script.simplified(OLD),
        lambda: script.traditional("月"),
        lambda: script.converter("traditional"),
    ):
        with pytest.raises(ValueError, match=r"OpenCC, which is not installed; pip install 'textdiff\[zh\]'"):
            call()


def test_an_unknown_script_is_refused():
    with pytest.raises(ValueError, match="script 'runes' is unknown; pass one of simplified, traditional"):
        script.converter("runes")
