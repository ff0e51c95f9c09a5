"""The checker: templates and their corruptions, poems with one fault each, readings, and the verb `check`."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from textdiff import cli
from textdiff.verse import checker, sounds
from textdiff.verse import forms as verse
from textdiff.verse.checker import check

POEMS = [json.loads(row) for row in (Path(__file__).parents[1] / "data/poems.jsonl").read_text("utf-8").splitlines()]
FORMS = list(verse.FORMS.values())


def of(tone: str, group: str | None = None) -> list[str]:
    """Characters whose one reading has this tone (and group)."""
    return [
        character
        for character, listed in sounds._table().items()
        if len(listed) == 1 and (listed[0].tone == "平") == (tone == "p") and group in (None, listed[0].rhyme)
    ]


RHYMES = of("p", "东")
PLAIN = {"p": [c for c in of("p") if c not in set(RHYMES)], "z": of("z")}


def written(lines: list[str], rhyme_first: bool = False) -> str:
    """A poem of these tones: no character twice, the even lines rhyme in 一东, no other line does but the first if asked."""
    fresh = {tone: iter(found) for tone, found in PLAIN.items()}
    words = iter(RHYMES)
    rows = []
    for k, tones in enumerate(lines):
        row = [next(fresh[tone]) for tone in tones]
        if tones[-1] == "p" and (k % 2 or (k == 0 and rhyme_first)):
            row[-1] = next(words)
        rows.append("".join(row))
    return "\n".join(rows)


# What free positions hold so that nothing is rescued and no fault but the one looked for is there.
QUIET = {"a": "pzppz", "b": "pppzz", "A": "pzzpp", "B": "ppzzp"}


def quiet(kind: str, width: int) -> str:
    five = QUIET[kind]
    return five if width == 5 else "p" + ("z" if five[1] == "p" else "p") + five


def tones(opening: str, form: verse.Form) -> list[str]:
    return [quiet(kind, form.width) for kind in verse.line_types(opening, form.lines)]


def poem(opening: str, form: verse.Form, **lines: str) -> str:
    """A poem without fault but what the lines given (line2="zpzzp") bring into it."""
    rows = tones(opening, form)
    for name, row in lines.items():
        rows[int(name.removeprefix("line")) - 1] = row
    return written(rows, rhyme_first=opening[0].isupper())


def names(report: checker.Report) -> set[str]:
    return {finding.name for finding in report.findings}


def finding(report: checker.Report, name: str) -> checker.Finding:
    (found,) = [found for found in report.findings if found.name == name]
    return found


def changed(text: str, line: int, position: int, character: str) -> str:
    rows = text.split("\n")
    rows[line - 1] = rows[line - 1][: position - 1] + character + rows[line - 1][position:]
    return "\n".join(rows)


WUJUE, QIJUE, WULV, QILV = FORMS


# -- templates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", verse.SEQUENCES)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_template_written_out_has_no_fault(form, opening):
    report = check(poem(opening, form))
    assert (report.verdict, report.findings, report.decide, report.repeated) == ("ok", (), (), ())
    assert report.form == form.name and report.types == verse.line_types(opening, form.lines)
    assert report.sequence == verse.SEQUENCES[opening][form.width == 7]
    assert report.start == report.sequence[:2] and report.first_rhymes is report.sequence.endswith("首句入韵")
    assert report.rhyme.group == "平东" and report.rhyme.first is report.first_rhymes and report.rhyme.neighbours
    assert {line.verdict for line in report.lines} == {line.plain for line in report.lines} == {"ok"}


@pytest.mark.parametrize("opening", verse.SEQUENCES)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_wrong_tone_is_found_where_it_is(form, opening):
    good = check(poem(opening, form))
    for line in good.lines:
        for place in line.characters:
            if place.wanted == "free":
                continue
            other = PLAIN["z" if place.wanted == "p" else "p"][-1]
            report = check(changed(good.text, place.line, place.position, other))
            if (place.line, place.position) == (1, form.width):  # then the poem opens in the other way
                assert not report.broken and report.types[0] == opening[0].swapcase()
                assert not any(found.breaks for found in report.findings)
                continue
            assert report.broken and report.places() == ((place.line, place.position),)
            assert report.types == good.types and report.lines[place.line - 1].plain == "broken"
            assert finding(report, "拗句").places == report.places()
            assert not report.unknown and report.decide == ()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_free_positions_are_free(form):
    for opening in verse.SEQUENCES:
        good = check(poem(opening, form))
        for line in good.lines:
            for place in line.characters:
                if place.wanted == "free":
                    other = PLAIN["z" if place.tone == "level" else "p"][-1]
                    assert not check(changed(good.text, place.line, place.position, other)).broken


# -- one fault, everything else correct -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [WUJUE, QIJUE], ids=lambda form: form.name)
def test_a_line_of_the_other_start_is_off_and_neither_opposes_nor_adheres(form):
    report = check(poem("aBbA", form, line4=quiet("B", form.width)))  # bB: the couplet's lines agree
    even = tuple(range(2, form.width, 2))
    assert report.broken and report.places() == tuple((4, i) for i in even)
    assert [found.places for found in report.findings if found.name == "失对"] == [((3, i), (4, i)) for i in even]
    assert "失粘" not in names(report)


@pytest.mark.parametrize("form", [WUJUE, QIJUE], ids=lambda form: form.name)
def test_a_second_couplet_like_the_first_does_not_adhere(form):
    report = check(poem("aBbA", form, line3=quiet("a", form.width), line4=quiet("B", form.width)))
    even = range(2, form.width, 2)
    assert report.broken and "失对" not in names(report)
    assert [found.places for found in report.findings if found.name == "失粘"] == [((2, i), (3, i)) for i in even]


@pytest.mark.parametrize("form", [WULV, QILV], ids=lambda form: form.name)
def test_a_lone_level_tone_is_told_and_breaks_nothing(form):
    lone = "zpzzp" if form.width == 5 else "pzzpzzp"
    report = check(poem("aBbA", form, line2=lone))
    found = finding(report, "孤平")
    assert found.certain and not found.breaks and not found.rescued and {k for k, _ in found.places} == {2}
    assert report.verdict == "ok" and names(report) == {"孤平"}


@pytest.mark.parametrize("form", [WULV, QILV], ids=lambda form: form.name)
def test_a_lone_level_tone_made_good_in_its_line_is_none(form):
    report = check(poem("aBbA", form, line2="zppzp" if form.width == 5 else "zzzppzp"))
    found, first = finding(report, "孤平自救"), form.width - 4
    assert found.rescued and found.places == ((2, first), (2, first + 2))
    assert report.verdict == "ok" and names(report) == {"孤平自救"} and report.lines[1].plain == "ok"


@pytest.mark.parametrize("form", [WUJUE, QIJUE], ids=lambda form: form.name)
def test_the_licensed_ending_is_a_rescued_deviation(form):
    report = check(poem("aBbA", form, line3="ppzpz" if form.width == 5 else "pzppzpz"))
    found = finding(report, "特拗")
    assert found.rescued and found.places == ((3, form.width - 2), (3, form.width - 1))
    assert report.verdict == "ok" and (report.lines[2].plain, report.lines[2].verdict) == ("broken", "ok")
    assert names(report) == {"特拗"} and verse.regulated(report.text.split("\n"))


@pytest.mark.parametrize("upper", ["zzpzz", "zzzzz"])
@pytest.mark.parametrize("form", [WUJUE, QIJUE], ids=lambda form: form.name)
def test_the_lower_line_rescues_the_upper(form, upper):
    prefix = "" if form.width == 5 else "pp"
    lower = ("" if form.width == 5 else "zz") + "pppzp"
    report = check(poem("aBbA", form, line1=prefix + upper, line2=lower))
    found = finding(report, "大拗")
    assert found.rescued and found.places == ((1, form.width - 1), (2, form.width - 2))
    assert report.verdict == "ok" and (report.lines[0].plain, report.lines[0].verdict) == ("broken", "ok")
    assert names(report) == {"大拗"} | ({"三仄尾"} if upper == "zzzzz" else set())
    left = check(poem("aBbA", form, line1=prefix + upper))
    assert left.broken and left.places() == ((1, form.width - 1),) and "大拗" not in names(left)


def test_one_level_tone_rescues_both_lines():
    report = check(poem("aBbA", WUJUE, line1="zzpzz", line2="zppzp"))
    assert report.verdict == "ok" and names(report) == {"大拗", "孤平自救"}


@pytest.mark.parametrize("lower, answered", [("ppzzp", False), ("pppzp", True)])
def test_a_small_deviation_is_told_with_its_answer(lower, answered):
    report = check(poem("aBbA", WUJUE, line1="pzzpz", line2=lower))
    assert report.verdict == "ok" and names(report) == {"小拗"} and finding(report, "小拗").rescued is answered


@pytest.mark.parametrize("width", [5, 7])
def test_three_equal_tones_at_the_end_are_told(width):
    form = WUJUE if width == 5 else QIJUE
    level = check(poem("aBbA", form, line4="pzppp" if width == 5 else "pppzppp"))
    assert level.verdict == "ok" and finding(level, "三平尾").places == tuple(
        (4, i) for i in (width - 2, width - 1, width)
    )
    oblique = check(poem("aBbA", form, line3="ppzzz" if width == 5 else "pzppzzz"))
    assert oblique.verdict == "ok" and names(oblique) == {"三仄尾"}


def test_a_word_of_another_group_is_out_of_rhyme_and_may_be_a_neighbour():
    good = poem("aBbA", WULV)
    near = check(changed(good, 6, 5, of("p", "冬")[0]))
    assert near.broken and near.places() == ((6, 5),) and names(near) == {"出韵", "邻韵"}
    assert near.rhyme.neighbours and near.rhyme.verdict == "broken" and near.rhyme.group == "平东"
    far = check(changed(good, 6, 5, of("p", "阳")[0]))
    assert far.broken and far.places() == ((6, 5),) and names(far) == {"出韵"} and far.rhyme.neighbours is False


def test_a_first_line_may_rhyme_with_a_neighbour_and_is_told_if_with_none():
    good = poem("ABbA", WUJUE)
    near = check(changed(good, 1, 5, of("p", "冬")[0]))
    assert near.verdict == "ok" and near.rhyme.first and near.findings == () and near.rhyme.opening.groups == ("平冬",)
    far = check(changed(good, 1, 5, of("p", "阳")[0]))
    assert far.verdict == "ok" and far.rhyme.first is False and names(far) == {"首句"} and far.rhyme.opening is None
    assert not finding(far, "首句").breaks


def test_a_first_line_does_not_end_with_the_rhyme_word_of_another():
    good = poem("ABbA", WUJUE)
    report = check(changed(good, 1, 5, good[-1]))
    assert report.verdict == "ok" and finding(report, "首句").places == ((1, 5), (4, 5))


def test_between_two_groups_the_first_line_decides():
    good, east, sun = poem("ABbA", WUJUE), of("p", "东")[0], of("p", "阳")
    text = changed(changed(good, 2, 5, east), 4, 5, sun[0])
    assert check(changed(text, 1, 5, sun[1])).places() == ((2, 5),)
    assert check(text).places() == ((4, 5),)


def test_a_rhyme_word_twice_breaks_the_form():
    good = poem("aBbA", WULV)
    report = check(changed(good, 8, 5, good.split("\n")[1][-1]))
    assert report.broken and names(report) == {"重韵"} and finding(report, "重韵").places == ((2, 5), (8, 5))


def test_oblique_rhymes_are_named():
    words = of("z", "霰")
    text = poem("aBbA", WUJUE)
    for line, word in ((2, words[0]), (4, words[1])):
        text = changed(text, line, 5, word)
    report = check(text)
    assert report.broken and report.rhyme.group is None and report.rhyme.oblique == "去霰"


def test_doubled_characters_are_told_from_repeated_ones():
    text = poem("aBbA", WUJUE)
    first = text.split("\n")[0]
    report = check(changed(changed(text, 1, 4, first[2]), 4, 1, first[0]))
    assert report.repeated == (
        checker.Repeat(first[0], False, ((1, 1), (4, 1))),
        checker.Repeat(first[2], True, ((1, 3), (1, 4))),
    )
    assert report.verdict == "ok"


def test_a_line_that_stands_twice_is_told():
    rows = poem("aBbA", WULV).split("\n")
    assert check("\n".join([*rows[:4], rows[0], *rows[5:]])).repeated_lines == ((1, 5),)


# -- readings -------------------------------------------------------------------------------------------------------------


def test_a_character_of_two_readings_never_breaks_and_is_to_be_decided():
    """看 has 平寒 and 去翰."""
    for form in FORMS:
        for opening in verse.SEQUENCES:
            good = check(poem(opening, form))
            for line in good.lines:
                for place in line.characters:
                    rhymes = place.position == form.width and place.line % 2 == 0
                    report = check(changed(good.text, place.line, place.position, "还" if rhymes else "看"))
                    decided = {(one.line, one.position) for one in report.decide}
                    if not rhymes:
                        assert not report.broken and not any(found.breaks for found in report.findings)
                        assert decided <= {(place.line, place.position)}
                        first_end = (place.line, place.position) == (1, form.width)
                        assert report.unknown is (place.wanted != "free" and not first_end)
                        assert bool(decided) or not report.unknown


def test_at_a_rhyme_word_one_reading_has_tone_and_group_at_once():
    """A character that is level in another group and oblique in the right one's parallel does not rhyme."""
    group = next(r.rhyme for r in sounds.readings("看") if r.tone == "平")
    rows = tones("aBbA", WUJUE)
    text = written(rows)
    assert check(changed(text, 4, 5, "看")).broken  # level only in 寒, where 东 is wanted
    rhyming = changed(changed(text, 2, 5, of("p", group)[0]), 4, 5, "看")
    report = check(rhyming)
    assert (report.broken, report.unknown, report.places("unknown")) == (False, True, ((4, 5),))
    assert report.rhyme.neighbours is None and report.rhyme.verdict == "unknown"
    assert report.decide[0].options == ("去翰", "平寒") and set(report.decide[0].matters) >= {"rhyme", "tone"}
    assert check(rhyming, pronounce={"4:5": "平"}).verdict == "ok"
    assert check(rhyming, pronounce={20: sounds.Reading("平", "寒")}).verdict == "ok"
    assert check(rhyming, pronounce={"看": "去翰"}).places() == ((4, 5),)


