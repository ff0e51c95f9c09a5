"""Poems revised: what must stay stays, and what changes is likelier."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch
from tiny import PROCESSES, QUATRAIN, RHYMES, poem_model, saved, sentence_model

from textdiff import cli
from textdiff.core.loop import sample
from textdiff.core.resolve import attribute
from textdiff.core.rng import Rng
from textdiff.pipeline.options import place
from textdiff.pipeline.revision.refine import weakest
from textdiff.pipeline.text import Pipeline
from textdiff.pipeline.writable import misfits
from textdiff.samplers import SAMPLERS
from textdiff.verse.forms import get_form, regulated, split_at_punctuation
from textdiff.verse.law import E, Law, P, Z
from textdiff.verse.prosody import possible

POEMS = Pipeline(poem_model(RHYMES))
OTHER = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
OCTAVE = "\n".join([QUATRAIN, OTHER])
FORM = get_form("wuyan-jueju")


def lines(text: str) -> list[str]:
    return split_at_punctuation(text)


# -- what a revision keeps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("more", [{"rounds": 3}, {"variations": 3, "level": 0.9}], ids=["rounds", "variations"])
def test_kept_lines_and_frozen_characters_stay(process, more):
    found = POEMS.refine([QUATRAIN, OTHER], seed=5, keep=[2, 4], freeze=["1:1", (3, 5)], process=process, **more)
    assert {one.before for one in found} == {QUATRAIN, OTHER} and any(one.changed for one in found)
    for one in found:
        before, after = lines(one.before), lines(one.after)
        assert (after[1], after[3], after[0][0], after[2][4]) == (before[1], before[3], before[0][0], before[2][4])
        new = [(k, j) for k, j in itertools.product(range(4), range(5)) if before[k][j] != after[k][j]]
        assert new == [(c.line - 1, c.character - 1) for c in one.changed]
        assert [(before[k][j], after[k][j]) for k, j in new] == [(c.old, c.new) for c in one.changed]


@pytest.mark.parametrize("process", ["mask", "replacement"])
@pytest.mark.parametrize("form", ["wuyan-jueju", "wuyan-lushi"])
def test_the_score_is_that_of_the_detail_and_never_gets_worse(process, form):
    texts = [QUATRAIN, OTHER] if form == "wuyan-jueju" else [OCTAVE]
    for seed, temperature in enumerate((1, 9, 9)):  # hot draws are seldom better
        more = {"process": process, "rounds": 3, "patience": 2, "k": 2, "best_of": 2, "temperature": temperature}
        found = POEMS.refine(texts, form, seed, **more)
        for one in found:
            before, after = (sum(d.nats) / len(d.nats) for d in POEMS.detail([one.before, one.after], form))
            assert (one.score_before, one.score_after) == pytest.approx((before, after), abs=1e-5)
            assert one.score_after <= one.score_before and (one.score_after < one.score_before) == bool(one.changed)
            assert len(set(one.after)) >= len(set(one.before))  # no more repetition than before
            assert 1 <= one.rounds <= 3


def test_more_rounds_go_on_from_where_fewer_ended():
    scores = [POEMS.refine(QUATRAIN, rounds=n, patience=9)[0].score_after for n in (1, 3, 5)]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[2]
    assert POEMS.refine(QUATRAIN, temperature=0, rounds=50, patience=1, best_of=1)[0].rounds < 50


@pytest.mark.parametrize("process", ["mask", "replacement"])
@pytest.mark.parametrize(
    "more", [{"rounds": 2, "best_of": 2}, {"variations": 2}, {"rounds": 1, "best_of": 2, "prosody": "strict"}]
)
def test_a_revision_is_that_of_its_seed_whatever_stands_beside_it(process, more):
    texts = [QUATRAIN, OTHER] if "prosody" in more else [QUATRAIN, OCTAVE, OTHER]
    size = more.get("variations", 1)
    together = POEMS.refine(texts, seed=3, process=process, **more)
    alone = POEMS.refine(texts[1], seed=4, process=process, batch_size=7, **more)
    assert [a.after for a in alone] == [a.after for a in together[size : 2 * size]]
    assert [a.seed for a in alone] == [4] * size
    again = POEMS.refine([QUATRAIN] * 3, seed=[3, 3, 5], process=process, **more)
    assert again[2 * size - 1] == together[size - 1]
    assert len({a.after for a in again}) > size


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_variations_are_unlike_the_poem_and_one_another_and_change_a_share(process):
    n = 6
    for level, most in ((0.1, 2), (0.5, 10)):
        found = POEMS.refine(QUATRAIN, variations=n, level=level, process=process)
        assert [one.variation for one in found] == list(range(1, n + 1))
        assert len({one.after for one in found} - {QUATRAIN}) == n
        assert max(len(one.changed) for one in found) <= most * (1 if process == "mask" else 2)
    assert {len(one.changed) for one in found} != {1}


# -- strict prosody -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["mask", "replacement"])
@pytest.mark.parametrize("more", [{"rounds": 2}, {"variations": 3, "level": 0.6}], ids=["rounds", "variations"])
def test_strict_prosody_holds_afterwards_and_what_broke_it_is_told(process, more):
    texts = [QUATRAIN, OTHER]
    assert [regulated(lines(text)) for text in texts] == [False, True]
    found = POEMS.refine(texts, process=process, prosody="strict", keep=[1], **more)
    for one in found:
        assert regulated(lines(one.after)) and lines(one.after)[0] == lines(one.before)[0]
        assert bool(one.mended) == (one.before == QUATRAIN) and not any(line == 1 for line, _ in one.mended)


def test_a_kept_character_that_contradicts_the_prosody_is_named():
    wrong = OTHER.replace("楼", "声")
    with pytest.raises(ValueError, match=r"text 2: '声' .line 4, character 5;"):
        POEMS.refine([OTHER, wrong], prosody="strict", keep=[2, 4])
    (mended,) = POEMS.refine(wrong, prosody="strict", keep=[2], rounds=1)
    assert mended.mended == ((4, 5),) and regulated(lines(mended.after))


def small_law(**more):
    letters = [P, P, Z, Z, E, P, Z]
    return Law.of(2, 3, letters=letters, unread=6, writable=torch.arange(7) < 6, **more)


@pytest.mark.parametrize(
    "more",
    [
        {"sequences": [[["p·z"], ["z·p", "zpp"]], [["z·p"], ["p·z"]]]},
        {"sequences": [[["p·p"], ["z·p"]], [["z·z"], ["p·p"]]], "no_repeat": True},
        {
            "sequences": [[["p·p"], ["z·p"]], [["p·z"], ["z·p"]]],
            "groups": [frozenset("a"), frozenset("ab"), frozenset(), frozenset(), frozenset("b"), frozenset("b"), frozenset()],
            "words": (5,),
            "first": 2,
            "rhyming_first": (True, False),
        },
    ],
    ids=["tones", "no repeat", "rhyme"],
)  # fmt: skip
def test_the_fewest_characters_are_mended(more):
    """Against a trial of every smaller subset."""
    those, rng = small_law(**more), Rng(range(12))
    texts = rng.integers(torch.full((12, 6), 6))
    nats, frozen = rng.uniform(6), rng.uniform(6) < 0.2
    seen = set()
    for ids, cost, fixed in zip(texts, nats, frozen, strict=True):
        if not possible(those, ids, fixed.nonzero()[:, 0].tolist()):
            continue
        found = misfits(those, ids, fixed, cost)
        assert possible(those, ids, (~found).nonzero()[:, 0].tolist()) and not (found & fixed).any()
        seen.add(size := int(found.sum()))
        if not those.no_repeat:
            free = [k for k in range(6) if not fixed[k]]
            smaller = [set(s) for n in range(size) for s in itertools.combinations(free, n)]
            assert not any(possible(those, ids, [k for k in range(6) if k not in s]) for s in smaller)
    assert len(seen) > 2


# -- the parts ------------------------------------------------------------------------------------------------------------


def test_the_weakest_positions_come_first_and_then_the_next():
    nats, free = torch.tensor([5.0, 1.0, 4.0, 9.0, 3.0]), torch.tensor([True, True, True, False, True])
    assert weakest(nats, free, 2).tolist() == [True, False, True, False, False]
    assert weakest(nats, free, 2, skip=2).tolist() == [False, True, False, False, True]
    assert weakest(nats, free, 3, skip=3).tolist() == [True, True, True, False, False]
    assert place("3:5") == place((3, 5)) == (3, 5)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_chain_that_starts_from_the_prior_is_the_plain_chain(name):
    given = POEMS.model.encode(["".join(lines(QUATRAIN))] * 2)[:, :6]
    free = torch.tensor([[True] * 4 + [False] * 2, [False, True] * 3])
    for process in set(SAMPLERS[name].processes) & set(PROCESSES):
        plain = chain(name, process, given, free)
        again = chain(name, process, given, free, start=plain[0].x, level=1.0)
        assert all(torch.equal(a.x, b.x) and torch.equal(a.t, b.t) for a, b in zip(plain, again, strict=True))
        later = chain(name, process, given, free, start=plain[0].x, level=torch.tensor([[0.75], [2 / 3]]))
        assert later[0].t.amax(-1).tolist() == pytest.approx([0.75, 2 / 3]) and not later[-1].t.any()
        assert torch.equal(torch.where(free, given, later[-1].x), given)


def chain(name, process, given, free, **more):
    levels = [torch.tensor([[0.75], [2 / 3]]), torch.tensor([[0.25], [1 / 3]]), 0.0]
    parts = {"predictor": POEMS.model.predictor(process), "process": POEMS.model.process(process), "rng": Rng([1, 2])}
    condition = POEMS.model.condition(2, form="wuyan-jueju")
    step = attribute(SAMPLERS[name].path)()
    with torch.inference_mode():
        return list(sample(given, free, levels, step, condition=condition, **parts, **more))


def test_couplets_are_revised_in_the_middle_of_an_unknown_octave():
    couplet = "白日依山尽，黄河入海流。"
    (one,) = POEMS.refine(couplet, "couplet:5", rounds=2, keep=[1])
    assert lines(one.after)[0] == lines(couplet)[0] and {change.line for change in one.changed} <= {2}
    with pytest.raises(ValueError, match="revise a couplet by mask"):
        POEMS.refine(couplet, "couplet:5", process="replacement")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 21}, "k is 21, but 20 characters are free"),
        ({"k": 6, "keep": [1, 2, 3]}, "k is 6, but 5 characters are free"),
        ({"rounds": 0}, "rounds is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"variations": 0}, "variations is 0"),
        ({"variations": 1, "level": 0.0}, r"level is 0.0; it must lie in \(0, 1\]"),
        ({"variations": 10**10}, "variations is 10000000000; it must be at most 1000"),
        ({"variations": 1, "level": 1.01}, "level is 1.01"),
        ({"level": 0.5}, "for variations"),
        ({"variations": 2, "rounds": 3}, "rounds is 3, which is for rounds, and variations have none"),
        ({"variations": 2, "k": 2}, "k is 2, which is for rounds"),
        ({"variations": 2, "patience": 1}, "patience is 1, which is for rounds"),
        ({"variations": 2, "best_of": 3}, "best_of is 3"),
        ({"keep": [5]}, "keep has line 5, but form 'wuyan-jueju' has lines 1 to 4"),
        ({"keep": [0]}, "keep has line 0"),
        ({"freeze": ["4:6"]}, "freeze has 4:6"),
        ({"freeze": ["46"]}, "write LINE:POSITION"),
        ({"keep": [1, 2, 3, 4]}, "nothing is left to rewrite"),
        ({"keyword": "明月"}, "keyword is '明月', which is for generate and fill; leave it out of refine"),
        ({"particles": 2, "prosody": "strict"}, "particles is 2, which is for generate and fill"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"process": "edit"}, "edit"),
        ({"form": "七绝"}, "28"),
    ],
)
def test_mistakes_are_refused_with_the_value_and_the_way_out(settings, says):
    with pytest.raises(ValueError, match=says):
        POEMS.refine(QUATRAIN, **settings)


def test_texts_that_cannot_be_revised_are_refused():
    with pytest.raises(ValueError, match=r"text 2: .*hole"):
        POEMS.refine([QUATRAIN, QUATRAIN.replace("光", "_")])
    with pytest.raises(ValueError, match=r"'鹦' .line 1, character 5. is outside"):
        POEMS.refine(QUATRAIN.replace("光", "鹦"))
    with pytest.raises(ValueError, match="no poem's form"):
        Pipeline(sentence_model()).refine("the cat sat on the mat.")


def test_a_likelier_version_that_repeats_a_character_does_not_stand_in_the_way_of_one_that_does_not():
    def repeats(text):
        return len(written := "".join(lines(text))) - len(set(written))

    seeds = [0, 8, 10, 11]  # of whose six versions the likeliest repeats more than the poem did
    for one in Pipeline(poem_model()).refine([QUATRAIN] * len(seeds), seed=seeds, rounds=1, k=2, best_of=6):
        assert one.changed and repeats(one.after) <= repeats(QUATRAIN)


# -- the command line -----------------------------------------------------------------------------------------------------


def test_the_command_line_prints_before_after_and_scores(tmp_path, capsys):
    model = saved(POEMS.model, tmp_path / "model")
    base = ["refine", QUATRAIN, "--model", model, "--rounds", "2", "--keep", "1,2", "--freeze", "3:1"]
    assert cli.main([*base, "--json"]) == 0
    (told,) = map(json.loads, capsys.readouterr().out.splitlines())
    (same,) = POEMS.refine(QUATRAIN, rounds=2, keep=[1, 2], freeze=["3:1"])
    expected = json.loads(json.dumps(dataclasses.asdict(same)))
    assert told | {"model": ""} == expected | {"model": ""}
    assert cli.main(base) == 0
    before, after, scores = capsys.readouterr().out.splitlines()
    assert before == f"{lines(QUATRAIN)[0]}，{lines(QUATRAIN)[1]}。  →  {same.after.splitlines()[0]}"
    assert after.count("[") == len(same.changed) > 0
    assert after.split("  →  ")[1].replace("[", "").replace("]", "") == same.after.splitlines()[1]
    assert scores.startswith(f"{same.score_before:.4f} → {same.score_after:.4f} nats/char")
    assert cli.main([*base[:4], *base[6:], "--variations", "2", "--process", "replacement"]) == 0
    assert capsys.readouterr().out.count("variation ") == 2
    assert cli.main([*base[:4], "--keep", "1;2"]) == 2
    assert cli.main([*base[:4], "--keep", "1,5"]) == 2 and "lines 1 to 4" in capsys.readouterr().err


# -- the packaged model ---------------------------------------------------------------------------------------------------


def test_a_planted_character_is_found_and_rewritten():
    pipe = Pipeline.from_pretrained()
    poem = "水急轮初转，村深石自鸣。\n主人闲倚户，一袋雪花轻。"
    planted = poem.replace("深", "霸")
    found = pipe.refine([planted], keep=[1, 3, 4], k=1, rounds=1, best_of=2)
    assert [(c.line, c.character, c.old) for c in found[0].changed] == [(2, 2, "霸")]
    assert found[0].score_after < found[0].score_before and found[0].bound_after < found[0].bound_before
