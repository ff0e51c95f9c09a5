"""Constrained draws against brute force: the set written down as a predicate, every text tried."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.levels import count_levels
from textdiff.core.loop import sample
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.resolve import attribute
from textdiff.core.rng import Rng
from textdiff.processes.mask import Mask
from textdiff.processes.replacement import Replacement
from textdiff.samplers import SAMPLERS
from textdiff.samplers.ancestral import improved
from textdiff.samplers.corrector import sweep_levels
from textdiff.samplers.particles import resampled
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verify.spaces import ExactPredictor, Space
from textdiff.verse.constrained import RestrictedPrediction, constrained
from textdiff.verse.forms import Form, get_form, regulated, tone_fit
from textdiff.verse.law import E, Law, P, W, Z
from textdiff.verse.pattern import kept_to, pattern_of
from textdiff.verse.prosody import Prosody, check_given, verse_law
from textdiff.verse.sounds import _table, rhyme_groups, tone

# Eight tokens, and the mask: letters, and rhyme groups (of their level readings).
LETTERS = (P, P, P, E, E, Z, Z, W)
GROUPS = tuple(map(frozenset, ("a", "ab", "b", "a", "bc", "", "", "", "")))
MASK = len(LETTERS)
WRITABLE = torch.arange(MASK + 1) < MASK
TINY: dict[str, dict] = {
    "one sequence": {"sequences": [[["pz"], ["zp"]]]},
    "two sequences": {"sequences": [[["pz"], ["zp"]], [["zp"], ["·p"]]]},
    "one sequence, two patterns": {"sequences": [[["pz", "zp"], ["·p", "z·"]]]},
    "licensed": {"sequences": [[["pz", "zp"], ["·p"]], [["zz"], ["zp", "pp"]]]},
    "rhyme": {"groups": GROUPS, "words": (1, 3)},
    "rhyme, words may repeat": {"groups": GROUPS, "words": (1, 3), "distinct": False},
    "tones and rhyme": {
        "sequences": [[["·p"], ["zp"]], [["z·", "pp"], ["·p"]]],
        "groups": GROUPS,
        "words": (3,),
    },
    "first line": {
        "sequences": [[["·z"], ["zp"]], [["·p"], ["zp"]], [["pp"], ["pp"]]],
        "groups": GROUPS,
        "words": (3,),
        "first": 1,
        "rhyming_first": [False, True, True],
    },
}


def meets(letter: int, mark: str) -> bool:
    return mark == "·" or letter == E or letter == (P if mark == "p" else Z)


def belongs(text: Sequence[int], told: dict, given: Sequence[bool]) -> bool:
    """Membership, from the definition; a given token without a reading fits anything."""
    letters = [LETTERS[k] for k in text]
    words = told.get("words", ())
    first, rhyming = told.get("first"), told.get("rhyming_first", ())

    def rhymes(places: Sequence[int]) -> bool:
        asked = [i for i in places if not (given[i] and letters[i] == W)]
        if told.get("distinct", True) and len({text[i] for i in asked}) < len(asked):
            return False
        return not asked or bool(frozenset.intersection(*(GROUPS[text[i]] for i in asked)))

    for s, sequence in enumerate(told.get("sequences", [[["··"], ["··"]]])):
        kept = all(
            any(
                all(
                    meets(letters[2 * k + j], mark) or (letters[2 * k + j] == W and given[2 * k + j])
                    for j, mark in enumerate(pattern)
                    if 2 * k + j not in words and 2 * k + j != first
                )
                for pattern in line
            )
            for k, line in enumerate(sequence)
        )
        if not kept:
            continue
        if first is None:
            if rhymes(words):
                return True
        elif rhyming[s]:
            if rhymes((*words, first)):
                return True
        elif rhymes(words) and (letters[first] in (Z, E) or (letters[first] == W and given[first])):
            return True
    return False


@cache
def texts() -> Tensor:
    return torch.tensor(list(itertools.product(range(MASK), repeat=4)))


def tiny(told: dict) -> Law:
    return Law.of(2, 2, letters=(*LETTERS, W), unread=MASK, writable=WRITABLE, **told)


def product(seed: int, sharp: float = 2.0) -> Tensor:
    return Rng([seed]).normal(4, MASK + 1)[0].index_fill(-1, torch.tensor([MASK]), -torch.inf) * sharp


@cache
def members(name: str, x: tuple[int, ...]) -> Tensor:
    """Which texts the law has that agree with x where it is not the mask, and write nothing unread, (8⁴,) bool."""
    given, everything = [k != MASK for k in x], texts()
    fits = torch.ones(len(everything), dtype=torch.bool)
    for i, k in enumerate(x):
        fits &= (everything[:, i] == k) if given[i] else torch.tensor(LETTERS)[everything[:, i]] != W
    for k in fits.nonzero()[:, 0].tolist():
        fits[k] = belongs(everything[k].tolist(), TINY[name], given)
    return fits


def brute(logits: Tensor, name: str, x: tuple[int, ...]) -> Tensor:
    """q_C over all texts that agree with x where it is not the mask."""
    p = logits.index_fill(-1, torch.tensor([7]), -torch.inf).softmax(-1)
    drawn = [p[i, texts()[:, i]] for i, k in enumerate(x) if k == MASK]
    return torch.stack(drawn).prod(0).double() * members(name, x)


STATES = [
    (MASK,) * 4,
    (0, MASK, MASK, MASK),
    (MASK, 3, MASK, MASK),
    (MASK, 4, MASK, MASK),
    (5, MASK, MASK, 0),
    (7, 1, MASK, MASK),
]


@pytest.mark.parametrize("x", STATES)
@pytest.mark.parametrize("name", TINY)
def test_a_joint_draw_has_the_law_of_the_product_restricted_to_the_set(name: str, x: tuple[int, ...]) -> None:
    told, logits = TINY[name], product(3)
    expected = brute(logits, name, x)
    if not expected.any():
        pytest.skip("no such text")
    prediction = prediction_rows(tiny(told), logits, x_t := torch.tensor([x]))

    def f(items: Tensor, rng: Rng) -> Tensor:
        rows = prediction_rows(tiny(told), logits, x_t.expand(len(items), -1))
        return (rows.draw(rng=rng) * 8 ** torch.arange(3, -1, -1)).sum(-1)

    _, outcome, weight = enumerate_draws(f, torch.zeros(1, dtype=torch.long), 4)
    law_ = torch.zeros_like(expected).index_add_(0, outcome, weight)
    assert (law_ - expected / expected.sum()).abs().sum() < 1e-9
    writable = logits.softmax(-1)[x_t[0] == MASK, :7].sum(-1).log().sum()  # all but token 7, which is never written
    assert prediction.log_mass().item() == pytest.approx((expected.sum().log() + writable).item(), abs=1e-9)


def prediction_rows(set_: Law, logits: Tensor, x_t: Tensor, at: Tensor | None = None) -> RestrictedPrediction:
    def predictor(query):
        x, at = query.x_t, query.at
        positions = at[1]
        return Categorical(lambda index: logits[positions[index]], at, x)

    where = (x_t == MASK) if at is None else at
    rows, positions = where.nonzero(as_tuple=True)
    prediction = constrained(predictor, set_, weigh=True)(Query(x_t, torch.ones(x_t.shape), at=(rows, positions)))
    return prediction.pin(x_t, x_t != MASK)


# Every law from three states, and every state under four laws.
HALF = [(name, x) for i, name in enumerate(TINY) for j, x in enumerate(STATES) if (i + j) % 2 == 0]


@pytest.mark.parametrize(("name", "x"), HALF)
def test_one_position_is_drawn_from_its_margin_and_weighed_by_what_is_left(name: str, x: tuple[int, ...]) -> None:
    told, logits = TINY[name], product(4)
    expected = brute(logits, name, x)
    if not expected.any():
        pytest.skip("no such text")
    for i in [k for k in range(4) if x[k] == MASK]:
        margin = torch.zeros(8, dtype=torch.float64).index_add_(0, texts()[:, i], expected / expected.sum())
        x_t = torch.tensor([x])
        at = torch.arange(4)[None] == i

        def f(items: Tensor, rng: Rng, i: int = i, x_t: Tensor = x_t, at: Tensor = at) -> Tensor:
            rows = x_t.expand(len(items), -1)
            return prediction_rows(tiny(told), logits, rows, at.expand(len(items), -1)).draw(rng=rng)[:, i]

        _, outcome, weight = enumerate_draws(f, torch.zeros(1, dtype=torch.long), 4)
        found = torch.zeros(8, dtype=torch.float64).index_add_(0, outcome, weight)
        assert (found - margin).abs().sum() < 1e-9, f"position {i}"
        for v in range(8):
            if margin[v] > 1e-9:
                after = x_t.clone()
                after[0, i] = v
                told_weight = prediction_rows(tiny(told), logits, x_t, at).log_weight(after).item()
                assert told_weight == pytest.approx((logits[i].softmax(-1)[v] / margin[v]).log().item(), abs=1e-8)


# -- chains ---------------------------------------------------------------------------------------------------------------


def chains(rows: int, told: dict, particles: int, seed: int = 0) -> Tensor:
    """Texts (rows, 4) of one-at-a-time chains under the exact predictor of a random law on four of the tokens."""
    space, exact = world()

    def predictor(query):
        x, t, at = query.x_t, query.t, query.at
        codes = torch.where(x == MASK, space.size, x)
        found = exact(Query(codes, t, at=at))
        wide = torch.full((len(found.at[0]), MASK + 1), -torch.inf, dtype=torch.float64)
        wide[:, : space.size] = found.logits()[:, : space.size]
        return Categorical(lambda index: wide[index], found.at, x)

    given = torch.full((rows * particles, 4), MASK)
    free = torch.ones_like(given, dtype=torch.bool)
    step = improved() if particles == 1 else resampled(improved(), particles)
    rng = Rng(torch.arange(rows).repeat_interleave(particles) + seed, stream=torch.arange(particles).repeat(rows))
    told_law = constrained(predictor, tiny(told), weigh=True)
    levels = count_levels(free.sum(-1))
    *_, state = sample(given, free, levels, step, predictor=told_law, process=Mask(MASK), rng=rng)
    weights = state.log_weight.view(rows, particles)
    row = Rng(torch.arange(rows) + seed, stream=99).categorical(weights) + torch.arange(rows) * particles
    return state.x[row]


@cache
def world() -> tuple[Space, ExactPredictor]:
    space = Space.random(4, 4, seed=5)
    return space, ExactPredictor(space, Mask(space.size))


def test_particles_bring_the_chain_to_the_law_given_the_constraint() -> None:
    told = {"sequences": [[["p·"], ["z·"]], [["z·"], ["p·"]]], "groups": GROUPS, "words": (1, 3)}
    space, _ = world()
    texts_ = space.decode(space.support())
    inside = torch.tensor([belongs(text, told, [False] * 4) for text in texts_.tolist()])
    aim = space.p0[space.support()] * inside
    aim = aim / aim.sum()
    place = {tuple(text): k for k, text in enumerate(texts_.tolist())}
    distance = []
    for particles in (1, 8):
        found = torch.zeros_like(aim)
        for text in chains(600, told, particles).tolist():
            found[place[tuple(text)]] += 1 / 600
        assert (found * ~inside).sum() == 0
        distance.append(((found - aim).abs().sum() / 2).item())
    noise = (aim * (1 - aim) / 600).sqrt().sum().item() * 0.4  # E|N(0, 1)|/2 for each text
    assert distance[1] < noise * 1.5 < distance[0]


SAMPLED = [
    (s, p)
    for s, entry in SAMPLERS.items()
    for p in ("mask", "replacement")
    if p in entry.processes and (s, p) != ("refresh", "replacement")  # refused by the pipeline
]


def verses(
    sampler: str, process: str, steps: int | None, n: int, form: Form, prosody: Prosody, seed: int = 0
) -> list[str]:
    """Poems of a predictor with random logits, over a vocabulary of some hundred characters."""
    characters, unread = vocabulary(4 if prosody.no_repeat else 9)  # without repetition a group must be large
    writable = torch.arange(unread + 1) < unread
    prosody = replace(prosody, room=3) if process == "replacement" else prosody
    told = verse_law(form, prosody, characters, unread, writable)
    sharpness = 4.0

    def predictor(query):
        x, at = query.x_t, query.at
        at = positions_of(torch.ones_like(x, dtype=torch.bool)) if at is None else at
        key = (x[at[0]] * torch.arange(1, x.shape[1] + 1)).sum(-1) * 131 + at[1]  # a law for each state and position
        noise = torch.sin(key[:, None] * 12.9898 + torch.arange(unread + 1) * 78.233) * 43758.5453
        logits = (noise - noise.floor()).logit().clamp(-9, 9) * sharpness
        logits[:, unread] = -torch.inf
        return Categorical(lambda index: logits[index], at, x)

    given = torch.full((n, form.length), unread)
    free = torch.ones_like(given, dtype=torch.bool)
    rng = Rng(torch.arange(n) + seed)
    walked: Mask | Replacement = Mask(unread)
    shaped = constrained(predictor, told)
    if process == "replacement":
        walked = Replacement(torch.arange(unread))
        x = walked.prior(given, free, rng=rng)
        draft = RestrictedPrediction(predictor(Query(x, free.double())), told, free, given).draw(rng=rng)
        pattern = pattern_of(told, draft)
        walked = Replacement(torch.arange(unread), tokens=pattern.tokens)
        shaped = kept_to(predictor, pattern, several=steps is not None or sampler not in ("edit", "gibbs"))
    step = attribute(SAMPLERS[sampler].path)()
    levels = list(count_levels(free.sum(-1), steps))
    if sampler == "gibbs":
        levels += list(sweep_levels(free.sum(-1), 5))
    *_, state = sample(given, free, levels, step, predictor=shaped, process=walked, rng=rng)
    assert not (state.x == unread).any() or sampler == "entropy-bounded"
    return ["".join(characters[v] for v in row) for row in state.x.tolist()]


@cache
def vocabulary(every: int = 9) -> tuple[list[str], int]:
    """Every so-manieth character with a reading, and the mask."""
    known = [c for c, listed in _table().items() if listed][::every]
    return [*known, "[MASK]"], len(known)


def faults(poem: str, form: Form, prosody: Prosody) -> list[str]:
    lines = form.split(poem)
    found = [] if regulated(lines) else ["not regulated"]
    fit = tone_fit(lines)
    first = "A" in fit.types[0] or "B" in fit.types[0]
    groups = [rhyme_groups(line[-1]) for line in lines[1::2]]
    if prosody.group is not None and any(prosody.group not in held for held in groups):
        found.append("another group")
    if prosody.no_repeat and len(set(poem)) < len(poem):
        found.append("a character twice")
    if prosody.pattern and prosody.pattern not in fit.name and tone(lines[0][-1]) != "either":
        found.append(f"pattern {fit.name}, {first}")
    return found


UNSTEPPED = ("entropy-bounded", "gibbs")
WALKED = [(s, p, steps) for s, p in SAMPLED for steps in (None, 3) if steps is None or s not in UNSTEPPED]


@pytest.mark.parametrize(("sampler", "process", "steps"), WALKED)
def test_no_poem_of_random_logits_breaks_strict_prosody(sampler: str, process: str, steps: int | None) -> None:
    form, prosody = get_form("wuyan-jueju"), Prosody(tones="strict", rhyme="strict")
    for poem in verses(sampler, process, steps, 2, form, prosody):
        assert not faults(poem, form, prosody), poem


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wuyan-jueju", "qiyan-lushi"])
@pytest.mark.parametrize("steps", [None, 7, 2, 1])
@pytest.mark.parametrize(("sampler", "process"), SAMPLED)
def test_ten_thousand_poems_of_random_logits_keep_strict_prosody(
    sampler: str, process: str, steps: int | None, name: str
) -> None:
    form, prosody = get_form(name), Prosody(tones="strict", rhyme="strict")
    for first in range(0, 10_000, 500):
        for poem in verses(sampler, process, steps, 500, form, prosody, seed=first):
            assert not faults(poem, form, prosody), poem


@pytest.mark.parametrize(
    "prosody",
    [
        Prosody(tones="strict", rhyme="strict", group="平阳", pattern="仄起首句入韵"),
        Prosody(tones="strict", rhyme="strict", avoid=("guping", "sanpingwei"), no_repeat=True),
    ],
)
@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_a_named_group_and_pattern_are_kept_and_faults_avoided(prosody: Prosody, process: str) -> None:
    form = get_form("qiyan-jueju")
    for poem in verses("improved" if process == "mask" else "edit", process, None, 6, form, prosody):
        assert not faults(poem, form, prosody), poem
        for line, kind in zip(form.split(poem), tone_fit(form.split(poem)).types, strict=True):
            tones = [tone(c) for c in line]
            if prosody.avoid and kind == "A":
                assert tones[4:] != ["level"] * 3
            if prosody.avoid and kind == "B":
                assert not (tones[2] == tones[4] == "oblique")


def test_a_character_that_cannot_stand_is_named_before_anything_is_drawn() -> None:
    characters, unread = vocabulary()
    form, prosody = get_form("wuyan-jueju"), Prosody(tones="strict", rhyme="strict")
    told = verse_law(form, prosody, characters, unread, torch.arange(unread + 1) < unread)
    oblique = next(k for k, c in enumerate(characters[:unread]) if tone(c) == "oblique")
    ids = torch.full((20,), unread)
    ids[9] = oblique  # the rhyme of the second line
    with pytest.raises(ValueError, match=rf"{characters[oblique]}.*line 2, character 5.*does not fit"):
        check_given(told, ids, ids == unread, form, characters)
    ids[9] = unread
    ids[3] = oblique
    check_given(told, ids, ids == unread, form, characters)


def test_words_for_prosody_are_checked() -> None:
    assert Prosody.parse("strict", rhyme="off") == Prosody(tones="strict")
    assert Prosody.parse(rhyme="七阳").group == "平阳"
    assert Prosody.parse("prefer:1.5").tone_weight == 1.5
    for told, says in (
        ({"prosody": "hard"}, "prosody is 'hard'"),
        ({"tones": "平平"}, "tones is '平平'"),
        ({"rhyme": "九阳"}, "unknown rhyme '九阳'"),
        ({"tones": "prefer:x"}, "number of nats"),
        ({"avoid": "孤平"}, "strict tones"),
        ({"tones": "strict", "avoid": "上尾"}, "avoid is '上尾'"),
    ):
        with pytest.raises(ValueError, match=says):
            Prosody.parse(**told)
