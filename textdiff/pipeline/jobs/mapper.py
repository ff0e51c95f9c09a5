"""A verb over the rows of a data set, for engines that divide the rows among processes.

    mapper = textdiff.Mapper("fill", steps=8)
    filled = data.map(mapper, batched=True, num_proc=4)                                           # Hugging Face datasets
    filled = data.map_batches(textdiff.Mapper, fn_constructor_args=["fill"], fn_constructor_kwargs={"steps": 8}, concurrency=4)

A row is a job: it has an id, and columns with the names of options are options.  Its result depends on the id and on what the row
says, so that it is the same in any batch, in any process, and when a row is done again.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import numpy as np

from textdiff.core.errors import AskedError
from textdiff.core.resolve import unknown
from textdiff.networks.files import for_new_texts
from textdiff.pipeline.jobs import computing
from textdiff.pipeline.jobs.options import said
from textdiff.pipeline.jobs.verbs import VERBS, WINDOW, results
from textdiff.pipeline.options import whole
from textdiff.pipeline.text import TextPipeline

COLUMNS = {  # that a verb adds to a row, where the caller names no others
    "generate": ("text", "seed"),
    "fill": ("filled", "seed"),
    "refine": ("after", "score_before", "score_after", "seed"),
    "augment": ("variants", "changed", "edits", "nats_per_char", "seed"),
    "score": ("nats_per_char", "bits_per_char", "characters"),
    "choose": ("labels", "probability", "margin"),
    "restore": ("restored", "probability"),
}
# Columns that take their values from another field of the result
RENAMED = {"fill": {"filled": "text"}, "augment": {"variants": "text"}, "restore": {"restored": "text"}}


class Mapper:
    """Called with a batch of rows, a list or an array for each column: the batch with the columns of the results, lists all.

    verb: generate, fill, refine, augment, score, choose or restore.  model: a folder, a hub id, or the packaged one that the command
    takes (None).  id: the column of the ids, texts or whole numbers.  columns: what is added, of the fields of the results; the
    filled text is `filled`, and the variants are `variants`.
    on_error: "stop" raises the AskedError of a wrong row, "skip" puts it into a column `error`.  options: as the calls of
    `TextPipeline` take them, for all rows that do not say otherwise.

    It pickles by its arguments; the model is opened by the first batch of a process.
    """

    def __init__(
        self,
        verb: str,
        model: str | None = None,
        *,
        id: str = "id",
        seed: int = 0,
        columns: Sequence[str] | None = None,
        on_error: str = "stop",
        device: str = "cpu",
        precision: str = "auto",
        **options: Any,
    ):
        if verb not in VERBS:
            raise unknown("verb", verb, VERBS)
        for name in options:
            if name not in VERBS[verb].kinds:
                raise unknown("option", name, VERBS[verb].kinds)
        if on_error not in ("stop", "skip"):
            raise AskedError(f"on_error is {on_error!r}; it must be stop or skip")
        options = {name: _plain(value) for name, value in options.items()}
        said(VERBS[verb].kinds, options)
        self.verb, self.id, self.seed = verb, id, whole("seed", seed)
        self.model = model if VERBS[verb].reads else for_new_texts(model, options)
        self.columns = COLUMNS[verb] if columns is None else (columns,) if isinstance(columns, str) else tuple(columns)
        self.on_error, self.device, self.precision, self.options = on_error, device, precision, options
        self.computing = computing.ways()  # so that all processes round alike

    def __call__(self, batch: Mapping[str, Any], indices: Sequence[int] | None = None) -> dict[str, list[Any]]:
        """`indices` are ids for rows that have none (`with_indices=True` of `datasets`)."""
        columns = {name: _listed(name, values) for name, values in batch.items()}
        size = len(next(iter(columns.values()), []))
        for name, values in columns.items():
            if len(values) != size:
                raise AskedError(
                    f"column {name!r} has {len(values)} rows, and column {next(iter(columns))!r} has {size}"
                )
        if self.id not in columns and indices is None:
            raise AskedError(f"rows have no column {self.id!r}; name that of their ids, or map with_indices=True")
        ids = columns[self.id] if self.id in columns else list(indices or ())
        if len(ids) != size:
            raise AskedError(f"there are {len(ids)} ids for {size} rows; pass one for each")
        for one in ids:
            if not isinstance(one, (str, int)) or isinstance(one, bool):
                raise AskedError(f"id is {one!r}; it must be text or a whole number, for each row its own")
        rows = [
            {name: self._said(name, values[k]) for name, values in columns.items()} | {"id": ids[k]}
            for k in range(size)
        ]
        found = self._found(rows)
        new: dict[str, list[Any]] = {name: [self._value(one, name) for one in found] for name in self.columns}
        if self.on_error == "skip":
            new["error"] = [str(one) if isinstance(one, AskedError) else "" for one in found]
        return columns | new

    def _said(self, name: str, value: Any) -> Any:
        """What a row says in a column; None where an array of numbers has none, for which it makes whole numbers floats."""
        if isinstance(value, float) and value != value:
            return None
        counts = name == "seed" or (name in (kinds := VERBS[self.verb].kinds) and not kinds[name].fits(value))
        return int(value) if counts and isinstance(value, float) and value.is_integer() else value

    def _found(self, rows: Sequence[dict[str, Any]]) -> list[Any]:
        computing.make(self.computing)
        pipe, found = _opened(self.model, self.device, self.precision), dict[int, Any]()
        for first in range(0, len(rows), WINDOW):
            for k, result in results(pipe, VERBS[self.verb], rows[first : first + WINDOW], self.options, self.seed):
                if isinstance(result, AskedError) and self.on_error == "stop":
                    raise AskedError(f"row {rows[first + k]['id']!r}: {result}")
                found[first + k] = result
        return [found[k] for k in range(len(rows))]

    def _value(self, result: Any, column: str) -> Any:
        """The value of a column, a list of those of a row that has several results; None for a row that is wrong."""
        if isinstance(result, AskedError):
            return None
        if isinstance(result, Mapping) and "results" in result:
            return [self._value(one, column) for one in result["results"]]
        name = RENAMED.get(self.verb, {}).get(column, column)
        fields = vars(result) if is_dataclass(result) else result
        if name not in fields:
            raise unknown("column", column, fields)
        return fields[name]


@functools.lru_cache(maxsize=2)
def _opened(model: str | None, device: str, precision: str) -> TextPipeline:
    return TextPipeline.from_pretrained(model, device=device, precision=precision)


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise AskedError(f"column {name!r} is {reprlib.repr(values)}, and not a list of rows; map with batched=True")
    return [_plain(value) for value in (values.tolist() if isinstance(values, np.ndarray) else values)]


def _plain(value: Any) -> Any:
    """The number or the list of Python for what numpy has."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
