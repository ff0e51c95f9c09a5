"""Generated images beside real ones: the figures of `image_metrics` for a model of images, as a table, JSON and a picture.

    headline    images as the model makes them by default: fidelity, coverage, distances, copies, bits per dimension
    ladder      the same for samplers and numbers of steps T, and the bound of T steps with and without analytic
                variance, and with a law over the values that there are (`predictors.bins`)
    restoring   models of cold diffusion: the error of what is restored over the number of steps, naive and improved

What is generated is held against the held-out images (validation and test); Fréchet distances are to random lists of all
real images, beside those of other real images to the same lists, which are as long.  Images that took long to draw can be
kept in a folder, under a name that changes with the weights: the same command goes on where it was stopped.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from textdiff.core.contracts import Positions, Predictor
from textdiff.core.errors import AskedError
from textdiff.core.likelihood import bits_per_dimension, nelbo
from textdiff.core.resolve import unknown
from textdiff.core.rng import Rng, example_seed
from textdiff.data.image_data import Images
from textdiff.measure import image_metrics
from textdiff.measure.image_metrics import Classifier, Interval
from textdiff.measure.report import PICTURES, plottable
from textdiff.networks.images import ImageModel
from textdiff.pipeline.images import ImagePipeline
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
REPEATS = 10  # random lists of real images for a Fréchet distance
EVALUATIONS = 100_000  # for a bound: every step of the chain counts, so a long chain is taken over fewer images
MOST_BINS = 64  # a law over bins has as many numbers for every value of an image
_TABLE = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, *(k / 20 for k in range(2, 20)), 0.98, 0.995]

Log = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Ground:
    """What every list of generated images is held against."""

    train: Images
    held_out: Images
    everything: Images
    classifier: Classifier | None  # None where the data have no labels
    seed: int

    @classmethod
    def of(cls, data: Images, *, seed: int = 0, epochs: int = 30) -> Ground:
        """From images in three parts: the last two are held out."""
        train, held_out = (_chosen(data, rows) for rows in _apart(data, seed))
        for name, part in (("train", train), ("held-out", held_out)):
            if len(part.x) < 2:
                raise AskedError(f"the data have {len(part.x)} {name} images; pass data with at least 2")
        found = None
        if train.labels is not None:
            found = image_metrics.train_classifier(train.x, train.labels, seed=seed, epochs=epochs)
        return cls(train, held_out, data, found, seed)

    def accuracy(self) -> Interval | None:
        """Of the classifier, on held-out images."""
        if self.classifier is None or self.held_out.labels is None:
            return None
        return image_metrics.fidelity(self.classifier.labels(self.held_out.x), self.held_out.labels)

    def judge(self, images: Tensor, told: Tensor | None, repeats: int = REPEATS) -> dict[str, Any]:
        """Every figure of one list of images (N, C, H, W), `told` (N,) what was asked for."""
        copies = image_metrics.copying(images, self.held_out.x, self.train.x)
        found: dict[str, Any] = {
            "energy": image_metrics.two_sample(images, self.held_out.x, seed=self.seed)._asdict(),
            "energy_real": _energy_real(self, len(images)),
            "copying": copies._asdict() | {"near": copies.near._asdict()},
        }
        if self.classifier is not None:
            labels = self.classifier.labels(images)
            if told is not None:
                found["fidelity"] = image_metrics.fidelity(labels, told)._asdict()
            found["coverage"] = image_metrics.coverage(labels, len(self.everything.names))._asdict()
            found |= self._frechet(self.classifier.features(images), repeats)
        return found

    def _frechet(self, features: Tensor, repeats: int) -> dict[str, Any]:
        """The mean over random lists of real images; its interval is the jackknife's for the first of them."""
        length = min(len(features), len(self.everything.x) // 2)
        features, (pairs, real) = features[:length], _frechet_real(self, length, repeats)
        mean = sum(image_metrics.frechet(features, a) for a, _ in pairs) / repeats
        first = image_metrics.jackknife(image_metrics.frechet, features, pairs[0][0])
        reach = first.value - first.low
        return {
            "frechet": Interval(mean, mean - reach, mean + reach)._asdict(),
            "frechet_real": {"value": sum(real) / repeats, "low": min(real), "high": max(real)},
            "frechet_ratio": mean / (sum(real) / repeats),
            "images": length,
        }


@functools.lru_cache(maxsize=4)
def _energy_real(ground: Ground, n: int) -> dict[str, float]:
    """The distance of n training images to the held-out ones."""
    return image_metrics.two_sample(ground.train.x[:n], ground.held_out.x, seed=ground.seed)._asdict()


@functools.lru_cache(maxsize=4)
def _frechet_real(ground: Ground, length: int, repeats: int) -> tuple[list[tuple[Tensor, Tensor]], list[float]]:
    """Features of random pairs of lists of real images, and the distances of each pair."""
    assert ground.classifier is not None
    real = ground.classifier.features(ground.everything.x)
    pairs = image_metrics.split(real, length, length, repeats=repeats, seed=ground.seed)
    return pairs, [image_metrics.frechet(b, a) for a, b in pairs]


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
        known = [*CALLED, *(name for name, entry in SAMPLERS.items() if "gaussian" in entry.processes)]
        for name in self.samplers:
            if name not in known:
                raise unknown("sampler", name, known)

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
    _fits(model, data)
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
    parts = {"gaussian": (headline, ladder), "cold": (headline, restoring)}
    for part in parts[model.processes[0]]:
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
            how: dict[str, Any] = {"sampler": sampler, "options": {}, "steps": steps}
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
    plain = _once(model.predictor(model.processes[0]))
    kinds = {
        "ddpm": plain,
        "analytic": analytic(plain, table, model.schedule),
        "analytic_by_error": analytic(plain, table, model.schedule, by="error"),
    }
    if model.bins is not None and (model.bins.high - model.bins.low) / model.bins.width < MOST_BINS:
        kinds["in_bins"] = in_bins(plain, model.bins, posterior_deviation(table, model.schedule, by="error"))
    x0 = ground.held_out.x[: max(settings.evaluations // steps, 2)].to(model.device)
    free = torch.ones(len(x0), 1, *x0.shape[2:], dtype=torch.bool, device=x0.device)
    seeds = torch.tensor([example_seed(settings.seed, k) for k in range(len(x0))], device=x0.device)
    condition = _told(model, ground.held_out)[: len(x0)]

    def make(predictor: Predictor) -> dict[str, Tensor]:
        with torch.inference_mode():
            nats = nelbo(x0, free, predictor=predictor, process=process, seeds=seeds, condition=condition, rows=256)
        return {"bits": bits_per_dimension(nats, x0).cpu()}

    bits = {
        name: shelf.get(f"bound-{name}-{steps}-{len(x0)}", functools.partial(make, predictor))["bits"]
        for name, predictor in kinds.items()
    }
    found = {name: image_metrics.mean(value)._asdict() for name, value in bits.items()}
    gains = {
        f"gain_{name}": image_metrics.mean(bits["ddpm"] - bits[name])._asdict() for name in kinds if name != "ddpm"
    }
    return {"steps": steps, "images": len(bits["ddpm"])} | found | gains


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
    found = {"error": image_metrics.mean(error)._asdict()}
    if ground.classifier is not None:
        features = [ground.classifier.features(part) for part in (images, original)]
        found["frechet"] = {"value": image_metrics.frechet(*features)}
        if labels is not None:
            found["fidelity"] = image_metrics.fidelity(ground.classifier.labels(images), labels)._asdict()
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
    some = _chosen(ground.train, torch.arange(len(ground.train.x)) < settings.n)
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

    def predict(
        x_t: Tensor, t: Tensor, *, at: Positions | None = None, condition: Any = None, previous: Tensor | None = None
    ) -> Any:
        asked = hashlib.sha256(b"".join(part.cpu().contiguous().numpy().tobytes() for part in (x_t, t))).digest()
        if asked not in known:
            known[asked] = predictor(x_t, t, at=at, condition=condition, previous=previous)
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


def _apart(data: Images, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training images and of the others, in random order: data often stand in some order of their own."""
    order = Rng([example_seed(seed, len(data.x))], device=data.x.device).uniform(len(data.x))[0].argsort()
    held_out = data.part[order] > 0
    return order[~held_out], order[held_out]


def _chosen(images: Images, keep: Tensor) -> Images:
    labels = None if images.labels is None else images.labels[keep]
    return replace(images, x=images.x[keep], labels=labels, part=images.part[keep])


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


# -- for reading ----------------------------------------------------------------------------------------------------------


def table(found: Mapping[str, Any]) -> str:
    """The figures of `report` for reading."""
    return "\n".join(_lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    counts = found["images"]
    yield f"{found['model']}: beside {counts['held_out']} held-out and {counts['train']} training images; 95 % intervals"
    if found["classifier"]:
        yield f"  classifier      {_cell(found['classifier'])} of the held-out images recognised"
    for name in ("conditional", "unconditional"):
        if name in found:
            yield f"  {name}"
            yield from _headline(found[name])
    if found.get("ladder"):
        yield ""
        yield f"  {'sampler':9} {'steps':>5} {'calls':>5}  {'recognised':20} {'fréchet':21} {'× real':>6}  energy distance, p"
        for row in found["ladder"]:
            share = _cell(row["fidelity"]) if "fidelity" in row else "-"
            apart = _cell(row["frechet"], 2) if "frechet" in row else "-"
            ratio = f"{row['frechet_ratio']:.2f}" if "frechet" in row else "-"
            energy = f"{_cell(row['energy'], 4)}, {row['energy']['p']:.3f}"
            yield (
                f"  {row['sampler']:9} {row['steps']:5} {row['evaluations']:5.0f}  {share:20} {apart:21} {ratio:>6}  {energy}"
            )
    if found.get("bounds"):
        yield ""
        heads = f"{'bits/dimension':>16} {'analytic variance':>20} {'gained':>24} {'by error':>16} {'in bins':>16}"
        yield f"  {'bound of':8} {heads}  images"
        for row in found["bounds"]:
            kinds = ("ddpm", "analytic", "analytic_by_error", "in_bins")
            cells = [_pm(row[name]) if name in row else "-" for name in kinds]
            gained = _cell(row["gain_analytic"], 4)
            own = f"{cells[0]:>16} {cells[1]:>20} {gained:>24} {cells[2]:>16} {cells[3]:>16}"
            yield f"  {row['steps']:8} {own}  {row['images']:6}"
    if found.get("restoring"):
        yield ""
        yield f"  {'from':>5} {'way':9} {'steps':>5}  {'error a pixel':22} {'fréchet':>8}  recognised"
        for row in found["restoring"]:
            apart = f"{row['frechet']['value']:.2f}" if "frechet" in row else "-"
            share = _cell(row["fidelity"]) if "fidelity" in row else "-"
            yield f"  {row['level']:5g} {row['way']:9} {row['steps']:5}  {_cell(row['error']):22} {apart:>8}  {share}"


def _headline(row: Mapping[str, Any]) -> Iterator[str]:
    if "fidelity" in row:
        yield f"    recognised    {_cell(row['fidelity'])} as what was asked for"
    if "coverage" in row:
        shares = row["coverage"]["shares"]
        yield f"    classes       entropy {row['coverage']['entropy']:.4f} of 1, shares {min(shares):.3f} to {max(shares):.3f}"
    if "frechet" in row:
        real = f"{_cell(row['frechet_real'], 2)} real to real"
        yield f"    fréchet       {_cell(row['frechet'], 2)}; {real}; {row['frechet_ratio']:.2f} times"
    ours, theirs = row["energy"], row["energy_real"]
    yield f"    energy        {_cell(ours, 4)}, p {ours['p']:.3f}; {_cell(theirs, 4)}, p {theirs['p']:.3f} real to real"
    copies = row["copying"]
    near = f"{_cell(copies['near'])} nearer than the nearest {image_metrics.NEAR:.0%} of real ones"
    yield f"    nearest train {copies['generated']:.3f}, real {copies['held_out']:.3f} a pixel (medians); {near}"


def _cell(one: Mapping[str, float], digits: int = 3) -> str:
    return f"{one['value']:.{digits}f} [{one['low']:.{digits}f}, {one['high']:.{digits}f}]"


def _pm(one: Mapping[str, float]) -> str:
    return f"{one['value']:.3f} ± {one['high'] - one['value']:.3f}"


def plot(found: Mapping[str, Any], path: str | Path) -> None:
    """The ladder, or what was restored, as a picture; needs matplotlib."""
    figure_class, canvas_class = plottable(path)
    panels: list[Callable[[Any], None]] = []
    if found.get("ladder"):
        panels = [lambda axis: _steps(axis, found, "frechet_ratio"), lambda axis: _steps(axis, found, "energy")]
        panels.append(lambda axis: _bits(axis, found))
    if found.get("restoring"):
        panels = [lambda axis, name=name: _errors(axis, found, name) for name in ("error", "frechet")]  # type: ignore[misc]
    if not panels:
        raise AskedError(f"model {found['model']} has no figures over steps to draw; leave the picture out")
    figure = figure_class(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    canvas_class(figure)
    for axis, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axis)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def _steps(axis: Any, found: Mapping[str, Any], what: str) -> None:
    """A figure over the evaluations of the network, a line a sampler; 1, or 0, is real."""
    names = list(dict.fromkeys(row["sampler"] for row in found["ladder"]))
    for k, name in enumerate(names):
        rows = [row for row in found["ladder"] if row["sampler"] == name and what in row]
        x = [row["evaluations"] * 1.05 ** (k - len(names) / 2 + 0.5) for row in rows]  # beside one another
        if what == "frechet_ratio":
            axis.plot(x, [row[what] for row in rows], "o-", ms=3, color=f"C{k}", label=name)
        else:
            value = [row[what]["value"] for row in rows]
            reach = [[row[what]["value"] - row[what]["low"] for row in rows]]
            reach.append([row[what]["high"] - row[what]["value"] for row in rows])
            axis.errorbar(x, value, reach, fmt="o-", ms=3, capsize=2, color=f"C{k}", label=name)
    _axis(axis, [row["evaluations"] for row in found["ladder"]], "evaluations of the network")
    if what == "frechet_ratio":
        axis.axhline(1, color="0.6", lw=1)
        axis.set_ylim(bottom=0)
        axis.set_title("Fréchet distance, times real to real", fontsize=9)
    else:
        real = found["ladder"][0]["energy_real"]
        axis.axhspan(real["low"], real["high"], color="0.85", label="real to real")
        axis.set_title("energy distance to held-out images", fontsize=9)


def _bits(axis: Any, found: Mapping[str, Any]) -> None:
    x = [row["steps"] for row in found["bounds"]]
    for name, label in (("ddpm", "DDPM variance"), ("analytic", "analytic variance"), ("in_bins", "law over the bins")):
        if name in found["bounds"][0]:
            axis.plot(x, [row[name]["value"] for row in found["bounds"]], "o-", ms=3, label=label)
    _axis(axis, x, "steps of the bound")
    axis.set_title("bits per dimension, held-out images", fontsize=9)


def _errors(axis: Any, found: Mapping[str, Any], what: str) -> None:
    rows = [row for row in found["restoring"] if what in row]
    for k, level in enumerate(dict.fromkeys(row["level"] for row in rows)):
        for way, line in (("naive", "o--"), ("improved", "o-")):
            part = [row for row in rows if row["level"] == level and row["way"] == way]
            label = f"{way}, from level {level:g}"
            axis.plot(
                [r["steps"] for r in part], [r[what]["value"] for r in part], line, ms=3, color=f"C{k}", label=label
            )
    _axis(axis, [row["steps"] for row in rows if row["steps"]], "steps")
    axis.set_title({"error": "error a pixel", "frechet": "Fréchet distance to the originals"}[what], fontsize=9)


def _axis(axis: Any, x: Sequence[float], name: str) -> None:
    """Logarithmic, with the numbers that occur."""
    axis.set_xscale("log")
    axis.set_xticks(sorted({*x}), [f"{value:g}" for value in sorted({*x})])
    axis.minorticks_off()
    axis.set_xlabel(name)


def settings_of(n: int | None, steps: Sequence[int], samplers: Sequence[str], quick: bool, **more: Any) -> Settings:
    """Settings from flags; what is not told stays as it is."""
    told: dict[str, Any] = {"n": n, "steps": tuple(steps) or None, "samplers": tuple(samplers) or None} | more
    whole = Settings(**{key: value for key, value in told.items() if value is not None})
    return whole.quick() if quick else whole


def is_picture(path: str | None) -> bool:
    """Whether a name ends like one of a picture."""
    return path is not None and Path(path).suffix.lower() in PICTURES
