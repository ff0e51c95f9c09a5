"""Training examples: fixed-length token sequences, and the corrupted micro-batches made of them.

The batch of an optimiser step holds texts of one length (and so no padding).  Which texts, how they are corrupted and by
which process depends on (seed, epoch, example) alone: neither on how the batch is cut into pieces nor on ranks or workers.
Levels are stratified over the whole step,

    m = ⌊n · (π(k) + U)/G⌋ + 1,   π a random permutation of the step's G texts, U ~ U(0, 1)                          (1)

so that each text's level is uniform on 1 … n and a step holds every band of levels.

A step is told a title, a dynasty, or not, as a whole: a slot of the prefix that no text of it fills costs nothing.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import json
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Process, spread
from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng, example_seed
from textdiff.networks.tokenization import SLOT_WORDS, title_characters
from textdiff.verse.forms import FORMS, get_form, guess_form

CONDITIONS = ("title", "dynasty", "label")  # slots of the prefix that a step may leave unsaid; the last is of images


@dataclass(frozen=True)
class Text:
    """One text of a corpus, and what the network may be told of it."""

    text: str
    form: str | None = None
    title: str | None = None
    dynasty: str | None = None


@dataclass(frozen=True)
class Group:
    """All texts of one length and one form."""

    ids: Tensor  # (N, L)
    condition: Tensor  # (N, P) prefix tokens, the conditions of the recipe said
    free: Tensor  # (L,) bool
    seeds: Tensor | None = None  # (N,) what each is always corrupted with (reflow.py); None: anew in every epoch


def read_texts(path: str | Path, kind: str, limit: int | None = None, conditions: Collection[str] = ()) -> list[Text]:
    """The texts of a JSON Lines or text file; ValueError names the file, the line and what is wrong.

    The fields of `conditions` are read, too: a text may lack one, all texts may not.
    """
    path = Path(path)
    if not path.is_file():
        raise AskedError(
            f"data file {str(path)!r} does not exist; make one with 'textdiff data prepare', or pass data.train=FILE"
        )
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            lines = list(itertools.islice(file, limit))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise AskedError(f"data file {str(path)!r} is damaged or no UTF-8 text ({error}); make it again") from error
    if not any(map(str.strip, lines)):
        raise AskedError(f"data file {str(path)!r} is empty; it must hold at least one text")
    if ".json" not in path.name and kind == "windows":
        return [Text("".join(lines))]
    texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        if ".json" not in path.name:
            texts.append(_text({"text": line}, kind, where, ()))
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise AskedError(f"{where} is not JSON ({error}); the file may have been cut, make it again") from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise AskedError(f"{where} is not a JSON object with a 'text' field")
        texts.append(_text(record, kind, where, conditions))
    for name in conditions:
        if not any(getattr(text, name) for text in texts):
            raise AskedError(
                f"conditions has {name!r}, but no text of {str(path)!r} has a {name}; make the file with "
                f"'textdiff data prepare', which keeps it, or leave {name} out of conditions"
            )
    return texts


def _text(record: dict[str, Any], kind: str, where: str, conditions: Collection[str]) -> Text:
    text, name = record["text"], record.get("form")
    if kind == "windows":
        return Text(text)
    try:
        form = (FORMS.get(name) or get_form(str(name))) if name else guess_form(text)
        if form is None:
            raise AskedError(f"{text[:24]!r} has the shape of no form; prepare the file first, or use kind: windows")
        told = {key: _told(key, record.get(key)) for key in conditions}
        return Text("".join(form.split(text)), form.name, **told)
    except ValueError as error:
        raise AskedError(f"{where}: {error}") from error


def _told(name: str, value: Any) -> str | None:
    """A title or dynasty that can be told; None where there is none, or no Chinese character in it."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise AskedError(f"{name} is {value!r}; expected text, or null where there is none")
    if name == "title":
        return value if title_characters(value) else None
    if value not in SLOT_WORDS[name]:
        raise AskedError(f"{name} is {value!r}; expected one of {', '.join(SLOT_WORDS[name])}, or null")
    return value


def unsaid(condition: Tensor, prefix: Sequence[str], slots: Collection[str], pad: int) -> Tensor:
    """`condition` (B, P) with nothing said in the slots named."""
    columns = [k for k, slot in enumerate(prefix) if slot in slots]
    return condition.index_fill(1, torch.tensor(columns, dtype=torch.long, device=condition.device), pad)


