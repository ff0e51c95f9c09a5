"""Poems to learn from: each a text of its form, with the title and the dynasty that the network may be given."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.data import records
from textdiff.data.decoding import Note
from textdiff.data.records import Record
from textdiff.networks.tokenization import SLOT_WORDS, title_characters
from textdiff.verse.forms import FORMS, get_form, guess_form


@dataclass(frozen=True)
class Text:
    """One text of a corpus, and what the network may be given with it."""

    text: str
    form: str | None = None
    title: str | None = None
    dynasty: str | None = None


def poems(
    path: str | Path,
    limit: int | None = None,
    conditions: Collection[str] = (),
    column: str = "text",
    note: Note | None = None,
) -> Iterator[Text]:
    """The poems of a source one after another; AskedError names the file, the line and what is wrong.

    The fields of `conditions` are read, too: a text may lack one, all texts may not.
    """
    missing = set(conditions)
    for record in itertools.islice(records.records(path, note, longest=None, column=column), limit):
        text = _poem(record, conditions)
        missing = {name for name in missing if not getattr(text, name)}
        yield text
    for name in missing:
        raise AskedError(
            f"conditions has {name!r}, but no text of {str(path)!r} has a {name}; make the file with "
            f"'textdiff data prepare', which keeps it, or leave {name} out of conditions"
        )


def _poem(record: Record, conditions: Collection[str]) -> Text:
    text, name = record.text, record.get("form")
    try:
        form = (FORMS.get(name) or get_form(str(name))) if name else guess_form(text)
        if form is None:
            raise AskedError(f"{text[:24]!r} has the shape of no form; prepare the file first, or use kind: windows")
        conditions_ = {key: _condition(key, record.get(key)) for key in conditions}
        return Text("".join(form.split(text)), form.name, **conditions_)
    except ValueError as error:
        raise AskedError(f"{record.place}: {error}") from error


def _condition(name: str, value: Any) -> str | None:
    """A title or dynasty that a slot can hold; None where there is none, or no Chinese character in it."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise AskedError(f"{name} is {value!r}; expected text, or null where there is none")
    if name == "title":
        return value if title_characters(value) else None
    if value not in SLOT_WORDS[name]:
        raise AskedError(f"{name} is {value!r}; expected one of {', '.join(SLOT_WORDS[name])}, or null")
    return value


def place_of(text: str) -> float:
    """Where a text stands between 0 and 1, decided by itself alone: below the share held out, it is held out."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
