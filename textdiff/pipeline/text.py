"""Texts from a model, one call each: write poems, fill holes, score, watch.

    pipe = Pipeline.from_pretrained()
    pipe.generate(form="qiyan-jueju", n=4, seed=0)

Row k of a call with seed s is row 0 of the call with seed s + k: rows that share a batch have the same number of free
positions, walk the same levels and draw from streams of their own.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, Process, State
from textdiff.core.errors import AskedError, ModelError
from textdiff.core.levels import count_levels, even_levels
from textdiff.core.likelihood import nelbo, ratio
from textdiff.core.loop import sample
from textdiff.core.predictions import positions_of
from textdiff.core.resolve import attribute, unknown
from textdiff.core.rng import Rng, example_seed
from textdiff.data.records import CONDITIONS
from textdiff.networks.fast_float32 import fast_float32
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import title_characters
from textdiff.pipeline import canvas
from textdiff.pipeline.canvas import Canvas
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS
from textdiff.samplers.corrector import sweep_levels
from textdiff.samplers.particles import resampled
from textdiff.shaping.tokens import allowed, banned, guided, nucleus, tempered
from textdiff.verse.constrained import RestrictedPrediction, constrained
from textdiff.verse.forms import FORMS, Form, get_form, guess_form, regulated, split_at_punctuation
from textdiff.verse.law import Law
from textdiff.verse.pattern import kept_to, pattern_of
from textdiff.verse.prosody import Prosody, check_given, place_keyword, preferred, verse_law

if TYPE_CHECKING:
    from textdiff.pipeline.refine import Refined

FIRST_CHOICE = {
    "mask": "improved",
    "replacement": "edit",
    "redraw": "improved",
    "uniform": "improved",
    "embedding": "ddpm",
}
STEPS = {"embedding": 64}  # where nothing counts positions
FILE_LEVELS = 8  # stratified levels of each text of a file
TEXT_LEVELS = {"embedding": 64}  # of a single text, where there are too many to take all
REPEATS = 4  # of a single text's every level
QUALITIES: dict[str, dict[str, int]] = {"draft": {"steps": 8}, "good": {}, "best": {"best_of": 8}}
COLDEST = 0.02  # temperature under strict prosody
MERIT_LEVELS = 16  # of a candidate of best-of
STAGE = 1 << 16  # the stream that keywords and patterns are drawn from, before a chain begins

Callback = Callable[[State], object]
Forms = str | Sequence[str | None] | None  # of all texts, or one for each; None: what a text's shape says
Told = str | Sequence[str | None] | None  # what the network is told of all texts, or of each


@dataclass(frozen=True)
class Output:
    """A text that was drawn; its fields are the keys of a JSON line."""

    text: str
    lines: tuple[str, ...]  # of a poem without punctuation
    form: str | None
    seed: int
    sampler: str
    process: str
    steps: int | None  # None: one position at a time
    temperature: float
    top_p: float | None
    forwards: int  # predictor evaluations, all candidates and particles together
    log_weight: float | None  # of the chain under strict prosody, where particles were asked for
    title: str | None
    dynasty: str | None
    model: str


@dataclass(frozen=True)
class Score:
    """An upper bound on −log p(text) by character (by token, for other tokenizers); its fields are the keys of a JSON line."""

    text: str
    form: str | None
    process: str
    nats_per_char: float
    standard_error: float | None  # of the estimate of the bound
    bits_per_char: float
    characters: int
    unknown: int  # of these, outside the vocabulary
    model: str


@dataclass(frozen=True)
class Detail:
    """How likely each character (token) of a text is, given all the others; its fields are the keys of a JSON line."""

    text: str
    form: str | None
    characters: tuple[str, ...]
    nats: tuple[float, ...]  # −log q(character | the others)
    best: tuple[str, ...]  # the likeliest character there
    best_nats: tuple[float, ...]
    model: str


@dataclass(frozen=True)
class Frame:
    """A batch between two steps."""

    texts: tuple[str, ...]  # □ where nothing stands yet
    level: float  # share of the free positions that is still corrupted, the highest of the batch
    forwards: tuple[int, ...]


class How(TypedDict, total=False):
    """How a text is drawn: the keywords that generate, fill, stream and plan share; the model's defaults for what is left out."""

    process: str | None
    sampler: str | None
    steps: int | None  # None: one position at a time
    temperature: float | None  # 1 is the model's own law
    top_p: float | None
    options: Mapping[str, float] | None  # the sampler's own (`textdiff samplers` names them)
    dynasty: Told  # tang or song; one for all texts or one for each
    title: Told
    guidance: float | None  # how far towards title and dynasty; 1 is as trained
    prosody: str | None  # strict, prefer, prefer:WEIGHT or off, for tones and rhyme together
    tones: str | None  # the same, or a pattern: 平起首句入韵, 仄起
    rhyme: str | None  # the same, or a group: 七阳
    avoid: str | Sequence[str] | None  # guping (孤平), sanpingwei (三平尾)
    no_repeat: bool | None  # no character twice
    keyword: str | None  # characters that stand together in some line, where the model would have them
    particles: int | None  # chains a text, resampled by their weights under strict prosody
    best_of: int | None  # candidates a text, of which the best is given
    quality: str | None  # draft, good or best: what stands for steps and best_of where these are left out


