"""Skip-tuning (Ma et al., 2024): a U-Net's skip connections, scaled while the network computes a prediction and at no other time.

A decoder block sees what came up from below beside what was handed over from the encoder, h ⊕ ρ·skip.  With few
evaluations ρ < 1 makes the network work more on what it has understood and less on the noisy input; the weights stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from textdiff.core.contracts import Query, spread
from textdiff.core.predictions import Normal, ValuePredictor

# (depth in [0, 1], level (B,)) -> ρ, a number or (B,); depth 0 is the lowest decoder block, 1 the one before the output
Factor = Callable[[float, Tensor], float | Tensor]


def across(bottom: float, top: float, *, clean: float | None = None) -> Factor:
    """ρ from `bottom` at the lowest block to `top` at the highest, evenly.

    With `clean` this holds at level 1, and ρ goes evenly to `clean`, the same for all blocks, at level 0.
    """

    def factor(depth: float, t: Tensor) -> float | Tensor:
        rho = bottom + depth * (top - bottom)
        return rho if clean is None else clean + t * (rho - clean)

    return factor


def skip_tuned(
    predictor: ValuePredictor, blocks: Sequence[nn.Module] | nn.ModuleList, factor: float | Factor
) -> ValuePredictor:
    """`predictor` with the skips into `blocks`, the `up_blocks` of the U-Net inside it, multiplied by `factor`.

    1 changes nothing, bit for bit.  The hooks stand for the length of a call, and fall whatever happens in it; two
    threads must not use the same network at once.
    """
    rho: Factor = factor if callable(factor) else lambda depth, t: factor

    def predict(query: Query) -> Normal:
        t = query.t
        level = t.flatten(1).amax(-1)

        def scaled(depth: float) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
            def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
                hidden, skips, *rest = inputs
                amount = rho(depth, level)
                return hidden, tuple(skip * _like(amount, skip) for skip in skips), *rest

            return hook

        handles = []
        try:
            for k, block in enumerate(blocks):
                handles.append(block.register_forward_pre_hook(scaled(k / max(len(blocks) - 1, 1))))
            return predictor(query)
        finally:
            for handle in handles:
                handle.remove()

    return predict


def _like(amount: float | Tensor, x: Tensor) -> float | Tensor:
    """A number as it is; (B,) shaped and typed to go with x."""
    return spread(amount, x).to(x.dtype) if isinstance(amount, Tensor) else amount
