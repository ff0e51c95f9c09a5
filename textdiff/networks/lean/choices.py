"""Choices between ways to compute the same, by what an example costs on this machine.

Ways differ in rounding.  A choice is made once in a process; work that another process has begun can be told what that one chose, so
that it goes on to the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

_made: dict[str, bool] = {}  # by the names of the choices


def by_timing(find: Callable[[], bool]) -> Callable[[], bool]:
    """The choice that `find` makes when it is first needed, unless it has been made already."""

    @functools.wraps(find)
    def choice() -> bool:
        if find.__name__ not in _made:
            _made[find.__name__] = find()
        return _made[find.__name__]

    return choice


def make(choices: Mapping[str, bool]) -> None:
    """Make these choices without a look at the machine; before a model is opened."""
    _made.update(choices)
