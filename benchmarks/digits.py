"""Ways to draw images in few evaluations, side by side: samplers, models, scaled skips, larger sizes.

    python benchmarks/digits.py --model ddpm=runs/digits-ddpm/model --model flow=runs/digits-flow/model

Every way starts from the same noise and the same labels, those of the held-out images, so that two rows differ only by the
model, the way and the cost that they name.  The rows have the two distances to the held-out images (`textdiff.measure.images`)
and, for ways that solve the ODE of their model, the distance between the end of the way and the solution of the ODE:

    gap     root mean square over pixels of x̂0 − x0*, where x0* is drawn from the same noise in `fine` evaluations
    bend    E‖(x_1 − x_0) − dx/dt‖² per pixel of the fine solution: 0 where one evaluation would suffice (`reflow.bend`)

Larger images are averaged down to the size of the model's images before they are measured, and should look like real ones then.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

from textdiff.core.contracts import Predictor, State, Step
from textdiff.core.errors import AskedError
from textdiff.core.levels import even_levels
from textdiff.core.loop import sample
from textdiff.core.resolve import unknown
from textdiff.core.rng import Rng
from textdiff.data.image_data import Images, read_images
from textdiff.measure import plots
from textdiff.measure.images import Classifier, energy, fidelity, frechet, jackknife, train_classifier
from textdiff.measure.intervals import Interval, written
from textdiff.networks.images import ImageModel
from textdiff.pipeline.options import Options
from textdiff.pipeline.plan import resolve
from textdiff.samplers import SAMPLERS
from textdiff.samplers.second_order import amed, fit_amed
from textdiff.shaping.skips import across, skip_tuned
from textdiff.shaping.upsample import above, upsampled
from textdiff.training.images.reflow import bend

FINE = 200  # evaluations of the reference solution
ROWS = 128  # images that are drawn at a time
SPACING = 1.5  # of the levels: the last step has only one evaluation, and so it should be short
APART = 1 << 40  # seeds from here on belong to no measured image


def _unchanged(model: ImageModel, predictor: Predictor) -> Predictor:
    return predictor


@dataclass(frozen=True)
class Way:
    """A way to draw: a step, and a wrapper of the predictor."""

    name: str
    step: Callable[[ImageModel, Sequence[float]], Step]  # (model, levels) -> step
    looks: int = 1  # evaluations of the network in a step; the last step has one
    wrap: Callable[[ImageModel, Predictor], Predictor] = _unchanged
    factor: int = 1  # by which the side of the images is larger than that of the model's
    same_ode: bool = True  # whether it solves the ODE of the model
    once: bool = False  # whether it is tried with the first model only

    def steps(self, evaluations: int) -> int:
        """The largest number of steps within `evaluations` of the network, not counting those of guidance."""
        return max((evaluations + self.looks - 1) // self.looks, 1)


@dataclass(frozen=True)
class Row:
    """One way at one cost; its fields are the keys of a JSON line.  Intervals are 95 %."""

    model: str
    way: str
    forwards: float  # evaluations of the network for an image
    n: int
    energy: float
    energy_low: float | None
    energy_high: float | None
    frechet: float
    frechet_low: float | None
    frechet_high: float | None
    fidelity: float  # share of images that show the class they were drawn for
    fidelity_low: float | None
    fidelity_high: float | None
    gap: float | None
    bend: float | None


def by_name(sampler: str) -> Way:
    """The way of a sampler of the table."""
    entry = SAMPLERS.get(sampler)
    if entry is None:
        raise unknown("sampler", sampler, SAMPLERS)
    same_ode = entry.noise == "reused"
    return Way(
        sampler, lambda model, levels: resolve(Options(sampler=sampler), model).step, entry.forwards, same_ode=same_ode
    )


def mean_value(rows: int = 32) -> Way:
    """Mean-value steps, which are fitted to the levels on `rows` images with other noise."""

    def step(model: ImageModel, levels: Sequence[float]) -> Step:
        name = model.processes[0]
        condition = model.condition(
            rows, [model.classes[k % len(model.classes)] for k in range(rows)] if model.classes else None
        )
        given = torch.zeros(rows, *model.shape, device=model.device)
        table = fit_amed(
            given,
            torch.ones_like(given[:, :1], dtype=torch.bool),
            levels,
            predictor=model.predictor(name),
            process=model.process(name),
            rng=Rng(torch.arange(rows) + APART, device=model.device),
            condition=condition,
            last=False,
        )
        return amed(table)

    return Way("amed", step, looks=2, once=True)


def skips(bottom: float, top: float) -> Way:
    """DDIM with the skips scaled from `bottom` at the lowest block to `top` at the highest."""

    def wrap(model: ImageModel, predictor: Predictor) -> Predictor:
        network: Any = model.model
        return skip_tuned(predictor, network.up_blocks, across(bottom, top))

    return replace(by_name("improved"), name=f"skips {bottom:g} to {top:g}", wrap=wrap, same_ode=False, once=True)


def enlarged(weight: float, level: float, factor: int = 2) -> Way:
    """DDIM at `factor` times the side, with upsample guidance of `weight` above `level`; weight 0 means no guidance."""

    def wrap(model: ImageModel, predictor: Predictor) -> Predictor:
        return upsampled(predictor, model.schedule, factor=factor, weight=above(level, weight))

    guidance = f", guidance {weight:g} above {level:g}" if weight else ", no guidance"
    name = f"{factor} times as wide{guidance}"
    return replace(by_name("improved"), name=name, wrap=wrap, factor=factor, same_ode=False, once=True)


@torch.inference_mode()
def drawn(
    model: ImageModel, way: Way, steps: int, condition: Tensor, *, seed: int = 0, spacing: float = 1.0
) -> Iterator[list[State]]:
    """The states of images with the labels `condition` (N, P), ROWS at a time; the noise of row k depends only on seed and k.

    The levels are even ones to the power of `spacing`: if it is above 1, they are closer where little noise is left.
    """
    if not 0 < spacing < math.inf:
        raise AskedError(f"spacing is {spacing}; it must be positive, 1 for even levels")
    name, levels = model.processes[0], [level**spacing for level in even_levels(steps)]
    predictor, step = way.wrap(model, model.predictor(name)), way.step(model, levels)
    channels, height, width = model.shape
    for index in torch.arange(len(condition)).split(ROWS):
        rows = condition[index]
        given = torch.zeros(len(index), channels, height * way.factor, width * way.factor, device=model.device)
        yield list(
            sample(
                given,
                torch.ones_like(given[:, :1], dtype=torch.bool),
                levels,
                step,
                predictor=predictor,
                process=model.process(name, rows),
                rng=Rng(index + (seed << 32), device=model.device),
                condition=rows,
            )
        )


@dataclass(frozen=True, eq=False)
class Judge:
    """The real images of the same labels, and the classifier, with which images are compared."""

    real: Tensor  # (N, C, H, W)
    labels: Tensor  # (N,)
    classifier: Classifier

    @classmethod
    def of(cls, images: Images, seed: int = 0) -> Judge:
        """The validation and test parts together, and a classifier trained on the train part."""
        train, parts = images.of("train"), [images.of(name) for name in ("validation", "test")]
        if train.labels is None:
            raise AskedError("these images have no labels, so no class can be recognised in them; pass labelled images")
        labels = torch.cat([part.labels for part in parts if part.labels is not None])
        classifier = train_classifier(train.x, train.labels, seed=seed)
        return cls(torch.cat([part.x for part in parts]), labels, classifier)

    def row(
        self, model: str, way: str, forwards: float, x: Tensor, gap: float | None = None, bend: float | None = None
    ) -> Row:
        """The figures of images x, as many as the real ones and with their labels in their order."""
        x, classifier = x.clamp(-1, 1), self.classifier
        apart = jackknife(energy, x, self.real)
        features = jackknife(frechet, classifier.features(x), classifier.features(self.real))
        shown = fidelity(classifier.labels(x), self.labels)
        return Row(model, way, forwards, len(x), *apart, *features, *shown, gap=gap, bend=bend)


def compare(
    models: Mapping[str, ImageModel],
    images: Images,
    ways: Sequence[Way],
    evaluations: Sequence[int],
    *,
    fine: int = FINE,
    seed: int = 0,
    spacing: float = SPACING,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda work: work,
) -> Iterator[Row]:
    """The rows of every model, way and cost.  The first row is that of equally many training images, which no way should beat.

    Mean-value steps, scaled skips and larger sizes are tried with the first model only, larger sizes only at the highest cost.
    """
    judge, train = Judge.of(images), images.of("train")
    assert train.labels is not None
    yield judge.row("real", "training images", 0.0, alike(train, judge.labels))
    for name, model in models.items():
        condition = judge.labels[:, None][:, : len(model.prefix)].to(model.device)
        solver = by_name("heun")
        fine_states = list(drawn(model, solver, solver.steps(fine), condition, seed=seed, spacing=spacing))
        exact = torch.cat([states[-1].x for states in fine_states])
        bends = torch.cat([bend(states) for states in fine_states]).mean().item()
        forwards = fine_states[0][-1].forwards.double().mean().item()
        yield judge.row(name, "fine", forwards, exact, 0.0, bends)
        del fine_states
        model_ways = [way for way in ways if not way.once or name == next(iter(models))]
        highest = [max(evaluations)]  # larger images cost more, and we want to see them at their best
        cases = [(way, cost) for way in model_ways for cost in (evaluations if way.factor == 1 else highest)]
        for way, cost in progress(cases):
            ends = [states[-1] for states in drawn(model, way, way.steps(cost), condition, seed=seed, spacing=spacing)]
            x = torch.cat([state.x for state in ends])
            gap = (x - exact).square().mean().sqrt().item() if way.same_ode else None
            small = avg_pool2d(x, way.factor)
            yield judge.row(name, way.name, ends[0].forwards.double().mean().item(), small, gap)


def alike(images: Images, labels: Tensor, seed: int = 0) -> Tensor:
    """Random images with these labels in this order; an image comes twice only if there are too few with its label.

    They are random, since data sets are often sorted by writer, and so neighbours are more alike than other pairs.
    """
    assert images.labels is not None
    order = Rng([seed]).uniform(len(images.x))[0].argsort()
    places = {k: order[images.labels[order] == k] for k in set(labels.tolist())}
    rank = torch.tensor([int((labels[:k] == label).sum()) for k, label in enumerate(labels)])
    chosen = [
        places[label][turn % len(places[label])] for label, turn in zip(labels.tolist(), rank.tolist(), strict=True)
    ]
    return images.x[torch.stack(chosen)]


HEADING = (
    f"{'model':16} {'way':38} {'forwards':>8}  {'energy distance':26}  {'Fréchet':22}  {'recognised':20}  "
    f"{'gap':>6} {'bend':>6}"
)


def line(row: Row) -> str:
    """The row as text, in the columns of HEADING."""
    gap, bends = ("-" if v is None else f"{v:.3f}" for v in (row.gap, row.bend))
    apart = written(Interval(row.energy, row.energy_low, row.energy_high), 4)
    features = written(Interval(row.frechet, row.frechet_low, row.frechet_high), 2)
    share = written(Interval(row.fidelity, row.fidelity_low, row.fidelity_high))
    start = f"{row.model:16} {row.way:38} {row.forwards:8.1f}"
    return f"{start}  {apart:26}  {features:22}  {share:20}  {gap:>6} {bends:>6}"


def plot(rows: Sequence[Row], pictures: Mapping[str, Tensor], path: str | Path) -> None:
    """Draws the gaps and the Fréchet distances of the first model, the Fréchet distances of the first way, and `pictures`.

    `pictures` are images (N, C, H, W) by title; this needs matplotlib.
    """
    plots.check(path)
    real = next(r.frechet for r in rows if r.model == "real")
    lines = [r for r in rows if r.model != "real" and r.way != "fine"]
    first, way = lines[0].model, lines[0].way
    of_first = [r for r in lines if r.model == first]
    panels = {
        f"{first}: gap to the fine ODE solution": [(r.way, r, r.gap) for r in of_first if r.gap is not None],
        f"{first}: Fréchet distance": [(r.way, r, r.frechet) for r in of_first],
        f"{way}: Fréchet distance": [(r.model, r, r.frechet) for r in lines if r.way == way],
    }
    figure = plots.figure(10.5, 3.4 + 1.6 * bool(pictures))
    tall = [3.4, 1.6] if pictures else [3.4]
    halves = figure.subfigures(len(tall), 1, height_ratios=tall, squeeze=False)[:, 0]
    for panel, (title, points) in zip(halves[0].subplots(1, len(panels)), panels.items(), strict=True):
        for name in dict.fromkeys(name for name, _, _ in points):
            line_points = [(r.forwards, value) for line_name, r, value in points if line_name == name]
            panel.plot(*zip(*line_points, strict=True), marker="o", ms=3, lw=1, label=name)
        if "gap" not in title:
            panel.axhline(real, color="0.6", lw=1, ls=":", label="real images")
        panel.set_title(title, fontsize=8)
        panel.set_xlabel("evaluations of the network", fontsize=7)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.tick_params(labelsize=7, which="both")
        panel.legend(fontsize=6)
    if pictures:
        for panel, (title, x) in zip(
            halves[1].subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True
        ):
            panel.imshow(tiled(x), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            panel.set_title(title, fontsize=7)
            panel.axis("off")
    plots.save(figure, path)


def tiled(x: Tensor, columns: int = 10) -> Any:
    """One array with the first channel of images (N, C, H, W) in rows of `columns`, which must divide N."""
    height, width = x.shape[-2:]
    rows = x[:, 0].clamp(-1, 1).view(-1, columns, height, width)
    return rows.transpose(1, 2).reshape(-1, columns * width).numpy()


def pair(flag: str, text: str, second: float | None = None) -> tuple[float, float]:
    """The two numbers of a text A:B; A alone stands for (A, `second`), or for (A, A) if `second` is None."""
    first, colon, rest = text.partition(":")
    try:
        a = float(first)
        return a, float(rest) if colon else a if second is None else second
    except ValueError:
        raise AskedError(f"{flag} is {text!r}; expected a number, or two as in 0.8:1") from None


def gallery(
    models: Mapping[str, ImageModel], ways: Sequence[Way], evaluations: int, rows: int = 2
) -> dict[str, Tensor]:
    """`rows` rows of one image of each class for each way that enlarges, from the same noise, with the first model."""
    model = next(iter(models.values()))
    condition = model.condition(rows * 10, [name for name in model.classes[:10]] * rows if model.classes else None)
    return {
        way.name: torch.cat(
            [states[-1].x for states in drawn(model, way, way.steps(evaluations), condition, spacing=SPACING)]
        )
        for way in ways
        if way.factor > 1
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", metavar="[NAME=]DIR", action="append", required=True, help="a model; may be repeated")
    add("--evaluations", metavar="N", type=int, nargs="+", default=[5, 10, 20], help="for an image (5 10 20)")
    add("--sampler", action="append", help="a sampler; may be repeated (improved, which is DDIM, and heun)")
    add("--amed", action="store_true", help="mean-value steps as well, fitted to each number of evaluations")
    add("--skips", metavar="RHO[:TOP]", action="append", help="DDIM with scaled skips, from the lowest block up")
    add("--upsample", metavar="W[:LEVEL]", action="append", help="16 x 16, guided with weight W above LEVEL")
    add("--spacing", type=float, default=SPACING, help=f"power of the levels, above 1 finer at the end ({SPACING})")
    add("--fine", type=int, default=FINE, help=f"evaluations for the solution that gaps are measured from ({FINE})")
    add("--limit", type=int, metavar="N", help="use only the first N digits")
    add("--seed", type=int, default=0, help="of the noise (0)")
    add("--plot", metavar="FILE.png", help="where to write the picture (needs textdiff[plot])")
    add("--json", action="store_true", help="print JSON Lines")
    a = parser.parse_args(argv)
    try:
        _run(a)
    except AskedError as error:
        parser.error(str(error))


def _run(a: argparse.Namespace) -> None:
    if a.plot:
        plots.check(a.plot)
    pairs = [text.rpartition("=") for text in a.model]
    models = {name or Path(folder).parent.name: ImageModel.from_pretrained(folder) for name, _, folder in pairs}
    ways = [by_name(name) for name in a.sampler or ([] if a.skips or a.upsample else ["improved", "heun"])]
    ways += [mean_value()] * a.amed
    ways += [skips(*pair("--skips", text)) for text in a.skips or ()]
    ways += [enlarged(*pair("--upsample", text, 0.0)) for text in a.upsample or ()]
    progress = partial(tqdm, file=sys.stderr, disable=None, leave=False)
    options = {"fine": a.fine, "seed": a.seed, "spacing": a.spacing, "progress": progress}
    rows = []
    if not a.json:
        print(HEADING, flush=True)
    for row in compare(models, read_images("digits", limit=a.limit), ways, a.evaluations, **options):
        rows.append(row)
        print(json.dumps(asdict(row)) if a.json else line(row), flush=True)
    if a.plot:
        plot(rows, gallery(models, ways, max(a.evaluations)), a.plot)


if __name__ == "__main__":
    main()
