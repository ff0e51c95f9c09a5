"""Texts from a model, one call each: write poems, fill holes, score, watch.

    pipe = Pipeline.from_pretrained()
    pipe.generate(form="qiyan-jueju", n=4, seed=0)

Row k of a call with seed s is row 0 of the call with seed s + k: rows that share a batch have the same number of free
positions, walk the same levels and draw from streams of their own.
"""

from __future__ import annotations

import contextlib
import gzip
import inspect
import json
import math
import operator
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from textdiff import canvas
from textdiff.canvas import Canvas
from textdiff.contracts import Predictor, Process, State
from textdiff.levels import count_levels, even_levels
from textdiff.likelihood import nelbo, ratio
from textdiff.predictors.fast_float32 import fast_float32
from textdiff.predictors.folder import ModelError, TextModel
from textdiff.predictors.shaping import banned, nucleus, tempered
from textdiff.processes import PROCESSES
from textdiff.resolve import attribute, unknown
from textdiff.rng import Rng, example_seed
from textdiff.samplers import SAMPLERS
from textdiff.samplers.corrector import sweep_levels
from textdiff.samplers.loop import sample
from textdiff.verse import Form, get_form, guess_form, split_at_punctuation

FIRST_CHOICE = {"mask": "improved", "replacement": "edit", "redraw": "improved", "uniform": "improved"}
FILE_LEVELS = 8  # stratified levels of each text of a file
REPEATS = 4  # of a single text's every level

