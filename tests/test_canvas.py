"""Text with holes to tokens, and back."""

from __future__ import annotations

import pytest
import torch
from tiny import QUATRAIN, byte_model, poem_model, sentence_model, window_model

from textdiff import canvas
from textdiff.verse import FORMS, get_form

POEMS = poem_model()
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
    with pytest.raises(ValueError, match="has a hole"):
        canvas.whole("the [MASK] sat", WORDS, verse=False)


def test_texts_of_one_shape_can_share_a_batch():
    first, second = canvas.holed(QUATRAIN.replace("月", "_"), POEMS), canvas.holed(QUATRAIN.replace("头", "_"), POEMS)
    assert first.shape == second.shape == (20, 2, FIVES)
    assert first.shape != canvas.holed(QUATRAIN.replace("床", "_"), POEMS).shape
