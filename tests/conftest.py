"""What the tests share with the way they are run.

Side by side, workers of pytest-xdist share the cores: one thread each, here and in the commands that tests start.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # in the background of a shell; what the tests start must hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Bit for bit the same in this process and in those that it starts."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
