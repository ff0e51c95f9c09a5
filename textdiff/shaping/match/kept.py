"""What was made for the latest questions, as far as it does not take too much memory: strangers may ask anything, for weeks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by keys; of those that take more than `most` bytes together, or are more than `count`, the one asked for last stays."""

    def __init__(self, most: int, count: int = 64):
        self.most, self.count = most, count
        self._made: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._made)

    @property
    def bytes(self) -> int:
        """What the values take together."""
        return sum(size for _, size in self._made.values())

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, which is made where it is not kept."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key][0]
        value = make()
        with self._lock:
            self._made[key] = value, bytes_of(value)
            self._made.move_to_end(key)
            while len(self._made) > 1 and (len(self._made) > self.count or self.bytes > self.most):
                self._made.popitem(last=False)
        return value


def bytes_of(*values: Any) -> int:
    """What the tensors and arrays in values, tuples and dataclasses take, each counted once."""
    found: dict[int, int] = {}
    waiting = [*values]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (torch.Tensor, np.ndarray)):
            found[id(one)] = one.nbytes
        elif isinstance(one, (tuple, list)):
            waiting += one
        elif is_dataclass(one):
            waiting += [getattr(one, field.name) for field in fields(one)]
    return sum(found.values())
