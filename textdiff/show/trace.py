"""The states of a run as texts, while it draws them, and in a file of JSON Lines.

A trace file has one JSON object on each line.  The first is the header: `trace` (the number of this format), the options of the
run, and the seeds of its texts.  Every other line is a shot: the texts of the current batch (`texts`), their numbers among the
texts of the run (`rows`), how noisy they are (`level`), how many forwards each has cost (`forwards`), and which characters are
new (`changed`, indices into the text).  Each line is written at once and as a whole, so that a run that is stopped leaves a
trace that can be read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from textdiff.core.errors import AskedError

FORMAT = 1
LIMIT = 1 << 53  # numbers in a trace are smaller, so that every reader of JSON reads them exactly
HOLE = "□"  # the sign of canvas.py, which would import torch


class Framed(Protocol):
    """The part of a `pipeline.Frame` that this module reads."""

    @property
    def texts(self) -> Sequence[str]: ...
    @property
    def level(self) -> float: ...
    @property
    def forwards(self) -> Sequence[int]: ...
    @property
    def rows(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Shot:
    """The texts of the current batch between two steps; its fields are the keys of a line."""

    rows: tuple[int, ...]  # the numbers of these texts in the run
    texts: tuple[str, ...]  # with □ where no character stands yet
    level: float  # the share of free positions that are still corrupted, the highest one of the batch
    forwards: tuple[int, ...]
    changed: tuple[tuple[int, ...], ...]  # of each text, the characters that differ from the shot before


@dataclass(frozen=True)
class Trace:
    """The content of a trace file."""

    header: Mapping[str, Any]
    shots: tuple[Shot, ...]

    def films(self) -> dict[int, list[tuple[str, Sequence[int], float, int]]]:
        """The states of each text, in the order of the texts: (text, changed characters, level, forwards)."""
        films: dict[int, list[tuple[str, Sequence[int], float, int]]] = {}
        for shot in self.shots:
            for row, text, cost, changed in zip(shot.rows, shot.texts, shot.forwards, shot.changed, strict=True):
                films.setdefault(row, []).append((text, changed, shot.level, cost))
        return dict(sorted(films.items()))


Onlooker = Callable[[Shot], object]


def changed(before: str, after: str) -> tuple[int, ...]:
    """The indices of the characters of `after` that are new since `before`."""
    if len(before) == len(after):
        return tuple(k for k, (old, new) in enumerate(zip(before, after, strict=True)) if old != new)
    blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return tuple(k for tag, _, _, begin, stop in blocks if tag != "equal" for k in range(begin, stop))


def shots(frames: Iterable[Framed]) -> Iterator[Shot]:
    """The frames of a run as shots."""
    follow = follower()
    return (follow(frame) for frame in frames)


def follower() -> Callable[[Framed], Shot]:
    """A function that turns the frames of a run, in their order, into shots.

    A character is new if it differs from the frame before, where that has the same texts.
    """
    rows: tuple[int, ...] = ()
    before: Sequence[str] = ()

    def follow(frame: Framed) -> Shot:
        nonlocal rows, before
        current = tuple(frame.rows) or tuple(range(len(frame.texts)))
        result = shot(current, frame.texts, frame.level, frame.forwards, before if current == rows else ())
        rows, before = current, frame.texts
        return result

    return follow


def shot(
    rows: Iterable[int], texts: Sequence[str], level: float, forwards: Sequence[int], before: Sequence[str] = ()
) -> Shot:
    """The shot of these `rows` of the run, whose texts were `before` in the shot before."""
    new = tuple(changed(old, text) for old, text in zip(before or texts, texts, strict=True))
    return Shot(tuple(rows), tuple(texts), level, tuple(forwards), new)


# -- files ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def recording(path: str | os.PathLike[str], header: Mapping[str, Any]) -> Iterator[Onlooker]:
    """Writes a trace: the header at once, and then each shot that the returned function gets."""
    try:
        stream = Path(path).open("w", encoding="utf-8", newline="\n")  # noqa: SIM115  (closed below)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"cannot write the trace {str(path)!r} ({reason}); name a file in a folder that can be written"
        ) from error
    with stream:
        _line(stream, {"trace": FORMAT} | dict(header))
        yield lambda shot: _line(stream, dataclasses.asdict(shot))


def _line(stream: TextIO, value: Mapping[str, Any]) -> None:
    stream.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    stream.flush()


def read(path: str | os.PathLike[str]) -> Trace:
    """The trace in a file.  A last line that is incomplete, because the run was interrupted, is ignored."""
    try:
        whole, line_break, rest = Path(path).read_bytes().rpartition(b"\n")
        text = (whole + line_break).decode("utf-8") + rest.decode(
            "utf-8", "replace"
        )  # the file may end inside a character
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise AskedError(
            f"trace {str(path)!r} line {number} is not UTF-8; pass a file that --trace has written"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AskedError(f"trace {str(path)!r} cannot be read ({reason}); pass a file of --trace") from error
    return parse(text, str(path))


def parse(text: str, name: str = "trace") -> Trace:
    """The trace in a text of lines; `name` stands in errors."""
    lines = text.split("\n")
    whole, rest = lines[:-1], lines[-1]
    if rest and _is_json(rest):  # the last line break may have been lost on the way
        whole.append(rest)
    if not whole:
        raise AskedError(f"trace {name!r} is empty; its first line must be a header with 'trace': {FORMAT}")
    header = _object(whole[0], name, 1)
    if header.get("trace") != FORMAT:
        fault = f"of format {reprlib.repr(header['trace'])}" if "trace" in header else "without 'trace'"
        raise AskedError(f"trace {name!r} line 1 is a header {fault}, expected 'trace': {FORMAT}; record it again")
    shots = tuple(_read_shot(_object(line, name, k), name, k) for k, line in enumerate(whole[1:], 2) if line.strip())
    return Trace(header, shots)


def _is_json(line: str) -> bool:
    return _value(line) is not None


def _value(line: str) -> Any:
    """The JSON value of a line; None if the line is not JSON or is nested too deeply."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _object(line: str, name: str, number: int) -> dict[str, Any]:
    value = _value(line)
    if not isinstance(value, dict):
        raise _broken(name, number, "is no JSON object")
    return value


