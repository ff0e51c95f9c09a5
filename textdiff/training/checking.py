"""Whether the values of a recipe can be, each and together; RecipeError says which cannot, what was expected, and the way out."""

from __future__ import annotations

import difflib
import importlib.util
import math
import os
from typing import Any

from textdiff.core.errors import RecipeError
from textdiff.core.resolve import attribute
from textdiff.networks.images import Diffusion
from textdiff.processes import PROCESSES, TEXTS, of_data
from textdiff.training.sections import KINDS, Model, Recipe, Tokenizer

STARTS = ("plain", "statistics")  # model.init without a model
CHOICES: dict[str, tuple[Any, ...]] = {
    "data.kind": tuple(KINDS),
    "data.channels": (1, 3),
    "tokenizer.kind": ("characters", "sentencepiece", "pretrained"),
    "optimizer.name": ("adamw", "muon"),
    "run.report_to": ("none", "tensorboard", "wandb", "mlflow"),
}

MANY = 10**9  # of steps, texts, tokens: what is more was not meant
RANGES = {  # low ≤ value < high
    "data.length": (1, MANY),
    "data.holdout": (0, 1),
    "data.limit": (1, MANY),
    "data.size": (1, MANY),
    "data.steps": (1, MANY),
    "data.unknown": (0, 1 + 1e-9),
    "model.factor": (1e-9, math.inf),
    "model.self_conditioning": (0, 1 + 1e-9),
    "tokenizer.min_count": (1, MANY),
    "tokenizer.size": (1, MANY),
    **{
        f"optimizer.{key}": (0, math.inf) for key in ("lr", "muon_lr", "embedding_lr", "weight_decay", "clip", "warmup")
    },
    "optimizer.betas": (0, 1),
    "optimizer.decay": (0, 1 + 1e-9),
    "optimizer.ema": (0, 1),
    **{f"run.{key}": (1, MANY) for key in ("steps", "batch", "accumulation", "eval_every", "eval_texts")},
    **{f"run.{key}": (1, MANY) for key in ("eval_levels", "save_every", "keep", "log_every")},
    "run.patience": (1, MANY),
    "model.lora": (1, 1 << 16),
    "run.seed": (0, 1 << 32),
    "run.previews": (0, MANY),
    "diffusion.factor": (1e-9, math.inf),
    "diffusion.sigma": (0, math.inf),
    "diffusion.holes": (0, 1 + 1e-9),
    "diffusion.power": (1, 3),
    "run.minutes": (0, math.inf),
}


