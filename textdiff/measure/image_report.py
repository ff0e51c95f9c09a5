"""Generated images beside real ones: the figures of `images` for a model of images, as JSON holds them.

`image_view` shows them as a table and a picture.

    headline    images as the model makes them by default: fidelity, coverage, distances, copies, bits per dimension
    ladder      the same for samplers and numbers of steps T, and the bound of T steps with and without analytic
                variance, and with a law over the values that there are (`shaping.bins`)
    restoring   models of cold diffusion: the error of what is restored over the number of steps, naive and improved

What is generated is held against the held-out images (validation and test); Fréchet distances are to random lists of all
real images, beside those of other real images to the same lists, which are as long.  Images that took long to draw can be
kept in a folder, under a name that changes with the weights: the same command goes on where it was stopped.
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
CALLED = {
    "ddim": ("improved", False),
    "ddpm": ("ddpm", False),
    "analytic": ("ddpm", True),
}  # sampler, analytic variance
SHOWN = ("ddim", "ddpm", "analytic", "heun")
RESTORING = (1, 2, 5, 10, 20, 50)
FROM = (0.5, 1.0)  # the levels that is restored from
EVALUATIONS = 100_000  # for a bound: every step of the chain counts, so a long chain is taken over fewer images
MEMORY = 2048  # predictions for one image that a bound remembers at a time, or those of one image if it has more steps
PLAIN = "ddpm"  # the variance that the others are compared with
MOST_BINS = 64  # a law over bins has as many numbers for every value of an image
_TABLE = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, *(k / 20 for k in range(2, 20)), 0.98, 0.995]

Log = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Shelf:
    """Tensors that are kept between runs, in `folder` or not at all; `mark` says what they were made of."""

    folder: Path | None
    mark: str

    @classmethod
    def of(cls, folder: str | Path | None, model: ImageModel, *more: object) -> Shelf:
        if folder is None:
            return cls(None, "")
        Path(folder).mkdir(parents=True, exist_ok=True)
        hashed = hashlib.sha256(repr((model.diffusion, model.processes, more)).encode())
        for name, value in sorted(model.model.state_dict().items()):
            hashed.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return cls(Path(folder), hashed.hexdigest()[:12])

    def get(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What stands here under this name, or else what `make` gives, put here for the next time."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}-{self.mark}.safetensors"
        if path.exists():
            return load_file(path)
        made = {key: value.contiguous() for key, value in make().items()}
        new = path.with_suffix(".new")
        save_file(made, new)
        new.replace(path)
        return made


# -- a model of images ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What a report is made of."""

    n: int = N
    steps: tuple[int, ...] = STEPS
    samplers: tuple[str, ...] = SHOWN[:3]
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
            if name not in {**CALLED, **SAMPLERS}:
                raise unknown("sampler", name, [*CALLED, *SAMPLERS])

    def quick(self) -> Settings:
        """A small version: fewer images, no more than 20 steps."""
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
    """The figures of a model by name, as JSON holds them; `keep` is a folder for what was drawn, `log` gets lines of progress."""
    settings = settings or Settings()
    entry = PROCESSES[model.processes[0]]
    parts = [headline] + [ladder] * entry.scheduled + [restoring] * entry.degrades
    _fits(model, data)
    if ladder in parts:
        _serve(model, settings.samplers)
    log("training a classifier on real images")
    ground = Ground.of(data, seed=settings.seed, epochs=settings.epochs)
    accuracy = ground.accuracy()
    found: dict[str, Any] = {
        "model": model.name,
        "process": model.processes[0],
        "images": {"train": len(ground.train.x), "held_out": len(ground.held_out.x)},
        "classifier": None if accuracy is None else accuracy._asdict(),
    }
    shelf = Shelf.of(keep, model, settings.seed, settings.guidance)
    for part in parts:
        found |= part(model, ground, settings, shelf, log)
    return found