def test_what_a_fault_depends_on_is_listed():
    both = check(changed(poem("aBbA", WUJUE, line2="zpzzp"), 2, 1, "看"))
    found = finding(both, "孤平")
    assert not found.certain and both.verdict == "ok"
    assert both.decide == (checker.Decision(2, 1, "看", ("去翰", "平寒"), ("孤平",)),)
    assert finding(check(both.text, pronounce={"2:1": "去"}), "孤平").certain
    assert names(check(both.text, pronounce={"2:1": "平"})) == set()


def test_what_is_rescued_either_way_needs_no_decision():
    report = check(changed(poem("aBbA", WUJUE, line3="ppzpz"), 3, 4, "看"))  # ppz?z: plain or licensed
    assert report.verdict == "ok" and not [one for one in report.decide if "tone" in one.matters]


def test_the_end_of_the_first_line_may_stay_open():
    for opening in ("aBbA", "ABbA", "bAaB", "BAaB"):
        report = check(changed(poem(opening, WUJUE), 1, 5, "看"))
        assert report.verdict == "ok" and [one.matters[0] for one in report.decide] == ["首句入韵"]
        assert report.first_rhymes is False  # 寒 does not rhyme with 东
        text, words = report.text, of("p", "寒")
        for k in (2, 4):
            text = changed(text, k, 5, words[k])
        rhyming = check(text)
        assert rhyming.verdict == "ok" and rhyming.first_rhymes is True and rhyming.rhyme.first is None


