"""What training reads: the same texts are the same rows, whatever file they stand in."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from runs import POEMS, assert_one_line, recipe_file

from textdiff.core.errors import AskedError
from textdiff.training.recipe import load
from textdiff.training.texts.reading import read

TEXTS = [json.loads(line)["text"] for line in POEMS.read_text(encoding="utf-8").splitlines()[:12]]


def encoded(encoding: str, join: Callable[[list[str]], str]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "texts").write_bytes(join(TEXTS).encode(encoding))
        return folder / "texts"

    return write


def json_lines(texts: list[str], key: str = "text") -> str:
    return "".join(json.dumps({"id": k, key: text}, ensure_ascii=False) + "\n" for k, text in enumerate(texts))


def lines(texts: list[str]) -> str:
    return "".join(text.replace("\n", "") + "\n" for text in texts)


def paragraphs(texts: list[str]) -> str:
    return "\n\n".join(texts) + "\n"


def packed(folder: Path) -> Path:
    (folder / "texts").write_bytes(gzip.compress(json_lines(TEXTS).encode()))
    return folder / "texts"


def table(folder: Path, column: str = "text") -> Path:
    with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([("id", column), *enumerate(TEXTS)])
    return folder / "texts.csv"


def parquet(folder: Path, column: str = "text") -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"id": range(len(TEXTS)), column: TEXTS}), folder / "texts.parquet")
    return folder / "texts.parquet"


def saved(folder: Path, column: str = "text") -> Path:
    datasets.Dataset.from_dict({"id": list(range(len(TEXTS))), column: TEXTS}).save_to_disk(folder / "set")
    return folder / "set"


def splits(folder: Path) -> Path:
    part = datasets.Dataset.from_dict({"text": TEXTS})
    datasets.DatasetDict({"test": part.select(range(2)), "train": part}).save_to_disk(folder / "sets")
    return folder / "sets"


SOURCES: dict[str, Callable[[Path], Path]] = {
    "a text a line": encoded("utf-8", lines),
    "poems over several lines": encoded("utf-8", paragraphs),
    "with a byte order mark": encoded("utf-8-sig", paragraphs),
    "with the line ends of Windows": encoded("utf-8", lambda texts: paragraphs(texts).replace("\n", "\r\n")),
    "UTF-16": encoded("utf-16", paragraphs),
    "JSON Lines": encoded("utf-8", json_lines),
    "JSON Lines in UTF-16": encoded("utf-16", json_lines),
    "packed JSON Lines": packed,
    "csv": table,
    "Parquet": parquet,
    "a folder of datasets": saved,
    "a folder of data sets": splits,
}


def rows_of(source: Path, folder: Path, *overrides: str, **data: object) -> list[list[list[int]]]:
    path = recipe_file(folder / "recipe", data={"train": str(source), "limit": None} | data)
    _, train, held, _ = read(load(path, list(overrides)))
    return [group.ids[:].tolist() for group in (*train, *held)]


@pytest.mark.parametrize("kind", SOURCES)
def test_the_same_poems_are_the_same_rows_in_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    expected = rows_of(encoded("utf-8", json_lines)(tmp_path), tmp_path)
    assert sum(map(len, expected)) >= len(TEXTS)
    assert rows_of(SOURCES[kind](tmp_path), tmp_path) == expected


@pytest.mark.parametrize("kind", ["packed JSON Lines", "csv", "Parquet", "a folder of datasets"])
def test_the_same_texts_are_the_same_windows_in_every_table(kind: str, tmp_path: Path) -> None:
    expected = rows_of(encoded("utf-8", json_lines)(tmp_path), tmp_path, kind="windows", length=8)
    assert rows_of(SOURCES[kind](tmp_path), tmp_path, kind="windows", length=8) == expected


@pytest.mark.parametrize("write", [table, parquet, saved], ids=lambda write: write.__name__)
def test_texts_may_stand_in_another_column(write: Callable[[Path, str], Path], tmp_path: Path) -> None:
    expected = rows_of(encoded("utf-8", json_lines)(tmp_path), tmp_path)
    source = write(tmp_path, "verse")
    assert rows_of(source, tmp_path, "data.column=verse") == expected
    with pytest.raises(AskedError, match="verse") as caught:
        rows_of(source, tmp_path)
    assert_one_line(caught.value)


def test_the_key_of_json_lines_may_be_another_one(tmp_path: Path) -> None:
    source = tmp_path / "verses.jsonl"
    source.write_text(json_lines(TEXTS, "verse"), encoding="utf-8")
    assert rows_of(source, tmp_path, "data.column=verse")
    with pytest.raises(AskedError, match="line 1 is no JSON object with a 'text'"):
        rows_of(source, tmp_path)


def test_what_is_told_of_an_encoding_is_one_line_of_the_log(tmp_path: Path) -> None:
    said: list[str] = []
    path = recipe_file(tmp_path, data={"train": str(SOURCES["UTF-16"](tmp_path)), "limit": None})
    read(load(path), said.append)
    assert len([line for line in said if "UTF-16" in line]) == 1