def check(recipe: Recipe) -> None:
    from textdiff.core.schedules import SCHEDULES
    from textdiff.training.data import CONDITIONS

    for path, choices in CHOICES.items():
        section, key = path.split(".")
        value = getattr(getattr(recipe, section), key)
        if value not in choices:
            raise RecipeError(f"{path} is {value!r}; expected one of {', '.join(map(str, choices))}")
    for name, share in recipe.processes.items():
        if name not in PROCESSES:
            near = difflib.get_close_matches(name, PROCESSES, n=1)
            raise RecipeError(f"unknown process {name!r}; did you mean {(near or list(PROCESSES))[0]!r}?")
        if not 0 <= share < math.inf:
            raise RecipeError(f"processes.{name} is {share}; a share is a number of at least 0")
    for name, share in recipe.conditions.items():
        if name not in CONDITIONS:
            near = difflib.get_close_matches(name, CONDITIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CONDITIONS)}"
            raise RecipeError(f"unknown condition {name!r}; {hint}")
        if not 0 <= share <= 1:
            raise RecipeError(f"conditions.{name} is {share}; it is a share of the steps, from 0 to 1")
    for name in recipe.conditions:
        if name not in recipe.kind.conditions:
            raise RecipeError(
                f"conditions.{name} does not go with data.kind {recipe.data.kind}: title and dynasty are for data.kind poems, "
                f"label for images; leave it out"
            )
    if sum(recipe.processes.values()) <= 0:
        raise RecipeError("no process has a share above 0; write for example processes: {mask: 1.0}")
    for path, (low, high) in RANGES.items():
        section, key = path.split(".")
        value = getattr(getattr(recipe, section), key)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not low <= number < high:
                below = f" and below {high:g}" if high < math.inf else ""
                raise RecipeError(f"{path} is {value}; it must be at least {low:g}{below}")
    if recipe.model.schedule not in (None, *SCHEDULES):
        raise RecipeError(f"model.schedule is {recipe.model.schedule!r}; expected one of {', '.join(SCHEDULES)}")
    if not 0 <= recipe.from_nothing <= 1:
        raise RecipeError(f"from_nothing is {recipe.from_nothing}; it is a share of the examples, from 0 to 1")
    run = recipe.run
    if run.accumulation is not None and run.batch % run.accumulation:
        raise RecipeError(f"run.batch is {run.batch}, which {run.accumulation} pieces (run.accumulation) do not divide")
    for path, value in (("data.train", recipe.data.train), ("model.init", recipe.model.init), ("name", recipe.name)):
        if not value.strip():
            raise RecipeError(f"{path} is empty; name something, or leave the key out")
    if run.report_to != "none" and importlib.util.find_spec(run.report_to) is None:
        raise RecipeError(
            f"run.report_to is {run.report_to!r}, which is not installed; install it with "
            f"pip install 'textdiff[{run.report_to}]', or leave run.report_to out (log.jsonl has the same figures)"
        )
    if run.recompute and run.compile:
        raise RecipeError(
            "run.recompute does not go with run.compile, which chooses itself what is kept; leave one of them out"
        )
    if run.shard:
        check_divisible(recipe)
    attribute(recipe.kind.check)(recipe)


def check_divisible(recipe: Recipe) -> None:
    """RecipeError where the network of a recipe cannot be divided among processes, as run.shard or FSDP ask."""
    for name in recipe.processes:
        if PROCESSES[name].encodes:
            raise RecipeError(
                f"run.shard divides the embeddings, which process {name} needs whole; leave run.shard out, and start without FSDP"
            )
    if recipe.model.lora is not None:
        raise RecipeError(
            "run.shard does not go with model.lora, whose state is small; leave one of them out, and start without FSDP"
        )
    if recipe.run.compile:
        raise RecipeError("run.shard does not go with run.compile; leave one of them out, and start without FSDP")


def _check_lora(model: Model) -> None:
    if not model.pretrained and (model.init in STARTS or model.config):
        raise RecipeError(
            "model.lora trains adapters beside weights that stay, and this network is built anew; name the model to start from "
            "by model.init or model.pretrained and leave out model.config, or leave out model.lora"
        )
    if importlib.util.find_spec("peft") is None:
        raise RecipeError(
            "model.lora needs peft; install it with pip install 'textdiff[lora]', or leave model.lora out"
        )


def check_texts(recipe: Recipe) -> None:
    if recipe.model.type == "unet" or recipe.diffusion != Diffusion():
        raise RecipeError("model.type unet and the section diffusion are for images; write data: {kind: images}")
    for name in recipe.processes:
        if name in of_data("values"):
            raise RecipeError(
                f"process {name} is of images, and data.kind is {recipe.data.kind}; texts take {', '.join(TEXTS)}"
            )
    tokenizer, model = recipe.tokenizer, recipe.model
    if model.repeats and all(PROCESSES[name].encodes for name in recipe.processes):
        raise RecipeError(
            f"model.repeats is of tokens that stand, and process {next(iter(recipe.processes))} shows none; leave it out"
        )
    if tokenizer.kind == "sentencepiece" and recipe.kind.formed:
        raise RecipeError(
            "tokenizer.kind sentencepiece does not go with data.kind poems: the poems of a form need equally many tokens; "
            "write tokenizer: {kind: characters}, or data.kind=windows"
        )
    if tokenizer.path is not None and tokenizer.kind == "characters":
        raise RecipeError(
            "tokenizer.path is given, but a tokenizer of kind characters is made of the texts; leave it out, or write "
            "tokenizer.kind=pretrained"
        )
    if tokenizer.path is not None and not os.path.exists(os.path.expanduser(tokenizer.path)):
        raise RecipeError(
            f"tokenizer.path is {tokenizer.path!r}, and there is no such file or folder; name a saved tokenizer"
        )
    if tokenizer.kind == "pretrained" and not (tokenizer.path or model.pretrained or model.init not in STARTS):
        raise RecipeError(
            "tokenizer.kind is 'pretrained', but none of tokenizer.path, model.pretrained and model.init names one"
        )
    if model.init not in STARTS and model.init != "packaged" and not os.path.isdir(os.path.expanduser(model.init)):
        raise RecipeError(
            f"model.init is {model.init!r}; expected one of plain, statistics, packaged, or the folder of a model"
        )
    if model.lora is not None:
        _check_lora(model)
    if model.pretrained and (tokenizer.kind != "pretrained" or tokenizer.path):
        raise RecipeError(
            "model.pretrained brings its own tokenizer; write tokenizer: {kind: pretrained}, without a path"
        )
    if model.pretrained and (model.config or model.init != "plain"):
        raise RecipeError(
            "model.pretrained brings its configuration and weights; leave out model.config and model.init"
        )


