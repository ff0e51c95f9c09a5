"""How many processors a command uses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from textdiff.cli import main
from textdiff.cli.common import free_processors

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.mark.parametrize(
    ("load", "taken"),
    [
        ("0.00 0.00 0.00 1/200 5", 0),
        ("0.90 0.00 0.00 2/200 5", 1),
        ("0.90 0.00 0.00 1/200 5", 0),  # the load of a minute ago
        ("0.10 0.00 0.00 9/200 5", 0),  # a moment
        ("99.0 0.00 0.00 999/2000 5", 99),
        ("no numbers", 0),
    ],
)
def test_the_processors_that_others_use_are_left_to_them(tmp_path, load, taken):
    (tmp_path / "loadavg").write_text(load)
    assert free_processors(str(tmp_path / "loadavg")) == max(1, PROCESSORS - taken)
    assert free_processors(str(tmp_path / "absent")) == PROCESSORS


def threads_of(*words: str, **environment: str) -> int:
    """What torch is told in a new process, when the command has found its model."""
    code = (
        "import os, sys, textdiff.cli.judge as judge; from textdiff.cli import main;"
        "judge.open_pipeline = lambda a: (print(os.environ['OMP_NUM_THREADS'], 'torch' in sys.modules, flush=True), os._exit(0));"
        "main(sys.argv[1:])"
    )
    told = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment
    done = subprocess.run([sys.executable, "-c", code, *words], env=told, check=True, capture_output=True, text=True)
    number, imported = done.stdout.split()
    assert imported == "False"
    return int(number)


def test_a_command_has_the_threads_that_are_asked_for_before_torch_is_imported():
    assert threads_of("score", "床", "--threads", "3") == 3
    assert threads_of("score", "床", OMP_NUM_THREADS="2") == 2
    assert threads_of("score", "床", "--threads", "1", OMP_NUM_THREADS="2") == 1
    assert 1 <= threads_of("score", "床") <= PROCESSORS


def test_no_thread_at_all_is_an_error(capsys):
    assert main(["generate", "--threads", "0"]) == 2
    assert "threads is 0; it must be at least 1" in capsys.readouterr().err