@dataclass(frozen=True, eq=False)
class Plan:
    """What is drawn how, every choice made."""

    process_name: str
    process: Process
    sampler: str
    options: dict[str, float]
    steps: int | None
    temperature: float
    top_p: float | None
    told: Mapping[str, Told]  # what the network is told: title, dynasty
    guidance: float
    prosody: Prosody
    keyword: str | None
    particles: int | None
    best_of: int

    def repeated(self, n: int) -> dict[str, Told]:
        """What is told of n rows, of which so many stand for each text."""
        return {
            name: value
            if value is None or isinstance(value, str)
            else [v for v in value for _ in range(n // len(value))]
            for name, value in self.told.items()
        }

    def levels(self, n: Tensor, most: int) -> Iterator[Any]:
        """The levels that rows of n (B,) free positions walk; without a keyword each row would have `most`."""
        if PROCESSES[self.process_name].counts:
            return self._counted(n, most)
        return even_levels(self.steps or STEPS.get(self.process_name, most))

    def _counted(self, n: Tensor, most: int) -> Iterator[Tensor]:
        yield from count_levels(n, self.steps)
        if self.sampler == "gibbs":
            yield from sweep_levels(n, round(self.options["sweeps"] * most))


@dataclass(frozen=True, eq=False)
class Scene:
    """A batch, and what it is drawn with."""

    given: Tensor
    free: Tensor
    predictor: Predictor
    process: Process
    condition: Tensor


@dataclass(frozen=True, eq=False)
class Start:
    """What a batch starts from in the place of the prior."""

    text: Tensor  # (B, L) whole; where prosody is strict, a text of its law
    count: int  # corrupted positions of the state, of each row
    x: Tensor | None = None  # (B, L) that state; None: the process corrupts the text


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A model, and the calls that use it."""

    model: TextModel

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Pipeline:
        """The packaged poem model (None), a model folder, or a hub id.  ModelError tells what is wrong with it."""
        pipe = cls(TextModel.from_pretrained(model, _device(device), dtype))
        try:
            pipe.plan()
            get_form(pipe.model.defaults.get("form", "qiyan-jueju"))
            _at_least("length", pipe.model.defaults.get("length"), 1)
        except ValueError as error:
            raise ModelError(f"{pipe.model.name}: the defaults of textdiff.json do not hold: {error}") from error
        return pipe

    def generate(
        self,
        form: str | None = None,
        n: int | None = None,
        seed: int | Sequence[int] = 0,
        *,
        generator: torch.Generator | None = None,
        length: int | None = None,
        acrostic: str | None = None,
        acrostic_end: str | None = None,
        acrostic_diagonal: str | None = None,
        template: str | None = None,
        script: str | None = None,
        batch_size: int = 64,
        callback: Callback | None = None,
        **how: Unpack[How],
    ) -> list[Output]:
        """n new texts, poem k from seed + k; `seed` may be the list of all seeds.

        A model without forms writes `length` tokens, or a form such as lines:4x32.  `options` are the sampler's own
        (`textdiff samplers` names them).  `callback` is called with the state after every step.

        Given characters: `acrostic` first in the lines, `acrostic_end` last, `acrostic_diagonal` k-th in the k-th ('_' leaves
        one free); `template` a text with holes, for a couplet the upper line will do.  `script` "simplified" or
        "traditional" converts what is printed, but for given characters.
        """
        plan = self.plan(**how)
        seeds = _seeds(seed, n, generator)
        blank = self._blank(
            form, length, template, script, first=acrostic, last=acrostic_end, diagonal=acrostic_diagonal
        )
        return self._outputs([blank] * len(seeds), seeds, plan, batch_size, callback)

    def fill(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        seed: int | Sequence[int] = 0,
        *,
        generator: torch.Generator | None = None,
        script: str | None = None,
        batch_size: int = 64,
        callback: Callback | None = None,
        **how: Unpack[How],
    ) -> list[Output]:
        """Each text with its holes (□, _ or [MASK], one token each) drawn jointly; text k from seed + k.

        `script` "simplified" or "traditional" converts what is printed, but for given characters.
        """
        plan = self.plan(**how)
        canvases = [canvas.in_script(c, script) for c in self._canvases(canvas.holed, texts, form)]
        seeds = _seeds(seed, len(canvases), generator)
        return self._outputs(canvases, seeds, plan, batch_size, callback)

    def stream(
        self,
        texts: str | Iterable[str] | None = None,
        form: str | None = None,
        n: int | None = None,
        seed: int | Sequence[int] = 0,
        *,
        generator: torch.Generator | None = None,
        length: int | None = None,
        acrostic: str | None = None,
        acrostic_end: str | None = None,
        acrostic_diagonal: str | None = None,
        template: str | None = None,
        script: str | None = None,
        **how: Unpack[How],
    ) -> Iterator[Frame]:
        """The states of one running batch, from the prior to the texts that `generate` (or `fill`, with `texts`) gives."""
        plan = self.plan(**how)
        if texts is None:
            seeds = _seeds(seed, n, generator)
            ends = {"first": acrostic, "last": acrostic_end, "diagonal": acrostic_diagonal}
            canvases = [self._blank(form, length, template, script, **ends)] * len(seeds)
        else:
            canvases = [canvas.in_script(c, script) for c in self._canvases(canvas.holed, texts, form)]
            seeds = _seeds(seed, len(canvases), generator)
        if len({c.shape for c in canvases}) > 1:
            raise AskedError("the texts differ in length or number of holes; stream texts of one shape at a time")
        if plan.best_of > 1 or (plan.particles or 1) > 1:
            raise AskedError(
                f"best_of is {plan.best_of} and particles {plan.particles}, but a stream shows one chain a text; leave them "
                f"(and quality) out, or pass a callback to generate or fill"
            )
        self._check_given(canvases, plan)
        walked = self._walked(plan, canvases[0])
        return (_frame(walked.decode(state.x), state, canvases) for state in self._states(canvases, seeds, plan))

    def score(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        *,
        title: Told = None,
        dynasty: Told = None,
        process: str | None = None,
        levels: int | None = None,
        repeats: int = REPEATS,
        seed: int = 0,
        batch_size: int = 64,
        callback: Callable[[int], object] | None = None,
    ) -> list[Score]:
        """The bound of each text, averaged over `repeats` runs of every level (or `levels` stratified ones).

        The embedding process has a thousand levels, and takes 64 of them where `levels` is None.

        `title` and `dynasty` are told to the network, one for all texts or one for each.
        The standard error is that of the average.  A text's score does not depend on the texts beside it.  `callback` is
        called with the number of texts done.
        """
        name = self._process(process)
        _at_least("levels", levels, 1)
        _at_least("repeats", repeats, 1)
        levels = TEXT_LEVELS.get(name) if levels is None else levels
        canvases = self._canvases(canvas.whole, texts, form)
        runs = [example_seed(seed, k) for k in range(repeats)]
        told = {"title": _each("title", self._spelled(title), canvases), "dynasty": _each("dynasty", dynasty, canvases)}
        nats = self._bounds(canvases, [runs] * len(canvases), name, levels, batch_size, callback, told)
        return [self._score(c, row, name) for c, row in zip(canvases, nats, strict=True)]

    def evaluate(
        self,
        records: Iterable[str | Mapping[str, Any]],
        *,
        process: str | None = None,
        levels: int | None = FILE_LEVELS,
        seed: int = 0,
        conditions: Sequence[str] = (),
        batch_size: int = 64,
        callback: Callable[[int], object] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """{"all": {"nats_per_char", "standard_error", "texts"}, and the same for each form}: the bound on a file.

        Records are texts, or mappings with `text` and perhaps `form`; of the `conditions`, "title" and "dynasty", they are
        told what they hold.  The standard error is over texts.
        """
        name = self._process(process)
        _at_least("levels", levels, 1)
        told = [{"text": record} if isinstance(record, str) else record for record in records]
        canvases = [self._canvas(canvas.whole, r["text"], r.get("form"), k) for k, r in enumerate(told)]
        if not canvases:
            raise AskedError("there is no text to evaluate; pass at least one")
        seeds = [[example_seed(seed, k)] for k in range(len(canvases))]
        for condition in conditions:
            if condition not in CONDITIONS:
                raise unknown("condition", condition, CONDITIONS)
        said = {name: _each(name, [record.get(name) for record in told], told) for name in conditions}
        if "title" in said:
            said["title"] = _each("title", self._spelled(said["title"]), told)
        nats = self._bounds(canvases, seeds, name, levels, batch_size, callback, said)[:, 0]
        counts = torch.tensor([c.shape[1] for c in canvases])
        forms = [c.form.name if c.form else None for c in canvases]
        result = {"all": _summary(nats, counts)}
        for form in sorted({f for f in forms if f is not None}):
            here = torch.tensor([f == form for f in forms])
            result[form] = _summary(nats[here], counts[here])
        return result

    def detail(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        *,
        title: Told = None,
        dynasty: Told = None,
        batch_size: int = 64,
        callback: Callable[[int], object] | None = None,
    ) -> list[Detail]:
        """How likely each character of each text is, given all the others: the mask process with one hole.

        `callback` is called with the number of texts done.
        """
        if "mask" not in self.model.processes:
            raise AskedError(f"model {self.model.name} does not serve the mask process, which a detailed score needs")
        canvases = self._canvases(canvas.whole, texts, form)
        told = {"title": _each("title", self._spelled(title), canvases), "dynasty": _each("dynasty", dynasty, canvases)}
        results = []
        for k, one in enumerate(canvases):
            said = {name: values[k] for name, values in told.items()}
            results.append(self._detail(one, said, batch_size))
            if callback is not None:
                callback(1)
        return results

    def refine(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        seed: int | Sequence[int] = 0,
        *,
        generator: torch.Generator | None = None,
        rounds: int = 3,
        k: int = 3,
        patience: int = 2,
        keep: Sequence[int] = (),
        freeze: Sequence[str | tuple[int, int]] = (),
        variations: int | None = None,
        level: float | None = None,
        script: str | None = None,
        batch_size: int = 64,
        callback: Callable[[int], object] | None = None,
        **how: Unpack[How],
    ) -> list[Refined]:
        """Each poem with its weakest characters written anew, as long as that makes it likelier; text k from seed + k.

        A round rewrites k characters, and ends the work when `patience` rounds in a row have found nothing better.  Lines
        of `keep` (from 1) and the characters of `freeze`, "LINE:POSITION" each, stay.  With `variations` instead so many
        other versions of each poem, a share `level` of whose free characters was drawn anew.  `textdiff.pipeline.refine` has the
        details; `callback` is called with the number of texts done.
        """
        from textdiff.pipeline import refine

        plan = self.plan(**how)
        texts = [texts] if isinstance(texts, str) else list(texts)
        asked = refine.Asked(
            rounds=rounds,
            k=k,
            patience=patience,
            candidates=plan.best_of if plan.best_of > 1 or how.get("best_of") else refine.CANDIDATES,
            keep=tuple(keep),
            freeze=tuple(refine.place(told) for told in freeze),
            variations=variations,
            level=level,
        )
        return refine.refine(
            self, texts, form, _seeds(seed, len(texts) or 1, generator), plan, asked, script, batch_size, callback
        )

    def retrieve(
        self,
        records: Iterable[Mapping[str, Any]],
        *,
        titles: int = 10,
        levels: int = 4,
        seed: int = 0,
        batch_size: int = 64,
        callback: Callable[[int], object] | None = None,
    ) -> dict[str, Any]:
        """Whether a poem's own title gives it the best bound among `titles`: {"top1", "standard_error", "chance", "texts"}.

        The others are drawn from poems of the same form with another title; each is tried with the same corruptions.
        Records without a title are left out.
        """
        _at_least("titles", titles, 2)
        told = [record for record in records if title_characters(record.get("title") or "")]
        canvases = [self._canvas(canvas.whole, r["text"], r.get("form"), k) for k, r in enumerate(told)]
        own = [title_characters(canvas.spelled(record["title"], self.model)) for record in told]
        tried: list[list[str]] = []
        for k, one in enumerate(canvases):
            others = sorted({o for o, c in zip(own, canvases, strict=True) if c.shape == one.shape and o != own[k]})
            if len(others) < titles - 1:
                raise AskedError(
                    f"{len(others) + 1} different titles of one form are too few to choose among {titles}; pass more poems"
                )
            order = Rng([example_seed(seed, k)]).ranks(torch.ones(1, len(others), dtype=torch.bool))[0].argsort()
            tried.append([own[k], *(others[i] for i in order[: titles - 1].tolist())])
        if not canvases:
            raise AskedError("there is no poem with a title; pass at least one")
        flat = [c for c in canvases for _ in range(titles)]
        seeds = [[example_seed(seed, k)] for k in range(len(canvases)) for _ in range(titles)]
        raw = {cleaned: record["title"] for cleaned, record in zip(own, told, strict=True)}  # it is cleaned once, later
        titled = [raw[title] for row in tried for title in row]
        said = {"title": _each("title", self._spelled(titled), flat)}
        nats = self._bounds(flat, seeds, self._process(None), levels, batch_size, callback, said).view(-1, titles)
        right = (nats[:, 0] < nats[:, 1:].amin(1)).double()
        mean = right.mean().item()
        error = math.sqrt(mean * (1 - mean) / len(right))
        return {"top1": mean, "standard_error": error, "chance": 1 / titles, "texts": len(right)}

    def plan(
        self,
        process: str | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        options: Mapping[str, float] | None = None,
        dynasty: Told = None,
        title: Told = None,
        guidance: float | None = None,
        prosody: str | None = None,
        tones: str | None = None,
        rhyme: str | None = None,
        avoid: str | Sequence[str] | None = None,
        no_repeat: bool | None = None,
        keyword: str | None = None,
        particles: int | None = None,
        best_of: int | None = None,
        quality: str | None = None,
    ) -> Plan:
        """The choices of a call, with the model's defaults for what is None; ValueError for what cannot be."""
        if quality is not None and quality not in QUALITIES:
            raise unknown("quality", quality, QUALITIES)
        chosen = QUALITIES[quality or "good"]
        best_of = chosen.get("best_of") if best_of is None else best_of
        defaults = self.model.defaults | {"steps": chosen.get("steps", self.model.defaults.get("steps"))}
        if sampler is not None and sampler not in SAMPLERS:
            raise unknown("sampler", sampler, SAMPLERS)
        if process is None and sampler is not None:
            usual = self._process(None)
            served = [p for p in (usual, *self.model.processes) if p in SAMPLERS[sampler].processes]
            if not served:
                raise AskedError(
                    f"sampler {sampler!r} serves {', '.join(SAMPLERS[sampler].processes)}, but model {self.model.name} only "
                    f"{', '.join(self.model.processes)}; pick another sampler"
                )
            process = served[0]
        name = self._process(process)
        if sampler is None:
            usual = defaults.get("sampler", FIRST_CHOICE[self._process(None)])
            if usual not in SAMPLERS:
                raise unknown("sampler", usual, SAMPLERS)
            sampler = usual if name == self._process(None) and name in SAMPLERS[usual].processes else FIRST_CHOICE[name]
        if name not in SAMPLERS[sampler].processes:
            fitting = ", ".join(s for s, entry in SAMPLERS.items() if name in entry.processes)
            raise AskedError(f"sampler {sampler!r} does not serve process {name!r}; use one of {fitting}")
        if sampler == "entropy-bounded" and steps is not None:
            raise AskedError(
                f"steps is {steps}, but sampler 'entropy-bounded' takes as many as its bound asks; "
                f"leave steps out, and allow more per step with its option gamma"
            )
        steps = defaults.get("steps") if steps is None and sampler != "entropy-bounded" else steps
        temperature = defaults.get("temperature", 1.0) if temperature is None else temperature
        top_p = defaults.get("top_p") if top_p is None else top_p
        _at_least("steps", steps, 1)
        if not (isinstance(temperature, (int, float)) and 0 <= temperature < math.inf):
            raise AskedError(f"temperature is {temperature}; it must be at least 0 (1 is the model's own law)")
        if top_p is not None and not (isinstance(top_p, (int, float)) and 0 < top_p <= 1):
            raise AskedError(f"top_p is {top_p}; it must lie in (0, 1], or be left out")
        asked = Prosody.parse(prosody, tones, rhyme, avoid, bool(no_repeat))
        _check_control(asked, name, sampler, steps, particles)
        if name == "replacement":  # the draft's rhyme words, old ones and new ones meet while words are exchanged
            asked = replace(asked, room=3)
        if guidance is not None and guidance != 1 and not (title or dynasty):
            raise AskedError(f"guidance is {guidance}, but there is no title or dynasty to guide towards; pass one")
        _at_least("particles", particles, 1)
        _at_least("best_of", best_of, 1)
        return Plan(
            process_name=name,
            process=self.model.process(name),
            sampler=sampler,
            options=_options(sampler, options),
            steps=steps,
            temperature=float(temperature),
            top_p=None if top_p is None else float(top_p),
            told={"dynasty": dynasty, "title": self._spelled(title)},
            guidance=1.0 if guidance is None else float(guidance),
            prosody=asked,
            keyword=keyword,
            particles=particles,
            best_of=best_of or 1,
        )

    # -- parts --------------------------------------------------------------------------------------------------------

    def _spelled(self, title: Told) -> Told:
        """Titles in the characters of the vocabulary."""
        if title is None or isinstance(title, str):
            return title and canvas.spelled(title, self.model)
        return [one and canvas.spelled(one, self.model) for one in title]

    @property
    def verse(self) -> bool:
        """Whether the model knows forms."""
        return "form" in self.model.prefix

    def _process(self, name: str | None) -> str:
        """A process that the model serves."""
        served = self.model.processes
        name = self.model.defaults.get("process", served[0]) if name is None else name
        if name not in PROCESSES:
            raise unknown("process", name, PROCESSES)
        if name not in served:
            raise AskedError(
                f"model {self.model.name} serves {', '.join(served)}, not process {name!r}; use one of these"
            )
        return name

    def _blank(
        self,
        form: str | None,
        length: int | None,
        template: str | None = None,
        script: str | None = None,
        **ends: str | None,
    ) -> Canvas:
        """What `generate` starts from; `ends` are the keywords of `canvas.acrostic`."""
        if template is not None or any(told is not None for told in ends.values()):
            if length is not None:
                raise AskedError(
                    f"length is {length}, but given characters have their places in a form; leave length out"
                )
            return canvas.in_script(self._given(form, template, ends), script)
        return canvas.in_script(self._open(form, length), script)

    def _given(self, form: str | None, template: str | None, ends: Mapping[str, str | None]) -> Canvas:
        """A canvas with characters of a template or an acrostic."""
        shaped = guess_form(template.replace("[MASK]", canvas.HOLE)) if form is None and template is not None else None
        if form is None and not self.verse and shaped is None:
            if template is None or any(told is not None for told in ends.values()):
                raise AskedError(
                    f"model {self.model.name} knows no forms; pass one with the acrostic, such as lines:4x32"
                )
            return canvas.holed(template, self.model, verse=False)
        default = self.model.defaults.get("form", "qiyan-jueju")
        shaped = shaped or get_form(default if form is None else form)
        return canvas.holed(canvas.acrostic(shaped, text=template, **ends), self.model, shaped, verse=self.verse)

    def _open(self, form: str | None, length: int | None) -> Canvas:
        _at_least("length", length, 1)
        defaults = self.model.defaults
        if length is None and (form is not None or self.verse):
            return canvas.blank(self.model, get_form(defaults.get("form", "qiyan-jueju") if form is None else form))
        if self.verse or form is not None:
            raise AskedError(
                f"length is {length}, but a form has its own; pass a form or a length to a model without forms"
            )
        length = length or defaults.get("length")
        if length is None:
            raise AskedError(f"model {self.model.name} knows no forms; pass a form or the length in tokens")
        return canvas.window(self.model, length)

    def _canvas(self, read: Callable[..., Canvas], text: Any, form: str | None, number: int) -> Canvas:
        if not isinstance(text, str):
            raise AskedError(f"text {number + 1} is {type(text).__name__}; pass strings")
        try:
            return read(text, self.model, None if form is None else get_form(form), verse=self.verse)
        except ValueError as error:
            raise AskedError(f"text {number + 1}: {error}" if number else str(error)) from None

    def _canvases(self, read: Callable[..., Canvas], texts: str | Iterable[str], form: Forms) -> list[Canvas]:
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise AskedError("there is no text; pass at least one")
        forms = [form] * len(texts) if form is None or isinstance(form, str) else list(form)
        if len(forms) != len(texts):
            raise AskedError(
                f"form names {len(forms)} forms for {len(texts)} texts; pass one form, or one for each text"
            )
        return [self._canvas(read, text, f, k) for k, (text, f) in enumerate(zip(texts, forms, strict=True))]

    def _predictor(self, plan: Plan, drawn: Canvas) -> Predictor:
        """The network, shaped as far as each position goes by itself."""
        poem = drawn.form is not None and not drawn.form.plain
        predictor = guided(self.model.predictor(plan.process_name), plan.guidance, self.model.untold)
        predictor = banned(predictor, self._never_written(poem))
        predictor = predictor if drawn.allowed is None else allowed(predictor, drawn.allowed.to(self.model.device))
        # The likeliest token that fits must still be told from the others where the likeliest of all does not.
        cold = COLDEST if plan.prosody.strict else 0.0
        predictor = tempered(predictor, max(plan.temperature, cold))
        if plan.prosody.preferring:
            form, characters = self._verse_form(drawn), self._characters
            predictor = preferred(predictor, form, plan.prosody, characters, self.model.mask_id, self.model.device)
        return predictor if plan.top_p is None else nucleus(predictor, plan.top_p)

    @cached_property
    def _characters(self) -> list[str]:
        """Every token as the tokenizer writes it, (V,)."""
        network: Any = self.model.model
        rows = network.get_input_embeddings().weight.shape[0]
        names = self.model.tokenizer.convert_ids_to_tokens(range(min(rows, len(self.model.tokenizer))))
        return [name or "" for name in names] + [""] * (rows - len(names))

    @cached_property
    def _laws(self) -> dict[tuple[Form, Prosody], Law]:
        return {}

    def _verse_form(self, drawn: Canvas) -> Form:
        """The form whose prosody a canvas keeps."""
        if drawn.form is None or drawn.form.plain:
            raise AskedError("tones and rhyme belong to poems, and this text has no poem's form; leave prosody out")
        return drawn.form.host or drawn.form

    def _law(self, drawn: Canvas, prosody: Prosody) -> Law:
        key = self._verse_form(drawn), prosody
        if key not in self._laws:
            writable = torch.zeros(len(self._characters), dtype=torch.bool)
            writable[self.model.content.cpu()] = True
            writable[self._never_written(True).cpu()] = False
            form, characters = key[0], self._characters
            self._laws[key] = verse_law(form, prosody, characters, self.model.mask_id, writable, self.model.device)
        return self._laws[key]

    def _check_given(self, canvases: Sequence[Canvas], plan: Plan) -> None:
        """ValueError where a fixed character cannot keep what is asked, before anything is drawn."""
        if not plan.prosody.strict:
            if plan.prosody.preferring:
                for one in canvases:
                    self._verse_form(one)
            return
        for number, one in enumerate(dict.fromkeys(canvases)):
            given = one.under(plan.process_name)
            open_ = given.free | (given.ids == self.model.mask_id)
            try:
                check_given(self._law(one, plan.prosody), given.ids, open_, self._verse_form(one), self._characters)
            except ValueError as error:
                raise AskedError(f"text {number + 1}: {error}" if number else str(error)) from None

    def _never_written(self, poem: bool) -> Tensor:
        """[UNK]; and in a poem, where one character is one token, all that is no single character."""
        ids = [] if self.model.unk_id is None else [self.model.unk_id]
        if poem:
            content = self.model.content.tolist()
            names = self.model.tokenizer.convert_ids_to_tokens(content)
            ids += [k for k, c in zip(content, names, strict=True) if len(c) != 1 or split_at_punctuation(c) != [c]]
        return torch.tensor(ids, dtype=torch.long, device=self.model.device)

    def _walked(self, plan: Plan, drawn: Canvas) -> Process:
        """The plan's process; where its noise may stay in the text, without tokens that are never written."""
        if plan.process_name == "mask":
            return plan.process
        content = self.model.content
        keep = ~torch.isin(content, self._never_written(_is_poem(drawn)))
        if drawn.allowed is not None:
            keep &= drawn.allowed[drawn.free].any(0).to(keep.device)[content]
        return plan.process if keep.all() else self.model.process(plan.process_name, content[keep])

    def _condition(self, form: Form | None, n: int, told: Mapping[str, Any]) -> Tensor:
        named = (form.host or form).name if form and self.verse else None
        return self.model.condition(n, form=named, **told)  # the predictor tells its process itself

    def _states(
        self,
        canvases: Sequence[Canvas],
        seeds: Sequence[int],
        plan: Plan,
        streams: Sequence[int] | None = None,
        start: Start | None = None,
    ) -> Iterator[State]:
        """The states of a batch of one shape; with particles, so many rows for each canvas (but none with a `start`)."""
        device, particles = self.model.device, plan.particles or 1
        canvases = [c.under(plan.process_name) for c in canvases for _ in range(particles)]
        seeds = [seed for seed in seeds for _ in range(particles)]
        streams = [j * particles + i for j in streams or [0] * (len(seeds) // particles) for i in range(particles)]
        staging = Rng(seeds, stream=torch.tensor(streams) + STAGE, device=device)
        with torch.inference_mode(), fast_float32():
            scene = self._scene(canvases, staging, plan, start)
            levels, x, level = plan.levels(scene.free.sum(-1), canvases[0].shape[1]), None, 1.0
            if start is not None:
                level = start.count / int(scene.free[0].sum())
                x = _corrupted(scene, start.text, level, staging) if start.x is None else start.x
                levels = itertools.dropwhile(lambda s: bool((torch.as_tensor(s) > level - 1e-9).any()), levels)
        step = attribute(SAMPLERS[plan.sampler].path)(**plan.options)
        states = sample(
            scene.given,
            scene.free,
            levels,
            resampled(step, particles) if particles > 1 else step,
            predictor=scene.predictor,
            process=scene.process,
            rng=Rng(seeds, stream=torch.tensor(streams), device=device),
            condition=scene.condition,
            start=x,
            level=level,
        )
        while True:
            with torch.inference_mode(), fast_float32():  # entered anew for each step: the caller's code runs outside
                state = next(states, None)
            if state is None:
                return
            yield state
            if plan.sampler == "entropy-bounded" and not state.t.any():
                return

    def _scene(self, canvases: Sequence[Canvas], rng: Rng, plan: Plan, start: Start | None = None) -> Scene:
        """What a batch of one shape is drawn with, where keywords stand and which pattern a replacement process keeps."""
        device, first = self.model.device, canvases[0]
        given = torch.stack([c.ids for c in canvases]).to(device)
        free = torch.stack([c.free for c in canvases]).to(device)
        scene = Scene(
            given=given,
            free=free,
            predictor=self._predictor(plan, first),
            process=self._walked(plan, first),
            condition=self._condition(first.form, len(canvases), plan.repeated(len(canvases))),
        )
        law = self._law(first, plan.prosody) if plan.prosody.strict else None
        if plan.keyword is not None:
            ids = self._keyword(plan.keyword, _is_poem(first))
            x = scene.process.prior(given, free, rng=rng.branch())
            prediction = _everywhere(scene, x)
            whole = first.form and (first.form.host or first.form)
            lines = whole is not None and whole.length == given.shape[1]  # and no line breaks
            width = whole.width if whole and lines else given.shape[1]
            given, free = place_keyword(prediction, law, ids, given, free, width, rng=rng.branch())
            scene = replace(scene, given=given, free=free)
        if law is None:
            return scene
        if plan.process_name == "mask":
            return replace(scene, predictor=constrained(scene.predictor, law, weigh=plan.particles is not None))
        if start is None:
            x = scene.process.prior(scene.given, scene.free, rng=rng.branch())
            draft = RestrictedPrediction(_everywhere(scene, x), law, scene.free, scene.given).draw(rng=rng.branch())
        else:
            draft = start.text
        pattern = pattern_of(law, draft)
        several = plan.steps is not None or plan.sampler not in ("edit", "gibbs")
        walked: Any = scene.process
        return replace(
            scene,
            predictor=kept_to(scene.predictor, pattern, several),
            process=replace(walked, tokens=pattern.tokens),
        )

    def _keyword(self, keyword: str, poem: bool) -> list[int]:
        ids = self.model.encode([canvas.spelled(keyword, self.model)])[0].tolist() if keyword else []
        if not ids or not set(ids) <= set(self.model.content.tolist()) - set(self._never_written(poem).tolist()):
            raise AskedError(f"keyword {keyword!r} is empty or outside the model's vocabulary; pass other characters")
        return ids

    def _outputs(
        self,
        canvases: Sequence[Canvas],
        seeds: Sequence[int],
        plan: Plan,
        batch_size: int,
        callback: Callback | None,
    ) -> list[Output]:
        _at_least("batch_size", batch_size, 1)
        self._check_given(canvases, plan)
        outputs: dict[int, Output] = {}
        each = plan.best_of * (plan.particles or 1)
        told = {name: _each(name, value, canvases) for name, value in plan.told.items()}
        keys = [(c.shape, told["dynasty"][k] is None, len(told["title"][k] or "")) for k, c in enumerate(canvases)]
        for rows in _batches(keys, max(1, batch_size // each)):
            plan = replace(plan, told={name: [values[k] for k in rows] for name, values in told.items()})
            repeated = [k for k in rows for _ in range(plan.best_of)]
            streams = list(range(plan.best_of)) * len(rows)
            several = [canvases[k] for k in repeated], [seeds[k] for k in repeated]
            for state in self._states(*several, plan, streams):
                if callback is not None:
                    callback(state)
            state = replace(state, x=self._walked(plan, canvases[rows[0]]).decode(state.x))
            chosen, weights = self._chosen(state, [seeds[k] for k in rows], plan, [canvases[k] for k in rows])
            for k, row, weight in zip(rows, chosen.tolist(), weights.tolist(), strict=True):
                spent = state.forwards[row].item() * each
                outputs[k] = self._output(
                    canvases[k],
                    state.x[row].cpu(),
                    seeds[k],
                    plan,
                    int(spent),
                    weight,
                    told["title"][k],
                    told["dynasty"][k],
                )
        return [outputs[k] for k in range(len(canvases))]

    def _chosen(
        self, state: State, seeds: Sequence[int], plan: Plan, canvases: Sequence[Canvas]
    ) -> tuple[Tensor, Tensor]:
        """The row of each text that is given, (texts,), and its log-weight: a particle by its weight, then the best candidate."""
        particles = plan.particles or 1
        weights = state.log_weight.view(-1, particles)  # (texts · candidates, particles)
        rng = Rng([seed for seed in seeds for _ in range(plan.best_of)], stream=STAGE - 1, device=weights.device)
        row = torch.arange(len(weights), device=weights.device) * particles
        row = row + (rng.categorical(weights) if particles > 1 else 0)
        mean = weights.logsumexp(-1) - math.log(particles)
        if plan.best_of == 1:
            return row, mean
        rank = self._merit(state.x[row], [c for c in canvases for _ in range(plan.best_of)], plan)
        best = rank.view(-1, plan.best_of).argmin(-1)
        pick = torch.arange(len(best), device=best.device) * plan.best_of + best
        return row[pick], mean[pick]

    def _merit(self, x: Tensor, canvases: Sequence[Canvas], plan: Plan) -> Tensor:
        """What candidates x (n, L) are ranked by, least first, (n,): broken prosody, then the bound and how likely each
        character is given the others, nats a character each."""
        texts = [c.read(ids) for c, ids in zip(canvases, x.cpu(), strict=True)]
        name = "mask" if "mask" in self.model.processes else plan.process_name
        told = {name: _each(name, value, texts) for name, value in plan.repeated(len(texts)).items()}
        whole = [replace(c, ids=ids, free=c.free, hidden=None) for c, ids in zip(canvases, x.cpu(), strict=True)]
        seeds = [[example_seed(0, 0)]] * len(texts)
        nats = self._bounds(whole, seeds, name, MERIT_LEVELS, 64, None, told)[:, 0] / max(1, whole[0].shape[1])
        forms = [c.form for c in canvases]
        faults = [
            0.0 if f is None or f not in FORMS.values() or regulated(f.split(t)) else 1.0
            for f, t in zip(forms, texts, strict=True)
        ]
        if "mask" in self.model.processes:
            told_of = [{key: values[k] for key, values in told.items()} for k in range(len(texts))]
            alone = [self._detail(c, said, 64).nats for c, said in zip(whole, told_of, strict=True)]
            nats = nats + torch.tensor([sum(n) / max(1, len(n)) for n in alone], dtype=torch.float64)
        return nats + 100 * torch.tensor(faults, dtype=torch.float64)

    def _output(
        self,
        drawn: Canvas,
        ids: Tensor,
        seed: int,
        plan: Plan,
        forwards: int,
        weight: float,
        title: str | None,
        dynasty: str | None,
    ) -> Output:
        text = drawn.text(ids)
        return Output(
            text=text,
            lines=tuple(split_at_punctuation(text) if _is_poem(drawn) else text.splitlines()),
            form=drawn.form.name if drawn.form else None,
            seed=seed,
            sampler=plan.sampler,
            process=plan.process_name,
            steps=plan.steps,
            temperature=plan.temperature,
            top_p=plan.top_p,
            forwards=forwards,
            log_weight=weight if plan.particles is not None else None,
            title=title,
            dynasty=dynasty,
            model=self.model.name,
        )

    def _bounds(
        self,
        canvases: Sequence[Canvas],
        seeds: Sequence[Sequence[int]],
        process: str,
        levels: int | None,
        batch_size: int,
        callback: Callable[[int], object] | None,
        told: Mapping[str, Sequence[str | None]],
    ) -> Tensor:
        """Nats of each text under each of its seeds, (texts, seeds) float64; `told` has one value a text."""
        if process != "mask" and any(c.hidden is not None for c in canvases):
            raise AskedError(
                f"process {process!r} cannot leave the rest of an octave unknown, and so has no bound of a couplet; "
                f"score it by the mask process"
            )
        device, result = self.model.device, torch.empty(len(canvases), len(seeds[0]), dtype=torch.float64)
        predictor, walked = self.model.predictor(process), self.model.process(process)
        for rows in _batches([c.shape for c in canvases], batch_size):
            repeats = [k for k in rows for _ in seeds[k]]
            with torch.inference_mode(), fast_float32(), _bounded(process):
                nats = nelbo(
                    torch.stack([canvases[k].ids for k in repeats]).to(device),
                    torch.stack([canvases[k].free for k in repeats]).to(device),
                    predictor=predictor,
                    process=walked,
                    seeds=torch.tensor([s for k in rows for s in seeds[k]], device=device),
                    levels=levels,
                    condition=self._condition(
                        canvases[rows[0]].form,
                        len(repeats),
                        {name: [v[k] for k in repeats] for name, v in told.items()},
                    ),
                    rows=batch_size,
                )
            result[rows] = nats.cpu().view(len(rows), -1)
            if callback is not None:
                callback(len(rows))
        return result

    def _detail(self, one: Canvas, told: Mapping[str, str | None], batch_size: int) -> Detail:
        """One text, each of its free positions masked in turn."""
        places = one.free.nonzero()[:, 0]
        nats, best, best_nats = [], [], []
        for at in places.split(batch_size):
            rows = torch.arange(len(at))
            log_q = self._alone(one.ids.expand(len(at), -1), at, one.form, told)
            nats += (-log_q[rows, one.ids[at]]).tolist()
            top = log_q.max(-1)
            best += top.indices.tolist()
            best_nats += (-top.values).tolist()
        names = self.model.tokenizer.convert_ids_to_tokens
        return Detail(
            text=one.text(one.ids),
            form=one.form.name if one.form else None,
            characters=tuple(names(one.ids[places].tolist())),
            nats=tuple(nats),
            best=tuple(names(best)),
            best_nats=tuple(best_nats),
            model=self.model.name,
        )

    def _alone(self, x0: Tensor, at: Tensor, form: Form | None, told: Mapping[str, Any]) -> Tensor:
        """log q at position at[k] of row k given the others, (n, V) float64; x0 (n, L), at (n,)."""
        x0 = x0.to(self.model.device)
        hole = torch.zeros_like(x0, dtype=torch.bool).scatter(1, at[:, None].to(x0.device), True)
        x_t = torch.where(hole, self.model.mask_id, x0)
        condition = self._condition(form, len(at), told)
        with torch.inference_mode(), fast_float32():
            level = hole.double() / x0.shape[1]
            logits = self.model.predictor("mask")(x_t, level, at=positions_of(hole), condition=condition).logits()
        return logits.double().log_softmax(-1).cpu()

    def _score(self, scored: Canvas, nats: Tensor, process: str) -> Score:
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
            model=self.model.name,
        )


def _seeds(seed: int | Sequence[int], n: int | None, generator: torch.Generator | None) -> list[int]:
    """One seed a row."""
    if n is not None:
        _at_least("n", n, 1)
    if generator is not None:
        drawn = torch.randint(2**62, (n or 1,), generator=generator, device=generator.device)
        return drawn.tolist()
    if isinstance(seed, (list, tuple)):
        if len(seed) != (n or len(seed)) or not seed:
            raise AskedError(
                f"seed has {len(seed)} values for {n or 'no'} texts; pass one for each, or a single number"
            )
        seeds = [_integer("seed", s) for s in seed]
    else:
        seeds = [_integer("seed", seed) + k for k in range(n or 1)]
    if min(seeds) < -(2**63) or max(seeds) >= 2**63:
        raise AskedError(f"seed is {seed}; it must fit into 64 bits")
    return seeds


def _check_control(prosody: Prosody, process: str, sampler: str, steps: int | None, particles: int | None) -> None:
    """ValueError where what is asked cannot be kept by a process or sampler."""
    if prosody.strict and process not in ("mask", "replacement"):
        raise AskedError(
            f"strict prosody is kept by the processes mask and replacement, not {process!r}; pick one, or prosody='prefer'"
        )
    if prosody.preferring and PROCESSES[process].data != "tokens":
        raise AskedError(
            f"prosody='prefer' goes by the tokens that stand, and in process {process!r} none does; use another process"
        )
    if prosody.strict and process == "replacement" and sampler == "refresh":
        raise AskedError(
            "sampler 'refresh' mixes new noise with old, which could bring a rhyme word in twice; use another sampler for "
            "the replacement process under strict prosody, such as 'edit', or the mask process"
        )
    if prosody.no_repeat and process == "replacement" and (steps is not None or sampler not in ("edit", "gibbs")):
        raise AskedError(
            f"no_repeat under the replacement process needs single edits, not sampler {sampler!r} with steps {steps}; "
            f"use sampler 'edit' without steps, or the mask process"
        )
    if particles is not None and (not prosody.strict or process != "mask" or sampler == "gibbs"):
        raise AskedError(
            f"particles is {particles}, which serves strict prosody under the mask process, and any sampler but gibbs; "
            f"leave it out, or ask for prosody='strict'"
        )


def _everywhere(scene: Scene, x: Tensor) -> Any:
    """The prediction at level 1 of all free positions, what is given pinned."""
    at = positions_of(scene.free)
    return scene.predictor(x, scene.free.double(), at=at, condition=scene.condition).pin(scene.given, ~scene.free)


def _corrupted(scene: Scene, text: Tensor, level: float, rng: Rng) -> Tensor:
    """text (B, L) at a level, by the scene's process."""
    t = scene.free.double() * level
    return scene.process.corrupt(text, t, scene.process.noise(text, t, rng=rng.branch()))


def _each(name: str, value: Told, texts: Sequence[Any]) -> list[str | None]:
    """One value a text."""
    if value is None or isinstance(value, str):
        return [value] * len(texts)
    if len(value) != len(texts):
        raise AskedError(f"{name} has {len(value)} values for {len(texts)} texts; pass one, or one for each text")
    return list(value)


def _device(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise AskedError(f"device {str(device)!r} cannot be used here ({reason}); use 'cpu'") from error


@contextlib.contextmanager
def _bounded(process: str) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise AskedError(f"process {process!r} has no bound ({error})") from error


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise AskedError(f"{name} is {value!r}; it must be a whole number") from None


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and _integer(name, value) < least:
        raise AskedError(f"{name} is {value}; it must be at least {least}")


def _options(sampler: str, options: Mapping[str, float] | None) -> dict[str, float]:
    """The sampler's own options, its defaults for what is not told."""
    known = SAMPLERS[sampler].options
    for name in options or {}:
        if name not in known:
            taken = f"it takes {', '.join(known)}" if known else "it takes none"
            raise AskedError(f"sampler {sampler!r} has no option {name!r}; {taken}")
    parameters = inspect.signature(attribute(SAMPLERS[sampler].path)).parameters
    return {name: parameters[name].default for name in known} | dict(options or {})


def _batches(keys: Iterable[Any], batch_size: int) -> Iterator[list[int]]:
    """Indices of equal keys, at most batch_size at a time."""
    _at_least("batch_size", batch_size, 1)
    groups: dict[Any, list[int]] = {}
    for k, key in enumerate(keys):
        groups.setdefault(key, []).append(k)
    for rows in groups.values():
        yield from (rows[k : k + batch_size] for k in range(0, len(rows), batch_size))


def _is_poem(drawn: Canvas) -> bool:
    """Whether a token is one character, and neither white space nor punctuation."""
    return drawn.form is not None and not drawn.form.plain


def _frame(ids: Tensor, state: State, canvases: Sequence[Canvas]) -> Frame:
    texts = tuple(c.text(x) for c, x in zip(canvases, ids.cpu(), strict=True))
    return Frame(texts, state.t.max().item(), tuple(state.forwards.tolist()))


def _summary(nats: Tensor, counts: Tensor) -> dict[str, Any]:
    mean, error = ratio(nats, counts)
    return {"nats_per_char": mean, "standard_error": None if math.isnan(error) else error, "texts": len(nats)}
