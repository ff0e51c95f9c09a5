"""benchmarks/verse.py: its numbers are those of the metrics on the poems that the same call gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import verse
from textdiff import Pipeline
from textdiff.data.records import read_records
from textdiff.measure import poems as metrics
from textdiff.measure.poem_report import Poems

POEMS = Path(__file__).parents[2] / "data" / "poems.jsonl"
REAL = Poems.sort(read_records(POEMS)).of("wuyan-jueju")


def test_a_point_measures_the_poems_that_its_setting_draws() -> None:
    pipe = Pipeline.from_pretrained()
    settings = [("improved", 2, 0.9), ("entropy", 1, 1.0)]
    real, *points = verse.frontier(pipe, "wuyan-jueju", REAL, n=6, train=REAL, settings=settings)
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
        next(verse.frontier(Pipeline.from_pretrained(), "wuyan-jueju", REAL[:6], n=7))


def test_the_command_prints_and_paints(capsys, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "points.png"
    words = [
        "--reference",
        str(POEMS),
        "--form",
        "五绝",
        "-n",
        "5",
        "--setting",
        "improved:1:0.9",
        "--plot",
        str(picture),
    ]
    verse.main([*words, "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["sampler"] for row in rows] == ["real", "improved"] and rows[1]["form"] == "wuyan-jueju"
    assert picture.read_bytes().startswith(b"\x89PNG")
    verse.main(words)
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading == verse.HEADING and [line.split()[1] for line in lines] == ["real", "improved"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--plot", "x.gif"], "cannot plot to 'x.gif'"),
        (["-n", "1000"], "reference poems of wuyan-jueju for n = 1000"),
        (["--setting", "improved"], "SAMPLER:STEPS:TEMPERATURE"),
    ],
)
def test_what_is_asked_wrongly_is_said_in_a_line(words, says, capsys) -> None:
    with pytest.raises(SystemExit):
        verse.main(["--reference", str(POEMS), "--form", "五绝", *words])
    assert says in capsys.readouterr().err