def test_verdicts_are_those_of_all_choices_of_readings():
    """By enumeration: broken under every choice, unknown if under some, and so for every certain and every open finding."""
    rng = random.Random(0)
    some = [c for c, listed in sounds._table().items() if 2 <= len(listed) <= 3]
    seen = set()
    for trial in range(60):
        form, opening = rng.choice([WUJUE, QIJUE]), rng.choice(list(verse.SEQUENCES))
        rows = [
            "".join(rng.choice("pz") if mark == "·" or rng.random() < 0.03 else mark for mark in template)
            for template in (verse.line_template(kind, form.width) for kind in opening)
        ]
        text = written(rows, rhyme_first=True)
        places = rng.sample([(k, i) for k in range(1, 5) for i in range(1, form.width + 1)], 3)
        if trial % 2:  # two rhyme words of one group and other readings
            rhymes = [c for c in some if {r.tone for r in sounds.readings(c)} >= {"平"}]
            word = rng.choice(rhymes)
            other = rng.choice(of("p", rng.choice([r.rhyme for r in sounds.readings(word) if r.tone == "平"])))
            text = changed(changed(text, 2, form.width, word), 4, form.width, other)
            places = [(2, form.width), *[place for place in places if place[1] != form.width]]
        for k, i in places:
            if (k, i) != (2, form.width):
                text = changed(text, k, i, rng.choice(some))
        rows = text.split("\n")
        report = check(text)
        options = [sounds.readings(rows[k - 1][i - 1]) for k, i in places]
        reports = [
            check(text, pronounce={f"{k}:{i}": r for (k, i), r in zip(places, choice, strict=True)})
            for choice in itertools.product(*options)
        ]
        broken = [one.broken for one in reports]
        assert not any(one.unknown for one in reports)
        assert report.broken is all(broken) and report.unknown is (any(broken) and not all(broken))
        seen.add(report.verdict)
        if not any(len({one.types for one in group}) > 1 for group in (reports, [report, reports[0]])):
            for name in ("孤平", "三平尾", "三仄尾", "失对", "失粘"):
                told = {(found.places, found.certain) for found in report.findings if found.name == name}
                held = [{found.places for found in one.findings if found.name == name} for one in reports]
                assert {spots for spots, certain in told if certain} == set.intersection(*held)
                assert {spots for spots, _ in told} == set.union(*held)
    assert seen == {"ok", "broken", "unknown"}


