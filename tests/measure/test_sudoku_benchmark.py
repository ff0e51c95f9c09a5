"""benchmarks/sudoku.py: grids, puzzles with one solution, and what is solved, by a predictor that knows every grid."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny
import torch

from benchmarks import sudoku
from benchmarks.sudoku import (
    DIGITS,
    HOLE,
    SHARE,
    Filled,
    edited,
    filled,
    make,
    puzzle,
    solutions,
    solve,
    turned,
    unique,
    units,
    written,
)
from textdiff import Pipeline
from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import character_tokenizer

SMALL = list(solutions([None] * 16, 2))  # every grid of 4 × 4


def holds(grid, box: int) -> bool:
    """Whether every row, column and box has every digit, by sets."""
    n = box * box
    wanted = {(kind, unit, digit) for kind in range(3) for unit in range(n) for digit in range(n)}
    return {
        (k, unit, digit) for digit, where in zip(grid, units(box), strict=True) for k, unit in enumerate(where)
    } == wanted


def test_there_are_288_grids_of_four_by_four_and_the_search_finds_each_once():
    assert len(SMALL) == len(set(map(tuple, SMALL))) == 288
    assert all(holds(grid, 2) for grid in SMALL)


def test_a_grid_has_the_solutions_that_agree_with_it():
    for k in range(20):
        uniform = Rng([k]).uniform(16)[0]
        cells = [digit if u < 0.4 else None for digit, u in zip(SMALL[k * 14], uniform, strict=True)]
        agree = [grid for grid in SMALL if all(c is None or c == d for c, d in zip(cells, grid, strict=True))]
        assert sorted(solutions(cells, 2)) == sorted(agree)
        assert unique(cells, 2) == (len(agree) == 1)
    assert list(solutions([0, 0, *[None] * 14], 2)) == [] and not unique([0, 0, *[None] * 14], 2)


@pytest.mark.parametrize("box", [2, 3])
def test_grids_hold_and_go_on_holding_under_the_symmetries(box):
    n, rng = box * box, Rng([5])
    grid = torch.tensor(filled(box, rng)).view(n, n)
    copies = [turned(grid, box, rng) for _ in range(12)]
    assert all(holds(copy.flatten().tolist(), box) for copy in [grid, *copies])
    assert len({tuple(copy.flatten().tolist()) for copy in copies}) > 6
    assert filled(box, Rng([5])) == grid.flatten().tolist() != filled(box, Rng([6]))


@pytest.mark.parametrize(("box", "givens"), [(2, 4), (2, 9), (3, 45)])
def test_a_puzzle_has_one_solution_and_no_cell_too_many(box, givens):
    grid = filled(box, Rng([1]))
    cells = puzzle(grid, box, givens, Rng([2]))
    assert list(solutions(cells, box)) == [grid]
    given = [k for k, digit in enumerate(cells) if digit is not None]
    assert len(given) >= givens
    if len(given) > givens:
        assert not any(unique([None if k == cell else d for k, d in enumerate(cells)], box) for cell in given)


def test_files_hold_whole_grids_and_no_puzzle_is_of_a_grid_that_is_learnt_from(tmp_path):
    make(tmp_path / "a", 2, 20, 4, 30, 3)
    make(tmp_path / "b", 2, 20, 4, 30, 3)
    learnt = set()
    for name in ("train", "validation"):
        text = (tmp_path / "a" / f"{name}.txt").read_text()
        assert text == (tmp_path / "b" / f"{name}.txt").read_text() and len(text) % 16 == 0
        learnt |= {text[k : k + 16] for k in range(0, len(text), 16)}
    assert len(learnt) > 40 and all(holds([int(c) - 1 for c in text], 2) for text in learnt)
    records = [json.loads(line) for line in (tmp_path / "a" / "puzzles.jsonl").read_text().splitlines()]
    assert len(records) == 30 and not learnt & {one["solution"] for one in records}
    for one in records:
        assert one["givens"] == 16 - one["text"].count(HOLE)
        assert all(c in (HOLE, d) for c, d in zip(one["text"], one["solution"], strict=True))


@pytest.mark.parametrize("words", [["--box", "4"], ["--grids", "1"], ["--puzzles", "0"]])
def test_what_cannot_be_made_is_said(words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        sudoku.main(["make", str(tmp_path / "x"), *words])
    assert "it must be" in (err := capsys.readouterr().err) or "pass" in err
    assert not (tmp_path / "x").exists()


@pytest.fixture
def knowing(monkeypatch) -> Pipeline:
    """A pipeline whose predictor gives the exact marginals of a uniformly drawn grid of 4 × 4, given what stands."""
    tokenizer = character_tokenizer(DIGITS[:4])
    model = TextModel.from_parts(tiny.network(len(tokenizer)), tokenizer, processes=("mask",), defaults={"length": 16})
    grids = torch.tensor(SMALL)
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list(DIGITS[:4])))
    grids = digits[grids]

    def predictor(query: Query) -> Categorical:
        at = query.at if query.at is not None else positions_of(torch.ones_like(query.x_t, dtype=torch.bool))
        wrong = ((query.x_t[:, None] != grids) & (query.x_t != model.mask_id)[:, None]).sum(-1)  # (B, grids)
        agree = (-20.0 * wrong.double()).exp()
        seen = torch.nn.functional.one_hot(grids, len(tokenizer)).double()
        q = torch.einsum("bg,glv->blv", agree, seen)
        return Categorical.from_logits((q / q.sum(-1, keepdim=True).clamp(min=1e-99)).log()[at], query.x_t, at)

    monkeypatch.setattr(TextModel, "predictor", lambda self, process: predictor)
    return Pipeline(model)


@pytest.fixture
def puzzles(tmp_path) -> list[dict]:
    make(tmp_path, 2, 10, 1, 24, 0)
    return [json.loads(line) for line in (tmp_path / "puzzles.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("order", ["improved", "confidence", "margin", "entropy"])
def test_who_knows_every_grid_solves_every_puzzle_in_any_order_one_cell_at_a_time(order, knowing, puzzles):
    *groups, whole = solve(knowing, puzzles, order, None, temperature=1.0)
    assert whole.solved == whole.cells == 1 and whole.puzzles == sum(row.puzzles for row in groups) == 24
    assert whole.evaluations == pytest.approx(sum(one["text"].count(HOLE) for one in puzzles) / 24)


def test_cells_that_are_solved_are_counted_where_a_puzzle_is_not(knowing, puzzles):
    wrong = [one | {"solution": one["solution"][1:] + one["solution"][:1]} for one in puzzles]
    *_, row = solve(knowing, wrong, "improved", None)
    assert row.solved == 0 and 0 < row.cells < 0.6
    *_, row = solve(knowing, puzzles[:1], "improved", 1, temperature=0.0)
    assert row.evaluations == 1 and row.puzzles == 1


def test_edits_take_back_what_is_wrong_and_leave_what_is_right(knowing, puzzles):
    holes = [one["text"].count(HOLE) for one in puzzles]
    right = [Filled(one["solution"], 5) for one in puzzles]
    place = [one["text"].index(HOLE) for one in puzzles]
    others = [DIGITS[int(one.text[k]) % 4] for one, k in zip(right, place, strict=True)]
    wrong = [
        replace(one, text=one.text[:k] + d + one.text[k + 1 :]) for one, k, d in zip(right, place, others, strict=True)
    ]
    for begun in (right, wrong):
        after = edited(knowing, puzzles, begun, 1, sampler="margin", temperature=0.0)
        assert [one.text for one in after] == [one["solution"] for one in puzzles]
        assert [one.forwards for one in after] == [5 + 2 * n + max(1, round(SHARE * n)) for n in holes]
    assert edited(knowing, puzzles, wrong, 0, sampler="margin") == wrong


def test_rows_of_the_command_have_their_columns(knowing, puzzles, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sudoku.Pipeline, "from_pretrained", lambda folder: knowing)
    sudoku.main(["solve", str(tmp_path / "puzzles.jsonl"), "--model", "m", "--order", "margin", "--steps", "0", "3"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == sudoku.HEADING and len({len(line) for line in lines}) == 1
    sudoku.main(
        [
            "solve",
            str(tmp_path / "puzzles.jsonl"),
            "--model",
            "m",
            "--order",
            "gibbs",
            "--rounds",
            "1",
            "--json",
        ]
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[-1]["solved"] == 1.0 and written([None, 0]) == "_1"
