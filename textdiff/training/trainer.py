"""Hugging Face's Trainer around the loss: exact data order, averaged weights, safe and complete checkpoints.

No state of a random generator is kept: corruption and dropout are keyed by the example.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from textdiff.core.contracts import Model
from textdiff.core.errors import AskedError, TextdiffError
from textdiff.core.likelihood import nelbo, ratio
from textdiff.training import checkpoints
from textdiff.training.data import Group, MicroBatches, processes, unsaid
from textdiff.training.loss import Denoiser, corrupted, weighted_nll
from textdiff.training.optimizer import build, flatten, rate, unflatten
from textdiff.training.sections import Recipe, to_yaml

Log = Callable[[str], None]


def silent(line: str) -> None:
    """The log of those who want none."""


def averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """θ̄ ← d·θ̄ + (1 − d)·θ with d = min(decay, (1 + k)/(10 + k)) at the k-th update."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        k = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + k) / (10 + k)))

    return update


@torch.no_grad()
def bound_on(
    text_model: Model, groups: list[Group], *, process: str, levels: int, seed: int = 0
) -> tuple[float, float]:
    """(nats per token or value, standard error) of the bound of `process` over all texts of `groups`."""
    totals, counts = [], []
    for group in groups:
        ids = group.ids[:].to(text_model.device)
        free = group.free.to(ids.device).expand_as(ids)
        total = nelbo(
            ids,
            free,
            predictor=text_model.predictor(process),
            process=text_model.process(process),
            seeds=torch.arange(len(ids), device=ids.device) + seed,
            levels=levels,
            condition=group.condition[:].to(ids.device),
        )
        totals.append(total)
        counts.append(free.flatten(1).sum(-1))
    return ratio(torch.cat(totals), torch.cat(counts))


@torch.no_grad()
def loss_on(text_model: Model, groups: list[Group], *, process: str, levels: int, seed: int = 0) -> tuple[float, float]:
    """(the training loss, standard error) of `process` over all texts of `groups`, each at `levels` even levels."""
    totals, counts = [], []
    predictor, forward = text_model.predictor(process), text_model.process(process)
    for group in groups:
        ids = group.ids[:].to(text_model.device)
        free = group.free.to(ids.device).expand(len(ids), *group.free.shape)
        for rows in torch.arange(len(ids), device=ids.device).split(16):
            total = torch.zeros((), device=ids.device)
            for level in range(levels):
                t = free[rows].double() * ((level + 0.5) / levels)
                seeds = rows + (seed + level * len(ids))
                x_t = corrupted(forward, ids[rows], t, seeds)
                condition = group.condition[:].to(ids.device)[rows]
                total += weighted_nll(predictor, forward, ids[rows], x_t, t, condition) / levels
            totals.append(total)
            counts.append(ids[rows].numel())
    return ratio(torch.stack(totals), torch.tensor(counts))


def held_out(text_model: Model, groups: list[Group], *, process: str, levels: int) -> dict[str, float]:
    """The bound of `process` over `groups` where it has one, else its loss; each with its standard error."""
    for name, measure in (("bound", bound_on), ("loss", loss_on)):
        try:
            value, error = measure(text_model, groups, process=process, levels=levels)
        except NotImplementedError:  # what a process without a bound says of it
            continue
        return {name: value, "standard_error": error}
    return {}


