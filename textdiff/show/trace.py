"""What happens while texts are drawn: the states of a run as texts, and on file as JSON Lines.

A trace is one JSON object a line.  The first is the header: `trace` (the number of this format), how the texts were drawn,
and their seeds.  Every other line is a shot: the texts of the batch that runs, which of the run's texts they are (`rows`),
how noisy they are (`level`), what each has cost (`forwards`), and which characters are new (`changed`, indices into the
text).  Lines are written whole and at once, so that a run that was stopped leaves a trace that can be read.
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
LIMIT = 1 << 53  # of the numbers in a trace: what every reader of JSON takes exactly
HOLE = "□"  # that of canvas.py, which would bring torch with it


class Framed(Protocol):
    """What is read of a `pipeline.Frame`."""

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
    """The texts of a running batch between two steps; its fields are the keys of a line."""

    rows: tuple[int, ...]  # which texts of the run these are
    texts: tuple[str, ...]  # □ where nothing stands yet
    level: float  # share of the free positions that is still corrupted, the highest of the batch
    forwards: tuple[int, ...]
    changed: tuple[tuple[int, ...], ...]  # of each text, the characters that are not what they were one shot before


@dataclass(frozen=True)
class Trace:
    """A trace as it stands on file."""

    header: Mapping[str, Any]
    shots: tuple[Shot, ...]

    def films(self) -> dict[int, list[tuple[str, Sequence[int], float, int]]]:
        """For each text, in order, its course: (text, changed characters, level, forwards)."""
        films: dict[int, list[tuple[str, Sequence[int], float, int]]] = {}
        for shot in self.shots:
            for row, text, spent, changed in zip(shot.rows, shot.texts, shot.forwards, shot.changed, strict=True):
                films.setdefault(row, []).append((text, changed, shot.level, spent))
        return dict(sorted(films.items()))


Onlooker = Callable[[Shot], object]


def changed(before: str, after: str) -> tuple[int, ...]:
    """The characters of `after` that are not those of `before`, as indices."""
    if len(before) == len(after):
        return tuple(k for k, (old, new) in enumerate(zip(before, after, strict=True)) if old != new)
    blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return tuple(k for tag, _, _, begin, stop in blocks if tag != "equal" for k in range(begin, stop))


def shots(frames: Iterable[Framed]) -> Iterator[Shot]:
    """The frames of a run, with what is new in each."""
    follow = follower()
    return (follow(frame) for frame in frames)


def follower() -> Callable[[Framed], Shot]:
    """Makes shots of the frames of a run, as they come: what is new is new since the last frame of the same texts."""
    rows: tuple[int, ...] = ()
    before: Sequence[str] = ()

    def follow(frame: Framed) -> Shot:
        nonlocal rows, before
        here = tuple(frame.rows) or tuple(range(len(frame.texts)))
        taken = shot(here, frame.texts, frame.level, frame.forwards, before if here == rows else ())
        rows, before = here, frame.texts
        return taken

    return follow


def shot(
    rows: Iterable[int], texts: Sequence[str], level: float, forwards: Sequence[int], before: Sequence[str] = ()
) -> Shot:
    """These `rows` of the run, one step after they were the texts `before`."""
    new = tuple(changed(old, text) for old, text in zip(before or texts, texts, strict=True))
    return Shot(tuple(rows), tuple(texts), level, tuple(forwards), new)


# -- on file --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def recording(path: str | os.PathLike[str], header: Mapping[str, Any]) -> Iterator[Onlooker]:
    """Writes a trace: the header at once, then each shot that it is handed."""
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
    """A trace from its file; an unfinished last line, which an interrupted run may leave, is passed over."""
    try:
        whole, line_break, rest = Path(path).read_bytes().rpartition(b"\n")
        text = (whole + line_break).decode("utf-8") + rest.decode(
            "utf-8", "replace"
        )  # cut off inside a character, perhaps
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
    """A trace from its lines."""
    lines = text.split("\n")
    whole, rest = lines[:-1], lines[-1]
    if rest and _is_json(rest):  # the last line break may have been lost on the way
        whole.append(rest)
    if not whole:
        raise AskedError(f"trace {name!r} is empty; its first line must be a header with 'trace': {FORMAT}")
    header = _object(whole[0], name, 1)
    if header.get("trace") != FORMAT:
        found = f"of format {reprlib.repr(header['trace'])}" if "trace" in header else "without 'trace'"
        raise AskedError(f"trace {name!r} line 1 is a header {found}, expected 'trace': {FORMAT}; record it anew")
    shots = tuple(_read_shot(_object(line, name, k), name, k) for k, line in enumerate(whole[1:], 2) if line.strip())
    return Trace(header, shots)


def _is_json(line: str) -> bool:
    return _value(line) is not None


def _value(line: str) -> Any:
    """The JSON value of a line, None where it has none or is nested too deeply."""
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
