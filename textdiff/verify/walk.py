"""The walk over the tables of processes and samplers, and what users of their own may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.core.resolve import unknown
from textdiff.processes import PROCESSES, TOKENS
from textdiff.samplers import SAMPLERS
from textdiff.verify import form, tokens, values, vectors
from textdiff.verify.rows import Row

# What x0 and x_t are -> the rows of a process.
KINDS: dict[str, tuple[Callable[..., Iterator[Callable[[], Row]]], ...]] = {
    "tokens": (tokens.work, form.work),
    "values": (values.work,),
    "vectors": (vectors.work,),
}


def verify(
    *,
    full: bool = False,
    process: str | None = None,
    sampler: str | None = None,
    claim: str | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda work: work,
) -> Iterator[Row]:
    """A row for every process × sampler of the tables, or for a user's own by "module:attribute", against an exact predictor.

    A process of the user's has texts of tokens and is called with its vocabulary (V,).  A sampler of the user's is called
    without arguments, and runs on the processes of tokens unless `process` names another.  `claim` "exact" holds every row to
    the exact law; without it the table says what a sampler claims.  `full` adds spaces and numbers of steps.  `progress`
    is put around the list of rows to be made, as `tqdm` is.
    """
    if claim not in (None, "exact", "approximate"):
        raise AskedError(f"claim is {claim!r}; pass 'exact' or 'approximate'")
    for kind, name, table in (("process", process, PROCESSES), ("sampler", sampler, SAMPLERS)):
        if name is not None and name not in table and ":" not in name:
            raise unknown(kind, name, [*table, "your own as module:attribute"])
    own = sampler is not None and sampler not in SAMPLERS
    processes = [process] if process else TOKENS if own else PROCESSES
    samplers = [sampler] if sampler else [*SAMPLERS]
    work = [
        row
        for name in processes
        for rows in KINDS[PROCESSES[name].data if name in PROCESSES else "tokens"]
        for row in rows(name, samplers, full, claim, sampler is not None)
    ]
    if not work:
        raise AskedError(f"sampler {sampler!r} does not serve process {process!r}; 'textdiff samplers' lists what does")
    for row in progress(work):
        yield row()
