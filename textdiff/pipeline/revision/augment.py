"""Variants of texts, to train on: a share of each text is corrupted and drawn anew, and what is kept stays letter by letter.

With x the n tokens of a text and x′ those of a variant, which stand in the same places,

    changed(x′) = 1/n · #{i : x′_i ≠ x_i}                                                                             (1)

and `edits` is the number of characters to insert, delete or exchange that make one text of the other (Levenshtein, 1966).  (1) is
mostly less than the share that was corrupted, as a token may come back.  Variants that come out like the text, or like an earlier
one, are drawn again; one that still does after the last try is given with the number of the one it is like.

Tokens of running text become tokens of their kind (`words`); those of a poem are characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

import textdiff.pipeline.canvas as canvas
from textdiff.core.errors import AskedError
from textdiff.core.rng import example_seed
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import Canvas, spelled
from textdiff.pipeline.options import MOST_TEXTS, at_least
from textdiff.pipeline.page import Pieces
from textdiff.pipeline.plan import Plan, process_of
from textdiff.pipeline.revision.keep import kept
from textdiff.pipeline.revision.versions import TRIES, Version, never, versions
from textdiff.pipeline.revision.words import ANY, words
from textdiff.pipeline.run import Left
from textdiff.pipeline.score.likelihood import MERIT_LEVELS, Progress, bounds, masking
from textdiff.pipeline.writable import check_canvas, vocabulary
from textdiff.processes import PROCESSES

STRENGTH, VARIANTS = 0.2, 4


@dataclass(frozen=True)
class Variant:
    """A variant of a text; its fields are the keys of a JSON line."""

    text: str
    original: str
    form: str | None
    variant: int  # its number, from 1
    changed: float  # (1)
    edits: int  # characters
    nats_per_char: float | None  # −log p of the variant by character (by token, for other tokenizers), or a bound on it
    nats_per_char_before: float | None  # of the original, by the same corruptions
    exact: bool  # whether these are −log p itself, and no bounds
    like: (
        int | None
    )  # the variant of this text that is the same, by its number; 0: the text itself; None: there is none
    seed: int
    process: str
    sampler: str
    model: str


@dataclass(frozen=True)
class Augmentation:
    """What a caller wants of variants; AskedError for what cannot be."""

    strength: float = STRENGTH  # share of the free tokens that is corrupted
    n: int = VARIANTS
    tries: int = TRIES
    levels: int = MERIT_LEVELS  # of the bound; 0: no bound

    def __post_init__(self) -> None:
        for name, least, most in (("n", 1, MOST_TEXTS), ("tries", 1, None), ("levels", 0, None)):
            object.__setattr__(self, name, at_least(name, getattr(self, name), least, most))
        if not isinstance(self.strength, Real) or not 0 < self.strength <= 1:
            raise AskedError(
                f"strength is {self.strength!r}; it must lie in (0, 1], the share of the free tokens that is drawn anew"
            )


@dataclass(frozen=True, eq=False)
class Source:
    """A text of which variants are drawn."""

    text: str
    whole: Canvas  # all of it free, to be scored
    given: Canvas  # free: what may become something else
    page: Canvas  # prints it with other tokens
    seed: int
    gone: Callable[[], bool] = never  # whether nobody waits for its variants any more

    @property
    def ids(self) -> Tensor:
        return self.whole.ids


def augment(
    model: TextModel,
    texts: Sequence[str],
    keep: Sequence[Any],
    seeds: Sequence[int],
    plan: Plan,
    task: Augmentation,
    batch_size: int,
    callback: Progress | None = None,
    left: Left | None = None,
) -> list[Variant]:
    """`task.n` variants of each text, whatever the texts beside it; of those that `left`, what there is by then."""
    at_least("batch_size", batch_size, 1)
    options = plan.options
    if PROCESSES[plan.process].data != "tokens":
        raise AskedError(f"process {plan.process!r} has no tokens to corrupt a text by; use the mask process")
    wholes = canvas.read_all(canvas.whole, texts, model, options.form)
    wholes = canvas.about_all(wholes, model, options.title, options.dynasty)
    sources = []
    for k, (one, text, stays, seed) in enumerate(zip(wholes, texts, keep, seeds, strict=True)):
        with canvas.numbered(k):
            if one.hidden is not None and not PROCESSES[plan.process].masks:
                raise AskedError(f"process {plan.process!r} cannot leave the rest of an octave unknown; use mask")
            if PROCESSES[plan.process].prosody == "law":  # what is not drawn anew stays, so all of it must match
                check_canvas(model, replace(one, free=torch.zeros_like(one.free)), plan)
            source = _source(model, canvas.in_script(one, options.script), text, stays, seed)
            sources.append(source if left is None else replace(source, gone=partial(left, k)))
    known = [(source.ids,) for source in sources]
    found = versions(model, sources, plan, task.n, task.strength, batch_size, known=known, tries=task.tries)
    name, nats = _scores(model, sources, found, task, batch_size)
    results = []
    for source, some, values in zip(sources, found, nats, strict=True):
        for number, (version, value) in enumerate(zip(some, values[1:], strict=True), start=1):
            text, shown = source.page.text(version.ids), source.whole.free
            results.append(
                Variant(
                    text=text,
                    original=source.text,
                    form=source.whole.form.name if source.whole.form else None,
                    variant=number,
                    changed=int((version.ids != source.ids)[shown].sum()) / int(shown.sum()),
                    edits=edits(source.text, text),
                    nats_per_char=value,
                    nats_per_char_before=values[0],
                    exact=name is not None and model.writes_whole(name),
                    like=version.like,
                    seed=source.seed,
                    process=plan.process,
                    sampler=plan.sampler,
                    model=model.name,
                )
            )
    if callback is not None:
        callback(len(texts))
    return results


def _scores(
    model: TextModel, sources: Sequence[Source], found: Sequence[Sequence[Version]], task: Augmentation, batch_size: int
) -> tuple[str | None, list[list[float | None]]]:
    """The process of the bounds, and those of each text and its variants, nats a character; None where there are none."""
    name: str | None = process_of(model, None)
    if not PROCESSES[str(name)].bounded or any(source.whole.hidden is not None for source in sources):
        name = masking(model)
    if name is None or not task.levels:
        return None, [[None] * (1 + task.n) for _ in sources]
    pages = [
        replace(source.whole, ids=ids)
        for source, some in zip(sources, found, strict=True)
        for ids in (source.ids, *(one.ids for one in some))
    ]
    seeds = [[example_seed(0, 0)]] * len(pages)

    def left(k: int) -> bool:
        return sources[k // (1 + task.n)].gone()

    totals = bounds(model, pages, seeds, name, task.levels, batch_size, left=left)[:, 0].tolist()
    values: list[float | None] = [total / page.shape[1] for total, page in zip(totals, pages, strict=True)]
    return name, [values[k : k + 1 + task.n] for k in range(0, len(values), 1 + task.n)]


# -- a text and its tokens ------------------------------------------------------------------------------------------------


def _source(model: TextModel, whole: Canvas, text: str, keep: Any, seed: int) -> Source:
    read = spelled(text, model)
    places = whole.places(whole.free).tolist()
    spans = _poem_spans(text, whole) if whole.poem else _token_spans(read, model)
    assert len(spans) == len(places), "each token of a text has a span"
    ids, stays, inside = whole.ids.tolist(), kept(text, keep), [0] * (len(text) + 1)
    for begin, end in spans:
        inside[begin:end] = [n + 1 for n in inside[begin:end]]
    never = set(vocabulary(model).banned(whole.poem).tolist())
    printed = vocabulary(model).characters if whole.poem else words(model).printed
    free, kinds = torch.zeros_like(whole.free), torch.full_like(whole.ids, ANY)
    for at, (begin, end) in zip(places, spans, strict=True):
        alone = begin < end and all(n == 1 for n in inside[begin:end])  # bytes of one character are several tokens
        alone = alone and not _is_mark(text[end : end + 1])  # an accent that is a token of its own stays on its letter
        free[at] = alone and ids[at] not in never and bool(printed[ids[at]]) and not any(stays[begin:end])
        if free[at] and not whole.poem:
            kinds[at] = words(model).kind(ids[at], text[begin - 1 : begin])
    if not free.any():
        raise AskedError("every token is kept or unknown, and nothing is left to draw anew; keep less")

    def write(now: list[int]) -> Pieces:
        pieces, done = Pieces(), 0
        for at, (begin, end) in zip(places, spans, strict=True):
            if now[at] != ids[at]:
                pieces += [(read[done:begin], text[done:begin]), (printed[now[at]], None)]
                done = end
        return [*pieces, (read[done:], text[done:])]

    given = replace(whole, ids=torch.where(free, model.mask_id, whole.ids), free=free)
    if not whole.poem:
        given = replace(given, kinds=(kinds, words(model).fitting))
    return Source(text, whole, given, replace(whole, write=write), seed)


def _poem_spans(text: str, whole: Canvas) -> list[tuple[int, int]]:
    """Where each character of a poem stands in a text with line breaks and punctuation."""
    assert whole.form is not None, "a poem has a form"
    spans, at = [], -1
    for character in "".join(whole.form.split(text)):
        at = text.index(character, at + 1)  # between two characters stands only what no line has
        spans.append((at, at + 1))
    return spans


def _token_spans(read: str, model: TextModel) -> list[tuple[int, int]]:
    """Where each token of running text stands, without the white space around it, and with the accents that are no token."""
    spans = list[tuple[int, int]]()
    for begin, end in model.tokenizer(read, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]:
        part = read[begin:end]
        start = begin + len(part) - len(part.lstrip())
        spans.append((start, start + len(part.strip())))
    told = {place for begin, end in spans for place in range(begin, end)}
    for k, (begin, end) in enumerate(spans):
        while begin < end and end not in told and _is_mark(read[end : end + 1]):
            end += 1
        spans[k] = begin, end
    return spans


def _is_mark(character: str) -> bool:
    """Whether a character, or none, is an accent or a sign that is written onto the letter before it."""
    return bool(character) and unicodedata.category(character)[0] == "M"


def edits(a: str, b: str) -> int:
    """The least number of characters to insert, delete or exchange that make b of a."""
    there = np.frombuffer(b.encode("utf-32-le"), dtype=np.uint32)
    steps = np.arange(len(b) + 1)
    row = steps.copy()
    for k, character in enumerate(a, start=1):
        least = np.concatenate([[k], np.minimum(row[1:] + 1, row[:-1] + (there != ord(character)))])
        row = np.minimum.accumulate(least - steps) + steps  # insertions, which follow one another
    return int(row[-1])
