"""Couplets in the middle of an octave that is not written, and lines of running text."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch
from tables import assert_same_law
from test_canvas import FIVES, PAIRS, POEMS, WINDOWS, WORDS, quick
from tiny import network, window_model

from textdiff.core.levels import count
from textdiff.core.resolve import attribute
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import sentencepiece_tokenizer
from textdiff.pipeline import canvas
from textdiff.pipeline.text import Pipeline
from textdiff.processes import PROCESSES
from textdiff.processes.mask import Mask
from textdiff.samplers import SAMPLERS
from textdiff.verify.chains import chain_law
from textdiff.verify.spaces import ExactPredictor, Space
from textdiff.verify.tokens import sequence
from textdiff.verse.forms import get_form

# -- couplets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [5, 7])
def test_a_couplet_is_the_second_of_an_octave_whose_other_lines_stay_masked(width):
    form = get_form(f"couplet:{width}")
    assert form.host is not None and (form.host.lines, form.host.width, form.length) == (8, width, 2 * width)
    seen = []

    def watching(state) -> None:
        seen.append(state)

    for poem in Pipeline(POEMS).generate(form=form.name, n=2, callback=watching):
        assert poem.form == form.name and [len(line) for line in poem.lines] == [width, width]
        assert poem.text == f"{poem.lines[0]}，{poem.lines[1]}。" and poem.forwards == 2 * width
    outside = torch.ones(8 * width, dtype=torch.bool)
    outside[2 * width : 4 * width] = False
    for state in seen:
        assert not state.free[:, outside].any() and (state.x[:, outside] == POEMS.mask_id).all()
        assert state.free[:, ~outside].all()
    blank = canvas.blank(POEMS, form)
    assert torch.equal(blank.hidden, outside) and blank.shape == (8 * width, 2 * width, form)


def test_the_network_is_told_the_octave_and_sees_its_other_lines_masked(monkeypatch):
    seen = []
    network_ = POEMS.model.base_model
    forward = type(network_).forward

    def look(self, input_ids, **more):
        seen.append(input_ids)
        return forward(self, input_ids=input_ids, **more)

    monkeypatch.setattr(type(network_), "forward", look)
    upper = "白日依山尽"
    Pipeline(POEMS).generate(form="couplet:5", template=upper, steps=2)
    octave, mask = POEMS.tokenizer.convert_tokens_to_ids("[wuyan-lushi]"), POEMS.mask_id
    assert len(seen) == 2
    for read in seen:
        text = read[0, -40:]
        assert octave in read[0, :-40]
        assert (text[:10] == mask).all() and (text[20:] == mask).all(), "lines 1, 2 and 5 to 8"
        assert text[10:15].tolist() == POEMS.tokenizer.convert_tokens_to_ids(list(upper))


@pytest.mark.parametrize(("process", "sampler"), PAIRS)
def test_an_upper_line_gets_a_lower_one(process, sampler):
    pipe = Pipeline(POEMS)
    settings = {"process": process, "sampler": sampler, **quick(sampler)}
    (poem,) = pipe.generate(form="couplet:5", template="白日依山尽", **settings)
    assert poem.lines[0] == "白日依山尽" and len(poem.lines[1]) == 5 and canvas.HOLE not in poem.text
    assert [poem] == pipe.fill("白日依山尽，", form="couplet:5", **settings)


def test_other_processes_write_the_rest_of_the_octave_unseen():
    blank = canvas.blank(POEMS, get_form("couplet:5"))
    assert blank.under("mask") is blank and canvas.blank(POEMS, FIVES).under("replacement").free.all()
    assert blank.under("replacement").free.all() and blank.under("replacement").hidden is None
    with pytest.raises(ValueError, match="has no bound of a couplet; score it by the mask process"):
        Pipeline(POEMS).score("白日依山尽黄河入海流", form="couplet:5", process="replacement")


def test_a_couplet_is_scored_with_the_rest_of_the_octave_unknown():
    (score,) = Pipeline(POEMS).score("白日依山尽，黄河入海流。", form="couplet:5")
    assert score.characters == 10 and score.form == "couplet:5" and score.text == "白日依山尽，黄河入海流。"
    assert 0 < score.nats_per_char < 50


@pytest.mark.parametrize("sampler", [name for name, entry in SAMPLERS.items() if "mask" in entry.exact])
def test_text_around_hidden_positions_has_its_law_with_these_unknown(sampler):
    """Three positions, the first one hidden: with an exact predictor the other two come out with their own marginal law."""
    space = Space.random(3, 3)
    exact = ExactPredictor(space, Mask(3))
    free = torch.tensor([False, True, True])

    def predictor(query):  # an exact predictor of the mask process reads the level off the text
        x_t = query.x_t
        whole = (x_t == 3).sum(-1, keepdim=True) / 3
        return exact(replace(query, t=whole.double().expand(-1, 3)))

    partly = dataclasses.replace(space, free=free)
    start = torch.zeros_like(space.p0)
    start[space.code(torch.tensor([[3, 3, 3]]))] = 1.0
    step = attribute(SAMPLERS[sampler].path)()
    law, _ = chain_law(partly, Mask(3), step, sequence(PROCESSES["mask"], SAMPLERS[sampler], 2, None), predictor, start)
    wanted: dict[tuple[int, ...], float] = {}
    for code in space.support().tolist():
        text = (3, *space.decode(torch.tensor([code]))[0, 1:].tolist())
        wanted[text] = wanted.get(text, 0.0) + space.p0[code].item()
    found = {
        tuple(space.decode(torch.tensor([code]))[0].tolist()): law[code].item() for code in law.nonzero()[:, 0].tolist()
    }
    assert all(text[0] == 3 for text in found), "what is hidden stays [MASK]"
    assert_same_law(found, wanted, 1e-9)


def test_what_is_hidden_is_not_counted():
    blank = canvas.blank(POEMS, get_form("couplet:5"))
    assert count(torch.where(blank.free, 1.0, 0.0)[None].double(), blank.free[None]).tolist() == [10]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("couplet:15", "form 'couplet:15' is none that model tiny-poems knows; pass .* couplet:N of at most 14"),
        ("lines:4x8", "form 'lines:4x8' is none that model tiny-poems knows; .* or a model without forms"),
        ("couplet", "unknown form 'couplet'; known are .*couplet:N"),
        ("couplet:0", "unknown form 'couplet:0'"),
        ("lines:4", "unknown form 'lines:4'"),
        ("lines:4x-8", "unknown form"),
    ],
)
def test_forms_of_a_size_that_cannot_be(name, says):
    with pytest.raises(ValueError, match=says):
        Pipeline(POEMS).generate(form=name)


def test_a_model_without_forms_writes_couplets_of_any_width():
    model = TextModel.from_parts(POEMS.model, POEMS.tokenizer, name="formless")
    blank = canvas.blank(model, get_form("couplet:6"))
    assert blank.hidden is None and blank.free.all() and len(blank.ids) == 12
    (poem,) = Pipeline(model).generate(form="couplet:6", acrostic="春风")
    assert [line[0] for line in poem.lines] == ["春", "风"] and [len(line) for line in poem.lines] == [6, 6]


# -- lines of running text ------------------------------------------------------------------------------------------------


def test_lines_of_characters_end_with_frozen_breaks_and_hold_none():
    form = get_form("lines:3x5")
    blank = canvas.blank(WINDOWS, form)
    line_break = WINDOWS.tokenizer.convert_tokens_to_ids("\n")
    assert len(blank.ids) == 1 + 3 * 6 and int(blank.free.sum()) == 15
    assert (blank.ids[~blank.free] == line_break).all() and (blank.free | (torch.arange(19) % 6 == 0)).all()
    model = window_model()
    with torch.no_grad():
        model.model.cls.predictions.bias[line_break] += 50.0  # would be drawn at once
    for process, sampler in PAIRS:
        (text,) = Pipeline(model).generate(form="lines:3x5", process=process, sampler=sampler, **quick(sampler))
        assert [len(line) for line in text.text.split("\n")] == [5, 5, 5] and text.form == "lines:3x5"
        assert text.lines == tuple(text.text.split("\n"))


def test_lines_keep_what_is_given_letter_by_letter():
    pipe = Pipeline(WINDOWS)
    (text,) = pipe.generate(form="lines:3x5", acrostic="fed", acrostic_end="._.", template="_ab__\n_____\n___ _\n")
    first, second, third = text.text.split("\n")
    assert first.startswith("fab") and first[-1] == "." and second[0] == "e" and third[0] == "d" and third[3:] == " ."
    assert [text] == pipe.fill("fab_.\ne____\nd__ .", form="lines:3x5")
    for asked, says in (
        ({"template": "_ab__\n_____"}, "text has 2 lines, but form 'lines:3x5' has 3"),
        ({"template": "_ab__\n____\n_____"}, "line 2 has 4 tokens, but form 'lines:3x5' has lines of 5"),
        ({"acrostic": "fex"}, r"'x' \(line 3\) is outside the model's vocabulary"),
        ({"acrostic": "fe"}, "acrostic has 2 characters"),
        ({"acrostic": "fed", "length": 3}, "length is 3, but given characters have their places in a form"),
    ):
        with pytest.raises(ValueError, match=says):
            pipe.generate(form="lines:3x5", **asked)
    with pytest.raises(ValueError, match="knows no forms; pass one with the acrostic, such as lines:4x32"):
        pipe.generate(acrostic="fed")
    with pytest.raises(ValueError, match="tells how to write a text, not how to score one"):
        pipe.score("a", form="lines:1x1")


def test_a_model_without_forms_fills_a_template_in_n_ways():
    texts = [text.text for text in Pipeline(WORDS).generate(template="the _ sat on", n=3)]
    assert texts == [text.text for text in Pipeline(WORDS).fill(["the _ sat on"] * 3)]
    assert all(text.startswith("the") and text.endswith(" sat on") for text in texts)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> TextModel:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    said = "the cat sat on the mat and the dog ran under a tree with birds that sing when light comes"
    words = said.split()
    lines = [" ".join(words[(7 * i + 3 * j * j + i * j) % len(words)] for j in range(8)) for i in range(60)]
    path.write_text("\n".join(lines), encoding="utf-8")
    tokenizer = sentencepiece_tokenizer([path], vocab_size=60)
    return TextModel.from_parts(network(len(tokenizer)), tokenizer, name="tiny-pieces")


def test_lines_of_pieces_have_so_many_tokens_and_begin_with_words(pieces):
    form = get_form("lines:3x4")
    blank = canvas.blank(pieces, form)
    assert len(blank.ids) == 12 and blank.free.all()
    seen = []
    for text in Pipeline(pieces).generate(form=form.name, n=6, callback=seen.append):
        lines = text.text.split("\n")
        assert len(lines) == 3 and all(line == line.lstrip() for line in lines)
    names = pieces.tokenizer.convert_ids_to_tokens(seen[-1].x.flatten().tolist())
    assert all(name.startswith("▁") for name in names[::4])
    (text,) = Pipeline(pieces).generate(form=form.name, template="the cat __\n____\n_ the __")
    first, _, third = text.text.split("\n")
    assert first.startswith("the cat") and " the" in third
