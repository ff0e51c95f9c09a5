"""The checker where characters may be read in several ways, and texts of other shapes."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from verses import FORMS, QIJUE, WUJUE, changed, finding, names, of, poem, tones, written

from textdiff.verse import checker, sounds
from textdiff.verse import forms as verse
from textdiff.verse.checker import check
from textdiff.verse.checker.readings import choices_of

POEMS = [json.loads(row) for row in (Path(__file__).parents[2] / "data/poems.jsonl").read_text("utf-8").splitlines()]


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


def test_an_entering_tone_is_oblique():
    entering = choices_of(["月"], {})
    assert {reading.tone for reading in entering[0][0]} == {"入"}
    assert choices_of(["月"], {"月": "仄"}) == entering


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
