"""The verb `check`."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys

import pytest
from verses import PLAIN, WUJUE, changed, poem

from textdiff import cli
from textdiff.verse import checker
from textdiff.verse.checker import check

# -- the verb -------------------------------------------------------------------------------------------------------------

GOOD = poem("aBbA", WUJUE)
WRONG = changed(GOOD, 2, 2, PLAIN["z"][-1])
OPEN = changed(GOOD, 2, 2, "看")


@pytest.fixture
def run(capsys, monkeypatch):
    def call(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = cli.main(["check", *words])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("texts, code", [([GOOD], 0), ([OPEN], 0), ([WRONG], 3), ([GOOD, WRONG, OPEN], 3), (["天"], 0)])
def test_the_exit_code_is_three_if_a_poem_breaks_its_form(run, texts, code):
    assert run(*texts)[0] == code
    assert run("--json", *texts)[0] == code


def test_json_is_the_report(run):
    _, out, _ = run("--json", GOOD, WRONG)
    rows = [json.loads(row) for row in out.splitlines()]
    assert rows == [json.loads(json.dumps(dataclasses.asdict(check(text)))) for text in (GOOD, WRONG)]


def test_texts_come_from_stdin_and_with_their_form(run):
    code, out, _ = run("--json", stdin=json.dumps({"text": WRONG, "form": "wuyan-jueju"}) + "\n")
    assert code == 3 and json.loads(out)["form"] == "wuyan-jueju"
    assert run("--form", "七绝", GOOD)[0] == 2


def test_readings_are_decided_by_a_flag(run):
    assert run(OPEN, "--reading", "2:2=平")[0] == 0
    assert run(OPEN, "--reading", "2:2=去")[0] == 3
    assert run("--reading", "看=去翰", GOOD, OPEN)[0] == 3
    for flag in ("2:2", "2:9=平", "2:2=x"):
        code, _, err = run(OPEN, "--reading", flag)
        assert code == 2 and err.count("\n") == 1
    assert run("--reading", "2:2=去", OPEN, GOOD)[0] == 2  # which of them?


def test_the_text_output_shows_where_and_why(run):
    _, out, err = run(WRONG)
    rows = out.splitlines()
    assert "breaks its strict form" in rows[0] and "仄起首句不入韵" in rows[0] and "上平一东" in rows[0] and not err
    second = next(n for n, row in enumerate(rows) if row.startswith(" 2 B"))
    assert rows[second + 3].split() == ["Ｘ"] and rows[second + 3].index("Ｘ") == rows[second].index(PLAIN["z"][-1])
    assert any(row.startswith("拗句") for row in rows) and "\x1b" not in out
    assert "\x1b[31m" in checker.describe(check(WRONG), colours=True)
    assert "2:2 看  去翰 or 平寒" in run(OPEN)[1]


@pytest.mark.parametrize("terminal, no_color, painted", [(True, "", True), (True, "1", False), (False, "", False)])
def test_colours_are_for_terminals_that_want_them(run, monkeypatch, terminal, no_color, painted):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert ("\x1b[" in run(WRONG)[1]) is painted


def test_checking_a_text_loads_no_torch():
    code = f"import sys, textdiff.cli as c; r = c.main(['check', {GOOD!r}]); sys.exit(r or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
