"""Rows of token ids that stay in a file until a step needs them.

Each step reads only its own rows, so that a model can train on a corpus that is larger than memory.  We read the rows and do
not map the file: the pages of a mapping count as memory of the process, and after an epoch they would be the whole file.
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
    """The type of the numbers in a file, for a vocabulary of so many tokens."""
    return "<u2" if tokens <= 1 << 16 else "<u4"


class Stored:
    """A file that is open for reading, even after its name is removed, for as long as this object exists."""

    def __init__(self, path: Path):
        self.handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.handle)


@dataclass(frozen=True, eq=False)
class Rows:
    """Whole numbers (N, L) in a file.  An index, which is a slice or a tensor of rows, gives these rows in memory as int64."""

    file: Stored
    kind: str  # the name of the type in numpy
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
        """The rows first … first + rows − 1.  `pread` moves no position, so that workers can share the file."""
        width = self.shape[1] * np.dtype(self.kind).itemsize
        parts, left, at = [], rows * width, first * width
        while left:
            parts.append(os.pread(self.file.handle, min(left, 1 << 28), at))
            if not parts[-1]:
                raise OSError(f"the prepared texts end before row {first + rows}; the file was cut while it was read")
            left, at = left - len(parts[-1]), at + len(parts[-1])
        values: Any = np.frombuffer(b"".join(parts), dtype=self.kind).astype(np.int64)
        return torch.from_numpy(values).view(rows, self.shape[1])
