"""Float32 products through oneDNN, where that is the same precision and faster.

On some CPUs the default float32 product takes a slow path, and oneDNN's own is more than twice as fast.  torch reaches it
by the setting `mkldnn.matmul.fp32_precision = "bf16"`, which *permits* oneDNN to round to bfloat16: where the CPU has
matrix units for it (AMX) it does so, elsewhere it computes in float32.  A computed example decides which of the two it is.

The setting also holds for the many small products inside torch's attention, which oneDNN prepares one by one: there it took three
to six times as long on an AMD Zen 4.  So the example that decides is a layer, with its attention.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from textdiff.networks.lean.choices import by_timing

SHAPES = ((128, 384, 1536), (20, 384, 384))  # rows, inner, columns: a batch through a layer, and one text
HEADS = (2, 6, 64, 64)  # texts, heads, tokens, features: the attention of such a batch
LEAST_GAIN = 1.25
_lock = threading.Lock()
_entered = 0  # blocks of `through_onednn` that are open now
_before = ""  # the setting outside all of them


@contextmanager
def fast_float32() -> Iterator[bool]:
    """In the block, CPU products of float32 go through oneDNN if `chosen`; gives whether they do."""
    if not chosen():
        yield False
        return
    with through_onednn():
        yield True


@by_timing
def chosen() -> bool:
    """Whether oneDNN's product is float32 on this CPU and a layer clearly faster by it; computed once, in about 20 ms."""
    if not torch.backends.mkldnn.is_available():
        return False
    with torch.inference_mode(), torch.random.fork_rng(devices=()):
        products = [(torch.randn(n, k), torch.randn(m, k)) for n, k, m in SHAPES]
        heads = torch.randn(HEADS)
        with through_onednn():
            if not all(is_float32(a, b) for a, b in products):
                return False
        before, after = [], []
        for _ in range(5):  # in turns, so that a busy moment of the machine meets both
            before.append(_seconds(*products[0], heads))
            with through_onednn():
                after.append(_seconds(*products[0], heads))
    return min(before) > LEAST_GAIN * min(after)


def is_float32(a: Tensor, b: Tensor) -> bool:
    """Whether a (n, k) times b (m, k) transposed is computed as precisely as float32 allows, now.

    Rounding the factors to bfloat16 errs by about 2⁻⁹ of |a|·|b|, to tf32 by 2⁻¹², float32 arithmetic by less than k·2⁻²⁴.
    """
    error = torch.nn.functional.linear(a, b).double() - torch.nn.functional.linear(a.double(), b.double())
    scale = torch.nn.functional.linear(a.abs(), b.abs()).double()
    return bool((error.abs() / scale).max() < 2.0**-18)


def _seconds(a: Tensor, b: Tensor, heads: Tensor) -> float:
    start = time.perf_counter()
    torch.nn.functional.linear(a, b)
    torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
    return time.perf_counter() - start


@contextmanager
def through_onednn() -> Iterator[None]:
    """In the block, CPU products of float32 go through oneDNN.

    The setting is one for the whole process: the first block that is entered sets it and the last that is left puts back what was
    there, in whatever order the blocks of several threads end.
    """
    global _entered, _before
    setting: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _lock:
        if not _entered:
            _before, setting.fp32_precision = setting.fp32_precision, "bf16"
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if not _entered:
                setting.fp32_precision = _before
