"""Folders with a description that is written last and has the size and the checksum of every other file, in folders inside, too.

A folder without its description was never finished.  `damage` names a file that was cut, emptied, changed or lost later.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any


def seal(folder: Path, name: str, about: dict[str, Any]) -> None:
    """Write `about` and the list of the files to the description `name`, after all these files are on the disk."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / name):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = [path.stat().st_size, checksum(path)]
    for inside in (p for p in folder.rglob("*") if p.is_dir()):
        sync(inside)
    with (folder / name).open("w", encoding="utf-8") as described:
        json.dump(about | {"files": files}, described, ensure_ascii=False)
        described.flush()
        os.fsync(described.fileno())
    sync(folder)


def sync(folder: Path) -> None:
    """Write the names in a folder to the disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def about(folder: Path, name: str) -> dict[str, Any]:
    """The description of a folder, as `seal` wrote it."""
    description: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return description


def damage(folder: Path, name: str) -> str | None:
    """The fault of the first file that has changed since the folder was sealed; None if no file has."""
    try:
        files = [(file, int(size), int(check)) for file, (size, check) in about(folder, name)["files"].items()]
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{name} is damaged"
    for file, size, check in files:
        path = folder / file
        if not path.is_file():
            return f"{file} is missing"
        there = path.stat().st_size
        if there != size:
            return f"{file} has {there} of its {size} bytes"
        if checksum(path) != check:
            return f"{file} was changed after it was written"
    return None


def checksum(path: Path) -> int:
    """CRC-32 of a file, read a piece at a time."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
