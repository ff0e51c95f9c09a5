"""The one reader of texts: every kind of source gives the same records, and says where a wrong one stands."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import QUATRAIN

from textdiff.core.errors import AskedError
from textdiff.data import corpus
from textdiff.data.decoding import lines_of
from textdiff.data.records import pieces, read, read_records, records
from textdiff.training.texts.poems import poems
from textdiff.verse.forms import tunes

ROWS: list[dict[str, Any]] = [
    {"text": QUATRAIN, "form": "wuyan-jueju", "title": "静夜思", "id": 7},
    {"text": "白日依山尽", "form": None, "title": None, "id": 8},
]


def as_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def stored(folder: Path, kind: str, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    """Rows in a file or folder of some kind, under a name that says nothing."""
    path = folder / "texts.txt"
    if kind == "json lines":
        path.write_text(as_lines(ROWS), encoding="utf-8")
    elif kind == "gzip":
        path.write_bytes(gzip.compress(as_lines(ROWS).encode()))
    elif kind == "gzip of utf-16":
        path.write_bytes(gzip.compress(as_lines(ROWS).encode("utf-16")))
    elif kind == "utf-32":
        path.write_bytes(as_lines(ROWS).encode("utf-32"))
    elif kind == "byte order mark and carriage returns":
        path.write_bytes(as_lines(ROWS).replace("\n", "\r\n").encode("utf-8-sig"))
    elif kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(ROWS[0]))
            table.writeheader()
            table.writerows(ROWS)
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        import datasets

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            datasets.Dataset.from_list(list(rows)).save_to_disk(path)
    return path


KINDS = ["json lines", "gzip", "gzip of utf-16", "utf-32", "byte order mark and carriage returns"]
TABLES = {"csv": ("line 2", "line 4"), "parquet": ("row 1", "row 2"), "datasets": ("row 1", "row 2")}


@pytest.mark.parametrize("kind", [*KINDS, *TABLES])
def test_every_kind_of_source_gives_the_same_records_with_all_their_keys(tmp_path, kind):
    path = stored(tmp_path, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read_records(path)
        places = [record.place for record in read(path)]
        texts = [text.text for text in poems(path, limit=1)]
    if kind == "csv":  # a table of text has no numbers
        found = [row | {"id": int(row["id"])} for row in found]
    assert found == ROWS
    assert places == [f"{str(path)!r} {place}" for place in TABLES.get(kind, ("line 1", "line 2"))]
    assert texts == ["".join(c for c in QUATRAIN if c not in "，。\n")]


@pytest.mark.parametrize("kind", ["parquet", "datasets"])
def test_a_table_says_nothing_where_its_number_is_none(tmp_path, kind):
    nan, inf = float("nan"), float("inf")
    rows = [{"text": "a", "seed": 3.0, "of": {"x": [nan, 0.5]}}, {"text": "b", "seed": nan, "of": {"x": [-inf, 1.0]}}]
    found = list(read(stored(tmp_path, kind, rows)))
    assert [record.error for record in found] == [None, None]
    assert [record.fields["of"] for record in found] == [{"x": [None, 0.5]}, {"x": [None, 1.0]}]
    assert [record.fields["seed"] for record in found] == [3, None] and isinstance(found[0].fields["seed"], int)


@pytest.mark.parametrize("kind", [*KINDS, *TABLES])
def test_training_cuts_the_texts_of_every_kind(tmp_path, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "".join(pieces(stored(tmp_path, kind))) == f"{QUATRAIN}\n白日依山尽"


@pytest.mark.parametrize("kind", KINDS)
def test_stdin_is_read_like_a_file(tmp_path, kind):
    stream = io.BufferedReader(io.BytesIO(stored(tmp_path, kind).read_bytes()))
    text = io.TextIOWrapper(stream, encoding="utf-8")
    assert read_records(text) == ROWS and not text.closed and not stream.closed


def test_lines_and_paragraphs_are_texts_for_every_verb_and_for_training(tmp_path):
    oneline = QUATRAIN.replace("\n", "")
    plain = ["床前□□光", "", *QUATRAIN.split("\n"), "", oneline, "白日"]
    wanted = ["床前□□光", QUATRAIN, oneline, "白日"]
    path = tmp_path / "texts.jsonl"
    path.write_text("\r\n".join(plain), encoding="utf-8", newline="")
    found = list(read(path))
    assert [record.text for record in found] == wanted
    assert [record.place for record in found] == [f"{str(path)!r} line {number}" for number in (1, 3, 6, 7)]
    assert [row["text"] for row in read_records([line + "\n" for line in plain])] == wanted
    path.write_text(f"{QUATRAIN}\n\n{QUATRAIN}\n", encoding="utf-8")
    assert len(list(poems(path))) == len(list(corpus.read(path))) == 2


def test_poems_of_a_line_each_are_no_longer_poem():
    """Two quatrains have the lines of an octave."""
    oneline = QUATRAIN.replace("\n", "")
    assert [record.text for record in read([oneline + "\n", oneline + "\n"])] == [oneline, oneline]


def test_a_record_keeps_its_keys_where_its_text_stands_under_another_one():
    (record,) = read(['{"verse": "春", "title": "", "id": 7}\n'], column="verse")
    assert record.fields == {"verse": "春", "text": "春", "title": "", "id": 7}
    assert record.get("title") is None and record.get("id") == 7


def test_the_lines_of_a_tune_are_one_text_as_they_are_printed(tmp_path):
    poem = tunes()["卜算子"].layout(
        "驿外断桥边寂寞开无主已是黄昏独自愁更著风和雨无意苦争春一任群芳妒零落成泥碾作尘只有香如故"
    )
    (tmp_path / "a.txt").write_text(f"{poem}\n\n{poem}\n", encoding="utf-8")
    found = [record.text for record in records(tmp_path / "a.txt")]
    assert [tunes()["卜算子"].layout(text) for text in found] == [poem] * 2


def test_a_long_paragraph_has_a_text_a_line_and_stays_out_of_memory(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("白日依山尽\n" * 20_000, encoding="utf-8")
    tracemalloc.start()
    count = sum(record.text == "白日依山尽" for record in records(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < 1_000_000


def test_a_line_may_be_as_long_as_the_longest_record_with_its_end():
    sound, long = lines_of(["abcd\n", "abcde\n"], longest=5)
    assert (sound.text, sound.error) == ("abcd", None)
    assert long.error is not None and "has 6 characters, at most 5" in long.error


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\xff\xfe\n", "cannot be read ('utf-16-le' codec"),
        (b"\x1f\x8b\x08broken", "cannot be read"),
        (gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], "cannot be read (Compressed file ended"),
        (b"PK\x03\x04...", "is packed as a zip archive; unpack it first"),
        (b"PAR1...", "cannot be read"),
        (b'[{"text": "a"}]', "is one array of JSON; write one object a line"),
        (b'{"text": "a"}\n\n{"txt": "b"}', "line 3 is no JSON object with a 'text'"),
        (b'{"text": "a"}\n{"text', "line 2 is not JSON (Unterminated string starting at, character 2)"),
        (b'{"text": "a"}\n' + b'{"a":' * 3000, "line 2 is nested too deeply"),
        (b'{"text": "a", "b": ' + b"[" * 99 + b"]" * 99 + b"}", "line 1 is nested too deeply"),
        (b'{"text": "a", "b": NaN}', "line 1 is not JSON (NaN is no number of JSON)"),
        (b'{"text": "a", "b": [-1e999]}', "line 1 is not JSON ('-1e999' is larger than any number that can be held)"),
        (b'{"text": "a", "b": 1' + b"0" * 5000 + b"}", "line 1 is not JSON (a whole number has too many digits)"),
        (b'{"text": 5}', "line 1 has as text 5, which is not text"),
        (b'{"text": "a", "form": 5}', "line 1 has form 5; expected text"),
        (b'{"text": "a", "seed": 1.5}', "line 1 has seed 1.5; expected a whole number"),
        (b'{"text": "a", "seed": 9223372036854775808}', "line 1 has seed 9223372036854775808; expected a whole number"),
        (b'{"text": "a\\ud800"}', "line 1 has one half of a pair of surrogates"),
        (b'{"text": "a", "tags": ["\\udfff"]}', "line 1 has one half of a pair of surrogates"),
        (b'{"text": "a\\u0000"}', "line 1 has a NUL character"),
        (b"a\n\x00b", "line 2 has a NUL character"),
        ("春".encode() + b"\n\xe6\x98", "line 2 has a byte 0xe6 that is not UTF-8 (character 1)"),
        (b"a" * 2_000_000, "line 1 has 2000000 characters, at most 1048576 can be one record"),
        (b"id,text\n1,a\n2,b,c\n", "line 3 has 3 fields, but the table has 2 columns; mend or remove it"),
    ],
)
def test_a_broken_source_is_named_with_its_line(tmp_path, content, says):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(AskedError) as caught:
        read_records(path)
    assert f"file' {says}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_source_that_is_none_is_named(tmp_path, monkeypatch):
    with pytest.raises(AskedError, match=r"absent' cannot be read \(No such file or directory\)"):
        read_records(tmp_path / "absent")
    with pytest.raises(AskedError, match="a folder that `datasets` did not save"):
        read_records(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(AskedError, match="stdin is empty"):
        read_records(sys.stdin)
    (tmp_path / "a.csv").write_text("id,words\n1,a\n")
    with pytest.raises(AskedError, match="has the columns id, words, and no 'text'"):
        read_records(tmp_path / "a.csv")


def test_what_follows_a_wrong_record_is_read(tmp_path):
    path = tmp_path / "texts"
    path.write_bytes(b'{"text": "a"}\n{"text": 5, "id": 3}\nnonsense\n{"text": "\xff"}\n{"text": "b"}\n')
    found = list(read(path))
    assert [record.error is None for record in found] == [True, False, False, False, True]
    assert found[1].fields == {"text": 5, "id": 3} and found[2].fields == {"text": "nonsense"}
    assert json.dumps([record.fields for record in found], ensure_ascii=False).encode()
    path.write_bytes("床前□□光\n".encode() + b"\xff\n" + b"x" * 2_000_000 + "\n白日".encode())
    assert [record.error is None for record in read(path)] == [True, False, False, True]


def test_the_caller_hears_what_a_person_may_want_to_know(tmp_path):
    path, heard = tmp_path / "texts", list[str]()
    path.write_bytes("春眠不觉晓".encode("utf-16"))
    assert read_records(path, heard.append) == [{"text": "春眠不觉晓"}]
    assert heard == [f"{str(path)!r} is in UTF-16 and was read so"]


def test_running_text_stands_as_it_is(tmp_path):
    path = tmp_path / "text.jsonl"
    text = "\n one\n\ntwo, text\n" + "x" * 3_000_000
    path.write_text(text, encoding="utf-8-sig")
    assert "".join(pieces(path)) == text
    assert "".join(pieces(path, limit=3)) == "\n one\n\n"
    path.write_text("\n\n")
    with pytest.raises(AskedError, match="is empty"):
        list(pieces(path))
    for limit in (None, 200_000):
        path.write_bytes(b"some words\r\n" * 100_000 + b"two\nth\x00ree\n")
        with pytest.raises(AskedError, match="line 100002 has a NUL"):
            list(pieces(path, limit))


def test_pyarrow_and_datasets_are_imported_for_their_tables_alone():
    code = (
        "import sys; from textdiff.data.records import read_records; read_records(['春'])\n"
        "assert not {'pyarrow', 'datasets', 'torch'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60).returncode == 0


def test_a_stream_that_its_owner_has_closed_is_let_go_in_silence():
    stream = io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"a\nb\n" * 9)))
    texts = read(stream)
    assert next(texts).text == "a"
    stream.close()
    texts.close()
    assert stream.closed