def test_a_person_may_overrule_the_table_but_not_by_chance():
    text = poem("aBbA", WUJUE)
    assert check(text, pronounce={"1:2": "平东"}).places() == ((1, 2),)
    with pytest.raises(ValueError, match="has no reading 平, only"):
        check(text, pronounce={"1:2": "平"})


@pytest.mark.parametrize(
    "pronounce, message",
    [
        ({"5:1": "平"}, "4 lines of 5"),
        ({0: "平"}, "count from 1"),
        ({21: "平"}, "has 20"),
        ({"龘": "平"}, "neither LINE:POSITION nor a character"),
        ({"1:1": "阴平"}, "'阴平' is no reading"),
        ({"1:1": "平雪"}, "'平雪' is no reading"),
    ],
)
def test_a_decision_that_cannot_be_is_refused(pronounce, message):
    with pytest.raises(ValueError, match=message):
        check(poem("aBbA", WUJUE), pronounce=pronounce)


# -- other texts ----------------------------------------------------------------------------------------------------------


def test_our_own_poems_break_nothing_and_agree_with_verse():
    for row in POEMS:
        lines = row["text"].split("\n")
        report, fit = check(row["text"]), verse.tone_fit(lines)
        assert report.broken is not verse.regulated(lines)
        if fit.regular:
            assert {line.verdict for line in report.lines} <= {"ok", "unknown"}
            if (
                report.verdict == "ok"
                and len({c.tone for line in report.lines for c in line.characters} - {"either"}) == 2
            ):
                assert report.types[1:] == fit.types[1:]


