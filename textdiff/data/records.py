"""Texts as files hold them: JSON Lines, or plain text with poems that run over several lines."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.verse.forms import HOLE, guess_form

CONDITIONS = ("title", "dynasty")


def read_records(source: str | os.PathLike[str] | Iterable[str]) -> list[dict[str, Any]]:
    """The texts of a file (or of lines), {"text", and "form", "title" and "dynasty" where they are told}.

    JSON Lines if the first line is an object.  Otherwise one text a line; a poem may run over the lines of a paragraph.
    """
    name = str(source) if isinstance(source, (str, os.PathLike)) else "input"
    try:
        if isinstance(source, (str, os.PathLike)):
            data = Path(source).read_bytes()
            text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
        else:
            text = "".join(source)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AskedError(f"{name!r} cannot be read ({reason}); pass a text or JSON Lines file in UTF-8") from error
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise AskedError(f"{name!r} is empty; pass at least one text")
    if not first.lstrip().startswith("{"):
        return [{"text": text} for text in _paragraphs(lines)]
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            records.append({"text": record["text"]} | {key: record.get(key) for key in ("form", *CONDITIONS)})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise AskedError(f"{name!r} line {number} is no JSON object with a 'text'; mend or remove it") from None
    return records


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """One text a line; lines that only together have the shape of a poem are one text."""
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line.strip())
            continue
        shapes = [guess_form(text.replace("[MASK]", HOLE)) for text in ("\n".join(paragraph), *paragraph)]
        if len(paragraph) > 1 and shapes[0] is not None and not any(shapes[1:]):
            yield "\n".join(paragraph)
        else:
            yield from paragraph
        paragraph = []
