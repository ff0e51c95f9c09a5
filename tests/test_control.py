"""What a caller may ask of a text: prosody, keywords, guidance, particles, candidates; and what is told of it afterwards."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import QUATRAIN, RHYMES, poem_model, sentence_model
from torch import Tensor

from textdiff import cli
from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.networks.folder import SLOTS
from textdiff.pipeline import canvas
from textdiff.pipeline import run as running
from textdiff.pipeline.options import QUALITIES, Options
from textdiff.pipeline.outputs import merit
from textdiff.pipeline.score import MERIT_LEVELS
from textdiff.pipeline.text import Output, Pipeline
from textdiff.shaping.tokens import guided
from textdiff.verse.forms import FORMS, LICENSED_B, SEQUENCES, TYPES, get_form, line_types, regulated, widened
from textdiff.verse.prosody import place_keyword
from textdiff.verse.sounds import rhyme_groups, tone

POEMS, WORDS = Pipeline(poem_model()), Pipeline(sentence_model())
SMALL = {"form": "wuyan-jueju", "steps": 4}
STRICT = SMALL | {"prosody": "strict"}


@cache
def packaged() -> Pipeline:
    """The packaged model, told titles and dynasties whether it was trained to or not."""
    pipe = Pipeline.from_pretrained()
    return Pipeline(dataclasses.replace(pipe.model, told=SLOTS, defaults=pipe.model.defaults | {"steps": None}))


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
    for poem in packaged().generate(form=form, n=2, seed=5, steps=4, process=process, prosody="strict"):
        assert poem.form == form and kept(poem, **told), poem.text
        assert told or regulated(poem.lines)


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_what_is_given_stays_when_holes_are_filled_strictly(process: str) -> None:
    holed = "白_依山_，__入海流。\n欲穷___，更__层_。"
    for steps in (4, None):
        (poem,) = packaged().fill(holed, process=process, steps=steps, prosody="strict")
        assert kept(poem) and all(a in ("_", b) for a, b in zip(holed, poem.text, strict=True)), poem.text


PAIRED: dict[str, dict[str, Any]] = {
    "mask": {"prosody": "strict"},
    "replacement": {"prosody": "strict", "process": "replacement"},
    "replacement, one at a time": {"prosody": "strict", "process": "replacement", "steps": None},
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
    settings, n = SMALL | PAIRED[name], 8 if name == "mask" else 5
    pipe = packaged() if settings.get("prosody") == "strict" else POEMS
    together = pipe.generate(n=n, seed=3, **settings)
    assert len(set(texts(together))) == n
    assert together == pipe.generate(n=n, seed=3, batch_size=3, **settings)
    assert together[2::3] == [pipe.generate(seed=3 + k, batch_size=1, **settings)[0] for k in range(2, n, 3)]


@pytest.mark.parametrize(("process", "sampler"), [("mask", "gibbs"), ("replacement", "gibbs"), ("uniform", "improved")])
def test_nor_does_it_where_a_keyword_takes_more_of_another_row(process: str, sampler: str) -> None:
    """Rows whose keyword covers the given character have one free position more than the others."""
    options = {"sweeps": 0.5} if sampler == "gibbs" else None
    settings = {"form": "wuyan-jueju", "process": process, "sampler": sampler, "sampler_options": options}
    settings |= {"acrostic": "明___", "keyword": "明月"}
    together = POEMS.generate(n=12, **settings)
    assert 0 < sum(poem.text.startswith("明月") for poem in together) < 12
    assert together == [POEMS.generate(seed=k, **settings)[0] for k in range(12)]


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_a_pattern_a_group_and_what_to_avoid_are_kept(process: str) -> None:
    pipe, asked = packaged(), SMALL | {"n": 4, "process": process}
    for pattern in ("平起首句入韵", "仄起首句不入韵"):
        opening = [o for o, names in SEQUENCES.items() if names[0] == pattern]
        assert all(kept(poem, opening) for poem in pipe.generate(tones=pattern, rhyme="strict", **asked))
    for poem in pipe.generate(prosody="strict", rhyme="七阳", tones="首句入韵", **asked):
        assert kept(poem, ["ABbA", "BAaB"], group="平阳")
    for poem in pipe.generate(rhyme="七阳", **asked):
        assert all("平阳" in rhyme_groups(line[-1]) for line in poem.lines[1::2])
    wild = asked | {"n": 8, "prosody": "strict", "temperature": 20}  # both faults are as likely as not
    for avoid, known in (("孤平", ("guping",)), ("三平尾", ("sanpingwei",)), ("孤平,三平尾", ("guping", "sanpingwei"))):
        assert all(kept(poem, avoid=known) for poem in pipe.generate(avoid=avoid, **wild))
    assert not all(kept(poem, avoid=("guping", "sanpingwei")) for poem in pipe.generate(**wild))


def test_no_character_stands_twice_where_that_is_asked() -> None:
    pipe, asked = packaged(), {"form": "qiyan-jueju", "n": 4}
    plain = pipe.generate(steps=4, **asked)
    alone = pipe.generate(steps=4, no_repeat=True, **asked)
    strict = pipe.generate(steps=4, no_repeat=True, prosody="strict", **asked)
    edits = pipe.generate(no_repeat=True, prosody="strict", process="replacement", **asked | {"n": 2})
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
        assert all(kept(poem, ["bAaB", "BAaB"]) for poem in packaged().generate(**STRICT | settings))
        return
    with pytest.raises(ValueError, match=says) as error:
        packaged().generate(**STRICT | settings)
    assert "\n" not in str(error.value)


def test_prosody_needs_a_poem_and_a_process_that_keeps_it() -> None:
    with pytest.raises(ValueError, match="strict prosody is kept by the processes mask and replacement, not 'uniform'"):
        POEMS.generate(process="uniform", prosody="strict")
    for prosody in ("strict", "prefer"):
        with pytest.raises(ValueError, match="tones and rhyme belong to poems"):
            WORDS.fill("the _ sat", prosody=prosody)
    with pytest.raises(ValueError, match="text 2: '月'"):
        packaged().fill(["白日依山_", "白日依山_，黄河入海月。欲穷千里_，更上一层_。"], prosody="strict")


def test_a_stream_is_checked_at_the_door_and_ends_as_generate_does() -> None:
    *_, last = packaged().stream(keyword="明月", **STRICT)
    assert list(last.texts) == texts(packaged().generate(keyword="明月", **STRICT))
    with pytest.raises(ValueError, match=r"'月'.*does not fit"):
        packaged().stream(acrostic_end="_月__", **STRICT)
    for more in ({"best_of": 2}, {"particles": 2}, {"quality": "best"}):
        with pytest.raises(ValueError, match="a stream shows one chain a text"):
            packaged().stream(**STRICT | more)


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
    for poem in packaged().generate(n=4, process=process, keyword="明月", acrostic="春_山_", **STRICT):
        assert within_a_line(poem, "明月") and kept(poem) and (poem.lines[0][0], poem.lines[2][0]) == ("春", "山")
    (poem,) = packaged().fill(
        "白_依山_，__入海流。\n欲穷___，更__层_。", process=process, keyword="明月", prosody="strict"
    )
    assert within_a_line(poem, "明月") and kept(poem) and poem.lines[1].endswith("入海流")


def test_a_keyword_may_be_there_already_and_is_read_in_the_models_characters() -> None:
    (poem,) = packaged().fill("床前明月光，_____。\n举头望__，_____。", keyword="明月", steps=4)
    assert within_a_line(poem, "明月")
    pytest.importorskip("opencc")
    (poem,) = packaged().generate(keyword="遠見", **SMALL)
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
        packaged().generate(**SMALL | settings)


def test_a_keyword_that_contradicts_the_rhyme_everywhere_is_refused() -> None:
    """Only the end of the second line is open, and must rhyme."""
    open_end = "白日依山尽，黄河入海_。欲穷千里目，更上一层楼。"
    assert packaged().fill(open_end, keyword="流", prosody="strict")[0].lines[1] == "黄河入海流"
    assert packaged().fill(open_end, keyword="楼", prosody="strict")[0].lines[3] == "更上一层楼", "it is there already"
    for wrong in ("光", "月"):
        with pytest.raises(ValueError, match="fits no place"):
            packaged().fill(open_end, keyword=wrong, prosody="strict")


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
    for scale in (0.0, 0.5, 1.5, -1.0):
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


# -- particles, candidates, quality ---------------------------------------------------------------------------------------


def test_one_particle_is_the_plain_chain_with_its_weight() -> None:
    plain, weighed = packaged().generate(n=3, **STRICT), packaged().generate(n=3, particles=1, **STRICT)
    assert texts(weighed) == texts(plain)
    assert all(poem.log_weight is None for poem in plain)
    assert all(math.isfinite(poem.log_weight) and poem.log_weight for poem in weighed)
    assert [poem.forwards for poem in weighed] == [4] * 3
    several = packaged().generate(n=3, particles=3, **STRICT)
    assert all(math.isfinite(poem.log_weight) and kept(poem) for poem in several)
    assert [poem.forwards for poem in several] == [12] * 3


def merits(pipe: Pipeline, found: Sequence[str], form: str, title: str | None = None) -> Tensor:
    """Broken verse, then nats a character, by the public calls."""
    scores = pipe.score(found, process="mask", levels=MERIT_LEVELS, repeats=1, title=title)
    details = pipe.detail(found, title=title)
    broken = [not regulated(get_form(form).split(text)) for text in found]
    nats = [sum(d.nats) / len(d.nats) + s.nats_per_char for s, d in zip(scores, details, strict=True)]
    return torch.tensor([100 * b + n for b, n in zip(broken, nats, strict=True)], dtype=torch.float64)


def test_merit_is_broken_verse_then_nats_under_what_is_told() -> None:
    pipe = packaged()
    texts = [pipe.generate(**STRICT)[0].text, QUATRAIN]
    whole = canvas.about_all(canvas.read_all(canvas.whole, texts, pipe.model), pipe.model, "静夜思", None)
    rank = merit(pipe.model, whole, torch.stack([one.ids for one in whole]), "mask")
    torch.testing.assert_close(rank, merits(pipe, texts, "wuyan-jueju", "静夜思"), rtol=0, atol=1e-4)
    assert rank[0] < 50 < 100 < rank[1]


def candidates(pipe: Pipeline, n: int, seed: int, **settings: Any) -> tuple[list[str], Tensor]:
    """Candidates 0 … n − 1 of a seed, drawn one by one, and their merits."""
    plan = pipe.plan(**{name: value for name, value in settings.items() if name != "form"})
    page = canvas.open_page(pipe.model, Options(form=settings["form"]))
    page = canvas.about(page, pipe.model, settings.get("title"), None)
    found = []
    for j in range(n):
        (batch,) = running.run(pipe.model, plan, [page], [seed], streams=[j])
        *_, state = batch.states
        found.append(page.text(state.x[0]))
    return found, merits(pipe, found, settings["form"], settings.get("title"))


@pytest.mark.parametrize(
    "more", [{}, {"process": "replacement", "prosody": "strict"}, {"title": "明月", "temperature": 1.3}]
)
def test_the_best_candidate_has_the_least_merit(more: dict[str, Any]) -> None:
    pipe, settings = packaged() if "prosody" in more else POEMS, SMALL | more
    found, rank = candidates(pipe, 3, 2, **settings)
    assert len(set(found)) == 3 and found[0] == pipe.generate(seed=2, **settings)[0].text
    (best,) = pipe.generate(seed=2, best_of=3, **settings)
    assert best.text == found[int(rank.argmin())] and best.forwards == 12
    assert pipe.generate(seed=2, best_of=1, **settings) == pipe.generate(seed=2, **settings)


def test_candidates_and_particles_together_give_a_weighed_poem() -> None:
    (poem,) = packaged().generate(best_of=2, particles=2, **STRICT)
    assert kept(poem) and math.isfinite(poem.log_weight) and poem.forwards == 16


def test_a_quality_stands_for_steps_and_candidates() -> None:
    assert set(QUALITIES) == {"draft", "good", "best"}
    for quality, told in QUALITIES.items():
        plan = POEMS.plan(quality=quality)
        assert (plan.steps, plan.best_of) == (told.get("steps"), told.get("best_of", 1))
        (poem,) = POEMS.generate(form="wuyan-jueju", quality=quality)
        assert [poem] == POEMS.generate(form="wuyan-jueju", **told)
    assert POEMS.plan(quality="draft", steps=3).steps == 3
    assert POEMS.plan(quality="best", best_of=2).best_of == 2
    assert POEMS.plan().steps is None and POEMS.plan().best_of == 1


# -- detail, retrieval, evaluation ----------------------------------------------------------------------------------------


def test_detail_is_the_probability_of_each_character_given_the_others() -> None:
    model = POEMS.model
    (detail,) = POEMS.detail(QUATRAIN, title="明月", batch_size=7)
    ids = model.encode(["".join(detail.characters)])
    assert "".join(detail.characters) == "床前明月光疑是地上霜举头望明月低头思故乡" and detail.form == "wuyan-jueju"
    told = model.condition(1, form="wuyan-jueju", title="明月")
    for place in (0, 7, 19):
        hole = torch.arange(20)[None] == place
        with torch.inference_mode():
            x = ids.masked_fill(hole, model.mask_id)
            q = model.predictor("mask")(
                Query(x, hole / 20, at=(torch.tensor([0]), torch.tensor([place])), condition=told)
            )
        log_q = q.logits()[0].double().log_softmax(-1)
        assert detail.nats[place] == pytest.approx(-log_q[ids[0, place]].item(), abs=1e-4)
        assert detail.best_nats[place] == pytest.approx(-log_q.max().item(), abs=1e-4)
        assert model.tokenizer.convert_tokens_to_ids(detail.best[place]) == log_q.argmax().item()
    assert all(least <= nats for least, nats in zip(detail.best_nats, detail.nats, strict=True))
    assert detail.nats != POEMS.detail(QUATRAIN)[0].nats


def test_detail_takes_unknown_characters_and_several_texts() -> None:
    strange = QUATRAIN.replace("床", "𠮷").replace("乡", "a")
    one, other = POEMS.detail([strange, QUATRAIN], title=["明月", None])
    assert one.text == strange and len(one.nats) == 20 and all(map(math.isfinite, one.nats))
    assert other == POEMS.detail(QUATRAIN)[0]
    with pytest.raises(ValueError, match="title has 2 values for 1 texts"):
        POEMS.detail(QUATRAIN, title=["明月", "春"])
    masked = dataclasses.replace(POEMS.model, processes=("replacement",))
    with pytest.raises(ValueError, match="does not serve the mask process"):
        Pipeline(masked).detail(QUATRAIN)


class Echo:
    """A poem model that believes in the characters of the title."""

    def __init__(self, hears: bool) -> None:
        self.parts, self.hears = POEMS.model, hears

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parts, name)

    def predictor(self, process: str) -> Any:
        def predict(query: Query) -> Categorical:
            x_t, at, condition = query.x_t, query.at, query.condition
            logits = torch.zeros(len(condition), len(self.tokenizer))
            start = self.prefix.index("title")
            logits = logits.scatter(1, condition[:, start:], 3.0 * self.hears)
            return Categorical(lambda index: logits[at[0][index]], at, x_t)

        return predict


def test_a_poem_finds_its_title_where_the_model_hears_it() -> None:
    titles = ["明月", "春风", "山河", "白日", "落花"]
    records = [{"text": (title * 10), "form": "wuyan-jueju", "title": title} for title in titles]
    records.append({"text": QUATRAIN, "title": "  "})
    found = Pipeline(Echo(True)).retrieve(records, titles=3)  # type: ignore[arg-type]
    assert found == {"top1": 1.0, "standard_error": 0.0, "chance": 1 / 3, "texts": 5}
    deaf = Pipeline(Echo(False)).retrieve(records, titles=3)  # type: ignore[arg-type]
    assert deaf["top1"] == 0, "a tie is no success"
    assert POEMS.retrieve(records, titles=5) == POEMS.retrieve(records, titles=5, batch_size=4)


def test_retrieval_says_what_it_lacks() -> None:
    records = [{"text": QUATRAIN, "title": title} for title in ("明月", "春风")]
    plain = Pipeline(dataclasses.replace(POEMS.model, told=SLOTS[:3]))
    for pipe, told, titles, says in (
        (plain, records, 2, "cannot be told a title"),
        (POEMS, records, 3, "2 different titles of one form are too few to choose among 3"),
        (POEMS, records, 1, "titles is 1; it must be at least 2"),
        (POEMS, [{"text": QUATRAIN}], 2, "no poem with a title"),
    ):
        with pytest.raises(ValueError, match=says):
            pipe.retrieve(told, titles=titles)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model's folder, told that it may be told titles and dynasties."""
    target = tmp_path_factory.mktemp("models") / "told"
    shutil.copytree(str(resources.files("textdiff.networks") / "poems-zh"), target)
    described = json.loads((target / "textdiff.json").read_text(encoding="utf-8"))
    described["told"] = list(SLOTS)
    (target / "textdiff.json").write_text(json.dumps(described), encoding="utf-8")
    return target