def headline(model: ImageModel, ground: Ground, settings: Settings, shelf: Shelf, log: Log) -> dict[str, Any]:
    """Images as the model makes them by default, with labels and without."""
    result: dict[str, Any] = {}
    told = _labels(model, settings.n)
    for name, labels in {"conditional": told, "unconditional": None}.items():
        if name == "conditional" and told is None:
            continue
        log(f"{settings.n} {name} images")
        images = _drawn(model, settings, shelf, f"{name}-{settings.n}", labels, {})["images"]
        result[name] = ground.judge(images, labels, settings.repeats)
    return result


def ladder(model: ImageModel, ground: Ground, settings: Settings, shelf: Shelf, log: Log) -> dict[str, Any]:
    """Samplers over numbers of steps, and the bounds of as many steps; the last one is that of the model's own."""
    table = _table(model, ground, settings, shelf, log)
    told = _labels(model, settings.n)
    rows = []
    for steps in settings.steps:
        for name in settings.samplers:
            log(f"{name}, {steps} steps, {settings.n} images")
            sampler, wide = CALLED.get(name, (name, False))
            how: dict[str, Any] = {"sampler": sampler, "sampler_options": {}, "steps": steps}
            if wide:
                how["shape"] = lambda predictor, steps=steps: analytic(predictor, table, model.schedule, last=1 / steps)
            drawn = _drawn(model, settings, shelf, f"{name}-{steps}-{settings.n}", told, how)
            judged = ground.judge(drawn["images"], told, settings.repeats)
            evaluations = drawn["forwards"].double().mean().item()
            rows.append({"sampler": name, "steps": steps, "evaluations": evaluations, **judged})
    own = model.process(model.processes[0]).bound_steps(torch.ones(1)).long().item()
    bounds = [
        _bounds(model, ground, settings, shelf, log, table, int(steps)) for steps in sorted({*settings.steps, int(own)})
    ]
    return {"ladder": rows, "bounds": bounds}


