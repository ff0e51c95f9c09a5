"""Variants of texts: what is kept stays letter by letter, and distance and score are those of the texts that are given."""

from __future__ import annotations

import itertools
import json
import random
import re
import unicodedata

import pytest
from tiny import (
    PROCESSES,
    QUATRAIN,
    RHYMES,
    byte_model,
    network,
    ordered_model,
    poem_model,
    saved,
    sentence_model,
    window_model,
    word_pieces,
)
from tokenizers import normalizers

from textdiff import cli
from textdiff.networks.folder import TextModel
from textdiff.pipeline.revision.augment import edits
from textdiff.pipeline.revision.words import words
from textdiff.pipeline.text import Pipeline

POEMS, WORDS = Pipeline(poem_model(RHYMES)), Pipeline(sentence_model())
OTHER = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
SENTENCE = "The cats  sat on the mat. Two dogs ran, zebra."


def shape(text: str) -> list[str]:
    """Where a text has words, signs and white space."""
    parts = re.findall(r"[^\W_]+|\s+|[\W_]", text)
    return [" " if part.isspace() else "word" if part.isalnum() else "sign" for part in parts]


# -- what stays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
def test_kept_characters_of_a_poem_stay_where_they_are(process):
    keep = ["月", re.compile("低..故"), (0, 1)]
    found = POEMS.augment(QUATRAIN, strength=1.0, n=3, keep=keep, process=process, levels=0)
    stays = {0} | {k for k, c in enumerate(QUATRAIN) if c in "，。\n月低思故"} | {QUATRAIN.index("头思")}
    for one in found:
        assert len(one.text) == len(QUATRAIN) and one.changed > 0.3
        assert all(one.text[k] == QUATRAIN[k] for k in stays)


@pytest.mark.parametrize(
    ("pipe", "text", "keep", "stays"),
    [
        (WORDS, SENTENCE, ["zebra", (0, 4), "og"], {"The ": 0}),
        (
            Pipeline(byte_model()),
            "the cat sat (twice), café",
            ["cat", re.compile("tw")],
            {"cat": 4, "tw": 13, "é": 24},
        ),
        (Pipeline(window_model()), "abc deaf.\nhead gabe ", "head", {"head": 10}),
    ],
    ids=["word pieces", "bytes", "characters"],
)
def test_words_and_what_is_kept_of_running_text_stay_where_they_are(pipe, text, keep, stays):
    found = pipe.augment(text, strength=0.9, n=8, keep=keep, seed=3, levels=0)
    assert len({one.text for one in found}) > 4
    for one in found:
        assert shape(one.text) == shape(text)
        assert re.findall(r"\s+", one.text) == re.findall(r"\s+", text)
        assert all(one.text[at : at + len(part)] == part for part, at in stays.items())
    if pipe is WORDS:
        assert all(one.text.endswith("zebra.") for one in found), "unknown words stay, too"
        assert all(one.text.split(". ")[1].split()[1].startswith("dog") for one in found), (
            "a part is kept, and so the token"
        )


def test_an_accent_goes_with_its_letter_where_the_tokenizer_drops_it():
    tokenizer = word_pieces()
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    bare = Pipeline(TextModel.from_parts(network(len(tokenizer)), tokenizer, name="bare-words"))
    text = "the cat\u0301 sat on the mat\u0323\u0301."
    found = bare.augment(text, strength=1.0, n=8, levels=0)
    assert len({one.text for one in found}) > 4
    for one in found:
        for old, new in zip(text.split(), one.text.split(), strict=True):
            assert new == old or not any(map(unicodedata.combining, new))
    for one in bare.augment(text, strength=1.0, n=4, keep=[(7, 8)], levels=0):
        assert one.text.split()[1] == "cat\u0301", "a part is kept, and so the letter"


def test_an_accent_that_is_a_token_of_its_own_stays_with_its_letter():
    pipe = Pipeline(byte_model())
    for one in pipe.augment("a cafe\u0301 sat", strength=1.0, n=8, levels=0):
        assert "e\u0301 " in one.text
    printed = words(pipe.model).printed
    assert "a" in printed and not any(unicodedata.category(c) == "Cc" for text in printed for c in text)


