"""Activations that are computed twice instead of kept (Chen et al., 2016; gradient checkpointing).

Of each layer of a network the inputs alone are kept from the forward to the backward pass, which computes the layer anew when it
comes to it.  The memory of the activations falls to about that of one layer, and a step takes about a third longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from textdiff.networks.dropout.keyed import again


def recompute(network: nn.Module) -> None:
    """Have the layers of a network compute their activations anew in the backward pass."""
    for layer in _layers(network):
        layer.forward = _twice(layer.forward)  # copies of the network are to be made before


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of all lists of modules, those of a list within a list left out."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (part for part in child if part is not None)  # None: a block of diffusers without attention
        else:
            yield from _layers(child)


def _twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=again, **kwargs)

    return call
