"""Runs that stop when their held-out figures get no better, and keep the model of the best ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import digest, losses, recipe_file

from textdiff.networks.folder import TextModel
from textdiff.training import run
from textdiff.training.recipe import load
from textdiff.training.watching.best import Best, best, settled
from textdiff.training.watching.held_out import bound_on

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_that_gets_worse_stops_and_leaves_its_best_weights(tmp_path: Path) -> None:
    path = recipe_file(
        tmp_path,
        optimizer={"lr": 0.3, "warmup": 4, "ema": 0.5, "decay": 0.0},
        run={"steps": 2, "eval_every": 1, "patience": 2, "keep": 1},
    )
    run.train(load(path))
    recipe, said = load(path, ["run.steps=12"]), []
    folder = run.train(recipe, log=said.append)  # the evaluations before this start count
    assert folder is not None
    lines = map(json.loads, (recipe.folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    bounds = {line["step"]: line["eval_mask_bound"] for line in lines if "eval_mask_bound" in line}
    lowest = min(bounds, key=bounds.__getitem__)
    assert lowest <= 2 < max(bounds) == lowest + 2
    assert sum("run.patience" in line for line in said) == 1

    value, _ = bound_on(
        TextModel.from_pretrained(folder), run.plan(recipe).validation, process="mask", levels=recipe.run.eval_levels
    )
    assert value == pytest.approx(bounds[lowest], abs=1e-5)
    names = {file.name for file in recipe.folder.glob("checkpoint-*")}
    assert names == {f"checkpoint-{lowest}", f"checkpoint-{max(bounds)}"}

    weights, before = digest(folder / "model.safetensors"), losses(recipe.folder)
    assert run.train(recipe) == folder  # the run is over: nothing is trained by another start
    assert digest(folder / "model.safetensors") == weights and losses(recipe.folder) == before


def test_the_best_evaluation_is_that_of_the_lowest_weighted_figure() -> None:
    shares = {"mask": 0.25, "cold": 0.75}
    rows = [(10, 4.0, 1.0), (20, 2.0, 1.5), (30, float("nan"), 0.1), (40, 1.0, 1.4), (50, 4.0, 0.4), (60, 0.1, 1.7)]
    history = [{"step": step, "eval_mask_bound": bound, "eval_cold_loss": loss} for step, bound, loss in rows]
    history.insert(3, {"step": 35, "loss": 0.0})
    assert best(history, shares) == Best(40, 2)
    assert best(history, {"mask": 1.0}) == Best(60, 0)
    assert [settled(history, shares, patience) for patience in (None, 3, 2, 1)] == [False, False, True, True]
    assert best([{"step": 1, "loss": 1.0}], shares) is None