def test_what_is_kept_may_be_said_for_each_text():
    texts = [QUATRAIN, OTHER]
    (first, second) = (
        POEMS.augment(t, seed=k, n=1, strength=1.0, keep=["月", "白"][k], levels=0) for k, t in enumerate(texts)
    )
    assert POEMS.augment(texts, n=1, strength=1.0, keep=[["月"], ["白"]], levels=0) == first + second
    assert POEMS.augment(texts, n=1, strength=1.0, keep=["月", "白"], levels=0) == first + second, (
        "neither has the other's"
    )
    free = POEMS.augment(OTHER, seed=1, n=1, strength=1.0, levels=0)
    assert POEMS.augment(texts, n=1, strength=1.0, keep=[["月"], None], levels=0) == first + free


@pytest.mark.parametrize("process", ["mask", "ascending"])
def test_a_text_that_does_not_match_has_no_variants_that_do(process):
    for one in POEMS.augment(QUATRAIN, match="(?s)床.*", process=process, levels=0):
        assert one.text.startswith("床") and one.changed
    with pytest.raises(ValueError, match=re.escape("'床' (character 1) does not fit match '(?s)月.*'")):
        POEMS.augment(QUATRAIN, match="(?s)月.*", process=process, levels=0)


# -- what is drawn --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["mask", "replacement", "ascending"])
def test_variants_are_those_of_their_seed_whatever_stands_beside_them(process):
    more = {"n": 2, "strength": 0.4, "process": process, "levels": 1}
    together = POEMS.augment([QUATRAIN, OTHER + "\n" + OTHER, OTHER], seed=3, **more)
    assert [one.seed for one in together] == [3, 3, 4, 4, 5, 5] and [one.variant for one in together] == [1, 2] * 3
    assert POEMS.augment(OTHER, seed=5, batch_size=1, **more) == together[4:]
    assert POEMS.augment([OTHER], seed=[6], **more) != together[4:]


def test_sentences_of_one_length_keep_their_own_words_apart():
    texts = ["the cats sat . two", "sat . the cats two"]
    together = WORDS.augment(texts, n=4, strength=0.6, levels=0)
    assert together == [one for k in (0, 1) for one in WORDS.augment(texts[k], seed=k, n=4, strength=0.6, levels=0)]
    assert all(shape(one.text) == shape(one.original) for one in together)


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_variants_of_a_poem_are_the_variations_that_refine_draws(process):
    variants = POEMS.augment([QUATRAIN, OTHER], seed=2, n=3, strength=0.3, process=process, levels=16)
    variations = POEMS.refine([QUATRAIN, OTHER], seed=2, variations=3, level=0.3, process=process)
    assert [one.text for one in variants] == [one.after for one in variations]
    for one, other in zip(variants, variations, strict=True):
        assert one.changed == len(other.changed) / 20
        assert (one.nats_per_char_before, one.nats_per_char) == pytest.approx((other.bound_before, other.bound_after))


def test_no_more_than_the_share_is_changed_and_at_least_one_token_is_drawn():
    for strength, most in ((0.01, 1), (0.25, 5), (1.0, 20)):
        found = POEMS.augment(QUATRAIN, strength=strength, n=6, levels=0)
        assert max(round(20 * one.changed) for one in found) <= most


def test_a_variant_that_no_draw_makes_different_says_which_one_it_is_like():
    keep = re.compile(r"\A.*(?=Two)|(?<=Two).*")  # one word is free, and ten may stand there
    found = WORDS.augment(SENTENCE, keep=keep, n=14, tries=3, levels=0)
    texts = [SENTENCE, *(one.text for one in found)]
    first = {texts[k].lower(): k for k in range(len(texts)) if k == 0 or found[k - 1].like is None}
    assert len(first) == 1 + sum(one.like is None for one in found), "those that are like none are different"
    assert all(one.like == first[one.text.lower()] for one in found if one.like is not None)
    assert all((one.changed == 0) == (one.like == 0) for one in found)
    assert {one.like is None for one in found} == {True, False}
    once = sum(one.like is not None for one in WORDS.augment(SENTENCE, keep=keep, n=6, tries=1, levels=0))
    many = sum(one.like is not None for one in WORDS.augment(SENTENCE, keep=keep, n=6, tries=30, levels=0))
    assert many < once


