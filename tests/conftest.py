"""What the tests share with the way they are run.

Side by side, workers of pytest-xdist share the cores: one thread each, here and in the commands that tests start.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# A shell's background ignores it, but what the tests start must hear Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Side by side, these files begin, so that no worker is left with one of them at the end.
LONGEST = (
    "test_verify.py", "test_constraints.py", "test_control.py", "test_pipeline.py", "test_samplers.py", "test_fuzz.py",
    "test_image_training.py", "test_training_loss.py", "test_training_stops.py", "test_checkpoints.py",
    "test_verify_values.py", "test_cli.py", "test_mutate.py", "test_image_report.py", "test_digits_benchmark.py",
    "test_verify_tables.py", "test_verify_laws.py", "test_any_subset.py", "test_bulk.py", "test_saving.py", "test_refine.py",
)  # fmt: skip

gc.disable()  # until all tests are collected


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Leave what the libraries and the tests consist of to itself: training collects garbage often, half a second each time."""
    gc.freeze()
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
