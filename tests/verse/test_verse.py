"""Forms, readings, rhyme and tone."""

import re
import subprocess
import sys

import pytest

from textdiff.core.errors import AskedError
from textdiff.measure.poems import rhyme_loose
from textdiff.verse import forms as verse
from textdiff.verse import sounds
from textdiff.verse.checker import check
from textdiff.verse.forms import get_form

LEVEL, OBLIQUE, BOTH = "天", "月", "看"


def poem(types: str, width: int, licensed: bool = False) -> list[str]:
    """Lines of 天 and 月 that keep the given line types exactly; free positions take a character of both tones."""
    patterns = dict(verse.TYPES, **({"b": verse.LICENSED_B} if licensed else {}))
    sign = {"p": LEVEL, "z": OBLIQUE, "·": BOTH}
    return ["".join(sign[mark] for mark in verse.widened(patterns[kind], width)) for kind in types]


@pytest.mark.parametrize("form", verse.FORMS.values(), ids=lambda form: form.name)
def test_every_name_of_a_form_finds_it(form):
    assert verse.get_form(form.name) is verse.get_form(form.chinese) is verse.get_form(form.short) is form
    assert len(form.short) == 2 and form.length == form.lines * form.width


def test_an_unknown_form_is_answered_with_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match=r"'qiyan-jueij'.*wuyan-lushi.*did you mean 'qiyan-jueju'"):
        verse.get_form("qiyan-jueij")


@pytest.mark.parametrize("form", verse.FORMS.values(), ids=lambda form: form.name)
def test_split_undoes_every_way_of_writing_a_poem(form):
    bare = "".join(chr(0x4E00 + i) for i in range(form.length))
    lines = form.split(bare)
    assert [len(line) for line in lines] == [form.width] * form.lines and "".join(lines) == bare
    for text in (
        bare,
        "\n".join(lines),
        form.layout(lines),
        form.layout(bare),
        " ".join(lines),
        "、".join(lines) + "！",
    ):
        assert form.split(text) == lines
        assert verse.guess_form(text) is form


def test_layout_gives_one_couplet_a_line():
    assert verse.get_form("五绝").layout("一二三四五" * 4) == "一二三四五，一二三四五。\n一二三四五，一二三四五。"


def test_signs_for_holes_are_characters():
    assert verse.get_form("五绝").split("_" * 5 + "□" * 15)[:2] == ["_____", "□□□□□"]


@pytest.mark.parametrize("text", ["", "，。", "天" * 21, "天" * 8 + "\n" + "天" * 12, "天" * 27])
def test_text_of_another_shape_has_no_form(text):
    assert verse.guess_form(text) is None
    with pytest.raises(ValueError, match="wuyan-jueju"):
        verse.get_form("五绝").split(text)


def test_readings_have_a_tone_and_a_group():
    table = sounds._table()
    assert 8000 < len(table) < 12000
    assert all(ord(character) > 0x3000 for character in table)
    assert {reading.tone for listed in table.values() for reading in listed} == set("平上去入")
    assert len({reading for listed in table.values() for reading in listed}) == 106
    assert sounds.readings("东") == (sounds.Reading("平", "东"),) and sounds.readings("?") == ()


@pytest.mark.parametrize("character, tone", [("天", "level"), ("月", "oblique"), ("看", "either"), ("x", "unknown")])
def test_tone_has_four_values(character, tone):
    assert sounds.tone(character) == tone


def test_level_groups_are_among_all_groups():
    assert sounds.rhyme_groups("看") == {"平寒"}
    assert sounds.rhyme_groups("看", level_only=False) == {"平寒", "去翰"}


@pytest.mark.parametrize(
    "endings, answer",
    [("东风", True), ("东冬", False), ("东x", None), ("东冬x", False), ("月雪", False), ("xx", None), ("看寒", True)],
)
def test_rhyme_is_three_valued(endings, answer):
    lines = [line for ending in endings for line in ("天月", "天" + ending)]
    assert sounds.rhyme_level(lines) is answer


def test_the_thirty_level_groups_are_those_of_the_table_in_their_order():
    names = [sounds.rhyme_name(group) for group in sounds._RHYME_NAMES]
    assert len(names) == 30 and (names[0], names[14], names[15], names[29]) == (
        "上平一东", "上平十五删", "下平一先", "下平十五咸"
    )  # fmt: skip
    used = {reading for listed in sounds._table().values() for reading in listed}
    assert set(sounds._RHYME_NAMES) == {r.tone + r.rhyme for r in used if r.tone == "平"}
    assert sounds.rhyme_name("去霰") == "去声霰"
    with pytest.raises(ValueError, match=r"'阳'.*such as"):
        sounds.rhyme_name("阳")


@pytest.mark.parametrize("name", ["七阳", "阳", "下平七阳", "平阳", "下平阳", " 七陽韻 ", "平声阳", "平聲陽"])
def test_a_level_group_has_many_names(name):
    assert sounds.get_rhyme(name) == "平阳"


