"""Dropout that depends on the example alone: neither on those beside it in a piece of a step, nor on how the step is cut.

Networks of other libraries call torch's dropout wherever they like.  `KeyedDropout` answers these calls while a forward runs
under it.  The k-th of them draws for each row a whole field over the row's columns, from a generator seeded by (the row's
seed, k), and takes of it the columns that the network reads: which empty columns are left out depends on the other rows.
A predictor says with `reading` which rows and columns it passes to the network.

Attention drops weights inside torch's kernel, out of reach; where its rate is above 0 it is computed step by step instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from textdiff.core.rng import example_seed, survivors

_NOW: ContextVar[KeyedDropout | None] = ContextVar("keyed dropout", default=None)


def reading(rows: Tensor, columns: Tensor, width: int) -> None:
    """Say that the network is about to read these `rows` (R,) of the batch, and of their `width` columns these (C,)."""
    now = _NOW.get()
    if now is not None:
        now.rows, now.columns, now.width = rows.tolist(), columns, width


def again() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """For torch's `checkpoint(context_fn=again)`: what is computed a second time drops what it dropped the first time."""
    now = _NOW.get()
    return nullcontext(), nullcontext() if now is None else now.from_here()


class KeyedDropout(TorchFunctionMode):
    """The dropout of a batch of B rows, row k drawn with seeds[k]."""

    def __init__(self, seeds: Sequence[int]):
        TorchFunctionMode.__init__(self)
        self.seeds = seeds
        self.calls = 0  # of dropout, so far
        self.rows: Sequence[int] = range(len(seeds))
        self.columns: Tensor | None = None  # None: rows of another kind than text, which are read whole
        self.width = 0

    def from_here(self) -> KeyedDropout:
        """One that draws what this one is going to draw from now on."""
        same = KeyedDropout(self.seeds)
        same.calls, same.rows, same.columns, same.width = self.calls, self.rows, self.columns, self.width
        return same

    def __enter__(self) -> KeyedDropout:
        self.token = _NOW.set(self)
        TorchFunctionMode.__enter__(self)
        return self

    def __exit__(self, *error: Any) -> None:
        TorchFunctionMode.__exit__(self, *error)
        _NOW.reset(self.token)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.dropout:
            return self._dropped(*args, **kwargs)
        if function is functional.scaled_dot_product_attention and kwargs.get("dropout_p", 0.0) > 0:
            return self._attended(*args, **kwargs)
        return function(*args, **kwargs)

    def _dropped(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return x
        kept = self._kept(p, x.shape, x.device) / (1 - p)
        return x.mul_(kept) if inplace else x * kept.to(x.dtype)

    def _attended(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """softmax(query · keyᵀ · scale + mask), some of its weights dropped, · value; all (R, heads, C, D)."""
        assert not is_causal and not enable_gqa, "a masked language model sees both sides, by heads of one kind"
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            hidden = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if hidden else scores + attn_mask
        return self._dropped(scores.softmax(-1), dropout_p) @ value

    def _kept(self, rate: float, shape: torch.Size, device: torch.device) -> Tensor:
        """Which entries of a tensor survive: (R, C, …), (R, heads, C, C) of attention, or (R, …) without columns."""
        assert shape[0] == len(self.rows), "the first axis of what is dropped is that of the rows"
        seeds = [example_seed(self.seeds[row], self.calls) for row in self.rows]
        self.calls += 1
        if self.columns is None:
            return survivors(seeds, rate, shape[1:], device)
        if len(shape) == 4:
            whole = survivors(seeds, rate, (shape[1], self.width, self.width), device)
            return whole[:, :, self.columns[:, None], self.columns]
        return survivors(seeds, rate, (self.width, *shape[2:]), device)[:, self.columns]
