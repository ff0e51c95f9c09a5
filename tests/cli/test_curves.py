"""`textdiff curves`: the losses and bounds of runs, from their logs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from runs import recipe_file

from textdiff.cli import main

LOG = [
    {"step": 10, "seconds": 30.0, "tokens": 100, "loss": 5.0, "grad_norm": 1.0, "learning_rate": 0.1},
    {"step": 20, "seconds": 60.0, "tokens": 200, "eval_mask_bound": 4.5, "eval_mask_standard_error": 0.1},
    {"step": 20, "seconds": 60.0, "tokens": 200, "loss": None},
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    lines = "".join(json.dumps(line) + "\n" for line in LOG)
    (tmp_path / "run" / "log.jsonl").write_text(lines + '{"step": 30, "sec', encoding="utf-8")  # cut by a kill
    return tmp_path / "run"


def test_the_table_has_every_loss_and_bound_of_a_log(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", "run"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    names = ["run", "step", "tokens", "minutes", "figure", "value", "standard_error"]
    loss, bound = (
        ["run", "10", "100", "0.5", "loss", "5.0", ""],
        ["run", "20", "200", "1.0", "mask_bound", "4.5", "0.1"],
    )
    assert rows == [dict(zip(names, row, strict=True)) for row in (loss, bound)]
    assert main(["curves", "run", "run", "--json"]) == 0
    assert [json.loads(line)["value"] for line in capsys.readouterr().out.splitlines()] == [5.0, 4.5] * 2


@pytest.mark.parametrize("over", ["tokens", "steps", "minutes"])
def test_runs_are_drawn_beside_each_other(run: Path, over: str) -> None:
    assert main(["curves", "run", "run", "--over", over, "--png", "curves.png"]) == 0
    assert (run.parent / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_run_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", "absent"]) == 2
    assert "absent holds no log of a run" in capsys.readouterr().err
    (run / "log.jsonl").write_text("", encoding="utf-8")
    assert main(["curves", "run", "--png", "curves.png"]) == 2
    assert "no loss yet in run" in capsys.readouterr().err


def test_a_run_leaves_its_figures_in_its_folder_at_the_end_of_each_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = recipe_file(tmp_path, run={"steps": 2, "log_every": 1, "eval_every": 2}), tmp_path / "out"
    for override, lines in (("run.minutes=1e-6", 2), ("run.minutes=60", 4)):  # one loss; two losses and a bound
        assert main(["train", str(path), "--quiet", override]) == 0
        capsys.readouterr()
        assert main(["curves", str(out)]) == 0
        table = (out / "log.csv").read_text(encoding="utf-8")
        assert table == capsys.readouterr().out and table.count("\n") == lines
        assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
        (out / "curves.png").unlink()
