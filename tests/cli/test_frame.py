"""The frame of the command line: help, streams, signs of life, bars, colours, exit codes."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys

import pytest
from tiny import QUATRAIN

from textdiff import cli
from textdiff.cli import common


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command in this process: (exit code, stdout, stderr); the folder it runs in is empty."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


def test_help_is_a_verb_too(run):
    assert run("help")[1] == run("--help")[1] and "help VERB" in run("help")[1]
    assert run("help", "score")[1] == run("score", "--help")[1]
    assert run("help", "data", "prepare")[1] == run("data", "prepare", "--help")[1]


def test_a_word_behind_generate_is_answered_with_the_flags_that_take_words(run):
    code, _, err = run("generate", "春天")
    assert code == 2 and "unrecognized arguments: 春天 (--title" in err and "--keyword" in err and err.count("\n") == 1


def test_a_bar_counts_in_whole_numbers(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with common.progress_bar(argparse.Namespace(quiet=False), 40, "poem") as bar:
        for _ in range(20):
            bar.update(0.1)
        bar.refresh()
    assert " 2/40 poems" in sys.stderr.getvalue() and "2.0" not in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Terminal())
    with common.progress_bar(argparse.Namespace(quiet=False), None, "text") as bar:
        bar.update(1 / 3)
        bar.refresh()
    assert "0 texts [" in sys.stderr.getvalue() and "333" not in sys.stderr.getvalue().split("[")[-2]


def test_a_terminal_hears_at_once_what_is_loaded(monkeypatch):
    for quiet, said in ((False, "loading x …"), (True, "")):
        monkeypatch.setattr(sys, "stderr", Terminal())
        with common.sign_of_life(argparse.Namespace(quiet=quiet), "loading x"):
            assert sys.stderr.getvalue() == said
        assert sys.stderr.getvalue().endswith("\r") == bool(said)


@pytest.mark.parametrize("closed", ["2>&-", "2>&- <&-"])
def test_a_closed_stderr_does_not_lose_the_result(tmp_path, closed):
    line = QUATRAIN.replace("\n", "")
    command = f"{sys.executable} -m textdiff check --json --out result {line} {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, timeout=60, stdout=subprocess.PIPE)
    assert done.returncode in (0, 3) and json.loads((tmp_path / "result").read_text())["form"] == "wuyan-jueju"
    assert done.stdout == b""


def test_a_check_has_no_colours_on_a_dumb_terminal(monkeypatch):
    for kind, coloured in (("dumb", False), ("xterm", True)):
        monkeypatch.setenv("TERM", kind)
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(sys, "stdout", Terminal())
        assert cli.main(["check", QUATRAIN]) in (0, 3)
        assert ("\033[" in sys.stdout.getvalue()) == coloured


def test_every_exit_code_is_one_of_the_list():
    assert sorted(common.Exit) == [0, 1, 2, 3, 130, 143]


def test_words_that_are_no_text_are_named(run):
    for word, says in (
        ("春\udcff", "text 1 has a byte 0xff that is not UTF-8"),
        ("春\0", "a NUL character"),
        ("春\ud800", "half of a character"),
    ):
        code, out, err = run("check", word)
        assert (code, out) == (2, "") and says in err and err.count("\n") == 1


def test_a_file_whose_name_cannot_be_written_is_named(run):
    code, out, err = run("score", "春", "--svg", "\ud800")
    assert (code, out) == (2, "") and "half of a character" in err and err.count("\n") == 1