def test_evaluation_tells_what_is_asked_for(folder: Path) -> None:
    pipe = Pipeline.from_pretrained(folder)
    records = [{"text": QUATRAIN, "title": "静夜思", "dynasty": "tang"}, {"text": QUATRAIN, "title": None}]

    def nats(records: Any, *conditions: str) -> float:
        return pipe.evaluate(records, levels=3, conditions=conditions)["all"]["nats_per_char"]

    assert len({nats(records[:1], *c) for c in ((), ("title",), ("dynasty",), ("title", "dynasty"))}) == 4
    assert nats(records[1:], "title") == nats(records[1:])
    (score,) = pipe.score(QUATRAIN, title="静夜思", dynasty="tang", levels=3, repeats=1)
    assert nats(records[:1], "title", "dynasty") == pytest.approx(score.nats_per_char, rel=1e-6)
    with pytest.raises(ValueError, match="unknown condition 'author'"):
        nats(records, "author")
    untold = Pipeline(dataclasses.replace(pipe.model, told=SLOTS[:3]))
    with pytest.raises(ValueError, match="cannot be told a title"):
        untold.evaluate(records, conditions=["title"])
    pytest.importorskip("opencc")
    old, new = (pipe.score(QUATRAIN, title=t, levels=2)[0].nats_per_char for t in ("靜夜思鄉", "静夜思乡"))
    assert old == new, "titles are read in the model's characters"