def test_shuffled_lines_agree_with_verse_but_for_rescue():
    rng = random.Random(1)
    for row in POEMS:
        lines = row["text"].split("\n")
        rng.shuffle(lines)
        report = check("\n".join(lines))
        if verse.regulated(lines):
            assert not report.broken
        if report.broken:
            assert not verse.regulated(lines)
        elif "大拗" not in names(report):
            assert sounds.rhyme_level(lines) is not False and verse.tone_fit(lines).regular


def test_a_text_of_another_shape_has_tones_and_no_verdict():
    report = check("天对地\n雨对风")
    assert (report.form, report.verdict, report.broken, report.rhyme) == (None, None, False, None)
    assert [c.tone for c in report.lines[1].characters] == ["oblique", "oblique", "level"]
    assert report.repeated[0].places == ((1, 2), (2, 2))


def test_a_couplet_of_five_is_asked_to_oppose():
    upper, lower = (written([row]) for row in ("zzppz", "zzzpp"))
    assert [found.places for found in check(f"{upper}\n{lower}").findings] == [((1, 2), (2, 2)), ((1, 4), (2, 4))]


def test_holes_are_unknown_and_not_repeated():
    text = changed(changed(poem("aBbA", WUJUE), 1, 2, "□"), 3, 1, "□")
    report = check(text)
    assert report.unknown and report.places("unknown") == ((1, 2),) and report.repeated == ()
    assert report.decide[0].options == ("平", "仄") and check(text, pronounce={"1:2": "仄"}).verdict == "ok"


