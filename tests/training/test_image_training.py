"""Training models of images by recipe: the same trainer, loss and micro-batches as for texts, on real digits and files."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_images import COLD, TINY, digits, folder_of, model

from textdiff.core.errors import AskedError, RecipeError
from textdiff.core.likelihood import nelbo
from textdiff.data.image_data import read_images
from textdiff.networks.images import ImageModel
from textdiff.pipeline.images import ImagePipeline
from textdiff.training import run
from textdiff.training.data import Group
from textdiff.training.images import reading as images
from textdiff.training.loss import Denoiser, corrupted
from textdiff.training.recipe import load
from textdiff.training.watching.held_out import bound_on, held_out, loss_on

ROOT = Path(__file__).parents[2]
DIGITS = [ROOT / "recipes" / f"digits-{name}.yaml" for name in ("ddpm", "cold-blur", "cold-pixelate", "inpaint")]


pytestmark = pytest.mark.usefixtures("one_thread")


def recipe_file(folder: Path, **sections: Any) -> Path:
    """A recipe for a tiny network of a few digits, with sections changed."""
    tree: dict[str, Any] = {
        "data": {"kind": "images", "train": "digits", "limit": 60},
        "model": {"type": "unet", "config": TINY},
        "processes": {"gaussian": 1.0},
        "conditions": {"label": 0.9},
        "optimizer": {"lr": 3e-3, "warmup": 2, "ema": 0.9},
        "run": {"steps": 6, "batch": 8, "eval_every": 1000, "save_every": 2, "eval_texts": 4, "log_every": 1},
        "defaults": {"steps": 4},
        "out": str(folder / "out"),
    }
    tree["run"] |= {"eval_levels": 2, "previews": 0, "keep": 9}
    for name, section in sections.items():
        tree[name] = section if name in ("processes", "conditions") else tree.get(name, {}) | section
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def logged(folder: Path, name: str) -> list[float]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record[name] for record in map(json.loads, lines) if name in record]


BLUR = {
    "processes": {"cold": 1.0},
    "diffusion": {"degradation": {"name": "blur"}, "output": "data", "power": 1, "sigma": 0.1},
}


@pytest.mark.parametrize(
    ("sections", "measure"),
    [
        pytest.param({}, "bound", id="gaussian"),
        pytest.param(
            {"diffusion": {"schedule": "flow", "output": "velocity"}}, "bound", id="flow", marks=pytest.mark.slow
        ),
        pytest.param(BLUR, "loss", id="cold", marks=pytest.mark.slow),
    ],
)
def test_training_learns_and_leaves_a_model_that_draws(sections: dict[str, Any], measure: str, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, **sections)
    recipe = load(path, ["run.steps=24", "run.eval_every=24", "run.previews=1", "run.save_every=1000"])
    folder = run.train(recipe)
    assert folder is not None
    loss = logged(recipe.folder, "loss")
    assert sum(loss[-5:]) < 0.9 * sum(loss[:5])
    process = recipe.processes.popitem()[0]
    for told in ("", "_told"):
        assert all(math.isfinite(value) for value in logged(recipe.folder, f"eval_{process}{told}_{measure}"))
    assert (recipe.folder / "previews" / "step-24.png").stat().st_size > 200
    trained = ImageModel.from_pretrained(folder)
    assert trained.classes == tuple("0123456789") and trained.diffusion == recipe.diffusion
    assert (trained.analytic is None) == (process == "cold") == (trained.terminal is not None)
    assert ImagePipeline(trained).generate(2, label=["3", "4"], steps=2).images.isfinite().all()
    assert "UNet2DModel.from_pretrained" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_layers_that_are_computed_twice_train_to_the_same_weights(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, model={"config": TINY | {"dropout": 0.2}})
    once, twice = (
        run.train(load(path, [f"out={tmp_path / value}", f"run.recompute={value}"])) for value in ("false", "true")
    )
    assert once is not None and twice is not None
    weights, others = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (once, twice))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, atol=1e-6, rtol=0)


@pytest.mark.slow  # the trainer is that of texts, which are cut off often
def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = run.train(load(recipe_file(tmp_path / "a", model={"config": TINY | {"dropout": 0.2}})))
    recipe = load(recipe_file(tmp_path / "b", model={"config": TINY | {"dropout": 0.2}}))

    def cut(line: str) -> None:
        if line.startswith("step 5/"):
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        run.train(recipe, log=cut)
    lines: list[str] = []
    again = run.train(recipe, log=lines.append)
    assert "going on from checkpoint-4" in lines[0]
    assert whole is not None and again is not None
    for kind in ("model", "raw"):
        one, other = (
            load_file(folder.parent / kind / "diffusion_pytorch_model.safetensors") for folder in (whole, again)
        )
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(RecipeError, match="another 'diffusion' section"):
        run.train(load(tmp_path / "b" / "tiny.yaml", ["diffusion.schedule=linear"]))


def test_pieces_of_a_step_add_up_to_the_step(tmp_path: Path) -> None:
    path = recipe_file(tmp_path)
    whole, halves = (run.plan(load(path, [f"run.accumulation={pieces}"])) for pieces in (1, 2))
    loss = [
        sum(Denoiser(made.text_model)(**made.batches[k]) for k in range(made.batches.pieces))
        for made in (whole, halves)
    ]
    torch.testing.assert_close(loss[0], loss[1], rtol=1e-5, atol=0)


def test_labels_are_told_as_often_as_the_recipe_says(tmp_path: Path) -> None:
    batches = run.plan(load(recipe_file(tmp_path, conditions={"label": 0.6}), ["run.steps=200"])).batches
    silent = [not batches[k]["condition"].ne(10).any() for k in range(200)]
    assert abs(sum(silent) / 200 - 0.4) < 3 * math.sqrt(0.24 / 200)


def test_holes_are_seen_clean_and_not_learnt(tmp_path: Path) -> None:
    recipe = load(recipe_file(tmp_path, diffusion={"holes": 0.75}), ["run.batch=64"])
    made = run.plan(recipe)
    inputs = made.batches[0]
    known = inputs["t"] == 0
    touched = known.flatten(1).any(-1)
    assert 0.5 < touched.float().mean() < 0.95
    x_t = corrupted(made.text_model.process("gaussian"), inputs["x0"], inputs["t"], inputs["seeds"])
    assert torch.equal(x_t[known], inputs["x0"][known]) and not torch.equal(x_t[~known], inputs["x0"][~known])
    weights = made.text_model.process("gaussian").weights(x_t, inputs["t"])
    assert ((weights > 0) == ~known).all()
    levels = inputs["t"].flatten(1)
    for row in levels:
        assert len(row[row > 0].unique()) <= 1
    assert made.text_model.model.config["in_channels"] == 2


def test_known_regions_are_rectangles_or_all_around_them() -> None:
    seeds = torch.arange(400)
    known = images.regions(seeds, 8, 6, 0.75)
    assert known.shape == (400, 1, 8, 6) and torch.equal(known[3:4], images.regions(seeds[3:4], 8, 6, 0.75))
    share = known.flatten(1).any(-1).float().mean().item()
    assert abs(share - 0.75) < 0.1  # a rectangle may be empty
    for one in known[:50, 0]:
        for part in (one, ~one):
            rows, columns = part.any(1), part.any(0)
            if torch.equal(part, rows[:, None] & columns):
                break
        else:
            pytest.fail("neither the known region nor the rest is a rectangle")


def test_a_process_without_a_bound_is_measured_by_its_loss() -> None:
    x = digits(6)
    group = Group(x, model().condition(6, "a"), torch.ones(1, 8, 8, dtype=torch.bool))
    gaussian, cold = model(), model(COLD, "cold")
    found = held_out(gaussian, [group], process="gaussian", levels=3)
    assert set(found) == {"bound", "standard_error"}
    assert found["bound"] == bound_on(gaussian, [group], process="gaussian", levels=3)[0]
    free = torch.ones_like(x, dtype=torch.bool)
    nats = nelbo(
        x, free, predictor=gaussian.predictor("gaussian"), process=gaussian.process("gaussian"),
        seeds=torch.arange(6), levels=3, condition=group.condition,
    )  # fmt: skip
    assert found["bound"] == pytest.approx(nats.mean().item() / 64)
    found = held_out(cold, [group], process="cold", levels=3)
    assert set(found) == {"loss", "standard_error"}
    assert found["loss"] == loss_on(cold, [group], process="cold", levels=3)[0] > 0


@pytest.mark.parametrize("path", DIGITS, ids=lambda path: path.stem)
def test_the_recipes_of_the_digits_come_to_a_plan_and_a_step(path: Path, tmp_path: Path) -> None:
    recipe = load(path, [f"out={tmp_path}", "run.batch=4"])
    made = run.plan(recipe)
    assert made.texts == 1459 and made.parameters < 1_000_000
    assert len(made.validation[0].ids) == 149
    loss = Denoiser(made.text_model)(**made.batches[0])
    loss.backward()
    assert loss.isfinite()
    told = made.text_model
    if told.processes == ("cold",):
        assert told.terminal is not None and told.terminal["mean"].shape == (11, 64)


def test_what_is_tested_is_never_learnt_from() -> None:
    found = read_images("digits")
    train = {tuple(one.flatten().tolist()) for one in found.of("train").x}
    made = run.plan(load(DIGITS[0]))
    assert {tuple(one.flatten().tolist()) for one in made.batches.groups[0].ids} == train
    held = {tuple(one.flatten().tolist()) for one in found.of("test").x}
    assert not held & train


@pytest.mark.slow
def test_mnist_is_trained_from_a_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", classes=2, each=20, size=28)
    tiny = yaml.safe_dump(TINY, default_flow_style=True, width=1000).strip()
    changes = [f"data.train={folder}", f"model.config={tiny}", f"out={tmp_path / 'out'}"]
    changes += ["run.steps=2", "run.batch=4", "run.bf16=false", "run.eval_levels=2", "run.previews=1"]
    trained = run.train(load(ROOT / "recipes" / "mnist-ddpm.yaml", changes))
    assert trained is not None
    again = ImageModel.from_pretrained(trained)
    assert again.shape == (1, 28, 28) and again.classes == ("class-0", "class-1")
    assert ImagePipeline(again).generate(1, label="class-1", steps=2).images.shape == (1, 1, 28, 28)


def test_a_dry_run_estimates_images_too(tmp_path: Path) -> None:
    report = run.dry_run(load(recipe_file(tmp_path)))
    assert report["texts"] == sum(read_images("digits", limit=60).part == 0) and report["vocabulary"] is None
    assert report["parameters"] == sum(
        p.numel() for p in run.plan(load(recipe_file(tmp_path))).text_model.model.parameters()
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["diffusion.schedul=linear"], "did you mean 'diffusion.schedule'"),
        (["diffusion.schedule=cosin"], "diffusion.schedule is 'cosin'"),
        (["diffusion.output=x0"], "diffusion.output is 'x0'"),
        (["diffusion.weighting=snr"], "diffusion.weighting is 'snr'"),
        (["diffusion.holes=2"], "diffusion.holes"),
        (["diffusion.degradation={name: blur}"], "process gaussian degrades nothing"),
        (["processes={cold: 1}"], "process cold degrades images"),
        (["processes={cold: 1}", "diffusion={degradation: {name: blurr}, output: data}"], "did you mean 'blur'"),
        (["processes={gaussian: 1, cold: 1}"], "images take one of"),
        (["processes={mask: 1}"], "images take one of"),
        (["conditions={title: 0.5}"], "does not go with data.kind images"),
        (["model.type=bert"], "model: {type: unet"),
        (["model.config.layers=2"], "unknown key of model.config"),
        (["optimizer.name=muon"], "trained by adamw"),
        (["data.channels=2"], "data.channels is 2"),
        (["data.size=16"], "gray and 8 by 8"),
        (["data.train=nowhere"], "there are no images"),
        (["data.kind=windows", "conditions={}"], "are for images"),
        (["tokenizer.kind=sentencepiece"], "images have no tokenizer"),
        (["data.limit=1"], "falls into the"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_recipes_that_cannot_be_are_errors(changes: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(AskedError, match=said.replace("{", r"\{")):
        run.plan(load(recipe_file(tmp_path), changes))


def test_labels_need_images_that_have_them(tmp_path: Path) -> None:
    flat = folder_of(tmp_path / "f", classes=1, each=20) / "class-0"
    with pytest.raises(RecipeError, match="have none"):
        run.plan(load(recipe_file(tmp_path), [f"data.train={flat}"]))
    made = run.plan(load(recipe_file(tmp_path), [f"data.train={flat}", "conditions={}"]))
    assert made.batches[0]["condition"].shape == (8, 0)
    assert made.text_model.model.config["num_class_embeds"] is None
    for one, other in itertools.combinations(made.batches[0]["seeds"].tolist(), 2):
        assert one != other
