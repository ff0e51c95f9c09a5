"""Which words fit best into the slots of a text: the exact joint probability of every way to write it.

The text x of an assignment a has tokens s(a) in its slots and r elsewhere.  With q the network's −log p in an order, first of
what stands around the slots and then of the slots,

    p(a) ∝ q(r | the slots masked) · q(s(a) | r)                                                                      (1)

normalised over the assignments.  Where all of them have the same r and as many tokens in each slot, as words of one token have,
the first factor is the same for all, drops out, and is not computed: p(a) is then exactly the probability that a sampler which fills
the slots in that order writes a, given that it writes one of the assignments.  A longer word makes a longer text.  Texts of different
lengths are compared by both factors, as −log p of the whole text given its length, every length being taken for equally likely
(`compare` "text"); or by the second alone, the slots given the rest and their number of tokens (`compare` "slots").

For one slot of one token (1) is the softmax of one forward over the candidates.  A random:K order is the mixture of K orders, the
same K for all assignments of one length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import textdiff.pipeline.canvas as canvas
from textdiff.core.errors import AskedError
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import Canvas, spelled
from textdiff.pipeline.options import at_least, whole
from textdiff.pipeline.run import Left
from textdiff.pipeline.score.likelihood import Progress, free_nats
from textdiff.pipeline.score.template import Label, Template, Written
from textdiff.verse.forms import split_at_punctuation

COMPARED = ("text", "slots")  # by (1), or by its second factor alone
TOGETHER = 1024  # texts that are at work together, those of one template at least


@dataclass(frozen=True)
class Assignment:
    """A label for every slot, and its joint probability."""

    labels: dict[str, Label]
    probability: float


@dataclass(frozen=True)
class Chosen:
    """The most probable assignment of a template's slots, and all the others; its fields are the keys of a JSON line."""

    text: str  # the likeliest text
    labels: dict[str, Label]  # the likeliest assignment; of equally likely ones the first
    probability: float  # of that, all words of its labels together
    margin: float  # its probability above that of the second
    entropy: float  # of the law of the assignments, nats
    slots: dict[str, dict[Label, float]]  # the probability of each label of each slot, whatever the others are
    assignments: tuple[Assignment, ...]  # the likeliest first
    covered: float | None  # probability that one of the texts is written, where all have as many tokens in each slot
    compared: str  # "text" or "slots": by (1), or by its second factor
    order: str | None  # None: that of the writer
    model: str


@dataclass(frozen=True)
class _Place:
    """The canvas of an assignment, in which the slots alone are free."""

    written: Written
    slots: Canvas

    @property
    def rest(self) -> Tensor:
        """The tokens (L,) around the slots, −1 in them: equal where the first factor of (1) is."""
        return torch.where(self.slots.free, -1, self.slots.ids)


def choose(
    model: TextModel,
    templates: Sequence[Template],
    forms: Sequence[str | None],
    titles: Sequence[str | None],
    dynasties: Sequence[str | None],
    *,
    compare: str,
    order: str | None,
    seed: int,
    limit: int,
    batch_size: int,
    callback: Progress | None = None,
    left: Left | None = None,
) -> list[Chosen]:
    """The law (1) of the assignments of each template, whatever the templates beside it; no law of those that `left`."""
    if compare not in COMPARED:
        raise AskedError(f"compare is {compare!r}; it must be {' or '.join(COMPARED)}")
    at_least("limit", limit, 2)
    seed = whole("seed", seed)
    results, window = list[Chosen](), list[list[_Place]]()
    for number, told in enumerate(zip(templates, forms, titles, dynasties, strict=True)):
        with canvas.numbered(number):
            window.append(_places(model, *told, limit))
        if number + 1 == len(templates) or sum(map(len, window)) >= TOGETHER:
            owners = [len(results) + k for k, places in enumerate(window) for _ in places]
            gone = None if left is None else partial(_of_owner, left, owners)
            slots = [one.slots for places in window for one in places]
            nats = free_nats(model, slots, order, seed, batch_size, left=gone)
            for places, mine in zip(window, nats.split([len(places) for places in window]), strict=True):
                template = templates[len(results)]
                results.append(_chosen(model, template, places, mine, compare, order, seed, batch_size))
                if callback is not None:
                    callback(1)
            window = []
    return results


def _of_owner(left: Left, owners: Sequence[int], k: int) -> bool:
    return left(owners[k])


