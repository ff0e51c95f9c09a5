"""Couplets of 8 to 14 characters a line, whose lines have two parts that stand in two couplets of an octave."""

from __future__ import annotations

import pytest
import torch
from tiny import CHARACTERS, RHYMES, ordered_model, poem_model

from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError
from textdiff.core.predictions import positions_of
from textdiff.core.rng import Rng
from textdiff.pipeline import canvas
from textdiff.pipeline.page import condition
from textdiff.pipeline.text import TextPipeline
from textdiff.verse.checker import check, describe
from textdiff.verse.forms import couplet, line_template, split_at_punctuation
from textdiff.verse.prosody import Prosody, verse_law
from textdiff.verse.sounds import tone

UPPER, LOWER = "白日依山尽黄河入海流", "春眠不觉晓处处闻啼鸟"
TEXT = f"{UPPER}，{LOWER}。"


@pytest.fixture(scope="module")
def poems() -> TextPipeline:
    return TextPipeline.of(poem_model(RHYMES, form="wuyan-jueju"))


@pytest.mark.parametrize("width", [8, 9, 10, 11, 14])
def test_each_part_of_the_upper_line_stands_above_the_part_that_answers_it(poems, width):
    form = couplet(width)
    assert form.host is not None and len(set(form.cells)) == 2 * width
    upper, lower = form.cells[:width], form.cells[width:]
    assert [cell + form.host.width for cell in upper] == list(lower)
    assert {cell // form.host.width for cell in upper} == {2, 4}
    assert upper[-1] % form.host.width == form.host.width - 1, "the line ends where a line of the octave does"
    page = canvas.blank(poems.model, form)
    assert page.turn[list(form.cells)].diff().min() > 0 and page.turn.sort().values.tolist() == list(
        range(len(page.ids))
    )
    (one,) = poems.fill(CHARACTERS[:width], form=form.name, steps=2)
    assert one.lines[0] == CHARACTERS[:width] and len(one.lines[1]) == width and one.forwards == 2


def test_what_is_said_of_each_character_comes_in_the_order_of_the_text(poems):
    (detail,) = poems.detail(TEXT, "couplet:10")
    assert "".join(detail.characters) == UPPER + LOWER
    for k in (12,):
        holed = "".join(split_at_punctuation(TEXT))
        (restored,) = poems.restore(holed[:k] + "□" + holed[k + 1 :], "couplet:10", top=1, width=1)
        (chosen,) = poems.choose(holed[:k] + "{x}" + holed[k + 1 :], {"x": [holed[k], detail.best[k]]}, "couplet:10")
        odds = torch.tensor([-detail.nats[k], -detail.best_nats[k]], dtype=torch.float64).softmax(0)[0].item()
        assert holed[k] == detail.best[k] or chosen.slots["x"][holed[k]] == pytest.approx(odds, rel=1e-4)
        assert restored.gaps[0].fillings[0].text == detail.best[k]
    left, right = (poems.score(TEXT, "couplet:10", order=way)[0].nats_per_char for way in ("left", "right"))
    assert left != right
    gaps = poems.restore("□□" + TEXT[2:8] + "□" + TEXT[9:], "couplet:10", top=2)[0].gaps
    assert [len(gap.fillings[0].text) for gap in gaps] == [2, 1]


def test_the_order_from_the_left_is_that_of_the_text(poems):
    (score,) = poems.score(TEXT, "couplet:10", order="left")
    pages = [canvas.holed((UPPER + LOWER)[:k] + "□" * (20 - k), poems.model, couplet(10)) for k in range(20)]
    at = torch.stack([page.places(page.free)[0] for page in pages])
    hole = torch.zeros(20, len(pages[0].ids), dtype=torch.bool).scatter(1, at[:, None], True)
    x_t, level = torch.stack([page.ids for page in pages]), torch.stack([page.free for page in pages]).double()
    told = condition(poems.model, pages)
    with torch.no_grad():
        law = poems.model.predictor("mask")(Query(x_t, level, at=positions_of(hole), condition=told)).by_token()
    x0 = canvas.whole(TEXT, poems.model, couplet(10)).ids.expand(20, -1)
    wanted = law.nll(x0)[hole].sum().item() / 20
    assert score.nats_per_char == pytest.approx(wanted, rel=1e-5)


def test_revisions_keep_and_change_what_they_say(poems):
    (one,) = poems.refine(TEXT, "couplet:10", variations=1, level=0.5, keep=[1], freeze=[(2, 1)])
    after = split_at_punctuation(one.after)
    assert after[0] == UPPER and after[1][0] == LOWER[0] and one.changed
    told = [(change.line, change.character, change.old, change.new) for change in one.changed]
    assert told == [(2, k + 1, a, b) for k, (a, b) in enumerate(zip(LOWER, after[1], strict=True)) if a != b]
    variants = poems.augment(TEXT, form="couplet:10", n=2, strength=0.5, keep=["黄河入海流", "闻"], levels=0)
    for variant in variants:
        assert "黄河入海流，" in variant.text and variant.text[18] == "闻" and variant.text != TEXT


@pytest.mark.parametrize("process", ["mask", "replacement"])
@pytest.mark.parametrize("width", [9, 12])
def test_strict_tones_answer_each_other_and_the_lines_end_oblique_and_level(poems, width, process):
    form = couplet(width)
    assert form.host is not None
    for one in poems.generate(form.name, n=3, tones="strict", process=process, steps=4):
        upper, lower = one.lines
        for a, b, cell in zip(upper, lower, form.cells[:width], strict=True):
            column = cell % form.host.width
            if column % 2 == 1 and column != form.host.width - 2:  # of a line that is ppzpz in the place of ·p·zz
                assert {tone(a), tone(b)} & {"either"} or tone(a) != tone(b), one.text
        assert tone(upper[-1]) != "level" and tone(lower[-1]) != "oblique", one.text


def test_an_upper_line_that_keeps_no_tones_is_refused_by_its_own_line_and_character(poems):
    for text, says in (
        ("明明明明明白日依山明", r"'明' \(line 1, character 4; 平庚\)"),
        ("白日依山尽黄河入海流，" + "□" * 10, r"'流' \(line 1, character 10;"),
        ("□" * 10 + "，" + "光" * 10, r"'光' \(line 2, character 4;"),
        ("□" * 10 + "，" + "□" * 9 + "月", r"'月' \(line 2, character 10;"),
    ):
        with pytest.raises(AskedError, match=says):
            poems.fill(text, form="couplet:10", tones="strict")
    with pytest.raises(AskedError, match=r"\(line 1, character 5;"):
        poems.fill("□□□□光", form="couplet:5", tones="strict")


@pytest.mark.parametrize("width", [4, 11])
def test_what_is_checked_of_a_couplet_is_what_strict_tones_keep(width):
    form, characters = couplet(width), "天月看□"  # level, oblique, read both ways, open
    assert form.host is not None
    law = verse_law(form.host, Prosody(tones="strict"), characters, 3, torch.ones(4, dtype=torch.bool))
    kept, drawn = set[bool](), Rng([width]).uniform(60, 2 * width)[0]
    for row in drawn:
        kinds = (row * 2.3).long()
        for k in range(0, 2 * width, 3):  # half of what is asked of them, so that some keep it
            cell = form.cells[k]
            kinds[k] = int(
                line_template("aBbA"[cell // form.host.width % 4], form.host.width)[cell % form.host.width] == "z"
            )
        text = "".join(characters[k] for k in kinds)
        x = torch.full((1, form.host.length), 3)
        x[0, list(form.cells)] = kinds
        broken = check(text[:width] + "，" + text[width:], form).broken
        assert broken == (law.alive(law.known(x))[0] == 0).item(), text
        kept.add(broken)
    assert kept == {True, False} or width > 7


def test_a_couplet_without_a_form_is_not_judged_and_with_one_says_what_is_off():
    text = "海纳百川有容乃大，壁立千仞无欲则刚。"
    report = check(text, "couplet:8")
    assert check(text).verdict is None and report.verdict == "broken"
    assert any(finding.name == "拗句" and finding.breaks for finding in report.findings)
    assert "couplet:8 · 仄起: breaks" in describe(report)
    assert check("白日依山尽，黄河入海流。", "couplet:5").verdict == "ok"
    assert check("天天月天月，月月天天天。", "couplet:5").verdict == "ok", "特拗"


@pytest.mark.parametrize("form", ["couplet:7", "couplet:11", "卜算子"])
def test_a_writer_reads_what_stands_before_where_the_rest_of_an_octave_stays_unknown(form):
    pipe = TextPipeline(ordered_model())
    (plain,) = pipe.generate(form, temperature=0)
    (matched,) = pipe.generate(form, temperature=0, match="(?s).*")
    assert matched.text == plain.text and matched.forwards == plain.forwards
    (strict,) = pipe.generate(form, temperature=0, tones="strict")
    assert strict.text[0] == plain.text[0] or form == "卜算子", "the tone of the first character is free"