Callback = Callable[[State], object]
Forms = str | Sequence[str | None] | None  # of all texts, or one for each; None: what a text's shape says


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
    forwards: int  # predictor evaluations
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
    dynasty: str | None  # tang or song
    title: str | None


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
    told: Mapping[str, str | None]  # what the network is told: title, dynasty

    def levels(self, n: Tensor) -> Iterator[Any]:
        """The levels that rows of n (B,) free positions walk, all n alike."""
        if self.process_name == "uniform":
            return even_levels(self.steps or int(n.max()))
        return self._counted(n)

    def _counted(self, n: Tensor) -> Iterator[Tensor]:
        yield from count_levels(n, self.steps)
        if self.sampler == "gibbs":
            yield from sweep_levels(n, round(self.options["sweeps"] * int(n.max())))


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
        batch_size: int = 64,
        callback: Callback | None = None,
        **how: Unpack[How],
    ) -> list[Output]:
        """n new texts, poem k from seed + k; `seed` may be the list of all seeds.

        A model without forms writes `length` tokens.  `options` are the sampler's own (`textdiff samplers` names them).
        `callback` is called with the state after every step.
        """
        plan = self.plan(**how)
        seeds = _seeds(seed, n, generator)
        blank = self._blank(form, length)
        return self._outputs([blank] * len(seeds), seeds, plan, batch_size, callback)

    def fill(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        seed: int | Sequence[int] = 0,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = 64,
        callback: Callback | None = None,
        **how: Unpack[How],
    ) -> list[Output]:
        """Each text with its holes (□, _ or [MASK], one token each) drawn jointly; text k from seed + k."""
        plan = self.plan(**how)
        canvases = self._canvases(canvas.holed, texts, form)
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
        **how: Unpack[How],
    ) -> Iterator[Frame]:
        """The states of one running batch, from the prior to the texts that `generate` (or `fill`, with `texts`) gives."""
        plan = self.plan(**how)
        if texts is None:
            seeds = _seeds(seed, n, generator)
            canvases = [self._blank(form, length)] * len(seeds)
        else:
            canvases = self._canvases(canvas.holed, texts, form)
            seeds = _seeds(seed, len(canvases), generator)
        if len({c.shape for c in canvases}) > 1:
            raise ValueError("the texts differ in length or number of holes; stream texts of one shape at a time")
        return (_frame(state, canvases) for state in self._states(canvases, seeds, plan))

    def score(
        self,
        texts: str | Iterable[str],
        form: Forms = None,
        *,
        process: str | None = None,
        levels: int | None = None,
        repeats: int = REPEATS,
        seed: int = 0,
        batch_size: int = 64,
        callback: Callable[[int], object] | None = None,
    ) -> list[Score]:
        """The bound of each text, averaged over `repeats` runs of every level (or `levels` stratified ones).

        The standard error is that of the average.  A text's score does not depend on the texts beside it.  `callback` is
        called with the number of texts done.
        """
        name = self._process(process)
        _at_least("levels", levels, 1)
        _at_least("repeats", repeats, 1)
        canvases = self._canvases(canvas.whole, texts, form)
        runs = [example_seed(seed, k) for k in range(repeats)]
        nats = self._bounds(canvases, [runs] * len(canvases), name, levels, batch_size, callback)
        return [self._score(c, row, name) for c, row in zip(canvases, nats, strict=True)]

    def evaluate(
        self,
        records: Iterable[str | Mapping[str, Any]],
        *,
        process: str | None = None,
        levels: int | None = FILE_LEVELS,
        seed: int = 0,
        batch_size: int = 64,
        callback: Callable[[int], object] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """{"all": {"nats_per_char", "standard_error", "texts"}, and the same for each form}: the bound on a file.

        Records are texts, or mappings with `text` and perhaps `form`.  The standard error is over texts.
        """
        name = self._process(process)
        _at_least("levels", levels, 1)
        told = [{"text": record} if isinstance(record, str) else record for record in records]
        canvases = [self._canvas(canvas.whole, r["text"], r.get("form"), k) for k, r in enumerate(told)]
        if not canvases:
            raise ValueError("there is no text to evaluate; pass at least one")
        seeds = [[example_seed(seed, k)] for k in range(len(canvases))]
        nats = self._bounds(canvases, seeds, name, levels, batch_size, callback)[:, 0]
        counts = torch.tensor([c.shape[1] for c in canvases])
        forms = [c.form.name if c.form else None for c in canvases]
        result = {"all": _summary(nats, counts)}
        for form in sorted({f for f in forms if f is not None}):
            here = torch.tensor([f == form for f in forms])
            result[form] = _summary(nats[here], counts[here])
        return result

    def plan(
        self,
        process: str | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        options: Mapping[str, float] | None = None,
        dynasty: str | None = None,
        title: str | None = None,
    ) -> Plan:
        """The choices of a call, with the model's defaults for what is None; ValueError for what cannot be."""
        defaults = self.model.defaults
        if sampler is not None and sampler not in SAMPLERS:
            raise unknown("sampler", sampler, SAMPLERS)
        if process is None and sampler is not None:
            usual = self._process(None)
            served = [p for p in (usual, *self.model.processes) if p in SAMPLERS[sampler].processes]
            if not served:
                raise ValueError(
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
            raise ValueError(f"sampler {sampler!r} does not serve process {name!r}; use one of {fitting}")
        if sampler == "entropy-bounded" and steps is not None:
            raise ValueError(
                f"steps is {steps}, but sampler 'entropy-bounded' takes as many as its bound asks; "
                f"leave steps out, and allow more per step with its option gamma"
            )
        steps = defaults.get("steps") if steps is None and sampler != "entropy-bounded" else steps
        temperature = defaults.get("temperature", 1.0) if temperature is None else temperature
        top_p = defaults.get("top_p") if top_p is None else top_p
        _at_least("steps", steps, 1)
        if not (isinstance(temperature, (int, float)) and 0 <= temperature < math.inf):
            raise ValueError(f"temperature is {temperature}; it must be at least 0 (1 is the model's own law)")
        if top_p is not None and not (isinstance(top_p, (int, float)) and 0 < top_p <= 1):
            raise ValueError(f"top_p is {top_p}; it must lie in (0, 1], or be left out")
        return Plan(
            process_name=name,
            process=self.model.process(name),
            sampler=sampler,
            options=_options(sampler, options),
            steps=steps,
            temperature=float(temperature),
            top_p=None if top_p is None else float(top_p),
            told={"dynasty": dynasty, "title": title},
        )

    # -- parts --------------------------------------------------------------------------------------------------------

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
            raise ValueError(
                f"model {self.model.name} serves {', '.join(served)}, not process {name!r}; use one of these"
            )
        return name

    def _blank(self, form: str | None, length: int | None) -> Canvas:
        _at_least("length", length, 1)
        defaults = self.model.defaults
        if length is None and (form is not None or self.verse):
            return canvas.blank(self.model, get_form(defaults.get("form", "qiyan-jueju") if form is None else form))
        if self.verse or form is not None:
            raise ValueError(
                f"length is {length}, but a form has its own; pass a form or a length to a model without forms"
            )
        length = length or defaults.get("length")
        if length is None:
            raise ValueError(f"model {self.model.name} knows no forms; pass a form or the length in tokens")
        return canvas.window(self.model, length)

    def _canvas(self, read: Callable[..., Canvas], text: Any, form: str | None, number: int) -> Canvas:
        if not isinstance(text, str):
            raise ValueError(f"text {number + 1} is {type(text).__name__}; pass strings")
        try:
            return read(text, self.model, None if form is None else get_form(form), verse=self.verse)
        except ValueError as error:
            raise ValueError(f"text {number + 1}: {error}" if number else str(error)) from None

    def _canvases(self, read: Callable[..., Canvas], texts: str | Iterable[str], form: Forms) -> list[Canvas]:
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ValueError("there is no text; pass at least one")
        forms = [form] * len(texts) if form is None or isinstance(form, str) else list(form)
        if len(forms) != len(texts):
            raise ValueError(
                f"form names {len(forms)} forms for {len(texts)} texts; pass one form, or one for each text"
            )
        return [self._canvas(read, text, f, k) for k, (text, f) in enumerate(zip(texts, forms, strict=True))]

    def _predictor(self, plan: Plan, poem: bool) -> Predictor:
        predictor = banned(self.model.predictor(plan.process_name), self._never_written(poem))
        predictor = tempered(predictor, plan.temperature)
        return predictor if plan.top_p is None else nucleus(predictor, plan.top_p)

    def _never_written(self, poem: bool) -> Tensor:
        """[UNK]; and in a poem, where one character is one token, all that is no single character."""
        ids = [] if self.model.unk_id is None else [self.model.unk_id]
        if poem:
            content = self.model.content.tolist()
            names = self.model.tokenizer.convert_ids_to_tokens(content)
            ids += [k for k, c in zip(content, names, strict=True) if len(c) != 1 or split_at_punctuation(c) != [c]]
        return torch.tensor(ids, dtype=torch.long, device=self.model.device)

    def _condition(self, form: Form | None, n: int, told: Mapping[str, str | None]) -> Tensor:
        named = form.name if form and self.verse else None
        return self.model.condition(n, form=named, **told)  # the predictor tells its process itself

    def _states(
        self, canvases: Sequence[Canvas], seeds: Sequence[int], plan: Plan
    ) -> Iterator[State]:
        """The states of a batch of one shape."""
        device = self.model.device
        form = canvases[0].form
        free = torch.stack([c.free for c in canvases]).to(device)
        states = sample(
            torch.stack([c.ids for c in canvases]).to(device),
            free,
            plan.levels(free.sum(-1)),
            attribute(SAMPLERS[plan.sampler].path)(**plan.options),
            predictor=self._predictor(plan, poem=form is not None),
            process=plan.process,
            rng=Rng(seeds, device=device),
            condition=self._condition(form, len(canvases), plan.told),
        )
        while True:
            with torch.inference_mode(), fast_float32():  # entered anew for each step: the caller's code runs outside
                state = next(states, None)
            if state is None:
                return
            yield state
            if plan.sampler == "entropy-bounded" and not state.t.any():
                return

    def _outputs(
        self,
        canvases: Sequence[Canvas],
        seeds: Sequence[int],
        plan: Plan,
        batch_size: int,
        callback: Callback | None,
    ) -> list[Output]:
        outputs: dict[int, Output] = {}
        for rows in _batches(canvases, batch_size):
            for state in self._states([canvases[k] for k in rows], [seeds[k] for k in rows], plan):
                if callback is not None:
                    callback(state)
            for k, x, forwards in zip(rows, state.x.cpu(), state.forwards.tolist(), strict=True):
                outputs[k] = self._output(canvases[k], x, seeds[k], plan, forwards)
        return [outputs[k] for k in range(len(canvases))]

    def _output(self, drawn: Canvas, ids: Tensor, seed: int, plan: Plan, forwards: int) -> Output:
        text = drawn.text(ids)
        return Output(
            text=text,
            lines=tuple(split_at_punctuation(text) if drawn.form else text.splitlines()),
            form=drawn.form.name if drawn.form else None,
            seed=seed,
            sampler=plan.sampler,
            process=plan.process_name,
            steps=plan.steps,
            temperature=plan.temperature,
            top_p=plan.top_p,
            forwards=forwards,
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
    ) -> Tensor:
        """Nats of each text under each of its seeds, (texts, seeds) float64."""
        device, result = self.model.device, torch.empty(len(canvases), len(seeds[0]), dtype=torch.float64)
        predictor, walked = self.model.predictor(process), self.model.process(process)
        for rows in _batches(canvases, batch_size):
            repeats = [k for k in rows for _ in seeds[k]]
            with torch.inference_mode(), fast_float32(), _bounded(process):
                nats = nelbo(
                    torch.stack([canvases[k].ids for k in repeats]).to(device),
                    torch.stack([canvases[k].free for k in repeats]).to(device),
                    predictor=predictor,
                    process=walked,
                    seeds=torch.tensor([s for k in rows for s in seeds[k]], device=device),
                    levels=levels,
                    condition=self._condition(canvases[rows[0]].form, len(repeats), {}),
                    rows=batch_size,
                )
            result[rows] = nats.cpu().view(len(rows), -1)
            if callback is not None:
                callback(len(rows))
        return result

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


def read_records(source: str | os.PathLike[str] | Iterable[str]) -> list[dict[str, Any]]:
    """The texts of a file (or of lines), {"text", and "form" where it is told}.

    JSON Lines if the first line is an object.  Otherwise one text a line; a poem may run over the lines of a paragraph.
    """
    name = str(source) if isinstance(source, (str, os.PathLike)) else "input"
    try:
        if isinstance(source, (str, os.PathLike)):
            data = Path(source).read_bytes()
            text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
        else:
            text = "".join(source)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{name!r} cannot be read ({reason}); pass a text or JSON Lines file in UTF-8") from error
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise ValueError(f"{name!r} is empty; pass at least one text")
    if not first.lstrip().startswith("{"):
        return [{"text": text} for text in _paragraphs(lines)]
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            records.append({"text": record["text"], "form": record.get("form")})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{name!r} line {number} is no JSON object with a 'text'; mend or remove it") from None
    return records


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """One text a line; lines that only together have the shape of a poem are one text."""
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line.strip())
            continue
        shapes = [guess_form(text.replace("[MASK]", canvas.HOLE)) for text in ("\n".join(paragraph), *paragraph)]
        if len(paragraph) > 1 and shapes[0] is not None and not any(shapes[1:]):
            yield "\n".join(paragraph)
        else:
            yield from paragraph
        paragraph = []


def _seeds(seed: int | Sequence[int], n: int | None, generator: torch.Generator | None) -> list[int]:
    """One seed a row."""
    if n is not None:
        _at_least("n", n, 1)
    if generator is not None:
        drawn = torch.randint(2**62, (n or 1,), generator=generator, device=generator.device)
        return drawn.tolist()
    if isinstance(seed, (list, tuple)):
        if len(seed) != (n or len(seed)) or not seed:
            raise ValueError(
                f"seed has {len(seed)} values for {n or 'no'} texts; pass one for each, or a single number"
            )
        seeds = [_integer("seed", s) for s in seed]
    else:
        seeds = [_integer("seed", seed) + k for k in range(n or 1)]
    if min(seeds) < -(2**63) or max(seeds) >= 2**63:
        raise ValueError(f"seed is {seed}; it must fit into 64 bits")
    return seeds


def _device(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ValueError(f"device {str(device)!r} cannot be used here ({reason}); use 'cpu'") from error


@contextlib.contextmanager
def _bounded(process: str) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise ValueError(f"process {process!r} has no bound ({error})") from error


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; it must be a whole number") from None


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and _integer(name, value) < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")


def _options(sampler: str, options: Mapping[str, float] | None) -> dict[str, float]:
    """The sampler's own options, its defaults for what is not told."""
    known = SAMPLERS[sampler].options
    for name in options or {}:
        if name not in known:
            taken = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"sampler {sampler!r} has no option {name!r}; {taken}")
    parameters = inspect.signature(attribute(SAMPLERS[sampler].path)).parameters
    return {name: parameters[name].default for name in known} | dict(options or {})


def _batches(canvases: Sequence[Canvas], batch_size: int) -> Iterator[list[int]]:
    """Indices of canvases of one shape, at most batch_size at a time."""
    _at_least("batch_size", batch_size, 1)
    groups: dict[Any, list[int]] = {}
    for k, one in enumerate(canvases):
        groups.setdefault(one.shape, []).append(k)
    for rows in groups.values():
        yield from (rows[k : k + batch_size] for k in range(0, len(rows), batch_size))


def _frame(state: State, canvases: Sequence[Canvas]) -> Frame:
    texts = tuple(c.text(x) for c, x in zip(canvases, state.x.cpu(), strict=True))
    return Frame(texts, state.t.max().item(), tuple(state.forwards.tolist()))


def _summary(nats: Tensor, counts: Tensor) -> dict[str, Any]:
    mean, error = ratio(nats, counts)
    return {"nats_per_char": mean, "standard_error": None if math.isnan(error) else error, "texts": len(nats)}
