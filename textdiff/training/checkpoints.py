"""The checkpoints of a run: folders that are whole, or do not count.

A checkpoint is a model folder (raw weights, float32) with `training.safetensors`, or `shards/` of a divided network, and
`training.json` (optimiser, rate, averaged weights), `trainer_state.json` and the run's `recipe.yaml`.  It is written under a
hidden name, sealed by `complete.json` (data/sealed.py) when all else is on the disk, and then renamed: a stop at any instant
leaves a whole checkpoint, or a hidden folder that the next start removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from textdiff.core.errors import AskedError, TextdiffError
from textdiff.data import sealed

NAME = "complete.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk says, a full quota, a limit on the size of files


@dataclass(frozen=True)
class Found:
    """What a run's folder holds: the newest checkpoint that is whole, and what is wrong with the others."""

    newest: Path | None
    damaged: tuple[str, ...]  # of the checkpoints that are newer: what is wrong with each
    strange: tuple[str, ...]  # names that are like those of checkpoints and are none


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints(run: Path) -> list[Path]:
    """The folders called checkpoint-<step>, whole or not, in the order of their steps."""
    named = [path for path in run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-[0-9]+", path.name)]
    return sorted((path for path in named if path.is_dir()), key=step_of)


def find(run: Path) -> Found:
    """The newest whole checkpoint of a run; every file of it, and of those that are newer, is read through."""
    known = checkpoints(run)
    strange = sorted(path.name for path in run.glob("checkpoint-*") if path not in known)
    damaged: list[str] = []
    for folder in reversed(known):
        fault = sealed.damage(folder, NAME)
        if fault is None:
            return Found(folder, tuple(damaged), tuple(strange))
        damaged.append(f"{folder.name} is damaged ({fault})")
    return Found(None, tuple(damaged), tuple(strange))


def about(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: step, seconds, tokens, data."""
    return sealed.about(checkpoint, NAME)


def hidden(run: Path, step: int) -> Path:
    """Where checkpoint-<step> is written until it is whole."""
    return run / f".checkpoint-{step}.new"


@contextlib.contextmanager
def writing(run: Path, step: int, about: dict[str, Any], *, keep: int, best: int | None = None) -> Iterator[Path]:
    """A hidden folder that becomes checkpoint-<step> when the block ends well.

    Of the checkpoints the newest `keep` are left then, and that of step `best`.
    """
    folder, new = run / f"checkpoint-{step}", hidden(run, step)
    try:
        with room(run, f"checkpoint-{step}"):
            shutil.rmtree(new, ignore_errors=True)
            yield new
            sealed.seal(new, NAME, about)
            if folder.exists():
                shutil.rmtree(folder)
            new.rename(folder)
            sealed.sync(run)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for old in checkpoints(run)[:-keep]:
        if step_of(old) != best:
            remove(old)


@contextlib.contextmanager
def room(run: Path, what: str) -> Iterator[None]:
    """Say plainly that the disk is full, where it is."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        match = re.search(
            r"(?:os error|Os \{ code:) ([0-9]+)", str(error)
        )  # so safetensors passes on what the system said
        number = int(match[1]) if match else getattr(error, "errno", None)
        if number not in FULL:
            raise
        raise TextdiffError(
            f"{what} cannot be written to {str(run)!r} ({os.strerror(number)}); make room, and give the same command "
            f"again: it goes on from the newest checkpoint there"
        ) from error


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its seal first, so that half of one is never taken for whole."""
    (checkpoint / NAME).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def tidy(run: Path, after: int) -> None:
    """Remove what killed runs have left half-written, and the checkpoints after step `after`, which is trained again."""
    for path in run.glob(".*checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in checkpoints(run):
        if step_of(path) > after:
            remove(path)


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """Hold the run's folder; AskedError where another process trains in it."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    handle = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise AskedError(f"another process trains in {str(run)!r}; wait until it ends, or pass out=OTHER") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)
