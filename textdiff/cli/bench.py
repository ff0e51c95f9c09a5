"""bench: timings."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable
from typing import Any

from textdiff.cli.common import Parser, add_verb, json_lines


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


def bench_sample(a: argparse.Namespace) -> None:
    from tqdm import tqdm

    from textdiff.measure import bench

    def progress(work: Iterable[int]) -> Iterable[int]:
        yield from tqdm(work, file=sys.stderr, disable=True if a.quiet else None, leave=False)

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
