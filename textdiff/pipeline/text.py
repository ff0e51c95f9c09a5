"""Texts from a model, one call each: write poems, fill holes, score, revise, watch.

    pipe = textdiff.load()
    pipe.generate(form="qiyan-jueju", n=4, seed=0)

Text k of a call with seed s is text 0 of the call with seed s + k.  The keywords that say how texts are drawn are the fields of
`Options`; each call takes them one by one, or an `Options` and what is to be changed of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from textdiff.core.errors import AskedError, ModelError
from textdiff.networks.folder import TextModel
from textdiff.pipeline import canvas, refine, score
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.options import Forms, Options, Task, Words, changed, place, whole
from textdiff.pipeline.outputs import Callback, Frame, Output, Refined, Watch, each, frame, outputs
from textdiff.pipeline.plan import Plan, check_defaults, resolve
from textdiff.pipeline.run import BATCH, run, seeds_of
from textdiff.pipeline.score import Detail, Progress, Score
from textdiff.pipeline.writable import check_canvas

REPEATS = 4  # of every level of a single text's bound
FILE_LEVELS = 8  # stratified levels of each text of a file


@dataclass(frozen=True, eq=False)
class TextPipeline:
    """A model of text, and the calls that use it."""

    model: TextModel

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> TextPipeline:
        """The packaged poem model (None), a model folder, or a hub id.  ModelError says what is wrong with it.

        Where textdiff can read the folder itself, transformers is not imported; `pipe.model.with_transformers()` has the
        network and the tokenizer of transformers, and `TextPipeline.of(TextModel.from_pretrained(folder))` draws with them.
        """
        return cls.of(TextModel.from_pretrained(model, _device(device), dtype, lean=True))

    @classmethod
    def of(cls, model: TextModel) -> TextPipeline:
        """The pipeline of a model that is loaded already; ModelError where its defaults do not hold."""
        try:
            check_defaults(model)
        except ValueError as error:
            raise ModelError(f"{model.name}: the defaults of textdiff.json do not hold: {error}") from error
        return cls(model)

    # -- texts that are drawn -----------------------------------------------------------------------------------------

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
        options = _formed(changed(options, changes), form)
        plan = resolve(options, self.model)
        seeds = seeds_of(seed, n, generator)
        page = canvas.in_script(canvas.open_page(self.model, options), options.script)
        canvases = self._told([page] * len(seeds), plan)
        return self._collected(canvases, seeds, plan, batch_size, callback, watch)

    def fill(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = BATCH,
        callback: Callback | None = None,
        watch: Watch | None = None,
        **changes: Any,
    ) -> list[Output]:
        """Each text with its holes (□, _ or [MASK], one token each) drawn jointly; text k from seed + k.

        The other arguments are those of `generate`.
        """
        options = _formed(changed(options, changes), form)
        plan = resolve(options, self.model, "fill")
        canvases = self._holed(texts, plan)
        seeds = seeds_of(seed, len(canvases), generator)
        return self._collected(canvases, seeds, plan, batch_size, callback, watch)

    def each(
        self,
        records: Iterable[str | Mapping[str, Any]],
        options: Options | None = None,
        *,
        seed: int = 0,
        on_error: str = "stop",
        batch_size: int = BATCH,
        watch: Watch | None = None,
        **changes: Any,
    ) -> Iterator[Output | AskedError]:
        """The outputs for any number of records, in their order and in bounded memory: the records are read as they are needed.

            for record, output in zip(records, pipe.each(records, temperature=0.8)):      # records: a list
                ...

        A record is a text with holes, or a mapping: `text` is the text with holes (where there is none, a new text is written, as
        `generate` does), and `form`, `title`, `dynasty` and `seed` are the record's own where `options` leave them open.  Other
        keys are passed over.  Record k is drawn from its own seed, or else from seed + k.

        A record that cannot be drawn raises its AskedError after the outputs before it were given (`on_error` "stop"), or the
        error is given in the place of its output ("skip").  `watch` is called as in `generate`.
        """
        if on_error not in ("stop", "skip"):
            raise AskedError(f"on_error is {on_error!r}; it must be stop or skip")
        plan = resolve(changed(options, changes), self.model)
        return each(self.model, iter(records), plan, whole("seed", seed), on_error == "skip", batch_size, watch)

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
        options = _formed(changed(options, changes), form)
        plan = resolve(options, self.model, "generate" if texts is None else "fill")
        if plan.each > 1:
            raise AskedError(
                f"best_of is {plan.best_of} and particles {plan.particles}, but a stream shows one chain a text; leave them "
                f"(and quality) out, or pass watch to generate or fill"
            )
        if texts is None:
            seeds = seeds_of(seed, n, generator)
            page = canvas.in_script(canvas.open_page(self.model, options), options.script)
            canvases = self._told([page] * len(seeds), plan)
        else:
            canvases = self._holed(texts, plan)
            seeds = seeds_of(seed, len(canvases), generator)
        batches = run(self.model, plan, canvases, seeds, batch_size=batch_size)
        return (frame(batch, state) for batch in batches for state in batch.states)

    def refine(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
        rounds: int = 3,
        k: int = 3,
        patience: int = 2,
        keep: Sequence[int] = (),
        freeze: Sequence[str | tuple[int, int]] = (),
        variations: int | None = None,
        level: float | None = None,
        batch_size: int = BATCH,
        callback: Progress | None = None,
        **changes: Any,
    ) -> list[Refined]:
        """Each poem with its weakest characters written anew, as long as that makes it likelier; text k from seed + k.

        A round rewrites k characters, and the work on a poem ends when `patience` rounds in a row bring nothing better.  Lines
        of `keep` (from 1) and the characters of `freeze`, "LINE:POSITION" each, stay.  With `variations` instead so many
        other versions of each poem, a share `level` of whose free characters was drawn anew.  `textdiff.pipeline.refine` has the
        details; `callback` is called with the number of texts done.
        """
        options = _formed(changed(options, changes), form)
        plan = resolve(options, self.model, "refine")
        texts = [texts] if isinstance(texts, str) else list(texts)
        task = Task(
            rounds=rounds,
            k=k,
            patience=patience,
            candidates=plan.best_of if options.best_of or plan.best_of > 1 else refine.CANDIDATES,
            keep=tuple(keep),
            freeze=tuple(place(one) for one in freeze),
            variations=variations,
            level=level,
        )
        seeds = seeds_of(seed, len(texts) or 1, generator)
        return refine.refine(self.model, texts, seeds, plan, task, batch_size, callback)

    def plan(self, options: Options | None = None, **changes: Any) -> Plan:
        """The choices of a call, with the model's defaults for what is left open; AskedError for what cannot be."""
        return resolve(changed(options, changes), self.model)

    # -- texts that are there -----------------------------------------------------------------------------------------

    def score(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        *,
        title: Words = None,
        dynasty: Words = None,
        process: str | None = None,
        levels: int | None = None,
        repeats: int = REPEATS,
        seed: int = 0,
        batch_size: int = BATCH,
        callback: Progress | None = None,
    ) -> list[Score]:
        """The bound of each text, averaged over `repeats` runs of every level (or `levels` stratified ones).

        The embedding process has a thousand levels, and takes 64 of them where `levels` is None.  The network is told `title` and
        `dynasty`, one for all texts or one for each.  The standard error is that of the average.  A text's score does not depend
        on the texts beside it.  `callback` is called with the number of texts done.
        """
        canvases = canvas.about_all(canvas.read_all(canvas.whole, texts, self.model, form), self.model, title, dynasty)
        return score.score(self.model, canvases, process, levels, repeats, seed, batch_size, callback)

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
        canvases = canvas.about_all(canvas.read_all(canvas.whole, texts, self.model, form), self.model, title, dynasty)
        return score.detail(self.model, canvases, batch_size, callback)

    def evaluate(
        self,
        records: Iterable[str | Mapping[str, Any]],
        *,
        process: str | None = None,
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
        each record that cannot be evaluated, and why; without it that is an error.  The standard error is over texts.
        """
        return score.evaluate(self.model, records, process, levels, seed, conditions, batch_size, callback, wrong)

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
        return score.retrieve(self.model, records, titles, levels, seed, batch_size, callback)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _holed(self, texts: str | Iterable[str], plan: Plan) -> list[Canvas]:
        """Texts to fill in."""
        options = plan.options
        canvases = canvas.read_all(canvas.holed, texts, self.model, options.form)
        return self._told([canvas.in_script(c, options.script) for c in canvases], plan)

    def _told(self, canvases: Sequence[Canvas], plan: Plan) -> list[Canvas]:
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
        found = dict(outputs(self.model, canvases, seeds, plan, batch_size, callback, watch))
        return [found[k] for k in range(len(canvases))]


Pipeline = TextPipeline  # its name in version 0.1


def _formed(options: Options, form: Forms) -> Options:
    return options if form is None else replace(options, form=form)


def _device(device: torch.device | str) -> torch.device:
    try:
        found = torch.zeros(1, device=device)
        found.item()  # a device without numbers, such as meta, cannot say it
        return found.device
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise AskedError(f"device {str(device)!r} cannot be used here ({reason}); use 'cpu'") from error
