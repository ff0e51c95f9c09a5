"""The one reader of texts: it reads any source, one record after another.

    JSON Lines         objects with a `text`
    plain text         one text a line; a poem may run over the lines of a paragraph
    a table            with a column `text`: csv, Parquet, a folder of `datasets`, a data set of the hub (tables.py)

The beginning of the source decides its kind.  Only the current record is in memory.  A record keeps all its keys; we check
`form`, `title`, `dynasty` and `seed`, since every verb relies on them.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from textdiff.core.errors import AskedError
from textdiff.data import tables
from textdiff.data.decoding import (
    LONGEST,
    Line,
    Note,
    beginning,
    blocks_of,
    decoded,
    fault_of,
    guarded,
    lines_of,
    pieces_of,
    printable,
)
from textdiff.verse.forms import HOLE, guess_form, tune_of_shape

CONDITIONS = ("title", "dynasty")  # keys of a record that a model may be conditioned on
DEEPEST = 64  # levels of brackets that a record may have
PARAGRAPH = 64  # lines that a poem may have; in a longer paragraph each line is a text

Source = str | os.PathLike[str] | io.IOBase | Iterable[str]  # a path or a name of the hub, an open stream, lines


@dataclass(frozen=True)
class Record:
    """One text with all its keys, its place in the source, and its fault, if it has one."""

    fields: Mapping[str, Any]
    place: str  # 'poems.jsonl' line 7
    error: str | None = None  # None: the record is sound, and has a `text` where one is needed
    number: int = 0  # among the records of its source, where the reader counts them
    line: int = 0  # of a file of JSON Lines, from 1

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    @property
    def text(self) -> str:
        return str(self.fields["text"])

    def get(self, key: str) -> Any:
        """The value of a key; None where it is missing or empty."""
        value = self.fields.get(key)
        return None if value == "" else value


def read(
    source: Source, note: Note | None = None, longest: int | None = LONGEST, column: str | None = "text"
) -> Iterator[Record]:
    """The records of a source, also wrong ones.  AskedError for a source that cannot be read or has no record.

    `note` is called with each remark on the source that people may want to read.  `longest` is how many characters a line may
    have, and `column` is the key of the texts; None: the source is JSON Lines, whose records need no text.
    """
    name = name_of(source)
    empty = True
    for record in guarded(name, _records(source, name, note, longest, column)):
        yield record
        empty = False
    if empty:
        raise AskedError(f"{name} is empty; pass at least one text")


def records(
    source: Source, note: Note | None = None, longest: int | None = LONGEST, column: str = "text"
) -> Iterator[Record]:
    """The records of a source.  AskedError at the first wrong one, with its file and line."""
    for record in read(source, note, longest, column):
        if record.error is not None:
            raise AskedError(f"{record.place} {record.error}")
        yield record


def read_records(source: Source, note: Note | None = None) -> list[dict[str, Any]]:
    """All records of a source with all their keys, in memory."""
    return [dict(record.fields) for record in records(source, note)]


def pieces(
    path: str | os.PathLike[str], limit: int | None = None, note: Note | None = None, column: str = "text"
) -> Iterator[str]:
    """Running text, a piece at a time: plain text without changes, or the texts of the records with line breaks between them.

    `limit` is a number of lines, or of records.
    """
    if _is_plain(path, column):
        yield from guarded(name_of(path), _plain_pieces(path, limit, note))
        return
    for number, record in enumerate(itertools.islice(records(path, note, longest=None, column=column), limit)):
        yield ("\n" if number else "") + record.text


def name_of(source: Source) -> str:
    """The name of a source in messages: its path in quotes, stdin, or input."""
    if isinstance(source, (str, os.PathLike)):
        return repr(str(source))
    return "stdin" if source is sys.stdin else "input"


# -- kinds ----------------------------------------------------------------------------------------------------------------


def _records(source: Source, name: str, note: Note | None, longest: int | None, column: str | None) -> Iterator[Record]:
    if column is not None and (rows := _table(source, name, column)) is not None:
        for number, row in rows:
            yield checked(_named(dict(row), column), f"{name} row {number}")
        return
    with _opened(source, name, note) as text:
        lines = lines_of(text, longest)
        first = next((line for line in lines if line.text.strip() or line.error), None)
        if first is None:
            return
        head, lines = first.text.strip(), itertools.chain([first], lines)
        if head.startswith("{"):
            yield from (_parsed(line, name, column) for line in lines if line.text.strip() or line.error)
            return
        if _is_array(head):
            raise AskedError(f"{name} is one array of JSON; write one object a line (jq -c '.[]' does it)")
        if column is None:
            raise AskedError(f"{name} does not begin with an object of JSON; write one on each line")
        suffix = _suffix(source)
        delimiter = tables.delimiter_of(head, suffix, column)
        if delimiter is not None:
            for number, row, wrong in tables.csv_rows(lines, delimiter, column):
                yield checked(_named(row, column), f"{name} line {number}", wrong)
        elif suffix in tables.SUFFIXES:
            tables.with_text(head.split(","), name, column)
        else:
            yield from _paragraphs(lines, name)


def _is_array(head: str) -> bool:
    return head == "[" or head.replace(" ", "").startswith("[{")


def _suffix(source: Source) -> str:
    """.csv of a path a.csv or a.csv.gz; nothing of a stream."""
    return Path(str(source).removesuffix(".gz")).suffix.lower() if isinstance(source, (str, os.PathLike)) else ""


def _table(source: Source, name: str, column: str) -> Iterator[tuple[int, dict[str, Any]]] | None:
    """The numbered rows of a table that is not stored as text; None for every other source."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    if path.is_dir():
        if not tables.is_folder(path):
            raise AskedError(f"{name} is a folder that `datasets` did not save; name a file of texts")
        return tables.dataset_rows(str(path), name, column)
    if not path.exists() and tables.is_hub_name(str(source)):
        return tables.dataset_rows(str(source), name, column)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == tables.PARQUET:
                return tables.parquet_rows(path, name, column)
    return None


