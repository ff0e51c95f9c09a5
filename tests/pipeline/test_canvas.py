"""Text with holes to tokens, and back."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import QUATRAIN, byte_model, poem_model, sentence_model, window_model

from textdiff.pipeline import canvas
from textdiff.pipeline.page import traditional_for
from textdiff.pipeline.text import Pipeline
from textdiff.processes import TOKENS
from textdiff.samplers import SAMPLERS
from textdiff.verse import script
from textdiff.verse.forms import FORMS, get_form

PAIRS = [(process, name) for name, entry in SAMPLERS.items() for process in TOKENS if process in entry.processes]
POEMS = poem_model()


def quick(sampler: str) -> dict[str, Any]:
    """Settings under which every sampler takes few steps."""
    if sampler == "entropy-bounded":
        return {"sampler_options": {"gamma": 5}}
    return {"sampler_options": {"sweeps": 0.1}} if sampler == "gibbs" else {"steps": 4}


WORDS = sentence_model()
BYTES = byte_model()
WINDOWS = window_model()
FIVES = get_form("wuyan-jueju")


def ids(model, tokens: str) -> torch.Tensor:
    return torch.tensor(model.tokenizer.convert_tokens_to_ids(tokens.split()))


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda f: f.name)
def test_a_blank_poem_is_all_holes_and_reads_as_the_form_prints(form):
    blank = canvas.blank(POEMS, form)
    assert blank.free.all() and (blank.ids == POEMS.mask_id).all() and len(blank.ids) == form.length
    assert blank.text(blank.ids) == form.layout(canvas.HOLE * form.length)


def test_punctuation_and_line_breaks_are_never_tokens_and_come_back_as_the_form_has_them():
    bare = QUATRAIN.translate(str.maketrans("", "", "，。\n"))
    for text in (QUATRAIN, bare, "\n".join(bare[k : k + 5] for k in range(0, 20, 5)), QUATRAIN.replace("，", ", ")):
        scored = canvas.whole(text, POEMS)
        assert len(scored.ids) == 20 and scored.free.all() and scored.form == FIVES
        assert scored.text(scored.ids) == QUATRAIN


@pytest.mark.parametrize("sign", ["□", "_", "[MASK]"])
def test_every_sign_is_one_hole_of_one_token(sign):
    filled = canvas.holed(QUATRAIN.replace("月", sign), POEMS)
    assert filled.free.sum() == 2 and filled.form == FIVES
    assert (filled.ids[filled.free] == POEMS.mask_id).all()
    moon = torch.full_like(filled.ids, POEMS.tokenizer.convert_tokens_to_ids("月"))
    assert filled.text(moon) == QUATRAIN, "only holes take the new tokens"
    assert filled.text(filled.ids) == QUATRAIN.replace("月", "□")


def test_a_few_lines_are_the_opening_of_a_poem_and_only_they_are_shown():
    filled = canvas.holed("床前□□光", POEMS)
    assert filled.form == FIVES and len(filled.ids) == 20 and filled.free.sum() == 17
    new = ids(POEMS, "床 前 明 月 光 " + "白 " * 15)
    assert filled.text(new) == "床前明月光"
    two = canvas.holed("白日依山_，黄河入海流。", POEMS)
    assert two.text(ids(POEMS, "尽 " * 20)) == "白日依山尽，黄河入海流。"
    assert canvas.holed("_日依山尽黄河", POEMS).form == get_form("qiyan-jueju")


def test_sentences_keep_their_letters_and_their_frame_is_no_token():
    filled = canvas.holed("The  CAT [MASK] under the _.", WORDS, verse=False)
    assert filled.free.tolist() == [False, False, True, False, False, True, False]
    new = ids(WORDS, "dog dog sat dog dog tree dog")
    assert filled.text(new) == "The  CAT sat under the tree."
    assert filled.text(filled.ids) == "The  CAT □ under the □."


def test_a_word_piece_that_goes_on_is_glued_to_its_word():
    filled = canvas.holed("two tree _ ran", WORDS, verse=False)
    assert filled.text(ids(WORDS, "a a ##s a")) == "two trees ran"


def test_a_mask_that_takes_the_space_gives_it_back_only_to_a_new_word():
    filled = canvas.holed("é sat <mask>a", BYTES, verse=False)
    position = int(filled.free.nonzero())
    new = filled.ids.clone()
    for token, read in (("Ġt", "é sat ta"), ("t", "é satta"), ("<mask>", "é sat □a")):
        new[position] = BYTES.tokenizer.convert_tokens_to_ids(token)
        assert filled.text(new) == read


@pytest.mark.parametrize("space", ["\n", "\n\n  ", "\t", "  "])
def test_white_space_before_a_hole_stays_unless_it_is_a_single_space(space):
    filled = canvas.holed(f"two tree{space}_ ran", WORDS, verse=False)
    assert filled.text(ids(WORDS, "a a ##s a")) == f"two tree{space}s ran"
    assert filled.text(ids(WORDS, "a a cat a")) == f"two tree{space}cat ran"
    filled = canvas.holed(f"é sat{space}<mask>a", BYTES, verse=False)
    position = int(filled.free.nonzero())
    for token, read in (("Ġt", "ta"), ("t", "ta"), ("<mask>", "□a")):
        new = filled.ids.clone()
        new[position] = BYTES.tokenizer.convert_tokens_to_ids(token)
        assert filled.text(new) == f"é sat{space}{read}"


@pytest.mark.parametrize("more", [{}, {"match": r"two tree\n[a-z]+ ran"}])
def test_no_word_goes_on_behind_white_space_that_stays(more):
    marked = ["two tree\n_ ran", "two tree _ ran"]  # of one length, and drawn each as if alone
    outputs = Pipeline(WORDS).fill(marked[: 1 if more else 2], n=40, seed=0, **more)
    rests = {name[2:] for name in WORDS.tokenizer.get_vocab() if name.startswith("##")}
    drawn = {one.text.removeprefix("two tree\n").removesuffix(" ran") for one in outputs[:40]}
    assert len(drawn) > 3 and not drawn & rests
    if not more:
        assert any(one.text.removeprefix("two tree").removesuffix(" ran") in rests for one in outputs[40:])


def test_running_text_is_a_window_of_open_tokens():
    blank = canvas.window(WINDOWS, 6)
    assert blank.free.all() and blank.form is None
    line_break, space = WINDOWS.tokenizer.convert_tokens_to_ids(["\n", " "])
    a = WINDOWS.tokenizer.convert_tokens_to_ids("a")
    assert blank.text(torch.tensor([a, space, a, line_break, a, WINDOWS.mask_id])) == "a a\na□"


def test_unknown_characters_are_counted_in_a_score_and_named_in_a_text_to_fill():
    text = QUATRAIN.replace("霜", "龘")
    scored = canvas.whole(text, POEMS)
    assert scored.unknown == 1 and (scored.ids == POEMS.unk_id).sum() == 1
    with pytest.raises(ValueError, match=r"'龘' \(line 2, character 5\) is outside"):
        canvas.holed(text.replace("床", "_"), POEMS)
    assert canvas.whole("the zebra sat", WORDS, verse=False).unknown == 1
    with pytest.raises(ValueError, match=r"'zebra' \(character 7\) is outside"):
        canvas.holed("the _ zebra sat", WORDS, verse=False)


@pytest.mark.parametrize(
    ("read", "text", "form", "says"),
    [
        (canvas.holed, "", None, "text is empty"),
        (canvas.holed, " \n", None, "text is empty"),
        (canvas.whole, "", None, "text is empty"),
        (canvas.holed, QUATRAIN, None, "has no hole; write '_'"),
        (canvas.whole, QUATRAIN.replace("月", "_"), None, "has a hole, and only whole texts"),
        (canvas.whole, "床前明月光", None, r"has 5 characters; expected 20 \(五言绝句\), 28"),
        (canvas.holed, "床前□光", None, "has 4 characters; expected 20"),
        (canvas.holed, "床前□□光", FIVES, "text has 5 characters, but form 'wuyan-jueju' has 20"),
        (canvas.holed, QUATRAIN.replace("月", "__"), FIVES, "text has 22 characters, but form 'wuyan-jueju' has 20"),
        (canvas.holed, "，。\n", None, "has no hole"),
    ],
)
def test_mistakes_are_one_sentence_with_value_and_way_out(read, text, form, says):
    with pytest.raises(ValueError, match=says) as error:
        read(text, POEMS, form)
    assert "\n" not in str(error.value)


def test_a_text_longer_than_the_model_is_refused():
    with pytest.raises(ValueError, match="text has 90 tokens, but the model takes 78"):
        canvas.holed("the " * 89 + "_", WORDS, verse=False)
    with pytest.raises(ValueError, match="length is 90, but the model takes 78 tokens; pass at most so many"):
        canvas.window(WORDS, 90)
    with pytest.raises(ValueError, match="has a hole"):
        canvas.whole("the [MASK] sat", WORDS, verse=False)


def test_texts_of_one_shape_can_share_a_batch():
    first, second = canvas.holed(QUATRAIN.replace("月", "_"), POEMS), canvas.holed(QUATRAIN.replace("头", "_"), POEMS)
    assert first.shape == second.shape == (20, 2, FIVES)
    assert first.shape != canvas.holed(QUATRAIN.replace("床", "_"), POEMS).shape
    short, other, long = (canvas.about(first, POEMS, title, None).alike for title in ("明月", "春风", "明月春"))
    assert short == other != long, "a network may leave slots out that no text of a batch fills"


# -- given characters -----------------------------------------------------------------------------------------------------

SEVENS = get_form("qiyan-jueju")
MIXED = "頭____光_\n_白日依___\n______霜\n_樓_____"  # two of them traditional


@pytest.fixture
def without_opencc(monkeypatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "opencc", None)
    script._opencc.cache_clear()
    yield
    script._opencc.cache_clear()


def test_an_acrostic_is_a_template():
    assert canvas.acrostic(FIVES) == "\n".join(["□" * 5] * 4)
    assert canvas.acrostic(FIVES, "春_，秋冬").split() == ["春□□□□", "□□□□□", "秋□□□□", "冬□□□□"]
    assert canvas.acrostic(FIVES, last="春夏□冬").split() == ["□□□□春", "□□□□夏", "□□□□□", "□□□□冬"]
    assert canvas.acrostic(FIVES, diagonal="春夏秋冬").split() == ["春□□□□", "□夏□□□", "□□秋□□", "□□□冬□"]
    octave = canvas.acrostic(get_form("五律"), diagonal="一二三四五").split()
    assert [line.strip("□") for line in octave] == [*"一二三四五", "", "", ""], "as far as the diagonal goes"
    both = canvas.acrostic(FIVES, "春夏秋冬", "___日", text="春[MASK]__光" + "□" * 15)
    assert both.split() == ["春□__光", "夏□□□□", "秋□□□□", "冬□□□日"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"first": "春夏秋"},
            "acrostic has 3 characters, but form 'wuyan-jueju' has 4 lines; pass one character for each",
        ),
        ({"last": ""}, "acrostic_end has 0 characters"),
        ({"diagonal": "春夏秋冬日"}, "acrostic_diagonal has 5 characters, but form 'wuyan-jueju' has a diagonal of 4"),
        (
            {"first": "春夏秋冬", "diagonal": "春__日", "text": "日" + "_" * 19},
            "line 1, character 1 is '日' by template and '春'",
        ),
        (
            {"first": "春___", "diagonal": "夏___"},
            "line 1, character 1 is '春' by acrostic and '夏' by acrostic_diagonal",
        ),
        (
            {"last": "___頭", "text": "_" * 19 + "头"},
            "line 4, character 5 is '头' by template and '頭' by acrostic_end",
        ),
        ({"text": "春" * 19}, "text has 19 characters, but form 'wuyan-jueju' has 20"),
    ],
)
def test_contradictions_name_the_place(asked, says):
    with pytest.raises(ValueError, match=says):
        canvas.acrostic(FIVES, **asked)


@pytest.mark.parametrize("name", [None, "traditional"])
@pytest.mark.parametrize(("process", "sampler"), PAIRS)
def test_given_text_is_bit_identical_for_every_sampler_process_and_script(process, sampler, name):
    pytest.importorskip("opencc")
    asked = {"acrostic": "頭_风_", "acrostic_end": "___声", "template": MIXED, "script": name}
    for poem in Pipeline(POEMS).generate(form="七绝", n=2, process=process, sampler=sampler, **quick(sampler), **asked):
        told = canvas.acrostic(SEVENS, "頭_风_", "___声", text=MIXED).split()
        for line, given in zip(poem.lines, told, strict=True):
            assert [a for a, b in zip(line, given, strict=True) if b not in "_□"] == [b for b in given if b not in "_□"]
        assert canvas.HOLE not in poem.text and "_" not in poem.text


def test_the_same_text_with_the_same_seed_is_written_in_either_script():
    pytest.importorskip("opencc")
    pipe = Pipeline(POEMS)
    simple, old = (
        [poem.text for poem in pipe.generate(form="五绝", n=8, seed=3, script=name)]
        for name in ("simplified", "traditional")
    )
    assert simple == [poem.text for poem in pipe.generate(form="五绝", n=8, seed=3)]
    assert simple != old and simple == [script.simplified(text) for text in old]
    frames = list(pipe.stream(form="五绝", n=8, seed=3, script="traditional", steps=3))
    assert list(frames[-1].texts) == [
        p.text for p in pipe.generate(form="五绝", n=8, seed=3, script="traditional", steps=3)
    ]


def test_n_poems_of_one_template_are_those_of_their_seeds():
    pipe = Pipeline(POEMS)
    poems = pipe.generate(form="五绝", n=3, seed=5, acrostic="春_风_")
    assert [poem.seed for poem in poems] == [5, 6, 7] and len({poem.text for poem in poems}) == 3
    assert poems[2:] == pipe.generate(form="五绝", seed=7, acrostic="春_风_")
    template = canvas.acrostic(FIVES, "春_风_")
    assert poems == pipe.generate(n=3, seed=5, template=template) == pipe.fill([template] * 3, seed=5)
    frames = list(pipe.stream(form="五绝", seed=5, acrostic="春_风_"))
    assert frames[-1].texts == (poems[0].text,) and frames[0].texts[0].count(canvas.HOLE) == 18


def test_traditional_input_is_read_in_simplified_form_and_comes_back_as_it_was():
    pytest.importorskip("opencc")
    old, new = canvas.holed("白日依山盡，黃河入海_。", POEMS), canvas.holed("白日依山尽，黄河入海_。", POEMS)
    assert torch.equal(old.ids, new.ids) and torch.equal(old.free, new.free)
    assert old.text(ids(POEMS, "流 " * 20)) == "白日依山盡，黃河入海流。"
    scored = canvas.whole(script.traditional(QUATRAIN), POEMS)
    assert torch.equal(scored.ids, canvas.whole(QUATRAIN, POEMS).ids) and scored.unknown == 0
    assert scored.text(scored.ids) == script.traditional(QUATRAIN) != QUATRAIN
    assert canvas.spelled("登鸛雀樓", POEMS) == "登鸛雀楼", "only what the vocabulary lacks, if it has the other"
    with pytest.raises(ValueError, match=r"'龘' \(line 1, character 2\) is outside .* leave it open$"):
        canvas.holed("床龘□□光", POEMS)


def test_a_traditional_character_among_simplified_ones_does_not_make_a_text_traditional():
    pytest.importorskip("opencc")
    assert traditional_for(script.traditional(QUATRAIN), POEMS)
    assert not traditional_for(QUATRAIN.replace("头", "頭"), POEMS)


def test_without_opencc_the_error_tells_how_to_get_it(without_opencc):
    with pytest.raises(ValueError, match=r"'盡' \(line 1, character 5\) is outside .*pip install 'textdiff\[zh\]'"):
        canvas.holed("白日依山盡，黃河入海_。", POEMS)
    assert canvas.whole(QUATRAIN.replace("头", "頭"), POEMS).unknown == 2
    with pytest.raises(ValueError, match=r"pip install 'textdiff\[zh\]'"):
        Pipeline(POEMS).generate(script="traditional")
    (poem,) = Pipeline(POEMS).generate(form="五绝", script="simplified")
    assert poem.text == Pipeline(POEMS).generate(form="五绝")[0].text
    with pytest.raises(ValueError, match="unknown script 'old'; known are simplified, traditional"):
        Pipeline(POEMS).generate(script="old")


def test_a_sentence_keeps_its_letters_when_the_rest_is_converted():
    drawn = canvas.holed("The _ sat", WORDS, verse=False)
    upper = dataclasses.replace(drawn, convert=str.upper)
    assert upper.text(ids(WORDS, "a cat a")) == "The CAT sat"
