"""bench: timings, and what ways to draw cost and give."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from textdiff.cli.common import Parser, add_verb, json_lines, load_library, model_flags, open_pipeline, read_records


def add(verbs: Any) -> None:
    """The verbs of this file and their flags."""
    bench = verbs.add_parser("bench", help="timings", description="Timings.", allow_abbrev=False)
    tasks = bench.add_subparsers(title="tasks", dest="task", metavar="TASK", required=True, parser_class=Parser)
    p = add_verb(tasks, "sample", bench_sample, "samplers against the plain loop, by turns in one run")
    for name, default, what in (
        ("batch", 16, "texts at a time"),
        ("length", 56, "tokens of a text"),
        ("steps", 14, "steps of a text"),
        ("rounds", 5, "turns; the medians are printed"),
        ("vocabulary", 8000, "tokens"),
        ("layers", 6, "of the network"),
        ("width", 384, "of the network"),
    ):
        p.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    p.add_argument("--json", action="store_true", help="JSON Lines")

    p = add_verb(tasks, "verse", bench_verse, "quality, diversity and cost of ways to draw poems, beside real ones")
    p.add_argument("--reference", metavar="FILE", required=True, help="real poems, such as the validation part")
    p.add_argument("--train", metavar="FILE", help="train poems, for fluency and parallelism")
    p.add_argument("--form", action="append", help="(qiyan-jueju and qiyan-lushi)")
    p.add_argument("-n", type=int, default=200, help="poems a setting (200)")
    p.add_argument("--plot", metavar="FILE.png", help="the picture (needs textdiff[plot])")
    p.add_argument("--json", action="store_true", help="JSON Lines")
    model_flags(p)

    p = add_verb(
        tasks, "digits", bench_digits, "images in few evaluations: samplers, models, scaled skips, larger sizes"
    )
    p.add_argument("--model", metavar="[NAME=]DIR", action="append", required=True, help="may be repeated, to compare")
    p.add_argument("--evaluations", metavar="N", type=int, nargs="+", default=[5, 10, 20], help="(5 10 20)")
    p.add_argument("--sampler", action="append", help="may be repeated (improved, which is DDIM, and heun)")
    p.add_argument("--amed", action="store_true", help="mean-value steps as well, fitted to each number of evaluations")
    p.add_argument(
        "--skips", metavar="RHO[:TOP]", action="append", help="DDIM with scaled skips, from the lowest block up"
    )
    p.add_argument("--upsample", metavar="W[:LEVEL]", action="append", help="16 x 16, guided with weight W above LEVEL")
    p.add_argument("--spacing", type=float, default=1.5, help="power of the levels, above 1 finer at the end (1.5)")
    p.add_argument("--fine", type=int, default=200, help="evaluations of the solution that gaps are taken to (200)")
    p.add_argument("--seed", type=int, default=0, help="(0)")
    p.add_argument("--plot", metavar="FILE.png", help="the picture (needs textdiff[plot])")
    p.add_argument("--json", action="store_true", help="JSON Lines")


def bench_sample(a: argparse.Namespace) -> None:
    from tqdm import tqdm

    from textdiff.measure import bench

    def progress(work: Iterable[int]) -> Iterable[int]:
        return tqdm(work, file=sys.stderr, disable=True if a.quiet else None, leave=False)

    sizes = {name: getattr(a, name) for name in ("batch", "length", "steps", "rounds", "vocabulary", "layers", "width")}
    rows = bench.sample(**sizes, progress=progress)
    if a.json:
        json_lines(dataclasses.asdict(row) for row in rows)
        return
    print(f"{'sampler':16} {'process':12} {'float32':8} {'texts/s':>8}  {'ratio':>6}  {'range':13}  to")
    for row in rows:
        spread = f"{row.lowest:.2f} to {row.highest:.2f}"
        print(
            f"{row.sampler:16} {row.process:12} {row.float32:8} {row.texts_per_second:8.1f}  {row.ratio:6.2f}  {spread:13}  "
            f"{row.baseline}"
        )
    print(bench.float32_path())


def bench_verse(a: argparse.Namespace) -> None:
    from tqdm import tqdm

    library = load_library()
    from textdiff.measure import frontier, report

    def progress(work: Iterable[Any]) -> Iterable[Any]:
        return tqdm(work, file=sys.stderr, disable=True if a.quiet else None, leave=False)

    real = report.Poems.sort(read_records(a.reference))
    train = report.Poems.sort(read_records(a.train)).whole if a.train else {}
    known = [poem for poems in train.values() for poem in poems]
    pipe, points = open_pipeline(a), []
    if not a.json:
        print(
            "form          sampler           steps  T     forwards  s/poem  regulated             distinct_2  entropy  "
            "repeat  parallel  fluency"
        )
    for form in a.form or ["qiyan-jueju", "qiyan-lushi"]:
        name = library.get_form(form).name
        for point in frontier.frontier(pipe, name, real.of(name), n=a.n, train=known, progress=progress):
            points.append((name, point))
            if a.json:
                print(json.dumps({"form": name} | dataclasses.asdict(point)), flush=True)
                continue
            parallel = "-" if point.parallel is None else f"{point.parallel:.3f}"
            fluency = "-" if point.fluency is None else f"{point.fluency:.3f}"
            steps = "-" if point.steps is None else point.steps
            interval = f"[{point.regulated_low:.3f}, {point.regulated_high:.3f}]"
            print(
                f"{name:12}  {point.sampler:16}  {steps:>5}  {point.temperature:.2f}  {point.forwards:8.1f}  "
                f"{point.seconds:6.2f}  {point.regulated:.3f} {interval}  {point.distinct_2:10.3f}  {point.entropy:7.3f}  "
                f"{point.repeat_rate:6.3f}  {parallel:>8}  {fluency:>7}",
                flush=True,
            )
    if a.plot:
        frontier.plot(points, a.plot)


def bench_digits(a: argparse.Namespace) -> None:
    from tqdm import tqdm

    from textdiff.data.image_data import read_images
    from textdiff.measure import bench_family as family
    from textdiff.networks.images import ImageModel

    def progress(work: Iterable[Any]) -> Iterable[Any]:
        return tqdm(work, file=sys.stderr, disable=True if a.quiet else None, leave=False)

    named = [name.rpartition("=") for name in a.model]
    models = {name or Path(folder).parent.name: ImageModel.from_pretrained(folder) for name, _, folder in named}
    ways = [family.by_name(name) for name in a.sampler or ([] if a.skips or a.upsample else ["improved", "heun"])]
    ways += [family.mean_value()] * a.amed
    ways += [family.skips(*family.pair("--skips", text)) for text in a.skips or ()]
    ways += [family.enlarged(*family.pair("--upsample", text, 0.0)) for text in a.upsample or ()]
    found = family.compare(
        models,
        read_images("digits"),
        ways,
        a.evaluations,
        fine=a.fine,
        seed=a.seed,
        spacing=a.spacing,
        progress=progress,
    )
    rows: list[Any] = []
    if not a.json:
        print(family.HEADING, flush=True)
    for row in found:
        rows.append(row)
        print(json.dumps(dataclasses.asdict(row)) if a.json else family.line(row), flush=True)
    if a.plot:
        family.plot(rows, family.gallery(models, ways, max(a.evaluations)), a.plot)
