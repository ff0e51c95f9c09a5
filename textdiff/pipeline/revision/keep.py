"""Which characters of a text stay as they are.

    "Paris"                 every place where the text has this string
    re.compile(r"\\d+")      every match of a regular expression
    (3, 8)                  the characters from 3 up to 8, counted from 0: an entity's offsets
    parse(r"\\d+")           every match of an expression as `match` reads it

What is kept is one of these, or a list of them.  What comes from a file or a request is never given to Python's `re`: some
expressions keep it busy forever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.shaping.match.expression import Expression, parse

Kept = str | re.Pattern[str] | Expression | Sequence[Any] | None  # for all texts; or a list of lists, one for each text


def per_text(keep: Kept, n: int) -> list[Any]:
    """What is kept of each of n texts."""
    if isinstance(keep, list) and keep and all(one is None or _is_list(one) for one in keep):
        if len(keep) != n:
            raise AskedError(f"keep has {len(keep)} lists for {n} texts; pass one list, or one for each text")
        return list(keep)
    return [keep] * n


def all_kept(keep: Any, pattern: str | None) -> list[Any]:
    """What is kept by itself, and by a regular expression, as one list."""
    some = list(keep) if isinstance(keep, (list, tuple)) and not _is_span(keep) else [] if keep is None else [keep]
    return some if pattern is None else [*some, parse(pattern, "keep_pattern")]


def kept(text: str, keep: Any) -> list[bool]:
    """For each character of a text whether it stays."""
    stays = [False] * len(text)
    for begin, end in _spans(text, keep):
        stays[begin:end] = [True] * (end - begin)
    return stays


def _spans(text: str, keep: Any) -> Iterator[tuple[int, int]]:
    if keep is None:
        return
    if isinstance(keep, re.Pattern):
        yield from (match.span() for match in keep.finditer(text))
    elif isinstance(keep, Expression):
        from textdiff.shaping.match.automaton import automaton

        yield from automaton(keep, frozenset(text)).found(text)
    elif isinstance(keep, str):
        if not keep:
            raise AskedError("keep has an empty string; name what stays")
        yield from _spans(text, re.compile(re.escape(keep)))
    elif _is_span(keep):
        begin, end = keep
        if not 0 <= begin < end <= len(text):
            raise AskedError(
                f"keep has the span {begin} to {end}, but the text has {len(text)} characters; "
                f"count from 0, the end being behind the last character that stays"
            )
        yield begin, end
    elif isinstance(keep, Sequence):
        for one in keep:
            if not isinstance(one, str | re.Pattern | Expression) and not _is_span(one):
                raise AskedError(f"keep has {one!r}; pass strings, regular expressions or (begin, end) pairs")
            yield from _spans(text, one)
    else:
        raise AskedError(f"keep is {keep!r}; pass strings, regular expressions or (begin, end) pairs")


def _is_span(one: Any) -> bool:
    whole = (isinstance(k, Integral) and not isinstance(k, bool) for k in one) if isinstance(one, (list, tuple)) else ()
    return isinstance(one, (list, tuple)) and len(one) == 2 and all(whole)


def _is_list(one: Any) -> bool:
    return isinstance(one, (list, tuple)) and not _is_span(one)
