"""The sections of a recipe: everything that decides a training run, as frozen dataclasses with their defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from textdiff.networks.images import Diffusion


@dataclass(frozen=True)
class Kind:
    """One kind of data, and what differs with it; the paths are "module:attribute"."""

    summary: str
    conditions: tuple[str, ...]  # slots of the prefix that a step may fill
    check: str  # (recipe) raises RecipeError for what does not go with this kind
    read: str  # (recipe, log) -> (network, what is learnt from, what is held out)
    previews: str  # (recipe, folder, log) -> (model, groups, step), which shows samples
    card: str  # (recipe, plan, seconds, tokens, bounds) -> the model card
    finished: str | None = None  # (averaged model, groups) -> the model that is saved
    known: str | None = (
        None  # (recipe) -> the places that an example sees clean (`data.Known`), or None where it sees none
    )
    started: bool = False  # whether model.init may name a model to start from
    formed: bool = False  # of texts: each is a text of one of the forms, which sets its length


_TEXTS: dict[str, Any] = {
    "started": True,
    "check": "textdiff.training.checking:check_texts",
    "read": "textdiff.training.texts.reading:read",
    "known": "textdiff.training.texts.visible:shown",
    "previews": "textdiff.training.texts.previews:Previews",
    "card": "textdiff.training.texts.previews:card",
}
_IMAGES: dict[str, Any] = {
    "previews": "textdiff.training.images.reading:Previews",
    "card": "textdiff.training.images.reading:card",
}
KINDS: dict[str, Kind] = {
    "poems": Kind("a text of one of the forms each", ("title", "dynasty"), formed=True, **_TEXTS),
    "windows": Kind("running text, cut `length` tokens at a time", (), **_TEXTS),
    "images": Kind(
        "images of one size",
        ("label",),
        check="textdiff.training.checking:check_images",
        read="textdiff.training.images.reading:read",
        finished="textdiff.training.images.reading:finished",
        known="textdiff.training.images.reading:shown",
        **_IMAGES,
    ),
    "pairs": Kind(
        "noise and the image that a flow makes of it (images/reflow.py)",
        ("label",),
        check="textdiff.training.checking:check_pairs",
        read="textdiff.training.images.reflow:read",
        **_IMAGES,
    ),
}


@dataclass(frozen=True)
class Data:
    """What the run learns from, and what it is evaluated on."""

    # Texts as data/records.py reads them: JSON Lines, plain text, csv, Parquet, a folder of `datasets` or a data set of the
    # hub.  Images as data/image_data.py reads them.
    train: str
    validation: str | None = None  # the same; None holds out a share of train by a hash of the text
    kind: str = "poems"  # of KINDS: poems, windows, images, pairs
    column: str = "text"  # the column, or the key of JSON Lines, that the texts stand in
    unknown: float = (
        0.2  # share of the tokens that the tokenizer may not know; where there are more, nothing is trained
    )
    length: int = 64  # tokens of a window, special ones not counted
    holdout: float = 0.05  # share of train held out where validation is not given
    limit: int | None = None  # use only the first so many texts
    size: int | None = None  # images: pixels a side; None takes what is there
    channels: int = 1  # images: 1 for gray, 3 for colours
    image: str = "image"  # images: that column of a data set
    label: str = "label"  # images: the same
    steps: int = 25  # pairs: of the ODE that draws them, two evaluations each


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
    lora: int | None = None  # rank of adapters, which alone are trained (texts/adapters.py)
    init: str = (
        "plain"  # plain; statistics: from the co-occurrences of train (see start.py); packaged, or a model folder
    )
    repeats: bool = False  # whether the network says which tokens come again (networks/masked_lm.py (1))
    schedule: str | None = None  # of the embedding process; None: that of init, or sqrt
    factor: float | None = None  # of its signal; None: that of init, or 3.6/√(width)
    self_conditioning: float = 0.0  # share of the embedding process's examples that come with a first draft (loss.py)


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
    accumulation: int | None = None  # pieces that a step's batch is cut into on each device; None: `planning.pieces_of`
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
    patience: int | None = None  # stop after so many evaluations in a row that are no better; keep the best model
    minutes: float | None = None  # stop (with a checkpoint) after so many minutes of this start
    recompute: bool = False  # compute activations twice instead of keeping them (devices/recompute.py)
    shard: bool = False  # divide the weights and their state among the processes, by FSDP2 (devices/shards.py)
    report_to: str = "none"  # or tensorboard, wandb, mlflow


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run."""

    data: Data
    name: str = "run"
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    processes: dict[str, float] = field(default_factory=lambda: {"mask": 1.0})  # name -> share of the steps
    from_nothing: float = 0.5  # share of the examples of an ordered process that see no part of their text
    conditions: dict[str, float] = field(
        default_factory=dict
    )  # title, dynasty, label -> share of the steps that are given it
    diffusion: Diffusion = field(default_factory=Diffusion)  # what the process of images is built from
    optimizer: Optimizer = Optimizer()
    run: Run = Run()
    defaults: dict[str, Any] = field(default_factory=dict)  # the sampler's, saved with the model
    out: str | None = None  # None means runs/<name>

    @property
    def folder(self) -> Path:
        return Path(self.out or f"runs/{self.name}")

    @property
    def kind(self) -> Kind:
        return KINDS[self.data.kind]

    @property
    def conditioned(self) -> tuple[str, ...]:
        """The conditions that some steps are given."""
        return tuple(name for name, share in self.conditions.items() if share)


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every field named; `load` reads it back."""
    tree = dataclasses.asdict(recipe)
    tree["optimizer"]["betas"] = list(tree["optimizer"]["betas"])
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
