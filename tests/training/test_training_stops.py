"""Runs that are stopped, killed and gone on with."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from commands import begin
from runs import LONG, assert_one_line, digest, losses, recipe_file

from textdiff.core.errors import RecipeError
from textdiff.training import run
from textdiff.training.checkpoints import checkpoints
from textdiff.training.recipe import load

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("optimizer", ["muon"])
def test_a_killed_run_goes_on_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    """With dropout, averaged weights, two processes and titles; killed at a random step, gone on with by the same command."""
    sections: dict[str, Any] = {
        "optimizer": {"name": optimizer},
        "processes": {"mask": 0.7, "replacement": 0.3},
        "conditions": {"title": 0.5},
        "run": LONG,
    }
    whole, killed = (load(recipe_file(tmp_path / name, **sections)) for name in ("whole", "killed"))
    run.train(whole)
    at = random.Random().randrange(2, 8)  # lines of the log
    command = begin(tmp_path, "train", tmp_path / "killed" / "tiny.yaml", "--quiet")
    log = killed.folder / "log.jsonl"
    command.wait_for(lambda: log.exists() and log.read_text(encoding="utf-8").count("\n") >= at)
    command.send(signal.SIGKILL)
    code, _, said = command.ended()
    assert code == -signal.SIGKILL, said
    assert not (killed.folder / "model").exists()
    with log.open("a", encoding="utf-8") as file:
        file.write('{"step": 5')  # a line that the kill has cut
    resumed = checkpoints(killed.folder)
    assert run.train(killed) == killed.folder / "model", f"killed after {at} lines"
    assert losses(killed.folder) == losses(whole.folder), f"killed after {at} lines, resumed from {resumed}"
    for name in ("model", "raw"):
        file = f"{name}/model.safetensors"
        assert digest(killed.folder / file) == digest(whole.folder / file), f"killed after {at} lines"


def test_a_signal_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"run": {"steps": 8, "batch": 16}}
    whole, stopped = (load(recipe_file(tmp_path / name, **sections)) for name in ("whole", "stopped"))
    run.train(whole)
    said: list[str] = []

    def stop_at(step: int, number: signal.Signals) -> Any:
        def log(line: str) -> None:
            said.append(line)
            if line.startswith(f"step {step}/"):
                os.kill(os.getpid(), number)

        return log

    for step, number in ((2, signal.SIGTERM), (5, signal.SIGINT)):
        before = signal.getsignal(number)
        with pytest.raises(run.Stopped, match="the same command goes on") as caught:
            run.train(stopped, log=stop_at(step, number))
        assert caught.value.signal == number
        assert signal.getsignal(number) == before
        left = checkpoints(stopped.folder)[-1]
        assert left.name in (f"checkpoint-{step}", f"checkpoint-{step + 1}")

    incomplete = stopped.folder / "checkpoint-7"  # as a kill while writing would leave it
    incomplete.mkdir()
    (incomplete / "model.safetensors").write_bytes(b"half")
    said.clear()
    assert run.train(stopped, log=said.append) == stopped.folder / "model"
    assert said[0] == f"checkpoint-7 is damaged (complete.json is missing); going on from {left.name}"
    assert left.name in said[1]
    assert losses(stopped.folder) == losses(whole.folder)
    assert digest(stopped.folder / "model" / "model.safetensors") == digest(
        whole.folder / "model" / "model.safetensors"
    )


def test_a_run_does_not_go_on_with_another_recipe_unless_begun_afresh(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, run={"steps": 2})
    run.train(load(path))
    for override in (
        "data.limit=50",
        "model.config.hidden_size=64",
        "tokenizer.min_count=2",
        "processes.uniform=1",
        "conditions.title=0.5",
        "optimizer.name=muon",
        "run.seed=1",
        "run.batch=32",
    ):
        with pytest.raises(RecipeError) as caught:
            run.train(load(path, [override]))
        key, now = override.split("=")
        shown = f"not {now}" if not key.startswith(("processes", "conditions", "model.config")) else ""
        assert_one_line(caught.value, "was trained with", "--fresh", key.split(".")[0], shown)
    for override in ("run.eval_texts=3", "run.eval_levels=3"):  # evaluations that a patience compares are of one kind
        with pytest.raises(RecipeError) as caught:
            run.train(load(path, ["run.patience=1", "run.steps=3", override]))
        assert_one_line(caught.value, f"was trained with {override.split('=')[0]}", "--fresh")
    changed = load(path, ["run.seed=1", "run.steps=1"])
    run.train(changed, fresh=True)
    assert [p.name for p in checkpoints(changed.folder)] == ["checkpoint-1"]
    assert losses(changed.folder).keys() == {1}


@pytest.mark.parametrize("place", ["file", "file/inside", "link"])
def test_a_folder_that_cannot_be_is_said_before_the_data_are_read(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(RecipeError) as caught:
        run.train(load(recipe_file(tmp_path), [f"out={tmp_path / place}", "data.train=absent.jsonl"]))
    assert_one_line(caught.value, f"out is '{tmp_path / place}'", "is no folder", "pass out=OTHER")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no folder that nobody can write to")
def test_a_folder_that_the_system_refuses_is_said_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        run.train(load(recipe_file(tmp_path), ["out=/proc/runs"]))
    assert_one_line(caught.value, "out is '/proc/runs'", "pass out=OTHER")


def test_a_run_to_which_steps_are_added_goes_on_at_the_rate_of_the_longer_one(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, optimizer={"decay": 0.0}, run={"steps": 2})
    whole, longer = load(path, ["run.steps=4", f"out={tmp_path / 'whole'}"]), load(path, ["run.steps=4"])
    run.train(load(path))
    for recipe in (longer, whole):
        run.train(recipe)
    assert losses(longer.folder) == losses(whole.folder)


@pytest.mark.parametrize(
    ("change", "rounding"), [("accumulation=4", 1e-4), ("recompute=true", 1e-4), ("bf16=true", 0.02)]
)
def test_a_run_may_go_on_with_another_way_to_compute_its_steps(change: str, rounding: float, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, optimizer={"decay": 0.0}, run={"steps": 2})
    whole = load(path, ["run.steps=4", f"out={tmp_path / 'whole'}"])
    changed = load(path, ["run.steps=4", f"run.{change}"])
    run.train(whole)
    run.train(load(path))
    run.train(changed)
    assert losses(changed.folder) == pytest.approx(losses(whole.folder), rel=rounding)