# -- what is said of them -------------------------------------------------------------------------------------------------


def test_distance_is_counted_on_the_texts():
    for one in Pipeline(window_model()).augment("abc deaf head gabe", strength=0.6, n=5, levels=0):
        different = sum(a != b for a, b in zip(one.text, one.original, strict=True))
        assert one.changed == different / 18 and 0 < one.edits <= different


def test_edits_are_the_fewest():
    def fewest(a: str, b: str) -> int:
        table = {(i, j): i or j for i in range(len(a) + 1) for j in range(len(b) + 1) if not (i and j)}
        for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
        return table[len(a), len(b)]

    rng = random.Random(0)
    for _ in range(200):
        a, b = ("".join(rng.choices("月日𠮷", k=rng.randrange(7))) for _ in range(2))
        assert edits(a, b) == fewest(a, b), (a, b)


@pytest.mark.parametrize("pipe", [POEMS, Pipeline(ordered_model(RHYMES)), WORDS], ids=lambda pipe: pipe.model.name)
def test_the_score_is_what_score_gives(pipe):
    text = SENTENCE if pipe is WORDS else QUATRAIN
    found = pipe.augment(text, n=2, levels=3)
    scores = pipe.score([text, *(one.text for one in found)], levels=3, repeats=1)
    assert [one.nats_per_char for one in found] == pytest.approx([one.nats_per_char for one in scores[1:]], abs=1e-6)
    assert {one.nats_per_char_before for one in found} == {found[0].nats_per_char_before}
    assert found[0].nats_per_char_before == pytest.approx(scores[0].nats_per_char, abs=1e-6)
    assert {one.exact for one in found} == {scores[0].exact} == {"ordered" in pipe.model.name}


# -- what cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"strength": 0}, "strength is 0; it must lie in"),
        ({"strength": "much"}, "strength is 'much'; it must lie in"),
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"n": 10**10}, "n is 10000000000; it must be at most 1000"),
        ({"keep": (3, 99)}, "span 3 to 99, but the text has 25 characters"),
        ({"keep": [5]}, "keep has 5; pass strings"),
        ({"keep": [""]}, "keep has an empty string"),
        ({"keep": re.compile(".")}, "every token is kept or unknown"),
        ({"keep": [["月"], ["日"]]}, "keep has 2 lists for 1 texts"),
        (
            {"prosody": "strict"},
            "prosody is 'strict', which is for generate and fill and refine; leave it out of augment",
        ),
        ({"process": "embedding"}, "serves mask, replacement"),
    ],
)
def test_mistakes_are_refused_with_the_value_and_the_way_out(more, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        POEMS.augment(QUATRAIN, **more)


def test_the_command_line_gives_a_line_for_each_variant_with_the_keys_of_its_record(tmp_path, capsys):
    model = saved(sentence_model(), tmp_path / "words")
    records = [
        {"text": SENTENCE, "label": "pets", "keep": ["Two", [4, 8]]},
        {"text": SENTENCE, "label": "pets", "seed": 9},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    command = ["augment", "--model", model, "--file", str(tmp_path / "in.jsonl"), "--levels", "2", "-n", "3", "--json"]
    assert cli.main([*command, "--keep-pattern", "mat|ran"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["label"], one["seed"], one["variant"]) for one in found] == [
        ("pets", seed, k) for seed in (0, 9) for k in (1, 2, 3)
    ]
    expected = WORDS.augment(SENTENCE, n=3, keep=["Two", (4, 8), "mat", "ran"], levels=2)
    assert [one["text"] for one in found[:3]] == [one.text for one in expected]
    assert all(one["original"] == SENTENCE and "input" not in one for one in found)
    assert cli.main(["augment", SENTENCE, "--model", model, "--temperature", "0", "-n", "2", "--levels", "0"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and re.match(r"\d\.\d\d changed  \d+ edits  The ", out)
    assert err == "" or "variants are like their text or another variant" in err
    assert cli.main(["augment", SENTENCE, "--keep-pattern", "(", "--model", model]) == 2
    assert "--keep-pattern is '(', and at character 1 a group begins" in capsys.readouterr().err
