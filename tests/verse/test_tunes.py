"""词 by their tunes, and couplets of other widths: shape, place in the host, tones and rhymes."""

from __future__ import annotations

import json

import pytest
import tiny

from textdiff.cli import main
from textdiff.cli.drawing import _tune_name
from textdiff.core.errors import AskedError
from textdiff.pipeline.text import TextPipeline
from textdiff.shaping.match.automaton import automaton
from textdiff.verse.checker import check
from textdiff.verse.forms import couplet, get_form, read_tune, tunes
from textdiff.verse.sounds import rhyme_groups
from textdiff.verse.tunes import pattern_of

POEMS = {
    "忆江南": "江南好，风景旧曾谙。日出江花红胜火，春来江水绿如蓝。能不忆江南。",
    "渔歌子": "西塞山前白鹭飞，桃花流水鳜鱼肥。青箬笠，绿蓑衣，斜风细雨不须归。",
    "浣溪沙": "一曲新词酒一杯，去年天气旧亭台。夕阳西下几时回。无可奈何花落去，似曾相识燕归来。小园香径独徘徊。",
    "菩萨蛮": "平林漠漠烟如织，寒山一带伤心碧。暝色入高楼，有人楼上愁。玉阶空伫立，宿鸟归飞急。何处是归程，长亭更短亭。",
    "卜算子": "驿外断桥边，寂寞开无主。已是黄昏独自愁，更著风和雨。无意苦争春，一任群芳妒。零落成泥碾作尘，只有香如故。",
}


ALPHABET = frozenset("\n门火月春" + tiny.CHARACTERS + tiny.RHYMES + "".join(POEMS.values()))


def matches(name: str, lines: list[str], tones: bool = True, rhyme: bool = True) -> bool:
    return automaton(pattern_of(get_form(name), tones, rhyme), ALPHABET).matches("\n".join(lines))


@pytest.mark.parametrize("name", POEMS)
def test_a_poem_that_everybody_knows_keeps_its_tune(name):
    form = get_form(name)
    lines = form.split(POEMS[name])
    assert "".join(form.layout(lines).split()) == POEMS[name] and form is get_form(form.name)
    assert matches(name, lines)
    k = next(k for k, line in enumerate(form.tune) if line.rhyme)
    flat = lines[k][:-1] + ("门" if form.tune[k].tones[-1] == "平" else "火")  # the tone fits, and the rhyme does not
    assert matches(name, [*lines[:k], flat, *lines[k + 1 :]], rhyme=False)
    assert not matches(name, [*lines[:k], flat, *lines[k + 1 :]])
    wrong = lines[k][:-1] + ("月" if form.tune[k].tones[-1] == "平" else "春")
    assert not matches(name, [*lines[:k], wrong, *lines[k + 1 :]], rhyme=False)


def test_the_tunes_that_come_with_textdiff_are_those_and_fit_into_the_octave():
    assert set(tunes()) == set(POEMS)
    for form in tunes().values():
        assert len(form.cells) == form.length == len(set(form.cells)) and form.cells == tuple(sorted(form.cells))
        assert [form.place(start) for start in form.starts()] == [(k, 0) for k in range(form.lines)]
        columns = [form.cells[start] % 7 for start in form.starts()]
        assert [c == 7 - w if w % 2 else c == 0 for c, w in zip(columns, form.widths, strict=True)] == [
            True
        ] * form.lines


def test_a_later_stanza_is_printed_with_its_first_line_indented_and_read_so():
    form = get_form("浣溪沙")
    printed = form.layout(POEMS["浣溪沙"])
    assert [line.startswith("　　") for line in printed.split("\n")] == [False, False, True, False]
    assert form.layout(printed) == printed
    own = get_form("tune:平a，//仄，仄a。//")
    assert own.layout("天月天") == "天，\n　　月，天。"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("平仄，", "0 tunes"),
        ("# 甲\n平仄\n# 乙\n平", "2 tunes"),
        ("# 甲\n平x?，", "write 平, 仄, 中"),
        ("# 甲\n" + "平" * 8, "at most 8 lines"),
        ("#\n平仄", "give it a name"),
        ("# 甲\n", "has no lines; give"),
    ],
)
def test_a_tune_that_cannot_be_read_is_refused(text, says):
    with pytest.raises(AskedError, match=says):
        read_tune(text)


