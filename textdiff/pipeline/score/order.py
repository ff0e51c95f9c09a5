"""An order of writing, as a person names it."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Query, TokenPrediction
from textdiff.core.errors import AskedError
from textdiff.core.resolve import attribute
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS
from textdiff.samplers.likelihood import in_order, of_orders


@dataclass(frozen=True)
class Order:
    """How the positions of a text are ordered, as a person names it."""

    name: str
    sampler: str = "improved"  # of the table: its step chooses the positions
    written: tuple[int, ...] | None = None  # when each position is written; () from right to left; None: by the sampler
    repeats: int = 1  # random orders

    @classmethod
    def parse(cls, text: str, files: bool = True) -> Order:
        """left, right, random or random:K, a sampler that unmasks in an order of its own, or a file with numbers 1 … L.

        Without `files` none is looked for: a caller from elsewhere must not learn which files there are.
        """
        chosen = [name for name, one in SAMPLERS.items() if "any_order" in one.needs and one.stepped]
        if not isinstance(text, str):
            raise AskedError(f"order is {text!r}; it must be a word, such as 'left'")
        word, _, number = text.partition(":")
        if text in chosen:
            return cls(text, sampler=text)
        if text in ("left", "right"):
            return cls(text, written=())
        if word == "random" and (not number or (number.isdecimal() and len(number) < 7 and int(number) > 0)):
            return cls(text, repeats=int(number or 1))
        names = f"left, right, random:K (K up to 999999), {', '.join(chosen)}"
        if not files:
            raise AskedError(f"order is {reprlib.repr(text)}; expected one of {names}")
        try:
            numbers = Path(text).expanduser().read_text(encoding="utf-8-sig").split()
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise AskedError(
                f"order is {reprlib.repr(text)}; expected {names}, or a file that says of each position when it is written "
                f"(numbers from 1), which this is not ({reason})"
            ) from None
        if sorted(numbers, key=lambda n: (len(n), n)) != [str(k + 1) for k in range(len(numbers))]:
            raise AskedError(f"order file {text}: each of the numbers 1 to {len(numbers)} must stand in it once")
        return cls(text, written=tuple(int(n) - 1 for n in numbers))

    def times(self, turn: Tensor) -> Tensor | None:
        """When each position is written, (L,), of those that come in the text at `turn` (L,); None where the sampler decides."""
        if self.written is None:
            return None
        length = len(turn)
        if not self.written:
            return turn if self.name == "left" else length - 1 - turn
        if len(self.written) != length:
            raise AskedError(
                f"order {self.name} has {len(self.written)} positions, and a text has {length}; pass texts of that length"
            )
        return torch.tensor(self.written)[turn]

    def nats(
        self,
        x0: Tensor,
        free: Tensor,
        *,
        predictor: Callable[[Query], TokenPrediction],
        mask_id: int,
        seeds: Tensor,
        steps: int | None = None,
        condition: Any = None,
        turn: Tensor | None = None,
    ) -> Tensor:
        """−log p of x0 (B, L) at the free positions (B, L) bool, nats, (B,) float64: by (1) of `samplers.likelihood`, or for random
        orders by (2).  Position i comes in the texts at turn[i]; None: they come as they stand.
        """
        times = self.times(torch.arange(x0.shape[1]) if turn is None else turn)
        lines = PROCESSES.values()
        line = next(one for one in lines if (one.any_order if times is None else one.ordered))
        fixed = {} if times is None else {"written": times.to(x0.device)}
        process = attribute(line.path)(mask_id=mask_id, **fixed)
        step = attribute(SAMPLERS[self.sampler].path)()
        options: dict[str, Any] = {"predictor": predictor, "process": process, "steps": steps, "condition": condition}
        each = [in_order(x0, free, step, seeds=seeds + k, **options) for k in range(self.repeats)]
        return of_orders(torch.stack(each, -1))
