"""The encoder that textdiff computes itself against transformers', and what it leaves to transformers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from textdiff import Pipeline
from textdiff.cli import parser
from textdiff.cli.common import VERBS
from textdiff.core.contracts import Query
from textdiff.core.predictions import positions_of
from textdiff.networks import fast_float32
from textdiff.networks.folder import TextModel
from textdiff.networks.lean.families import FAMILIES
from textdiff.networks.lean.network import Encoder, read_encoder
from textdiff.networks.lean.tokenizer import LeanTokenizer
from textdiff.networks.masked_lm import HEADS

PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
COLUMNS = 21


def config(kind: str, **told: Any) -> Any:
    sizes = DISTILBERT if kind == "distilbert" else PLAIN
    tokens = {f"{name}_token_id": 1 for name in ("bos", "eos", "cls", "sep")} if kind == "modernbert" else {}
    common = {"vocab_size": 30, "max_position_embeddings": 40, "initializer_range": 0.4, "pad_token_id": 0}
    return transformers.AutoConfig.for_model(kind, **common | sizes | tokens | told)


def network(folder: Path, kind: str, seed: int = 0, **told: Any) -> Any:
    """A network with random weights, biases and norms among them, saved in the folder."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForMaskedLM.from_config(config(kind, **told)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return model


