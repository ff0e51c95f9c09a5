"""Model folders: what is saved, what opens, and what is refused in one sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from families import assert_near, folders, plain, poems  # noqa: F401  (fixtures)
from tiny import poem_model
from transformers import (
    AutoModelForMaskedLM,
)

from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError
from textdiff.networks.folder import ModelError, TextModel
from textdiff.networks.tokenization import POEM_SPECIALS, character_tokenizer


def test_a_saved_folder_opens_with_transformers_alone_and_gives_the_same_logits(poems, tmp_path):
    poems.save_pretrained(tmp_path / "m")
    network = AutoModelForMaskedLM.from_pretrained(tmp_path / "m").eval()
    again = TextModel.from_pretrained(str(tmp_path / "m"))
    x = torch.full((2, 20), poems.mask_id)
    condition = poems.condition(2, form="wuyan-jueju", process="mask")
    expected = poems.predictor("mask")(Query(x, torch.ones(x.shape).double(), condition=condition)).logits()
    loaded = again.predictor("mask")(Query(x, torch.ones(x.shape).double(), condition=condition)).logits()
    assert loaded.equal(expected)
    ids = torch.cat([condition, x], 1)
    alone = network(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, 12:].flatten(0, 1)
    assert_near(alone[:, poems.content], expected[:, poems.content])
    assert (again.processes, again.prefix, again.unk_id) == (poems.processes, poems.prefix, poems.unk_id)
    assert again.content.equal(poems.content) and not again.model.training
    assert again.decode(again.encode(["床前明月光"])) == ["床前明月光"]


def test_weights_saved_as_bfloat16_load_as_float32(poems, tmp_path):
    poems.save_pretrained(tmp_path / "m", dtype=torch.bfloat16)
    poems.save_pretrained(tmp_path / "wide")
    small, wide = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("m", "wide"))
    assert small < 0.6 * wide
    model = TextModel.from_pretrained(tmp_path / "m")
    old = poems.model.get_input_embeddings().weight
    assert old.dtype == torch.float32
    assert model.model.get_input_embeddings().weight.equal(old.bfloat16().float())


def test_saving_replaces_a_folder_whole_or_not_at_all(poems, tmp_path):
    folder = tmp_path / "m"
    poems.save_pretrained(folder)
    (folder / "terminal.safetensors").write_text("x")
    poems.save_pretrained(folder)
    assert not (folder / "terminal.safetensors").exists() and [p.name for p in tmp_path.iterdir()] == ["m"]
    broken = TextModel.from_parts(poems.model, poems.tokenizer, defaults={"steps": object()})
    with pytest.raises(TypeError):
        broken.save_pretrained(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["m"], "nothing half-written stays"
    assert TextModel.from_pretrained(folder).processes == poems.processes


def edit(file, **values):
    def change(folder):
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def without_head(folder):
    AutoModelForMaskedLM.from_pretrained(folder).bert.save_pretrained(folder)


def larger_tokenizer(folder):
    character_tokenizer(map(chr, range(0x4E00, 0x4E00 + 300)), POEM_SPECIALS).save_pretrained(folder)


def without_mask(folder):
    values = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "mask_token"}))


def without_unknown(folder):
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["unk_token"] = "床床"
    path.write_text(json.dumps(values))


BROKEN = {
    "config.json is missing": lambda folder: (folder / "config.json").unlink(),
    "model.safetensors is missing": lambda folder: (folder / "model.safetensors").unlink(),
    "tokenizer.json is missing": lambda folder: (folder / "tokenizer.json").unlink(),
    "config.json is not JSON": lambda folder: (folder / "config.json").write_text("{"),
    "textdiff.json is not JSON": lambda folder: (folder / "textdiff.json").write_bytes(b"\xff\xff"),
    "the tokenizer cannot be read": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "the tokenizer cannot be used": without_unknown,
    "the weights cannot be read": truncate,
    "model type 't5' has no known": edit("config.json", model_type="t5"),
    "has format 2, which a later textdiff wrote, and this one reads up to 1": edit("textdiff.json", format=2),
    "has format '1', not a number from 1 to 1": edit("textdiff.json", format="1"),
    "textdiff.json says 7 tokens": edit("textdiff.json", vocabulary=7),
    "the unknown token, '', is not in the vocabulary": edit("tokenizer_config.json", unk_token=""),
    "unknown process 'cold'": edit("textdiff.json", processes=["cold"]),
    "unknown prefix slot 'mood'": edit("textdiff.json", prefix=["mood"]),
    "'processes' in textdiff.json is \\[\\], not a list of names": edit("textdiff.json", processes=[]),
    "'prefix' in textdiff.json is 3": edit("textdiff.json", prefix=3),
    "'defaults' in textdiff.json is 'none', not an object": edit("textdiff.json", defaults="none"),
    "their shapes are not those of config.json": edit("config.json", hidden_size=64),
    "textdiff.json says 5 tokens, the tokenizer has": edit("textdiff.json", tokens=5),
    "lacks 6 weights": without_head,
    "tokens, the tokenizer has 396; these files": larger_tokenizer,
    "no mask token": without_mask,
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_folder_is_one_sentence_with_a_way_out(poems, tmp_path, message):
    folder = tmp_path / "m"
    poems.save_pretrained(folder)
    BROKEN[message](folder)
    with pytest.raises(ModelError, match=message) as error:
        TextModel.from_pretrained(folder)
    assert "\n" not in str(error.value) and "; " in str(error.value)


def test_a_model_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        TextModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"there is no folder \./nowhere"):
        TextModel.from_pretrained("./nowhere")
    for strange in ("~nobody-of-that-name/model", "m" * 300, f"{'m' * 300}/model"):
        with pytest.raises(ModelError, match=r"is no folder here|there is no folder"):
            TextModel.from_pretrained(strange)
    for other in (5, b"model", ["model"]):
        with pytest.raises(AskedError, match="; pass a model folder or the id of a model on the hub"):
            TextModel.from_pretrained(other)
    poem_model().save_pretrained(tmp_path / "run" / "model")
    with pytest.raises(ModelError, match=r"run holds no model, but a folder of one; pass .*run/model$"):
        TextModel.from_pretrained(tmp_path / "run")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        TextModel.from_pretrained(tmp_path / "file")


def test_a_mask_that_is_another_token_too_is_refused(folders, tmp_path):
    shutil.copytree(folders / "roberta", tmp_path / "m")
    edit("tokenizer_config.json", mask_token="</s>")(tmp_path / "m")
    with pytest.raises(ModelError, match=r"mask and (sep|eos) are the same token"):
        TextModel.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("text", ["床前明月光", "[UNK]月[MASK]光", ""])
def test_characters_encode_and_decode(poems, text):
    assert poems.decode(poems.encode([text])) == [text]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_sentences_encode_and_decode(family, plain):
    for text in ("the cat sat on the mat", "床前明月光，疑是地上霜。"):
        assert plain[family].decode(plain[family].encode([text])) == [text]


def test_texts_of_unequal_length_and_unknown_characters(poems):
    with pytest.raises(ValueError, match=r"text 1 has 3 tokens, text 0 has 2: from token 2, '光' of text 1"):
        poems.encode(["明月", "明月光"])
    moon = poems.encode(["月"])[0, 0].item()
    assert poems.encode(["月鬱[tang][PAD][MASK]"]).tolist() == [[moon, *[poems.unk_id] * 3, poems.mask_id]], (
        "no specials"
    )
