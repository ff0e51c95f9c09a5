"""Quality, diversity and cost of ways to draw poems, side by side, from which the defaults of a model are chosen.

    python benchmarks/verse.py --reference validation.jsonl.gz --train train.jsonl.gz --plot frontier.png

Each setting writes n poems of a form, without constraints, one for each seed, and is compared with real poems of the form; use
the validation part for them, since the test part is for the final result.  Quality is the share of regulated poems.  Diversity
is the distinct 2-grams and the entropy of the characters, beside those of equally many real poems.  Cost is the number of
forwards and of seconds for a poem.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from textdiff import Pipeline
from textdiff.core.errors import AskedError
from textdiff.data.records import read_records
from textdiff.measure import intervals, plots, poems
from textdiff.measure.counts import KneserNey
from textdiff.measure.grams import Poem
from textdiff.measure.poem_report import Poems
from textdiff.measure.poems import Association
from textdiff.verse.forms import get_form

# (sampler, steps, temperature); without steps a sampler writes one position at a time.
SETTINGS: tuple[tuple[str, int | None, float], ...] = (
    *(("improved", None, t) for t in (1.0, 0.9, 0.8, 0.7, 0.6)),
    *(("improved", steps, 0.8) for steps in (14, 8, 4)),
    ("entropy", None, 0.8),
    ("gibbs", None, 0.8),
)


@dataclass(frozen=True)
class Point:
    """The figures of one setting; the sampler of real poems is called "real"."""

    sampler: str
    steps: int | None
    temperature: float
    n: int
    forwards: float  # for a poem
    seconds: float  # for a poem, in batches of 64
    regulated: float
    regulated_low: float | None  # 95 % interval
    regulated_high: float | None
    distinct_2: float
    entropy: float  # nats
    repeat_rate: float
    parallel: float | None  # of octaves, where train poems were given
    fluency: float | None  # nats per character of a Kneser-Ney 5-gram, where train poems were given


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
    """The point of the real poems (sampler "real"), then one for each setting; `reference` needs n poems."""
    if len(reference) < n:
        raise AskedError(
            f"there are {len(reference)} reference poems of {form} for n = {n}; pass more, or make n smaller"
        )
    model = KneserNey.fit(train) if train else None
    association = Association.learn(train) if train else None
    yield _point("real", None, 1.0, list(reference[:n]), reference, model, association, 0.0, 0.0)
    for sampler, steps, temperature in progress(list(settings)):
        started = time.perf_counter()
        outputs = pipe.generate(form, n=n, sampler=sampler, steps=steps, temperature=temperature, process="mask")
        seconds = (time.perf_counter() - started) / n
        drawn = [output.lines for output in outputs]
        forwards = sum(output.forwards for output in outputs) / n
        yield _point(sampler, steps, temperature, drawn, reference, model, association, forwards, seconds)


def _point(
    sampler: str,
    steps: int | None,
    temperature: float,
    drawn: Sequence[Poem],
    others: Sequence[Poem],
    model: KneserNey | None,
    association: Association | None,
    forwards: float,
    seconds: float,
) -> Point:
    regulated = intervals.share(float(poems.regulated(drawn).mean()), len(drawn))
    parallel = None
    if association is not None and len(drawn[0]) == 8:
        parallel = float(poems.parallel_accuracy(drawn, association, others).mean())
    return Point(
        sampler=sampler,
        steps=steps,
        temperature=temperature,
        n=len(drawn),
        forwards=forwards,
        seconds=seconds,
        regulated=regulated.value,
        regulated_low=regulated.low,
        regulated_high=regulated.high,
        distinct_2=poems.distinct(drawn, 2),
        entropy=poems.entropy(drawn),
        repeat_rate=float(poems.repeat_rate(drawn).mean()),
        parallel=parallel,
        fluency=None if model is None else float(poems.fluency(drawn, model).mean()),
    )


def plot(points: Sequence[tuple[str, Point]], path: str | Path) -> None:
    """Draws pairs (form, point) into a file: quality over diversity, a panel for each form; needs matplotlib."""
    forms = list(dict.fromkeys(form for form, _ in points))
    figure = plots.figure(5.2 * len(forms), 4.2)
    for panel, form in zip(figure.subplots(1, len(forms), squeeze=False)[0], forms, strict=True):
        of_form = [point for name, point in points if name == form]
        real = next(point for point in of_form if point.sampler == "real")
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
        for point in of_form:
            if point is real:
                continue
            x = point.distinct_2 / real.distinct_2
            error = plots.reach([intervals.Interval(point.regulated, point.regulated_low, point.regulated_high)])
            colour = f"C{list(dict.fromkeys(p.sampler for p in of_form if p is not real)).index(point.sampler)}"
            panel.errorbar(x, point.regulated, error, fmt="none", ecolor=colour, alpha=0.4)
            panel.scatter(x, point.regulated, s=8 + 3 * point.forwards, color=colour, alpha=0.8)
            steps = "" if point.steps is None else f", {point.steps} steps"
            label = f"{point.sampler} T={point.temperature:g}{steps}"
            panel.annotate(label, (x, point.regulated), textcoords="offset points", xytext=(5, -9), fontsize=6)
        panel.set_title(f"{form}, {real.n} poems a point", fontsize=9)
        panel.set_xlabel("distinct 2-grams, of as many real poems' (area: forwards a poem)", fontsize=8)
        panel.set_ylabel("regulated", fontsize=8)
    plots.save(figure, path, dpi=130)


HEADING = (
    "form          sampler           steps  T     forwards  s/poem  regulated             distinct_2  entropy  "
    "repeat  parallel  fluency"
)


def line(form: str, point: Point) -> str:
    """The point as text, in the columns of HEADING."""
    parallel, fluency = ("-" if value is None else f"{value:.3f}" for value in (point.parallel, point.fluency))
    steps = "-" if point.steps is None else point.steps
    regulated = intervals.written(intervals.Interval(point.regulated, point.regulated_low, point.regulated_high))
    return (
        f"{form:12}  {point.sampler:16}  {steps:>5}  {point.temperature:.2f}  {point.forwards:8.1f}  "
        f"{point.seconds:6.2f}  {regulated}  {point.distinct_2:10.3f}  {point.entropy:7.3f}  "
        f"{point.repeat_rate:6.3f}  {parallel:>8}  {fluency:>7}"
    )


def setting(text: str) -> tuple[str, int | None, float]:
    """The setting of a text SAMPLER:STEPS:TEMPERATURE, with - for one position at a time."""
    try:
        sampler, steps, temperature = text.split(":")
        return sampler, None if steps == "-" else int(steps), float(temperature)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not SAMPLER:STEPS:TEMPERATURE, such as improved:8:0.8") from None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", metavar="FILE", required=True, help="real poems, such as the validation part")
    parser.add_argument("--train", metavar="FILE", help="train poems, for fluency and parallelism")
    parser.add_argument("--model", metavar="DIR|ID", help="a model folder or hub id (the packaged model)")
    parser.add_argument("--form", action="append", help="a form; may be repeated (qiyan-jueju and qiyan-lushi)")
    parser.add_argument(
        "--setting",
        type=setting,
        action="append",
        metavar="SAMPLER:STEPS:TEMPERATURE",
        help="a setting; may be repeated (those of the file)",
    )
    parser.add_argument("-n", type=int, default=200, help="poems for each setting (200)")
    parser.add_argument("--plot", metavar="FILE.png", help="where to write the picture (needs textdiff[plot])")
    parser.add_argument("--json", action="store_true", help="print JSON Lines")
    a = parser.parse_args(argv)
    try:
        points = list(_run(a))
    except AskedError as error:
        parser.error(str(error))
    if a.plot:
        plot(points, a.plot)


def _run(a: argparse.Namespace) -> Iterator[tuple[str, Point]]:
    """Prints the points of each form, and yields them with the form."""
    if a.plot:
        plots.check(a.plot)
    real = Poems.sort(read_records(a.reference))
    train = Poems.sort(read_records(a.train)).whole if a.train else {}
    known = [poem for group in train.values() for poem in group]
    pipe = Pipeline.from_pretrained(a.model)
    progress = partial(tqdm, file=sys.stderr, disable=None, leave=False)
    if not a.json:
        print(HEADING)
    for name in [get_form(form).name for form in a.form or ["qiyan-jueju", "qiyan-lushi"]]:
        chosen = a.setting or SETTINGS
        for point in frontier(pipe, name, real.of(name), n=a.n, train=known, settings=chosen, progress=progress):
            print(json.dumps({"form": name} | asdict(point)) if a.json else line(name, point), flush=True)
            yield name, point


if __name__ == "__main__":
    main()
