"""What a network has computed of a text that is being written: the keys and values of every column, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from textdiff.networks.lean.network import Encoder
from textdiff.networks.masked_lm import filled_up

KEPT = 2  # batches that are written by turns: those with and without a condition under guidance


@dataclass(eq=False)
class Memory:
    """Keys and values (R, H, W, D/H) of the columns so far, one pair for each layer."""

    pairs: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def joined(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Those of all columns, once these (R, H, k, D/H) have come."""
        if layer in self.pairs:
            before = self.pairs[layer]
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        self.pairs[layer] = key, value
        return key, value


@dataclass(eq=False)
class _Text:
    """A batch that is being written, as far as its columns were computed."""

    columns: Any  # any_subset.Columns, of R ≥ `fewest` rows
    memory: Memory
    hidden: Tensor  # (R, D) of the last column


class Recent:
    """The batches that were written last.  It saves work, and changes no number: columns that are not there are computed."""

    def __init__(self, fewest: int) -> None:
        """`fewest` rows are computed at least."""
        self.fewest = fewest
        self.texts: list[_Text] = []

    def last(self, model: Encoder, columns: Any, embed: Callable[[Any], Tensor], standing: int) -> Tensor:
        """The hidden states of the last column, (R, D); the first `standing` columns see each other."""
        rows = len(columns.ids)
        columns = _each(columns, lambda part: filled_up(part, self.fewest))
        found = next((text for text in self.texts if _begins(columns, text.columns, standing)), None)
        if found is None:
            found = _Text(_each(columns, lambda part: part[:, :0]), Memory(), columns.ids)
            self._computed(model, found, _each(columns, lambda part: part[:, :standing]), embed, True)
        else:
            self.texts.remove(found)
        self.texts = [found, *self.texts[: KEPT - 1]]
        done = found.columns.ids.shape[1]
        if done < columns.ids.shape[1]:
            self._computed(model, found, columns, embed, False)
        return found.hidden[:rows]

    def _computed(
        self, model: Encoder, text: _Text, columns: Any, embed: Callable[[Any], Tensor], together: bool
    ) -> None:
        """Compute the columns that the text has not; they see each other, or each those before it."""
        done, size = text.columns.ids.shape[1], columns.ids.shape[1]
        text.columns = columns
        if done == size:
            return
        fresh = _each(columns, lambda part: part[:, done:])
        seen = columns.live[:, None, :].expand(-1, size - done, -1)
        if not together:
            column = torch.arange(size, device=seen.device)
            seen = seen & (column <= column[done:, None])
        whole = bool(seen.all())
        bias = (
            None
            if whole
            else torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, torch.finfo(torch.float).min)
        )
        hidden = model.encode(
            inputs_embeds=embed(fresh),
            position_ids=fresh.position,
            attention_mask=None if bias is None else bias[:, None],
            memory=text.memory,
        )
        text.hidden = hidden[:, -1]


def _each(columns: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return replace(columns, **{name: change(part) for name, part in vars(columns).items()})


def _begins(columns: Any, other: Any, standing: int) -> bool:
    """Whether `columns` go on where `other` ends, or end there."""
    size = other.ids.shape[1]
    if len(other.ids) != len(columns.ids) or not standing < size <= columns.ids.shape[1]:
        return False
    return all(torch.equal(part[:, :size], vars(other)[name]) for name, part in vars(columns).items())
