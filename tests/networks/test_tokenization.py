"""Tokenizers, and which of their tokens are text."""

from __future__ import annotations

import pytest
import sentencepiece
from tiny import byte_model, word_pieces
from transformers import AutoTokenizer

from textdiff.networks.tokenization import POEM_PREFIX, POEM_SPECIALS, character_tokenizer, content_ids, frame
from textdiff.networks.tokenization import sentencepiece_tokenizer as pieces

CHINESE = "床前明月光，疑是地上霜。"
ENGLISH = "To be, or  not to be:\nthat is the question "
LINES = [
    CHINESE,
    "举头望明月，低头思故乡。",
    "To be, or not to be",
    "that is the question",
    "to sleep, perchance to dream",
] * 8


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(text_file):
    return pieces([text_file], vocab_size=90, specials=["[tang]"])


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def reopened(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", [CHINESE, ENGLISH, "𠮷野家 \n\n", "[月]", ""])
def test_characters_come_back_as_they_went_in(text, tmp_path):
    tokenizer = character_tokenizer(sorted(set(CHINESE + ENGLISH + "𠮷野家[月]")))
    for each in (tokenizer, reopened(tokenizer, tmp_path)):
        assert len(ids(each, text)) == len(text), "one code point is one token"
        assert each.decode(ids(each, text)) == text


def test_the_layout_of_the_poem_model_is_fixed():
    tokenizer = character_tokenizer("床前明月光", POEM_SPECIALS)
    named = {
        0: "[PAD]", 1: "[UNK]", 2: "[MASK]", 3: "[wuyan-jueju]", 4: "[qiyan-jueju]", 5: "[wuyan-lushi]", 6: "[qiyan-lushi]",
        7: "[mask]", 8: "[replacement]", 9: "[uniform]", 10: "[level-0]", 74: "[level-64]", 75: "[tang]", 76: "[song]",
        77: "[reserved-0]", 95: "[reserved-18]", 96: "床", 100: "光",
    }  # fmt: skip
    assert {k: tokenizer.convert_ids_to_tokens(k) for k in named} == named
    assert len(POEM_PREFIX) == 12 and len(tokenizer) == 101
    assert ids(tokenizer, "月[MASK]鬱") == [99, 2, 1]
    assert content_ids(tokenizer, 128).tolist() == [96, 97, 98, 99, 100]


def test_a_token_named_twice_or_of_two_characters_is_an_error():
    with pytest.raises(ValueError, match="'月' occurs twice"):
        character_tokenizer("明月月")
    with pytest.raises(ValueError, match="2 characters long"):
        character_tokenizer(["明月"])


@pytest.mark.parametrize("text", [CHINESE, " to be  or not ", "月 to be", ""])
def test_trained_pieces_come_back_as_they_went_in(trained, text, tmp_path):
    for each in (trained, reopened(trained, tmp_path)):
        assert each.decode(ids(each, text)) == text


def test_trained_pieces_follow_our_special_tokens_and_a_hole_is_one_token(trained):
    assert trained.convert_ids_to_tokens([0, 1, 2, 3]) == ["[PAD]", "[UNK]", "[MASK]", "[tang]"]
    content = content_ids(trained, 200)
    assert content.min() == 4 and content.max() == len(trained) - 1
    whole, holed = ids(trained, "床前明"), ids(trained, "床[MASK]明")
    assert whole[0] == holed[0] and whole[-1] == holed[-1] and holed[1:-1] == [2]


@pytest.mark.parametrize("size", [44, 48])
def test_a_trained_vocabulary_is_as_large_as_was_asked_our_special_tokens_included(text_file, size):
    assert len(pieces([text_file], vocab_size=size, specials=["[tang]"])) == size


@pytest.mark.parametrize(
    "options", [{}, {"byte_fallback": True, "vocab_size": 400}, {"normalization_rule_name": "nfkc"}]
)
def test_a_loaded_model_cuts_text_as_sentencepiece_does(text_file, tmp_path, options):
    prefix = str(tmp_path / "spm")
    options = {"vocab_size": 90, "hard_vocab_limit": False, "character_coverage": 1.0, "minloglevel": 2, **options}
    sentencepiece.SentencePieceTrainer.train(input=str(text_file), model_prefix=prefix, **options)
    reference, ours = (
        sentencepiece.SentencePieceProcessor(model_file=prefix + ".model"),
        pieces(model=prefix + ".model"),
    )
    for text in [*LINES[:5], "to  be ", "ｔｏ be" if "normalization_rule_name" in options else "to be"]:
        assert ours.tokenize(text) == reference.encode(text, out_type=str)
        assert ours.decode(ids(ours, text)) == reference.decode(reference.encode(text))
    tokens = ours.convert_ids_to_tokens(content_ids(ours, len(ours)).tolist())
    assert not [token for token in tokens if token.startswith("<")], "no bytes, no control tokens"


def test_sentencepiece_wants_files_or_a_model_and_they_must_exist(tmp_path, text_file):
    with pytest.raises(ValueError, match="not both"):
        pieces()
    with pytest.raises(ValueError, match="not both"):
        pieces([text_file], model="x.model")
    with pytest.raises(ValueError, match="no sentencepiece model"):
        pieces(model=tmp_path / "x.model")
    with pytest.raises(ValueError, match="missing or empty"):
        pieces([tmp_path / "x.txt"])


def test_content_leaves_out_what_is_no_text():
    words = word_pieces()
    words.add_tokens(["[unused0]", "[unused12]", "<|end|>", "|||EMAIL|||", "<0x0A>", "    ", "neologism"])
    words.add_special_tokens({"extra_special_tokens": ["<tang>"]})
    tokens = words.convert_ids_to_tokens(content_ids(words, 1000).tolist())
    assert tokens == [t for t in words.convert_ids_to_tokens(range(5, 20))] + ["neologism"]
    assert content_ids(words, 12).tolist() == [5, 6, 7, 8, 9, 10, 11], "no row of the embedding, no token"


def test_every_byte_and_white_space_that_a_tokenizer_needs_to_spell_is_text():
    tokenizer = byte_model().tokenizer
    assert {tokenizer.convert_tokens_to_ids(t) for t in ("Ġ", "Ċ", "Ã", "Ġt")} <= set(
        content_ids(tokenizer, 300).tolist()
    )
    tokenizer = character_tokenizer("ab \n")
    assert len(content_ids(tokenizer, 300)) == 4


def test_the_frame_is_what_the_tokenizer_puts_around_a_text():
    assert frame(word_pieces()) == ([2], [3])
    assert frame(character_tokenizer("ab")) == ([], [])