@contextlib.contextmanager
def _opened(source: Source, name: str, note: Note | None) -> Iterator[io.TextIOBase | Iterable[str]]:
    """The text of a file, of a stream of bytes or of text, or lines."""
    if isinstance(source, (str, os.PathLike)):
        with Path(source).open("rb") as file, decoded(file, name, note) as text:
            yield text
        return
    stream: Any = getattr(source, "buffer", source)
    if not hasattr(stream, "peek"):
        yield source  # type: ignore[misc]
        return
    if beginning(stream)[:4] == tables.PARQUET:
        raise AskedError(f"{name} is a Parquet file, which cannot be read from a stream; pass its name")
    wrapped = decoded(stream, name, note)
    try:
        yield wrapped
    finally:
        with contextlib.suppress(ValueError):  # the caller has closed the stream meanwhile
            wrapped.detach()  # the stream belongs to the caller, so it stays open


def _is_plain(path: str | os.PathLike[str], column: str) -> bool:
    """Whether a file holds running text, and neither records of JSON nor a table."""
    name = name_of(path)
    if _table(path, name, column) is not None:
        return False

    def heads() -> Iterator[str]:
        with _opened(path, name, None) as text:
            yield from (line.text.strip() for line in lines_of(text))

    head = next((head for head in guarded(name, heads()) if head), "")
    return not head.startswith("{") and not _is_array(head) and tables.delimiter_of(head, _suffix(path), column) is None


def _plain_pieces(path: str | os.PathLike[str], limit: int | None, note: Note | None) -> Iterator[str]:
    name, number, blank = name_of(path), 1, True
    with Path(path).open("rb") as file, decoded(file, name, note) as text:
        for piece in blocks_of(text) if limit is None else pieces_of(text):
            if limit is not None and number > limit:
                break
            if fault_of(piece) is not None:
                faults = ((number + k, fault_of(line)) for k, line in enumerate(piece.split("\n")))
                raise AskedError(next(f"{name} line {at} {fault}" for at, fault in faults if fault))
            yield piece
            blank = blank and not piece.strip()
            number += piece.count("\n")
    if blank:
        raise AskedError(f"{name} is empty; pass at least one text")


# -- records --------------------------------------------------------------------------------------------------------------


def _parsed(line: Line, name: str, column: str | None) -> Record:
    """The record of a line of JSON."""
    return replace(record_of(line, f"{name} line {line.number}", column), line=line.number)


