"""Strict prosody beside an expression, against brute force: the set written down as a predicate, every text tried."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from tiny import RHYMES, poem_model

from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.pipeline.text import TextPipeline
from textdiff.shaping.match.automaton import Spelling, automaton, tokens_in
from textdiff.shaping.match.expression import containing, parse
from textdiff.shaping.match.matched import Accepted, matching
from textdiff.shaping.match.trellis import Layout, Place, Trellis, both
from textdiff.verify.enumeration import enumerate_draws
from textdiff.verify.spaces import total_variation
from textdiff.verse.automata.regulated import trellis_of_law
from textdiff.verse.forms import rhyme_level, tone_fit
from textdiff.verse.law import E, Law, P, W, Z

LETTERS, NAMES = (P, P, E, E, Z, W), "abcdef"  # the last is never written
GROUPS = tuple(map(frozenset, ("x", "xy", "x", "yz", "", "")))
MASK, LENGTH = len(LETTERS), 4
LAWS: dict[str, dict[str, Any]] = {
    "two sequences": {"sequences": [[["pz"], ["zp"]], [["zp"], ["·p"]]]},
    "licensed": {"sequences": [[["pz", "zp"], ["·p"]], [["zz"], ["zp", "pp"]]]},
    "rhyme": {"groups": GROUPS, "words": (1, 3)},
    "the first line may rhyme": {
        "sequences": [[["·z"], ["zp"]], [["·p"], ["zp"]], [["pp"], ["pp"]]],
        "groups": GROUPS,
        "words": (3,),
        "first": 1,
        "rhyming_first": [False, True, True],
    },
}
EXPRESSIONS = ("[a-f]*", "(?s).*[bd].*[ce]", "(ab|c|e.)*.?")
TEXTS = torch.tensor(list(itertools.product(range(MASK), repeat=LENGTH)))
SPELLING = Spelling(((*NAMES, ""),))
LAYOUT = Layout(tuple(Place(k, ((0, ""),)) for k in range(LENGTH)))


def belongs(text: list[int], told: dict[str, Any]) -> bool:
    """Membership, from the definition."""
    letters, words, first = [LETTERS[k] for k in text], told.get("words", ()), told.get("first")

    def rhymes(places: tuple[int, ...]) -> bool:
        return not places or bool(frozenset.intersection(*(GROUPS[text[i]] for i in places)))

    def meets(place: int, mark: str) -> bool:
        judged = place in words or place == first or mark == "·"
        return judged or letters[place] in {"p": (P, E), "z": (Z, E)}[mark]

    if W in letters:
        return False
    for s, sequence in enumerate(told.get("sequences", [[["··"], ["··"]]])):
        kept = all(any(all(meets(2 * k + j, p[j]) for j in (0, 1)) for p in line) for k, line in enumerate(sequence))
        rhyming = first is not None and told["rhyming_first"][s]
        closed = first is None or rhyming or letters[first] in (Z, E)
        if kept and closed and rhymes((*words, first) if rhyming else words):
            return True
    return False


def trellises(law: str, expression: str) -> tuple[Trellis, Trellis]:
    told = {"distinct": False, **LAWS[law]}
    verse = trellis_of_law(Law.of(2, 2, letters=(*LETTERS, W), unread=MASK, **told), LAYOUT)
    regular = Trellis.of(tokens_in(automaton(parse(expression), SPELLING.alphabet), SPELLING), LAYOUT)
    assert verse is not None and regular is not None
    return verse, regular


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("law", LAWS)
def test_what_both_accept_is_what_keeps_the_law_and_matches(law, expression):
    nothing = torch.zeros_like(TEXTS, dtype=torch.bool)
    verse, regular = trellises(law, expression)
    kept = torch.tensor([belongs(text, LAWS[law]) for text in TEXTS.tolist()])
    matches = torch.tensor([bool(re.fullmatch(expression, "".join(NAMES[k] for k in t))) for t in TEXTS.tolist()])
    assert torch.equal(verse.possible(TEXTS, nothing), kept) and kept.any() and not kept.all()
    product = both(verse, regular)
    assert product is not None and torch.equal(product.possible(TEXTS, nothing), kept & matches)
    spelt = tokens_in(automaton(containing("bd"), SPELLING.alphabet), SPELLING)
    three = both(product, Trellis.of(spelt, LAYOUT))
    contains = torch.tensor(["bd" in "".join(NAMES[k] for k in t) for t in TEXTS.tolist()])
    assert three is None or torch.equal(three.possible(TEXTS, nothing), kept & matches & contains)
    assert (three is None) == (not (kept & matches & contains).any())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("asked", [(0, 1, 2, 3), (1,), (2, 3)])
def test_a_draw_has_the_law_of_the_product_given_that_the_text_keeps_both(law, asked):
    product = both(*trellises(law, EXPRESSIONS[1]))
    assert product is not None
    logits = (Rng([4]).normal(LENGTH, MASK + 1)[0] * 2).index_fill(-1, torch.tensor([MASK]), -torch.inf)
    never = torch.tensor([letter == W for letter in (*LETTERS, W)])
    where = torch.zeros(LENGTH, dtype=torch.bool).index_fill(0, torch.tensor(asked), True)

    def predictor(query: Query) -> Categorical:
        assert query.at is not None
        return Categorical.from_logits(logits[query.at[1]], query.x_t, query.at)

    def once(items: torch.Tensor, rng: Rng) -> torch.Tensor:
        x, at = torch.full((len(items), LENGTH), MASK), positions_of(where.expand(len(items), -1))
        texts = Accepted.alike(product, len(items), MASK, never)
        prediction = matching(predictor, texts)(Query(x, torch.ones(len(items), LENGTH), at=at))
        return (prediction.draw(rng=rng) * (MASK + 1) ** torch.arange(LENGTH)).sum(-1)

    _, outcome, weight = enumerate_draws(once, torch.zeros(1, dtype=torch.long), LENGTH)
    drawn = torch.zeros((MASK + 1) ** LENGTH, dtype=torch.float64).index_add_(0, outcome, weight)
    inside = product.possible(TEXTS, torch.zeros_like(TEXTS, dtype=torch.bool))
    share = torch.where(inside, torch.stack([logits[k].softmax(-1)[TEXTS[:, k]] for k in range(4)], -1).prod(-1), 0.0)
    code = (torch.where(where, TEXTS, MASK) * (MASK + 1) ** torch.arange(LENGTH)).sum(-1)
    aim = torch.zeros_like(drawn).index_add_(0, code, share.double() / share.double().sum())
    assert total_variation(drawn, aim) < 1e-9


@pytest.mark.parametrize("process", ["mask", pytest.param("replacement", marks=pytest.mark.slow)])
def test_poems_keep_strict_prosody_and_match(process):
    pipe, match = TextPipeline.of(poem_model(RHYMES, form="wuyan-jueju")), "(?s).*(明|秋).*\n.*"
    for one in pipe.generate(prosody="strict", match=match, n=2, steps=4, process=process):
        assert re.fullmatch(match, "\n".join(one.lines)) and tone_fit(one.lines).regular and rhyme_level(one.lines)
    (both_asked,) = pipe.generate(prosody="strict", match=match, keyword="明月", steps=4, process=process)
    assert any("明月" in line for line in both_asked.lines) and re.fullmatch(match, "\n".join(both_asked.lines))
    assert tone_fit(both_asked.lines).regular and rhyme_level(both_asked.lines)
    (couplet,) = pipe.generate("couplet:8", tones="strict", match=".*明.*\n.*", steps=4, process=process)
    assert "明" in couplet.lines[0]
    (refined,) = pipe.refine("白" * 20, prosody="strict", match=match, rounds=1)
    lines = refined.after.replace("\n", "").replace("，", "\n").replace("。", "\n").split()
    assert tone_fit(lines).regular and rhyme_level(lines) and re.fullmatch(match, "\n".join(lines))


def test_a_tune_keeps_its_pattern_and_matches():
    pipe = TextPipeline.of(poem_model(RHYMES))
    form = "tune:仄平a。/平仄平a。"
    for one in pipe.generate(form, prosody="strict", match="[^白]*\n.*[夜落].*", n=4, steps=2):
        assert "白" not in one.lines[0] and set(one.lines[1]) & set("夜落") and len(one.lines[1]) == 3
    (one,) = pipe.generate(form, prosody="strict", keyword="夜", steps=2)
    assert "夜" in "".join(one.lines) and [len(line) for line in one.lines] == [2, 3]
    with pytest.raises(AskedError, match="with strict prosody fits no text like this"):
        pipe.generate(form, prosody="strict", match="光.\n...")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"match": "白.*\n.*\n.*\n.*", "acrostic": "春___"},
            r"'春' \(character 1\) does not fit match .* with strict prosody",
        ),
        ({"match": ".*\n.*月\n.*\n.*"}, "with strict prosody fits no text"),
        ({"match": ".*", "no_repeat": True}, "no_repeat are not kept together"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_drawn(options, says):
    with pytest.raises(AskedError, match=says):
        TextPipeline.of(poem_model(RHYMES, form="wuyan-jueju")).generate(prosody="strict", **options)


def test_a_model_without_forms_says_that_a_couplet_of_its_own_has_no_prosody():
    model = poem_model()
    formless = TextPipeline.of(type(model).from_parts(model.model, model.tokenizer, name="formless"))
    for prosody in ("strict", "prefer"):
        with pytest.raises(
            AskedError, match=r"prosody is defined for quatrains and octaves .* not for form 'couplet:5'"
        ):
            formless.generate("couplet:5", prosody=prosody)
