"""The losses and bounds of training runs, read from their `log.jsonl`: as rows, and as curves beside each other."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from textdiff.core.errors import AskedError
from textdiff.measure import plots

OVER = {"tokens": "tokens seen", "steps": "steps", "minutes": "minutes of training"}
LOSS = "loss"
_HELD_OUT, _ERROR = "eval_", "_standard_error"


@dataclass(frozen=True)
class Reading:
    """One figure at one step of a run."""

    run: str
    step: int
    tokens: int
    minutes: float
    figure: str  # "loss", or the name of a bound on held-out texts, such as "mask_bound"
    value: float
    standard_error: float | None  # of a bound

    def row(self) -> dict[str, Any]:
        """For a table."""
        return asdict(self)


def readings(folder: str | Path) -> list[Reading]:
    """All figures of a run, in the order of its log; AskedError where the folder is not that of a run."""
    path = Path(folder) / "log.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise AskedError(
            f"{folder} holds no log of a run ({error.strerror}); pass the folder that `out` names"
        ) from None
    return [reading for line in lines for reading in _readings(str(folder), line)]


def _readings(run: str, line: str) -> Iterator[Reading]:
    try:
        record = json.loads(line)
        step, tokens, minutes = record["step"], record["tokens"], record["seconds"] / 60
    except (ValueError, KeyError, TypeError):  # a line that a kill has cut
        return
    for key, value in record.items():
        bound = key.startswith(_HELD_OUT) and not key.endswith(_ERROR)
        if (bound or key == LOSS) and value is not None:
            error = record.get(f"{key.rsplit('_', 1)[0]}{_ERROR}") if bound else None
            yield Reading(run, step, tokens, minutes, key.removeprefix(_HELD_OUT), value, error)


def write(found: Sequence[Reading], file: TextIO) -> None:
    """Write figures as csv."""
    table = csv.DictWriter(file, [field.name for field in fields(Reading)], lineterminator="\n")
    table.writeheader()
    table.writerows(reading.row() for reading in found)


def plot(folders: Sequence[str | Path], path: str | Path, over: str = "tokens") -> None:
    """Draw the losses and the held-out figures of runs over `OVER`, a curve for each run and figure; needs matplotlib."""
    if over not in OVER:
        raise AskedError(f"over is {over!r}; pass one of {', '.join(OVER)}")
    plots.check(path)
    runs = {str(folder): readings(folder) for folder in folders}
    if not any(runs.values()):
        raise AskedError(f"there is no loss yet in {', '.join(runs)}; a run writes one every run.log_every steps")
    figure = plots.figure(9.0, 3.8)
    losses, bounds = figure.subplots(1, 2)
    for run, found in runs.items():
        for name in dict.fromkeys(reading.figure for reading in found):
            rows = [reading for reading in found if reading.figure == name]
            axis = losses if name == LOSS else bounds
            x = [reading.step if over == "steps" else getattr(reading, over) for reading in rows]
            y, label = [reading.value for reading in rows], " ".join([run] * (len(runs) > 1) + [name])
            if name == LOSS:
                axis.plot(x, y, lw=1, label=label)
            else:
                reach = [1.96 * (reading.standard_error or 0.0) for reading in rows]
                axis.errorbar(x, y, reach, fmt="o-", ms=3, capsize=2, label=label)
    for axis, title in ((losses, "loss of the steps"), (bounds, "held-out texts, with 95 % intervals")):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(OVER[over], fontsize=8)
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend(fontsize=7)
    plots.save(figure, path)
