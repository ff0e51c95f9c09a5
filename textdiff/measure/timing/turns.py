"""Timings on a machine that others use, too: the cases take turns, and what others did meanwhile is said.

A ratio compares times of one round, so that a busy moment slows both sides down; what is reported is its median over the rounds,
with its extremes.  Absolute times depend on the machine and on whatever else it does.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

BUSY = 0.05  # the share of others from which on it is worth a sentence
NETWORK = ("encode", "logits")  # functions of lean/network.py in which a text's network is computed
_IDLE = (3, 4)  # fields of /proc/stat: idle, and waiting for a disk

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Times:
    """Seconds of each case, round by round, and the share of all processor time that other processes took (None: unknown)."""

    seconds: dict[str, list[float]]
    foreign: float | None

    def median(self, case: str) -> float:
        return median(self.seconds[case])

    def ratios(self, case: str, baseline: str) -> list[float]:
        """How many times as fast as the baseline a case was, round by round."""
        return [b / a for a, b in zip(self.seconds[case], self.seconds[baseline], strict=True)]


def by_turns(
    cases: Mapping[str, Callable[[int], object]], rounds: int, progress: Progress = lambda work: work
) -> Times:
    """Times of functions of a round's number; round 0 warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    before = _spent()
    for k in progress(range(rounds + 1)):
        for name, case in cases.items():
            start = time.perf_counter()
            case(k)
            if k:
                seconds[name].append(time.perf_counter() - start)
    return Times(seconds, _foreign(before, _spent()))


def _spent() -> tuple[float, float, float] | None:
    """Seconds of processor time since the start: of all processors, of those the busy ones, of this process and its children."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    tick, own = os.sysconf("SC_CLK_TCK"), os.times()
    busy = sum(fields) - sum(fields[k] for k in _IDLE)
    return sum(fields) / tick, busy / tick, own.user + own.system + own.children_user + own.children_system


def _foreign(before: tuple[float, float, float] | None, after: tuple[float, float, float] | None) -> float | None:
    if before is None or after is None or after[0] <= before[0]:
        return None
    whole, busy, own = (b - a for a, b in zip(before, after, strict=True))
    return min(1.0, max(0.0, (busy - own) / whole))


def said_of_others(foreign: float | None) -> str:
    """A sentence about the other processes."""
    if foreign is None:
        return "what other processes did meanwhile is unknown here; compare ratios, not times"
    took = f"other processes took {foreign:.0%} of the processors meanwhile"
    return took if foreign < BUSY else f"{took}: compare ratios, not times, and repeat it on an idle machine"


def profiled(run: Callable[[], object]) -> tuple[int, float]:
    """Of a run with textdiff's own network: how often the network was evaluated, and the share of time outside of it."""
    profile = cProfile.Profile()
    profile.runcall(run)
    calls, inside, whole = 0, 0.0, 0.0
    found: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for (file, _, name), (_, count, own, cumulative, _) in found.items():
        whole += own
        if name in NETWORK and file.endswith(str(Path("lean") / "network.py")):
            inside += cumulative
            calls += count if name == NETWORK[0] else 0
    return calls, max(0.0, 1 - inside / whole) if whole else 0.0


def memory_of(run: Callable[[], object]) -> float | None:
    """By how many MB the peak of the process's memory grew over what it held before, where Linux lets us ask."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        run()
        return max(0.0, _status("VmHWM") - before)
    except (OSError, StopIteration):
        return None


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024
