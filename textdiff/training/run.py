"""From a recipe to a trained model folder.

<out>/recipe.yaml         the recipe, every default spelled out
<out>/log.jsonl           step, seconds, tokens, loss, bounds (the command leaves log.csv and curves.png of them)
<out>/previews.txt        samples at each evaluation
<out>/checkpoint-N/       what a killed run starts again from (checkpoints.py)
<out>/model/              the result: averaged weights, tokenizer, textdiff.json, model card
<out>/raw/                the same without averaging
<out>/adapters/           with model.lora: what was trained, in peft's format
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from textdiff.core.errors import RecipeError, TextdiffError
from textdiff.core.resolve import attribute
from textdiff.data import sealed
from textdiff.networks.devices import on_cpu
from textdiff.training import checkpoints
from textdiff.training.data import processes
from textdiff.training.planning import Plan, dry_run, plan
from textdiff.training.recipe import Recipe, load, shortened, to_yaml
from textdiff.training.texts import adapters
from textdiff.training.trainer import DiffusionTrainer, Log, silent, state_of
from textdiff.training.watching.best import settled
from textdiff.training.watching.reports import reporting

__all__ = ["Stopped", "dry_run", "leader", "plan", "train"]


class Stopped(TextdiffError):
    """A signal has stopped the run; the message says what is left of it, and how to go on."""

    def __init__(self, message: str, signal: signal.Signals):
        TextdiffError.__init__(self, message)
        self.signal = signal


def leader() -> bool:
    """Whether this process speaks and writes, of those that train together."""
    return os.environ.get("RANK", "0") == "0"


@on_cpu
def train(recipe: Recipe, *, fresh: bool = False, log: Log = silent) -> Path | None:
    """Train, or go on from the newest whole checkpoint in the output folder.

    Returns the model's folder, or None if the run stopped after run.minutes, before its last step (start it again to go
    on).  Stopped, on SIGINT and SIGTERM, says that there is a checkpoint.  `fresh` ignores checkpoints that are there.
    """
    log, folder = log if leader() else silent, recipe.folder
    _check_place(folder)
    checkpoint = None if fresh else _checkpoint(recipe, log)
    if recipe.run.compile and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise RecipeError("run.compile needs a C++ compiler, and there is none; install g++, or leave run.compile out")
    made = plan(recipe, log)
    if checkpoint is not None and checkpoints.about(checkpoint)["data"] != made.data:
        raise RecipeError(
            f"the data are not those that {checkpoint} was trained on, although the recipe is the same; restore them, or "
            f"pass out=OTHER or --fresh"
        )
    if not leader():
        return _run(recipe, made, checkpoint, log)
    with checkpoints.room(folder, "the run"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in checkpoints.FULL:
                raise
            raise _no_folder(folder, error.strerror) from error
        with checkpoints.alone(folder):
            after = checkpoints.step_of(checkpoint) if checkpoint else 0
            checkpoints.tidy(folder, after)
            _forget(folder, after)
            _write(folder / "recipe.yaml", to_yaml(recipe))
            return _run(recipe, made, checkpoint, log)


def _check_place(folder: Path) -> None:
    """RecipeError where there can be no folder of a run."""
    try:
        place = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    except FileNotFoundError:
        raise _no_folder(folder, "the folder that we are in was removed") from None
    if not place.is_dir():
        raise _no_folder(folder, f"{place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise _no_folder(folder, f"nothing may be written in {place}")


def _no_folder(folder: Path, reason: str | None) -> RecipeError:
    return RecipeError(f"out is {str(folder)!r}, where there can be no folder of a run ({reason}); pass out=OTHER")


def _run(recipe: Recipe, made: Plan, checkpoint: Path | None, log: Log) -> Path | None:
    folder = recipe.folder
    log(
        f"{made.texts} texts, {made.parameters / 1e6:.2f} M parameters"
        + (f" of which {made.trained / 1e6:.2f} M are trained" if made.trained < made.parameters else "")
        + f", {recipe.run.steps} steps"
        + (f", {world} processes" if (world := processes()) > 1 else "")
        + (f", going on from {checkpoint.name}" if checkpoint else "")
    )
    if recipe.run.bf16 and made.text_model.device.type == "cpu" and (ratio := bfloat16_time()) > 1.5:
        log(f"bfloat16 products take {ratio:.1f} times as long as float32's on this CPU; run.bf16=false is faster")
    previews = attribute(recipe.kind.previews)(recipe, folder, log)
    trainer = DiffusionTrainer(made.text_model, recipe, made.batches, made.validation, log, previews, made.data)
    with trainer.keeper.listening():
        if checkpoint is not None and _settled(recipe, state_of(checkpoint)):
            trainer.take(checkpoint)
        else:
            with reporting(recipe.run.report_to):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        step, stopped = trainer.state.global_step, trainer.keeper.stopped
        done = step == recipe.run.steps
        if not done and _settled(recipe, trainer.state):
            done = True
            log(
                f"stopped at step {step} of {recipe.run.steps}, because the last {recipe.run.patience} evaluations were no "
                f"better than one before them (run.patience)"
            )
        if done:
            _save(trainer, made)
    if stopped is not None:
        left = f"{folder / 'model'} is written" if done else "the same command goes on from there"
        raise Stopped(f"stopped by {stopped.name} at step {step} of {recipe.run.steps}; {left}", stopped)
    if not done:
        log(f"stopped after run.minutes at step {step} of {recipe.run.steps}; the same command goes on from there")
        return None
    return folder / "model"


def _settled(recipe: Recipe, state: TrainerState) -> bool:
    return settled(state.log_history, recipe.processes, recipe.run.patience)


def _checkpoint(recipe: Recipe, log: Log) -> Path | None:
    """The checkpoint that this recipe goes on from; None where there is none."""
    folder = recipe.folder
    found = checkpoints.find(folder)
    for name in found.strange:
        log(f"{folder / name} is no checkpoint, because its name has no step; it is left alone")
    if found.newest is None:
        if found.damaged:
            raise TextdiffError(
                f"no checkpoint in {str(folder)!r} is whole: {', '.join(found.damaged)}; pass --fresh to begin anew, or "
                f"out=OTHER"
            )
        return None
    for message in found.damaged:
        log(f"{message}; going on from {found.newest.name}")
    _same(recipe, load(found.newest / "recipe.yaml"))
    if checkpoints.step_of(found.newest) > recipe.run.steps:
        raise RecipeError(
            f"{found.newest} is beyond run.steps={recipe.run.steps}; give at least as many steps, or pass out=OTHER or "
            f"--fresh"
        )
    return found.newest


def _save(trainer: DiffusionTrainer, made: Plan) -> None:
    """Write the model with averaged weights, its card, and the model without averaging.

    With a patience the model is that of the best evaluation; the one without averaging is always that of the last step.
    """
    folder, recipe, leads = trainer.recipe.folder, trainer.recipe, trainer.args.should_save
    raw = trainer.current()
    if leads:
        raw.save_pretrained(folder / "raw")
    if recipe.run.patience is not None and (leads or trainer.sharded):
        _go_back_to_the_best(trainer)
    model = trainer.averaged()
    if not leads:
        return
    if recipe.kind.finished:
        model = attribute(recipe.kind.finished)(model, made.batches.groups)
    if recipe.model.lora is not None:
        adapters.save(trainer.averages(), folder / adapters.FOLDER)
    model.save_pretrained(folder / "model")
    bounds = {k: v for entry in trainer.state.log_history for k, v in entry.items() if k.startswith("eval_")}
    _write(
        folder / "model" / "README.md",
        attribute(recipe.kind.card)(recipe, made, trainer.seconds, trainer.tokens, bounds),
    )
    for name in ("raw", "model"):
        for left in folder.glob(f".{name}-*"):  # of a start that was killed while it wrote this folder
            shutil.rmtree(left, ignore_errors=True)


def _go_back_to_the_best(trainer: DiffusionTrainer) -> None:
    """Take the checkpoint of the best evaluation, unless the run is there."""
    best, last = trainer.best(), trainer.state.global_step
    if best is None or best.step == last:
        return
    checkpoint = trainer.recipe.folder / f"checkpoint-{best.step}"
    fault = sealed.damage(checkpoint, checkpoints.NAME)
    if fault is None:
        trainer.take(checkpoint)
        trainer.report(f"the model is that of step {best.step}, which was the best by the held-out examples")
    else:
        trainer.report(f"{checkpoint.name} was the best, and is damaged ({fault}); the model is that of step {last}")


def _forget(folder: Path, after: int) -> None:
    """Remove what an earlier start has said of the steps after `after`, which are trained again."""
    for name in ("log.jsonl", "previews.txt"):
        if (folder / name).exists():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            _write(folder / name, "".join(line for line in lines if _step_of(line) <= after))


def _step_of(line: str) -> float:
    """The step of a line of log.jsonl or previews.txt; infinite for a line that was cut."""
    try:
        return json.loads(line)["step"] if line.startswith("{") else int(line.split("\t")[0])
    except ValueError:
        return float("inf")


def _same(recipe: Recipe, earlier: Recipe) -> None:
    """A resumed run must have the data, network, optimiser and batches of the first, and with a patience its evaluations.

    How a step is computed (accumulation, bf16, compile, recompute) may be another: it changes rounding alone.
    """
    sections = ("data", "tokenizer", "model", "processes", "from_nothing", "conditions", "diffusion", "optimizer")
    judged = (
        ("eval_texts", "eval_levels") if recipe.run.patience is not None else ()
    )  # by which evaluations are compared
    then = _spelled(earlier)
    for key, now in _spelled(recipe).items():
        of_run = key in [f"run.{name}" for name in ("seed", "batch", *judged)]
        if (of_run or key.split(".")[0] in sections) and now != then[key]:
            raise RecipeError(
                f"{recipe.folder} was trained with {key}={shortened(str(then[key]))}, not {shortened(str(now))}; "
                f"pass out=OTHER to keep both, or --fresh"
            )


def _spelled(recipe: Recipe) -> dict[str, Any]:
    """The value of every key of a recipe, section.key."""
    keys: dict[str, Any] = {}
    for name, value in vars(recipe).items():
        keys |= {f"{name}.{key}": one for key, one in vars(value).items()} if is_dataclass(value) else {name: value}
    return keys


def bfloat16_time() -> float:
    """How long a product of bfloat16 takes on this CPU, where one of float32 takes 1; computed in some 50 ms."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(256, 320, dtype=dtype), torch.ones(320, 320, dtype=dtype)
        times: list[float] = []
        for _ in range(4):
            start = time.perf_counter()
            torch.nn.functional.linear(a, b)
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(torch.bfloat16) / seconds(torch.float32)


def _write(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
