"""Runs that report to TensorBoard, Weights & Biases and MLflow: what is found there is what the log says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs import assert_one_line, recipe_file

from textdiff.core.errors import TextdiffError
from textdiff.training import run
from textdiff.training.recipe import load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


def trained(folder: Path, to: str) -> dict[str, list[float]]:
    """What the log of a run of two steps says, that reports to this program."""
    recipe = load(recipe_file(folder, run={"steps": 2, "eval_every": 1, "report_to": to}))
    run.train(recipe)
    figures: dict[str, list[float]] = {"loss": [], "eval_mask_bound": []}
    for line in (recipe.folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        for name, value in json.loads(line).items():
            if name in figures:
                figures[name].append(value)
    assert all(len(values) == 2 for values in figures.values())
    return figures


def test_tensorboard_has_the_figures_of_the_log(tmp_path: Path) -> None:
    events: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    figures = trained(tmp_path, "tensorboard")
    (file,) = (tmp_path / "out" / "runs").rglob("events.*")
    accumulator = events.EventAccumulator(str(file))
    accumulator.Reload()
    for name, ours in (("train/loss", "loss"), ("eval/mask_bound", "eval_mask_bound")):
        assert [event.value for event in accumulator.Scalars(name)] == pytest.approx(figures[ours], rel=1e-6)


def test_mlflow_has_the_figures_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    figures = trained(tmp_path, "mlflow")
    client = mlflow.MlflowClient(store)
    (reported,) = client.search_runs(["0"])
    assert reported.info.run_name == "tiny" and reported.info.status == "FINISHED"
    for name, values in figures.items():
        history = sorted(client.get_metric_history(reported.info.run_id, name), key=lambda metric: metric.step)
        assert [metric.value for metric in history] == pytest.approx(values)

    mlflow.set_tracking_uri("nowhere://runs")
    with pytest.raises(TextdiffError, match="report_to mlflow failed") as caught:
        trained(tmp_path / "refused", "mlflow")
    assert_one_line(caught.value, "leave run.report_to out")


def test_wandb_has_the_figures_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb: Any = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "HOME", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    figures = trained(tmp_path, "wandb")
    wandb.finish()
    (file,) = tmp_path.rglob("run-*.wandb")
    content = file.read_bytes()
    for name, values in (("train/loss", figures["loss"]), ("eval/mask_bound", figures["eval_mask_bound"])):
        assert name.encode() in content
        assert all(json.dumps(value).encode() in content for value in values)