def _read_shot(value: Mapping[str, Any], name: str, number: int) -> Shot:
    try:
        shot = Shot(
            rows=tuple(map(_whole, _list(value["rows"]))),
            texts=tuple(map(_text, _list(value["texts"]))),
            level=_number(value["level"]),
            forwards=tuple(map(_whole, _list(value["forwards"]))),
            changed=tuple(tuple(map(_whole, _list(places))) for places in _list(value["changed"])),
        )
    except KeyError as error:
        raise _broken(name, number, f"has no {error}") from None
    except ValueError as error:
        raise _broken(name, number, f"is no state of texts ({error})") from None
    if len({len(shot.rows), len(shot.texts), len(shot.forwards), len(shot.changed)}) > 1 or not shot.rows:
        raise _broken(name, number, "does not have a row, a text, forwards and changed characters for each text")
    if not 0 <= shot.level <= 1:
        raise _broken(name, number, f"has level {shot.level}, expected 0 to 1")
    if not all(k < len(text) for text, places in zip(shot.texts, shot.changed, strict=True) for k in places):
        raise _broken(name, number, "names changed characters outside their text")
    return shot


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise AskedError(f"{reprlib.repr(value)} is no list")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LIMIT:
        raise AskedError(f"{reprlib.repr(value)} is no count")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) >= LIMIT:
        raise AskedError(f"{reprlib.repr(value)} is no number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise AskedError(f"{reprlib.repr(value)} is no text")
    value.encode()  # half a surrogate pair could be read, but never written
    return value


def _broken(name: str, number: int, what: str) -> AskedError:
    return AskedError(f"trace {name!r} line {number} {what}; mend or remove it")
