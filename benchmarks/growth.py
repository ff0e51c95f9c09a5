"""How the time and the memory of sampling grow with the length, the vocabulary, the batch and the number of holes.

    python benchmarks/growth.py --out runs/growth.jsonl --plot data/figures/growth.png

One size grows at a time, and the others stay at `BASE`.  The network is a randomly initialised BERT, `--layers` and `--width` wide,
and a text takes 8 steps, or as many as it has holes if these are fewer.  Each point has a process of its own with one thread, since
the memory that one call has had serves the next.  The time is the processor time, the least of `--rounds` calls; the memory is by
how much the process grows at its peak in the first call of this size, the weights apart.  The exact-count rule is timed at other
lengths on chances that are drawn, without a network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from textdiff.core.predictions import draw_differing
from textdiff.core.rng import Rng
from textdiff.measure import plots
from textdiff.measure.bench import model
from textdiff.measure.timing.turns import memory_of
from textdiff.pipeline.text import TextPipeline

STEPS = 8
COUNT = "exact count"


@dataclass(frozen=True)
class Size:
    """A call: `batch` texts of `length` tokens, of which `holes` are to be written."""

    length: int = 64
    vocabulary: int = 4000
    batch: int = 8
    holes: int = 64


BASE = Size()
GROWING = {
    "length": (20, 64, 256, 1024, 2048),
    "vocabulary": (100, 1000, 8000, 50000),
    "batch": (1, 4, 16, 64, 256),
    "holes": (1, 4, 16, 64),
    COUNT: (16, 64, 256, 1024),
}
LARGE = Size(1024, 50000, 8, 1024)  # a point of its own


@dataclass(frozen=True)
class Point:
    """What one call took."""

    grows: str
    size: int
    seconds: float
    megabytes: float | None


def sized(grows: str, size: int) -> Size:
    """The call of a point of the plot."""
    if grows == "large":
        return LARGE
    if grows == "length":
        return replace(BASE, length=size, holes=size)
    return BASE if grows == COUNT else replace(BASE, **{grows: size})


def call(pipe: TextPipeline, size: Size, seed: int) -> Callable[[], object]:
    """Fill the holes at the beginning of `batch` texts, whose other tokens are the first of the vocabulary."""
    known = pipe.model.tokenizer.decode([pipe.model.content[0]])
    text = "_" * size.holes + known * (size.length - size.holes)
    steps = min(STEPS, size.holes)
    return lambda: list(pipe.fill([text] * size.batch, seed=seed, batch_size=size.batch, steps=steps))


def count_draw(length: int) -> Callable[[], object]:
    """One draw of half the positions of `BASE.batch` texts."""
    stay = Rng(range(BASE.batch)).uniform(length).log()
    half = torch.full((BASE.batch,), length // 2)
    return lambda: draw_differing(stay, half, half, rng=Rng(range(BASE.batch)))


def measured(grows: str, number: int, rounds: int, layers: int, width: int) -> Point:
    """The least processor time of some calls, and the memory of the first."""
    torch.set_num_threads(1)
    size = sized(grows, number)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        if grows == COUNT:
            runs = [count_draw(number)] * (1 + rounds)
        else:
            model(size.vocabulary, layers, width, size.length).save_pretrained(Path(folder))
            pipe = TextPipeline.from_pretrained(folder)
            call(pipe, Size(4, size.vocabulary, 1, 4), 0)()  # the weights are laid out once
            runs = [call(pipe, size, seed) for seed in range(1 + rounds)]
        memory = memory_of(runs[0])
        times = []
        for run in runs[1:]:
            begun = time.process_time()
            run()
            times.append(time.process_time() - begun)
    return Point(grows, number, min(times), memory)


def apart(words: Sequence[str], grows: str, number: int) -> Point:
    """`measured` in a process of its own."""
    command = [sys.executable, __file__, *words, "--point", grows, str(number)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Point(**json.loads(done.stdout))


def picture(points: Sequence[Point]) -> Any:
    """A column for each thing that grows, time above and memory below, a matplotlib figure."""
    figure = plots.figure(2.6 * len(GROWING), 5)
    axes = figure.subplots(2, len(GROWING), squeeze=False)
    for column, name in enumerate(GROWING):
        here = [point for point in points if point.grows == name]
        rows = (
            ("processor time, s", [point.seconds for point in here]),
            ("memory, MB", [max(0.1, point.megabytes or 0.0) for point in here]),
        )
        for panel, (label, values) in zip(axes[:, column], rows, strict=True):
            panel.plot([point.size for point in here], values, "o-")
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xlabel(f"{name}, by length" if name == COUNT else name)
            panel.set_ylabel(label if column == 0 else "")
            panel.grid(alpha=0.3)
    return figure


def main(words: Sequence[str] | None = None) -> None:
    """Measure, write JSON Lines, and plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--most", type=int, default=2048, help="leave out points that are larger, the vocabulary apart")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="JSON Lines")
    parser.add_argument("--plot", help="a picture")
    parser.add_argument("--point", nargs=2, metavar=("GROWS", "SIZE"), help="one point alone, printed")
    a = parser.parse_args(words)
    if a.point:
        print(json.dumps(asdict(measured(a.point[0], int(a.point[1]), a.rounds, a.layers, a.width))))
        return
    if a.plot:
        plots.check(a.plot)
    wanted = [
        (name, size) for name, sizes in GROWING.items() for size in sizes if name == "vocabulary" or size <= a.most
    ]
    wanted += [("large", LARGE.length)] if a.most >= LARGE.length else []
    own = ["--layers", str(a.layers), "--width", str(a.width), "--rounds", str(a.rounds)]
    points = []
    with open(a.out, "w", encoding="utf-8") if a.out else contextlib.nullcontext(sys.stdout) as out:
        for name, size in tqdm(wanted):
            points.append(apart(own, name, size))
            print(json.dumps(asdict(points[-1])), file=out, flush=True)
    if a.plot:
        plots.save(picture(points), a.plot)


if __name__ == "__main__":
    main()
