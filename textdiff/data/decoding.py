"""Turns bytes into lines of text: gzip, byte order marks, line ends of every system, lines that are too long or damaged.

The first bytes of a source decide its format, and not its name.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from textdiff.core.errors import AskedError

LONGEST = 1 << 20  # characters that a line may have as one record
_PIECE = 1 << 16  # characters of a line that are read at a time
_BLOCK = 1 << 19  # characters of running text that are read at a time

_ENCODINGS = (  # the longer marks first: that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig", None),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_STRANGE = {b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "zstandard", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}

Note = Callable[[str], object]  # takes a line about the source that people may want to read


@dataclass(frozen=True)
class Line:
    """A line without its line break, its number from 1 on, and its fault, if it has one."""

    number: int
    text: str
    error: str | None = None


def reason_of(error: BaseException) -> str:
    """The reason that an error of reading gives, in one line."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().split("\n")[0]


def beginning(stream: BinaryIO) -> bytes:
    """The first bytes of a buffered stream; they stay in the stream."""
    return stream.peek(8)[:8]  # type: ignore[attr-defined,no-any-return]


def decoded(stream: BinaryIO, name: str, note: Note | None = None) -> io.TextIOBase:
    """The text of a buffered stream of bytes.  A byte that is no UTF-8 becomes a surrogate, which `lines_of` reports."""
    if beginning(stream)[:2] == b"\x1f\x8b":
        stream = io.BufferedReader(gzip.GzipFile(fileobj=stream))
    head = beginning(stream)
    for magic, what in _STRANGE.items():
        if head.startswith(magic):
            raise AskedError(f"{name} is packed as {what}; unpack it first, or pack it with gzip")
    for mark, encoding, named in _ENCODINGS:
        if head.startswith(mark):
            if named and note is not None:
                note(f"{name} is in {named} and was read so")
            errors = "surrogatepass" if named else "surrogateescape"
            return io.TextIOWrapper(stream, encoding=encoding, errors=errors)
    return io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape")


def pieces_of(text: io.TextIOBase | Iterable[str]) -> Iterator[str]:
    """The lines of a text with their line breaks; long lines are cut into several pieces."""
    if not isinstance(text, io.TextIOBase):
        for number, item in enumerate(text):
            yield from pieces_of(io.StringIO(item if number else item.removeprefix("\ufeff"), newline=None))
        return
    piece = text.readline(_PIECE).removeprefix("\ufeff")
    while piece:
        yield piece
        piece = text.readline(_PIECE)


def blocks_of(text: io.TextIOBase) -> Iterator[str]:
    """The text in pieces of many whole lines, which is much faster than a line at a time; a long line comes in several."""
    block = (text.read(_BLOCK) + text.readline(_PIECE)).removeprefix("\ufeff")
    while block:
        yield block
        block = text.read(_BLOCK) + text.readline(_PIECE)


def lines_of(text: io.TextIOBase | Iterable[str], longest: int | None = LONGEST) -> Iterator[Line]:
    """The lines of a text.  A line of more than `longest` characters becomes its beginning and an error."""
    number, parts, size = 1, [], 0
    for piece in pieces_of(text):
        if longest is None or size < longest:
            parts.append(piece)
        size += len(piece)
        if piece.endswith("\n"):
            yield _line(number, "".join(parts), size, longest)
            number, parts, size = number + 1, [], 0
    if size:
        yield _line(number, "".join(parts), size, longest)


def _line(number: int, text: str, size: int, longest: int | None) -> Line:
    if longest is not None and size > longest:
        return Line(number, text[:200], f"has {size} characters, at most {longest} can be one record; break it up")
    text = text.rstrip("\r\n")
    return Line(number, text, fault_of(text))


def fault_of(text: str) -> str | None:
    """The fault of a text with half of a pair of surrogates or NUL; None for a sound text."""
    if "\0" in text:
        return "has a NUL character; remove it, or save the text as UTF-8 if it is UTF-16"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return f"has a byte 0x{code - 0xDC00:02x} that is not UTF-8 (character {error.start + 1}); save the text as UTF-8"
        return f"has U+{code:04X} (character {error.start + 1}), one half of a pair of surrogates; remove it"
    return None


def printable(text: str) -> str:
    """The text with a question mark in the place of each character that cannot be written."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def guarded(name: str, work: Iterator[Any]) -> Iterator[Any]:
    """The items of `work`; an error of reading becomes an AskedError about `name`."""
    try:
        yield from work
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise AskedError(
            f"{name} cannot be read ({reason_of(error)}); pass texts in UTF-8, a line each or as JSON Lines, packed with gzip "
            "or not"
        ) from error
