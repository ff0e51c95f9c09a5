"""A record as it comes in, as a job, and as it goes out: the line of JSON of its result.

What a record says and a result does not is passed on: a JSON line has the keys of the result, and then the record's own.  Where
both have a key and differ, the record's value stands under `input`.

A job is known by its id, text or a whole number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields as fields_of
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textdiff.data.records import Record


def identified(record: Record, otherwise: str | int) -> Record:
    """The record of a job with its id, which is `otherwise` where it says none, and without an `error`, which is ours to say."""
    fields = {key: value for key, value in record.fields.items() if key != "error"}
    given, error = fields.get("id"), record.error
    if given is None and error is None:
        fields["id"] = otherwise
    elif error is None and not is_id(given):
        error = f"has as id {given!r}; expected text or a whole number"
    return replace(record, fields=fields, error=error)


def is_id(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def joined(result: Any, fields: Mapping[str, Any]) -> str:
    """A JSON line with the keys of the result and then those of the record; see the head of this file."""
    mine = dict(result) if isinstance(result, Mapping) else _plain(result)
    plain = set(fields) <= {"text"}
    others = {} if plain else {k: v for k, v in fields.items() if k in mine and not _same(mine[k], v)}
    line = mine | {key: value for key, value in fields.items() if key not in mine}
    if others and "input" in line:
        others["input"] = line.pop("input")
    return json.dumps(line | ({"input": others} if others else {}), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON cannot hold: the fields of a dataclass by their names (`asdict` would copy all that is in them), else its word."""
    return {f.name: getattr(value, f.name) for f in fields_of(value)} if is_dataclass(value) else str(value)


def _same(mine: Any, theirs: Any) -> bool:
    """Whether a record has the value of the result, as JSON would hold it, or none."""
    return theirs in (None, "") or mine == theirs or json.loads(json.dumps(mine, default=_plain)) == theirs
