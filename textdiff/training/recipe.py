"""A recipe: YAML read into frozen dataclasses, with dotted overrides.

Unknown keys are errors that name the nearest known one.  The recipe names files and numbers only; nothing in it is imported
or executed.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from textdiff.core.errors import RecipeError
from textdiff.networks.images import Diffusion


@dataclass(frozen=True)
class Data:
    """What is learnt from."""

    train: str  # JSON Lines (.jsonl, .jsonl.gz) with the text in `text`, or a text file; images: see image_data.py
    validation: str | None = None  # the same; None holds out a share of train by a hash of the text
    kind: str = "poems"  # poems: a text of one of the forms each; windows: cut `length` tokens at a time; images; pairs
    length: int = 64  # tokens of a window, special ones not counted
    holdout: float = 0.05  # share of train held out where validation is not given
    limit: int | None = None  # use only the first so many texts
    size: int | None = None  # images: pixels a side; None takes what is there
    channels: int = 1  # images: 1 for gray, 3 for colours
    image: str = "image"  # images: that column of a data set
    label: str = "label"  # images: the same
    steps: int = 25  # pairs (reflow.py): of the ODE that draws them, two evaluations each


@dataclass(frozen=True)
class Tokenizer:
    """How text becomes tokens."""

    kind: str = "characters"  # characters, sentencepiece (trained or loaded), pretrained (that of `path`)
    path: str | None = None  # a saved tokenizer, or a sentencepiece .model file
    min_count: int = 1  # characters: rarer ones are unknown
    size: int = 4000  # sentencepiece: entries


@dataclass(frozen=True)
class Model:
    """The network: any masked LM that transformers can build, or for images the UNet2DModel of diffusers."""

    pretrained: str | None = None  # start from this folder or hub id
    type: str = "bert"  # transformers' model type; unet
    config: dict[str, Any] = field(default_factory=dict)  # passed to its configuration
    init: str = (
        "plain"  # plain; statistics: from the co-occurrences of train (see start.py); packaged, or a model folder
    )
    schedule: str | None = None  # of the embedding process; None: that of init, or sqrt
    factor: float | None = None  # of its signal; None: that of init, or 3.6/√(width)
    self_conditioning: float = 0.0  # share of the embedding process's examples that are told a first guess (reading.py)


@dataclass(frozen=True)
class Optimizer:
    """AdamW on everything, or Muon on the matrices inside the network and AdamW on the rest."""

    name: str = "adamw"  # adamw or muon
    lr: float = 1e-3  # of AdamW
    muon_lr: float = 0.02
    embedding_lr: float | None = None  # of the embeddings; None takes lr
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0  # of the gradient's norm; 0 for none
    warmup: int = 100  # steps
    decay: float = 0.3  # share of the steps over which the rate falls to 0 at the end
    ema: float = 0.999  # decay of the averaged weights; 0 for none


@dataclass(frozen=True)
class Run:
    """How long, how much at once, what is written."""

    steps: int = 1000
    batch: int = 64  # texts of one optimiser step, over all devices
    accumulation: int = 1  # pieces that a step's batch is cut into on each device
    seed: int = 0
    bf16: bool = False  # autocast; faster where the CPU or GPU has bfloat16 products
    compile: bool = False  # torch.compile of the network: a slow start, then faster; resumed, the last bits may differ
    eval_every: int = 500
    eval_texts: int = 256
    eval_levels: int = 8
    save_every: int = 500
    keep: int = 2  # checkpoints
    previews: int = 2  # samples shown at each evaluation
    log_every: int = 20
    minutes: float | None = None  # stop (with a checkpoint) after so many minutes of this start
    report_to: str = "none"  # none or tensorboard


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run."""

    data: Data
    name: str = "run"
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    processes: dict[str, float] = field(default_factory=lambda: {"mask": 1.0})  # name -> share of the steps
    conditions: dict[str, float] = field(default_factory=dict)  # title, dynasty, label -> share of the steps told it
    diffusion: Diffusion = field(default_factory=Diffusion)  # what the process of images is built from
    optimizer: Optimizer = Optimizer()
    run: Run = Run()
    defaults: dict[str, Any] = field(default_factory=dict)  # the sampler's, saved with the model
    out: str | None = None  # None: runs/<name>

    @property
    def folder(self) -> Path:
        return Path(self.out or f"runs/{self.name}")

    @property
    def told(self) -> tuple[str, ...]:
        """The conditions that some steps are told."""
        return tuple(name for name, share in self.conditions.items() if share)


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """The recipe of a YAML file with "a.b=c" overrides; RecipeError tells what is wrong and where."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        known = Path("recipes")
        names = sorted(p.name for p in known.glob("*.yaml")) if known.is_dir() else []
        hint = f"; recipes here: {', '.join(names)}" if names else ""
        raise RecipeError(f"recipe {str(path)!r} cannot be read ({error.strerror or error}){hint}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {str(path)!r} is not UTF-8 text ({error.reason})") from error
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {str(path)!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        held = "nothing" if tree is None else type(tree).__name__
        raise RecipeError(f"recipe {str(path)!r} holds {held}; expected keys such as data, model, run")
    for override in overrides or []:
        _override(tree, override)
    tree.setdefault("name", Path(path).stem)
    recipe = _build(Recipe, tree, "")
    _check(recipe)
    return recipe


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every field named; `load` reads it back."""
    tree = dataclasses.asdict(recipe)
    tree["optimizer"]["betas"] = list(tree["optimizer"]["betas"])
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"override {override!r} has no '='; write it as section.key=value, for example run.steps=100")
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"override {override!r}: {section!r} is a value, not a section")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {override!r}: the value is not YAML") from error


