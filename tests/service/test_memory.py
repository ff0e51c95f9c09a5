"""What a process keeps for the next request is bounded, whatever it is asked."""

from __future__ import annotations

import multiprocessing
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FRESH = multiprocessing.get_context("forkserver")  # in which oneDNN has computed nothing yet


def memory() -> float:
    """Resident MB of this process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def growth_of_products(answers: Any) -> None:
    """What 300 numbers of rows of one product add to the memory that 100 others have taken."""
    from textdiff.networks.lean.products import packed

    torch.set_num_threads(1)
    with torch.inference_mode():
        product, x, before = packed(torch.ones(16, 16), None), torch.ones(400, 16), 0.0
        for rows in range(1, 401):
            product(x[:rows])
            before = memory() if rows == 100 else before
    answers.put(memory() - before)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how much memory a process has")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
def test_products_of_ever_new_shapes_take_no_more_memory_after_the_first_ones():
    answers = FRESH.SimpleQueue()
    process = FRESH.Process(target=growth_of_products, args=(answers,))
    process.start()
    grown = answers.get()
    process.join()
    assert grown < 40, "300 more would be 150 MB"