def test_a_file_of_a_tune_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "mine.tune"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("平中仄，\n仄平平。\n", encoding=encoding)
        assert _tune_name(str(path)) == "tune:平中仄，/仄平平。"
    for name, says in ((tmp_path / "no.tune", "No such file"), (path, "it is not UTF-8")):
        path.write_bytes(b"\xff")
        with pytest.raises(AskedError, match=rf"cannot be read \({says}.*\); name a text file"):
            _tune_name(str(name))


def test_a_tune_of_ones_own_has_the_rhymes_that_it_says():
    form = read_tune("# 我的\n中平a，中仄b。\n平a，仄b。")
    with pytest.raises(AskedError, match="let one end before the next begins"):
        pattern_of(form, True, True)
    assert read_tune("# 我的\n中平a，平a。").widths == (2, 1)


def test_the_name_of_a_tune_may_be_its_lines(poems):
    (one,) = poems.generate("tune:平中仄，中仄平a。/中平平a。", seed=1, prosody="strict", steps=2)
    assert [len(line) for line in one.lines] == [3, 3, 3] and one.text.count("\n") == 1
    assert matches(one.form, list(one.lines)) and get_form(one.form).tune[1].rhyme == "a"


def test_a_file_may_have_the_tune(tmp_path, capsys):
    (tmp_path / "mine.tune").write_text("# 我的\n平中仄，\n中仄平a。\n", encoding="utf-8")
    folder = tiny.saved(tiny.poem_model(tiny.RHYMES), tmp_path / "poems")
    words = ["--model", folder, "--tones", "strict", "--steps", "2", "--quiet", "--json"]
    assert main(["generate", "--form", str(tmp_path / "mine.tune"), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["form"] == "tune:平中仄，/中仄平a。" and matches(found["form"], found["lines"], rhyme=False)
    assert main(["generate", "--form", str(tmp_path / "none.tune"), *words]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.fixture(scope="module")
def poems():
    return TextPipeline.of(tiny.poem_model(tiny.RHYMES))


def test_strict_prosody_keeps_the_tune_and_hides_the_rest_of_the_octave(poems):
    for process in ("mask", "replacement"):
        (one,) = poems.generate("忆江南", seed=2, prosody="strict", process=process, steps=2)
        assert matches("忆江南", list(one.lines)) and one.text.count("\n") == 2 and one.form == "yi-jiang-nan"
    (one,) = poems.fill("河__，_____。\n_______，_______。\n____香。", form="忆江南", rhyme="strict", steps=4)
    ends = [one.lines[k][-1] for k in (1, 3, 4)]
    assert one.text[0] == "河" and ends[2] == "香" and all({"平阳", "平江"} & rhyme_groups(end) for end in ends)


def test_a_poem_of_a_tune_is_revised_line_by_line(poems):
    text = "河上月，明月上楼愁。\n白日黄河流入海，黄河入海日光流。\n风月上层楼。"
    (one,) = poems.refine(text, form="忆江南", prosody="strict", rounds=1, keep=[1], freeze=["5:5"])
    lines = get_form("忆江南").split(one.after)
    assert matches("忆江南", lines) and lines[0] == "河上月" and lines[4][-1] == "楼"


@pytest.mark.parametrize(
    ("options", "says"),
    [({"prosody": "prefer"}, "strict or off"), ({"prosody": "strict", "no_repeat": True}, "its own tones"),
     ({"rhyme": "七阳"}, "its own tones")],
)  # fmt: skip
def test_what_a_tune_cannot_have_is_refused(poems, options, says):
    with pytest.raises(AskedError, match=says):
        poems.generate("卜算子", **options)


def test_the_checker_of_regulated_verse_does_not_judge_a_tune():
    with pytest.raises(AskedError, match="a tune of 词"):
        check(POEMS["忆江南"], "忆江南")


@pytest.mark.parametrize("width", [1, 3, 4, 6])
def test_a_couplet_of_another_width_stands_in_the_second_couplet_of_an_octave(poems, width):
    form = couplet(width)
    assert form.host is not None and form.host.width == 7 and len(form.cells) == 2 * width
    assert {cell // 7 for cell in form.cells} == {2, 3}
    (one,) = poems.generate(f"couplet:{width}", seed=1, steps=2)
    assert [len(line) for line in one.lines] == [width, width]
    (below,) = poems.fill("明" * width, form=f"couplet:{width}", steps=1)
    assert below.lines[0] == "明" * width and len(below.lines[1]) == width
