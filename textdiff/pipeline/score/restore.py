"""Damaged texts restored: for the whole text and for each gap the likeliest fillings, with their probabilities.

A gap is a run of holes.  With q the law of the network that writes holes in an order (left to right),

    whole text    p(f) = q(all gaps = f | what stands)                                                                (1)
    gap g         p(f) = q(gap g = f | what stands, the other gaps open)                                              (2)

(2) is the law of the gap when it is written before the others.  Both are normalised over all fillings of characters that may be
written, those outside of the list too, and each probability that is given is exact for the order.  What is approximate is the
list: it comes from a beam, which may have lost a filling.  `certain` says how many of the first fillings no lost one can
surpass (`samplers.beam` (1)), and `covered` how much of the probability the list has.

The number n of characters of a gap may be unknown, □{1,3}.  Every n is taken for equally likely before the text is read, so that

    p(n, f) ∝ q(what stands | n, the gaps masked) · q(f | what stands, n)                                             (3)

normalised over the n that are possible; the first factor is exact in the order, too.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import textdiff.pipeline.canvas as canvas
from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError
from textdiff.core.predictions import TokenPredictor, positions_of
from textdiff.core.rng import example_seed
from textdiff.networks.fast_float32 import fast_float32
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import HOLE, Canvas, with_holes
from textdiff.pipeline.options import at_least, whole
from textdiff.pipeline.page import condition, shorten
from textdiff.pipeline.score.likelihood import free_nats, masking
from textdiff.pipeline.score.order import Order
from textdiff.pipeline.writable import vocabulary
from textdiff.processes import PROCESSES
from textdiff.samplers.beam import Found, likeliest
from textdiff.shaping.shared import shared
from textdiff.shaping.tokens import allowed, banned

TOP = 20  # fillings of a list
WIDTH = 64  # of the beam
WIDEST = 4096
LENGTHS = 64  # texts of different lengths that are compared
MOST_HOLES = 9999  # that a gap may be said to have
_GAP = re.compile(rf"(?:{HOLE}(?:\{{\d*,?\d*\}})?)+")
_HOLES = re.compile(rf"{HOLE}(?:\{{(\d*)(,?)(\d*)\}})?")


@dataclass(frozen=True)
class Filling:
    """What may stand in a gap, or the whole text, and its probability."""

    text: str
    probability: float


@dataclass(frozen=True)
class Ranked:
    """The likeliest fillings, the first of which are `certain` to be; together they have the probability `covered`."""

    fillings: tuple[Filling, ...]
    covered: float
    certain: int | None  # None: the order hangs on the text, and nothing is known of what the beam has lost


@dataclass(frozen=True)
class Gap(Ranked):
    """The law (2) of a gap, and how likely each number of characters (tokens) is."""

    lengths: dict[int, float]


@dataclass(frozen=True)
class Restoration:
    """A damaged text restored; its fields are the keys of a JSON line."""

    text: str  # the likeliest whole text
    probability: float
    whole: Ranked  # the law (1)
    gaps: tuple[Gap, ...]  # in the order of the text
    form: str | None  # None, too, where texts of several forms are compared
    order: str
    model: str


def restore(
    model: TextModel,
    texts: Sequence[str],
    forms: Sequence[str | None],
    titles: Sequence[str | None],
    dynasties: Sequence[str | None],
    *,
    top: int,
    width: int,
    order: str | None,
    seed: int,
    batch_size: int,
    callback: Callable[[float], object] | None = None,
) -> list[Restoration]:
    """Each damaged text restored, whatever the texts beside it; `callback` hears of each hole the share that it is of its text."""
    at_least("top", whole("top", top), 1, WIDEST)
    at_least("width", whole("width", width), 1, WIDEST)
    at_least("batch_size", batch_size, 1)
    writer = Writer(model, order, max(width, top), whole("seed", seed), batch_size)
    results = []
    for number, told in enumerate(zip(texts, forms, titles, dynasties, strict=True)):
        with canvas.numbered(number):
            results.append(_restored(writer, *told, top, callback or (lambda share: None)))
    return results


# -- gaps -----------------------------------------------------------------------------------------------------------------


def sizes(text: str) -> tuple[list[str], list[range]]:
    """What stands before, between and behind the gaps of a text with holes, and how many characters each gap may have."""
    ranges = []
    for gap in _GAP.findall(text):
        low = high = 0
        for first, comma, last in _HOLES.findall(gap):
            if max(len(first), len(last)) > len(str(MOST_HOLES)):
                raise AskedError(f"gap {shorten(gap)!r} has more than {MOST_HOLES} characters; write a smaller number")
            braced = bool(first or comma or last)
            fewest = int(first) if first else 1
            most = int(last) if last else fewest if not comma else 0
            if braced and not 1 <= fewest <= most:
                raise AskedError(
                    f"gap {gap!r} has no range; write {HOLE}{{1,3}} for one to three characters, at least one of them"
                )
            low, high = low + fewest, high + most
        ranges.append(range(low, high + 1))
    return _GAP.split(text), ranges


def _pages(
    model: TextModel, text: str, form: str | None, title: str | None, dynasty: str | None
) -> list[tuple[tuple[int, ...], Canvas]]:
    """A canvas for all lengths of the gaps that the form allows, with the lengths."""
    around, ranges = sizes(with_holes(text, model))
    count = math.prod(map(len, ranges))
    if count > LENGTHS:
        raise AskedError(
            f"the gaps may have {count} combinations of lengths, and at most {LENGTHS} are compared; give narrower ranges"
        )
    pages, wrong = list[tuple[tuple[int, ...], Canvas]](), None
    for lengths in itertools.product(*ranges):
        filled = around[0] + "".join(HOLE * n + rest for n, rest in zip(lengths, around[1:], strict=True))
        try:
            page = canvas.about(canvas.read(canvas.holed, filled, model, form), model, title, dynasty)
        except AskedError as error:
            wrong = wrong or error
            continue
        pages.append((lengths, page))
    if not pages:
        assert wrong is not None, "there is one combination at least"
        raise AskedError(f"no length fits: {wrong}" if count > 1 else str(wrong))
    return pages


# -- their law ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writer:
    """A model that writes holes in an order."""

    model: TextModel
    order: str | None
    width: int
    seed: int
    batch_size: int

    @property
    def way(self) -> Order:
        return Order.parse(self.order or "left")

    def predictor(self, page: Canvas) -> TokenPredictor:
        """The network, without what is never written."""
        model = self.model
        own = model.processes[0] if self.order is None and model.writes_whole(model.processes[0]) else None
        name = own or next((name for name in model.processes if PROCESSES[name].any_order), None)
        if name is None and self.way.name != "left":
            raise AskedError(f"model {model.name} writes from left to right; leave the order out")
        name = name or masking(model)
        if name is None:
            raise AskedError(f"model {model.name} does not serve the mask process, by which gaps are restored")
        predictor = banned(model.predictor(name), vocabulary(model).banned(page.poem))
        return predictor if page.allowed is None else allowed(predictor, page.allowed.to(model.device))

    def weights(self, pages: Sequence[Canvas]) -> list[float]:
        """How likely each length is by (3)."""
        if len(pages) == 1:
            return [1.0]
        masked = [page.ids == self.model.mask_id for page in pages]
        around = [replace(page, free=~hidden) for page, hidden in zip(pages, masked, strict=True)]
        found: list[float] = (
            (-free_nats(self.model, around, self.order, self.seed, self.batch_size)).softmax(0).tolist()
        )
        return found

    def fillings(self, page: Canvas, holes: Tensor, written: Callable[[], object] = lambda: None) -> Found:
        """The likeliest tokens of the holes, the other holes being open; `written` is called after each of them."""
        ids, holes = page.ids.to(self.model.device), holes.to(self.model.device)
        times, predictor = self.way.times(page.turn), self.predictor(page)
        inside = holes if times is None else holes[times.to(holes.device)[holes].argsort()]

        def told(rows: int) -> Tensor:
            return condition(self.model, [page] * rows)

        with torch.inference_mode(), fast_float32():
            found = likeliest(ids, inside, predictor=predictor, width=self.width, condition=told, written=written)
        found = Found(found.ids.cpu(), found.nats.cpu(), found.others)
        if times is not None:
            return found
        free = torch.zeros_like(page.free).index_fill(0, holes.cpu(), True)
        nats, place = self.nats(replace(page, free=free), found.ids).sort(stable=True)
        return Found(found.ids[place], nats, math.nan)

    def alone(self, page: Canvas, holes: Tensor) -> Tensor:
        """log q of every token at each hole (h,), all the others being open, (h, V) float64: by one forward."""
        ids = page.ids.to(self.model.device)
        free = torch.zeros_like(ids, dtype=torch.bool).index_fill(0, holes.to(ids.device), True)[None]
        query = Query(ids[None], free.double(), at=positions_of(free), condition=condition(self.model, [page]))
        with torch.inference_mode(), fast_float32():
            logits = self.predictor(page)(query).by_token().logits()
        log_q: Tensor = logits.double().log_softmax(-1).cpu()
        return log_q

    def nats(self, page: Canvas, ids: Tensor) -> Tensor:
        """−log p in the order of ids (n, L) at the free positions of a page, which shows holes there, (n,) float64."""
        free = page.free.expand(len(ids), -1).to(self.model.device)
        with torch.inference_mode(), fast_float32():
            return self.way.nats(
                ids.to(free.device),
                free,
                predictor=shared(self.predictor(page)),
                mask_id=self.model.mask_id,
                seeds=torch.full((len(ids),), example_seed(self.seed, 0), device=free.device),
                condition=condition(self.model, [page] * len(ids)),
                turn=page.turn,
            ).cpu()


@dataclass
class _List:
    """Fillings as they are found for one length after the other."""

    found: dict[str, float] = field(default_factory=dict)
    lost: float = 0.0  # the probability that none of the others surpasses

    def add(self, texts: Sequence[str], found: Found, weight: float) -> None:
        for text, nats in zip(texts, found.nats.tolist(), strict=True):
            self.found[text] = self.found.get(text, 0.0) + weight * math.exp(-nats)
        self.lost += weight * math.exp(-found.others)

    def ranked(self, top: int) -> Ranked:
        order = sorted(self.found.items(), key=lambda item: -item[1])[:top]
        certain = None if math.isnan(self.lost) else sum(p >= self.lost for _, p in order)
        return Ranked(tuple(Filling(text, p) for text, p in order), math.fsum(p for _, p in order), certain)


def _restored(
    writer: Writer,
    text: str,
    form: str | None,
    title: str | None,
    dynasty: str | None,
    top: int,
    callback: Callable[[float], object],
) -> Restoration:
    pages = _pages(writer.model, text, form, title, dynasty)
    gaps = [page.places(page.free)[: sum(lengths)].split(list(lengths)) for lengths, page in pages]
    weights = writer.weights([page for _, page in pages])
    each = 1 if len(gaps[0]) == 1 else 2  # times that a hole is written: with all others, and with its gap
    holes_in_all = each * sum(sum(lengths) for lengths, _ in pages)

    def written() -> None:
        callback(1 / holes_in_all)

    whole, parts = _List(), [_List() for _ in gaps[0]]
    sizes = [dict[int, float]() for _ in parts]
    for (lengths, page), places, weight in zip(pages, gaps, weights, strict=True):
        joint = writer.fillings(page, torch.cat(places), written)
        whole.add([page.text(ids) for ids in joint.ids], joint, weight)
        for k, holes in enumerate(places):
            found = joint if len(places) == 1 else writer.fillings(page, holes, written)
            parts[k].add(_words(writer.model, page, found.ids[:, holes]), found, weight)
            sizes[k][lengths[k]] = sizes[k].get(lengths[k], 0.0) + weight
    ranked, forms = whole.ranked(top), {page.form.name if page.form else None for _, page in pages}
    return Restoration(
        text=ranked.fillings[0].text,
        probability=ranked.fillings[0].probability,
        whole=ranked,
        gaps=tuple(Gap(**vars(part.ranked(top)), lengths=lengths) for part, lengths in zip(parts, sizes, strict=True)),
        form=forms.pop() if len(forms) == 1 else None,
        order=writer.way.name,
        model=writer.model.name,
    )


def _words(model: TextModel, page: Canvas, ids: Tensor) -> list[str]:
    """The fillings of a gap as they are printed."""
    texts = model.decode(ids)
    return texts if page.convert is None else [page.convert(text) for text in texts]
