"""Checkpoints: whole or of no account, whatever happens to a file of one, to the process that writes it, or to the disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import begin
from runs import POEMS, assert_one_line, digest, losses, recipe_file
from safetensors.torch import load_file

from textdiff.cli import main
from textdiff.core.errors import AskedError, RecipeError, TextdiffError
from textdiff.core.resolve import attribute
from textdiff.training import checkpoints, run
from textdiff.training.recipe import load
from textdiff.training.sections import KINDS, Data, Model, Recipe
from textdiff.training.watching.keeper import diverged

pytestmark = pytest.mark.usefixtures("one_thread")

RUN = {"steps": 6, "save_every": 2, "keep": 9}
LOST = {"lr": 1e30, "warmup": 0, "clip": 0.0, "ema": 0.0}  # weights that no float32 holds after one step


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run with three checkpoints."""
    recipe = load(recipe_file(tmp_path_factory.mktemp("trained"), run=RUN))
    run.train(recipe)
    return recipe


def copied(trained: Recipe, folder: Path) -> Recipe:
    shutil.copytree(trained.folder, folder / "out")
    return load(recipe_file(folder, run=RUN))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": cut,
    "emptied": lambda path: os.truncate(path, 0),
    "missing": Path.unlink,
    "changed": change,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_checkpoint_with_a_damaged_file_is_named_and_the_one_before_it_taken(
    damage: str, trained: Recipe, tmp_path: Path
) -> None:
    recipe = copied(trained, tmp_path)
    newest = recipe.folder / "checkpoint-6"
    names = sorted(path.name for path in newest.iterdir())
    assert {"model.safetensors", "training.safetensors", "training.json", "trainer_state.json", "config.json"} < {
        *names
    }
    assert {"recipe.yaml", "complete.json", "tokenizer.json", "textdiff.json"} < {*names}
    for name in names:
        if name == "complete.json" and damage == "changed":
            continue  # the seal is not sealed; of its contents only what cannot be read is damage
        whole = (newest / name).read_bytes()
        DAMAGE[damage](newest / name)
        found = checkpoints.find(recipe.folder)
        assert found.newest == recipe.folder / "checkpoint-4"
        (said,) = found.damaged
        assert said.startswith("checkpoint-6 is damaged (") and name in said
        (newest / name).write_bytes(whole)
    assert checkpoints.find(recipe.folder).newest == newest


def test_a_run_goes_on_from_before_the_damage_to_the_same_weights(trained: Recipe, tmp_path: Path) -> None:
    recipe = copied(trained, tmp_path)
    cut(recipe.folder / "checkpoint-6" / "training.safetensors")
    os.truncate(recipe.folder / "checkpoint-4" / "complete.json", 0)
    (recipe.folder / "recipe.yaml").write_text("")
    strange = recipe.folder / "checkpoint-final"
    strange.mkdir()
    (strange / "complete.json").write_text("{}")
    killed = recipe.folder / ".checkpoint-6-abcdefgh"
    killed.mkdir()
    (killed / "model.safetensors").write_bytes(b"half")
    shutil.rmtree(recipe.folder / "model")
    said: list[str] = []
    folder = run.train(recipe, log=said.append)
    assert folder is not None
    assert said[0].endswith("checkpoint-final is no checkpoint, because its name has no step; it is left alone")
    assert "checkpoint-6 is damaged (training.safetensors has " in said[1]
    assert said[2] == "checkpoint-4 is damaged (complete.json is damaged); going on from checkpoint-2"
    assert "going on from checkpoint-2" in said[3]
    assert not killed.exists() and strange.exists()
    assert digest(folder / "model.safetensors") == digest(trained.folder / "model" / "model.safetensors")
    assert losses(recipe.folder) == losses(trained.folder)
    assert load(recipe.folder / "recipe.yaml") == recipe


def test_where_no_checkpoint_is_whole_nothing_is_begun_anew_in_silence(trained: Recipe, tmp_path: Path) -> None:
    recipe = copied(trained, tmp_path)
    for folder in checkpoints.checkpoints(recipe.folder):
        (folder / "training.json").unlink()
    with pytest.raises(TextdiffError, match="no checkpoint") as caught:
        run.train(recipe)
    assert_one_line(caught.value, "checkpoint-2 is damaged (training.json is missing)", "--fresh")
    assert len(checkpoints.checkpoints(recipe.folder)) == 3
    assert run.train(recipe, fresh=True) is not None


def test_a_run_cannot_be_made_shorter_than_it_is(trained: Recipe, tmp_path: Path) -> None:
    recipe = copied(trained, tmp_path)
    before = (recipe.folder / "recipe.yaml").read_text()
    with pytest.raises(RecipeError, match=r"beyond run\.steps=3") as caught:
        run.train(load(tmp_path / "tiny.yaml", ["run.steps=3"]))
    assert_one_line(caught.value, "checkpoint-6", "--fresh")
    assert (recipe.folder / "recipe.yaml").read_text() == before


def test_data_of_the_same_name_and_characters_in_another_order_are_other_data(tmp_path: Path) -> None:
    lines = POEMS.read_text(encoding="utf-8").splitlines(keepends=True)[:40]
    data = tmp_path / "poems.jsonl"
    data.write_text("".join(lines), encoding="utf-8")
    path = recipe_file(tmp_path, data={"train": str(data)}, run={"steps": 2})
    run.train(load(path))
    data.write_text("".join(reversed(lines)), encoding="utf-8")
    with pytest.raises(RecipeError, match="the data are not those") as caught:
        run.train(load(path, ["run.steps=3"]))
    assert_one_line(caught.value, "checkpoint-2", "--fresh")
    data.write_text("".join(lines), encoding="utf-8")
    assert run.train(load(path, ["run.steps=3"])) is not None


