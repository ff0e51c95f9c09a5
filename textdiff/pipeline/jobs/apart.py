"""Work on several items at once, of which some may be wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from textdiff.core.errors import AskedError

T = TypeVar("T")


def apart(items: list[T], work: Callable[[list[T]], Sequence[Any]], skip: bool = True) -> list[tuple[T, Any]]:
    """The result of each item, or its AskedError: halves are tried where the whole fails, down to the item that is wrong.

    Without `skip` the first error is the last result.
    """
    try:
        return list(zip(items, work(items), strict=True))
    except AskedError as error:
        if len(items) == 1:
            return [(items[0], error)]
    half = len(items) // 2
    done = apart(items[:half], work, skip)
    if not skip and isinstance(done[-1][1], AskedError):
        return done
    return done + apart(items[half:], work, skip)
