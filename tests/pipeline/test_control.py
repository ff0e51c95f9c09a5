"""What a caller may ask of a text: prosody, keywords, guidance, particles, candidates; and what is told of it afterwards."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from tiny import RHYMES, network, poem_model, sentence_model
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.networks.folder import SLOTS
from textdiff.pipeline.run import COLDEST
from textdiff.pipeline.text import Output, Pipeline
from textdiff.shaping.tokens import guided
from textdiff.verse.forms import FORMS, LICENSED_B, SEQUENCES, TYPES, line_types, regulated, widened
from textdiff.verse.prosody import place_keyword
from textdiff.verse.sounds import rhyme_groups, tone

POEMS, WORDS = Pipeline(poem_model()), Pipeline(sentence_model())
SMALL = {"form": "wuyan-jueju", "steps": 4}
STRICT = SMALL | {"prosody": "strict"}
HOLED = "白_依山_，__入海流。\n欲穷___，更__层_。"


@cache
def of_all_characters() -> Pipeline:
    """The characters of the packaged model under a small random network, which is told titles and dynasties."""
    model = Pipeline.from_pretrained().model
    model = model.with_network(network(len(model.tokenizer)))
    return Pipeline(dataclasses.replace(model, told=SLOTS, defaults=model.defaults | {"steps": None}))


def texts(outputs: Sequence[Output]) -> list[str]:
    return [output.text for output in outputs]


def fits(line: str, pattern: str) -> bool:
    wrong = {"p": "oblique", "z": "level", "·": ""}
    return len(line) == len(pattern) and not any(
        tone(c) in (wrong[m], "unknown") for c, m in zip(line, pattern, strict=True)
    )


def keeps(
    lines: Sequence[str], opening: str, group: str | None = None, avoid: Sequence[str] = (), among: slice = slice(None)
) -> bool:
    """Whether lines `among` those of an octave or quatrain keep one sequence and its rhyme, from the definition."""
    whole = 4 if len(lines) == 4 else 8
    types, numbers = line_types(opening, whole)[among], range(whole)[among]
    words = [line[-1] for k, line in zip(numbers, lines, strict=True) if k % 2 or (k == 0 and types[0] in "AB")]
    held = frozenset.intersection(*map(rhyme_groups, words))
    if len(set(words)) < len(words) or not (held if group is None else group in held):
        return False
    for kind, line in zip(types, lines, strict=True):
        patterns = [TYPES[kind]] + [LICENSED_B] * (kind == "b")
        if not any(fits(line, widened(pattern, len(line))) for pattern in patterns):
            return False
        first, third = line[-5], line[-3]
        if kind == "B" and "guping" in avoid and tone(first) == tone(third) == "oblique":
            return False
        if kind == "A" and "sanpingwei" in avoid and tone(third) == "level":
            return False
    return True


def kept(poem: Output, openings: Sequence[str] = tuple(SEQUENCES), **asked: Any) -> bool:
    return any(keeps(poem.lines, opening, **asked) for opening in openings)


# -- prosody --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["mask", "replacement"])
@pytest.mark.parametrize("form", [*FORMS, "couplet:5", "couplet:7"])
def test_a_strict_poem_keeps_its_tones_and_rhyme_in_every_form(form: str, process: str) -> None:
    told = {"among": slice(2, 4)} if form.startswith("couplet") else {}
    for poem in of_all_characters().generate(form=form, n=2, seed=5, steps=4, process=process, prosody="strict"):
        assert poem.form == form and kept(poem, **told), poem.text
        assert told or regulated(poem.lines)


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_what_is_given_stays_when_holes_are_filled_strictly(process: str) -> None:
    for steps in (4, None):
        (poem,) = of_all_characters().fill(HOLED, process=process, steps=steps, prosody="strict")
        assert kept(poem) and all(a in ("_", b) for a, b in zip(HOLED, poem.text, strict=True)), poem.text


def test_strict_verse_at_temperature_0_is_the_likeliest_that_fits() -> None:
    """Not below the temperature at which the tokens that fit can still be told apart where one that does not is likelier."""
    settings = STRICT | {"n": 2, "sampler": "confidence", "steps": None}
    zero, coldest = (of_all_characters().generate(temperature=t, **settings) for t in (0, COLDEST))
    assert texts(zero) == texts(coldest) and all(map(kept, zero))


PAIRED: dict[str, dict[str, Any]] = {
    "mask": {"prosody": "strict"},
    "replacement": {"prosody": "strict", "process": "replacement"},
    "replacement, one at a time": {"prosody": "strict", "process": "replacement", "steps": None, "template": HOLED},
    "keyword": {"prosody": "strict", "keyword": "明月", "acrostic": "山_明_", "no_repeat": True},
    "particles": {"prosody": "strict", "particles": 2},
    "candidates": {"best_of": 3},
    "prefer": {"prosody": "prefer:3", "keyword": "明月"},
}


def test_rhymes_too_few_to_be_exchanged_are_refused_to_the_replacement_process_alone() -> None:
    asked = {"form": "wuyan-jueju", "prosody": "strict", "rhyme": "七阳"}
    few, enough = poem_model(), poem_model(RHYMES)  # 6 and 9 words of that rhyme, 2 of which a quatrain takes
    assert regulated(Pipeline(few).generate(**asked)[0].lines)
    with pytest.raises(ValueError, match="no rhyme group asked for has"):
        Pipeline(few).generate(process="replacement", **asked)
    assert regulated(Pipeline(enough).generate(process="replacement", **asked)[0].lines)


@pytest.mark.parametrize("name", PAIRED)
def test_a_row_does_not_notice_its_neighbours(name: str) -> None:
    settings, n = SMALL | PAIRED[name], 3
    pipe = of_all_characters() if settings.get("prosody") == "strict" else POEMS
    together = pipe.generate(n=n, seed=3, **settings)
    assert len(set(texts(together))) == n
    assert together == pipe.generate(n=n, seed=3, batch_size=2, **settings)
    assert together[1] == pipe.generate(seed=4, batch_size=1, **settings)[0]


@pytest.mark.parametrize(("process", "sampler"), [("mask", "gibbs"), ("replacement", "gibbs"), ("uniform", "improved")])
def test_nor_does_it_where_a_keyword_takes_more_of_another_row(process: str, sampler: str) -> None:
    """Rows whose keyword covers the given character have one free position more than the others."""
    options = {"sweeps": 0.5} if sampler == "gibbs" else None
    settings = {"form": "wuyan-jueju", "process": process, "sampler": sampler, "sampler_options": options}
    settings |= {"acrostic": "明___", "keyword": "明月"}
    together = POEMS.generate(n=12, **settings)
    taken = [poem.text.startswith("明月") for poem in together]
    rows = [taken.index(True), taken.index(False), 11]
    assert [together[k] for k in rows] == [POEMS.generate(seed=k, **settings)[0] for k in rows]


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_a_pattern_a_group_and_what_to_avoid_are_kept(process: str) -> None:
    pipe, asked = of_all_characters(), SMALL | {"n": 2, "process": process}
    for pattern in ("平起首句入韵", "仄起首句不入韵"):
        opening = [o for o, names in SEQUENCES.items() if names[0] == pattern]
        assert all(kept(poem, opening) for poem in pipe.generate(tones=pattern, rhyme="strict", **asked))
    for poem in pipe.generate(prosody="strict", rhyme="七阳", tones="首句入韵", **asked):
        assert kept(poem, ["ABbA", "BAaB"], group="平阳")
    for poem in pipe.generate(rhyme="七阳", **asked):
        assert all("平阳" in rhyme_groups(line[-1]) for line in poem.lines[1::2])
    wild = asked | {"n": 8, "prosody": "strict", "temperature": 20}  # both faults are as likely as not
    for avoid, known in (("孤平", ("guping",)), ("三平尾", ("sanpingwei",)), ("孤平,三平尾", ("guping", "sanpingwei"))):
        assert all(kept(poem, avoid=known) for poem in pipe.generate(avoid=avoid, **wild | {"n": 4}))
    assert not all(kept(poem, avoid=("guping", "sanpingwei")) for poem in pipe.generate(**wild))


def test_no_character_stands_twice_where_that_is_asked() -> None:
    pipe, asked = of_all_characters(), {"form": "qiyan-jueju", "n": 4}
    plain = pipe.generate(steps=4, **asked)
    alone = pipe.generate(steps=4, no_repeat=True, **asked)
    strict = pipe.generate(steps=4, no_repeat=True, prosody="strict", **asked)
    edits = pipe.generate(no_repeat=True, prosody="strict", process="replacement", **asked | {"n": 1})
    assert any(len(set("".join(poem.lines))) < 28 for poem in plain)
    for poem in (*alone, *strict, *edits):
        assert len(set("".join(poem.lines))) == 28
    assert all(map(kept, (*strict, *edits)))


def test_prefer_leans_and_weighs() -> None:
    def broken(outputs: Sequence[Output]) -> int:
        """Oblique ends of even lines, and second characters with the tone of the fourth."""
        return sum(
            (tone(line[-1]) == "oblique") * (k % 2) + (tone(line[1]) == tone(line[3]) != "either")
            for poem in outputs
            for k, line in enumerate(poem.lines)
        )

    plain, none, soft, firm = (
        POEMS.generate(form="wuyan-jueju", n=16, prosody=prosody)
        for prosody in ("off", "prefer:0", "prefer:2", "prefer:20")
    )
    assert broken(plain) > 2 * broken(soft) > 2 * broken(firm) and texts(none) == texts(plain)
    tones, rhyme = (POEMS.generate(form="wuyan-jueju", n=16, **{part: "prefer:20"}) for part in ("tones", "rhyme"))
    assert broken(plain) > broken(rhyme) > broken(tones)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"acrostic_end": "_月__"}, r"'月' \(line 2, character 5; 入月\) does not fit"),
        ({"acrostic_end": "_东__", "rhyme": "七阳"}, r"'东' \(line 2, character 5; 平东\) does not fit"),
        ({"acrostic_end": "_光_光"}, r"'光' \(line 4, character 5;"),
        ({"acrostic": "明_明_", "no_repeat": True}, r"'明' \(line 3, character 1\) stands there once more"),
        (
            {"particles": 2, "process": "replacement"},
            "particles is 2, which serves strict prosody under the mask process",
        ),
        ({"particles": 2, "prosody": None}, "particles is 2, which serves strict prosody"),
        ({"particles": 0}, "particles is 0; it must be at least 1"),
        ({"best_of": 0}, "best_of is 0; it must be at least 1"),
        ({"best_of": 0, "quality": "best"}, "best_of is 0; it must be at least 1"),
        ({"no_repeat": True, "process": "replacement"}, "no_repeat under the replacement process needs single edits"),
        ({"guidance": 1.5}, "guidance is 1.5, but there is no title or dynasty"),
        ({"guidance": math.nan, "title": "明月"}, "guidance is nan; it must be a number"),
        ({"quality": "bets"}, "unknown quality 'bets'.*did you mean 'best'"),
        ({"avoid": "上尾"}, "avoid is '上尾'; what can be avoided is guping"),
        ({"prosody": "strickt"}, "prosody is 'strickt'; it must be strict, prefer"),
        ({"rhyme": "六阳"}, "unknown rhyme '六阳'.*did you mean '七阳'"),
        ({"tones": "平起首句"}, None),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(settings: dict[str, Any], says: str | None) -> None:
    if says is None:
        assert all(kept(poem, ["bAaB", "BAaB"]) for poem in of_all_characters().generate(**STRICT | settings))
        return
    with pytest.raises(ValueError, match=says) as error:
        of_all_characters().generate(**STRICT | settings)
    assert "\n" not in str(error.value)


def test_prosody_needs_a_poem_and_a_process_that_keeps_it() -> None:
    with pytest.raises(ValueError, match=r"strict prosody is kept by the processes mask, .*replacement, not 'uniform'"):
        POEMS.generate(process="uniform", prosody="strict")
    for prosody in ("strict", "prefer"):
        with pytest.raises(ValueError, match="tones and rhyme belong to poems"):
            WORDS.fill("the _ sat", prosody=prosody)
    with pytest.raises(ValueError, match="text 2: '月'"):
        of_all_characters().fill(["白日依山_", "白日依山_，黄河入海月。欲穷千里_，更上一层_。"], prosody="strict")


def test_a_stream_is_checked_at_the_door_and_ends_as_generate_does() -> None:
    *_, last = of_all_characters().stream(keyword="明月", **STRICT)
    assert list(last.texts) == texts(of_all_characters().generate(keyword="明月", **STRICT))
    with pytest.raises(ValueError, match=r"'月'.*does not fit"):
        of_all_characters().stream(acrostic_end="_月__", **STRICT)
    for more in ({"best_of": 2}, {"particles": 2}, {"quality": "best"}):
        with pytest.raises(ValueError, match="a stream shows one chain a text"):
            of_all_characters().stream(**STRICT | more)


# -- keyword --------------------------------------------------------------------------------------------------------------


def within_a_line(poem: Output, keyword: str) -> list[int]:
    return [k * len(line) + line.index(keyword) for k, line in enumerate(poem.lines) if keyword in line]


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_a_keyword_stands_in_one_line_at_places_that_vary(process: str) -> None:
    places = [within_a_line(p, "明月") for p in POEMS.generate(n=24, process=process, keyword="明月", **SMALL)]
    assert all(places) and len({place[0] for place in places}) > 2
    long = POEMS.generate(n=4, process=process, keyword="明月白山里", **SMALL)
    assert all("明月白山里" in poem.lines for poem in long)


def test_a_keyword_stands_where_the_model_would_have_it() -> None:
    """P(place) ∝ Π q of its characters there; not across lines, not over other characters."""
    n, logits, ids = 4000, Rng([7]).normal(20, 9)[0], [3, 4]
    given, free = torch.full((n, 20), 8), torch.ones(n, 20, dtype=torch.bool)
    given[:, 1], free[:, 1] = 5, False
    at = positions_of(free)
    prediction = Categorical(lambda index: logits[at[1][index]], at, given)
    placed, left = place_keyword(prediction, None, ids, given, free, 5, rng=Rng(range(n)))
    starts = [k for k in range(19) if k % 5 < 4 and k > 1]
    log_q = logits.log_softmax(-1)
    law = torch.stack([log_q[k, 3] + log_q[k + 1, 4] for k in starts]).softmax(0)
    first = (placed == 3).long().argmax(-1)
    found = torch.stack([(first == k).double().mean() for k in starts])
    assert found.sum() == 1 and (found - law).abs().sum() < 0.06
    assert torch.equal(free & ~left, (placed != given)) and ((placed != given).sum(-1) == 2).all()


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_a_keyword_given_characters_and_strict_prosody_go_together(process: str) -> None:
    for poem in of_all_characters().generate(n=4, process=process, keyword="明月", acrostic="春_山_", **STRICT):
        assert within_a_line(poem, "明月") and kept(poem) and (poem.lines[0][0], poem.lines[2][0]) == ("春", "山")
    (poem,) = of_all_characters().fill(HOLED, process=process, keyword="明月", prosody="strict")
    assert within_a_line(poem, "明月") and kept(poem) and poem.lines[1].endswith("入海流")


def test_a_keyword_may_be_there_already_and_is_read_in_the_models_characters() -> None:
    (poem,) = of_all_characters().fill("床前明月光，_____。\n举头望__，_____。", keyword="明月", steps=4)
    assert within_a_line(poem, "明月")
    pytest.importorskip("opencc")
    (poem,) = of_all_characters().generate(keyword="遠見", **SMALL)
    assert within_a_line(poem, "远见")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"keyword": "明月松间照我"}, "keyword of 6 characters fits no place: lines have 5 characters"),
        ({"keyword": "月月日日", "prosody": "strict"}, "fits no place"),  # oblique second and fourth characters
        ({"keyword": "明月", "template": "床前看地光，疑是地上霜。举头望山_，低头思故_。"}, "fits no place"),
        ({"keyword": "明明", "no_repeat": True}, "fits no place"),
        ({"keyword": "明月", "acrostic": "月_明_", "no_repeat": True}, "fits no place"),
        ({"keyword": "ab"}, "keyword 'ab' is empty or outside the model's vocabulary"),
        ({"keyword": ""}, "keyword '' is empty"),
        ({"keyword": "[MASK]"}, "outside the model's vocabulary"),
        ({"keyword": "明，月"}, "outside the model's vocabulary"),
    ],
)
def test_a_keyword_that_cannot_be_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("[", r"\[")):
        of_all_characters().generate(**SMALL | settings)


def test_a_keyword_that_contradicts_the_rhyme_everywhere_is_refused() -> None:
    """Only the end of the second line is open, and must rhyme."""
    open_end = "白日依山尽，黄河入海_。欲穷千里目，更上一层楼。"
    assert of_all_characters().fill(open_end, keyword="流", prosody="strict")[0].lines[1] == "黄河入海流"
    assert of_all_characters().fill(open_end, keyword="楼", prosody="strict")[0].lines[3] == "更上一层楼", (
        "it is there already"
    )
    for wrong in ("光", "月"):
        with pytest.raises(ValueError, match="fits no place"):
            of_all_characters().fill(open_end, keyword=wrong, prosody="strict")


# -- guidance -------------------------------------------------------------------------------------------------------------


def test_guidance_is_its_closed_form() -> None:
    """Rows of the condition: 1 is told something, 0 nothing."""
    logits = Rng([0]).normal(2, 6, 9)[0]
    logits[0, 0, 0] = logits[1, 1, 1] = logits[0, 2, 2] = logits[1, 2, 2] = -torch.inf
    at = (torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 0, 1, 0, 1]))

    def predictor(query: Query) -> Categorical:
        x_t, at, condition = query.x_t, query.at, query.condition
        return Categorical(lambda index: logits[int(condition.any()), index], at, x_t)

    def law(scale: float) -> Tensor:
        x = torch.zeros(3, 2, dtype=torch.long)
        wrapped = guided(predictor, scale, torch.zeros_like)
        return wrapped(Query(x, torch.ones(3, 2), at=at, condition=torch.ones(3, 1))).logits().log_softmax(-1)

    assert guided(predictor, 1, torch.zeros_like) is predictor
    told, alone = logits[1].log_softmax(-1), logits[0].log_softmax(-1)
    either = (told == -torch.inf) | (alone == -torch.inf)
    assert either.sum() == 3
    assert torch.equal(law(1), told)
    assert torch.equal(law(0), alone)
    for scale in (0.5, 1.5, -1.0):
        p = torch.where(either, 0.0, alone.exp() ** (1 - scale) * told.exp() ** scale)
        found = law(scale)
        assert not found.isnan().any() and torch.equal(found == -torch.inf, either)
        torch.testing.assert_close(found.exp(), p / p.sum(-1, keepdim=True))


def test_nothing_told_takes_title_and_dynasty_away_and_nothing_else() -> None:
    model = POEMS.model
    full = model.condition(2, form="wuyan-jueju", process="mask", title=["明月", "春"], dynasty="tang")
    assert torch.equal(model.untold(full), model.condition(2, form="wuyan-jueju", process="mask"))
    for alone in ({"title": "明月"}, {"dynasty": "song"}):
        assert torch.equal(model.untold(model.condition(1, **alone)), model.condition(1))


def test_guidance_moves_texts_towards_what_is_told() -> None:
    settings = SMALL | {"title": "明月", "dynasty": "tang", "n": 2}
    zero, one, more = (texts(POEMS.generate(guidance=g, **settings)) for g in (0, 1, 1.5))
    assert zero == texts(POEMS.generate(n=2, **SMALL)) and one == texts(POEMS.generate(**settings))
    assert more not in (zero, one)
    plain = Pipeline(dataclasses.replace(POEMS.model, told=SLOTS[:3]))
    with pytest.raises(ValueError, match="cannot be told a title"):
        plain.generate(guidance=1.5, title="明月")
