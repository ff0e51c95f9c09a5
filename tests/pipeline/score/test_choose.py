"""Slots of a text and their candidates: the joint law of the assignments, against laws that can be listed."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from tiny import QUATRAIN, listed, oracle, ordered_model, poem_model, saved, sentence_model

import textdiff
from textdiff import cli
from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError
from textdiff.core.likelihood import nelbo
from textdiff.processes.ascending import Ascending
from textdiff.samplers.ancestral import improved
from textdiff.samplers.likelihood import in_order
from textdiff.verse.forms import split_at_punctuation

LAW = listed(2, 3, 4)
EXACT = textdiff.TextPipeline(oracle(LAW))
LEANING = textdiff.TextPipeline(oracle(LAW, lean=0.5))
ORDERS = ["left", "right", "random:3", "confidence", None]


def probabilities(chosen):
    return {tuple(one.labels.values()): one.probability for one in chosen.assignments}


def conditional(texts):
    """The law given that the text is one of these."""
    total = sum(LAW[text] for text in texts.values())
    return {key: LAW[text] / total for key, text in texts.items()}


@pytest.mark.parametrize("order", ORDERS)
def test_with_an_exact_predictor_every_order_gives_the_law_given_the_texts(order):
    (chosen,) = EXACT.choose("a{one}{two}c", {"one": ["a", "b", "c"], "two": ["b", "c"]}, order=order)
    wanted = conditional({(x, y): f"a{x}{y}c" for x, y in itertools.product("abc", "bc")})
    assert probabilities(chosen) == pytest.approx(wanted)
    best = max(wanted, key=wanted.__getitem__)
    first, second = sorted(wanted.values())[:-3:-1]
    assert tuple(chosen.labels.values()) == best and chosen.text == f"a{best[0]}{best[1]}c"
    assert chosen.probability == pytest.approx(first) and chosen.margin == pytest.approx(first - second)
    assert chosen.entropy == pytest.approx(-sum(p * math.log(p) for p in wanted.values()))
    assert chosen.slots["one"]["b"] == pytest.approx(wanted["b", "b"] + wanted["b", "c"])
    around = sum(p for text, p in LAW.items() if len(text) == 4 and text[0] == "a" and text[3] == "c")
    assert chosen.covered == pytest.approx(sum(LAW[f"a{x}{y}c"] for x, y in wanted) / around)


@pytest.mark.parametrize("order", ORDERS)
def test_candidates_of_any_number_of_tokens_have_the_law_of_the_whole_texts(order):
    (chosen,) = EXACT.choose("a{}", {1: ["b", "cc", "bca"]}, order=order)
    assert probabilities(chosen) == pytest.approx(conditional({(x,): f"a{x}" for x in ("b", "cc", "bca")}))
    assert chosen.covered is None


def test_compared_by_the_slots_alone_what_stands_around_them_does_not_count():
    (chosen,) = EXACT.choose("a{}", {1: ["b", "cc"]}, compare="slots")
    begins = {n: sum(p for text, p in LAW.items() if len(text) == n and text[0] == "a") for n in (2, 3)}
    alone = {"b": LAW["ab"] / begins[2], "cc": LAW["acc"] / begins[3]}
    assert probabilities(chosen) == pytest.approx({(x,): p / sum(alone.values()) for x, p in alone.items()})


def test_orders_differ_where_the_predictor_is_no_law_and_random_ones_are_a_mixture():
    slots = {"one": ["a", "b"], "two": ["b", "c"]}
    of = {order: probabilities(LEANING.choose("a{one}{two}c", slots, order=order)[0]) for order in ("left", "right")}
    assert max(abs(of["left"][key] - of["right"][key]) for key in of["left"]) > 1e-3
    (mixed,) = LEANING.choose("a{one}{two}c", slots, order="random:64")
    for key, p in probabilities(mixed).items():
        low, high = sorted(each[key] for each in of.values())
        assert low - 1e-3 <= p <= high + 1e-3


def test_one_slot_of_one_token_is_the_softmax_of_one_forward_over_the_candidates():
    model = oracle(LAW, lean=0.5)
    (chosen,) = textdiff.TextPipeline(model).choose("a{}ca", {1: ["b", "a", "c"]})
    assert model.asked == [1]
    ids = model.encode(["a[MASK]ca"])
    query = Query(ids, (ids == model.mask_id).double(), at=(torch.tensor([0]), torch.tensor([1])))
    logits = model.predictor("mask")(query).logits()[0, model.encode(["bac"])[0]].softmax(-1)
    assert list(probabilities(chosen)) == sorted(probabilities(chosen), key=lambda k: -probabilities(chosen)[k])
    assert [chosen.slots["1"][x] for x in "bac"] == pytest.approx(logits.tolist())


def test_of_equally_likely_assignments_the_first_wins_by_no_margin():
    even = textdiff.TextPipeline(oracle(dict.fromkeys(listed(3), 1 / 27)))
    (chosen,) = even.choose("{x}a{y}", x=["c", "b", "a"], y=["b", "a"])
    assert chosen.labels == {"x": "c", "y": "b"} and chosen.margin == pytest.approx(0)
    assert chosen.entropy == pytest.approx(math.log(6))


def test_a_label_has_the_probability_of_all_its_words_and_a_slot_twice_the_same_word():
    (chosen,) = EXACT.choose("{x}b{x}", x={"early": ["a", "b"], "late": "c"})
    wanted = conditional({x: f"{x}b{x}" for x in "abc"})
    labels = {"early": wanted["a"] + wanted["b"], "late": wanted["c"]}
    assert chosen.slots["x"] == pytest.approx(labels)
    assert probabilities(chosen) == pytest.approx({(label,): p for label, p in labels.items()})


def test_templates_together_are_chosen_as_each_alone():
    templates, slots = ["a{}", "{}bc", "b{}a"], [{1: ["b", "cc"]}, {1: ["a", "b"]}, {1: ["ab", "c", "b"]}]
    together = LEANING.choose(templates, slots, order="random:2")
    assert together == [LEANING.choose(*pair, order="random:2")[0] for pair in zip(templates, slots, strict=True)]


def test_any_masked_model_chooses_words_of_one_or_several_tokens():
    pipe = textdiff.TextPipeline(sentence_model())
    (chosen,) = pipe.choose("The {animal} {deed} on the mat.", animal=["cat", "dogs"], deed=["sat", "mated"])
    assert sum(probabilities(chosen).values()) == pytest.approx(1) and len(chosen.assignments) == 4
    alone = pipe.choose("The cat {} on the mat.", {1: ["sat", "ran"]})[0].slots["1"]
    model = pipe.model
    ids = model.encode(["The cat [MASK] on the mat."])
    query = Query(ids, (ids == model.mask_id).double())
    logits = model.predictor("mask")(query).logits()[2, model.encode(["sat", "ran"])[:, 0]]
    assert list(alone.values()) == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)


@pytest.mark.parametrize(("build", "process"), [(poem_model, "mask"), (ordered_model, "ascending")])
def test_slots_of_a_poem_are_characters_of_it_and_a_writer_writes_them_in_one_pass(build, process):
    model, slots = build(), {"where": ["床前", "山尽"], "what": ["月光", "风雨"]}
    template = QUATRAIN.replace("床前", "{where}").replace("月光", "{what}")
    texts = {words: template.format(where=words[0], what=words[1]) for words in itertools.product(*slots.values())}
    (chosen,) = textdiff.TextPipeline(model).choose(template, slots)
    assert chosen.order == ("left" if process == "mask" else None)
    x0 = model.encode(["".join(split_at_punctuation(text)) for text in texts.values()])
    free = torch.zeros_like(x0, dtype=torch.bool).index_fill(1, torch.tensor([0, 1, 3, 4]), True)
    told = {
        "predictor": model.predictor(process),
        "seeds": torch.arange(4),
        "condition": model.condition(4, "wuyan-jueju"),
    }
    left = Ascending(model.mask_id, whole=process != "mask")
    with torch.inference_mode():
        nats = (
            nelbo(x0, free, process=left, **told)
            if process != "mask"
            else in_order(x0, free, improved(), process=left, **told)
        )
    assert probabilities(chosen) == pytest.approx(dict(zip(texts, (-nats).softmax(0).tolist(), strict=True)), abs=1e-5)
    assert chosen.covered == pytest.approx(float((-nats).exp().sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("template", "slots", "says"),
    [
        ("a{x}", {"x": ["b"]}, "fewer than two labels"),
        ("a{x}", {"x": ["b", "b"]}, "'b' twice"),
        ("a{x}", {"x": ["b", ""]}, "without a word"),
        ("a{x}", {"x": "bc"}, "pass a list"),
        ("a{x}", {"x": [True, False]}, "'yes' and 'no'"),
        ("a{x}", {"y": ["a", "b"]}, "'x' without candidates; known are y"),
        ("ab", {"x": ["a", "b"]}, "no slot 'x'"),
        ("ab", {}, "no slot; write {name}"),
        ("a{x", {"x": ["a", "b"]}, "write {{ for a brace"),
        ("a{x:3}", {"x": ["a", "b"]}, "more than a name"),
        ("a{x}", {"x": ["b", "Z"]}, "'Z' is outside the vocabulary"),
        ("a{x}{y}", {"x": list("abc"), "y": list("abc")}, r"9 texts \(3 × 3 candidates\), and at most 8"),
    ],
)
def test_what_cannot_be_chosen_is_said_at_the_door(template, slots, says):
    with pytest.raises(AskedError, match=says.replace("{", r"\{")):
        EXACT.choose(template, slots, limit=8)


def test_candidates_that_read_alike_are_refused():
    with pytest.raises(AskedError, match="the same to the model"):
        textdiff.TextPipeline(sentence_model()).choose("the {} sat.", {1: ["cat", "CAT"]})


@pytest.mark.parametrize("options", [{"compare": "words"}, {"order": "up"}, {"limit": 1}, {"slots": [{}, {}]}])
def test_an_option_that_cannot_be_is_refused(options):
    slots = options.pop("slots", {1: ["a", "b"]})
    with pytest.raises(AskedError):
        EXACT.choose("a{}", slots, **options)


# -- the verb -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return saved(sentence_model(), tmp_path_factory.mktemp("models") / "words")


def test_the_verb_prints_the_winner_and_the_law_and_json_has_all_of_it(words, capsys):
    command = ["choose", "the {animal} sat.", "--slot", "animal=cat,dog", "--model", words]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    (chosen,) = textdiff.load(words).choose("the {animal} sat.", animal=["cat", "dog"])
    assert printed.splitlines()[0] == chosen.text and f"{chosen.probability:.4f}" in printed
    assert cli.main([*command, "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["labels"] == chosen.labels and line["slots"]["animal"] == pytest.approx(chosen.slots["animal"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [(["--slot", "x=a,b", "--slot", "x=c,d"], "--slot x is given twice"), (["--slot", "x=猫，犬"], "not as ，")],
)
def test_a_slot_is_named_once_with_its_candidates_behind_plain_commas(words, capsys, flags, says):
    assert cli.main(["choose", "the {x} sat.", "--model", words, *flags]) == 2
    assert says in capsys.readouterr().err


def test_records_are_put_into_a_template_or_bring_their_own_slots(words, capsys, tmp_path):
    rows = [{"text": "the cat sat", "id": 7}, {"text": "a {dog} ran", "id": 8}]
    (tmp_path / "in").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["choose", "--file", tmp_path / "in", "--model", words, "--json"]
    template = ["--template", "{text} on the {x}", "--slot", "x=mat,tree"]
    assert cli.main([str(word) for word in [*command, *template]]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["id"] for one in found] == [7, 8] and found[0]["text"].startswith("the cat sat on the ")
    row = {"text": "{n} cat", "slots": {"n": ["a", "two"]}}
    (tmp_path / "in").write_text(json.dumps(row) + "\n" + json.dumps({"text": "no slot"}) + "\n", encoding="utf-8")
    assert cli.main([str(word) for word in [*command, "--on-error", "skip"]]) == 1
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert set(first["slots"]["n"]) == {"a", "two"} and "no slot" in second["error"]


@pytest.mark.parametrize("k", [None, True, ["on"], {}])
def test_what_a_record_does_not_say_is_not_written_into_a_template(words, capsys, k, tmp_path):
    (tmp_path / "in").write_text(json.dumps({"text": "the mat", "k": k}) + "\n", encoding="utf-8")
    command = ["choose", "--file", str(tmp_path / "in"), "--model", words, "--template", "{text} {k} {x}"]
    assert cli.main([*command, "--slot", "x=cat,dog"]) == 2
    said = "nothing" if k is None else repr(k)
    assert f"has {{k}}, and the record has {said} there; give it text or a number" in capsys.readouterr().err
