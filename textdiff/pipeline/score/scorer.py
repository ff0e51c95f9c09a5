"""How likely texts are under a model: bounds on −log p, and each character given the others.

    nats_i(x) = −log q(x_i | all others),      q the mask process's prediction for one hole                              (1)

What the network is told of a text stands on its canvas.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import textdiff.pipeline.canvas as canvas
from textdiff.core.errors import AskedError
from textdiff.core.likelihood import ratio
from textdiff.core.resolve import unknown
from textdiff.core.rng import Rng, example_seed
from textdiff.data.records import CONDITIONS
from textdiff.networks.devices import on_cpu
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import title_characters
from textdiff.pipeline.canvas import Canvas, spelled
from textdiff.pipeline.options import Forms, Words, at_least, several, texts_in, whole
from textdiff.pipeline.plan import process_of
from textdiff.pipeline.run import BATCH, Left
from textdiff.pipeline.score.choose import Chosen, choose
from textdiff.pipeline.score.likelihood import Progress, bounds, check_steps, given_the_others, masking, ordered_nats
from textdiff.pipeline.score.order import Order
from textdiff.pipeline.score.restore import TOP, WIDTH, Restoration, restore
from textdiff.pipeline.score.template import MOST, Candidates, Slots, Template, merged
from textdiff.processes import PROCESSES

AHEAD = 8  # batches of records that are read before the first of them is worked on
REPEATS = 4  # of every level of a single text's bound
FILE_LEVELS = 8  # stratified levels of each text of a file


@dataclass(frozen=True)
class Score:
    """−log p(text) by character (by token, for other tokenizers), or an upper bound on it; its fields are the keys of a JSON line."""

    text: str
    form: str | None
    process: str
    nats_per_char: float
    standard_error: float | None  # of the estimate of the bound
    bits_per_char: float
    characters: int
    unknown: int  # of these, outside the vocabulary
    model: str
    exact: bool = False  # whether this is −log p itself, and no bound
    order: str | None = None  # in which the text is written, where that was asked for


@dataclass(frozen=True)
class Detail:
    """How likely each character (token) of a text is, given all the others; its fields are the keys of a JSON line."""

    text: str
    form: str | None
    characters: tuple[str, ...]
    nats: tuple[float, ...]  # (1) of each character
    best: tuple[str, ...]  # the likeliest character there
    best_nats: tuple[float, ...]
    model: str


@dataclass(frozen=True, eq=False)
class Scorer:
    """A model of text, and what it says of texts that are there."""

    model: TextModel

    @on_cpu
    def score(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        *,
        title: Words = None,
        dynasty: Words = None,
        process: str | None = None,
        order: str | None = None,
        steps: int | None = None,
        levels: int | None = None,
        repeats: int = REPEATS,
        seed: int | Sequence[int] = 0,
        batch_size: int = BATCH,
        callback: Progress | None = None,
        left: Left | None = None,
    ) -> list[Score]:
        """The bound of each text, averaged over `repeats` runs of every level (or `levels` stratified ones).

        The embedding process has a thousand levels, and takes 64 of them where `levels` is None.  The network is told `title` and
        `dynasty`, one for all texts or one for each.  The standard error is that of the average.  A model that gives the law of
        whole texts is asked once, and its score is exact.

        With an `order` the score is −log p of the sampler that unmasks in it, one position at a time or in `steps`: left, right,
        confidence, margin, entropy, or a file (exact); or random:K, a bound by K orders (`samplers.likelihood`).

        A text's score does not depend on the texts beside it.  `seed` is one for all texts, or one for each.  `callback` is called
        with the number of texts done.  Where `left(k)` says that nobody waits for text k, its score means nothing, and costs no more.
        """
        model = self.model
        canvases = canvas.about_all(canvas.read_all(canvas.whole, texts, model, form), model, title, dynasty)
        name = process_of(model, process)
        at_least("levels", levels, 1)
        at_least("repeats", repeats, 1, MOST)
        seeds = _per_text(seed, len(canvases))
        if order is not None:
            seeds = [example_seed(one, 0) for one in seeds]
            found = ordered_nats(model, canvases, seeds, order, steps, batch_size, callback, left)
            return [_score(model, c, row[None], name, order) for c, row in zip(canvases, found, strict=True)]
        check_steps(steps)
        levels = PROCESSES[name].bound_levels if levels is None else levels
        numbers = range(1 if model.writes_whole(name) else repeats)
        runs = [[example_seed(one, k) for k in numbers] for one in seeds]
        nats = bounds(model, canvases, runs, name, levels, batch_size, callback, left)
        return [_score(model, c, row, name) for c, row in zip(canvases, nats, strict=True)]

    @on_cpu
    def detail(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        *,
        title: Words = None,
        dynasty: Words = None,
        batch_size: int = BATCH,
        callback: Progress | None = None,
    ) -> list[Detail]:
        """How likely each character of each text is, given all the others: the mask process with one hole.

        `callback` is called with the number of texts done.
        """
        model = self.model
        canvases = canvas.about_all(canvas.read_all(canvas.whole, texts, model, form), model, title, dynasty)
        at_least("batch_size", batch_size, 1)
        if masking(model) is None:
            raise AskedError(f"model {model.name} does not serve the mask process, which a detailed score needs")
        results = []
        for one in canvases:
            results.append(_detail(model, one, batch_size))
            if callback is not None:
                callback(1)
        return results

    @on_cpu
    def evaluate(
        self,
        records: Iterable[str | Mapping[str, Any]],
        *,
        process: str | None = None,
        order: str | None = None,
        steps: int | None = None,
        levels: int | None = FILE_LEVELS,
        seed: int = 0,
        conditions: Sequence[str] = (),
        batch_size: int = BATCH,
        callback: Progress | None = None,
        wrong: Callable[[Any, AskedError], object] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """{"all": {"nats_per_char", "standard_error", "texts"}, and the same for each form}: the bound on a file.

        Records are texts, or mappings with `text` and perhaps `form` and `seed`; of the `conditions`, "title" and "dynasty", the
        network is told what the records hold.  They are read as they are needed, and none is kept.  `wrong` is called with
        each record that cannot be evaluated, and why; without it that is an error.  The standard error is over texts.  `order` and
        `steps` as in `score`.
        """
        model = self.model
        at_least("batch_size", batch_size, 1)
        name, seed = process_of(model, process), whole("seed", seed)
        at_least("levels", levels, 1)
        if order is None:
            check_steps(steps)
        for slot in several("conditions", conditions, "a list of " + " and ".join(CONDITIONS)):
            if slot not in CONDITIONS:
                raise unknown("condition", slot, CONDITIONS)
        parts, counts, forms = list[Tensor](), list[int](), list[str | None]()
        numbered = enumerate(records)
        while window := list(itertools.islice(numbered, AHEAD * batch_size)):
            pages, seeds = list[Canvas](), list[list[int]]()
            for k, record in window:
                row: Mapping[str, Any] = {"text": record} if isinstance(record, str) else record
                try:
                    page = canvas.read(canvas.whole, row["text"], model, row.get("form"), k if wrong is None else 0)
                    words = [row.get(key) if key in conditions else None for key in CONDITIONS]
                    own = None if row.get("seed") is None else whole("seed", row["seed"])
                    pages.append(canvas.about(page, model, *words))
                except AskedError as error:
                    if wrong is None:
                        raise
                    wrong(record, error)
                    continue
                seeds.append([example_seed(seed, k) if own is None else example_seed(own, 0)])
            if pages and order is not None:
                parts.append(ordered_nats(model, pages, [one for (one,) in seeds], order, steps, batch_size, callback))
            elif pages:
                parts.append(bounds(model, pages, seeds, name, levels, batch_size, callback)[:, 0])
            if pages:
                counts += [page.shape[1] for page in pages]
                forms += [page.form.name if page.form else None for page in pages]
        if not parts:
            raise AskedError("there is no text to evaluate; pass at least one")
        return _by_form(torch.cat(parts), torch.tensor(counts), forms)

    @on_cpu
    def choose(
        self,
        templates: str | Template | Iterable[str | Template],
        slots: Slots | Sequence[Slots] | None = None,
        form: Forms = None,
        *,
        title: Words = None,
        dynasty: Words = None,
        compare: str = "text",
        order: str | None = None,
        seed: int = 0,
        limit: int = MOST,
        batch_size: int = BATCH,
        callback: Progress | None = None,
        left: Left | None = None,
        **more: Candidates,
    ) -> list[Chosen]:
        """Which candidates fit best into the slots of each text: pipe.choose("the {animal} sat", animal=["cat", "dog"]).

        `slots` are one mapping for all templates, or one for each; `more` are slots by their names.  All assignments of at most
        `limit` are compared, by their exact joint probability in an `order` (left, right, random:K, or as in `score`; left, or
        that of a writer), and texts of different lengths by the whole text or by the slots alone (`compare`):
        `textdiff.pipeline.score.choose`.  `callback` is called with the number of templates done.  `left` is that of `score`.
        """
        asked = [templates] if isinstance(templates, Template) else texts_in(templates)
        each = list(slots) if isinstance(slots, (list, tuple)) else [slots or {}] * len(asked)
        if len(each) != len(asked):
            raise AskedError(f"slots has {len(each)} mappings for {len(asked)} templates; pass one, or one for each")
        parsed = []
        for k, (one, mine) in enumerate(zip(asked, each, strict=True)):
            with canvas.numbered(k):
                parsed.append(one if isinstance(one, Template) else Template.parse(one, merged(mine, more)))
        told = self._told(len(parsed), form, title, dynasty)
        at_least("batch_size", batch_size, 1)
        options: dict[str, Any] = {"compare": compare, "order": order, "seed": seed, "limit": limit}
        return choose(self.model, parsed, *told, **options, batch_size=batch_size, callback=callback, left=left)

    @on_cpu
    def restore(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        *,
        title: Words = None,
        dynasty: Words = None,
        top: int = TOP,
        width: int = WIDTH,
        order: str | None = None,
        seed: int = 0,
        batch_size: int = BATCH,
        callback: Callable[[float], object] | None = None,
    ) -> list[Restoration]:
        """The likeliest fillings of damaged texts: □ is a lost character (token), □{1,3} one to three of them.

        For the whole text and for each gap the `top` likeliest fillings with their probabilities, which are exact in an `order`
        (as in `choose`); the list comes from a beam of `width`: `textdiff.pipeline.score.restore`.  `callback` is called after
        each hole, with its share of the text: those of a text add up to 1.
        """
        asked = texts_in(texts)
        told = self._told(len(asked), form, title, dynasty)
        options: dict[str, Any] = {"top": top, "width": width, "order": order, "seed": seed}
        return restore(self.model, asked, *told, **options, batch_size=batch_size, callback=callback)

    def _told(self, n: int, form: Forms, title: Words, dynasty: Words) -> list[list[str | None]]:
        """The form, title and dynasty of each of n texts."""
        named = (("form", form), ("title", title), ("dynasty", dynasty))
        return [canvas.per_text(name, value, n) for name, value in named]

    @on_cpu
    def retrieve(
        self,
        records: Iterable[Mapping[str, Any]],
        *,
        titles: int = 10,
        levels: int = 4,
        seed: int = 0,
        batch_size: int = BATCH,
        callback: Progress | None = None,
    ) -> dict[str, Any]:
        """Whether a poem's own title gives it the best bound among `titles`: {"top1", "standard_error", "chance", "texts"}.

        The others are drawn from poems of the same form with another title; each is tried with the same corruptions.
        Records without a title are left out.
        """
        model = self.model
        seed, _ = whole("seed", seed), at_least("titles", titles, 2)
        rows = [record for record in records if title_characters(record.get("title") or "")]
        if not rows:
            raise AskedError("there is no poem with a title; pass at least one")
        canvases = [canvas.read(canvas.whole, r["text"], model, r.get("form"), k) for k, r in enumerate(rows)]
        titled = [title_characters(spelled(record["title"], model)) for record in rows]
        raw = {
            short: record["title"] for short, record in zip(titled, rows, strict=True)
        }  # it is shortened once, later
        tried: list[Canvas] = []
        for k, one in enumerate(canvases):
            others = sorted(
                {o for o, c in zip(titled, canvases, strict=True) if c.shape == one.shape and o != titled[k]}
            )
            if len(others) < titles - 1:
                raise AskedError(
                    f"{len(others) + 1} different titles of one form are too few to choose among {titles}; pass more poems"
                )
            order = Rng([example_seed(seed, k)]).ranks(torch.ones(1, len(others), dtype=torch.bool))[0].argsort()
            chosen = [titled[k], *(others[i] for i in order[: titles - 1].tolist())]
            tried += [canvas.about(one, model, raw[title], None) for title in chosen]
        seeds = [[example_seed(seed, k)] for k in range(len(canvases)) for _ in range(titles)]
        nats = bounds(model, tried, seeds, process_of(model, None), levels, batch_size, callback).view(-1, titles)
        right = (nats[:, 0] < nats[:, 1:].amin(1)).double()
        mean = right.mean().item()
        error = math.sqrt(mean * (1 - mean) / len(right))
        return {"top1": mean, "standard_error": error, "chance": 1 / titles, "texts": len(right)}


# -- bounds -----------------------------------------------------------------------------------------------------------------


def _score(model: TextModel, scored: Canvas, nats: Tensor, process: str, order: str | None = None) -> Score:
    size = scored.shape[1]
    mean = nats.mean().item() / size
    return Score(
        text=scored.text(scored.ids),
        form=scored.form.name if scored.form else None,
        process=process,
        nats_per_char=mean,
        standard_error=nats.std().item() / size / math.sqrt(len(nats)) if len(nats) > 1 else None,
        bits_per_char=mean / math.log(2),
        characters=size,
        unknown=scored.unknown,
        model=model.name,
        exact=model.writes_whole(process) if order is None else Order.parse(order).repeats == 1,
        order=order,
    )


def _per_text(seed: Any, n: int) -> list[int]:
    """The seed of each of n texts."""
    several = isinstance(seed, Iterable) and getattr(seed, "ndim", True)  # a number of numpy or torch has no dimension
    seeds = [whole("seed", one) for one in (seed if several else [seed] * n)]
    if len(seeds) != n:
        raise AskedError(f"seed has {len(seeds)} values for {n} texts; pass one, or one for each text")
    return seeds


def _by_form(nats: Tensor, counts: Tensor, forms: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """The bound on texts of nats (N,) and characters (N,), and the same for the texts of each form."""
    result = {"all": _summary(nats, counts)}
    for form in sorted({f for f in forms if f is not None}):
        here = torch.tensor([f == form for f in forms])
        result[form] = _summary(nats[here], counts[here])
    return result


def _summary(nats: Tensor, counts: Tensor) -> dict[str, Any]:
    mean, error = ratio(nats, counts)
    return {"nats_per_char": mean, "standard_error": None if math.isnan(error) else error, "texts": len(nats)}


def with_detail(one: Score, detail: Detail | None) -> dict[str, Any]:
    """The keys of a JSON line: a score, and the nats of each character where they are there."""
    result = asdict(one)
    if detail is not None:
        result["detail"] = {k: v for k, v in asdict(detail).items() if k not in ("text", "form", "model")}
    return result


def _detail(model: TextModel, one: Canvas, batch_size: int) -> Detail:
    """One text, each of its free positions masked in turn."""
    places = one.places(one.free)
    nats, best, best_nats = [], [], []
    for at in (places[k : k + batch_size] for k in range(0, len(places), batch_size)):
        rows = torch.arange(len(at))
        log_q = given_the_others(model, one.ids.expand(len(at), -1), at, [one] * len(at))
        nats += (-log_q[rows, one.ids[at]]).tolist()
        top = log_q.max(-1)
        best += top.indices.tolist()
        best_nats += (-top.values).tolist()
    names = model.tokenizer.convert_ids_to_tokens
    return Detail(
        text=one.text(one.ids),
        form=one.form.name if one.form else None,
        characters=tuple(names(one.ids[places].tolist())),
        nats=tuple(nats),
        best=tuple(names(best)),
        best_nats=tuple(best_nats),
        model=model.name,
    )
