"""95 % intervals, and figures with their intervals as text.

    share        Wilson's interval (1927), which has a width at 0 and at 1, too
    mean         the mean ± 1.96 standard errors
    jackknife    value ± t jackknife errors, for a figure that only a whole list has: groups of the list are left out in turn,
                 and t is that of Student's law, whose degrees of freedom are the number of groups less one

Where there are too few values for an interval, both of its ends are None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

GROUPS = 20  # of the jackknife, at most
_Z = 1.959964
# Student's t for 1, 2, … 19 degrees of freedom, the two-sided 95 % point
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093),
)


class Interval(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float | None
    high: float | None

    def about(self, value: float) -> Interval:
        """This interval, moved to another value without a change of its width."""
        if self.low is None or self.high is None:
            return Interval(value, None, None)
        return Interval(value, value - (self.value - self.low), value + (self.high - self.value))


def share(rate: float, n: int) -> Interval:
    """The rate of a yes-or-no question over n cases, with Wilson's interval."""
    centre, width = rate + _Z * _Z / (2 * n), _Z * math.sqrt(rate * (1 - rate) / n + _Z * _Z / (4 * n * n))
    scale = 1 + _Z * _Z / n
    return Interval(rate, max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale))


def mean(values: ArrayLike) -> Interval:
    """The mean of at least one value, (N,)."""
    x = np.asarray(values, dtype=np.float64)
    return _within(float(x.mean()), _Z * float(x.std(ddof=1)) / len(x) ** 0.5 if len(x) > 1 else None)


def groups_of(*lengths: int) -> int:
    """The number of groups that the jackknife leaves out of lists of these lengths; each group has two values or more."""
    return min(GROUPS, *(length // 2 for length in lengths))


def jackknife(value: float, without: Sequence[float]) -> Interval:
    """A figure of a whole list, from its value and its values `without` each of the groups."""
    groups = len(without)
    if groups < 2:
        return Interval(value, None, None)
    return _within(value, _T[groups - 2] * math.sqrt((groups - 1) * float(np.var(np.asarray(without)))))


def _within(value: float, reach: float | None) -> Interval:
    return Interval(value, None, None) if reach is None else Interval(value, value - reach, value + reach)


def written(figure: Interval, digits: int = 3) -> str:
    """The value and its interval: "0.500 [0.404, 0.596]"."""
    ends = "" if figure.low is None else f" [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
    return f"{figure.value:.{digits}f}{ends}"
