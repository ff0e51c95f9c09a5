"""Simplified and traditional characters."""

from __future__ import annotations

import sys

import pytest
from tiny import CHARACTERS, QUATRAIN, poem_model

from textdiff.pipeline import page
from textdiff.pipeline.text import Pipeline
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


def test_what_is_written_into_traditional_text_is_traditional():
    pytest.importorskip("opencc")
    pipe = Pipeline(poem_model("头头顾", form="wuyan-jueju"))
    plain = pipe.fill("床前□□光疑是地上霜举头望明月低头思故乡", steps=1)[0].text
    given = "牀前□□光疑是地上霜舉頭望明月低頭思故鄉"
    found = pipe.fill(given, steps=1)[0].text
    assert found.replace("，", "").replace("。", "").replace("\n", "")[5:] == given[5:] and found[0] == "牀"
    assert script.simplified(found[2:4]) == plain[2:4]
    assert pipe.fill(given, steps=1, script="simplified")[0].text[2:4] == plain[2:4], "what is asked for stands above"
    assert page.traditional_for(given, pipe.model) and not page.traditional_for(plain, pipe.model)
    assert not page.traditional_for("牀前明月光疑是地上霜举头望明月低头思故乡", pipe.model), (
        "one odd graph makes no script"
    )
