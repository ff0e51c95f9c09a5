"""The door to matplotlib: it says what is wrong before the work, and leaves the caller's matplotlib as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

from textdiff.measure import plots
from textdiff.measure.intervals import Interval

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("name", ["x.gif", "x", "no/x.png", ""])
def test_a_name_that_is_no_picture_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="cannot plot to"):
        plots.check(name)


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install 'textdiff\[plot\]'"):
        plots.check(tmp_path / "x.png")


@pytest.mark.parametrize(("kind", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_every_kind_of_picture_is_written(kind, begin, tmp_path):
    figure = plots.figure(2, 1)
    figure.subplots().plot([0, 1], [0, 1])
    plots.save(figure, tmp_path / f"x.{kind}")
    assert (tmp_path / f"x.{kind}").read_bytes().startswith(begin)


def test_the_callers_backend_stays(tmp_path):
    code = (
        "import sys, matplotlib; matplotlib.use('svg'); from textdiff.measure import plots;"
        f"plots.save(plots.figure(1, 1), {str(tmp_path / 'x.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules and matplotlib.get_backend() == 'svg'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_error_bars_reach_from_the_value_to_the_ends():
    assert plots.reach([Interval(2, 1.5, 4), Interval(1, None, None)]) == [[0.5, 0.0], [2.0, 0.0]]
    assert plots.reach([]) == [[], []]
