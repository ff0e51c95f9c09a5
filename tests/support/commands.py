"""Commands in processes of their own, for what only a process shows: exit codes of signals, kills, files left behind.

A server imports the package once and forks for each command, so that a command begins in milliseconds rather than seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_SERVED = multiprocessing.get_context("forkserver")
_SERVED.set_forkserver_preload(["textdiff.cli", "textdiff.pipeline.text", "textdiff.training.run"])
SECONDS = 240  # by which whatever is waited for has come


@dataclass(frozen=True)
class Command:
    """A command that runs, and the files of what it prints."""

    process: ForkServerProcess
    out: Path
    err: Path

    def wait_for(self, there: Callable[[], object]) -> None:
        """Until something is there, or the command has ended."""
        deadline = time.monotonic() + SECONDS
        while not there() and self.process.is_alive():
            assert time.monotonic() < deadline, f"nothing comes: {self.said()}"
            time.sleep(0.002)

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None and self.process.is_alive(), (
            f"it ended before it was stopped: {self.said()}"
        )
        os.kill(self.process.pid, number)

    def said(self) -> str:
        """What stands on stderr by now."""
        return self.err.read_text(encoding="utf-8") if self.err.exists() else ""

    def ended(self) -> tuple[int | None, str, str]:
        """(exit code, stdout, stderr); minus the signal that killed it, as `subprocess` has it."""
        self.process.join(SECONDS)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"it does not end: {self.said()}")
        return self.process.exitcode, self.out.read_text(encoding="utf-8"), self.said()


def begin(folder: Path, *words: object) -> Command:
    """`textdiff` with these words in the folder that we are in; what it prints goes to files in another."""
    out, err = folder / "stdout", folder / "stderr"
    process = _SERVED.Process(target=_run, args=([str(word) for word in words], out, err), daemon=True)
    process.start()
    return Command(process, out, err)


def _run(words: list[str], out: Path, err: Path) -> None:
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    from textdiff.cli import main

    torch.set_num_threads(1)  # as in tests that compare with what a command has done, bit for bit
    sys.exit(main(words))
