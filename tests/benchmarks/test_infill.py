"""benchmarks/infill.py: spans that are taken out of running text, by a tiny writer of windows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import network

from benchmarks.infill import from_both_sides, from_the_left, main, spans, windows
from textdiff import Pipeline
from textdiff.core.contracts import Query
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import TEXT_SPECIALS, character_tokenizer

LENGTH = 12


@pytest.fixture(scope="module")
def writer() -> Pipeline:
    tokenizer = character_tokenizer("abcdefgh .\n", (*TEXT_SPECIALS, *(f"[next-{k}]" for k in range(LENGTH))))
    model = TextModel.from_parts(network(len(tokenizer)), tokenizer, processes=("ascending",), name="tiny-writer")
    return Pipeline(model)


TEXTS = windows("a bad cab.\nhe had a bag, a fed dad. ".replace(",", ".") * 4, LENGTH)


def test_windows_stand_side_by_side_and_spans_lie_inside_of_them() -> None:
    assert "".join(TEXTS) == ("a bad cab.\nhe had a bag. a fed dad. " * 4)[: LENGTH * len(TEXTS)]
    for lost in (1, 5, 10):
        begins = spans(2000, LENGTH, lost, seed=3)
        assert set(begins) == set(range(1, LENGTH - lost + 1))


def test_a_writer_that_sees_the_left_alone_does_not_notice_what_follows(writer: Pipeline) -> None:
    begins = spans(len(TEXTS), LENGTH, 3, seed=0)
    found = from_the_left(writer, TEXTS, begins, 3)
    other = [text[: k + 3] + "h" * (LENGTH - k - 3) for text, k in zip(TEXTS, begins, strict=True)]
    assert from_the_left(writer, other, begins, 3) == found
    assert from_both_sides(writer, other, begins, 3) != from_both_sides(writer, TEXTS, begins, 3)


def test_it_puts_the_likeliest_character_after_what_stands(writer: Pipeline) -> None:
    model, vocabulary = writer.model, writer.model.tokenizer.get_vocab()
    for text, k in zip(TEXTS[:3], (1, 6, 11), strict=True):
        x = torch.tensor([[vocabulary[c] for c in text[:k] + end + "a" * (LENGTH - k - 1)] for end in "abcdefgh .\n"])
        query = Query(x, torch.ones(x.shape, dtype=torch.float64), condition=model.condition(len(x)))
        (log_q,) = model.predictor("ascending")(query).log_prob(x)
        assert from_the_left(writer, [text], [k], 1) == ["abcdefgh .\n"[int(log_q[:, : k + 1].sum(-1).argmax())]]


def test_the_command_counts_what_is_right(writer: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer.model.save_pretrained(tmp_path / "model")
    (tmp_path / "text").write_text("".join(TEXTS), encoding="utf-8")
    how = [str(tmp_path / "text"), "--model", str(tmp_path / "model"), "--length", str(LENGTH), "--lost", "2", "--json"]
    assert main(how) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["sees"] for row in rows] == ["both sides", "left side"]
    begins = spans(len(TEXTS), LENGTH, 2, 0)
    right = [text[k : k + 2] for text, k in zip(TEXTS, begins, strict=True)]
    for row, fill in zip(rows, (from_both_sides, from_the_left), strict=True):
        found = fill(writer, TEXTS, begins, 2)
        assert row["exact"] == sum(a == b for a, b in zip(found, right, strict=True)) / len(TEXTS) == row["exact"]
        assert row["characters"] == sum(a == b for a, b in zip("".join(found), "".join(right), strict=True)) / (
            2 * len(TEXTS)
        )
