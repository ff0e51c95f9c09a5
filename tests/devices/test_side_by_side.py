"""Several real processes train as one: with copies of the network, or with its parameters divided among them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ROOT, losses, recipe_file
from safetensors.torch import load_file

from textdiff.training import run
from textdiff.training.recipe import Recipe, load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TORCHRUN = ["torch.distributed.run", "--standalone"]
ACCELERATE, ACCELERATE_FSDP = (
    ["accelerate.commands.launch", "--config_file", str(ROOT / "recipes" / "accelerate" / f"{name}.yaml")]
    for name in ("cpus", "fsdp")
)
SECTIONS: dict[str, Any] = {  # with dropout, titles of different lengths and averages
    "conditions": {"title": 0.7},
    "optimizer": {"lr": 3e-3, "warmup": 2, "ema": 0.9, "decay": 0.0},
    "run": {"steps": 4, "batch": 12, "save_every": 2},
}
ONE_STEP = "run.minutes=1e-6"  # of this start; then it stops with a checkpoint


def launched(launcher: list[str], processes: int, path: Path, *overrides: str) -> str:
    """What a run by so many processes says, on stderr; on stdout it says where the model is."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TRANSFORMERS_VERBOSITY": "error"}
    count = f"--num_processes={processes}" if "accelerate" in launcher[0] else f"--nproc-per-node={processes}"
    command = [sys.executable, "-m", *launcher, count, "-m", "textdiff", "train", str(path), *overrides]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    finished = f"{load(path, list(overrides)).folder / 'model'}\n"
    assert done.stdout == ("" if ONE_STEP in overrides else finished)  # one line of output
    return done.stderr


def assert_same(one: Path, other: Path) -> None:
    assert losses(one).keys() == losses(other).keys()
    for step, loss in losses(one).items():
        assert losses(other)[step] == pytest.approx(loss, abs=1e-5)
    for name in ("model", "raw"):
        weights, others = (load_file(folder / name / "model.safetensors") for folder in (one, other))
        assert weights.keys() == others.keys()
        for key, weight in weights.items():
            torch.testing.assert_close(others[key], weight, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """The run of one process, and its recipe's file."""
    torch.set_num_threads(1)
    path = recipe_file(tmp_path_factory.mktemp("one"), **SECTIONS)
    recipe = load(path)
    run.train(recipe)
    return path, recipe


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_train_as_one(launcher: list[str], one: tuple[Path, Recipe], tmp_path: Path) -> None:
    path, recipe = one
    said = launched(
        launcher, 2, path, f"out={tmp_path / 'two'}", f"run.recompute={str(launcher is ACCELERATE).lower()}"
    )
    assert said.count("2 processes") == 1, said  # both at work, one of them speaks
    assert_same(recipe.folder, tmp_path / "two")


def test_two_processes_stop_together_when_nothing_gets_better_and_leave_the_best_weights(tmp_path: Path) -> None:
    sections = SECTIONS | {"optimizer": SECTIONS["optimizer"] | {"lr": 0.3, "ema": 0.5}}
    path = recipe_file(tmp_path, **sections | {"run": {"steps": 9, "batch": 12, "eval_every": 1, "patience": 2}})
    run.train(load(path))
    said = launched(TORCHRUN, 2, path, f"out={tmp_path / 'two'}")
    assert said.count("run.patience") == 1, said
    folders = load(path).folder, tmp_path / "two"
    one, two = (losses(folder) for folder in folders)
    assert one.keys() == two.keys() and max(two) < 9
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-2)  # at such a rate rounding grows
    kept = [{file.name for file in folder.glob("checkpoint-*")} for folder in folders]
    assert kept[0] == kept[1]


def test_a_divided_run_goes_on_with_another_number_of_processes(one: tuple[Path, Recipe], tmp_path: Path) -> None:
    """A step by two, a step by three, and the others by a single one."""
    path, recipe = one
    out, kept = f"out={tmp_path / 'divided'}", tmp_path / "divided"
    launched(TORCHRUN, 2, path, out, "run.shard=true", "run.recompute=true", ONE_STEP)
    for count, step in ((2, 1), (3, 2)):
        if count == 3:
            assert "going on from checkpoint-1" in launched(ACCELERATE_FSDP, 3, path, out, ONE_STEP)
        files = sorted(file.name for file in (kept / f"checkpoint-{step}" / "shards").iterdir())
        assert len(files) == count and all(file.endswith(".safetensors") for file in files)
    said: list[str] = []
    run.train(load(path, [out]), log=said.append)
    assert "going on from checkpoint-2" in said[0]
    assert_same(recipe.folder, kept)


def test_a_divided_network_goes_on_from_the_checkpoint_of_a_whole_one(tmp_path: Path) -> None:
    """With Muon, which puts its matrices together."""
    path = recipe_file(tmp_path / "one", **SECTIONS | {"optimizer": SECTIONS["optimizer"] | {"name": "muon"}})
    run.train(load(path))
    run.train(load(path, [f"out={tmp_path / 'two'}", ONE_STEP]))
    launched(TORCHRUN, 2, path, f"out={tmp_path / 'two'}", "run.shard=true")
    assert_same(load(path).folder, tmp_path / "two")
