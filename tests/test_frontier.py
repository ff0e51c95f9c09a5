"""Ways to draw poems, compared: the numbers are those of the metrics on the poems that the same call gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from textdiff.cli import main
from textdiff.data.records import read_records
from textdiff.measure import frontier, metrics
from textdiff.measure.report import Poems
from textdiff.pipeline.text import Pipeline

POEMS = Path(__file__).parent.parent / "data" / "poems.jsonl"
REAL = Poems.sort(read_records(POEMS)).of("wuyan-jueju")


def test_a_point_measures_the_poems_that_its_setting_draws() -> None:
    pipe = Pipeline.from_pretrained()
    settings = [("improved", 2, 0.9), ("entropy", 1, 1.0)]
    real, *points = frontier.frontier(pipe, "wuyan-jueju", REAL, n=6, train=REAL, settings=settings)
    assert (real.sampler, real.forwards) == ("real", 0.0)
    assert real.regulated == pytest.approx(metrics.regulated(REAL[:6]).mean())
    for (sampler, steps, temperature), point in zip(settings, points, strict=True):
        drawn = pipe.generate("wuyan-jueju", n=6, sampler=sampler, steps=steps, temperature=temperature)
        poems = [output.lines for output in drawn]
        assert point.forwards == steps
        assert point.regulated == pytest.approx(metrics.regulated(poems).mean())
        assert point.distinct_2 == pytest.approx(metrics.distinct(poems, 2))
        assert point.regulated_low <= point.regulated <= point.regulated_high
        assert point.fluency is not None and point.parallel is None


def test_too_few_real_poems_are_refused() -> None:
    with pytest.raises(ValueError, match=r"6 reference poems of wuyan-jueju for n = 7"):
        next(frontier.frontier(Pipeline.from_pretrained(), "wuyan-jueju", REAL[:6], n=7))


def test_the_command_prints_and_paints(capsys, monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(
        frontier.frontier, "__kwdefaults__", frontier.frontier.__kwdefaults__ | {"settings": [("improved", 1, 0.9)]}
    )
    picture = tmp_path / "points.png"
    told = ["bench", "verse", "--reference", str(POEMS), "--form", "五绝", "-n", "5", "--json", "--plot", str(picture)]
    assert main(told) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["sampler"] for row in rows] == ["real", "improved"] and rows[1]["form"] == "wuyan-jueju"
    assert picture.read_bytes().startswith(b"\x89PNG")
