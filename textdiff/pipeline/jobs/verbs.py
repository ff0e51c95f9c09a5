"""Jobs: texts to generate, fill, refine, augment, score, choose for or restore, each with an id and options of its own.

    for k, result in results(pipe, VERBS["fill"], jobs, {"steps": 8}):     # jobs: mappings, each with an `id`
        ...                                                                # in the order in which they are done

    shared, job = prepared(VERBS["fill"], {"id": 1, "text": "床前□□光"}, {"steps": 8})
    for k, result in done(pipe, VERBS["fill"], [job], shared):             # jobs that have the options `shared` in common
        ...

What becomes of a job depends on the job alone, on the settings and on the model: never on the jobs beside it.  Jobs of equal options
are worked on together, those of one shape in one batch.  A job without a seed has one of its id (`seed_of`).
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.pipeline.jobs.apart import apart
from textdiff.pipeline.jobs.options import (
    AUGMENTATION,
    CHOOSING,
    COUNT,
    PER_TEXT,
    RESTORING,
    REVISION,
    SCORING,
    WORD,
    Kind,
    drawing,
    said,
)
from textdiff.pipeline.options import CHOICES, ROUNDS, Options
from textdiff.pipeline.outputs import Frame
from textdiff.pipeline.plan import Plan, resolve
from textdiff.pipeline.revision.keep import all_kept
from textdiff.pipeline.run import BATCH, Left
from textdiff.pipeline.score.order import Order
from textdiff.pipeline.score.scorer import AHEAD, Detail, with_detail
from textdiff.pipeline.text import TextPipeline

WINDOW = AHEAD * BATCH  # jobs that are read before the first of them is worked on

Job = Mapping[str, Any]  # what it says, with `id` and `seed`
Settings = Mapping[str, Any]  # options by their names


@dataclass(frozen=True)
class Callers:
    """Those who wait for jobs, by the numbers of these."""

    show: Callable[[int, Frame], object] | None = None  # called with what a job shows after a step
    left: Left | None = None  # whether nobody waits for a job any more, so that its result is dropped

    def waiting(self, members: list[int]) -> list[int]:
        """The jobs among these, by their numbers, that somebody waits for."""
        return members if self.left is None else [k for k in members if not self.left(k)]

    def of(self, members: Sequence[int]) -> Left | None:
        """`left` of some of the jobs, by their numbers among these."""
        left = self.left
        return None if left is None else lambda k: left(members[k])


NOBODY = Callers()
Work = Callable[
    [TextPipeline, Sequence[Job], Settings, Callers], Iterator[tuple[int, Any]]
]  # number of a job, result or AskedError


@dataclass(frozen=True)
class Verb:
    """What is done with a job, and what a job may say of it."""

    name: str
    kinds: Mapping[str, Kind]
    work: Work
    reads: bool = True  # whether a job has a text
    draws: bool = True  # whether a job without a seed has one of its id
    own: tuple[str, ...] = PER_TEXT  # the options that may be others for each job of a call

    def plan(self, pipe: TextPipeline, settings: Settings) -> Plan | None:
        """How jobs with these settings are drawn, if they are; AskedError where no job could be done with them."""
        said(self.kinds, settings)
        return resolve(_options(settings), pipe.model, self.name) if self.draws else None


def seed_of(id_: str | int, seed: int = 0) -> int:
    """The seed of a job by its id: the first 53 bits of SHA-256 of `SEED ID`, the id as JSON.

    53 bits, so that every reader of JSON holds the number exactly.
    """
    digest = hashlib.sha256(f"{seed} {json.dumps(id_, ensure_ascii=False)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11


def results(
    pipe: TextPipeline, verb: Verb, jobs: Sequence[Job], settings: Settings, seed: int = 0
) -> Iterator[tuple[int, Any]]:
    """The number of each job and what comes of it, as they are done: what the verb gives, or an AskedError.

    A job that gives several texts (`n`, `variations`) has {"results": [one for each]}.
    """
    groups: dict[str, tuple[Settings, list[int]]] = {}
    whole: dict[int, Job] = {}
    for k, job in enumerate(jobs):
        try:
            shared, whole[k] = prepared(verb, job, settings, seed)
        except AskedError as error:
            yield k, error
            continue
        groups.setdefault(alike(shared), (shared, []))[1].append(k)
    for shared, members in groups.values():
        for at, result in done(pipe, verb, [whole[k] for k in members], shared):
            yield members[at], result


def prepared(verb: Verb, job: Job, settings: Settings, seed: int = 0) -> tuple[Settings, Job]:
    """The options with which a job is done, and the job with its seed; AskedError for what no model could do."""
    says = said(verb.kinds, job)
    if "order" in says:
        Order.parse(says["order"], files=False)
    of_rounds = ROUNDS if "variations" in says else {}  # what the settings say of rounds is for the other jobs
    options = {name: value for name, value in settings.items() if name not in of_rounds} | says
    _check_text(verb, job)
    own = seed_of(job["id"], seed) if verb.draws else seed
    whole = {**job, **{name: options.pop(name, None) for name in verb.own}}
    return options, {**whole, "seed": own if job.get("seed") is None else job["seed"]}


def alike(shared: Settings) -> str:
    """Jobs whose options are equal in this can be done together."""
    return json.dumps(shared, sort_keys=True, default=str)


def done(
    pipe: TextPipeline, verb: Verb, jobs: Sequence[Job], shared: Settings, callers: Callers = NOBODY
) -> Iterator[tuple[int, Any]]:
    """`results` of jobs that are prepared and have their options in common."""
    left = dict(enumerate(jobs))
    try:
        for at, result in verb.work(pipe, jobs, shared, callers):
            del left[at]
            yield at, result
    except AskedError as error:  # with such options no job can be done
        yield from ((at, error) for at in left)


# -- the work of each verb ----------------------------------------------------------------------------------------------


def _written(pipe: TextPipeline, jobs: Sequence[Job], options: Settings, callers: Callers) -> Iterator[tuple[int, Any]]:
    """New texts, or the holes of texts filled."""
    chosen, sizes = _options(options), [job.get("n") or 1 for job in jobs]
    show, left, ends = callers.show, callers.left, list(itertools.accumulate(sizes))
    look = None if show is None else _by_job(show, [n * pipe.plan(chosen).each for n in sizes])
    gone = None if left is None else lambda k: left(bisect.bisect(ends, k))
    records = (
        {name: job.get(name) for name in ("text", *PER_TEXT)} | {"seed": job["seed"] + j}
        for job, n in zip(jobs, sizes, strict=True)
        for j in range(n)
    )
    outputs = pipe.each(records, chosen, on_error="skip", watch=look, left=gone)
    for k, n in enumerate(sizes):
        yield k, _one_or_all([next(outputs) for _ in range(n)])


def _revised(pipe: TextPipeline, jobs: Sequence[Job], options: Settings, callers: Callers) -> Iterator[tuple[int, Any]]:
    task = {name: options[name] for name in REVISION if name in options}

    def work(some: Sequence[Job], texts: list[str], **words: Any) -> list[Any]:
        return pipe.refine(texts, options=_options(options), **task, **words)

    return _several(jobs, work, callers)


def _augmented(
    pipe: TextPipeline, jobs: Sequence[Job], options: Settings, callers: Callers
) -> Iterator[tuple[int, Any]]:
    task = {name: options[name] for name in AUGMENTATION if name in options}

    def work(some: Sequence[Job], texts: list[str], **words: Any) -> list[Any]:
        keep = [all_kept(job.get("keep"), job.get("keep_pattern")) for job in some]
        return pipe.augment(texts, options=_options(options), keep=keep, **task, **words)

    return _several(jobs, work, callers)


def _several(jobs: Sequence[Job], call: Callable[..., list[Any]], callers: Callers) -> Iterator[tuple[int, Any]]:
    """The results of a call that gives equally many for each text."""

    def work(members: Sequence[int]) -> list[Any]:
        some = [jobs[k] for k in members]
        texts, seeds = [job["text"] for job in some], [job["seed"] for job in some]
        words: dict[str, Any] = {name: [job.get(name) for job in some] for name in PER_TEXT}
        found = call(some, texts, seed=seeds, **words, left=callers.of(members))
        each = len(found) // len(some)
        return [_one_or_all(found[k : k + each]) for k in range(0, len(found), each)]

    for members in _alike(jobs):
        yield from apart(members, work)


def _scored(pipe: TextPipeline, jobs: Sequence[Job], options: Settings, callers: Callers) -> Iterator[tuple[int, Any]]:
    ways = {name: options[name] for name in SCORING if name in options and name != "detail"}

    def work(members: Sequence[int]) -> list[Any]:
        some = [jobs[k] for k in members]
        texts, seeds = [job["text"] for job in some], [job["seed"] for job in some]
        words: dict[str, Any] = {name: [job.get(name) for job in some] for name in PER_TEXT}
        left = callers.of(members)
        scores = pipe.score(texts, **ways, **words, seed=seeds, left=left)
        details = list[Detail | None]([None] * len(texts))
        for k, text in enumerate(texts):
            if options.get("detail") and not (left and left(k)):
                (details[k],) = pipe.detail(text, **{name: its[k] for name, its in words.items()})
        return [with_detail(one, detail) for one, detail in zip(scores, details, strict=True)]

    for members in _alike(jobs):
        yield from apart(members, work)


def _chosen(pipe: TextPipeline, jobs: Sequence[Job], options: Settings, callers: Callers) -> Iterator[tuple[int, Any]]:
    def call(texts: list[str], members: Sequence[int], **words: Any) -> list[Any]:
        return pipe.choose(texts, **options, **words, left=callers.of(members))

    return _compared(jobs, call, BATCH, callers)


def _restored(
    pipe: TextPipeline, jobs: Sequence[Job], options: Settings, callers: Callers
) -> Iterator[tuple[int, Any]]:
    def call(texts: list[str], members: Sequence[int], **words: Any) -> list[Any]:
        return pipe.restore(texts, **options, **words)

    return _compared(jobs, call, 1, callers)  # a text has a beam of its own


def _compared(
    jobs: Sequence[Job], call: Callable[..., list[Any]], size: int, callers: Callers
) -> Iterator[tuple[int, Any]]:
    """The results of a call for `size` texts, which takes one seed for all of them: only an order by chance asks for it."""

    def work(members: Sequence[int]) -> list[Any]:
        some = [jobs[k] for k in members]
        words = {name: [job.get(name) for job in some] for name in PER_TEXT}
        return call([job["text"] for job in some], members, **words, seed=some[0]["seed"])

    for seed in dict.fromkeys(job["seed"] for job in jobs):
        members = [k for k, job in enumerate(jobs) if job["seed"] == seed]
        for first in range(0, len(members), size):
            if waiting := callers.waiting(members[first : first + size]):
                yield from apart(waiting, work)


def _by_job(show: Callable[[int, Frame], object], sizes: Sequence[int]) -> Callable[[Frame], None]:
    """Shows each job its part of a frame of many: job k has sizes[k] rows, which are numbered from 0."""
    ends = list(itertools.accumulate(sizes))

    def look(frame: Frame) -> None:
        owners = [bisect.bisect(ends, row) for row in frame.rows]
        for k in dict.fromkeys(owners):
            mine = [i for i, owner in enumerate(owners) if owner == k]
            texts, forwards = tuple(frame.texts[i] for i in mine), tuple(frame.forwards[i] for i in mine)
            show(k, Frame(texts, frame.level, forwards, tuple(frame.rows[i] - ends[k] + sizes[k] for i in mine)))

    return look


def _one_or_all(results: Sequence[Any]) -> Any:
    """A single result, all of several, or the error of one of them."""
    error = next((one for one in results if isinstance(one, AskedError)), None)
    return error or (results[0] if len(results) == 1 else {"results": list(results)})


def _alike(jobs: Sequence[Job]) -> Iterator[list[int]]:
    """The numbers of the jobs, a batch at a time; texts of one length stand together, as they are likely to have one shape."""
    order = sorted(range(len(jobs)), key=lambda k: (jobs[k].get("form") or "", len(jobs[k]["text"])))
    yield from (order[k : k + BATCH] for k in range(0, len(order), BATCH))


def _options(options: Settings) -> Options:
    return Options(**{name: value for name, value in options.items() if name in CHOICES})


VERBS: dict[str, Verb] = {
    "generate": Verb("generate", drawing("generate") | {"n": COUNT}, _written, reads=False, own=(*PER_TEXT, "n")),
    "fill": Verb("fill", drawing("fill") | {"n": COUNT}, _written, own=(*PER_TEXT, "n")),
    "refine": Verb("refine", drawing("refine") | REVISION, _revised),
    "augment": Verb("augment", drawing("augment") | AUGMENTATION, _augmented, own=(*PER_TEXT, "keep", "keep_pattern")),
    "score": Verb("score", dict.fromkeys(PER_TEXT, WORD) | SCORING, _scored, draws=False),
    "choose": Verb("choose", dict.fromkeys(PER_TEXT, WORD) | CHOOSING, _chosen, draws=False),
    "restore": Verb("restore", dict.fromkeys(PER_TEXT, WORD) | RESTORING, _restored, draws=False),
}


def _check_text(verb: Verb, job: Job) -> None:
    if verb.reads and job.get("text") is None:
        raise AskedError(f"job has no text, which {verb.name} needs; give it one")
    if not verb.reads and job.get("text") is not None:
        raise AskedError(f"job has a text, which {verb.name} does not read; call it template, or use fill")
