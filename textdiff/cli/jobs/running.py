"""--input: the jobs of a file through one verb, their results as they are done, and a second start that goes on.

Here the keys of a job are options of the verb; with --file they are the record's own, but for a few.  A result is written when it
is there, in whatever order; with --file results keep the order of the texts, and the file appears when it is whole.  Readers,
errors and lines of JSON are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from textdiff import __version__
from textdiff.cli.bulk import fault_of, through
from textdiff.cli.common import Parser, check_apart, fit_threads, load_library, log, open_pipeline
from textdiff.cli.jobs.journal import begun, journal
from textdiff.cli.jobs.reading import read_jobs, surveyed
from textdiff.core.errors import AskedError, ModelError, TextdiffError
from textdiff.pipeline.jobs.lines import joined

if TYPE_CHECKING:
    from textdiff.data.records import Record

OTHERS = ("text", "file", "on_error", "rejects", "watch", "trace", "svg", "png")  # flags that are not for jobs


def job_flags(p: Parser) -> None:
    jobs = p.add_argument_group(
        "jobs",
        "Each line of --input is an object of JSON: an id (the number of the line), and of text, form, title, dynasty, seed and the\n"
        "options above whatever the job needs; the flags say the rest.  The results are lines of --out with the ids, in no certain\n"
        "order.  After any end the same command goes on where it stopped.",
    )
    jobs.add_argument("--input", metavar="FILE", help="do the jobs of this file, JSON Lines; with --out FILE")
    jobs.add_argument(
        "--shard", type=shard, metavar="K/N", help="every N-th job alone, from the K-th on, K from 1 to N"
    )


def shard(text: str) -> tuple[int, int]:
    k, _, n = text.partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with K from 1 to N, such as 3/8")
    return int(k), int(n)


def check_jobs(a: argparse.Namespace) -> None:
    """AskedError for flags that do not go together."""
    if a.input is None:
        if a.shard is not None:
            raise AskedError("--shard takes some of the jobs of --input; pass both")
        return
    for name in OTHERS:
        if getattr(a, name, None):
            word = "TEXT" if name == "text" else f"--{name.replace('_', '-')}"
            raise AskedError(f"{word} is for texts, and --input has jobs; leave one of them out")
    if a.out in (None, "-"):
        raise AskedError("the results of --input go to a file, with which a second start can go on; pass --out FILE")
    check_apart(a.input, out=a.out)


def do_jobs(a: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    """Do the jobs of --input that are not done yet; `settings` are what the flags say.  The exit code."""
    from textdiff.networks.files import digest
    from textdiff.pipeline.jobs.verbs import VERBS

    survey = surveyed(a.input)
    computing = _as_begun(a)
    pipe, verb = open_pipeline(a), VERBS[a.verb]
    settings = {name: value for name, value in settings.items() if value is not None}
    verb.plan(pipe, settings)
    first, step = a.shard or (1, 1)
    about = {"textdiff": __version__, "verb": a.verb, "input": survey.sha256, "model": digest(a.model)}
    about |= {"name": pipe.model.name, "device": str(pipe.model.device), "precision": a.precision}
    about |= {"shard": f"{first}/{step}", "seed": a.seed or 0} | computing | settings

    def show(record: Record, result: Any, out: TextIO) -> None:
        print(joined(result, record.fields), file=out)

    with journal(a.out, about, survey) as results:
        left = (
            record
            for record in read_jobs(a.input)
            if record.number % step == first - 1 and not results.done[record.number]
        )
        total = len(range(first - 1, survey.size, step))
        if results.total:
            log(f"textdiff: {results.total} of {total} jobs are done in {a.out!r}; going on")
        lines = argparse.Namespace(quiet=a.quiet, format="jsonl", rejects=None)
        return through(
            lines,
            _done(a, pipe, verb, left, settings, results.total > results.failed),
            show,
            "job",
            total - results.total,
            to=contextlib.nullcontext(results.out),
            before=(results.total, results.failed),
        )


def _as_begun(a: argparse.Namespace) -> dict[str, Any]:
    """How this process computes: as the one that began the results did, since other ways round differently."""
    before = begun(a.out)
    threads, choices = before.get("threads"), before.get("computing")
    if a.threads is None and isinstance(threads, int) and threads > 0:
        fit_threads(threads)
    load_library()
    import torch

    from textdiff.pipeline.jobs.computing import make, ways

    if isinstance(choices, dict):
        make({name: bool(value) for name, value in choices.items()})
    return {"threads": torch.get_num_threads(), "computing": ways()}


def _done(
    a: argparse.Namespace, pipe: Any, verb: Any, jobs: Iterator[Record], settings: Mapping[str, Any], worked: bool
) -> Iterator[tuple[Record, Any]]:
    """Each job with its result or its error, a window of jobs after the other.

    A fault of ours is an error of the job that meets it.  Where all jobs of a window meet one, and none before them `worked`, it is
    no fault of a job, and it is raised.
    """
    from textdiff.pipeline.jobs.faults import sheltered
    from textdiff.pipeline.jobs.verbs import WINDOW, results

    def work(some: Sequence[Record]) -> Iterator[tuple[int, Any]]:
        return results(pipe, verb, [record.fields for record in some], settings, a.seed or 0)

    while window := list(itertools.islice(jobs, WINDOW)):
        yield from ((record, fault_of(record)) for record in window if record.error is not None)
        sound = [record for record in window if record.error is None]
        failed: list[tuple[Record, Exception]] = []
        for record, result in sheltered(sound, work):
            if isinstance(result, Exception) and not isinstance(result, AskedError):
                failed.append((record, result))
            else:
                yield record, fault_of(record, result) if isinstance(result, AskedError) else result
        if not worked and len(failed) == len(sound) > 1:
            raise failed[0][1]
        worked = len(failed) < len(sound)
        for record, error in failed:
            yield record, _failure(record, error, a.debug)


def _failure(record: Record, error: Exception, debug: bool) -> TextdiffError:
    """What is said of a job that met a fault of the model or of textdiff, on stderr and in its result."""
    what = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
    if debug:
        traceback.print_exception(error)
    log(f"textdiff: {record.place}: {what}" + ("" if debug else " (--debug shows where)"))
    return TextdiffError(f"{record.place}: {what}")
