"""Whole runs: what they leave, and where they start from.

Every run here is a real one, through the Trainer, on our own sample poems and networks of two thin layers.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import PROSE, ROOT, assert_one_line, recipe_file, still, windows_recipe
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_hook

from textdiff.networks.folder import TextModel
from textdiff.training import run
from textdiff.training.data import Group
from textdiff.training.loss import Denoiser
from textdiff.training.recipe import load
from textdiff.training.texts import start
from textdiff.training.watching.held_out import bound_on

pytestmark = pytest.mark.usefixtures("one_thread")


# -- weights and what is saved --------------------------------------------------------------------------------------------


def test_the_result_holds_the_averaged_weights_and_evaluation_uses_them(tmp_path: Path) -> None:
    steps, decay = 5, 0.7
    path = recipe_file(tmp_path, optimizer={"ema": decay}, run={"steps": steps, "save_every": 1, "keep": 99})
    recipe = load(path)
    folder = run.train(recipe)
    assert folder is not None
    name = "bert.encoder.layer.0.attention.self.query.weight"
    raw = [load_file(recipe.folder / f"checkpoint-{k}" / "model.safetensors")[name] for k in range(1, steps + 1)]
    averaged = raw[0].clone()
    for k, weights in enumerate(raw[1:], start=1):
        averaged = torch.lerp(averaged, weights, 1 - min(decay, (1 + k) / (10 + k)))
    assert torch.allclose(load_file(folder / "model.safetensors")[name], averaged, atol=1e-7)
    assert torch.equal(load_file(recipe.folder / "raw" / "model.safetensors")[name], raw[-1])
    assert not torch.allclose(averaged, raw[-1], atol=1e-5)
    log = [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]
    told = next(r["eval_mask_bound"] for r in log if "eval_mask_bound" in r)
    model = TextModel.from_pretrained(folder)
    value, _ = bound_on(model, run.plan(recipe).validation, process="mask", levels=recipe.run.eval_levels)
    assert value == pytest.approx(told, abs=1e-5)  # the network has dropout: it was off


def test_a_run_leaves_no_pickle_and_all_that_it_promises(tmp_path: Path) -> None:
    path = recipe_file(
        tmp_path,
        run={"steps": 2, "save_every": 1, "previews": 2, "eval_every": 1},
        processes={"mask": 0.5, "replacement": 0.5},
    )
    recipe = load(path)
    folder = run.train(recipe)
    assert folder == recipe.folder / "model"
    names = {p.name for p in recipe.folder.rglob("*") if p.is_file()}
    assert not {n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle"))}
    assert {"recipe.yaml", "log.jsonl", "previews.txt", "complete.json", "README.md", "textdiff.json"} <= names
    assert load(recipe.folder / "recipe.yaml") == recipe
    previews = (recipe.folder / "previews.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in previews] == ["1", "1", "2", "2"]
    assert all("[" not in line for line in previews)
    assert TextModel.from_pretrained(folder).processes == ("mask", "replacement")


def test_the_dry_run_trains_nothing_and_reports(tmp_path: Path) -> None:
    recipe = load(recipe_file(tmp_path))
    report = run.dry_run(recipe)
    assert {"parameters", "tokens", "steps", "minutes", "memory_mb"} <= report.keys()
    assert report["steps"] == 6 and report["texts"] + report["validation_texts"] <= 60
    assert not recipe.folder.exists()


def test_the_dry_run_times_two_steps_of_the_longest_texts(tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    def note(module: torch.nn.Module, arguments: Any, named: dict[str, Any], loss: Any) -> None:
        if isinstance(module, Denoiser) and loss.requires_grad:  # not the look whether the network reads them at all
            shapes.append(tuple(named["x0"].shape))

    recipe = load(recipe_file(tmp_path), ["data.limit=null", "run.accumulation=2"])
    with register_module_forward_hook(note, with_kwargs=True):
        run.dry_run(recipe)
    assert len({group.ids.shape[1] for group in run.plan(recipe).batches.groups}) > 1
    assert shapes == [(8, 56)] * 4  # two pieces a step; the longest form has eight lines of seven characters


# -- the recipes' own ways ------------------------------------------------------------------------------------------------


def test_a_pretrained_model_is_adapted_by_the_recipe(tmp_path: Path) -> None:
    tiny.saved(tiny.sentence_model(), tmp_path / "bert")
    (tmp_path / "words.txt").write_text("the cat sat on the mat.\na dog ran under two trees.\n" * 60, encoding="utf-8")
    recipe = load(
        ROOT / "recipes" / "adapt-bert.yaml",
        [
            f"model.pretrained={tmp_path / 'bert'}",
            f"data.train={tmp_path / 'words.txt'}",
            f"out={tmp_path / 'out'}",
            *("data.length=8", "run.steps=12", "run.batch=16", "run.accumulation=1", "run.eval_every=6"),
            *("run.log_every=1", "run.save_every=100", "optimizer.lr=3e-3", "optimizer.warmup=1", "run.bf16=false"),
        ],
    )
    folder = run.train(recipe)
    assert folder is not None
    log = [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]
    bounds = [r["eval_mask_bound"] for r in log if "eval_mask_bound" in r]
    assert bounds[-1] < bounds[0]
    model = TextModel.from_pretrained(folder)
    assert model.tokenizer.cls_token == "[CLS]" and model.prefix == ()


def test_pieces_of_sentencepiece_train_on_windows(tmp_path: Path) -> None:
    recipe = windows_recipe(
        tmp_path, "tokenizer={kind: sentencepiece, size: 120}", "data.length=8", "run.steps=2", "run.previews=1"
    )
    made = run.plan(recipe)
    (group,) = made.batches.groups
    assert made.text_model.unk_id not in group.ids[:]
    read = "".join(made.text_model.decode(group.ids[:3].view(1, -1)))
    assert PROSE.replace("\n", " ").startswith(read) and read
    assert run.train(recipe) is not None


# -- a start from a model ---------------------------------------------------------------------------------------------------


def test_a_run_starts_from_the_weights_of_a_model(tmp_path: Path) -> None:
    first = load(recipe_file(tmp_path / "first", model=still(), run={"steps": 2}))
    folder = run.train(first)
    model = TextModel.from_pretrained(folder)
    started = load(recipe_file(tmp_path / "next", model=still(), run={"steps": 3}), [f"model.init={folder}"])
    made = run.plan(started)
    for name, weight in model.model.state_dict().items():
        assert torch.equal(made.text_model.model.state_dict()[name], weight), name
    bounds = [bound_on(one, made.validation, process="mask", levels=2) for one in (made.text_model, model)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-6), "but for how each computes attention"
    again = run.train(dataclasses.replace(started, conditions={"title": 1.0}))
    assert TextModel.from_pretrained(again).told == ("form", "process", "level", "title")
    assert load(tmp_path / "next" / "out" / "recipe.yaml").model.init == str(folder)

    few = ["data.limit=10", f"model.init={folder}"]
    with pytest.raises(ValueError, match="vocabulary") as caught:
        run.plan(load(recipe_file(tmp_path / "few", model=still()), few))
    assert_one_line(caught.value, "kind: pretrained")
    bare = load(recipe_file(tmp_path / "few", model={"config": {}}), [*few, "tokenizer.kind=pretrained"])
    assert run.plan(bare).text_model.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    with pytest.raises(ValueError, match="another network") as caught:
        run.plan(load(recipe_file(tmp_path / "wide", model=still(hidden_size=64)), [f"model.init={folder}"]))
    assert_one_line(caught.value, "leave out model.config")
    strange = recipe_file(tmp_path / "few", model=still(), tokenizer={"kind": "pretrained"})
    tiny.saved(dataclasses.replace(model, prefix=("form", "level")), tmp_path / "prefix")
    with pytest.raises(ValueError, match="before the text"):
        run.plan(load(strange, [f"model.init={tmp_path / 'prefix'}", "data.limit=10"]))


def test_a_run_starts_from_the_model_of_the_package(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, model={"config": {}}, tokenizer={"kind": "pretrained"}, conditions={"title": 0.5})
    made = run.plan(load(path, ["model.init=packaged", "data.limit=20"]))
    packaged = TextModel.from_pretrained()
    assert made.text_model.prefix == packaged.prefix and "title" in made.text_model.told
    assert made.text_model.model.dtype == torch.float32
    weight = packaged.model.state_dict()["model.layers.0.attn.Wqkv.weight"]
    assert torch.equal(made.text_model.model.state_dict()["model.layers.0.attn.Wqkv.weight"], weight)


# -- a start from statistics ----------------------------------------------------------------------------------------------


def test_pairs_are_counted_as_one_would_by_hand() -> None:
    ids = torch.tensor([[3, 4, 3, 5, 1, 4, 3]])
    group = Group(ids, torch.zeros(1, 0, dtype=torch.long), torch.ones(7, dtype=torch.bool))
    scored = torch.tensor([3, 4, 5])
    expected = torch.zeros(3, 3)
    for i, j in itertools.permutations(range(7), 2):
        if abs(i - j) <= start.WINDOW and ids[0, i] >= 3 and ids[0, j] >= 3:
            expected[ids[0, i] - 3, ids[0, j] - 3] += 1
    assert torch.equal(start.pair_counts([group], scored, 6), expected)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_statistics_are_a_better_start_than_none(kind: str, tmp_path: Path) -> None:
    recipe = load(recipe_file(tmp_path), [f"model.type={kind}", "data.limit=null"])
    bounds = []
    for init in ("plain", "statistics"):
        made = run.plan(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, init=init)))
        made.text_model.model.eval()
        bounds.append(bound_on(made.text_model, made.batches.groups, process="mask", levels=2)[0])
    assert bounds[1] < bounds[0]
