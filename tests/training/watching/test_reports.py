"""Runs that report to TensorBoard, Weights & Biases and MLflow: what is found there is what the log says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, recipe_file

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def started(folder: Path, to: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run of two steps that reports to this program, in a process of its own: wandb and mlflow keep much in theirs."""
    path = recipe_file(folder, run={"steps": 2, "eval_every": 1, "report_to": to})
    around = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-m", "textdiff", "train", str(path), "--quiet"]
    return subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, timeout=600)


def trained(folder: Path, to: str, **environment: str) -> dict[str, list[float]]:
    """What the log of such a run says."""
    done = started(folder, to, **environment)
    assert done.returncode == 0, done.stderr
    figures: dict[str, list[float]] = {"loss": [], "eval_mask_bound": []}
    for line in (folder / "out" / "log.jsonl").read_text(encoding="utf-8").splitlines():
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


def test_mlflow_has_the_figures_of_the_log_and_its_refusal_is_one_clear_line(tmp_path: Path) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    figures = trained(tmp_path, "mlflow", MLFLOW_TRACKING_URI=store)
    client = mlflow.MlflowClient(store)
    (reported,) = client.search_runs(["0"])
    assert reported.info.run_name == "tiny" and reported.info.status == "FINISHED"
    for name, values in figures.items():
        history = sorted(client.get_metric_history(reported.info.run_id, name), key=lambda metric: metric.step)
        assert [metric.value for metric in history] == pytest.approx(values)

    done = started(tmp_path / "refused", "mlflow", MLFLOW_TRACKING_URI="nowhere://runs")
    assert done.returncode == 1
    assert any(
        "report_to mlflow failed" in line and "leave run.report_to out" in line for line in done.stderr.splitlines()
    )


def test_wandb_has_the_figures_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    places = dict.fromkeys(("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "HOME"), str(tmp_path))
    figures = trained(tmp_path, "wandb", WANDB_MODE="offline", **places)
    (file,) = tmp_path.rglob("run-*.wandb")
    content = file.read_bytes()
    for name, values in (("train/loss", figures["loss"]), ("eval/mask_bound", figures["eval_mask_bound"])):
        assert name.encode() in content
        assert all(json.dumps(value).encode() in content for value in values)
