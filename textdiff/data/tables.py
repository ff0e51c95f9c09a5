"""Texts in tables: csv, Parquet, a folder of `datasets`, a data set of the hub.

A table has a column `text`; its other columns stay in the records.  We import pyarrow and datasets only to read such a table.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.data.decoding import Line, reason_of

ROWS = 1024  # rows of a Parquet file in memory at a time
PARQUET = b"PAR1"  # the first bytes of such a file
SUFFIXES = (".csv", ".tsv")
_DELIMITERS = ",\t;"
_HUB = re.compile(r"[\w.-]+/[\w.-]+(:\w+)?")
_FILES = re.compile(r"\.(jsonl?|txt|csv|tsv|gz|parquet|ya?ml|md)$", re.IGNORECASE)


def delimiter_of(head: str, suffix: str, column: str) -> str | None:
    """The delimiter of a table whose first line is `head`; None if this is no table with the column of texts."""
    for delimiter in _DELIMITERS:
        names = [name.strip() for name in head.split(delimiter)]
        names = [name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name for name in names]
        if column in names and (len(names) > 1 or suffix in SUFFIXES) and len(set(names)) == len(names):
            return delimiter
    return None


def csv_rows(lines: Iterable[Line], delimiter: str, column: str) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """(line number, row, its fault or None) of each row of a table whose first row has the names of the columns."""
    last, errors = 0, list[str]()

    def texts() -> Iterator[str]:
        nonlocal last
        for line in lines:
            last = line.number
            errors.extend([line.error] if line.error else [])
            yield line.text + "\n"

    rows = csv.reader(texts(), delimiter=delimiter)
    names: list[str] = []
    while True:
        first = last + 1
        errors.clear()
        try:
            values = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield first, {}, f"is no row of a table ({error}); mend or remove it"
            continue
        if not values:
            continue
        if not names:
            names = [name.strip() for name in values]
            continue
        row: dict[str, Any] = {name: value if value != "" else None for name, value in zip(names, values, strict=False)}
        if row.get(column) is None and column in row:
            row[column] = ""
        if isinstance(row.get("seed"), str) and re.fullmatch(r"\s*-?\d{1,20}\s*", row["seed"]):
            row["seed"] = int(row["seed"])
        wrong = None
        if len(values) != len(names):
            fields = f"{len(values)} field{'s' * (len(values) != 1)}"
            wrong = f"has {fields}, but the table has {len(names)} columns; mend or remove it"
        yield first, row, errors[0] if errors else wrong


def is_folder(path: Path) -> bool:
    """Whether `datasets` saved a data set into this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def is_hub_name(source: str) -> bool:
    """Whether `source`, which is no file, can be a data set of the hub: owner/name, or owner/name:split."""
    return bool(_HUB.fullmatch(source)) and not _FILES.search(source) and not Path(source).parent.exists()


def parquet_rows(path: Path, name: str, column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file with their numbers from 1 on."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            with_text(file.schema_arrow.names, name, column)
            number = 0
            for batch in file.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _plain(row)
    except pyarrow.ArrowException as error:
        raise AskedError(f"{name} cannot be read ({reason_of(error)}); it may have been cut, make it again") from error


def dataset_rows(source: str, name: str, column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a data set; owner/name:split names a split, without which it is `train` or the only one."""
    import datasets

    hub, _, split = source.partition(":")
    try:
        if Path(source).exists():
            data, split = datasets.load_from_disk(source), ""
        else:
            data = datasets.load_dataset(hub, split=split or None, streaming=True)
    except Exception as error:  # there are many kinds: no network, no such data set, damaged files
        raise AskedError(
            f"there is no file {source!r}, and as a data set it cannot be read ({reason_of(error)}); check the name and the "
            "connection"
        ) from error
    if isinstance(data, Mapping):
        splits = list(data)
        if "train" not in data and len(splits) != 1:
            raise AskedError(f"{name} has the splits {', '.join(splits)}, and no 'train'; name a data set of one split")
        data = data["train" if "train" in data else splits[0]]
    with_text(data.column_names, name, column)
    yield from enumerate(map(_plain, data), start=1)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row as JSON can hold it, without NaN and infinity; a seed that empty ones beside it made a float is a whole number."""
    seed = row.get("seed")
    whole = {"seed": int(seed)} if isinstance(seed, float) and seed.is_integer() else {}
    return {name: _finite(value) for name, value in row.items()} | whole


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return {key: _finite(one) for key, one in value.items()} if isinstance(value, dict) else value


def with_text(columns: list[str] | None, name: str, column: str) -> None:
    """Raise an AskedError if the table lacks the column of texts."""
    if columns is not None and column not in columns:
        raise AskedError(
            f"{name} has the columns {', '.join(columns)}, and no {column!r}; rename the column of the texts so"
            + (" (or write data.column in a recipe)" if column == "text" else "")
        )
