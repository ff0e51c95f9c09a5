"""Quality, diversity and cost of ways to draw poems, side by side: how the default of a model is chosen.

Each setting writes n poems of a form, unconstrained, one for each seed; what it is held against are real poems of the form
(take the validation part: the test part is for the result).  Quality is the share that is regulated, diversity the distinct
2-grams and the entropy of the characters beside those of as many real poems, cost the forwards a poem and its seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.core.resolve import unknown
from textdiff.measure import metrics
from textdiff.measure.counts import KneserNey, wilson
from textdiff.measure.metrics import Association, Poem
from textdiff.pipeline.text import Pipeline

# (sampler, steps, temperature); steps None is one position at a time.
SETTINGS: tuple[tuple[str, int | None, float], ...] = (
    *(("improved", None, t) for t in (1.0, 0.9, 0.8, 0.7, 0.6)),
    *(("improved", steps, 0.8) for steps in (14, 8, 4)),
    ("entropy", None, 0.8),
    ("gibbs", None, 0.8),
)


@dataclass(frozen=True)
class Point:
    """One setting; `reference` points are the real poems'."""

    sampler: str
    steps: int | None
    temperature: float
    n: int
    forwards: float  # a poem
    seconds: float  # a poem, in batches of 64
    regulated: float
    regulated_low: float  # 95 % interval
    regulated_high: float
    distinct_2: float
    entropy: float  # nats
    repeat_rate: float
    parallel: float | None  # of octaves, where train poems were given
    fluency: float | None  # nats a character of a Kneser-Ney 5-gram, where train poems were given


def frontier(
    pipe: Pipeline,
    form: str,
    reference: Sequence[Poem],
    *,
    n: int = 200,
    train: Sequence[Poem] = (),
    settings: Iterable[tuple[str, int | None, float]] = SETTINGS,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda work: work,
) -> Iterator[Point]:
    """The real poems' point (sampler "real"), then one for each setting; `reference` needs n poems."""
    if len(reference) < n:
        raise AskedError(
            f"there are {len(reference)} reference poems of {form} for n = {n}; pass more, or take n smaller"
        )
    model = KneserNey.fit(train) if train else None
    association = Association.learn(train) if train else None
    yield _point("real", None, 1.0, list(reference[:n]), reference, model, association, 0.0, 0.0)
    for sampler, steps, temperature in progress(list(settings)):
        started = time.perf_counter()
        outputs = pipe.generate(form, n=n, sampler=sampler, steps=steps, temperature=temperature, process="mask")
        seconds = (time.perf_counter() - started) / n
        poems = [output.lines for output in outputs]
        forwards = sum(output.forwards for output in outputs) / n
        yield _point(sampler, steps, temperature, poems, reference, model, association, forwards, seconds)


def _point(
    sampler: str,
    steps: int | None,
    temperature: float,
    poems: Sequence[Poem],
    others: Sequence[Poem],
    model: KneserNey | None,
    association: Association | None,
    forwards: float,
    seconds: float,
) -> Point:
    regulated = float(metrics.regulated(poems).mean())
    low, high = wilson(regulated, len(poems))
    octave = association is not None and len(poems[0]) == 8
    return Point(
        sampler=sampler,
        steps=steps,
        temperature=temperature,
        n=len(poems),
        forwards=forwards,
        seconds=seconds,
        regulated=regulated,
        regulated_low=low,
        regulated_high=high,
        distinct_2=metrics.distinct(poems, 2),
        entropy=metrics.entropy(poems),
        repeat_rate=float(metrics.repeat_rate(poems).mean()),
        parallel=float(metrics.parallel_accuracy(poems, association, others).mean()) if octave else None,  # type: ignore[arg-type]
        fluency=None if model is None else float(metrics.fluency(poems, model).mean()),
    )


def plot(points: Sequence[tuple[str, Point]], path: str | Path) -> None:
    """(form, point) pairs as a picture: regulated over diversity beside real, a panel a form; needs matplotlib."""
    if Path(path).suffix not in (".png", ".svg"):
        raise unknown("picture", Path(path).suffix, (".png", ".svg"))
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    forms = list(dict.fromkeys(form for form, _ in points))
    figure, panels = pyplot.subplots(1, len(forms), figsize=(5.2 * len(forms), 4.2), squeeze=False)
    for panel, form in zip(panels[0], forms, strict=True):
        own = [point for name, point in points if name == form]
        real = next(point for point in own if point.sampler == "real")
        panel.axvline(1.0, color="0.8", lw=1)
        panel.axhline(real.regulated, color="0.8", lw=1)
        panel.annotate(
            "real poems",
            (1.0, real.regulated),
            textcoords="offset points",
            xytext=(-4, 4),
            color="0.4",
            fontsize=8,
            ha="right",
        )
        for point in own:
            if point is real:
                continue
            x = point.distinct_2 / real.distinct_2
            error = [[point.regulated - point.regulated_low], [point.regulated_high - point.regulated]]
            colour = f"C{list(dict.fromkeys(p.sampler for p in own if p is not real)).index(point.sampler)}"
            panel.errorbar(x, point.regulated, error, fmt="none", ecolor=colour, alpha=0.4)
            panel.scatter(x, point.regulated, s=8 + 3 * point.forwards, color=colour, alpha=0.8)
            steps = "" if point.steps is None else f", {point.steps} steps"
            label = f"{point.sampler} T={point.temperature:g}{steps}"
            panel.annotate(label, (x, point.regulated), textcoords="offset points", xytext=(5, -9), fontsize=6)
        panel.set_title(f"{form}, {real.n} poems a point", fontsize=9)
        panel.set_xlabel("distinct 2-grams, of as many real poems' (area: forwards a poem)", fontsize=8)
        panel.set_ylabel("regulated", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None} if str(path).endswith(".png") else None)
    pyplot.close(figure)