def _places(
    model: TextModel, template: Template, form: str | None, title: str | None, dynasty: str | None, limit: int
) -> list[_Place]:
    places = [_place(model, one, form, title, dynasty) for one in template.written(limit)]
    seen: dict[tuple[int, ...], str] = {}
    for place in places:
        ids, text = tuple(place.slots.ids.tolist()), place.written.text
        if ids in seen:
            raise AskedError(
                f"texts {seen[ids]!r} and {text!r} are the same to the model; leave one of the candidates out"
            )
        seen[ids] = text
    return places


def _place(model: TextModel, one: Written, form: str | None, title: str | None, dynasty: str | None) -> _Place:
    page = canvas.about(canvas.read(canvas.whole, one.text, model, form), model, title, dynasty)
    free = torch.zeros_like(page.free)
    for begin, stop in one.spans:
        at = _positions(page, one.text, begin, stop, model)
        if not len(at):
            raise AskedError(f"candidate {one.text[begin:stop]!r} is no token of the text; pass a word")
        if model.unk_id is not None and bool((page.ids[at] == model.unk_id).any()):
            raise AskedError(
                f"candidate {one.text[begin:stop]!r} is outside the vocabulary of model {model.name}; pass another word"
            )
        free[at] = True
    return _Place(one, replace(page, free=free))


def _positions(page: Canvas, text: str, begin: int, stop: int, model: TextModel) -> Tensor:
    """The positions of the tokens of text[begin:stop]; a token that belongs to it in part counts."""
    shown = page.places(page.free)
    if page.poem:
        before, within = (len("".join(split_at_punctuation(part))) for part in (text[:begin], text[begin:stop]))
        return shown[before : before + within]
    spans = model.tokenizer(spelled(text, model), add_special_tokens=False, return_offsets_mapping=True)
    inside = [first < stop and last > begin for first, last in spans["offset_mapping"]]
    return shown[torch.tensor(inside)]


def _rest(model: TextModel, slots: Canvas) -> Canvas:
    """The same text with its slots masked for good, and what stands around them free."""
    hidden = slots.free if slots.hidden is None else slots.free | slots.hidden
    return replace(slots, ids=torch.where(slots.free, model.mask_id, slots.ids), free=~hidden)


def _chosen(
    model: TextModel,
    template: Template,
    places: Sequence[_Place],
    nats: Tensor,
    compare: str,
    order: str | None,
    seed: int,
    batch_size: int,
) -> Chosen:
    """What follows from −log q of the slots of each text (texts,); the words of one label are added up."""
    kinds = [tuple(place.rest.tolist()) for place in places]
    first = {kind: k for k, kind in reversed(list(enumerate(kinds)))}
    covered = float((-nats).logsumexp(0).exp()) if len(first) == 1 else None
    if compare == COMPARED[0] and covered is None:
        around = [_rest(model, places[k].slots) for k in first.values()]
        before = dict(zip(first, free_nats(model, around, order, seed, batch_size).tolist(), strict=True))
        nats = nats + torch.tensor([before[kind] for kind in kinds], dtype=torch.float64)
    p = (-nats).softmax(0)
    names = [slot.name for slot in template.slots]
    joint: dict[tuple[Any, ...], float] = {}
    slots = {slot.name: dict.fromkeys(slot.labels, 0.0) for slot in template.slots}
    for place, value in zip(places, p.tolist(), strict=True):
        joint[place.written.labels] = joint.get(place.written.labels, 0.0) + value
        for name, label in zip(names, place.written.labels, strict=True):
            slots[name][label] += value
    ranked = sorted(joint.items(), key=lambda item: -item[1])
    best = max(
        (k for k, place in enumerate(places) if place.written.labels == ranked[0][0]), key=lambda k: (p[k].item(), -k)
    )
    return Chosen(
        text=places[best].written.text,
        labels=dict(zip(names, ranked[0][0], strict=True)),
        probability=ranked[0][1],
        margin=ranked[0][1] - ranked[1][1],
        entropy=-sum(value * math.log(value) for value in joint.values() if value > 0),
        slots=slots,
        assignments=tuple(Assignment(dict(zip(names, key, strict=True)), value) for key, value in ranked),
        covered=covered,
        compared=compare,
        order=order or (None if model.writes_whole(model.processes[0]) else "left"),
        model=model.name,
    )
