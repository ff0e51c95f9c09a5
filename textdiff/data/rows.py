"""Rows of token ids that stay in a file until they are asked for.

A corpus that is larger than memory trains because a step reads its own rows alone.  They are read and not mapped: the pages
of a mapping count as memory of the process, and over an epoch that would be the whole file.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def kind_of(tokens: int) -> str:
    """The type of the numbers in a file, where the vocabulary has so many tokens."""
    return "<u2" if tokens <= 1 << 16 else "<u4"


class Stored:
    """A file that is open for reading, also after its name is gone, until nobody holds it any more."""

    def __init__(self, path: Path):
        self.handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.handle)


@dataclass(frozen=True, eq=False)
class Rows:
    """(N, L) whole numbers of a file.  An index, a slice or a tensor of rows, gives these rows in memory, as int64."""

    file: Stored
    kind: str  # as numpy calls it
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._read(start, max(stop - start, 0))
            index = torch.arange(start, stop, step)
        if not len(index):
            return self._read(0, 0)
        return torch.cat([self._read(k + len(self) if k < 0 else k, 1) for k in index.tolist()])

    def _read(self, first: int, rows: int) -> Tensor:
        """Rows first … first + rows − 1.  `pread` moves no position, so that workers may share the file."""
        width = self.shape[1] * np.dtype(self.kind).itemsize
        parts, left, at = [], rows * width, first * width
        while left:
            parts.append(os.pread(self.file.handle, min(left, 1 << 28), at))
            if not parts[-1]:
                raise OSError(f"the prepared texts end before row {first + rows}; the file was cut while it was read")
            left, at = left - len(parts[-1]), at + len(parts[-1])
        found: Any = np.frombuffer(b"".join(parts), dtype=self.kind).astype(np.int64)
        return torch.from_numpy(found).view(rows, self.shape[1])
