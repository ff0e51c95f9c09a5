"""Many texts through one verb: read as they are needed, worked on in chunks, written in their order as they are done.

What a record says and a result does not is passed on (`pipeline.jobs.lines.joined`).

A wrong record ends the work with its file and line (--on-error stop), after what stands before it was written.  With --on-error
skip it becomes {"error": …, its keys} in its place among JSON Lines, or a line of --rejects FILE, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from textdiff.cli.common import Exit, Parser, check_apart, check_writable, log, progress_bar, writing
from textdiff.core.errors import AskedError, TextdiffError
from textdiff.pipeline.jobs.apart import apart
from textdiff.pipeline.jobs.lines import joined
from textdiff.verse.names import dynasty_of

if TYPE_CHECKING:
    from textdiff.data.records import Record

CHUNKS = (
    16,
    64,
    256,
)  # records worked on together: few at first, so that something is seen soon; then the last of them
SHOWN = 10  # messages about wrong records that are shown one by one

Work = Callable[["list[Record]"], Sequence[Any]]  # the results of some records, or an AskedError
Stream = Callable[
    [Iterator[Mapping[str, Any]]], Iterator[Any]
]  # gives what a call makes of each record, in their order
Show = Callable[["Record", Any, TextIO], None]  # writes the result of a record


def bulk_flags(p: Parser) -> None:
    p.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        help="at a wrong record: end, or go on without it (stop)",
    )
    p.add_argument(
        "--rejects", metavar="FILE", help="with --on-error skip: write the wrong records here, as JSON Lines"
    )


def incoming(a: argparse.Namespace) -> Iterator[Record]:
    """The texts of the command line, of --file or of stdin.  The first is read at once, so that a mistake is said early."""
    from textdiff.data.decoding import fault_of as wrong_in
    from textdiff.data.decoding import printable
    from textdiff.data.records import Record

    if a.text and a.file:
        raise AskedError("both TEXT and --file are given; pass one of them")
    if a.rejects and a.on_error != "skip":
        raise AskedError("--rejects FILE takes the records that are skipped; pass --on-error skip with it")
    drawn = {name: getattr(a, name, None) for name in ("trace", "svg", "png")}
    check_apart(a.file, out=a.out, rejects=a.rejects, **drawn)
    check_writable(a.out)
    check_writable(a.rejects)
    if a.text:
        many = len(a.text) > 1
        faults = [wrong_in(text) for text in a.text]
        return iter(
            [
                Record({"text": printable(text) if fault else text}, f"text {k + 1}" if many or fault else "", fault, k)
                for k, (text, fault) in enumerate(zip(a.text, faults, strict=True))
            ]
        )
    if a.file is None and sys.stdin.isatty():
        raise AskedError("there is no text; pass TEXT, --file FILE, or pipe it in")
    records = opened(sys.stdin if a.file in (None, "-") else a.file, a.on_error)
    return (replace(record, number=k) for k, record in enumerate(records))


def opened(source: Any, on_error: str | None = None) -> Iterator[Record]:
    """The records of a source, of which the first is read at once."""
    from textdiff.data.records import read

    records = read(source, note=lambda line: log(f"textdiff: {line}"))
    first = next(records)
    if on_error != "skip" and first.error is not None:
        raise fault_of(first)
    return itertools.chain([first], records)


def fault_of(record: Record, error: AskedError | None = None) -> AskedError:
    """What is wrong with a record, or what a verb found wrong with its text, with the file and line."""
    if error is None:
        return AskedError(f"{record.place} {record.error}")
    return AskedError(f"{record.place}: {error}" if record.place else str(error))


def results(records: Iterator[Record], work: Work, skip: bool) -> Iterator[tuple[Record, Any]]:
    """Each record with its result, or with its AskedError where `skip`; else the error is raised when its turn comes."""
    for size in itertools.chain(CHUNKS, itertools.repeat(CHUNKS[-1])):
        chunk = list(itertools.islice(records, size))
        if not chunk:
            return
        for record, result in _attempt(chunk, work, skip):
            if isinstance(result, AskedError) and not skip:
                raise result
            yield record, result


def _attempt(chunk: list[Record], work: Work, skip: bool) -> list[tuple[Record, Any]]:
    """The results of a chunk; those before a wrong record are there, and with `skip` those after it."""
    sound = list(itertools.takewhile(lambda record: record.error is None, chunk))
    if len(sound) < len(chunk):
        wrong, rest = chunk[len(sound)], chunk[len(sound) + 1 :]
        done = [*(_attempt(sound, work, skip) if sound else []), (wrong, fault_of(wrong))]
        return done + (_attempt(rest, work, skip) if rest and skip else [])
    return [
        (record, fault_of(record, result) if isinstance(result, AskedError) else result)
        for record, result in apart(chunk, work, skip)
    ]


class Rejects(contextlib.AbstractContextManager["Rejects"]):
    """The records that are wrong: counted, and written to --rejects FILE, or said on stderr."""

    def __init__(self, a: argparse.Namespace):
        self.a, self.failed, self.total = a, 0, 0
        self.stack = contextlib.ExitStack()
        self.file = self.stack.enter_context(writing(a.rejects, keep=True)) if a.rejects else None

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def take(self, record: Record, error: TextdiffError, place: TextIO | None = None) -> None:
        """`place` is where the record's result would have stood, as a line of JSON."""
        self.failed += 1
        out = place if self.file is None else self.file
        if out is not None:
            print(joined({"error": str(error)}, record.fields), file=out, flush=True)
        elif self.failed <= SHOWN:
            log(f"textdiff: {error}")

    def sound(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records that are not wrong; the first wrong one raises unless it is to be skipped."""
        for record in records:
            self.total += 1
            if record.error is None:
                yield record
            elif self.a.on_error == "skip":
                self.take(record, fault_of(record))
            else:
                raise fault_of(record)

    def ended(self) -> int:
        """The exit code, after what became of the records is said."""
        if not self.failed:
            return Exit.DONE
        where = f"; they are in {self.a.rejects!r}" if self.a.rejects else ""
        log(f"textdiff: {self.failed} of {self.total} records were skipped, as they are wrong{where}")
        return Exit.FAILED


def through(
    a: argparse.Namespace,
    records: Iterable[tuple[Record, Any]],
    show: Show,
    unit: str = "text",
    total: int | None = None,
    end: Callable[[TextIO], object] = lambda out: None,
    to: contextlib.AbstractContextManager[TextIO] | None = None,
    before: tuple[int, int] = (0, 0),
    bar: Any = None,
) -> int:
    """Write the result of every record, in order, and then what `end` writes; the exit code.

    They are written to --out, or to `to`.  before: the records that were done in an earlier start, and how many of them were wrong.
    bar: one that the work itself moves on.
    """
    as_json = getattr(a, "json", False) or getattr(a, "format", "text") == "jsonl"
    place = writing(a.out, keep=True) if to is None else to
    with place as out, Rejects(a) as rejects, progress_bar(a, total, unit) if bar is None else bar as shown:
        rejects.total, rejects.failed = before
        for record, result in records:
            rejects.total += 1
            if isinstance(result, TextdiffError):
                rejects.take(record, result, out if as_json else None)
            else:
                show(record, result, out)
                out.flush()
            if bar is None or isinstance(result, TextdiffError):
                shown.update()
        end(out)
    return rejects.ended()


def forms_of(chunk: Sequence[Record], form: str | None) -> list[str | None]:
    """The form of each record: what was asked for all of them, or its own."""
    return [form or record.get("form") for record in chunk]


def seeds_of(chunk: Sequence[Record], seed: int | None) -> list[int]:
    """The seed of each record: that of the flag and its number, or its own, or its number."""
    own = [record.get("seed") if seed is None else None for record in chunk]
    return [(seed or 0) + record.number if mine is None else mine for record, mine in zip(chunk, own, strict=True)]


def one_by_one(
    records: Iterable[Record], stream: Stream, ask: Callable[[Record], Mapping[str, Any]], skip: bool
) -> Iterator[tuple[Record, Any]]:
    """`results` of a library call that takes any number of records, and gives a result or an AskedError for each, in their order.

    `ask` makes of a record what the call is given.
    """
    waiting: deque[tuple[Record, AskedError | None]] = deque()

    def asked() -> Iterator[Mapping[str, Any]]:
        for record in records:
            try:
                found = None if record.error else ask(record)
                waiting.append((record, fault_of(record) if record.error else None))
            except AskedError as error:
                found = None
                waiting.append((record, fault_of(record, error)))
            if found is not None:
                yield found
            elif not skip:
                return

    def wrong() -> Iterator[tuple[Record, Any]]:
        """The records at the head of the queue that the call was not given."""
        while waiting and (error := waiting[0][1]) is not None:
            record, _ = waiting.popleft()
            if not skip:
                raise error
            yield record, error

    for result in stream(asked()):
        yield from wrong()
        record, _ = waiting.popleft()
        if isinstance(result, AskedError):
            result = fault_of(record, result)
            if not skip:
                raise result
        yield record, result
    yield from wrong()


class Conditions:
    """What a model is told of records: their titles and dynasties, where it can be told them."""

    def __init__(self, model: Any):
        self.model, self.warned = model, False

    def of(self, chunk: Sequence[Record]) -> dict[str, list[str | None]]:
        from textdiff.networks.tokenization import title_characters

        said = {}
        for name, usual in (("title", title_characters), ("dynasty", dynasty_of)):
            values = [record.get(name) for record in chunk]
            values = [value if value is not None and usual(value) else None for value in values]
            if any(values) and name not in self.model.told:
                self._warn(name)
            elif any(values):
                said[name] = [dynasty_of(v) if v and name == "dynasty" else v for v in values]
        return said

    def _warn(self, name: str) -> None:
        if not self.warned:
            log(
                f"textdiff: model {self.model.name} cannot be told a {name}; what the records say of it is passed on only"
            )
        self.warned = True


class Unread:
    """Says once that texts may have traditional characters, which are not read where OpenCC is missing."""

    def __init__(self, unread: Callable[[str], str]):
        self.unread, self.said = unread, False

    def looked(self, record: Record) -> Record:
        """The record itself."""
        if not self.said and (characters := self.unread(record.text)):
            self._say(record, characters)
        return record

    def _say(self, record: Record, characters: str) -> None:
        self.said = True
        which = ", ".join(map(repr, characters[:3])) + (", …" if len(characters) > 3 else "")
        log(
            f"textdiff: {record.place or 'the text'} has characters that are unknown here ({which}); if they are traditional "
            f"ones, install OpenCC, which reads them (pip install 'textdiff[zh]')"
        )


def separated() -> Callable[[str, TextIO], None]:
    """Writes texts one after another, with an empty line around a text of several lines."""
    before: str | None = None

    def write(text: str, out: TextIO) -> None:
        nonlocal before
        apart = before is not None and ("\n" in text or "\n" in before)
        out.write(("\n" if apart else "") + text + "\n")
        before = text

    return write
