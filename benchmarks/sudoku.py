"""Sudoku: which order of writing solves puzzles, at how many evaluations, by the number of given cells.

    python benchmarks/sudoku.py make runs/sudoku-9 --box 3 --grids 20000 --copies 10 --puzzles 300
    textdiff train recipes/sudoku-9.yaml data.train=runs/sudoku-9/train.txt data.validation=runs/sudoku-9/validation.txt
    python benchmarks/sudoku.py solve runs/sudoku-9/puzzles.jsonl --model runs/sudoku-9/model --order improved confidence margin

A text is a solved grid, row after row, of b²·b² digits, where b is the width of a box; a puzzle has holes in it, and exactly one
solution.  `make` fills grids at random by a search, and adds copies of each under the symmetries of the game: digits renamed,
bands, stacks, and the rows and columns within them exchanged, the grid turned over.  The grid of a puzzle is never among them.

Solved is a puzzle of which every cell is that of its only solution.  The network sees the given cells only; nothing checks or
repairs what it writes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from textdiff import Pipeline
from textdiff.core.errors import AskedError
from textdiff.core.rng import Rng
from textdiff.measure import intervals
from textdiff.pipeline import canvas
from textdiff.pipeline.score.likelihood import nats

HOLE = "_"
BATCH = 64
SHARE = 0.25  # of the holes that a round of edits takes back
DIGITS = "123456789"
GIVENS = {
    2: (4, 6, 8),
    3: (24, 28, 32, 36, 44),
}  # that puzzles are made with, by the width of a box, as far as possible
POOL = {2: 47, 3: 1 << 62}  # grids that puzzles are made of, at most; there are 288 grids of 4 × 4 in all
VALIDATION = 0.02  # share of the grids
Grid = Sequence[int | None]  # the digits 0 … b² − 1 of the cells, row after row


@cache
def units(box: int) -> list[tuple[int, int, int]]:
    """The row, the column and the box of every cell."""
    n = box * box
    return [(k // n, k % n, k // n // box * box + k % n // box) for k in range(n * n)]


def solutions(grid: Grid, box: int, ways: Sequence[Sequence[int]] | None = None) -> Iterator[list[int]]:
    """Every way to complete a grid so that no row, column or box holds a digit twice; none where the grid holds one already.

    The cell with the fewest possible digits is filled first.  `ways` (cells, digits) is the order in which a cell tries them.
    """
    n, cells = box * box, list(grid)
    free = [[(1 << n) - 1] * n for _ in range(3)]  # digits that each row, column and box still lacks
    where = units(box)
    for cell, digit in enumerate(cells):
        if digit is not None:
            if not all(free[kind][unit] >> digit & 1 for kind, unit in enumerate(where[cell])):
                return
            for kind, unit in enumerate(where[cell]):
                free[kind][unit] ^= 1 << digit
    rows, columns, boxes = free

    def completed() -> Iterator[list[int]]:
        fewest, best, left = n + 1, -1, 0
        for cell, digit in enumerate(cells):
            if digit is None:
                r, c, b = where[cell]
                possible = rows[r] & columns[c] & boxes[b]
                if (number := possible.bit_count()) < fewest:
                    fewest, best, left = number, cell, possible
                    if number < 2:
                        break
        if best < 0:
            yield [digit for digit in cells if digit is not None]
            return
        r, c, b = where[best]
        for digit in range(n) if ways is None else ways[best]:
            if left >> digit & 1:
                for kind, unit in ((rows, r), (columns, c), (boxes, b)):
                    kind[unit] ^= 1 << digit
                cells[best] = digit
                yield from completed()
                cells[best] = None
                for kind, unit in ((rows, r), (columns, c), (boxes, b)):
                    kind[unit] ^= 1 << digit

    yield from completed()


def unique(grid: Grid, box: int) -> bool:
    """Whether there is exactly one solution."""
    found = solutions(grid, box)
    return next(found, None) is not None and next(found, None) is None


def filled(box: int, rng: Rng) -> list[int]:
    """A solved grid, from a search that tries the digits of each cell in random order; not every grid is equally likely."""
    n = box * box
    ways = rng.uniform(n * n, n)[0].argsort(-1).tolist()
    return next(solutions([None] * (n * n), box, ways))


def turned(grid: Tensor, box: int, rng: Rng) -> Tensor:
    """A solved grid (n, n) under a random symmetry of the game."""
    n = box * box

    def lines() -> Tensor:
        """A random order of rows that keeps the bands together."""
        bands = rng.uniform(box)[0].argsort()
        inside = rng.uniform(box, box)[0].argsort(-1)
        return torch.cat([band * box + inside[band] for band in bands])

    names = rng.uniform(n)[0].argsort()
    grid = names[grid][lines()][:, lines()]
    return grid.t() if bool(rng.uniform(1)[0, 0] < 0.5) else grid


def puzzle(grid: Sequence[int], box: int, givens: int, rng: Rng) -> list[int | None]:
    """The grid with cells taken out in random order while the solution stays unique, until `givens` are left or no cell can go."""
    cells: list[int | None] = list(grid)
    left = len(cells)
    for cell in rng.uniform(len(cells))[0].argsort().tolist():
        if left <= givens:
            break
        cells[cell] = None
        if unique(cells, box):
            left -= 1
        else:
            cells[cell] = grid[cell]
    return cells


def written(cells: Grid) -> str:
    """A grid as a text."""
    return "".join(HOLE if digit is None else DIGITS[digit] for digit in cells)


def make(folder: Path, box: int, grids: int, copies: int, puzzles: int, seed: int, progress: Any = iter) -> None:
    """Write `train.txt` and `validation.txt`, grids end to end, and `puzzles.jsonl`, of grids that are in neither."""
    if box not in GIVENS:
        raise AskedError(f"box is {box}; it must be 2 (grids of 4 × 4) or 3 (9 × 9)")
    if min(grids, copies, puzzles) < 1 or grids < 2:
        raise AskedError(
            f"grids is {grids}, copies {copies}, puzzles {puzzles}; pass 2 grids or more, and 1 of the others"
        )
    folder.mkdir(parents=True, exist_ok=True)
    n, held = box * box, max(1, round(grids * VALIDATION))
    pool: list[list[int]] = []
    for k in itertools.count():
        if len(pool) == min(puzzles, POOL[box]):
            break
        grid = filled(box, Rng([seed + k], stream=1))
        pool += [grid] * (grid not in pool)
    unseen = set(map(written, pool))
    for name, first, last in (("validation", 0, held), ("train", held, grids)):
        with (folder / f"{name}.txt").open("w", encoding="utf-8") as file:
            for k in progress(range(first, last)):
                rng = Rng([seed + k])
                whole = torch.tensor(filled(box, rng)).view(n, n)
                for copy in range(copies if name == "train" else 1):
                    text = written((turned(whole, box, rng) if copy else whole).flatten().tolist())
                    file.write("" if text in unseen else text)
    with (folder / "puzzles.jsonl").open("w", encoding="utf-8") as file:
        for k in progress(range(puzzles)):
            grid = pool[k % len(pool)]
            cells = puzzle(grid, box, GIVENS[box][k % len(GIVENS[box])], Rng([seed + k], stream=2))
            given = len(cells) - cells.count(None)
            file.write(json.dumps({"id": k, "text": written(cells), "solution": written(grid), "givens": given}) + "\n")


@dataclass(frozen=True)
class Row:
    """How many puzzles with so many given cells are solved."""

    order: str
    steps: int | None
    evaluations: float  # of the network for a puzzle, the mean
    givens: str  # the least and the most
    puzzles: int
    solved: float
    solved_low: float | None  # 95 % interval
    solved_high: float | None
    cells: float  # share of the holes that got their digit


HEADING = (
    f"{'order':12} {'steps':>5} {'calls':>6} {'givens':>8} {'puzzles':>7}  {'solved':>6}  {'95 %':14} {'cells':>6}"
)


def line(row: Row) -> str:
    """A row as a line of a table."""
    span = "" if row.solved_low is None else f"{row.solved_low:.3f} to {row.solved_high:.3f}"
    steps = "all" if row.steps is None else str(row.steps)
    return (
        f"{row.order:12} {steps:>5} {row.evaluations:6.1f} {row.givens:>8} {row.puzzles:7}  {row.solved:6.3f}  {span:14} "
        f"{row.cells:6.3f}"
    )


@dataclass(frozen=True)
class Filled:
    """A grid that was written, and the evaluations of the network that it took."""

    text: str
    forwards: int


def unlikely(pipe: Pipeline, texts: Sequence[str], holes: Sequence[Sequence[int]]) -> list[list[float]]:
    """−log q of the digit in each hole of full grids, given all other cells; one evaluation for each hole."""
    pages = [canvas.read(canvas.whole, text, pipe.model) for text in texts]
    places = [page.places(page.free)[list(cells)] for page, cells in zip(pages, holes, strict=True)]
    shown = [torch.zeros_like(page.free).index_fill(0, at, True) for page, at in zip(pages, places, strict=True)]
    found = nats(pipe.model, pages, [page.ids for page in pages], shown, BATCH)
    return [one[at].tolist() for one, at in zip(found, places, strict=True)]


def edited(
    pipe: Pipeline, records: Sequence[dict[str, Any]], filled: Sequence[Filled], rounds: int, **options: Any
) -> list[Filled]:
    """Full grids after `rounds` in which the `SHARE` of the holes with the least likely digits is taken back and written anew.

    What comes out stays if all holes together are likelier, each given all other cells; else the next round takes the next cells.
    """
    holes = [[k for k, c in enumerate(record["text"]) if c == HOLE] for record in records]
    current, idle = list(filled), [0] * len(filled)
    if rounds:
        costs = unlikely(pipe, [one.text for one in current], holes)
        current = [Filled(one.text, one.forwards + len(cells)) for one, cells in zip(current, holes, strict=True)]
    for _ in range(rounds):
        texts = []
        for one, cells, cost, turn in zip(current, holes, costs, idle, strict=True):
            size = max(1, round(SHARE * len(cells)))
            weakest = sorted(range(len(cells)), key=lambda k: -cost[k])
            again = {cells[weakest[(turn * size + k) % len(cells)]] for k in range(size)}
            texts.append("".join(HOLE if k in again else c for k, c in enumerate(one.text)))
        outputs = pipe.fill(texts, **options)
        after = unlikely(pipe, [output.text for output in outputs], holes)
        for i, (output, cost) in enumerate(zip(outputs, after, strict=True)):
            likelier = sum(cost) < sum(costs[i]) - 1e-6
            spent = current[i].forwards + output.forwards + len(holes[i])
            current[i] = Filled(output.text if likelier else current[i].text, spent)
            costs[i], idle[i] = (cost, 0) if likelier else (costs[i], idle[i] + 1)
    return current


def solve(
    pipe: Pipeline, records: Sequence[dict[str, Any]], order: str, steps: int | None, rounds: int = 0, **options: Any
) -> Iterator[Row]:
    """Fill every puzzle by the sampler `order`, edit it, and count by number of given cells, then over all."""
    options |= {"sampler": order, "steps": steps}
    written = [Filled(one.text, one.forwards) for one in pipe.fill([one["text"] for one in records], **options)]
    outputs = edited(pipe, records, written, rounds, **options)
    by_givens: dict[int, list[int]] = {}
    for k, record in enumerate(records):
        nearest = min((g for given in GIVENS.values() for g in given), key=lambda g: abs(g - record["givens"]))
        by_givens.setdefault(nearest, []).append(k)
    groups = [by_givens[key] for key in sorted(by_givens)]
    for group in [*groups, list(range(len(records)))] if len(groups) > 1 else groups:
        right = [outputs[k].text == records[k]["solution"] for k in group]
        holes = [
            (found == wanted)
            for k in group
            for found, wanted, given in zip(outputs[k].text, records[k]["solution"], records[k]["text"], strict=True)
            if given == HOLE
        ]
        givens = [records[k]["givens"] for k in group]
        rate = intervals.share(sum(right) / len(right), len(right))
        calls = sum(outputs[k].forwards for k in group) / len(group)
        yield Row(
            order, steps, calls, f"{min(givens)}-{max(givens)}", len(group), *rate, sum(holes) / max(1, len(holes))
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser("make", help="write grids to learn from, and puzzles").add_argument
    add("folder", type=Path)
    add("--box", type=int, default=3, help="2 for grids of 4 x 4, 3 for 9 x 9 (3)")
    add("--grids", type=int, default=20_000, help="grids that are searched for (20000)")
    add("--copies", type=int, default=10, help="of each grid, under symmetries (10)")
    add("--puzzles", type=int, default=300, help="(300)")
    add("--seed", type=int, default=0, help="(0)")
    add = verbs.add_parser("solve", help="fill the holes of puzzles").add_argument
    add("puzzles", type=Path, help="puzzles.jsonl, which make writes")
    add("--model", required=True, metavar="DIR")
    add("--order", nargs="+", default=["improved", "confidence", "margin", "entropy"], help="samplers")
    add("--steps", nargs="+", type=int, default=[0], help="numbers of steps; 0 writes one cell at a time (0)")
    add("--rounds", type=int, default=0, metavar="N", help="rounds of edits behind the order (0)")
    add("--temperature", type=float, default=0.0, help="0 takes the likeliest digit of a cell (0)")
    add("--limit", type=int, metavar="N", help="the first N puzzles only")
    add("--seed", type=int, default=0, help="(0)")
    add("--json", action="store_true", help="print JSON Lines")
    a = parser.parse_args(argv)
    progress = partial(tqdm, file=sys.stderr, disable=None, leave=False)
    try:
        if a.verb == "make":
            make(a.folder, a.box, a.grids, a.copies, a.puzzles, a.seed, progress)
            return
        pipe = Pipeline.from_pretrained(a.model)
        records = [json.loads(text) for text in a.puzzles.read_text(encoding="utf-8").splitlines()[: a.limit]]
        if not a.json:
            print(HEADING, flush=True)
        common = {"rounds": a.rounds, "temperature": a.temperature, "seed": a.seed}
        for order in a.order:
            for steps in a.steps:
                for row in solve(pipe, records, order, steps or None, **common):
                    print(json.dumps(asdict(row)) if a.json else line(row), flush=True)
    except AskedError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
