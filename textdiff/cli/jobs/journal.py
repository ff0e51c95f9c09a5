"""A file of results that a second start goes on with.

A line is written for each job when it is done.  After any end the file has whole lines, and perhaps half a line, which the next start
cuts off; the jobs whose lines are there are done.  Beside the results FILE stands FILE.job, which says of what they are the
results (the jobs, the model, the flags): so FILE has nothing but results, and those of several shards can be joined with `cat`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from textdiff.cli.common import check_writable, writing
from textdiff.cli.jobs.reading import Survey, fingerprint
from textdiff.core.errors import AskedError

BLOCK = 1 << 16
AGAIN = "the same command goes on from here"


@dataclass(frozen=True, eq=False)
class Journal:
    """A file of results that is open, and what stands in it."""

    out: TextIO
    done: bytearray  # for each job of the file, whether its result is there
    total: int  # results that are there
    failed: int  # of these, errors


@contextlib.contextmanager
def journal(path: str, about: Mapping[str, Any], survey: Survey) -> Iterator[Journal]:
    """The results in `path`, to write more of them.

    AskedError where they are results of something else than `about` says, or where another process writes them now.
    """
    check_writable(path)
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise AskedError(f"{path!r} is no regular file, and no second start could go on with it; name another")
    begun = False
    try:
        with target.open("a", encoding="utf-8") as out:
            _lock(path, out)
            _agree(path, target, json.loads(json.dumps(about)))
            with target.open("rb") as file:
                os.truncate(target, _whole_lines(file))
            done, total, failed = _read(path, target, survey)
            begun = True
            yield Journal(out, done, total, failed)
            out.flush()
            os.fsync(out.fileno())
    except BaseException as error:
        if begun:
            error.add_note(AGAIN)
        raise


def _lock(path: str, out: TextIO) -> None:
    """AskedError where another process writes the results now; the end of a process lets go of them."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise AskedError(f"another process writes {path!r} now; wait for its end, or name another file") from None


def begun(path: str) -> dict[str, Any]:
    """What FILE.job says; nothing where it is not there, or damaged."""
    try:
        about = json.loads(Path(f"{path}.job").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _agree(path: str, target: Path, about: dict[str, Any]) -> None:
    """AskedError unless the results that are there are of what is asked for now."""
    beside = target.with_name(f"{target.name}.job")
    way_out = f"name another file, or remove {path!r} and {path + '.job'!r} to begin anew"
    if not beside.exists():
        if target.stat().st_size:
            raise AskedError(f"{path!r} is there, and no jobs have been begun in it; name another file, or remove it")
        with writing(str(beside)) as out:
            print(json.dumps(about, ensure_ascii=False), file=out)
        return
    try:
        before = json.loads(beside.read_text(encoding="utf-8"))
        changes = [name for name in {**before, **about} if before.get(name) != about.get(name)]
    except (ValueError, TypeError):
        raise AskedError(f"{path + '.job'!r} is damaged; {way_out}") from None
    if changes:
        what = ", ".join(_change(name, before.get(name), about.get(name)) for name in changes)
        raise AskedError(f"{path!r} was begun with something else: {what}; give the same, {way_out}")


def _change(name: str, before: Any, now: Any) -> str:
    long = any(isinstance(value, str) and len(value) == 64 for value in (before, now))
    return f"another {name}" if long else f"{name} was {_said(before)} and is {_said(now)}"


def _said(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)


def _whole_lines(file: BinaryIO) -> int:
    """The bytes of a file up to the end of its last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - BLOCK)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _read(path: str, target: Path, survey: Survey) -> tuple[bytearray, int, int]:
    """Which jobs are done, how many, and how many of them are errors."""
    import numpy as np

    found, failed = array("Q"), 0
    with target.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
                found.append(fingerprint(record))
            except (ValueError, AttributeError, RecursionError):
                raise AskedError(
                    f"{path!r} line {number} is no result; remove the line, and its job is done again"
                ) from None
            failed += "error" in record
    places = survey.places(np.frombuffer(found, dtype=np.uint64)) if found else np.zeros(0, dtype=int)
    if (strange := (places < 0).nonzero()[0]).size:
        raise AskedError(f"{path!r} line {strange[0] + 1} is the result of no job; remove the line")
    if len(np.unique(places)) < len(places):
        raise AskedError(f"{path!r} has two results of one job; remove one of them")
    done = np.zeros(survey.size, dtype=np.uint8)
    done[places] = 1
    return bytearray(done.tobytes()), len(found), failed