def _bounds(
    model: ImageModel, ground: Ground, settings: Settings, shelf: Shelf, log: Log, table: NoisePower, steps: int
) -> dict[str, Any]:
    """Bits per dimension of the held-out images by the chain of `steps` steps: DDPM's variance, and analytic ones."""
    log(f"bound of {steps} steps")
    process: Any = replace(model.process(model.processes[0]), steps=steps)  # type: ignore[type-var]
    x0 = ground.held_out.x[: max(settings.evaluations // steps, 2)].to(model.device)
    free = torch.ones(len(x0), 1, *x0.shape[2:], dtype=torch.bool, device=x0.device)
    seeds = torch.tensor([example_seed(settings.seed, k) for k in range(len(x0))], device=x0.device)
    condition = _told(model, ground.held_out)[: len(x0)]

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

    made = shelf.get(f"bounds-{steps}-{len(x0)}", make)
    gains = {f"gain_{name}": made[PLAIN] - value for name, value in made.items() if name != PLAIN}
    found = {name: intervals.mean(value)._asdict() for name, value in (made | gains).items()}
    return {"steps": steps, "images": len(x0)} | found


def _variances(model: ImageModel, table: NoisePower) -> dict[str, Predictor]:
    """The predictors that bounds are taken with, by name; what one of them has computed the others remember."""
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
    """Held-out images, degraded to the levels FROM and restored in several numbers of steps, told their labels if it can be."""
    original = ground.held_out.x[: settings.n]
    pipe = ImagePipeline(replace(model, terminal=None))
    labels = None if not model.classes or ground.held_out.labels is None else ground.held_out.labels[: settings.n]
    told = None if labels is None else [model.classes[k] for k in labels.tolist()]
    rows = []
    for level in FROM:
        degraded = pipe.degrade(original.to(model.device), level, settings.seed)
        rows.append(
            {"level": level, "way": "degraded", "steps": 0} | _restored(ground, degraded.cpu(), original, labels)
        )
        for steps in RESTORING:
            for way, sampler in (("naive", "baseline"), ("improved", "improved")):
                log(f"restoring from level {level:g}, {way}, {steps} steps")
                how: dict[str, Any] = {"sampler": sampler, "steps": steps, "seed": settings.seed, "label": told}

                def make(
                    how: dict[str, Any] = how, degraded: Tensor = degraded, level: float = level
                ) -> dict[str, Tensor]:
                    return {
                        "images": pipe.restore(degraded, level=level, batch_size=settings.batch, **how).images.cpu()
                    }

                images = shelf.get(f"restored-{level:g}-{way}-{steps}-{settings.n}", make)["images"]
                judged = _restored(ground, images, original, labels)
                rows.append({"level": level, "way": way, "steps": steps, **judged})
    return {"restoring": rows}


def _restored(ground: Ground, images: Tensor, original: Tensor, labels: Tensor | None) -> dict[str, Any]:
    """Root mean square error a pixel, averaged over images; the classes still recognised; Fréchet distance to the originals."""
    error = (images - original).flatten(1).double().square().mean(1).sqrt()
    found = {"error": intervals.mean(error)._asdict()}
    if ground.classifier is not None:
        features = [ground.classifier.features(part) for part in (images, original)]
        found["frechet"] = {"value": frechet(*features)}
        if labels is not None:
            found["fidelity"] = fidelity(ground.classifier.labels(images), labels)._asdict()
    return found


# -- parts ----------------------------------------------------------------------------------------------------------------


def _drawn(
    model: ImageModel, settings: Settings, shelf: Shelf, name: str, labels: Tensor | None, how: Mapping[str, Any]
) -> dict[str, Tensor]:
    """{"images", "forwards"} of settings.n images."""
    told = None if labels is None else [model.classes[k] for k in labels.tolist()]
    guidance = 1.0 if labels is None else settings.guidance

    def make() -> dict[str, Tensor]:
        made = ImagePipeline(model).generate(
            settings.n, label=told, seed=settings.seed, guidance=guidance, batch_size=settings.batch, **how
        )
        return {"images": made.images.float().cpu(), "forwards": made.forwards.cpu()}

    return shelf.get(name, make)


def _table(model: ImageModel, ground: Ground, settings: Settings, shelf: Shelf, log: Log) -> NoisePower:
    """What the analytic variances come from: the model's own table, or one that is estimated from the training images."""
    if model.analytic is not None:
        return model.analytic
    log("analytic variance from the training images")
    some = chosen(ground.train, torch.arange(len(ground.train.x)) < settings.n)
    x0 = some.x.to(model.device)
    seeds = torch.tensor([example_seed(settings.seed, -1, k) for k in range(len(x0))], device=x0.device)

    def make() -> dict[str, Tensor]:
        predictor = model.predictor(model.processes[0])
        found = noise_power(predictor, model.schedule, x0, _TABLE, seeds=seeds, condition=_told(model, some))
        return {key: torch.tensor(value, dtype=torch.float64) for key, value in found.to_dict().items()}

    return NoisePower.from_dict({key: value.tolist() for key, value in shelf.get(f"power-{settings.n}", make).items()})


def _once(predictor: Predictor) -> Predictor:
    """`predictor` with a memory: the same x_t at the same levels is the same call, whatever variance is put on top."""
    known: dict[bytes, Any] = {}

    def predict(query: Query) -> Any:
        x_t, t = query.x_t, query.t
        asked = hashlib.sha256(b"".join(part.cpu().contiguous().numpy().tobytes() for part in (x_t, t))).digest()
        if asked not in known:
            known[asked] = predictor(query)
        return known[asked]

    return predict


def _labels(model: ImageModel, n: int) -> Tensor | None:
    """One class after the other, (n,); None for a model that knows none."""
    return torch.arange(n) % len(model.classes) if model.classes else None


def _told(model: ImageModel, images: Images) -> Tensor:
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
        sampler, _ = CALLED.get(name, (name, False))
        if not SAMPLERS[sampler].serves(model.processes[0]):
            raise AskedError(
                f"sampler {name!r} does not serve {model.processes[0]}, the process of model {model.name}; "
                f"'textdiff samplers' lists what does"
            )


def settings_of(n: int | None, steps: Sequence[int], samplers: Sequence[str], quick: bool, **more: Any) -> Settings:
    """Settings from flags; None and an empty list leave the default."""
    flags: dict[str, Any] = {"n": n, "steps": tuple(steps) or None, "samplers": tuple(samplers) or None} | more
    whole = Settings(**{key: value for key, value in flags.items() if value is not None})
    return whole.quick() if quick else whole
