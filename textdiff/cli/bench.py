"""bench: timings."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from textdiff.cli.common import Parser, add_parts, add_verb, check_writable, writing

SIZES = {  # flag -> default, what it is
    "batch": (16, "texts at a time"),
    "length": (56, "tokens of a text"),
    "steps": (14, "steps of a text"),
    "levels": (4, "levels of a text's bound"),
    "vocabulary": (8000, "tokens"),
    "layers": (6, "of the network"),
    "width": (384, "of the network"),
}
HEADINGS = "calls outside floor    MB"
NETWORK = ("vocabulary", "layers", "width")


def add(verbs: Any) -> None:
    """The verbs of this file and their flags."""
    tasks = add_parts(verbs, "bench", "Timings.", "task")
    p = _task(tasks, "sample", bench_sample, "samplers against the plain loop", "batch", "length", "steps", *NETWORK)
    p.add_argument("--table", action="store_true", help="the six cells of docs/performance.md instead of one")
    p.add_argument("--plot", metavar="FILE", help="the ratios as a picture: .png, .svg or .pdf")
    _task(tasks, "score", bench_other, "the bound of texts against a plain loop", "batch", "length", "levels", *NETWORK)
    _task(tasks, "train", bench_other, "a step of training against a plain one", "batch", "length", *NETWORK)
    _task(tasks, "load", bench_other, "a start of the command against import torch")


def _task(tasks: Any, name: str, run: Any, what: str, *sizes: str) -> Parser:
    p = add_verb(tasks, name, run, f"{what}, by turns in one run")
    for size in sizes:
        default, about = SIZES[size]
        p.add_argument(f"--{size}", type=int, default=default, help=f"{about} ({default})")
    p.add_argument("--rounds", type=int, default=5, help="turns; the medians are printed (5)")
    p.add_argument("--json", action="store_true", help="JSON Lines")
    p.add_argument("--out", metavar="FILE", help="write here instead of to stdout")
    p.set_defaults(sizes=sizes)
    return p


def bench_sample(a: argparse.Namespace) -> None:
    from textdiff.measure import bench, plots

    if a.plot:
        plots.check(a.plot)
        check_writable(a.plot)
    cells = bench.TABLE if a.table else ((a.length, a.batch, a.steps),)
    network = {name: getattr(a, name) for name in NETWORK}
    rows: list[Any] = []
    with writing(a.out) as out:
        for cell in cells:
            found = bench.sample([cell], rounds=a.rounds, progress=_progress(a), **network)
            rows += found.rows
            last = dataclasses.asdict(found.peak) | {"others": found.others}
            said = [*map(dataclasses.asdict, found.rows), last] if a.json else _sampled(found)
            for line in said:
                print(json.dumps(line) if a.json else line, file=out, flush=True)
    if a.plot:
        plots.save(bench.picture(rows), a.plot)


def _sampled(found: Any) -> Iterator[str]:
    from textdiff.measure import bench

    cell = None
    for row in found.rows:
        if (row.length, row.batch, row.steps) != cell:
            cell = row.length, row.batch, row.steps
            yield f"{row.length} tokens, batch {row.batch}, {row.steps} steps"
            yield (
                f"  {'sampler':12} {'process':12} {'precision':9} {'texts/s':>8} {'ratio':>6}  {'range':13} " + HEADINGS
            )
        spread = f"{row.lowest:.2f} to {row.highest:.2f}"
        calls = "" if row.evaluations is None else str(row.evaluations)
        yield (
            f"  {row.sampler:12} {row.process:12} {row.precision:9} {row.texts_per_second:8.1f} {row.ratio:6.2f}  {spread:13} "
            f"{calls:>5} {_share(row.outside):>7} {_share(row.floor):>5} {'' if row.memory is None else f'{row.memory:.0f}':>5}"
        )
    speeds = {name: getattr(found.peak, name) for name in ("float32", "packed", "bf16", "int8")}
    yield f"GFLOP/s of {found.peak.rows} x {found.peak.inner} x {found.peak.columns}: " + ", ".join(
        f"{name} {'none' if speed is None else round(speed)}" for name, speed in speeds.items()
    )
    yield bench.float32_path()
    yield found.others


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def bench_other(a: argparse.Namespace) -> None:
    from textdiff.measure.timing import tasks

    with writing(a.out) as out:
        sizes = {name: getattr(a, name) for name in a.sizes}
        told = {"rounds": a.rounds, "progress": _progress(a)}
        if a.task == "train":
            from textdiff.measure import bench
            from textdiff.training.texts.steps import steps

            network = (*(sizes[name] for name in NETWORK), a.length)
            lines, others = tasks.beside(steps(lambda: bench.model(*network), a.batch, a.length), **told)
        else:
            lines, others = getattr(tasks, a.task)(**told, **sizes)
        if a.json:
            for fields in [dataclasses.asdict(line) for line in lines] + [{"others": others}]:
                print(json.dumps(fields), file=out)
            return
        print(f"{'case':16} {'seconds':>8} {'ratio':>6}  {'range':13}     MB  to", file=out)
        for line in lines:
            spread = f"{line.lowest:.2f} to {line.highest:.2f}"
            memory = "" if line.memory is None else f"{line.memory:.0f}"
            print(
                f"{line.case:16} {line.seconds:8.3f} {line.ratio:6.2f}  {spread:13} {memory:>6}  {line.baseline}",
                file=out,
            )
        print(others, file=out)


def _progress(a: argparse.Namespace) -> Any:
    from tqdm import tqdm

    def progress(work: Iterable[int]) -> Iterable[int]:
        yield from tqdm(work, file=sys.stderr, disable=True if a.quiet else None, leave=False)

    return progress