def test_a_poem_of_holes_is_open_in_every_way():
    report = check("□" * 28)
    assert (report.verdict, report.repeated, report.repeated_lines) == ("unknown", (), ())
    assert not any(found.certain for found in report.findings)


def test_text_without_characters_or_of_the_wrong_form_is_refused():
    with pytest.raises(ValueError, match="no characters"):
        check("，。")
    with pytest.raises(ValueError, match="wuyan-lushi"):
        check(poem("aBbA", WUJUE), "五律")


def test_traditional_characters_are_read_as_simplified_ones():
    pytest.importorskip("opencc")
    plain = check("开门山不见，一夜雪齐檐。冻雀争残粒，寒童呵指尖。")
    old = check("開門山不見，一夜雪齊檐。凍雀爭殘粒，寒童呵指尖。")
    assert [[c.readings for c in line.characters] for line in old.lines] == [
        [c.readings for c in line.characters] for line in plain.lines
    ]
    assert old.lines[0].text == "開門山不見"


def test_classes_hold_every_level_group():
    assert len(sounds.NEIGHBOURS) == 14
    assert {"平" + group for names in sounds.NEIGHBOURS for group in names} == set(sounds._RHYME_NAMES)


# -- the verb -------------------------------------------------------------------------------------------------------------

GOOD = poem("aBbA", WUJUE)
WRONG = changed(GOOD, 2, 2, PLAIN["z"][-1])
OPEN = changed(GOOD, 2, 2, "看")


@pytest.fixture
def run(capsys, monkeypatch):
    def call(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = cli.main(["check", *words])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("texts, code", [([GOOD], 0), ([OPEN], 0), ([WRONG], 3), ([GOOD, WRONG, OPEN], 3), (["天"], 0)])
def test_the_exit_code_is_three_if_a_poem_breaks_its_form(run, texts, code):
    assert run(*texts)[0] == code
    assert run("--json", *texts)[0] == code


def test_json_is_the_report(run):
    _, out, _ = run("--json", GOOD, WRONG)
    rows = [json.loads(row) for row in out.splitlines()]
    assert rows == [json.loads(json.dumps(dataclasses.asdict(check(text)))) for text in (GOOD, WRONG)]


def test_texts_come_from_stdin_and_with_their_form(run):
    code, out, _ = run("--json", stdin=json.dumps({"text": WRONG, "form": "wuyan-jueju"}) + "\n")
    assert code == 3 and json.loads(out)["form"] == "wuyan-jueju"
    assert run("--form", "七绝", GOOD)[0] == 2


def test_readings_are_decided_by_a_flag(run):
    assert run(OPEN, "--reading", "2:2=平")[0] == 0
    assert run(OPEN, "--reading", "2:2=去")[0] == 3
    assert run("--reading", "看=去翰", GOOD, OPEN)[0] == 3
    for flag in ("2:2", "2:9=平", "2:2=x"):
        code, _, err = run(OPEN, "--reading", flag)
        assert code == 2 and err.count("\n") == 1
    assert run("--reading", "2:2=去", OPEN, GOOD)[0] == 2  # which of them?


def test_the_text_output_shows_where_and_why(run):
    _, out, err = run(WRONG)
    rows = out.splitlines()
    assert "breaks its strict form" in rows[0] and "仄起首句不入韵" in rows[0] and "上平一东" in rows[0] and not err
    second = next(n for n, row in enumerate(rows) if row.startswith(" 2 B"))
    assert rows[second + 3].split() == ["Ｘ"] and rows[second + 3].index("Ｘ") == rows[second].index(PLAIN["z"][-1])
    assert any(row.startswith("拗句") for row in rows) and "\x1b" not in out
    assert "\x1b[31m" in checker.describe(check(WRONG), colours=True)
    assert "2:2 看  去翰 or 平寒" in run(OPEN)[1]


@pytest.mark.parametrize("terminal, no_color, painted", [(True, "", True), (True, "1", False), (False, "", False)])
def test_colours_are_for_terminals_that_want_them(run, monkeypatch, terminal, no_color, painted):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert ("\x1b[" in run(WRONG)[1]) is painted


def test_checking_a_text_loads_no_torch():
    code = f"import sys, textdiff.cli as c; r = c.main(['check', {GOOD!r}]); sys.exit(r or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
