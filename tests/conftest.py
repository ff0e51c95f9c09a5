"""What the tests share with the way they are run.

Side by side, workers of pytest-xdist share the cores: one thread each, here and in the commands that tests start.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from commands import float32_where_it_is_not_said, serve_from_here

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# A shell's background ignores it, but what the tests start must hear Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()  # until all tests are collected


def pytest_collection_finish() -> None:
    """Leave what the libraries and the tests consist of to itself: training collects garbage often, half a second each time."""
    float32_where_it_is_not_said()
    gc.freeze()
    serve_from_here()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Bit for bit the same in this process and in those that it starts."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_sessionstart() -> None:
    """A shell that starts this run in the background has its children ignore Ctrl-C, which tests send to theirs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
