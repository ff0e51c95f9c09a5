"""Generated images beside real ones: the figures of `images` for a model of images, in a form that JSON can hold.

`image_view` shows the figures as a table and as a picture.

    headline    images that the model makes by default: fidelity, coverage, distances, copies
    ladder      the same figures for samplers and numbers of steps T; the bound of T steps in bits per dimension, with and
                without analytic variance, and with a law over the values that an image can have (`shaping.bins`)
    restoring   for models of cold diffusion: the error of restored images over the number of steps, naive and improved

The report compares generated images with the held-out ones (validation and test).  Fréchet distances are to random lists of
all real images, and stand beside the distances of other real images, equally many, to the same lists.  Images that took long
to draw can be stored in a folder, under a name that changes with the weights: the same command then goes on where it was
stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from textdiff.core.contracts import Predictor, Query
from textdiff.core.errors import AskedError
from textdiff.core.likelihood import bits_per_dimension, nelbo
from textdiff.core.predictions import Normal, ValuePredictor
from textdiff.core.resolve import unknown
from textdiff.core.rng import example_seed
from textdiff.data.image_data import Images
from textdiff.measure import intervals
from textdiff.measure.images import REPEATS, Ground, chosen, fidelity, frechet
from textdiff.networks.images import ImageModel
from textdiff.pipeline.images import ImagePipeline
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS
from textdiff.shaping.analytic import NoisePower, analytic, noise_power, posterior_deviation
from textdiff.shaping.bins import in_bins

N = 500
STEPS = (5, 10, 20, 50, 100, 1000)
# a name in the report: (sampler, whether the variance is analytic)
ALIASES = {"ddim": ("improved", False), "ddpm": ("ddpm", False), "analytic": ("ddpm", True)}
USUAL = ("ddim", "ddpm", "analytic", "heun")
RESTORING = (1, 2, 5, 10, 20, 50)
FROM = (0.5, 1.0)  # the levels from which images are restored
EVALUATIONS = 100_000  # of a bound, which needs every step of the chain: a long chain gets fewer images
MEMORY = 2048  # predictions that a bound remembers at a time, or those of one image where that has more steps
PLAIN = "ddpm"  # the variance with which the others are compared
MOST_BINS = 64  # a law over bins has one number for each bin and each value of an image
_TABLE = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, *(k / 20 for k in range(2, 20)), 0.98, 0.995]

Log = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Shelf:
    """Stores tensors between runs, in `folder` or not at all; `mark` is a hash of what the tensors depend on."""

    folder: Path | None
    mark: str

    @classmethod
    def of(cls, folder: str | Path | None, model: ImageModel, *more: object) -> Shelf:
        if folder is None:
            return cls(None, "")
        Path(folder).mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(repr((model.diffusion, model.processes, more)).encode())
        for name, value in sorted(model.model.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return cls(Path(folder), digest.hexdigest()[:12])

    def get(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors stored under this name; where there are none, those that `make` gives, which are stored then."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}-{self.mark}.safetensors"
        if path.exists():
            return load_file(path)
        tensors = {key: value.contiguous() for key, value in make().items()}
        new = path.with_suffix(".new")
        save_file(tensors, new)
        new.replace(path)
        return tensors


# -- a model of images ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """The settings of a report."""

    n: int = N
    steps: tuple[int, ...] = STEPS
    samplers: tuple[str, ...] = USUAL[:3]
    guidance: float = 1.0
    seed: int = 0
    evaluations: int = EVALUATIONS
    repeats: int = REPEATS
    batch: int = 250
    epochs: int = 30  # of the classifier

    def __post_init__(self) -> None:
        for name in ("n", "evaluations", "repeats", "batch", "epochs"):
            if getattr(self, name) < (2 if name == "n" else 1):
                raise AskedError(f"{name} is {getattr(self, name)}; it must be at least {2 if name == 'n' else 1}")
        if not self.steps or min(self.steps) < 1:
            raise AskedError(f"steps are {self.steps}; pass numbers of at least 1, such as 5,10,20,50")
        for name in self.samplers:
            if name not in {**ALIASES, **SAMPLERS}:
                raise unknown("sampler", name, [*ALIASES, *SAMPLERS])

    def quick(self) -> Settings:
        """The settings of a small report: fewer images, no more than 20 steps."""
        few = tuple(k for k in self.steps if k <= 20) or (10,)
        return replace(self, n=min(self.n, 100), steps=few, evaluations=10_000, repeats=4, epochs=12)


def report(
    model: ImageModel,
    data: Images,
    settings: Settings | None = None,
    *,
    keep: str | Path | None = None,
    log: Log = lambda line: None,
) -> dict[str, Any]:
    """The figures of a model by name, for JSON; `keep` is a folder that stores drawn images, `log` gets lines of progress."""
    settings = settings or Settings()
    entry = PROCESSES[model.processes[0]]
    parts = [headline] + [ladder] * entry.scheduled + [restoring] * entry.degrades
    _fits(model, data)
    if ladder in parts:
        _serve(model, settings.samplers)
    log("training a classifier on real images")
    ground = Ground.of(data, seed=settings.seed, epochs=settings.epochs)
    accuracy = ground.accuracy()
    figures: dict[str, Any] = {
        "model": model.name,
        "process": model.processes[0],
        "images": {"train": len(ground.train.x), "held_out": len(ground.held_out.x)},
        "classifier": None if accuracy is None else accuracy._asdict(),
    }
    shelf = Shelf.of(keep, model, settings.seed, settings.guidance)
    for part in parts:
        figures |= part(model, ground, settings, shelf, log)
    return figures


def headline(model: ImageModel, ground: Ground, settings: Settings, shelf: Shelf, log: Log) -> dict[str, Any]:
    """The figures of images that the model makes by default, with labels and without."""
    result: dict[str, Any] = {}
    balanced = _labels(model, settings.n)
    for name, labels in {"conditional": balanced, "unconditional": None}.items():
        if name == "conditional" and balanced is None:
            continue
        log(f"{settings.n} {name} images")
        images = _drawn(model, settings, shelf, f"{name}-{settings.n}", labels, {})["images"]
        result[name] = ground.judge(images, labels, settings.repeats)
    return result


def ladder(model: ImageModel, ground: Ground, settings: Settings, shelf: Shelf, log: Log) -> dict[str, Any]:
    """The figures of samplers over numbers of steps, and the bounds of these numbers of steps and of the model's own."""
    table = _table(model, ground, settings, shelf, log)
    labels = _labels(model, settings.n)
    rows = []
    for steps in settings.steps:
        for name in settings.samplers:
            log(f"{name}, {steps} steps, {settings.n} images")
            sampler, is_analytic = ALIASES.get(name, (name, False))
            options: dict[str, Any] = {"sampler": sampler, "sampler_options": {}, "steps": steps}
            if is_analytic:
                options["shape"] = lambda predictor, steps=steps: analytic(
                    predictor, table, model.schedule, last=1 / steps
                )
            drawn = _drawn(model, settings, shelf, f"{name}-{steps}-{settings.n}", labels, options)
            judged = ground.judge(drawn["images"], labels, settings.repeats)
            evaluations = drawn["forwards"].double().mean().item()
            rows.append({"sampler": name, "steps": steps, "evaluations": evaluations, **judged})
    model_steps = model.process(model.processes[0]).bound_steps(torch.ones(1)).long().item()
    bounds = [
        _bounds(model, ground, settings, shelf, log, table, int(steps))
        for steps in sorted({*settings.steps, int(model_steps)})
    ]
    return {"ladder": rows, "bounds": bounds}


