"""Texts from a model, one call each: write poems, fill holes, score, revise, watch.

    pipe = textdiff.load()
    pipe.generate(form="qiyan-jueju", n=4, seed=0)

Text k of a call with seed s is text 0 of the call with seed s + k.  The keywords that say how texts are drawn are the fields of
`Options`; each call takes them one by one, or an `Options` and what is to be changed of it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import textdiff.pipeline.canvas as canvas
import textdiff.pipeline.hub.publish as publish
from textdiff.core.contracts import State
from textdiff.core.errors import AskedError, ModelError
from textdiff.networks.devices import on_cpu, usable
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.options import Forms, Options, at_least, changed, formed, whole
from textdiff.pipeline.outputs import Callback, Frame, Output, Watch, chosen, frame, output
from textdiff.pipeline.plan import Plan, check_call, check_defaults, resolve
from textdiff.pipeline.revision.reviser import Reviser
from textdiff.pipeline.run import BATCH, MOST, Batch, Left, run, seeds_of, steps_made
from textdiff.pipeline.score.scorer import AHEAD
from textdiff.pipeline.writable import check_canvas
from textdiff.shaping.match.kept import Kept

PAGES = 1 << 26  # bytes that the open pages of a call take
OF_RECORDS = ("form", "title", "dynasty")  # the options that a record may have of its own
Place = tuple[Canvas, int, int]  # what a text is drawn on, its seed, its number


@dataclass(frozen=True, eq=False)
class TextPipeline(Reviser):
    """A model of text, and the calls that use it."""

    @classmethod
    @on_cpu
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        precision: str = "auto",
    ) -> TextPipeline:
        """The packaged poem model (None), a model folder, or a hub id.  ModelError says what is wrong with it.

        `precision` is that of the network's products: float32, with which a seed gives its poem on every CPU, bf16 (another poem
        for a seed, of the same law but for rounding), or auto, which is bf16 on a CPU where that is faster, and float32 elsewhere
        and for a writer.
        Where textdiff can read the folder itself, transformers is not imported; `pipe.model.with_transformers()` has the
        network and the tokenizer of transformers, and `TextPipeline.of(TextModel.from_pretrained(folder))` draws with them.
        """
        return cls.of(TextModel.from_pretrained(model, usable(device), dtype, lean=True).at_precision(precision))

    @classmethod
    @on_cpu
    def of(cls, model: TextModel) -> TextPipeline:
        """The pipeline of a model that is loaded already; ModelError where its defaults do not hold."""
        try:
            check_defaults(model)
        except ValueError as error:
            raise ModelError(f"{model.name}: the defaults of textdiff.json do not hold: {error}") from error
        return cls(model)

    # -- texts that are drawn -----------------------------------------------------------------------------------------

    @on_cpu
    def generate(
        self,
        form: str | None = None,
        n: int | None = None,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = BATCH,
        callback: Callback | None = None,
        watch: Watch | None = None,
        **changes: Any,
    ) -> list[Output]:
        """n new texts, text k from seed + k; `seed` may be the list of all seeds.

        `options` and `changes` of it say how and on what the texts are drawn (`Options`).  After every step `callback` is called
        with the batch's state, and `watch` with a `Frame` of it.
        """
        options = formed(changed(options, changes), form)
        plan = resolve(options, self.model)
        seeds = seeds_of(seed, n, generator)
        page = canvas.in_script(canvas.open_page(self.model, options), options.script)
        canvases = self._checked([page] * len(seeds), plan)
        return self._collected(canvases, seeds, plan, batch_size, callback, watch)

    @on_cpu
    def fill(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        n: int = 1,
        generator: torch.Generator | None = None,
        batch_size: int = BATCH,
        callback: Callback | None = None,
        watch: Watch | None = None,
        **changes: Any,
    ) -> list[Output]:
        """Each text with its holes (□, _ or [MASK], one token each) drawn jointly, in n ways; output k from seed + k.

        The outputs of a text follow each other.  The other arguments are those of `generate`.
        """
        options = formed(changed(options, changes), form)
        plan = resolve(options, self.model, "fill")
        at_least("n", whole("n", n), 1, MOST)
        canvases = [one for one in self._holed(texts, plan) for _ in range(n)]
        seeds = seeds_of(seed, len(canvases), generator)
        return self._collected(canvases, seeds, plan, batch_size, callback, watch)

    @on_cpu
    def each(
        self,
        records: Iterable[str | Mapping[str, Any]],
        options: Options | None = None,
        *,
        seed: int = 0,
        on_error: str = "stop",
        batch_size: int = BATCH,
        watch: Watch | None = None,
        left: Left | None = None,
        **changes: Any,
    ) -> Iterator[Output | AskedError]:
        """The outputs for any number of records, in their order and in bounded memory: the records are read as they are needed.

            for record, output in zip(records, pipe.each(records, temperature=0.8)):      # records: a list
                ...

        A record is a text with holes, or a mapping: `text` is the text with holes (where there is none, a new text is written, as
        `generate` does), and `form`, `title`, `dynasty` and `seed` are the record's own where `options` leave them open.  Other
        keys are passed over.  Record k is drawn from its own seed, or else from seed + k.

        A record that cannot be drawn raises its AskedError after the outputs before it were given (`on_error` "stop"), or the
        error is given in the place of its output ("skip").  `watch` is called as in `generate`.  `left(k)` is asked before each step:
        where it says that nobody waits for record k any more, its text stays as it stands, with holes, and the others go on.
        """
        if on_error not in ("stop", "skip"):
            raise AskedError(f"on_error is {on_error!r}; it must be stop or skip")
        at_least("batch_size", batch_size, 1)
        plan = resolve(changed(options, changes), self.model)
        look = {"watch": watch, "left": left}
        return self._in_order(iter(records), plan, whole("seed", seed), on_error == "skip", batch_size, look)

    @on_cpu
    def stream(
        self,
        texts: str | Iterable[str] | None = None,
        form: Forms = None,
        n: int | None = None,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = BATCH,
        **changes: Any,
    ) -> Iterator[Frame]:
        """The frames of a run, batch by batch, from the prior to the texts that `generate` (or `fill`, with `texts`) gives."""
        options = formed(changed(options, changes), form)
        plan = resolve(options, self.model, "generate" if texts is None else "fill")
        if plan.each > 1:
            raise AskedError(
                f"best_of is {plan.best_of} and particles {plan.particles}, but a stream shows one chain a text; leave them "
                f"(and quality) out, or pass watch to generate or fill"
            )
        if texts is None:
            seeds = seeds_of(seed, n, generator)
            page = canvas.in_script(canvas.open_page(self.model, options), options.script)
            canvases = self._checked([page] * len(seeds), plan)
        else:
            canvases = self._holed(texts, plan)
            seeds = seeds_of(seed, len(canvases), generator)
        batches = run(self.model, plan, canvases, seeds, batch_size=batch_size)
        return (frame(batch, state) for batch in batches for state in batch.states)

    @on_cpu
    def plan(self, options: Options | None = None, **changes: Any) -> Plan:
        """The choices of a call, with the model's defaults for what is left open; AskedError for what cannot be."""
        return resolve(changed(options, changes), self.model)

    # -- the model ----------------------------------------------------------------------------------------------------

    @on_cpu
    def to(self, device: torch.device | str) -> TextPipeline:
        """The same pipeline on a device."""
        return TextPipeline(self.model.to(usable(device)))

    @on_cpu
    def save_pretrained(self, folder: str | os.PathLike[str], card: str | None = None) -> None:
        """Write the model's folder with a card, README.md: the one that the model came with, unless `card` is another.

        `textdiff.pipeline.hub.card` makes cards.  A card that stands in the folder already stays, unless `card` is given.
        """
        publish.save(self.model, Path(folder), card)

    @on_cpu
    def push_to_hub(self, repo_id: str, *, card: str | None = None, api: Any = None, **more: Any) -> Any:
        """Put the model's folder, with its card, into a repository of the hub, which is made where it does not exist.

        `more` are `private`, `token`, `commit_message`, `revision` and `create_pr` of `huggingface_hub`; `api` replaces its `HfApi`.
        """
        return publish.push(self.model, repo_id, card, api, **more)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _holed(self, texts: str | Iterable[str], plan: Plan) -> list[Canvas]:
        """Texts to fill in."""
        options = plan.options
        canvases = canvas.read_all(canvas.holed, texts, self.model, options.form)
        return self._checked([canvas.in_script(c, options.script) for c in canvases], plan)

    def _checked(self, canvases: Sequence[Canvas], plan: Plan) -> list[Canvas]:
        """The canvases with title and dynasty, checked."""
        result = canvas.about_all(canvases, self.model, plan.options.title, plan.options.dynasty)
        checked: set[int] = set()
        for k, one in enumerate(result):
            if id(one) not in checked:  # `generate` has one page for all of them
                with canvas.numbered(k):
                    check_canvas(self.model, one, plan)
            checked.add(id(one))
        return result

    def _collected(
        self,
        canvases: Sequence[Canvas],
        seeds: Sequence[int],
        plan: Plan,
        batch_size: int,
        callback: Callback | None,
        watch: Watch | None,
    ) -> list[Output]:
        drawn = dict(self._drawn(canvases, seeds, plan, batch_size, callback, watch))
        return [drawn[k] for k in range(len(canvases))]

    def _drawn(
        self,
        canvases: Sequence[Canvas],
        seeds: Sequence[int],
        plan: Plan,
        batch_size: int,
        callback: Callback | None = None,
        watch: Watch | None = None,
        left: Left | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Output]]:
        """The index and the output of each text, in the order in which they are done; `numbers` are theirs in a longer call."""
        gone: Left | None = left if left is None or numbers is None else lambda k: left(numbers[k])
        for batch in run(self.model, plan, canvases, seeds, batch_size=batch_size, left=gone):

            def look(state: State, batch: Batch = batch) -> None:
                if callback is not None:
                    callback(state)
                if watch is not None:
                    watch(frame(batch, state, numbers))

            state, steps = steps_made(batch.states, look if callback or watch else None)
            x = batch.scene.process.decode(state.x)
            seeds_here = [seeds[k] for k in batch.rows]
            rows, weights = chosen(self.model, replace(state, x=x), batch.blanks, seeds_here, plan)
            for k, row, weight in zip(batch.rows, rows.tolist(), weights.tolist(), strict=True):
                spent = int(state.forwards[row].item()) * plan.each
                made = int(steps[row])
                yield k, output(self.model, canvases[k], x[row].cpu(), seeds[k], plan, spent, made, weight)

    def _in_order(
        self,
        records: Iterator[str | Mapping[str, Any]],
        plan: Plan,
        seed: int,
        skip: bool,
        batch_size: int,
        look: Mapping[str, Any],
    ) -> Iterator[Output | AskedError]:
        """What `each` gives, one window of records after the other."""
        pages = Kept[Canvas](PAGES)
        first = 0
        while window := list(itertools.islice(records, AHEAD * batch_size)):
            done: dict[int, Output | AskedError] = {}
            places: list[Place] = []
            for k, record in enumerate(window, start=first):
                try:
                    places.append((*self._place(record, plan, seed + k, pages), k))
                except AskedError as error:
                    done[k] = error
                    if not skip:
                        break
            at = first
            for number, result in itertools.chain(self._attempted(places, plan, batch_size, look), [(-1, None)]):
                if result is not None:
                    done[number] = result
                while at in done:
                    following = done.pop(at)
                    if isinstance(following, AskedError) and not skip:
                        raise following
                    yield following
                    at += 1
            first += len(window)

    def _attempted(
        self, places: Sequence[Place], plan: Plan, batch_size: int, look: Mapping[str, Any]
    ) -> Iterator[tuple[int, Output | AskedError]]:
        """The number of each text, and its output or why it cannot be drawn."""
        canvases, seeds, numbers = [p[0] for p in places], [p[1] for p in places], [p[2] for p in places]
        left = dict(enumerate(places))
        try:
            for k, one in self._drawn(canvases, seeds, plan, batch_size, numbers=numbers, **look):
                del left[k]
                yield numbers[k], one
        except AskedError as error:
            if len(places) == 1:
                yield numbers[0], error
            else:  # a text that cannot be drawn takes its batch with it: the others are drawn by themselves
                for place in left.values():
                    yield from self._attempted([place], plan, batch_size, look)

    def _place(self, record: str | Mapping[str, Any], plan: Plan, seed: int, pages: Kept[Canvas]) -> tuple[Canvas, int]:
        """What a record is drawn on, and its seed; the open pages of the latest forms are kept in `pages`."""
        fields: Mapping[str, Any] = {"text": record} if isinstance(record, str) else record
        words = {name: getattr(plan.options, name) for name in OF_RECORDS}
        words = {name: fields.get(name) if value is None else value for name, value in words.items()}
        for name, value in words.items():
            if value is not None and not isinstance(value, str):
                raise AskedError(f"{name} is {value!r}; it must be one word, for each record its own")
        form, text = words["form"], fields.get("text")
        if text is not None:
            check_call(plan.options, self.model, "fill")
            page = canvas.read(canvas.holed, text, self.model, form)
        else:
            page = pages.get(form, lambda: canvas.open_page(self.model, replace(plan.options, form=form)))
        page = canvas.in_script(page, plan.options.script)
        page = canvas.about(page, self.model, words["title"], words["dynasty"])
        check_canvas(self.model, page, plan)
        (its_seed,) = seeds_of([seed if fields.get("seed") is None else fields["seed"]], None, None)
        return page, its_seed


Pipeline = TextPipeline  # its name in version 0.1