def check_pairs(recipe: Recipe) -> None:
    for section, plain in (("model", Model()), ("diffusion", Diffusion()), ("tokenizer", Tokenizer())):
        if getattr(recipe, section) != plain:
            raise RecipeError(
                f"pairs are drawn from the model of data.train, which goes on as it is; leave out {section}"
            )
    if recipe.data.validation:
        raise RecipeError("of the pairs a share is held out; leave out data.validation")
    if recipe.optimizer.name != "adamw" or recipe.run.compile:
        raise RecipeError(
            "convolutions are trained by adamw, and not compiled; leave out optimizer.name and run.compile"
        )


def check_images(recipe: Recipe) -> None:
    from textdiff.core.schedules import SCHEDULES
    from textdiff.networks.denoiser import OUTPUTS
    from textdiff.processes.degradations import get_degradation
    from textdiff.processes.gaussian import WEIGHTINGS

    diffusion, (process, *others) = recipe.diffusion, recipe.processes
    if others or process not in of_data("values"):
        raise RecipeError(
            f"processes is {', '.join(recipe.processes)}; images take one of {', '.join(of_data('values'))}"
        )
    anew = not recipe.model.pretrained and recipe.model.init == "plain" and recipe.model.lora is None
    if recipe.model.type != "unet" or not anew:
        raise RecipeError("a network of images is built from its configuration; write model: {type: unet, config: {…}}")
    if recipe.model.repeats:
        raise RecipeError("model.repeats is of tokens that come again, and images have none; leave it out")
    if recipe.tokenizer != Tokenizer() or recipe.data.validation:
        raise RecipeError("images have no tokenizer, and their validation part is cut from them; leave both out")
    if recipe.optimizer.name != "adamw" or recipe.run.compile:
        raise RecipeError(
            "convolutions are trained by adamw, and not compiled; leave out optimizer.name and run.compile"
        )
    for name, value, known in (
        ("schedule", diffusion.schedule, SCHEDULES),
        ("output", diffusion.output, OUTPUTS),
        ("weighting", diffusion.weighting, WEIGHTINGS),
    ):
        if value not in known:
            raise RecipeError(f"diffusion.{name} is {value!r}; expected one of {', '.join(known)}")
    entry = PROCESSES[process]
    if entry.degrades and not diffusion.degradation:
        raise RecipeError(
            f"process {process} degrades images, and no degradation is named; write "
            f"diffusion: {{degradation: {{name: blur}}, output: data}}"
        )
    if diffusion.degradation and not entry.degrades:
        raise RecipeError(f"diffusion.degradation is given, but process {process} degrades nothing; leave it out")
    if not entry.scheduled and diffusion.output != "data":
        raise RecipeError(
            f"diffusion.output is {diffusion.output!r}, which a schedule turns into data, and process {process} has none; "
            f"write diffusion: {{output: data}}"
        )
    if diffusion.degradation:
        try:
            get_degradation(diffusion.degradation)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"diffusion.degradation: {error}") from error
