"""Commands in processes of their own, for what only a process shows: exit codes of signals, kills, files left behind.

A server that has imported the package forks for each command, so that a command begins in milliseconds rather than seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import arbitrary_address
from multiprocessing.context import ForkServerProcess
from pathlib import Path

IMPORTED = ("textdiff.cli", "textdiff.pipeline.text", "textdiff.training.run")
_SERVED = multiprocessing.get_context("forkserver")
_SERVED.set_forkserver_preload([*IMPORTED])
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


def float32_where_it_is_not_said() -> None:
    """Make the precision "auto" float32 in this process on every machine, so that recorded figures hold.

    Tests of bf16 ask for it by name.
    """
    from textdiff.networks.lean import choices

    choices.make({"bf16_pays": False})


def serve_from_here() -> None:
    """Make this process, as it is now, what commands are forked from, if it has imported what they need.

    Otherwise the standard library starts a server when the first command begins, which imports it for seconds.
    """
    if not sys.modules.keys() >= {*IMPORTED}:
        return
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(arbitrary_address("AF_UNIX"))
    listener.listen()
    alive, ours = os.pipe()  # the server ends when all who hold the second have ended
    with warnings.catch_warnings(action="ignore"):  # that there are threads, which wait for pytest-xdist's messages
        process = os.fork()
    if process == 0:
        try:
            os.close(ours)
            forkserver.main(listener.fileno(), alive, [])
        finally:
            os._exit(0)
    os.close(alive)
    server = forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd = listener.getsockname(), ours
    server._forkserver_pid = process
    listener.close()


def begin(folder: Path, *words: object) -> Command:
    """`textdiff` with these words in the folder that we are in; what it prints goes to files in another."""
    out, err = folder / "stdout", folder / "stderr"
    process = _SERVED.Process(target=_run, args=([str(word) for word in words], out, err), daemon=True)
    process.start()
    return Command(process, out, err)


def _run(words: list[str], out: Path, err: Path) -> None:
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, (0, 1, 2), "rww")  # rather than those of the tests
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    from textdiff.cli import main

    float32_where_it_is_not_said()
    torch.set_num_threads(1)  # as in tests that compare with what a command has done, bit for bit
    sys.exit(main(words))
