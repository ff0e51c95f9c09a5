"""Jobs: texts to generate, fill, refine, augment or score, each with an id and options of its own.

    for k, result in results(pipe, VERBS["fill"], jobs, {"steps": 8}):     # jobs: mappings, each with an `id`
        ...                                                                # in the order in which they are done

What becomes of a job depends on the job alone, on the settings and on the model: never on the jobs beside it.  Jobs of equal options
are worked on together, those of one shape in one batch.  A job without a seed has one of its id (`seed_of`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.pipeline.jobs.apart import apart
from textdiff.pipeline.jobs.options import AUGMENTATION, COUNT, PER_TEXT, REVISION, SCORING, WORD, Kind, drawing, said
from textdiff.pipeline.options import CHOICES, Options
from textdiff.pipeline.plan import resolve
from textdiff.pipeline.revision.keep import all_kept
from textdiff.pipeline.run import BATCH
from textdiff.pipeline.score.scorer import AHEAD, with_detail
from textdiff.pipeline.text import TextPipeline

WINDOW = AHEAD * BATCH  # jobs that are read before the first of them is worked on

Job = Mapping[str, Any]  # what it says, with `id` and `seed`
Settings = Mapping[str, Any]  # options by their names
Work = Callable[
    [TextPipeline, Sequence[Job], Settings], Iterator[tuple[int, Any]]
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

    def check(self, pipe: TextPipeline, settings: Settings) -> None:
        """AskedError for settings with which no job could be done."""
        said(self.kinds, settings)
        if self.draws:
            resolve(_options(settings), pipe.model, self.name)


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
            options = dict(settings) | said(verb.kinds, job)
            _check_text(verb, job)
        except AskedError as error:
            yield k, error
            continue
        own = seed_of(job["id"], seed) if verb.draws else seed
        whole[k] = {**job, **{name: options.pop(name, None) for name in verb.own}}
        whole[k] = {**whole[k], "seed": own if job.get("seed") is None else job["seed"]}
        groups.setdefault(json.dumps(options, sort_keys=True, default=str), (options, []))[1].append(k)
    for shared, members in groups.values():
        left = dict(enumerate(members))
        try:
            for at, result in verb.work(pipe, [whole[k] for k in members], shared):
                yield left.pop(at), result
        except AskedError as error:  # with such options no job can be done
            yield from ((k, error) for k in left.values())


# -- the work of each verb ----------------------------------------------------------------------------------------------


def _written(pipe: TextPipeline, jobs: Sequence[Job], options: Settings) -> Iterator[tuple[int, Any]]:
    """New texts, or the holes of texts filled."""
    n = options.get("n", 1)
    records = (
        {name: job.get(name) for name in ("text", *PER_TEXT)} | {"seed": job["seed"] + j}
        for job in jobs
        for j in range(n)
    )
    outputs = pipe.each(records, _options(options), on_error="skip")
    for k in range(len(jobs)):
        yield k, _one_or_all([next(outputs) for _ in range(n)])


def _revised(pipe: TextPipeline, jobs: Sequence[Job], options: Settings) -> Iterator[tuple[int, Any]]:
    task = {name: options[name] for name in REVISION if name in options}

    def work(some: Sequence[Job], texts: list[str], **words: Any) -> list[Any]:
        return pipe.refine(texts, options=_options(options), **task, **words)

    return _several(jobs, work)


def _augmented(pipe: TextPipeline, jobs: Sequence[Job], options: Settings) -> Iterator[tuple[int, Any]]:
    task = {name: options[name] for name in AUGMENTATION if name in options}

    def work(some: Sequence[Job], texts: list[str], **words: Any) -> list[Any]:
        keep = [all_kept(job.get("keep"), job.get("keep_pattern")) for job in some]
        return pipe.augment(texts, options=_options(options), keep=keep, **task, **words)

    return _several(jobs, work)


def _several(jobs: Sequence[Job], call: Callable[..., list[Any]]) -> Iterator[tuple[int, Any]]:
    """The results of a call that gives equally many for each text."""

    def work(members: Sequence[int]) -> list[Any]:
        some = [jobs[k] for k in members]
        texts, seeds = [job["text"] for job in some], [job["seed"] for job in some]
        words: dict[str, Any] = {name: [job.get(name) for job in some] for name in PER_TEXT}
        found = call(some, texts, seed=seeds, **words)
        each = len(found) // len(some)
        return [_one_or_all(found[k : k + each]) for k in range(0, len(found), each)]

    for members in _alike(jobs):
        yield from apart(members, work)


def _scored(pipe: TextPipeline, jobs: Sequence[Job], options: Settings) -> Iterator[tuple[int, Any]]:
    ways = {name: options[name] for name in SCORING if name in options and name != "detail"}

    def work(members: Sequence[int]) -> list[Any]:
        some = [jobs[k] for k in members]
        texts, seeds = [job["text"] for job in some], [job["seed"] for job in some]
        words: dict[str, Any] = {name: [job.get(name) for job in some] for name in PER_TEXT}
        scores = pipe.score(texts, **ways, **words, seed=seeds)
        details = pipe.detail(texts, **words) if options.get("detail") else [None] * len(texts)
        return [with_detail(one, detail) for one, detail in zip(scores, details, strict=True)]

    for members in _alike(jobs):
        yield from apart(members, work)


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
    "generate": Verb("generate", drawing("generate") | {"n": COUNT}, _written, reads=False),
    "fill": Verb("fill", drawing("fill") | {"n": COUNT}, _written),
    "refine": Verb("refine", drawing("refine") | REVISION, _revised),
    "augment": Verb("augment", drawing("augment") | AUGMENTATION, _augmented, own=(*PER_TEXT, "keep", "keep_pattern")),
    "score": Verb("score", dict.fromkeys(PER_TEXT, WORD) | SCORING, _scored, draws=False),
}


def _check_text(verb: Verb, job: Job) -> None:
    if verb.reads and job.get("text") is None:
        raise AskedError(f"job has no text, which {verb.name} needs; give it one")
    if not verb.reads and job.get("text") is not None:
        raise AskedError(f"job has a text, which {verb.name} does not read; call it template, or use fill")
