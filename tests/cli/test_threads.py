"""How many processors a command uses, and what it keeps of the memory."""

from __future__ import annotations

import os
import platform
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


FAULTS = """
import resource, torch
from textdiff.cli import main
assert main(["recipes"]) == 0
x = torch.zeros(4_000_000)
for k in range(40):
    if k == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = x + 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("said", [False, True])
def test_a_command_keeps_memory_that_was_freed_unless_the_environment_speaks_of_it(said):
    """Twenty arrays of 16 MB one after the other: their pages come from the system before, or each time."""
    environment = {**os.environ, **({"MALLOC_TRIM_THRESHOLD_": "131072"} if said else {})}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    pages = 20 * 16_000_000 // os.sysconf("SC_PAGESIZE")
    faults = int(done.stdout.split()[-1])
    assert faults > pages / 2 if said else faults < pages / 100
