"""The jobs of a file, and where each of them stands in it.

A job is known by its id, text or a whole number.  A job without one has the number of its line; a line that is no job at all is
known by that number alone, and its record says it as `line`.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textdiff.cli.common import log
from textdiff.core.errors import AskedError
from textdiff.pipeline.jobs.lines import identified, is_id

if TYPE_CHECKING:
    from textdiff.data.records import Record


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of a file of jobs before the work: 16 bytes for each of them."""

    sha256: str  # of the file
    size: int  # jobs
    keys: Any  # (jobs,) uint64, the fingerprints of their keys in ascending order
    numbers: Any  # (jobs,) the number in the file of each, from 0

    def places(self, keys: Any) -> Any:
        """The numbers of the jobs with these fingerprints; -1 where there is none."""
        import numpy as np

        at = np.searchsorted(self.keys, keys).clip(max=self.size - 1)
        return np.where(self.keys[at] == keys, self.numbers[at], -1)


def read_jobs(path: str) -> Iterator[Record]:
    """The jobs of a file with their ids and numbers, also the wrong ones; places are lines, since the file may move."""
    from textdiff.data.records import read

    records = read(path, note=lambda line: log(f"textdiff: {line}"), column=None)
    return (_identified(replace(record, number=k)) for k, record in enumerate(records))


def _identified(record: Record) -> Record:
    named = replace(identified(record, record.line), place=f"line {record.line}")
    return named if is_id(named.fields.get("id")) else replace(named, fields={**named.fields, "line": record.line})


def fingerprint(fields: Mapping[str, Any]) -> int:
    """64 bits of what a job, or its result, is known by.  Two of a million jobs share them by chance once in 30 million files."""
    given = fields.get("id")
    key = json.dumps(given, ensure_ascii=False) if is_id(given) else f"line {fields.get('line')}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def surveyed(path: str) -> Survey:
    """Read all jobs once; AskedError where two have one id."""
    import numpy as np

    if not Path(path).is_file():
        reason = "is no regular file" if Path(path).exists() else "does not exist"
        raise AskedError(f"input {path!r} {reason}; name a file of jobs, which is read again where the work goes on")
    found = array("Q", (fingerprint(record.fields) for record in read_jobs(path)))
    keys = np.frombuffer(found, dtype=np.uint64)
    numbers = keys.argsort(kind="stable")
    keys = keys[numbers]
    twice = (keys[1:] == keys[:-1]).nonzero()[0]
    if len(twice):
        second = int(numbers[twice + 1].min())
        first = int(numbers[np.searchsorted(keys, np.uint64(found[second]))])
        raise _twice(path, first, second)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Survey(digest, len(keys), keys, numbers)


def _twice(path: str, first: int, second: int) -> AskedError:
    lines = {}
    for record in read_jobs(path):
        if record.number in (first, second):
            lines[record.number] = (record.line, record.fields.get("id"))
        if record.number == second:
            break
    (a, _), (b, given) = lines[first], lines[second]
    return AskedError(f"{path!r} line {b} has the id of line {a}, {given!r}; give each job an id of its own")
