"""Work on several items at once, of which some may meet a fault of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def sheltered(items: Sequence[T], work: Callable[[Sequence[T]], Iterator[tuple[int, Any]]]) -> Iterator[tuple[T, Any]]:
    """Each item and what `work` gives for it by its number among those that it is given; an Exception where it fails for this one.

    Where the work fails, halves of what is not done are tried, down to the item that makes it fail.  What concerns all items is
    raised (`of_the_machine`).
    """
    left = dict(enumerate(items))
    try:
        for at, result in work(items):
            yield left.pop(at), result
        return
    except Exception as error:
        if of_the_machine(error) or not left:
            raise
        if len(left) == 1:
            yield left.popitem()[1], error
            return
    rest = list(left.values())
    for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
        yield from sheltered(half, work)


def of_the_machine(error: Exception) -> bool:
    """Whether memory, a disk, a file or the device failed, and not one item; torch says of a CPU's memory a mere RuntimeError."""
    failures = (MemoryError, OSError, torch.OutOfMemoryError, torch.AcceleratorError)
    return isinstance(error, failures) or (isinstance(error, RuntimeError) and "alloc" in str(error).lower())
