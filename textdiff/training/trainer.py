"""Hugging Face's Trainer around the loss: exact data order, averaged weights, safe and complete checkpoints.

A checkpoint holds model.safetensors (raw weights, float32), ema.safetensors, optimizer.safetensors with its JSON, rng.safetensors,
and trainer_state.json; `complete.json` is written last, and only folders that have it are resumed from.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from textdiff.likelihood import nelbo, ratio
from textdiff.predictors.folder import TextModel
from textdiff.training.data import Group, MicroBatches
from textdiff.training.loss import Denoiser
from textdiff.training.optimizer import build, flatten, rate, unflatten
from textdiff.training.recipe import Recipe

Log = Callable[[str], None]


def averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """θ̄ ← d·θ̄ + (1 − d)·θ with d = min(decay, (1 + k)/(10 + k)) at the k-th update."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        k = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + k) / (10 + k)))

    return update


def bound_on(
    text_model: TextModel, groups: list[Group], *, process: str, levels: int, seed: int = 0
) -> tuple[float, float]:
    """(nats per token, standard error) of the bound of `process` over all texts of `groups`."""
    totals, counts = [], []
    with torch.no_grad():
        for group in groups:
            free = group.free.expand_as(group.ids)
            totals.append(
                nelbo(
                    group.ids,
                    free,
                    predictor=text_model.predictor(process),
                    process=text_model.process(process),
                    seeds=torch.arange(len(group.ids)) + seed,
                    levels=levels,
                    condition=group.condition,
                )
            )
            counts.append(free.sum(-1))
    return ratio(torch.cat(totals), torch.cat(counts))


