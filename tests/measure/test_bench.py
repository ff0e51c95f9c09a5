"""The benchmark runs and compares what it says; how fast anything is, no test asserts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import growth
from textdiff.cli import main
from textdiff.measure import bench
from textdiff.measure.timing import machine, tasks, turns
from textdiff.networks.lean import products
from textdiff.pipeline.text import TextPipeline
from textdiff.training.texts.steps import steps

NETWORK = dict(vocabulary=40, layers=2, width=16)
CELL = (6, 2, 3)  # length, batch, steps


@pytest.mark.parametrize("pays", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_sampler_is_timed_against_its_plain_loop(monkeypatch, pays):
    monkeypatch.setattr(products, "bf16_pays", lambda: pays)
    cells = [CELL] if pays else [CELL, (8, 1, 2)]
    found = bench.sample(cells, rounds=1 + pays, **NETWORK)
    for cell in cells:
        rows = [row for row in found.rows if (row.length, row.batch, row.steps) == cell]
        names = [(row.sampler, row.process) for row in rows if row.precision == "float32"]
        assert names == [("plain", "mask"), ("plain-order", "mask"), ("plain-edit", "replacement"), *bench.OURS]
        half = [row.sampler for row in rows if row.precision == "bf16"]
        assert half == (["plain-bf16", *(name for name, _ in bench.OURS)] if pays else [])
        for row in rows:
            order = "plain-order" if row.sampler in ("plain-order", *bench.ORDERS) else "plain"
            assert row.baseline == ("plain-edit" if row.process == "replacement" else order)
            assert 0 < row.lowest <= row.ratio <= row.highest and row.texts_per_second > 0
            if row.sampler == row.baseline:
                assert row.lowest == row.highest == 1 and row.evaluations is None
    assert found.peak.float32 > 0 and "other processes" in found.others


def test_the_evaluations_are_those_of_the_sampler_and_the_time_outside_is_a_share():
    found = bench.sample([CELL], rounds=1, samplers=[("improved", "mask"), ("edit", "replacement")], **NETWORK)
    counted = [row for row in found.rows if row.evaluations is not None]
    assert [row.evaluations for row in counted] == [3, 3]
    assert all(0 < row.outside < 1 for row in counted)


def test_the_pictures_show_every_case(tmp_path):
    found = bench.sample([CELL], rounds=1, samplers=[("improved", "mask")], **NETWORK)
    axes = bench.picture(found.rows).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["improved"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["6 tokens\nbatch 2\n3 steps"]


@pytest.mark.parametrize(
    "make",
    [
        bench.plain,
        bench.plain_edit,
        lambda *told: bench.plain(*told, surest=True),
        lambda *told: bench.plain(*told, lean=True),
    ],
)
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_the_plain_loops_write_whole_texts(make, steps):
    model = bench.model(40, 1, 16, 6)
    x = make(model, 4, 6, steps)(0)
    assert x.shape == (4, 6) and torch.isin(x, model.content).all()


def test_the_plain_loop_draws_the_same_with_the_head_where_a_token_is_drawn(monkeypatch):
    """But for rounding: at the precision of the other it is the same loop."""
    monkeypatch.setattr(torch.nn.Module, "bfloat16", lambda network: network)
    model = bench.model(40, 2, 16, 6)
    assert bench.plain(model, 4, 6, 3)(0).equal(bench.plain(model, 4, 6, 3, lean=True)(0))


def test_a_case_of_ours_is_a_call_of_the_pipeline(tmp_path):
    bench.model(40, 1, 16, 6).save_pretrained(tmp_path / "m")
    pipe = TextPipeline.from_pretrained(tmp_path / "m")
    texts = bench.ours(pipe, "improved", "mask", 2, 6, 3)(5)
    assert texts == [one.text for one in pipe.generate(n=2, seed=5, length=6, steps=3)]


def test_cases_take_turns_and_the_first_round_is_not_counted():
    order = []
    cases = {name: lambda k, name=name: order.append((name, k)) for name in "ab"}
    times = turns.by_turns(cases, 2)
    assert order == [(name, k) for k in range(3) for name in "ab"]
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 2, "b": 2}
    assert times.foreign is None or 0 <= times.foreign <= 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others' time is read from /proc")
def test_other_processes_are_noticed_and_said():
    code = "import time; end = time.time() + 20\nwhile time.time() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        times = turns.by_turns({"work": lambda k: sum(range(10**7))}, 2)
    finally:
        other.kill()
        other.wait()
    assert times.foreign > 0.02
    assert "compare ratios, not times" in turns.said_of_others(0.5) and "unknown" in turns.said_of_others(None)
    assert turns.said_of_others(0.01) == "other processes took 1% of the processors meanwhile"


def test_the_floor_counts_the_products_that_a_text_needs():
    """By hand: one layer of width 2, inner 4; one step draws all 3 positions, of 5 tokens."""
    attention = 4 * 3 * 2
    last = 3 * 4 * 4 + 3 * (4 * 4 + 4 * 2 * 4 + attention)
    head = 3 * (2 * 4 + 2 * 2 * 5)
    assert machine.operations(3, 1, 5, 1, 2, 4) == pytest.approx(1e-9 * (last + head))
    more = machine.operations(3, 1, 5, 2, 2, 4) - machine.operations(3, 1, 5, 1, 2, 4)
    assert more == pytest.approx(1e-9 * 3 * (8 * 4 + 4 * 2 * 4 + attention)), "a layer of all columns"


def test_scoring_and_a_step_of_training_are_timed_beside_plain_ones(monkeypatch):
    monkeypatch.setattr(products, "bf16_pays", lambda: True)
    scored, _ = tasks.score(batch=2, length=6, levels=2, rounds=1, **NETWORK)
    trained, others = tasks.beside(steps(lambda: bench.model(40, 2, 16, 6), 2, 6), rounds=1)
    assert [line.case for line in scored] == ["plain", "textdiff"]
    assert [line.case for line in trained] == ["plain", "textdiff", "textdiff bf16"]
    assert all(line.ratio > 0 and line.baseline == "plain" for line in [*scored, *trained]) and others


def test_the_command_says_its_rows_or_writes_them(tmp_path, capsys):
    sizes = [word for name, value in NETWORK.items() for word in (f"--{name}", str(value))]
    small = ["--batch", "2", "--length", "6", "--rounds", "1", *sizes]
    picture, rows = tmp_path / "a.png", tmp_path / "rows.jsonl"
    sample = ["bench", "sample", "--steps", "3", *small]
    assert main([*sample, "--json", "--out", str(rows), "--plot", str(picture)]) == 0
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert found[0]["sampler"] == "plain" and "others" in found[-1] and picture.stat().st_size > 1000
    assert main(["bench", "score", "--levels", "1", *small]) == main(["bench", "train", *small]) == 0
    out = capsys.readouterr().out
    assert "plain" in out and "other processes" in out


def test_a_start_is_timed_in_a_new_interpreter(monkeypatch):
    monkeypatch.setattr(tasks, "STARTS", {"import torch": "pass", "a list": "x = [0] * 10**7"})
    lines, _ = tasks.load(rounds=1)
    assert [line.case for line in lines] == ["import torch", "a list"]
    assert lines[0].ratio == 1
    if sys.platform.startswith("linux"):
        assert 0 < lines[0].memory < 40 and lines[1].memory > lines[0].memory + 50


def test_the_float32_path_is_told_in_a_sentence():
    assert bench.float32_path().startswith("float32 ")


def test_random_tokens_have_names_that_can_be_written():
    names = "".join(map(chr, bench.CHARACTERS))
    assert names.encode().decode() == names and len(set(names)) == len(names) > 60_000


def test_a_point_of_growth_is_timed_and_all_that_grows_is_drawn():
    point = growth.measured(growth.COUNT, 8, 1, layers=1, width=8)
    assert (point.grows, point.size) == (growth.COUNT, 8) and point.seconds > 0
    panels = growth.picture([point]).axes[: len(growth.GROWING)]
    assert [panel.get_xlabel() for panel in panels] == [*list(growth.GROWING)[:-1], "exact count, by length"]


def test_what_grows_in_a_point_is_all_that_differs_from_the_base():
    assert growth.sized("batch", 256) == growth.Size(64, 4000, 256, 64)
    assert growth.sized("length", 20) == growth.Size(20, 4000, 8, 20)
    assert growth.sized(growth.COUNT, 1024) == growth.BASE and growth.sized("large", 1024) == growth.LARGE
