"""Timings of a start and of scoring, each beside what one would write or do first."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from textdiff.core.rng import Rng
from textdiff.measure import bench
from textdiff.measure.timing import turns
from textdiff.pipeline.text import TextPipeline

STARTS = {  # what a new interpreter is asked to do
    "import torch": "import torch",
    "import textdiff": "import textdiff",
    "--help": "from textdiff.cli import main; main(['--help'])",
    "first poem": "from textdiff.cli import main; main(['generate', '--quiet'])",
}


# A process says its peak itself: to its parent, that of the parent counts as well.
_PEAK = "print(open('/proc/self/status').read() if sys.platform == 'linux' else '', file=sys.stderr)"


@dataclass(frozen=True)
class Line:
    """One case; its fields are the keys of a JSON line."""

    case: str
    seconds: float  # median over rounds
    baseline: str  # which the ratio compares with, in the same round
    ratio: float  # median over rounds of the case's time over the baseline's; below 1 is faster
    lowest: float
    highest: float
    memory: float | None = None  # MB: the peak of a new process, or what the peak of this one grows by


Found = tuple[list[Line], str]  # and a sentence about other processes


def load(rounds: int = 5, progress: turns.Progress = lambda work: work) -> Found:
    """A start of the command in a new interpreter, up to what `STARTS` says, beside `import torch`."""
    memory: dict[str, float | None] = dict.fromkeys(STARTS)

    def started(name: str) -> Callable[[int], object]:
        code = f"import sys\ntry:\n    {STARTS[name]}\nfinally:\n    {_PEAK}"

        def run(seed: int) -> None:
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            peak = re.search(r"VmHWM:\s*(\d+)", done.stderr)
            memory[name] = int(peak[1]) / 1024 if peak else None

        return run

    times = turns.by_turns({name: started(name) for name in STARTS}, rounds, progress)
    return [_line(name, "import torch", times, memory[name]) for name in STARTS], turns.said_of_others(times.foreign)


def score(
    *,
    batch: int = 32,
    length: int = 56,
    levels: int = 4,
    rounds: int = 5,
    vocabulary: int = 8000,
    layers: int = 6,
    width: int = 384,
    progress: turns.Progress = lambda work: work,
) -> Found:
    """The bound of `batch` texts at `levels` levels each, beside a loop with all logits of as many masked texts."""
    text_model = bench.model(vocabulary, layers, width, length)
    with tempfile.TemporaryDirectory() as folder:
        text_model.save_pretrained(folder)
        pipe = TextPipeline.from_pretrained(folder)
    x0 = text_model.content[_uniform(batch, length, len(text_model.content))]
    texts = text_model.decode(x0)

    def plain(seed: int) -> None:
        network: Any = text_model.model
        with torch.no_grad():
            for k in range(levels):
                hidden = Rng(range(batch), stream=k).uniform(length) < (k + 0.5) / levels
                logits = network(input_ids=torch.where(hidden, text_model.mask_id, x0)).logits
                torch.nn.functional.cross_entropy(logits[hidden], x0[hidden])

    def ours(seed: int) -> None:
        pipe.score(texts, levels=levels, repeats=1)

    return beside({"plain": plain, "textdiff": ours}, rounds, progress)


def _uniform(rows: int, columns: int, size: int) -> Tensor:
    """Numbers below `size`, (rows, columns)."""
    return Rng(range(rows)).integers(torch.full((rows, columns), size))


def beside(
    cases: dict[str, Callable[[int], object]], rounds: int, progress: turns.Progress = lambda work: work
) -> Found:
    """The cases beside the one that is called "plain"."""
    times = turns.by_turns(cases, rounds, progress)
    lines = [_line(name, "plain", times, turns.memory_of(lambda run=run: run(0))) for name, run in cases.items()]  # type: ignore[misc]
    return lines, turns.said_of_others(times.foreign)


def _line(name: str, baseline: str, times: turns.Times, memory: float | None) -> Line:
    ratios = [1 / ratio for ratio in times.ratios(name, baseline)]
    return Line(name, times.median(name), baseline, median(ratios), min(ratios), max(ratios), memory)