def test_every_printed_name_finds_its_group():
    assert [sounds.get_rhyme(sounds.rhyme_name(group)) for group in sounds._RHYME_NAMES] == list(sounds._RHYME_NAMES)
    traditional = dict(zip("東魚齊刪蕭鹽", "东鱼齐删萧盐", strict=True))
    assert all(sounds.get_rhyme(written) == "平" + group for written, group in traditional.items())


@pytest.mark.parametrize("name, near", [("六阳", "七阳"), ("七", "七虞"), ("十六东", "一东"), ("去霰", ""), ("", "")])
def test_an_unknown_group_is_answered_with_the_known_ones_and_the_nearest(name, near):
    answer = f"unknown rhyme {name!r}.*一东 .*十五咸" + (f".*mean.*{near}" if near else "")
    with pytest.raises(ValueError, match=answer):
        sounds.get_rhyme(name)


def test_a_rhyme_word_may_stand_once():
    assert sounds.rhyme_distinct(["天月", "天风", "天月", "天东"])
    assert not sounds.rhyme_distinct(["天月", "天风", "天月", "月风"])


@pytest.mark.parametrize("width", [5, 7])
@pytest.mark.parametrize("lines", [4, 8])
@pytest.mark.parametrize("opening", verse.SEQUENCES)
def test_each_template_is_recognised_as_itself(opening, lines, width):
    types = opening if lines == 4 else opening + ("aBbA" if opening.endswith("bA") else "bAaB")
    fit = verse.tone_fit(poem(types, width))
    assert (fit.types, fit.name, fit.positions) == (types, verse.SEQUENCES[opening][width == 7], 1.0)
    assert fit.regular and all(fit.strict)
    for upper, lower in ((types[i], types[i + 1]) for i in range(2, lines, 2)):
        assert {upper, lower} in ({"a", "B"}, {"b", "A"})  # a couplet's even positions oppose


@pytest.mark.parametrize("width", [5, 7])
def test_names_go_by_the_second_character(width):
    for opening, names in verse.SEQUENCES.items():
        lines = poem(opening, width)
        assert names[width == 7].startswith("平" if lines[0][1] == LEVEL else "仄")
        assert names[width == 7].endswith("不入韵" if lines[0][-1] == OBLIQUE else "句入韵")


@pytest.mark.parametrize("width", [5, 7])
def test_the_licensed_line_fits_but_not_strictly(width):
    fit = verse.tone_fit(poem("aBbA", width, licensed=True))
    assert fit.regular and fit.strict == (True, True, False, True)


def test_a_wrong_tone_is_found_in_its_line():
    lines = poem("aBbA", 7)
    lines[1] = lines[1][:5] + LEVEL + lines[1][6:]
    fit = verse.tone_fit(lines)
    assert fit.types == "aBbA" and fit.fits == (True, False, True, True) and fit.positions == 15 / 16


def test_regulated_needs_tone_and_rhyme_and_distinct_rhyme_words():
    good = ["看月看天月", "看天看月东", "看天看月月", "看月看天风"]
    assert verse.regulated(good)
    assert not verse.regulated([*good[:3], "看月看天东"])
    assert not verse.regulated([*good[:3], "看月看天寒"])
    assert not verse.regulated(["看天看天月", *good[1:]])


def test_tones_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="4 or 8 lines of 5 or 7"):
        verse.tone_fit(["天月天"] * 4)


def test_verse_needs_no_torch():
    code = "import sys, textdiff.verse.forms as v; v.tone('天'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_level_group_has_a_class_of_neighbours():
    assert len(sounds.NEIGHBOURS) == 14 and sounds.neighbour_classes("月") == frozenset()
    assert {"平" + group for names in sounds.NEIGHBOURS for group in names} == set(sounds._RHYME_NAMES)


def test_checker_and_metrics_call_the_same_rhymes_neighbours():
    """灰 goes two ways: half of it rhymes with 支微齐 (杯 with 飞), half with 佳."""
    poem = "天月天月月，天月天月杯。\n天月天月月，天月天月飞。"
    assert check(poem).rhyme.neighbours is True
    assert rhyme_loose([tuple(get_form("五绝").split(poem))]) == [1.0]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (n, "wuyan-jueju")
        for n in ("五言絕句", "五絕", "5绝", "wujue", "wu-jue", "5-jue", "Wǔyán juéjù", "wuyan_jueju", "五言绝")
    ]
    + [(n, "qiyan-lushi") for n in ("七言律詩", "七律", "qilu", "qilü", "qi-lv", "7律", "Qiyan Lushi")],
)
def test_a_form_is_known_by_its_usual_names(name, form):
    assert get_form(name).name == form


def test_couplets_have_chinese_names_too():
    assert get_form("五言對聯") == get_form("couplet:5") and get_form("七言对联") == get_form("couplet:7")


@pytest.mark.parametrize("form", [5, ["五绝"], 5.0, True])
def test_a_form_that_is_no_word_is_refused_by_what_was_given(form):
    with pytest.raises(AskedError, match=f"unknown form {re.escape(repr(form))}; known are wuyan-jueju"):
        check("春眠不觉晓处处闻啼鸟夜来风雨声花落知多少", form)