def split_by_hash(texts: list[Text], share: float) -> tuple[list[Text], list[Text]]:
    """(the rest, about `share` of the texts), decided by each text alone; at least one text on either side."""
    place = [int.from_bytes(hashlib.sha256(t.text.encode()).digest()[:8]) / 2**64 for t in texts]
    least = min(place)
    below = [p < share or p == least for p in place]
    held = list(itertools.compress(texts, below))
    return [t for t, out in zip(texts, below, strict=True) if not out] or texts, held


@dataclass(frozen=True, eq=False)
class MicroBatches:
    """A map from the number of a micro-batch, over the whole run, to its corrupted tensors.

    Micro-batch i is piece i mod P of optimiser step i // P, P = pieces.  An epoch is one pass over every group; the last
    step of a group in an epoch is filled up from the group's beginning.
    """

    groups: list[Group]
    processes: dict[str, Process]
    shares: dict[str, float]
    batch: int
    pieces: int
    steps: int
    seed: int
    conditions: dict[str, float] = field(default_factory=dict)  # how likely a step is told a title, a dynasty
    prefix: tuple[str, ...] = ()
    pad: int = 0
    known: Callable[[Tensor], Tensor] | None = None  # seeds (B,) -> bool like free: what an example is shown

    def __len__(self) -> int:
        return self.steps * self.pieces

    def steps_per_epoch(self) -> int:
        return sum(-(-len(g.ids) // self.batch) for g in self.groups)

    def plan(self, step: int) -> tuple[int, int, int]:
        """(epoch, group, first example) of an optimiser step."""
        epoch, place = divmod(step, self.steps_per_epoch())
        slots = [(g, b) for g, group in enumerate(self.groups) for b in range(0, len(group.ids), self.batch)]
        order = _order(len(slots), self.seed, epoch, -1)
        group, first = slots[int(order[place])]
        return epoch, group, first

    def process_of(self, step: int) -> str:
        """The process of a step: a golden-ratio sequence over the shares, so that they mix evenly."""
        place = (step + 0.5) * 0.6180339887498949 % 1 * sum(self.shares.values())
        for name, share in self.shares.items():
            if place < share:
                return name
            place -= share
        return max(self.shares, key=self.shares.__getitem__)

    def silent(self, step: int) -> set[str]:
        """The conditions that a step is not told."""
        epoch, _, _ = self.plan(step)
        draws = Rng([example_seed(self.seed, epoch, -3, step)]).uniform(len(CONDITIONS))[0]
        return {k for k, draw in zip(CONDITIONS, draws, strict=True) if draw >= self.conditions.get(k, 1.0)}

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, piece = divmod(index, self.pieces)
        epoch, g, first = self.plan(step)
        group, name = self.groups[g], self.process_of(step)
        order = _order(len(group.ids), self.seed, epoch, g)
        size = self.batch // self.pieces
        slots = torch.arange(piece * size, (piece + 1) * size)
        chosen = order[(first + slots) % len(order)]
        stratum = _order(self.batch, self.seed, epoch, -2 - step)[slots]
        x0 = group.ids[chosen]
        free = group.free.expand(len(x0), *group.free.shape)
        lap = (first + slots) // len(order)
        seeds = torch.tensor(
            [example_seed(self.seed, epoch, g, int(i), int(r)) for i, r in zip(chosen, lap, strict=True)]
        )
        n = int(group.free.expand(x0.shape[1:]).sum())
        steps = self.processes[name].bound_steps(torch.tensor([n]))
        m = (steps * (stratum + Rng(seeds).uniform(1)[:, 0]) / self.batch).floor() + 1
        open_ = free if self.known is None else free & ~self.known(seeds)
        t = torch.where(open_, spread(m / steps, free), 0.0)
        return {
            "x0": x0,
            "t": t,
            "seeds": seeds if group.seeds is None else group.seeds[chosen],
            "condition": unsaid(group.condition[chosen], self.prefix, self.silent(step), self.pad),
            "process": name,
            "positions": self.batch * n,  # free positions of the whole optimiser step
            "dropout": example_seed(self.seed, index),  # what dropout is drawn with
        }


@functools.lru_cache(maxsize=32)
def _order(n: int, *parts: int) -> Tensor:
    """A random order of 0 … n − 1 that depends on `parts` alone."""
    return Rng([example_seed(*parts)]).uniform(n)[0].argsort()
