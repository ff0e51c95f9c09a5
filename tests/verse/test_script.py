"""Simplified and traditional characters."""

from __future__ import annotations

import sys

import pytest
from tiny import CHARACTERS, QUATRAIN, poem_model, saved

from textdiff import cli
from textdiff.core.errors import AskedError
from textdiff.pipeline import canvas, page
from textdiff.pipeline.text import Pipeline
from textdiff.verse import script
from textdiff.verse.forms import get_form

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


def letters(text: str) -> str:
    return "".join(c for c in text if c not in "，。\n")


GIVEN = "牀前□□光疑是地上霜舉頭望明月低頭思故鄉"
ASKED = [{"template": GIVEN}, {"acrostic": "牀疑舉頭"}, {"acrostic_end": "光霜_鄉", "acrostic": "_疑舉_"}]


@pytest.mark.parametrize("asked", ASKED)
def test_what_is_written_beside_given_traditional_characters_is_traditional(asked):
    pytest.importorskip("opencc")
    pipe = Pipeline(poem_model("头顾", form="wuyan-jueju"))
    simple = {name: script.simplified(text) for name, text in asked.items()}
    plain = [letters(poem.text) for poem in pipe.generate(n=8, **simple)]
    found = [letters(poem.text) for poem in pipe.generate(n=8, **asked)]
    assert [script.simplified(text) for text in found] == plain != found
    given = canvas.acrostic(
        get_form("五绝"), asked.get("acrostic"), asked.get("acrostic_end"), text=asked.get("template")
    )
    for text in found:
        assert all(a == b for a, b in zip(text, letters(given), strict=True) if b not in "□_")
    assert [letters(one.text) for one in pipe.generate(n=8, script="simplified", **simple)] == plain
    assert [letters(one.text) for one in pipe.each([{}] * 8, **asked)] == found


def test_a_poem_in_traditional_characters_is_revised_in_such():
    pytest.importorskip("opencc")
    pipe = Pipeline(poem_model(form="wuyan-jueju"))
    for asked in ({}, {"variations": 3, "level": 0.5}):
        plain, old = (pipe.refine(text, **asked) for text in (QUATRAIN, OLD))
        assert [one.changed for one in plain] != [()] * len(plain)
        for simple, one in zip(plain, old, strict=True):
            assert one.before == OLD and script.simplified(one.after) == simple.after
            assert [(c.line, c.character) for c in one.changed] == [(c.line, c.character) for c in simple.changed]
            assert "头" not in one.after and "黄" not in one.after and "乡" not in one.after


@pytest.fixture(scope="module")
def poems(tmp_path_factory) -> str:
    return saved(poem_model(form="wuyan-jueju"), tmp_path_factory.mktemp("models") / "poems")


JUDGES = [["check"], ["score", "--levels", "1"], ["evaluate", "in.txt", "--levels", "1"]]


@pytest.mark.parametrize("words", JUDGES, ids=lambda words: words[0])
def test_without_opencc_a_verb_says_once_that_it_cannot_read_traditional_characters(
    without_opencc, poems, words, tmp_path, monkeypatch, capsys
):
    def err(*lines: str) -> str:
        (tmp_path / "in.txt").write_text("\n".join(lines), encoding="utf-8")
        model, file = (
            [] if words[0] == "check" else ["--model", poems],
            [] if words[0] == "evaluate" else ["--file", "in.txt"],
        )
        assert cli.main([*words, *model, *file]) in (0, 3)
        return capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    (one,) = err(*map(letters, (QUATRAIN, OLD, OLD))).splitlines()
    assert one.startswith(
        "textdiff: 'in.txt' line 2 has characters that are unknown here ('牀', '舉', '頭', …); if they"
    )
    assert one.endswith("(pip install 'textdiff[zh]')")
    assert err(letters(QUATRAIN)) == "", "simplified text is read without it"


def test_without_opencc_refine_tells_how_traditional_characters_are_read(without_opencc):
    with pytest.raises(
        AskedError, match=r"'牀' \(line 1, character 1\) is outside .*; write another character, or install"
    ):
        Pipeline(poem_model(form="wuyan-jueju")).refine(OLD)
