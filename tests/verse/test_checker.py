"""The checker's faults: templates and their corruptions, and poems with one fault each."""

from __future__ import annotations

import pytest
from verses import FORMS, PLAIN, QIJUE, QILV, WUJUE, WULV, changed, finding, names, of, poem, quiet

from textdiff.verse import checker
from textdiff.verse import forms as verse
from textdiff.verse.checker import check

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