@st.composite
def settings_of(draw: Any, kind: str) -> dict[str, Any]:
    """What may differ between two networks of a family."""
    act = st.sampled_from(["gelu", "relu", "silu"])
    heads, layers = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 3))
    if kind == "distilbert":
        return {"n_heads": heads, "n_layers": layers, "activation": draw(act), "dim": draw(st.sampled_from([32, 56]))}
    sizes = {"num_attention_heads": heads, "num_hidden_layers": layers, "hidden_size": draw(st.sampled_from([32, 56]))}
    if kind != "modernbert":
        return sizes | {"hidden_act": draw(act), "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-3]))}
    biases = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias", "decoder_bias")
    return sizes | {
        "hidden_activation": draw(act),
        "classifier_activation": draw(st.sampled_from(["gelu", "linear"])),
        "layer_types": [draw(st.sampled_from(["full_attention", "sliding_attention"])) for _ in range(layers)],
        "local_attention": draw(st.integers(1, COLUMNS)),
        **{name: draw(st.booleans()) for name in biases},
    }


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_every_family_gives_the_logits_of_transformers(kind, tmp_path):
    @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(told=settings_of(kind), seed=st.integers(0, 99))
    def check(told, seed):
        model = network(tmp_path, kind, seed, **told)
        encoder = read_encoder(tmp_path, torch.float32)
        assert encoder is not None
        ids = torch.randint(1, 30, (4, COLUMNS))
        live = torch.ones_like(ids)
        live[1, :3] = 0  # slots of the prefix that say nothing
        live[2, 15:] = 0  # padding
        live[3, 4:9] = 0
        position = (live.cumsum(-1) - 1).clamp(min=0) + 1
        vectors = torch.randn(4, COLUMNS, encoder.config.hidden_size)
        for told_it in ({"input_ids": ids}, {"inputs_embeds": vectors}):
            for mask in ({}, {"attention_mask": live}):
                with torch.no_grad():
                    theirs = model(position_ids=position, **told_it, **mask).logits
                    ours = encoder.logits(encoder.encode(position_ids=position, **told_it, **mask))
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
                at = torch.rand(4, COLUMNS).lt(0.6).nonzero(as_tuple=True)  # some rows have more places than a piece
                some = encoder.logits(encoder.encode(position_ids=position, at=at, **told_it, **mask))
                torch.testing.assert_close(some, theirs[at], rtol=0, atol=1e-5)

    check()


def lean(folder: Path, model: TextModel) -> TextModel:
    """The model with textdiff's own network."""
    found = Pipeline.from_pretrained(tiny.saved(model, folder)).model
    assert isinstance(found.model, Encoder)
    return found


@pytest.mark.parametrize("fast", [False, True])
def test_the_logits_at_a_place_hang_on_its_row_alone(tmp_path, fast):
    """To the last bit: not on the rows beside it, nor on what else is asked, nor on the order in which it is."""
    model = lean(tmp_path / "m", tiny.poem_model())
    predictor, x = model.predictor("mask"), torch.full((48, 28), model.mask_id)
    x[2:, ::3] = model.content[torch.randint(len(model.content), (46, 10))]  # the first two are equal
    about = model.condition(48, title=["明月", "明月", "光霜"] * 16)

    def asked(rows, where):
        at = positions_of(where[rows])
        query = Query(x[rows], torch.ones(len(rows), 28).double(), at=at, condition=about[rows])
        return predictor(query).logits()

    everywhere, few = torch.ones(48, 28, dtype=torch.bool), torch.zeros(48, 28, dtype=torch.bool)
    few[:, 5] = few[::2, 11] = few[::5, :20] = True
    with fast_float32.through_onednn() if fast else contextlib.nullcontext(), torch.inference_mode():
        whole = asked(torch.arange(48), everywhere).view(48, 28, -1)
        for rows in (
            torch.arange(48),
            torch.arange(2),
            torch.arange(47, -1, -1),
            torch.arange(7),
            *torch.arange(12).split(1),
        ):
            assert asked(rows, few).equal(whole[rows][few[rows]]), rows.tolist()


class Counted(TorchFunctionMode):
    """How many rows torch's own products see."""

    def __init__(self) -> None:
        TorchFunctionMode.__init__(self)
        self.rows: list[int] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.linear:
            self.rows.append(args[0].numel() // args[0].shape[-1])
        return function(*args, **(kwargs or {}))


def test_the_last_layer_and_the_head_are_computed_only_where_something_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("textdiff.networks.masked_lm.maker", lambda *_: None)
    model = lean(tmp_path / "m", tiny.window_model())  # two layers, no prefix
    x = model.content[torch.arange(300).view(10, 30) % len(model.content)]
    where = torch.zeros(x.shape, dtype=torch.bool)
    where[:, 3:5] = True
    predictor = model.predictor("mask")
    with torch.inference_mode(), Counted() as counted:
        predictor(Query(x, torch.ones(x.shape).double(), at=positions_of(where))).logits()
    first = [300] * 4
    assert counted.rows == [*first, 20, 300, *[20] * 3, *[20] * 2], "of the last layer, keys and values of all columns"


def test_of_rows_that_are_all_equal_one_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr("textdiff.networks.masked_lm.maker", lambda *_: None)
    model = lean(tmp_path / "m", tiny.window_model())
    x = torch.full((10, 30), model.mask_id)
    where = torch.zeros(x.shape, dtype=torch.bool)
    where[torch.arange(10), torch.arange(10)] = True
    predictor = model.predictor("mask")
    with torch.inference_mode(), Counted() as counted:
        predictor(Query(x, torch.ones(x.shape).double(), at=positions_of(where))).logits()
    assert counted.rows[0] == 30


def test_columns_without_positions_are_counted_from_nought(tmp_path):
    model = network(tmp_path, "modernbert", layer_types=["full_attention", "sliding_attention"], local_attention=6)
    encoder, ids = read_encoder(tmp_path, torch.float32), torch.randint(1, 30, (2, COLUMNS))
    assert encoder is not None
    with torch.no_grad():
        torch.testing.assert_close(encoder.logits(encoder.encode(ids)), model(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_weights_keep_their_names_and_values(kind, tmp_path):
    theirs = network(tmp_path, kind).state_dict()
    encoder = read_encoder(tmp_path, torch.float32)
    assert encoder is not None
    ours = encoder.stored()
    assert set(load_file(tmp_path / "model.safetensors")) == set(ours)
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "roformer"},
        {"hidden_act": "gelu_new"},
        {"is_decoder": True},
        {"tie_word_embeddings": False},
        {"position_embedding_type": "relative_key"},
        {"num_hidden_layers": 1},
        {"num_attention_heads": 3},
        {"hidden_size": 16},
        {"layer_norm_eps": None},
        {"something_new": 1},
    ],
)
def test_what_a_config_says_beyond_what_is_known_is_left_to_transformers(change, tmp_path):
    network(tmp_path, "bert")
    assert read_encoder(tmp_path, torch.float32) is not None
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert read_encoder(tmp_path, torch.float32) is None


def test_other_rotary_positions_are_left_to_transformers(tmp_path):
    network(tmp_path, "modernbert")
    file = tmp_path / "config.json"
    told = json.loads(file.read_text())
    told["rope_parameters"]["full_attention"] |= {"rope_type": "linear", "factor": 2.0}
    file.write_text(json.dumps(told))
    assert read_encoder(tmp_path, torch.float32) is None


def test_weights_that_are_missing_or_too_many_are_left_to_transformers(tmp_path):
    network(tmp_path, "bert")
    # The oldest safetensors writes into the file that these tensors would be views of.
    whole = {name: weight.clone() for name, weight in load_file(tmp_path / "model.safetensors").items()}
    word, pooler = "bert.embeddings.word_embeddings.weight", "bert.pooler.dense.weight"

    def read_with(weights):
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        return read_encoder(tmp_path, torch.float32)

    assert read_with(whole | {pooler: torch.zeros(32, 32)}) is not None  # of another head, and read by nobody
    assert read_with({name: weight for name, weight in whole.items() if name != word}) is None
    assert read_with(whole | {"cls.predictions.decoder.weight": whole[word].clone()}) is None
    assert read_with(whole | {word: torch.zeros(31, 32)}) is None
    assert read_with(whole | {word: whole[word].long()}) is None
    save_file(whole, tmp_path / "model-00001-of-00002.safetensors", {"format": "pt"})
    assert read_with(whole) is None


def test_a_pipeline_takes_the_lean_network_and_training_that_of_transformers(tmp_path):
    folder = tiny.saved(tiny.poem_model(), tmp_path / "m")
    pipe, other = Pipeline.from_pretrained(folder), TextModel.from_pretrained(folder)
    assert isinstance(pipe.model.model, Encoder) and isinstance(pipe.model.tokenizer, LeanTokenizer)
    assert isinstance(other.model, transformers.BertForMaskedLM)
    again = pipe.model.with_transformers()
    assert isinstance(again.model, transformers.BertForMaskedLM)
    theirs = other.model.state_dict()
    assert all(torch.equal(theirs[name], weight) for name, weight in again.model.state_dict().items())


def test_a_folder_that_is_not_known_goes_through_transformers(tmp_path):
    folder = tiny.saved(tiny.poem_model(), tmp_path / "m")
    usual = Pipeline.from_pretrained(folder).generate("五绝", n=2, seed=3)
    file = Path(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"something_new": 1}))
    pipe = Pipeline.from_pretrained(folder)
    assert isinstance(pipe.model.model, transformers.BertForMaskedLM)
    assert [p.text for p in pipe.generate("五绝", n=2, seed=3)] == [p.text for p in usual]