def _bounds(
    model: ImageModel, ground: Ground, settings: Settings, shelf: Shelf, log: Log, table: NoisePower, steps: int
) -> dict[str, Any]:
    """Bits per dimension of the held-out images by the chain of `steps` steps, with DDPM's variance and with analytic ones."""
    log(f"bound of {steps} steps")
    process: Any = replace(model.process(model.processes[0]), steps=steps)  # type: ignore[type-var]
    x0 = ground.held_out.x[: max(settings.evaluations // steps, 2)].to(model.device)
    free = torch.ones(len(x0), 1, *x0.shape[2:], dtype=torch.bool, device=x0.device)
    seeds = torch.tensor([example_seed(settings.seed, k) for k in range(len(x0))], device=x0.device)
    condition = _condition(model, ground.held_out)[: len(x0)]

    def bits(predictor: Predictor, rows: Tensor) -> Tensor:
        with torch.inference_mode():
            nats = nelbo(
                x0[rows],
                free[rows],
                predictor=predictor,
                process=process,
                seeds=seeds[rows],
                condition=condition[rows],
                rows=256,
            )
        return bits_per_dimension(nats, x0[rows]).cpu()

    def make() -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {}
        for rows in torch.arange(len(x0), device=x0.device).split(max(MEMORY // steps, 1)):
            for name, predictor in _variances(model, table).items():
                parts.setdefault(name, []).append(bits(predictor, rows))
        return {name: torch.cat(part) for name, part in parts.items()}

    bounds = shelf.get(f"bounds-{steps}-{len(x0)}", make)
    gains = {f"gain_{name}": bounds[PLAIN] - value for name, value in bounds.items() if name != PLAIN}
    figures = {name: intervals.mean(value)._asdict() for name, value in (bounds | gains).items()}
    return {"steps": steps, "images": len(x0)} | figures


def _variances(model: ImageModel, table: NoisePower) -> dict[str, ValuePredictor]:
    """The predictors of the bounds, by name; they share a memory, so that the network runs once for all of them."""
    plain = _once(model.predictor(model.processes[0]))
    kinds = {
        PLAIN: plain,
        "analytic": analytic(plain, table, model.schedule),
        "analytic_by_error": analytic(plain, table, model.schedule, by="error"),
    }
    if model.bins is not None and (model.bins.high - model.bins.low) / model.bins.width < MOST_BINS:
        kinds["in_bins"] = in_bins(plain, model.bins, posterior_deviation(table, model.schedule, by="error"))
    return kinds


def restoring(model: ImageModel, ground: Ground, settings: Settings, shelf: Shelf, log: Log) -> dict[str, Any]:
    """The figures of held-out images that are degraded to the levels FROM and restored in several numbers of steps.

    The model is conditioned on their labels where it has classes.
    """
    original = ground.held_out.x[: settings.n]
    pipe = ImagePipeline(replace(model, terminal=None))
    labels = None if not model.classes or ground.held_out.labels is None else ground.held_out.labels[: settings.n]
    names = None if labels is None else [model.classes[k] for k in labels.tolist()]
    rows = []
    for level in FROM:
        degraded = pipe.degrade(original.to(model.device), level, settings.seed)
        rows.append(
            {"level": level, "way": "degraded", "steps": 0} | _restored(ground, degraded.cpu(), original, labels)
        )
        for steps in RESTORING:
            for way, sampler in (("naive", "baseline"), ("improved", "improved")):
                log(f"restoring from level {level:g}, {way}, {steps} steps")
                options: dict[str, Any] = {"sampler": sampler, "steps": steps, "seed": settings.seed, "label": names}

                def make(
                    options: dict[str, Any] = options, degraded: Tensor = degraded, level: float = level
                ) -> dict[str, Tensor]:
                    return {
                        "images": pipe.restore(degraded, level=level, batch_size=settings.batch, **options).images.cpu()
                    }

                images = shelf.get(f"restored-{level:g}-{way}-{steps}-{settings.n}", make)["images"]
                judged = _restored(ground, images, original, labels)
                rows.append({"level": level, "way": way, "steps": steps, **judged})
    return {"restoring": rows}


def _restored(ground: Ground, images: Tensor, original: Tensor, labels: Tensor | None) -> dict[str, Any]:
    """Root mean square error per pixel, the mean over images; Fréchet distance to the originals; share of recognised classes."""
    error = (images - original).flatten(1).double().square().mean(1).sqrt()
    figures = {"error": intervals.mean(error)._asdict()}
    if ground.classifier is not None:
        features = [ground.classifier.features(part) for part in (images, original)]
        figures["frechet"] = {"value": frechet(*features)}
        if labels is not None:
            figures["fidelity"] = fidelity(ground.classifier.labels(images), labels)._asdict()
    return figures


# -- parts ----------------------------------------------------------------------------------------------------------------


def _drawn(
    model: ImageModel, settings: Settings, shelf: Shelf, name: str, labels: Tensor | None, options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """{"images", "forwards"} of settings.n images."""
    names = None if labels is None else [model.classes[k] for k in labels.tolist()]
    guidance = 1.0 if labels is None else settings.guidance

    def make() -> dict[str, Tensor]:
        drawn = ImagePipeline(model).generate(
            settings.n, label=names, seed=settings.seed, guidance=guidance, batch_size=settings.batch, **options
        )
        return {"images": drawn.images.float().cpu(), "forwards": drawn.forwards.cpu()}

    return shelf.get(name, make)


def _table(model: ImageModel, ground: Ground, settings: Settings, shelf: Shelf, log: Log) -> NoisePower:
    """The table for analytic variances: that of the model, or one that is estimated from the training images."""
    if model.analytic is not None:
        return model.analytic
    log("analytic variance from the training images")
    some = chosen(ground.train, torch.arange(len(ground.train.x)) < settings.n)
    x0 = some.x.to(model.device)
    seeds = torch.tensor([example_seed(settings.seed, -1, k) for k in range(len(x0))], device=x0.device)

    def make() -> dict[str, Tensor]:
        predictor = model.predictor(model.processes[0])
        estimate = noise_power(predictor, model.schedule, x0, _TABLE, seeds=seeds, condition=_condition(model, some))
        return {key: torch.tensor(value, dtype=torch.float64) for key, value in estimate.to_dict().items()}

    return NoisePower.from_dict({key: value.tolist() for key, value in shelf.get(f"power-{settings.n}", make).items()})


def _once(predictor: ValuePredictor) -> ValuePredictor:
    """`predictor` with a memory: it runs once for the same x_t at the same levels, whatever variance is put on its result."""
    memory: dict[bytes, Normal] = {}

    def predict(query: Query) -> Normal:
        x_t, t = query.x_t, query.t
        digest = hashlib.sha256(b"".join(part.cpu().contiguous().numpy().tobytes() for part in (x_t, t))).digest()
        if digest not in memory:
            memory[digest] = predictor(query)
        return memory[digest]

    return predict


def _labels(model: ImageModel, n: int) -> Tensor | None:
    """One class after the other, (n,); None for a model without classes."""
    return torch.arange(n) % len(model.classes) if model.classes else None


def _condition(model: ImageModel, images: Images) -> Tensor:
    """The condition of real images, (N, 1 or 0)."""
    if not model.classes or images.labels is None:
        return model.condition(len(images.x))
    return model.condition(len(images.x), [model.classes[k] for k in images.labels.tolist()])


def _fits(model: ImageModel, data: Images) -> None:
    if tuple(data.x.shape[1:]) != tuple(model.shape):
        raise AskedError(
            f"the images are {tuple(data.x.shape[1:])}, those of model {model.name} {tuple(model.shape)}; pass the data "
            f"that it was trained on"
        )
    if model.classes and tuple(data.names) != tuple(model.classes):
        raise AskedError(
            f"the data's classes are {', '.join(data.names) or 'none'}, those of model {model.name} "
            f"{', '.join(model.classes)}; pass the data that it was trained on"
        )


def _serve(model: ImageModel, samplers: Sequence[str]) -> None:
    for name in samplers:
        sampler, _ = ALIASES.get(name, (name, False))
        if not SAMPLERS[sampler].serves(model.processes[0]):
            raise AskedError(
                f"sampler {name!r} does not serve {model.processes[0]}, the process of model {model.name}; "
                f"'textdiff samplers' lists what does"
            )


def settings_of(n: int | None, steps: Sequence[int], samplers: Sequence[str], quick: bool, **more: Any) -> Settings:
    """The settings that flags ask for; None and an empty list stand for the default."""
    flags: dict[str, Any] = {"n": n, "steps": tuple(steps) or None, "samplers": tuple(samplers) or None} | more
    settings = Settings(**{key: value for key, value in flags.items() if value is not None})
    return settings.quick() if quick else settings