def _build(kind: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise RecipeError(f"{where or 'the recipe'} is {tree!r}; expected a section with keys")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    values = {}
    for key, value in tree.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {_path(where, near[0])!r}?" if near else f"known: {', '.join(names)}"
            raise RecipeError(f"unknown key {_path(where, key)!r}; {hint}")
        values[key] = _value(hints[key], value, _path(where, key))
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(
            f"the recipe does not say {_path(where, missing[0])!r}; add it, or pass {_path(where, missing[0])}=…"
        )
    return kind(**values)


def _path(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list) or len(value) != len(arguments):
            raise RecipeError(f"{where} is {value!r}; expected {len(arguments)} numbers in brackets")
        return tuple(_value(a, v, where) for a, v in zip(arguments, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise RecipeError(f"{where} is {value!r}; expected a section with keys")
        return {str(k): _value(arguments[1], v, _path(where, k)) for k, v in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where} is {value!r}; expected {hint.__name__}")
    return value


STARTS = ("plain", "statistics")  # model.init without a model
CHOICES: dict[str, tuple[Any, ...]] = {
    "data.kind": ("poems", "windows", "images", "pairs"),
    "data.channels": (1, 3),
    "tokenizer.kind": ("characters", "sentencepiece", "pretrained"),
    "optimizer.name": ("adamw", "muon"),
    "run.report_to": ("none", "tensorboard"),
}

RANGES = {  # low ≤ value < high
    "data.length": (1, math.inf),
    "data.holdout": (0, 1),
    "data.limit": (1, math.inf),
    "data.size": (1, math.inf),
    "data.steps": (1, math.inf),
    "model.factor": (1e-9, math.inf),
    "model.self_conditioning": (0, 1 + 1e-9),
    "tokenizer.min_count": (1, math.inf),
    "tokenizer.size": (1, math.inf),
    **{
        f"optimizer.{key}": (0, math.inf) for key in ("lr", "muon_lr", "embedding_lr", "weight_decay", "clip", "warmup")
    },
    "optimizer.betas": (0, 1),
    "optimizer.decay": (0, 1 + 1e-9),
    "optimizer.ema": (0, 1),
    **{f"run.{key}": (1, math.inf) for key in ("steps", "batch", "accumulation", "eval_every", "eval_texts")},
    **{f"run.{key}": (1, math.inf) for key in ("eval_levels", "save_every", "keep", "log_every")},
    "run.previews": (0, math.inf),
    "diffusion.factor": (1e-9, math.inf),
    "diffusion.sigma": (0, math.inf),
    "diffusion.holes": (0, 1 + 1e-9),
    "diffusion.power": (1, 3),
    "run.minutes": (0, math.inf),
}


def _check(recipe: Recipe) -> None:
    from textdiff.core.schedules import SCHEDULES
    from textdiff.processes import PROCESSES
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
            raise RecipeError(f"processes.{name} is {share}; shares are at least 0")
    for name, share in recipe.conditions.items():
        if name not in CONDITIONS:
            near = difflib.get_close_matches(name, CONDITIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CONDITIONS)}"
            raise RecipeError(f"unknown condition {name!r}; {hint}")
        if not 0 <= share <= 1:
            raise RecipeError(f"conditions.{name} is {share}; it is a share of the steps, from 0 to 1")
    told_of = {"poems": CONDITIONS[:2], "images": CONDITIONS[2:], "pairs": CONDITIONS[2:]}.get(recipe.data.kind, ())
    for name in recipe.conditions:
        if name not in told_of:
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
    run = recipe.run
    if run.batch % run.accumulation:
        raise RecipeError(f"run.batch is {run.batch}, which {run.accumulation} pieces (run.accumulation) do not divide")
    if recipe.data.kind == "images":
        _check_images(recipe)
        return
    if recipe.data.kind == "pairs":
        _check_pairs(recipe)
        return
    if recipe.model.type == "unet" or recipe.diffusion != Diffusion():
        raise RecipeError("model.type unet and the section diffusion are for images; write data: {kind: images}")
    told, model = recipe.tokenizer, recipe.model
    if told.kind == "pretrained" and not (told.path or model.pretrained or model.init not in STARTS):
        raise RecipeError(
            "tokenizer.kind is 'pretrained', but none of tokenizer.path, model.pretrained and model.init names one"
        )
    if model.init not in STARTS and model.init != "packaged" and not Path(model.init).expanduser().is_dir():
        raise RecipeError(
            f"model.init is {model.init!r}; expected one of plain, statistics, packaged, or the folder of a model"
        )
    if model.pretrained and (told.kind != "pretrained" or told.path):
        raise RecipeError(
            "model.pretrained brings its own tokenizer; write tokenizer: {kind: pretrained}, without a path"
        )
    if model.pretrained and (model.config or model.init != "plain"):
        raise RecipeError(
            "model.pretrained brings its configuration and weights; leave out model.config and model.init"
        )


def _check_pairs(recipe: Recipe) -> None:
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


def _check_images(recipe: Recipe) -> None:
    from textdiff.core.schedules import SCHEDULES
    from textdiff.networks.denoiser import OUTPUTS
    from textdiff.processes import PROCESSES, of_data
    from textdiff.processes.degradations import get_degradation
    from textdiff.processes.gaussian import WEIGHTINGS

    told, (process, *others) = recipe.diffusion, recipe.processes
    if others or process not in of_data("values"):
        raise RecipeError(
            f"processes is {', '.join(recipe.processes)}; images take one of {', '.join(of_data('values'))}"
        )
    if recipe.model.type != "unet" or recipe.model.pretrained or recipe.model.init != "plain":
        raise RecipeError("a network of images is built from its configuration; write model: {type: unet, config: {…}}")
    if recipe.tokenizer != Tokenizer() or recipe.data.validation:
        raise RecipeError("images have no tokenizer, and their validation part is cut from them; leave both out")
    if recipe.optimizer.name != "adamw" or recipe.run.compile:
        raise RecipeError(
            "convolutions are trained by adamw, and not compiled; leave out optimizer.name and run.compile"
        )
    for name, value, known in (
        ("schedule", told.schedule, SCHEDULES),
        ("output", told.output, OUTPUTS),
        ("weighting", told.weighting, WEIGHTINGS),
    ):
        if value not in known:
            raise RecipeError(f"diffusion.{name} is {value!r}; expected one of {', '.join(known)}")
    degrades = PROCESSES[process].degrades
    if degrades != bool(told.degradation) or (degrades and told.output != "data"):
        raise RecipeError(
            "process cold needs diffusion: {degradation: {name: blur}, output: data}, and only cold has a degradation"
        )
    if told.degradation:
        try:
            get_degradation(told.degradation)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"diffusion.degradation: {error}") from error