class DiffusionTrainer(Trainer):
    """Trainer whose micro-batches come corrupted, in an order that only the recipe decides."""

    def __init__(
        self,
        text_model: TextModel,
        recipe: Recipe,
        batches: MicroBatches,
        held: list[Group],
        log: Log,
        previews: Callable[[TextModel, list[Group], int], None],
    ):
        self.text_model, self.recipe, self.held = text_model, recipe, held
        self.report, self.previews = log, previews
        self.loss_is_scaled_for_ga = True
        denoiser = Denoiser(text_model)
        Trainer.__init__(
            self,
            model=denoiser,
            args=arguments(recipe),
            train_dataset=batches,
            data_collator=lambda items: items[0],
            processing_class=text_model.tokenizer,
            callbacks=[Keeper(self)],
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        decay = recipe.optimizer.ema
        self.ema = AveragedModel(text_model.model, multi_avg_fn=averaging(decay)) if decay else None
        self.seconds = 0.0  # of training, over all starts
        self.tokens = 0
        self.evaluated = -1

    # -- what Trainer asks for ----------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = model(**inputs) * self.args.world_size  # data parallelism averages; the pieces are to be added up
        self.tokens += inputs["x0"].numel() * self.args.world_size
        return (loss, {}) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = build(self.text_model.model, self.recipe.optimizer)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            o, steps = self.recipe.optimizer, self.recipe.run.steps
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: rate(step, steps, o.warmup, o.decay)
            )
        return self.lr_scheduler

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The bound of each process on the held-out texts, with the averaged weights."""
        if self.evaluated == self.state.global_step:  # Trainer asks again at the end of its epoch
            return {}
        self.evaluated = self.state.global_step
        model = self.averaged()
        metrics = {}
        for process in self.text_model.processes:
            if process == "redraw":
                continue
            value, error = bound_on(model, self.held, process=process, levels=self.recipe.run.eval_levels)
            metrics[f"eval_{process}_bound"] = value
            metrics[f"eval_{process}_standard_error"] = error
        self.log(metrics)
        self.previews(model, self.held, self.state.global_step)
        return metrics

    def averaged(self) -> TextModel:
        """The model with its averaged weights."""
        if self.ema is None:
            return self.text_model
        return dataclasses.replace(self.text_model, model=self.ema.module)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        self.text_model.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir)
        tensors, tree = flatten(self.optimizer.state_dict())  # type: ignore[union-attr]
        save_file(tensors, folder / "optimizer.safetensors")
        state = {"optimizer": tree, "scheduler": self.lr_scheduler.state_dict()}  # type: ignore[union-attr]
        state["scheduler"].pop("lr_lambdas", None)
        (folder / "optimizer.json").write_text(json.dumps(state), encoding="utf-8")
        if self.ema is not None:
            ema = {k: v.contiguous().clone() for k, v in self.ema.state_dict().items()}
            save_file(ema, folder / "ema.safetensors")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        state = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
        self.optimizer.load_state_dict(unflatten(load_file(folder / "optimizer.safetensors"), state["optimizer"]))  # type: ignore[union-attr]
        self.lr_scheduler.load_state_dict(
            state["scheduler"] | {"lr_lambdas": [None] * len(self.optimizer.param_groups)}
        )  # type: ignore[union-attr]
        if self.ema is not None and (folder / "ema.safetensors").exists():
            self.ema.load_state_dict(load_file(folder / "ema.safetensors"))
        complete = json.loads((folder / "complete.json").read_text(encoding="utf-8"))
        self.seconds, self.tokens = complete["seconds"], complete["tokens"]

    def _save_rng_state(self, output_dir: str) -> None:
        states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            states["cuda"] = torch.cuda.get_rng_state()
        save_file(states, Path(output_dir) / f"rng-{self.args.process_index}.safetensors")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        path = Path(checkpoint or "") / f"rng-{self.args.process_index}.safetensors"
        if checkpoint is None or not path.exists():
            return
        states = load_file(path)
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / "model.safetensors")
        missing, unexpected = self.text_model.model.load_state_dict(weights, strict=False)
        tied = set(self.text_model.model.state_dict()) - set(weights)  # safetensors keeps one of each tied pair
        if unexpected or set(missing) - tied:
            raise ValueError(
                f"checkpoint {resume_from_checkpoint} is of another network; start anew with another 'out'"
            )
        self.text_model.model.tie_weights()  # type: ignore[operator]


class Keeper(TrainerCallback):
    """Averages the weights, keeps time, writes the log, marks complete checkpoints, stops when told to."""

    def __init__(self, trainer: DiffusionTrainer):
        self.trainer = trainer
        self.stop_signal: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = self.last = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        if self.stop_signal is not None:
            raise KeyboardInterrupt  # asked twice: now
        self.stop_signal = number
        self.trainer.report("stopping: writing a checkpoint after this step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        if trainer.ema is not None:
            trainer.ema.update_parameters(trainer.text_model.model)
        control.should_evaluate = (
            state.global_step % trainer.recipe.run.eval_every == 0 or state.global_step == args.max_steps
        )
        control.should_save |= state.global_step == args.max_steps
        now = time.monotonic()
        trainer.seconds, self.last = trainer.seconds + now - self.last, now
        minutes = trainer.recipe.run.minutes
        if self.stop_signal is not None or (minutes is not None and now - self.began > 60 * minutes):
            control.should_training_stop = control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.monotonic()  # evaluation is not training time

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            told = {"step": state.global_step, "seconds": self.trainer.seconds, "tokens": self.trainer.tokens}
            (folder / "complete.json").write_text(json.dumps(told), encoding="utf-8")
        self.last = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not args.should_save or not logs:
            return
        trainer = self.trainer
        record = {"step": state.global_step, "seconds": round(trainer.seconds, 2), "tokens": trainer.tokens, **logs}
        with (Path(args.output_dir) / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        shown = {k: v for k, v in logs.items() if k in ("loss",) or k.endswith("_bound")}
        if shown:
            left = trainer.seconds / max(state.global_step, 1) * (trainer.recipe.run.steps - state.global_step)
            values = "  ".join(f"{k.removeprefix('eval_')} {v:.4f}" for k, v in shown.items())
            trainer.report(f"step {state.global_step}/{trainer.recipe.run.steps}  {values}  {left / 60:.1f} min left")


def arguments(recipe: Recipe) -> TrainingArguments:
    """Trainer's own settings, as far as the recipe decides them."""
    run = recipe.run
    return TrainingArguments(
        output_dir=str(recipe.folder),
        max_steps=run.steps,
        per_device_train_batch_size=1,  # one micro-batch, corrupted already
        gradient_accumulation_steps=run.accumulation,
        max_grad_norm=recipe.optimizer.clip,
        bf16=run.bf16,
        seed=run.seed,
        logging_steps=run.log_every,
        save_strategy="steps",
        save_steps=run.save_every,
        save_total_limit=run.keep,
        eval_strategy="no",  # Keeper asks for it: the held-out texts are not a Trainer dataset
        report_to=run.report_to,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        disable_tqdm=True,
        logging_nan_inf_filter=False,
    )
