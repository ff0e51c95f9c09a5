"""Hugging Face's Trainer around the loss: exact data order, averaged weights, safe and complete checkpoints.

No state of a random generator is kept: corruption and dropout are keyed by the example.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerState, TrainingArguments

from textdiff.core.contracts import Model
from textdiff.core.errors import AskedError
from textdiff.training import checkpoints
from textdiff.training.data import Group, MicroBatches, processes, unsaid
from textdiff.training.devices import shards
from textdiff.training.devices.recompute import recompute
from textdiff.training.loss import Denoiser
from textdiff.training.optimizer import build, flatten, rate, unflatten
from textdiff.training.sections import Recipe, to_yaml
from textdiff.training.texts.adapters import merged
from textdiff.training.watching.best import Best, best
from textdiff.training.watching.held_out import held_out
from textdiff.training.watching.keeper import Keeper, diverged

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


class DiffusionTrainer(Trainer):
    """Trainer whose micro-batches come corrupted, in an order that only the recipe decides."""

    # `compute_loss` divides each piece by the free positions of the whole step, and Trainer must not divide again.  Newer versions
    # of transformers go by this attribute; older ones go by `compute_loss_func` being set, and do not call it.
    loss_is_scaled_for_ga = True

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
        self.sharded = shards.wanted(recipe)
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
        denoiser = Denoiser(text_model, keyed=not recipe.run.compile)
        if self.sharded:
            self.spare = copy.deepcopy(text_model.model).cpu()  # holds the whole network while it is evaluated or saved
            shards.divide(denoiser)
            if self.ema is not None:
                shards.divide_alike(self.ema.module, text_model.model)
        if recipe.run.recompute:
            recompute(denoiser)
        Trainer.__init__(
            self,
            model=denoiser,
            args=args,
            train_dataset=batches,
            data_collator=lambda items: items[0],
            callbacks=[self.keeper],
        )
        self.compute_loss_func = self.compute_loss
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def current(self) -> Model:
        """The model as it is; where it is divided, or has adapters, a whole copy, for which all processes must ask."""
        return self._whole(self.text_model.model)

    def averaged(self) -> Model:
        """The model with its averaged weights, ready to be evaluated; else as `current`."""
        model = self._whole(self.averages())
        model.model.eval()
        return model

    def averages(self) -> Any:
        """The network with averaged weights, as it is trained: divided, or with adapters."""
        return self.text_model.model if self.ema is None else self.ema.module

    def best(self) -> Best | None:
        """The best evaluation so far, whose checkpoint is kept where the recipe has a patience."""
        return best(self.state.log_history, self.recipe.processes)

    def take(self, checkpoint: Path) -> None:
        """Become what the run was at a checkpoint, without training from there."""
        self.create_optimizer()
        self.create_scheduler(self.recipe.run.steps)
        self._load_from_checkpoint(str(checkpoint))
        self._load_optimizer_and_scheduler(str(checkpoint))
        self.state = state_of(checkpoint)

    def _network(self) -> Any:
        """The network that is trained, whose types are those of another library."""
        return self.text_model.model

    def _whole(self, network: Any) -> Model:
        if self.sharded:
            shards.fill(self.spare, network)
            network = self.spare.to(self.args.device)
        model = self.text_model.with_network(network)
        return model if self.recipe.model.lora is None else merged(model)

    # -- what Trainer asks for ----------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Where the network is divided already, only what Trainer takes for a wrapped one: it would wrap it for DDP."""
        return (
            _Divided(model, self.accelerator.autocast) if self.sharded else Trainer._wrap_model(self, model, training)
        )

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
        metrics = self._agreed(metrics)
        self.log(metrics)
        if self.args.should_save:
            self.previews(model, self.validation[""], self.state.global_step)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _agreed(self, figures: dict[str, float]) -> dict[str, float]:
        """The figures of the first process: where all judge by the same ones, all stop at the same step."""
        if self.args.world_size == 1:
            return figures
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.args.device)
        torch.distributed.broadcast(values, 0)
        return dict(zip(figures, values.tolist(), strict=True))

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        leads = self.args.should_save
        if not leads and not self.sharded:
            return
        step, run = self.state.global_step, self.recipe.folder
        rate_state = self.lr_scheduler.state_dict()  # type: ignore[union-attr]
        rate_state.pop("lr_lambdas", None)
        state = {"optimizer": self.optimizer.state_dict(), "rate": rate_state}  # type: ignore[union-attr]
        if self.ema is not None:
            state["averaged"] = {key: value.clone() for key, value in self.ema.state_dict().items()}
        if self.recipe.model.lora is not None:  # the model in a checkpoint has them in its matrices
            state["adapters"] = {name: p.detach() for name, p in self._network().named_parameters() if p.requires_grad}
        tensors, rest = flatten(state)
        raw = self.current()
        if not shards.finite([*raw.model.state_dict().values(), *tensors.values()]):
            raise diverged("weights are not finite after", step, self.recipe)
        about = {"step": step, "seconds": self.seconds, "tokens": self.tokens, "data": self.data}
        if not leads:
            return shards.save(tensors, checkpoints.hidden(run, step))
        best = self.best() if self.recipe.run.patience is not None else None
        with checkpoints.writing(
            run, step, about, keep=self.recipe.run.keep, best=best.step if best else None
        ) as folder:
            raw.save_pretrained(folder)
            (folder / "training.json").write_text(json.dumps(rest), encoding="utf-8")
            (folder / "recipe.yaml").write_text(to_yaml(self.recipe), encoding="utf-8")
            self.state.save_to_json(str(folder / "trainer_state.json"))
            if self.sharded:
                shards.save(tensors, folder)
            else:
                save_file(tensors, folder / shards.WHOLE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.recipe.model.lora is not None:
            return  # they come with the state of the optimiser
        network = self._network()
        weights = load_file(
            next(Path(resume_from_checkpoint).glob("*model.safetensors"))
        )  # diffusers puts another word before it
        own = network.state_dict()
        tied = set(own) - set(weights)  # safetensors keeps one of each tied pair
        weights = {name: shards.like(weight, own.get(name, weight)) for name, weight in weights.items()}
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
        folder, optimizer = Path(checkpoint), unwrapped(self.optimizer)
        owners = shards.owners(optimizer, self.ema.state_dict() if self.ema is not None else {})
        tree = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        state = unflatten(shards.load(folder, owners), tree)
        optimizer.load_state_dict(state["optimizer"])
        lambdas = [None] * len(optimizer.param_groups)
        scheduler: Any = self.lr_scheduler
        scheduler.load_state_dict(state["rate"] | {"lr_lambdas": lambdas})
        # The rate of the next step is that of this recipe: where steps were added, a finished run had ended at 0.
        rates = [
            base * of(scheduler.last_epoch) for base, of in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        scheduler._last_lr = rates
        if "adapters" in state:
            self._network().load_state_dict(state["adapters"], strict=False)
        if self.ema is not None:
            self.ema.load_state_dict(state["averaged"])
        about = checkpoints.about(folder)
        self.seconds, self.tokens = about["seconds"], about["tokens"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: there is none."""


def state_of(checkpoint: Path) -> TrainerState:
    """Trainer's state at a checkpoint: the step, and all figures so far."""
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state


def unwrapped(optimizer: Any) -> Any:
    """The optimiser inside that of accelerate."""
    return getattr(optimizer, "optimizer", optimizer)


class _Divided(torch.nn.Module):
    """A divided module, under the autocast that accelerate would put around it."""

    def __init__(self, module: torch.nn.Module, autocast: Callable[[], Any]):
        torch.nn.Module.__init__(self)
        self.module, self.autocast = module, autocast

    def forward(self, **inputs: Any) -> Any:
        with self.autocast():
            return self.module(**inputs)


def arguments(recipe: Recipe, accumulation: int) -> TrainingArguments:
    """The settings of Trainer, as far as the recipe decides them, with so many pieces of a step for each process."""
    run = recipe.run
    return TrainingArguments(
        output_dir=str(recipe.folder),
        run_name=recipe.name,
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
