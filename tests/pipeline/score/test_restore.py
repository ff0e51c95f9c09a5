"""Damaged texts: the law of their gaps, against laws that can be listed."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny import (
    QUATRAIN,
    character_tokenizer,
    listed,
    network,
    oracle,
    ordered_model,
    poem_model,
    saved,
    sentence_model,
)
from tqdm import tqdm

import textdiff
from textdiff import cli
from textdiff.cli import judge
from textdiff.core.errors import AskedError
from textdiff.core.likelihood import nelbo
from textdiff.core.rng import example_seed
from textdiff.networks.folder import TextModel
from textdiff.pipeline.score.order import Order
from textdiff.processes.ascending import Ascending
from textdiff.shaping.tokens import banned

LAW = listed(2, 3, 4)
EXACT = textdiff.TextPipeline(oracle(LAW))
LEANING = textdiff.TextPipeline(oracle(LAW, lean=0.5))
LETTERS = "Tbenort,. \n"
ORDERS = ["left", "right", "random:3", "confidence", None]


def fitting(*patterns):
    """The strings that have the letters of one of the patterns, `?` being any, with their probabilities given that."""

    def fits(text, pattern):
        return len(text) == len(pattern) and all(p in ("?", c) for c, p in zip(text, pattern, strict=True))

    found = {text: p for text, p in LAW.items() if any(fits(text, pattern) for pattern in patterns)}
    return {text: p / sum(found.values()) for text, p in found.items()}


def law_of(ranked):
    return {one.text: one.probability for one in ranked.fillings}


@pytest.mark.parametrize("order", ORDERS)
def test_with_an_exact_predictor_every_order_gives_the_law_of_the_gaps(order):
    (found,) = EXACT.restore("a□□c", order=order)
    wanted = fitting("a??c")
    assert law_of(found.whole) == pytest.approx(wanted) and found.whole.covered == pytest.approx(1)
    assert found.text == max(wanted, key=wanted.__getitem__) and found.probability == pytest.approx(
        max(wanted.values())
    )
    assert law_of(found.gaps[0]) == pytest.approx({text[1:3]: p for text, p in wanted.items()})
    assert list(law_of(found.whole).values()) == pytest.approx(sorted(wanted.values(), reverse=True))
    assert found.whole.certain == (9 if order in ("left", "right", None) else None)


def test_each_gap_has_its_law_whatever_stands_in_the_others():
    (found,) = EXACT.restore("□b_c")
    wanted = fitting("?b?c")
    assert law_of(found.whole) == pytest.approx(wanted)
    for gap, place in zip(found.gaps, (0, 2), strict=True):
        alone = {x: sum(p for text, p in wanted.items() if text[place] == x) for x in "abc"}
        assert law_of(gap) == pytest.approx(alone) and gap.lengths == {1: 1.0}


@pytest.mark.parametrize("order", ORDERS)
def test_a_gap_of_unknown_length_has_the_law_of_the_texts_of_all_its_lengths(order):
    (found,) = EXACT.restore("a□{1,3}", order=order, top=50)
    wanted = fitting("a?", "a??", "a???")
    assert law_of(found.whole) == pytest.approx(wanted) and len(wanted) == 39
    assert law_of(found.gaps[0]) == pytest.approx({text[1:]: p for text, p in wanted.items()})
    sizes = {n: sum(p for text, p in wanted.items() if len(text) == n + 1) for n in (1, 2, 3)}
    assert found.gaps[0].lengths == pytest.approx(sizes)


def test_holes_and_ranges_that_touch_are_one_gap():
    (found,) = EXACT.restore("b□□{,2}", top=50)
    assert len(found.gaps) == 1 and found.gaps[0].lengths.keys() == {2, 3}
    assert law_of(found.whole) == pytest.approx(fitting("b??", "b???"))


@pytest.mark.parametrize("order", ["left", "right"])
@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_what_a_narrow_beam_calls_certain_are_the_likeliest_fillings(order, width):
    (all_,) = LEANING.restore("□□b□", order=order, top=27)
    (some,) = LEANING.restore("□□b□", order=order, width=width, top=width)
    assert some.whole.certain is not None
    sure = some.whole.fillings[: some.whole.certain]
    assert [one.text for one in sure] == [one.text for one in all_.whole.fillings[: len(sure)]]
    whole = law_of(all_.whole)
    assert all(p == pytest.approx(whole[text]) for text, p in law_of(some.whole).items()), "each probability is exact"
    assert math.fsum(whole.values()) == pytest.approx(1) and some.whole.covered < 1


@pytest.mark.parametrize("order", ["left", "right", "random:3", "confidence"])
def test_probabilities_are_those_of_the_order_where_the_predictor_is_no_law(order):
    (found,) = LEANING.restore("□□b□", order=order, seed=5)
    model, texts = LEANING.model, [one.text for one in found.whole.fillings]
    x0 = model.encode(texts)
    free = torch.tensor([True, True, False, True]).expand(len(x0), -1)
    seeds = torch.full((len(x0),), example_seed(5, 0))
    nats = Order.parse(order).nats(x0, free, predictor=model.predictor("mask"), mask_id=model.mask_id, seeds=seeds)
    assert [one.probability for one in found.whole.fillings] == pytest.approx((-nats).exp().tolist())


def test_a_poem_keeps_what_stands_and_nothing_is_written_that_is_no_character():
    pipe = textdiff.TextPipeline(poem_model())
    (found,) = pipe.restore(QUATRAIN.replace("明月光", "□□光").replace("故", "□"), top=5, width=8)
    assert len(found.whole.fillings) == 5 and found.form == "wuyan-jueju"
    for one in found.whole.fillings:
        assert [a for a, b in zip(one.text, QUATRAIN, strict=True) if a != b] != [] or one.text == QUATRAIN
        assert all(a == b for k, (a, b) in enumerate(zip(one.text, QUATRAIN, strict=True)) if k not in (2, 3, 22))
    assert [len(gap.fillings[0].text) for gap in found.gaps] == [2, 1]
    assert pipe.restore(QUATRAIN.replace("明月", "□{1,4}"), top=3, width=4)[0].gaps[0].lengths == {2: 1.0}, (
        "the other lengths make no poem"
    )


def test_in_english_a_gap_has_the_law_that_the_network_gives_spaces_and_line_breaks_among_its_characters():
    tokenizer = character_tokenizer(LETTERS)
    model = TextModel.from_parts(network(len(tokenizer)), tokenizer, processes=("mask",), name="tiny-english")
    start, behind = " To be,\nor", "ot to be. \n"
    (found,) = textdiff.TextPipeline(model).restore(f"{start}□□{behind}", top=len(LETTERS) ** 2, width=len(LETTERS))
    number = tokenizer.convert_tokens_to_ids(list(LETTERS))

    def law_of_hole(text):  # of the first one
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(["[MASK]" if c == "□" else c for c in text])])
        with torch.no_grad():
            return model.model(ids).logits[0, text.index("□"), number].double().softmax(-1).tolist()

    wanted = {
        one + other: p * q
        for one, p in zip(LETTERS, law_of_hole(f"{start}□□{behind}"), strict=True)
        for other, q in zip(LETTERS, law_of_hole(f"{start}{one}□{behind}"), strict=True)
    }
    given = law_of(found.gaps[0])
    assert given == pytest.approx({text: wanted[text] for text in given}, rel=1e-4, abs=1e-9)
    assert {"\n", " "} < set("".join(given)) and found.gaps[0].covered == pytest.approx(sum(given.values()))
    assert found.text == start + max(wanted, key=wanted.__getitem__) + behind
    (ranged,) = textdiff.TextPipeline(model).restore(f"{start}□{{1,3}}{behind}", order="left")
    assert set(ranged.gaps[0].lengths) == {1, 2, 3} and ranged.text.startswith(start) and ranged.text.endswith(behind)


def test_a_writer_restores_in_its_own_order():
    model = ordered_model()
    (found,) = textdiff.TextPipeline(model).restore(QUATRAIN.replace("明月光", "□□光"), top=3, width=6)
    x0 = model.encode(["".join(c for c in one.text if c.isalpha()) for one in found.whole.fillings])
    free = torch.zeros_like(x0, dtype=torch.bool)
    free[:, 2:4] = True
    with torch.inference_mode():
        nats = nelbo(
            x0,
            free,
            predictor=banned(model.predictor("ascending"), [model.unk_id]),
            process=Ascending(model.mask_id, whole=True),
            seeds=torch.arange(3),
            condition=model.condition(3, "wuyan-jueju"),
        )
    assert [one.probability for one in found.whole.fillings] == pytest.approx((-nats).exp().tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("abc", "no hole"),
        ("a□{3,1}", "has no range"),
        ("a□{0,2}", "at least one"),
        ("a□{2,}", "has no range"),
        ("□{1,9}a□{1,9}", "81 combinations"),
        ("□{" + "9" * 20 + "}", "more than 9999 characters"),
        ("□{1," + "9" * 5000 + "}", "more than 9999 characters"),
    ],
)
def test_a_gap_that_cannot_be_is_said_at_the_door(text, says):
    with pytest.raises(AskedError, match=says):
        EXACT.restore(text)


@pytest.mark.parametrize("name", ["top", "width"])
def test_a_beam_that_memory_could_not_hold_is_refused(name):
    with pytest.raises(AskedError, match=f"{name} is 100000000; it must be at most 4096"):
        EXACT.restore("a□□c", **{name: 10**8})


def test_gaps_of_which_no_length_makes_a_poem_are_refused():
    with pytest.raises(AskedError, match="no length fits: "):
        textdiff.TextPipeline(poem_model()).restore(QUATRAIN.replace("明月", "□{3,4}"))


# -- the verb -------------------------------------------------------------------------------------------------------------


def test_the_verb_prints_the_gaps_and_json_has_all_of_it(tmp_path, capsys):
    words = saved(sentence_model(), tmp_path / "words")
    rows = [{"text": "the □{1,2} sat on the mat", "id": 1}, {"text": "no gap"}, {"text": "a □ ran", "id": 2}]
    (tmp_path / "in").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["restore", "--file", str(tmp_path / "in"), "--model", words, "--top", "3", "--on-error", "skip"]
    assert cli.main([*command, "--json"]) == 1
    first, wrong, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["id"], second["id"]) == (1, 2) and "no hole" in wrong["error"]
    assert first["input"] == {"text": rows[0]["text"]} and len(first["gaps"][0]["fillings"]) == 3
    assert sum(first["gaps"][0]["lengths"].values()) == pytest.approx(1)
    (found,) = textdiff.load(words).restore("a □ ran", top=3)
    assert second["text"] == found.text and second["probability"] == pytest.approx(found.probability)
    assert cli.main(["restore", "a □ ran", "--model", words, "--top", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(found.text) and all(one.text in printed for one in found.gaps[0].fillings)


@pytest.mark.parametrize("text", ["a□□□", "□b_c", "a□{1,3}", "□{1,2}b□"])
@pytest.mark.parametrize("order", [None, "confidence"])
def test_each_hole_is_heard_of_as_a_share_of_its_text(text, order):
    shares: list[float] = []
    EXACT.restore([text, "a□"], order=order, callback=shares.append)
    assert math.fsum(shares) == pytest.approx(2) and len(shares) > 3 and min(shares) > 0


def test_the_bar_moves_within_a_text_and_counts_each_once(tmp_path, monkeypatch, capsys):
    words = saved(sentence_model(), tmp_path / "words")
    (tmp_path / "in").write_text("the □□ sat\nno gap\na □ ran\n", encoding="utf-8")
    places: list[float] = []

    class Bar(tqdm):  # type: ignore[type-arg]
        def update(self, n=1):
            self.n += n
            places.append(self.n)

    monkeypatch.setattr(judge, "progress_bar", lambda *_: Bar(disable=True))
    assert cli.main(["restore", "--file", str(tmp_path / "in"), "--model", words, "--on-error", "skip"]) == 1
    assert places[-1] == pytest.approx(3) and any(0 < place < 1 for place in places)
    assert capsys.readouterr().out.count("gap 1") == 2