def test_the_log_of_a_resumed_run_ends_as_that_of_a_whole_one(trained: Recipe, tmp_path: Path) -> None:
    recipe = copied(trained, tmp_path)
    shutil.rmtree(recipe.folder / "checkpoint-6")
    run.train(recipe)

    def log(of: Recipe) -> list[dict[str, Any]]:
        records = map(json.loads, (of.folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
        return [{key: value for key, value in record.items() if key != "seconds"} for record in records]

    assert log(recipe) == log(trained)


def test_another_process_in_the_same_folder_is_an_error(trained: Recipe, tmp_path: Path) -> None:
    recipe = copied(trained, tmp_path)
    with checkpoints.alone(recipe.folder), pytest.raises(AskedError, match="another process trains"):
        run.train(recipe)
    assert run.train(recipe) is not None


# -- numbers that are lost ------------------------------------------------------------------------------------------------


def test_the_first_loss_that_is_not_finite_stops_the_run(
    trained: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = copied(trained, tmp_path)
    shutil.rmtree(recipe.folder / "model")
    longer = load(tmp_path / "tiny.yaml", ["run.steps=40", "run.save_every=1", "run.keep=2"])
    made = run.plan(longer)
    monkeypatch.setattr(run, "plan", lambda recipe, log: made)

    def lose(line: str) -> None:
        if line.startswith("step 8/"):
            for weight in made.text_model.model.parameters():
                weight.data.fill_(float("nan"))

    with pytest.raises(TextdiffError, match="not finite") as caught:
        run.train(longer, log=lose)
    assert_one_line(
        caught.value, "step ", "optimizer.lr (0.003)", "optimizer.warmup (2 steps)", "optimizer.clip", "--fresh"
    )
    kept = checkpoints.checkpoints(recipe.folder)
    assert f"the last good checkpoint is {kept[-1]}" in str(caught.value)
    assert [path.name for path in kept] in (["checkpoint-6", "checkpoint-7"], ["checkpoint-7", "checkpoint-8"])
    for folder in kept:
        assert all(bool(weight.isfinite().all()) for weight in load_file(folder / "model.safetensors").values())
    assert not (recipe.folder / "model").exists()
    text = (recipe.folder / "log.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text and len(losses(recipe.folder)) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_run_is_told_to_start_from_a_checkpoint_where_its_kind_of_data_may(kind: str, tmp_path: Path) -> None:
    def started(init: str) -> Recipe:
        images = kind == "images"
        return Recipe(
            Data("digits", kind=kind),
            model=Model(type="unet" if images else "bert", init=init),
            processes={"gaussian" if images else "mask": 1.0},
            out=str(tmp_path),
        )

    def may(init: str) -> bool:
        try:
            attribute(KINDS[kind].check)(started(init))
        except RecipeError:
            return False
        return True

    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    assert may("plain")
    assert ("model.init" in str(diverged("lost at", 4, started("plain")))) == may(str(checkpoint))


def test_a_run_that_is_lost_from_the_start_keeps_nothing_and_says_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(tmp_path, optimizer=LOST, run={"steps": 20, "save_every": 1})
    assert main(["train", str(path)]) == 1
    out, said = capsys.readouterr()
    (line,) = [one for one in said.splitlines() if one.startswith("textdiff: ")]
    for part in ("not finite", "step ", "optimizer.lr (1e+30)", "optimizer.clip=1.0", "optimizer.warmup (0 steps)"):
        assert part in line, line
    assert out == "" and "nan" not in said
    assert not (tmp_path / "out" / "model").exists()
    for folder in checkpoints.checkpoints(tmp_path / "out"):
        assert all(bool(weight.isfinite().all()) for weight in load_file(folder / "model.safetensors").values())


# -- signals, kills, full disks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_has_the_exit_code_of_its_signal(number: signal.Signals, code: int, tmp_path: Path) -> None:
    command = begin(tmp_path, "train", recipe_file(tmp_path, run={"steps": 5000}))
    command.wait_for(lambda: "\nstep 2/" in command.said())
    command.send(number)
    found, out, said = command.ended()
    assert found == code, said
    assert out == "" and f"stopped by {number.name} at step " in said and "the same command goes on from there" in said
    newest = checkpoints.find(tmp_path / "out").newest
    assert newest is not None and f"step {checkpoints.step_of(newest)} of 5000" in said


@pytest.mark.slow
def test_kills_at_any_moment_leave_whole_checkpoints_and_nothing_else(trained: Recipe, tmp_path: Path) -> None:
    recipe = load(recipe_file(tmp_path, run=RUN | {"save_every": 1}))
    kills = 0
    while not (recipe.folder / "model").exists():
        command = begin(tmp_path, "train", tmp_path / "tiny.yaml")
        command.wait_for(lambda at=kills % 6 + 1: list(recipe.folder.glob(f".checkpoint-*{at}*")))
        command.process.kill()
        command.ended()
        kills += 1
        assert kills < 30
    hidden = [path.name for path in recipe.folder.iterdir() if path.name.startswith(".")]
    run.train(recipe)
    assert [path.name for path in recipe.folder.iterdir() if path.name.startswith(".")] == [], hidden
    assert digest(recipe.folder / "model" / "model.safetensors") == digest(
        trained.folder / "model" / "model.safetensors"
    )


def test_a_full_disk_is_said_plainly_and_leaves_the_checkpoints_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(tmp_path, run=RUN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file may be larger: the weights do not fit
    try:
        code = main(["train", str(path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert code == 1, said
    assert "textdiff: checkpoint-2 cannot be written" in said and "make room" in said, said
    assert "Error" not in said
    assert not list((tmp_path / "out").glob("*checkpoint-*"))
    assert run.train(load(path)) is not None
