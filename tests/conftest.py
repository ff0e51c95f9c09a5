"""What the tests share with the way they are run.

Side by side, workers of pytest-xdist share the cores: one thread each, here and in the commands that tests start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Bit for bit the same in this process and in those that it starts."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