class DiffusionTrainer(Trainer):
    """Trainer whose micro-batches come corrupted, in an order that only the recipe decides."""

    loss_is_scaled_for_ga = True  # every piece is divided by the free positions of the whole step

    def __init__(
        self,
        text_model: Model,
        recipe: Recipe,
        batches: MicroBatches,
        validation: list[Group],
        log: Log,
        previews: Callable[[Any, list[Group], int], None],
        data: str,
    ):
        """`data` is the fingerprint of what is learnt from, which a checkpoint carries."""
        args = arguments(recipe, batches.pieces // processes())
        text_model = text_model.to(args.device)
        self.text_model, self.recipe = text_model, recipe
        slots, pad = text_model.prefix, text_model.pad_id
        bare = [replace(g, condition=unsaid(g.condition, slots, recipe.conditioned, pad)) for g in validation]
        self.validation = {"": bare} | ({"_told": validation} if recipe.conditioned else {})
        self.report, self.previews, self.data = log, previews, data
        decay = recipe.optimizer.ema
        self.ema = AveragedModel(text_model.model, multi_avg_fn=averaging(decay)) if decay else None
        if recipe.run.compile:  # all widths by one code; the averaged weights are another network
            network: Any = text_model.model
            network.base_model.compile(dynamic=True)
        self.seconds = 0.0  # of training, over all starts
        self.tokens = 0
        self.finite = torch.ones((), dtype=torch.bool, device=args.device)  # all losses so far
        self.keeper = Keeper(self)
        Trainer.__init__(
            self,
            model=Denoiser(text_model, keyed=not recipe.run.compile),
            args=args,
            train_dataset=batches,
            data_collator=lambda items: items[0],
            callbacks=[self.keeper],
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def averaged(self) -> Model:
        """The model with its averaged weights, ready to be evaluated."""
        network = self.text_model.model if self.ema is None else self.ema.module
        return self.text_model.with_network(network.eval())

    # -- what Trainer asks for ----------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = model(**inputs) * self.args.world_size  # data parallelism averages; the pieces are to be added up
        self.finite &= loss.detach().isfinite()
        self.tokens += inputs["x0"].numel() * self.args.world_size
        return (loss, {}) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            dtype = torch.bfloat16 if self.recipe.run.bf16 else torch.float32
            self.optimizer = build(self.text_model.model, self.recipe.optimizer, dtype)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            o, steps = self.recipe.optimizer, self.recipe.run.steps
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.create_optimizer(), lambda step: rate(step, steps, o.warmup, o.decay)
            )
        return self.lr_scheduler

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """What `held_out` gives for each process, with the averaged weights; "_told" marks texts with their conditions."""
        model = self.averaged()
        metrics: dict[str, float] = {}
        for process in self.text_model.processes:
            for name, groups in self.validation.items():
                measured = held_out(model, groups, process=process, levels=self.recipe.run.eval_levels)
                metrics |= {f"eval_{process}{name}_{what}": value for what, value in measured.items()}
        self.log(metrics)
        if self.args.should_save:
            self.previews(model, self.validation[""], self.state.global_step)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if not self.args.should_save:
            return
        step, run = self.state.global_step, self.recipe.folder
        rate_state = self.lr_scheduler.state_dict()  # type: ignore[union-attr]
        rate_state.pop("lr_lambdas", None)
        state = {"optimizer": self.optimizer.state_dict(), "rate": rate_state}  # type: ignore[union-attr]
        if self.ema is not None:
            state["averaged"] = {key: value.clone() for key, value in self.ema.state_dict().items()}
        tensors, rest = flatten(state)
        weights = [*self.text_model.model.state_dict().values(), *tensors.values()]
        if not all(bool(tensor.isfinite().all()) for tensor in weights):
            raise diverged("weights are not finite after", step, self.recipe)
        about = {"step": step, "seconds": self.seconds, "tokens": self.tokens, "data": self.data}
        with checkpoints.writing(run, step, about, keep=self.recipe.run.keep) as folder:
            self.text_model.save_pretrained(folder)
            save_file(tensors, folder / "training.safetensors")
            (folder / "training.json").write_text(json.dumps(rest), encoding="utf-8")
            (folder / "recipe.yaml").write_text(to_yaml(self.recipe), encoding="utf-8")
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        network: Any = self.text_model.model
        weights = load_file(
            next(Path(resume_from_checkpoint).glob("*model.safetensors"))
        )  # diffusers puts another word before it
        tied = set(network.state_dict()) - set(weights)  # safetensors keeps one of each tied pair
        try:
            missing, unexpected = network.load_state_dict(weights, strict=False)
        except RuntimeError as error:  # shapes
            missing, unexpected = [], [str(error)]
        if unexpected or set(missing) - tied:
            raise AskedError(
                f"checkpoint {resume_from_checkpoint} is of another network or vocabulary; pass --fresh or out=OTHER"
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        tree = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        state = unflatten(load_file(folder / "training.safetensors"), tree)
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[union-attr]
        lambdas = [None] * len(self.optimizer.param_groups)  # type: ignore[union-attr]
        self.lr_scheduler.load_state_dict(state["rate"] | {"lr_lambdas": lambdas})  # type: ignore[union-attr]
        if self.ema is not None:
            self.ema.load_state_dict(state["averaged"])
        about = checkpoints.about(folder)
        self.seconds, self.tokens = about["seconds"], about["tokens"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: there is none."""


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

    def __init__(self, trainer: DiffusionTrainer):
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
        control.should_log |= control.should_save  # the log's averages begin anew where a run may be resumed

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.monotonic()  # neither evaluation nor saving is training time

    on_save = on_evaluate

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


def arguments(recipe: Recipe, accumulation: int) -> TrainingArguments:
    """The settings of Trainer, as far as the recipe decides them, with so many pieces of a step for each process."""
    run = recipe.run
    return TrainingArguments(
        output_dir=str(recipe.folder),
        max_steps=run.steps,
        per_device_train_batch_size=1,  # one micro-batch, corrupted already
        gradient_accumulation_steps=accumulation,
        max_grad_norm=recipe.optimizer.clip,
        bf16=run.bf16,
        seed=run.seed,
        logging_steps=run.log_every,
        save_strategy="steps",
        save_steps=run.save_every,
        eval_strategy="no",  # Keeper asks for it: the held-out texts are not a Trainer dataset
        report_to=run.report_to,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        disable_tqdm=True,
        logging_nan_inf_filter=False,
    )