def test_a_pipeline_saves_the_folder_that_it_came_from(tmp_path):
    folder = tiny.saved(tiny.poem_model(), tmp_path / "m")
    state = torch.random.get_rng_state()
    again = tiny.saved(Pipeline.from_pretrained(folder).model, tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), state)
    for name in sorted(path.name for path in Path(folder).iterdir()):
        if name != "tokenizer_config.json":
            assert (Path(again) / name).read_bytes() == (Path(folder) / name).read_bytes(), name
    files = [json.loads((Path(one) / "tokenizer_config.json").read_text()) for one in (folder, again)]
    assert files[0] == files[1]


def test_every_family_that_is_read_has_a_head():
    assert set(FAMILIES) <= set(HEADS)


def test_the_packaged_model_says_the_same_through_both_networks():
    lean, other = Pipeline.from_pretrained(), Pipeline(TextModel.from_pretrained())
    assert isinstance(lean.model.model, Encoder) and isinstance(lean.model.tokenizer, LeanTokenizer)
    told = {"n": 3, "seed": 5, "steps": 4}
    poems = [p.text for p in lean.generate("五绝", **told)]
    assert poems == [p.text for p in other.generate("五绝", **told)]
    assert [lean.generate("五绝", n=1, seed=5 + k, steps=4)[0].text for k in range(3)] == poems
    scores = [[one.nats_per_char for one in pipe.score(poems, levels=2, repeats=1)] for pipe in (lean, other)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)  # products by other code round differently


def modules_of(command: str) -> set[str]:
    """The modules that a command imports in a new process."""
    around = f"import sys; before = set(sys.modules); {command}; print(*sorted(set(sys.modules) - before))"
    return set(
        subprocess.run([sys.executable, "-c", around], check=True, capture_output=True, text=True).stdout.split()
    )


def test_a_poem_is_drawn_without_the_libraries_that_take_seconds_to_import():
    command = "import textdiff; textdiff.Pipeline.from_pretrained().generate('五绝', steps=1)"
    slow = {"transformers", "datasets", "accelerate", "huggingface_hub", "scipy", "pandas", "matplotlib"}
    assert not modules_of(command) & slow


def test_the_package_itself_imports_next_to_nothing():
    assert not modules_of("import textdiff") & {
        "typing",
        "importlib.abc",
        "importlib.resources",
        "dataclasses",
        "tempfile",
        "numpy",
    }


def test_the_command_line_knows_its_verbs_before_it_imports_what_they_need():
    found = modules_of("from textdiff.cli import parser; parser().format_help()")
    assert not found & {"torch", "textdiff.verse.forms", "textdiff.data.records", "textdiff.samplers"}
    found = modules_of("from textdiff.cli import parser; parser(['--help']).format_help()")
    assert not found & {"dataclasses", *(f"textdiff.cli.{file}" for file, _ in VERBS.values())}
    found = modules_of("from textdiff.cli import parser; parser(['forms', '--json'])")
    assert found & {f"textdiff.cli.{file}" for file, _ in VERBS.values()} == {"textdiff.cli.lists"}
    assert parser().format_help() == parser(["--help"]).format_help() == parser(["forms"]).format_help()