def record_of(line: Line, place: str, column: str | None = None) -> Record:
    """The record of an object of JSON, which has a fault where it is none."""
    excerpt = {"text": printable(line.text[:200])}
    if line.error is not None:
        return Record(excerpt, place, line.error)
    try:
        fields = json.loads(line.text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        return Record(excerpt, place, "is nested too deeply; mend or remove it")
    except json.JSONDecodeError as error:
        return Record(excerpt, place, f"is not JSON ({error.msg}, character {error.pos + 1}); mend or remove it")
    except ValueError as error:
        reason = "a whole number has too many digits" if "digits" in str(error) else str(error)
        return Record(excerpt, place, f"is not JSON ({reason}); mend or remove it")
    if not isinstance(fields, dict) or (column is not None and column not in fields):
        needed = "" if column is None else f" with a {column!r}"
        return Record(excerpt, place, f"is no JSON object{needed}; mend or remove it")
    if line.text.count("[") + line.text.count("{") > DEEPEST and _deep(fields):
        return Record(excerpt, place, "is nested too deeply; mend or remove it")
    if "\\u" in line.text:
        try:
            json.dumps(fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return Record(excerpt, place, "has one half of a pair of surrogates (\\ud8…); remove it")
    return checked(_named(fields, column), place)


def _named(fields: dict[str, Any], column: str | None) -> dict[str, Any]:
    """The fields, with the value of `column` as their `text`."""
    return fields if column in ("text", None) or column not in fields else fields | {"text": fields[column]}


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    """A number with a point or an exponent; one beyond floats would be written as Infinity, which is no JSON."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{_short(digits)} is larger than any number that can be held")
    return number


def _deep(value: Any) -> bool:
    """Whether lists and objects are nested more than DEEPEST levels deep."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return any(isinstance(item, (dict, list)) for item in level)


def checked(fields: dict[str, Any], place: str, wrong: str | None = None) -> Record:
    """The record, with the fault of the keys on which the verbs rely."""
    faults = (test(key, fields[key]) for key, test in _TESTS.items() if key in fields)
    error = wrong or next((fault for fault in faults if fault), None)
    if any(isinstance(value, str) and fault_of(value) for value in (*fields, *fields.values())):
        error = error or "has a key or value that cannot be written: half of a pair of surrogates, or NUL; mend it"
        fields = {printable(key): printable(v) if isinstance(v, str) else v for key, v in fields.items()}
    return Record(fields, place, error)


def _text(key: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"has as text {_short(value)}, which is not text; mend or remove it"
    return fault_of(value)


def _word(key: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return None
    return f"has {key} {_short(value)}; expected text, or null where there is none"


def _number(key: str, value: Any) -> str | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63):
        return None
    return f"has {key} {_short(value)}; expected a whole number of 64 bits"


_TESTS: dict[str, Callable[[str, Any], str | None]] = {
    "text": _text,
    "form": _word,
    "title": _word,
    "dynasty": _word,
    "seed": _number,
}


def _short(value: Any) -> str:
    text = printable(repr(value))
    return text if len(text) <= 40 else text[:39] + "…"


def _paragraphs(lines: Iterable[Line], name: str) -> Iterator[Record]:
    """Each line is a text, but the lines of a paragraph are one text if they have the shape of a poem only together."""
    paragraph: list[Line] | None = []  # None: the paragraph is longer than a poem, and each line is a text
    for line in itertools.chain(lines, [Line(0, "")]):
        if line.text.strip() or line.error:
            if paragraph is None:
                yield _plain(line, name)
                continue
            paragraph.append(line)
            if len(paragraph) > PARAGRAPH:
                yield from (_plain(line, name) for line in paragraph)
                paragraph = None
            continue
        if paragraph:
            yield from _texts(paragraph, name)
        paragraph = []


def _texts(paragraph: list[Line], name: str) -> Iterator[Record]:
    texts = [line.text.strip() for line in paragraph]
    whole, *single = (guess_form(text.replace("[MASK]", HOLE)) for text in ("\n".join(texts), *texts))
    if len(texts) > 1 and (whole or tune_of_shape("\n".join(texts))) and not any(single):
        wrong = next((f"has in line {line.number} a line that {line.error}" for line in paragraph if line.error), None)
        yield checked({"text": "\n".join(texts)}, f"{name} line {paragraph[0].number}", wrong)
    else:
        yield from (_plain(line, name) for line in paragraph)


def _plain(line: Line, name: str) -> Record:
    return checked({"text": line.text.strip()}, f"{name} line {line.number}", line.error)
