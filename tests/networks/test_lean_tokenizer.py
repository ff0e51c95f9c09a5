"""The tokenizer that textdiff reads itself against transformers'."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer

from textdiff.networks import folder as folders
from textdiff.networks.lean.tokenizer import NAMED, LeanTokenizer, read_tokenizer
from textdiff.networks.tokenization import content_ids, frame, sentencepiece_tokenizer

PACKAGED = Path(folders.__file__).parent / "poems-zh"


def unigram(tmp_path: Path) -> Any:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\na dog ran under two trees\n" * 20, encoding="utf-8")
    return sentencepiece_tokenizer([text], vocab_size=40, specials=("[level-0]",))


@pytest.fixture(scope="module", params=["packaged", "word pieces", "bytes", "unigram"])
def pair(request, tmp_path_factory) -> tuple[LeanTokenizer, Any]:
    """(ours, transformers'), of one folder."""
    folder = PACKAGED
    if request.param != "packaged":
        folder = tmp_path_factory.mktemp("tokenizer")
        made = {
            "word pieces": tiny.word_pieces,
            "bytes": lambda: tiny.byte_model().tokenizer,
            "unigram": lambda: unigram(folder),
        }
        made[request.param]().save_pretrained(folder)
    ours = read_tokenizer(folder, "bert")
    assert ours is not None
    return ours, AutoTokenizer.from_pretrained(folder)


def texts(tokenizer: Any) -> st.SearchStrategy[str]:
    """Texts of what the tokenizer knows, with special tokens, white space and what it does not know among it."""
    known = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)[-40:]
    pieces = st.sampled_from([*known, *tokenizer.all_special_tokens[:8], " ", "  ", "\n", "Cat", "é", "龘", "😀", "##"])
    return st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=8).map("".join)


def test_texts_become_the_same_ids_and_ids_the_same_texts(pair):
    ours, theirs = pair

    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(text=texts(theirs), other=texts(theirs))
    def check(text, other):
        for told in ({}, {"add_special_tokens": False}):
            wanted = theirs([text, other], return_offsets_mapping=True, **told)
            found = ours([text, other], return_offsets_mapping=True, **told)
            assert found == {key: wanted[key] for key in found}
            assert ours(text, **told)["input_ids"] == wanted["input_ids"][0]
        ids = ours(text)["input_ids"]
        names = theirs.convert_ids_to_tokens(ids)
        assert ours.convert_ids_to_tokens(ids) == names and ours.convert_tokens_to_ids(names) == ids
        assert ours.convert_tokens_to_string(names) == theirs.convert_tokens_to_string(names)
        for skipped in (False, True):
            assert ours.decode(ids, skip_special_tokens=skipped) == theirs.decode(ids, skip_special_tokens=skipped)

    check()


def test_all_that_textdiff_asks_of_a_tokenizer_is_answered_alike(pair):
    ours, theirs = pair
    assert len(ours) == len(theirs) and ours.get_vocab() == theirs.get_vocab()
    for name in NAMED:
        assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token"), name
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id"), name
    assert ours.all_special_tokens == theirs.all_special_tokens and ours.all_special_ids == theirs.all_special_ids
    assert {k: str(t) for k, t in ours.added_tokens_decoder.items()} == {
        k: str(t) for k, t in theirs.added_tokens_decoder.items()
    }
    assert ours.model_max_length == theirs.model_max_length
    assert ours.convert_tokens_to_ids("no such token") == theirs.convert_tokens_to_ids("no such token")
    beyond = [0, len(ours) - 1, len(ours), len(ours) + 9]
    assert ours.convert_ids_to_tokens(beyond) == theirs.convert_ids_to_tokens(beyond)
    assert ours.convert_ids_to_tokens(0) == theirs.convert_ids_to_tokens(0)
    assert frame(ours) == frame(theirs)
    assert content_ids(ours, len(ours)).tolist() == content_ids(theirs, len(ours)).tolist()
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()


def test_a_copy_answers_like_the_original(pair):
    ours, _ = pair
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert again("a cat")["input_ids"] == ours("a cat")["input_ids"] and again.mask_token_id == ours.mask_token_id


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_class": "BertTokenizer"},
        {"tokenizer_class": None},
        {"clean_up_tokenization_spaces": True},
        {"split_special_tokens": True},
        {"mask_token": "[NEW]"},
        {"extra_special_tokens": ["[NEW]"]},
        {"extra_special_tokens": {"image_token": "[UNK]"}},
        {"something_new": 1},
    ],
)
def test_what_a_folder_asks_beyond_its_tokenizer_is_left_to_transformers(change, tmp_path):
    tiny.word_pieces().save_pretrained(tmp_path)
    assert read_tokenizer(tmp_path, "bert") is not None
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert read_tokenizer(tmp_path, "bert") is None


def test_truncation_and_padding_are_left_to_transformers(tmp_path):
    for change in ("enable_truncation", "enable_padding"):
        tokenizer = tiny.word_pieces()
        tokenizer.save_pretrained(tmp_path)
        backend = copy.deepcopy(tokenizer.backend_tokenizer)
        getattr(backend, change)(*([9] if change == "enable_truncation" else []))
        backend.save(str(tmp_path / "tokenizer.json"))
        assert read_tokenizer(tmp_path, "bert") is None


def test_an_older_folder_is_read_where_its_list_of_added_tokens_says_the_same(tmp_path):
    tiny.word_pieces().save_pretrained(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": "[MASK]"}))
    assert read_tokenizer(tmp_path, "bert") is None  # which of the files counts is for transformers to say
    file, ours = tmp_path / "tokenizer_config.json", tiny.word_pieces()
    listed = {k: _written(token) for k, token in ours.added_tokens_decoder.items()}
    told = json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": listed}
    file.write_text(json.dumps(told))
    assert read_tokenizer(tmp_path, "bert") is not None
    for key in ("lstrip", "normalized", "single_word", "special"):
        listed[ours.mask_token_id][key] ^= True
        file.write_text(json.dumps(told))
        assert read_tokenizer(tmp_path, "bert") is None, key
        listed[ours.mask_token_id][key] ^= True


def _written(token: AddedToken) -> dict[str, Any]:
    keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {key: getattr(token, key) for key in keys}
