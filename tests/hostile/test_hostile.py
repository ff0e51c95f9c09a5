"""Model folders and files that were made to do harm: nothing of theirs is executed, and what is refused is refused in a sentence."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small_images
from tiny import QUATRAIN, poem_model

from textdiff import cli
from textdiff.core.errors import AskedError, ModelError
from textdiff.data.records import records
from textdiff.networks.folder import TextModel
from textdiff.networks.images import ImageModel
from textdiff.pipeline.text import TextPipeline

ONELINE = QUATRAIN.replace("\n", "")
MODEL = poem_model()
PICKLES = ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl", "rng_state.pth")
HUGE = 10**9


class Planted:
    """What runs a command when a pickle of it is read."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.canary}'",)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that is there once anything of a folder was executed, which fails the test."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    MODEL.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def plant(folder: Path, canary: Path) -> None:
    """Pickles, and a module that the configurations name."""
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Planted(canary)))
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Own: pass\n", encoding="utf-8")
    edit(folder / "config.json", auto_map={"AutoConfig": "own.Own", "AutoModelForMaskedLM": "own.Own"})
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})


def test_a_planted_pickle_would_do_what_it_says(tmp_path):
    pickle.loads(pickle.dumps(Planted(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("lean", [True, False])
def test_nothing_that_lies_beside_the_weights_is_executed(folder, canary, lean):
    plant(folder, canary)
    (score,) = TextPipeline(TextModel.from_pretrained(folder, lean=lean)).score(ONELINE, levels=1)
    (expected,) = TextPipeline(MODEL).score(ONELINE, levels=1)
    assert score.nats_per_char == pytest.approx(expected.nats_per_char, rel=1e-5)


@pytest.mark.parametrize("lean", [True, False])
def test_a_folder_of_a_kind_that_only_its_own_code_knows_is_refused(folder, canary, lean):
    plant(folder, canary)
    edit(folder / "config.json", model_type="own")
    with pytest.raises(ModelError, match="model type 'own' has no known"):
        TextModel.from_pretrained(folder, lean=lean)


@pytest.mark.parametrize("lean", [True, False])
def test_weights_that_are_a_pickle_are_refused(folder, canary, lean):
    plant(folder, canary)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Planted(canary)))
    with pytest.raises(ModelError, match="the weights cannot be read"):
        TextModel.from_pretrained(folder, lean=lean)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="pickles are not read"):
        TextModel.from_pretrained(folder, lean=lean)


def header(length: int, text: str = "{}") -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", length) + text.encode() + b"0000"
    )


def elsewhere(folder: Path) -> None:
    """Weights of which an index says that they lie outside of the folder, where they do lie."""
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "part.safetensors").write_bytes((folder.parent / "outside.safetensors").read_bytes())
    index = {"metadata": {}, "weight_map": {"cls.predictions.bias": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


SHAPE = '{"a":{"dtype":"F32","shape":[10000000000,10000000000],"data_offsets":[0,4]}}'
DIGITS = "9" * 6000
CONFIG: dict[str, Callable[[Path], object]] = {
    f"{key} {value}": lambda folder, key=key, value=value: edit(folder / "config.json", **{key: value})
    for key, value in {
        "num_hidden_layers": HUGE,
        "hidden_size": HUGE,
        "num_attention_heads": HUGE,
        "intermediate_size": HUGE,
        "max_position_embeddings": HUGE,
        "type_vocab_size": HUGE,
        "vocab_size": HUGE,
    }.items()
}
HARMFUL: dict[str, Callable[[Path], object]] = CONFIG | {
    "a number of many digits": lambda folder: (folder / "config.json").write_text(f'{{"vocab_size": {DIGITS}}}'),
    "a factor of many digits": lambda folder: (folder / "textdiff.json").write_text(f'{{"factor": {DIGITS}}}'),
    "lists in lists": lambda folder: (folder / "config.json").write_text("[" * 100_000),
    "objects in objects": lambda folder: (folder / "tokenizer.json").write_text('{"a":' * 100_000),
    "a long header of weights": header(1 << 62),
    "weights of a size that cannot be": header(len(SHAPE), SHAPE),
    "weights outside of the folder": elsewhere,
}


@pytest.mark.parametrize("what", HARMFUL)
def test_a_harmful_folder_is_refused_in_a_sentence(folder, what):
    HARMFUL[what](folder)
    for lean in (True, False):
        with pytest.raises(ModelError) as error:
            TextModel.from_pretrained(folder, lean=lean)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("key", ["layers_per_block", "norm_num_groups"])
def test_a_model_of_images_that_says_of_more_layers_than_it_has_weights_is_refused_at_once(key, tmp_path):
    pytest.importorskip("diffusers")
    small_images.model().save_pretrained(tmp_path / "images")
    edit(tmp_path / "images" / "config.json", **{key: HUGE})
    with pytest.raises(ModelError, match=f"config.json has {key} {HUGE}, and there are [0-9]+ weights"):
        ImageModel.from_pretrained(tmp_path / "images")


@pytest.mark.parametrize("text", ["床" * 10_000_000, '{"text": "' + "床" * 10_000_000 + '"}'], ids=["plain", "JSON"])
def test_a_line_of_ten_million_characters_is_refused_by_its_length(tmp_path, text):
    (tmp_path / "long.txt").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(AskedError, match="at most 1048576 can be one record"):
        list(records(tmp_path / "long.txt"))


@pytest.mark.parametrize("verb", ["fill", "score", "check"])
def test_a_text_of_two_hundred_thousand_characters_is_refused_in_a_short_line(verb, tmp_path, capsys, folder):
    (tmp_path / "long.txt").write_text("床□" * 100_000, encoding="utf-8")
    words = [] if verb == "check" else ["--model", str(folder)]
    assert cli.main([verb, "--file", str(tmp_path / "long.txt"), *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and len(err) < 2000


def test_a_file_that_is_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(AskedError):
        list(records(tmp_path / "round"))
