"""The device and the type of numbers that a caller names, and torch's default device, which is another matter.

What is made without a device (levels, places, tables) is made on the CPU here, and moved to the model where it is needed.  A program
may have set another default, `torch.set_default_device("cuda")`: then `on_cpu` sets it aside for a call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

import torch

from textdiff.core.errors import AskedError

P = ParamSpec("P")
R = TypeVar("R")
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def on_cpu(call: Callable[P, R]) -> Callable[P, R]:
    """The call with the CPU as torch's default device; if it gives an iterator, each of its steps as well."""

    @functools.wraps(call)
    def called(*args: P.args, **more: P.kwargs) -> R:
        if _default_is_cpu():
            return call(*args, **more)
        with torch.device("cpu"):
            result = call(*args, **more)
        return cast(R, _stepped(result)) if isinstance(result, Iterator) else result

    return called


def _stepped(steps: Iterator[Any]) -> Iterator[Any]:
    while True:
        with torch.device("cpu"):  # entered anew for each step: the caller's code runs outside
            try:
                one = next(steps)
            except StopIteration:
                return
        yield one


def _default_is_cpu() -> bool:
    try:
        return torch.empty(0).is_cpu
    except (RuntimeError, AssertionError, NotImplementedError):  # a device that is not there
        return False


def usable(device: torch.device | str) -> torch.device:
    """The device of a name; AskedError where there is none here."""
    try:
        probe = torch.zeros(1, device=device)
        probe.item()  # a device without numbers, such as meta, cannot say it
        return probe.device
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise AskedError(f"device {str(device)!r} cannot be used here ({reason}); use 'cpu'") from error


def float_type(dtype: Any) -> torch.dtype:
    """The type of a network's numbers, torch's own or its name; AskedError where it is none that networks are computed in."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in FLOATS:
        raise AskedError(f"dtype is {dtype!r}; it must be one of {', '.join(map(str, FLOATS))}")
    return cast(torch.dtype, found)