# -- command line ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command with the packaged model, which is loaded already: (exit code, stdout, stderr)."""
    whole = Pipeline.from_pretrained
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda model=None, **k: whole(model, **k) if model else packaged())

    def call(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


SHORT = ("--form", "wuyan-jueju", "--steps", 4)


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--prosody", "strict", "--particles", 2], {"prosody": "strict", "particles": 2}),
        (
            ["--tones", "仄起", "--rhyme", "七阳", "--avoid", "孤平"],
            {"tones": "仄起", "rhyme": "七阳", "avoid": "孤平"},
        ),
        (
            ["--keyword", "明月", "--no-repeat", "--quality", "draft"],
            {"keyword": "明月", "no_repeat": True, "steps": 4},
        ),
        (["--title", "明月", "--guidance", 1.5], {"title": "明月", "guidance": 1.5}),
    ],
)
def test_the_flags_of_generate_are_those_of_the_library(
    run: Any, flags: list[object], settings: dict[str, Any]
) -> None:
    code, out, err = run("generate", *SHORT, "-n", 2, "--seed", 1, *flags, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    expected = [dataclasses.asdict(poem) for poem in packaged().generate(n=2, seed=1, **SMALL | settings)]
    assert (code, err) == (0, "") and found == json.loads(json.dumps(expected))
    assert all(("particles" in settings) == isinstance(poem["log_weight"], float) for poem in found)


def test_holes_are_filled_strictly_from_the_command_line(run: Any) -> None:
    code, out, err = run(
        "fill", "白日依山_，____流。", "--form", "couplet:5", "--prosody", "strict", "--quality", "draft"
    )
    assert (code, err) == (0, "")
    upper, lower = out.strip().rstrip("。").split("，")
    poem = SimpleNamespace(lines=(upper, lower))
    assert kept(poem, among=slice(2, 4)) and lower.endswith("流")  # type: ignore[arg-type]


def test_a_file_is_evaluated_told_and_by_title(run: Any, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "poems.jsonl"
    poems = packaged().generate(n=3, **SMALL)
    rows = [
        {"text": p.text, "title": t, "dynasty": "song"} for p, t in zip(poems, ("明月", "春风", "山中"), strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pipe = Pipeline(packaged().model)
    flags = ("evaluate", path, "--levels", 2, "--json")
    for told, limit in (((), 3), (("title", "dynasty"), 2)):
        code, out, _ = run(*flags, "--model", folder, *(["--told", ",".join(told)] if told else []), "--limit", limit)
        expected = pipe.evaluate(rows[:limit], levels=2, conditions=told)["all"]
        assert code == 0 and json.loads(out)["all"] == pytest.approx(expected)
        assert json.loads(out)["all"]["texts"] == limit
    code, out, _ = run(*flags, "--model", folder, "--titles", 3)
    assert code == 0 and json.loads(out) == pipe.retrieve(rows, titles=3, levels=2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "--acrostic-end", "_月__", "--prosody", "strict", *SHORT], "line 2, character 5"),
        (["generate", "--prosody", "stric"], "prosody is 'stric'"),
        (["generate", "--rhyme", "九阳"], "did you mean '七阳'"),
        (["generate", "--tones", "平平"], "tones is '平平'"),
        (["generate", "--keyword", "ab"], "keyword 'ab'"),
        (["generate", "--best-of", "0"], "best_of is 0"),
        (["generate", "--quality", "high"], "unknown quality 'high'"),
        (["generate", "--guidance", "2"], "no title or dynasty"),
        (["fill", "白日依山_", "--particles", "2"], "particles is 2"),
        (["evaluate", "FILE", "--told", "author"], "unknown condition 'author'"),
        (["evaluate", "FILE", "--titles", "0"], "titles is 0"),
        (["evaluate", "FILE", "--limit", "0"], "--limit is 0"),
        (["evaluate", "FILE", "--limit", "-1"], "--limit is -1"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(run: Any, words: list[Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text(QUATRAIN.replace("\n", ""), encoding="utf-8")
    code, out, err = run(*[path if word == "FILE" else word for word in words])
    assert (code, out, err.count("\n")) == (2, "", 1) and says in err


def test_refreshed_replacement_is_refused_under_strict_prosody() -> None:
    from textdiff.pipeline.text import Pipeline

    with pytest.raises(ValueError, match="'refresh' mixes new noise with old"):
        Pipeline.from_pretrained().plan(sampler="refresh", process="replacement", prosody="strict")
