"""How a network multiplies hidden states by its weights, x·weightᵀ + bias, (…, D) -> (…, E), at each precision.

    float32   by oneDNN with weights that are laid out for it once, or as torch does where that is faster; both are exact float32
    bf16      factors and results rounded to bfloat16 (8 bits of mantissa), attention's, too, and sums in float32; norms, softmax
              and what is added from layer to layer stay in float32
    auto      bf16 on a CPU that multiplies so in clearly less time, float32 elsewhere, and for a network that writes in order

What pays is found out by computing an example, in a few hundredths of a second, and remembered on this machine (`choices`).  A CPU
without bfloat16 products emulates them at a tenth of the speed.

A product of few rows may take another path and round differently, but a text must not notice how many others are computed with
it: `fewest_rows` is from how many rows on a product gives each row the bits that it has among others.  torch's float32 product
needs 4 to 16, by CPU and number of threads, oneDNN's with weights that are laid out 1 on the CPUs that were tried, so that one
text at a time costs what it should.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from textdiff.core.errors import AskedError
from textdiff.networks.lean.choices import by_timing
from textdiff.networks.lean.kernels import keep_few

Product = Callable[[Tensor], Tensor]
Make = Callable[[Tensor, Tensor | None], Product]  # (weight (E, D), bias (E,)) -> their product

PRECISIONS = ("float32", "bf16", "auto")
SHAPES = ((128, 384, 1536), (22, 384, 1536))  # rows, inner, columns: a batch through a layer, and one text
LEAST_GAIN = 1.25
ROUNDS = 5
LOOKS = 3
FEW = (1, 2, 4, 8, 16)  # numbers of rows; 16 is enough for every product that was tried
MOST_COLUMNS = 4096  # of an example

keep_few()


def plain(weight: Tensor, bias: Tensor | None) -> Product:
    """As torch does it, at the precision of the weights."""
    return lambda x: functional.linear(x, weight, bias)


def packed(weight: Tensor, bias: Tensor | None) -> Product:
    """By oneDNN, which would lay the weights out anew each time.  On a CPU."""
    onednn: Any = torch.ops.mkldnn
    laid_out = onednn._reorder_linear_weight(weight.detach().contiguous())
    return lambda x: onednn._linear_pointwise(x.to(weight.dtype), laid_out, bias, "none", [], "")  # autocast changes x


def bf16(weight: Tensor, bias: Tensor | None) -> Product:
    """Through bfloat16, from any precision."""
    onednn: Any = torch.ops.mkldnn
    inner = packed if weight.device.type == "cpu" and onednn._is_mkldnn_bf16_supported() else plain
    product = inner(weight.bfloat16(), None if bias is None else bias.bfloat16())
    return lambda x: product(x.bfloat16())


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise AskedError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")


def maker(precision: str, weight: Tensor) -> Make | None:
    """What makes the products of a network with such weights; None: it multiplies as torch does."""
    there = weight.device.type == "cpu" and weight.dtype == torch.float32
    if precision == "bf16" or (precision == "auto" and there and bf16_pays()):
        return bf16
    return packed if there and packing_serves() else None


def fewest_rows(make: Make | None, weight: Tensor) -> int:
    """From how many rows on products of such a weight (E, D) do not hang on the number of rows; with `make`, of those it makes."""
    if weight.device.type != "cpu":
        return FEW[-1]
    columns, inner = weight.shape
    return _fewest(make or plain, min(columns, MOST_COLUMNS), inner, weight.dtype, torch.get_num_threads())


@cache
def _fewest(make: Make, columns: int, inner: int, dtype: torch.dtype, threads: int) -> int:
    """`fewest_rows`, for as many `threads` as torch has now, by examples."""
    agree = dict.fromkeys(range(1, FEW[-1] + 1), True)
    with torch.inference_mode(), torch.random.fork_rng(devices=()):
        for width in {columns, inner}:
            product = make(torch.randn(width, inner).to(dtype), None)
            x = torch.randn(4 * FEW[-1], inner).to(dtype)
            whole = product(x)
            for rows in agree:
                agree[rows] &= all(product(x[k : k + rows]).equal(whole[k : k + rows]) for k in (0, FEW[-1] - 1))
    return next((few for few in FEW if all(same for rows, same in agree.items() if rows >= few)), FEW[-1])


@by_timing
def packing_serves() -> bool:
    """Whether float32 products with weights that are laid out once are taken: where torch's own are not clearly faster."""
    return bool(torch.backends.mkldnn.is_available()) and not _pays(plain, packed)


@by_timing
def bf16_pays() -> bool:
    """Whether products through bfloat16 are clearly faster on this CPU."""
    onednn: Any = torch.ops.mkldnn
    supported = torch.backends.mkldnn.is_available() and bool(onednn._is_mkldnn_bf16_supported())
    return supported and _pays(bf16, packed, threads=1)


def _pays(make: Make, than: Make, threads: int | None = None) -> bool:
    """Whether `make`'s products take clearly less time than those of `than`, each time of `LOOKS`: a busy moment does not decide.

    With so many `threads`, or as many as torch has: those that wait for a busy processor show nothing of the products.
    """
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        return all(_gain(make, than) > LEAST_GAIN for _ in range(LOOKS))
    finally:
        torch.set_num_threads(before)


def _gain(make: Make, than: Make) -> float:
    """How many times as long as `make`'s products those of `than` take, in the geometric mean over `SHAPES`."""
    gain = 1.0
    with torch.inference_mode(), torch.random.fork_rng(devices=()):
        for rows, inner, columns in SHAPES:
            x, weight = torch.randn(rows, inner), torch.randn(columns, inner)
            products = [one(weight, None) for one in (make, than)]
            times: list[list[float]] = [[], []]
            for _ in range(ROUNDS):  # by turns, so that a busy moment of the machine meets both
                for product, spent in zip(products, times, strict=True):
                    start = time.perf_counter()
                    product(x)
                    spent.append(time.perf_counter() - start)
            gain *= min(times[1]) / min(times[0])
    return float(gain ** (1 / len(SHAPES)))
