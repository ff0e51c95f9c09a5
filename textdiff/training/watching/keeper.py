"""What goes along with the steps of a run: the averages of the weights, the time, the log, and the reasons to stop."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import TrainerCallback

from textdiff.core.errors import TextdiffError
from textdiff.training import checkpoints
from textdiff.training.sections import Recipe
from textdiff.training.watching.best import settled


def diverged(what: str, step: int, recipe: Recipe) -> TextdiffError:
    """The error that ends a run whose numbers are lost: where, what is left, and what to change."""
    o, kept = recipe.optimizer, checkpoints.checkpoints(recipe.folder)
    left = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint before it"
    rates = f"lower optimizer.lr ({o.lr:g})" + (f" and optimizer.muon_lr ({o.muon_lr:g})" if o.name == "muon" else "")
    clip = f"lower optimizer.clip ({o.clip:g})" if o.clip else "set optimizer.clip=1.0 (0 is none)"
    return TextdiffError(
        f"{what} step {step}; {left}; {rates}, lengthen optimizer.warmup ({o.warmup} steps), {clip}"
        + (", or try run.bf16=false" if recipe.run.bf16 else "")
        + ", and begin anew with --fresh or out=OTHER"
        + (f" (model.init={kept[-1]} starts from its weights)" if kept and recipe.kind.started else "")
    )


class Keeper(TrainerCallback):
    """Averages the weights, keeps time, writes the log, and stops the run: on a signal, in time, or where a loss is lost."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.stopped: signal.Signals | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the run after the step that is under way."""
        try:
            before = {n: signal.signal(n, self._stop) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # signals are the main thread's
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        if self.stopped is not None:  # the second time: now, without a checkpoint
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.stopped = signal.Signals(number)
        self.trainer.report("stopping: writing a checkpoint after this step")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = self.last = time.monotonic()
        self.first = state.global_step
        state.save_steps, state.logging_steps = (
            args.save_steps,
            args.logging_steps,
        )  # of this recipe, not the checkpoint's

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, run = self.trainer, self.trainer.recipe.run
        now = time.monotonic()
        lost = ~trainer.finite
        stop = self.stopped is not None or (run.minutes is not None and now - self.began > 60 * run.minutes)
        if args.world_size > 1:  # all ranks or none
            flags = torch.stack([lost.float(), torch.tensor(float(stop), device=args.device)])
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
            lost, stop = flags[0] > 0, bool(flags[1] > 0)
        if lost:
            raise diverged("the loss is not finite at", state.global_step, trainer.recipe)
        if trainer.ema is not None:
            trainer.ema.update_parameters(trainer.text_model.model)
        trainer.seconds += now - self.last
        self.last = now
        last = state.global_step == args.max_steps
        control.should_training_stop |= stop
        control.should_evaluate = last or state.global_step % run.eval_every == 0
        control.should_save |= last or stop
        may_save = control.should_save or (control.should_evaluate and run.patience is not None)
        control.should_log |= may_save  # the log's averages begin anew where a run may be resumed

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.monotonic()  # neither evaluation nor saving is training time
        recipe, best = self.trainer.recipe, self.trainer.best()
        if recipe.run.patience is not None and best is not None:
            control.should_save |= best.step == state.global_step
            if settled(state.log_history, recipe.processes, recipe.run.patience):
                control.should_training_stop = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not args.should_save or not logs or "train_runtime" in logs:  # Trainer's summary is of this start alone
            return
        trainer, steps = self.trainer, self.trainer.recipe.run.steps
        values = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in logs.items()}
        record = {"step": state.global_step, "seconds": round(trainer.seconds, 2), "tokens": trainer.tokens, **values}
        with (trainer.recipe.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
        shown = {
            k.removeprefix("eval_"): v
            for k, v in logs.items()
            if k == "loss" or (k.startswith("eval_") and not k.endswith("_standard_error"))
        }
        if shown:
            done, passed = state.global_step - self.first, time.monotonic() - self.began
            numbers = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
            pace = (
                f"  {speed(done, passed)}, {duration(passed / done * (steps - state.global_step))} left" if done else ""
            )
            trainer.report(f"step {state.global_step}/{steps}  {numbers}{pace}")


def speed(steps: int, seconds: float) -> str:
    """Steps in a second, or the seconds of a step where they are slower than that."""
    pace = steps / max(seconds, 1e-9)
    return f"{pace:.3g} steps/s" if pace >= 1 else f"{1 / pace:.3g} s/step"


def duration(seconds: float) -> str:
    """A time in the two units that fit it: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
