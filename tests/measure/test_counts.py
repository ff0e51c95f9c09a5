"""The count models: against a slow implementation, as distributions, and what titles they find."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from textdiff.measure.counts import KneserNey, TitleModel, retrieval, title_words

RECORDS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data/poems.jsonl").read_text(encoding="utf-8").splitlines()
]
POEMS = [tuple(record["text"].split("\n")) for record in RECORDS]
TITLES = [record["title"] for record in RECORDS]


def slow_kneser_ney(poems, order, least):
    """p(w | text so far) by dictionaries, straight from the equations of the module; the symbols it knows."""
    seen = defaultdict(int)
    for poem in poems:
        for c in "".join(poem):
            seen[c] += 1
    known = sorted(c for c in seen if seen[c] >= least)
    name = {c: c for c in known} | {"\n": "\n"}
    texts = [[name.get(c, "?") for c in "\n".join(poem)] for poem in poems]
    counts = [defaultdict(int) for _ in range(order + 1)]
    for text in texts:
        padded = ["^"] * (order - 1) + text
        for i in range(order - 1, len(padded)):
            counts[order][tuple(padded[i - order + 1 : i + 1])] += 1
    for k in range(order - 1, 0, -1):
        for gram in counts[k + 1]:
            counts[k][gram[1:]] += 1  # kinds of longer grams

    def discounts(table):
        n = [0] + [sum(c == j for c in table.values()) for j in (1, 2, 3, 4)]
        y = n[1] / (n[1] + 2 * n[2])
        return [0] + [min(j, max(0, j - (j + 1) * y * n[j + 1] / n[j])) if n[j] else 0 for j in (1, 2, 3)]

    taken = [None] + [discounts(counts[k]) for k in range(1, order + 1)]

    def p(w, h, k):
        if k == 0:
            return 1 / (len(known) + 2)
        context = tuple(h[len(h) - k + 1 :])
        here = {gram[-1]: c for gram, c in counts[k].items() if gram[:-1] == context}
        lower = p(w, h, k - 1)
        if not here:
            return lower
        free = sum(taken[k][min(c, 3)] for c in here.values())
        c = here.get(w, 0)
        return (c - taken[k][min(c, 3)] + free * lower) / sum(here.values())

    def conditional(w, before):
        h = ["^"] * (order - 1) + [name.get(c, "?") for c in before]
        return p(name.get(w, "?"), h, order) / (1 - p("\n", h, order))

    return conditional, known


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kneser_ney_is_the_slow_one(order):
    train, unseen = POEMS[:12], POEMS[40]
    model, (slow, known) = KneserNey.fit(train, order, least=2), slow_kneser_ney(train, order, 2)
    assert model.size == len(known) + 1
    text = "\n".join(unseen)
    want = [math.log(slow(c, text[:i])) for i, c in enumerate(text) if c != "\n"]
    assert model.log_p([unseen]) == pytest.approx(want, abs=1e-5)
    assert model.nats([unseen, unseen]) == pytest.approx([-np.mean(want)] * 2, abs=1e-5)


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize(
    "before", [(), ("",), ("夜雨",), ("夜雨敲窗响", ""), ("夜雨敲窗响", "灯前"), ("龘" * 5, "a")], ids=str
)
def test_probabilities_of_all_symbols_sum_to_one(order, before):
    p = KneserNey.fit(POEMS, order, least=3).distribution(before)
    assert p.sum() == pytest.approx(1, abs=1e-5) and (p > 0).all()


def test_the_distribution_is_what_the_score_is_made_of():
    model, poem = KneserNey.fit(POEMS, 4, least=2), POEMS[3]
    log_p = model.log_p([poem])
    assert log_p[0] == pytest.approx(np.log(model.distribution(())[model.alphabet[ord(poem[0][0])]]))
    inside = model.distribution((poem[0], poem[1][:2]))[model.alphabet[ord(poem[1][2])]]
    assert log_p[len(poem[0]) + 2] == pytest.approx(np.log(inside))


def test_characters_rarer_than_asked_are_one_symbol():
    model = KneserNey.fit(POEMS, 3, least=2)
    once = [c for c in set("".join(map("".join, POEMS))) if "".join(map("".join, POEMS)).count(c) == 1][:2]
    assert model.log_p([(once[0],)]) == model.log_p([(once[1],)]) == model.log_p([("a",)])


def test_what_was_counted_is_likelier_than_the_same_characters_in_disorder():
    model = KneserNey.fit(POEMS, 5, least=1)
    backwards = [tuple(line[::-1] for line in poem) for poem in POEMS]
    assert model.nats(POEMS).mean() < model.nats(backwards).mean() - 1


def test_poems_do_not_see_one_another():
    model = KneserNey.fit(POEMS, 5, least=2)
    assert model.nats(POEMS[:7]) == pytest.approx([model.nats([poem])[0] for poem in POEMS[:7]])


@pytest.mark.parametrize("poems", [[], [()], [POEMS[0], ("",)]])
def test_a_poem_without_characters_has_no_likelihood(poems):
    with pytest.raises(ValueError, match="only poems with characters"):
        KneserNey.fit(POEMS, 2).nats(poems)


def test_a_model_needs_poems_and_an_order():
    with pytest.raises(ValueError, match="needs poems and an order"):
        KneserNey.fit([], 5)
    with pytest.raises(ValueError, match="needs poems and an order"):
        KneserNey.fit(POEMS, 0)


# -- titles ---------------------------------------------------------------------------------------------------------------

THINGS = "山水花鸟雪月风云竹松"
ABOUT = [(thing + "天地人" + "间",) * 4 for thing in THINGS for _ in range(20)]  # a thing's poems begin with it
NAMED = [thing for thing in THINGS for _ in range(20)]


def test_titles_go_by_their_characters_without_the_place_in_a_series():
    assert title_words("春日二首 其一") == title_words("春日") == "春日"
    assert title_words(None) == title_words("No. 5") == ""


def test_a_title_is_likelier_beside_poems_that_had_it():
    model = TitleModel.fit(NAMED, ABOUT)
    poem = ("山天地人间",) * 4
    assert model.score("山", poem) > 0 > model.score("水", poem)
    assert model.score("山水", poem) == pytest.approx(model.score("山", poem) + model.score("水", poem), abs=1e-5)
    assert model.score("龘", poem) == model.score("", poem) == 0


def test_the_association_of_a_title_is_what_the_equation_says():
    model = TitleModel.fit(NAMED, ABOUT)
    # 山 stands in 20 poems, a fifth of each; all their title characters are 山, and one in ten of all is
    given = (4 / 0.1 + 20) / (4 + 20)
    everywhere = (4 / 0.1 + 20) / (40 + 20)  # 天: 200 poems, 20 of them 山
    want = math.log(0.7 * (given + 4 * everywhere) / 5 + 0.3)
    assert model.score("山", ("山天地人间",)) == pytest.approx(want, abs=1e-5)


def test_own_titles_are_found_among_others():
    model = TitleModel.fit(NAMED, ABOUT)
    assert retrieval(model.score, ABOUT, NAMED, k=5).rate == 1
    assert retrieval(lambda title, poem: -model.score(title, poem), ABOUT, NAMED, k=5).rate == 0


def test_who_knows_nothing_finds_one_in_k():
    found = retrieval(lambda title, poem: 0.0, POEMS, TITLES, k=4)
    assert found.rate == pytest.approx(1 / 4) and found.low < 1 / 4 < found.high and found.poems <= len(POEMS)


def test_retrieval_draws_by_seed():
    def score(title, poem):
        return float(hash((len(title), ord(title[0]) * 7 % 13, ord(poem[0][0]) % 11)) % 17)

    draws = [retrieval(score, POEMS, TITLES, k=4, seed=seed) for seed in (0, 0, 100)]
    assert draws[0] == draws[1] != draws[2]


def test_other_poems_of_the_same_title_are_no_foils():
    asked = []
    retrieval(lambda title, poem: float(asked.append((title, poem)) or 0), ABOUT, NAMED, k=4)
    by_poem = [asked[i : i + 4] for i in range(0, len(asked), 4)]
    assert all(len({title for title, _ in four}) == 4 for four in by_poem)


@pytest.mark.parametrize(
    ("poems", "titles", "k", "says"),
    [
        (POEMS[:3], TITLES[:2], 3, "pass one for each poem"),
        (POEMS, TITLES, 1, "pass one for each poem"),
        (POEMS[:3], ["夜雨"] * 3, 2, "pass more poems"),
        (POEMS[:3], [None] * 3, 2, "pass more poems"),
    ],
)
def test_retrieval_says_what_it_lacks(poems, titles, k, says):
    with pytest.raises(ValueError, match=says):
        retrieval(lambda title, poem: 0.0, poems, titles, k=k)


def test_title_models_need_titles():
    with pytest.raises(ValueError, match="as many titles"):
        TitleModel.fit([None] * len(POEMS), POEMS)
