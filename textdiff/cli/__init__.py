"""The command line: verbs, flags and help.  Each verb is a few lines that call the library.

Data goes to stdout (UTF-8), everything else to stderr.  Exit codes: 0; 1 a failure (model folder, output, while running);
2 a mistake in what was asked; 3 a poem that breaks its strict form (check); 130 interrupted.  Nothing here imports torch
before a verb needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

from textdiff import __version__
from textdiff.cli import bench, draw, judge, lists, train
from textdiff.cli.common import Parser
from textdiff.core.errors import AskedError, TextdiffError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    if sys.stdin is None:  # closed by the caller
        sys.stdin = io.StringIO()
    if sys.stdout is None:
        return _say("stdout is closed; leave it open, or send it to a file", 1, False) if sys.stderr else 1
    _utf8(sys.stdin, sys.stdout)
    debug = "TEXTDIFF_DEBUG" in os.environ
    try:
        arguments, more = parser().parse_known_args(argv)
        _take_up(more, arguments)
        debug = debug or arguments.debug
        with _quiet_libraries(debug), _terminable():
            code = arguments.run(arguments)
            sys.stdout.flush()
        return code or 0
    except SystemExit as stop:  # argparse has spoken, or a signal asks us to end
        code = stop.code if isinstance(stop.code, int) else 0
        return _say(_with_notes("terminated", stop), code, debug) if code == 128 + signal.SIGTERM else code
    except KeyboardInterrupt as stop:
        return _say(_with_notes("interrupted", stop), 130, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is silent, too
        return 0
    except AskedError as error:
        return _say(_with_notes(str(error), error), 2, debug)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            message = f"the output cannot be written ({error.strerror}); make room or write elsewhere"
        else:
            expected = isinstance(error, (OSError, TextdiffError))
            message = str(error) if expected else f"{type(error).__name__}: {error} (--debug shows where)"
        return _say(_with_notes(message, error), 1, debug)


def _with_notes(message: str, error: BaseException) -> str:
    """The message, and what was said of it on the way up: where the results so far are."""
    return "; ".join([message, *getattr(error, "__notes__", [])])


def _take_up(words: list[str], arguments: argparse.Namespace) -> None:
    """Texts and overrides that stand behind a flag, where argparse no longer expects any."""
    many = {"train": "override", "fill": "text", "refine": "text", "score": "text", "check": "text"}.get(arguments.verb)
    strange = [word for word in words if many is None or word.startswith("-")]
    if strange:
        arguments.parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if many is not None:
        getattr(arguments, many).extend(words)


def parser() -> argparse.ArgumentParser:
    """All verbs and flags."""
    top = Parser(
        prog="textdiff", description="Discrete text diffusion: write, fill, score and train.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"textdiff {__version__}")
    verbs = top.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for part in (draw, judge, train, bench, lists):
        part.add(verbs)
    return top


def _utf8(*streams: TextIO) -> None:
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")


@contextlib.contextmanager
def _quiet_libraries(debug: bool) -> Iterator[None]:
    """Keep the libraries' warnings and bars off stderr."""
    if debug:
        yield
        return
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds like any other exit, so that no temporary file stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"textdiff: {' '.join(message.split())}", file=sys.stderr)
    return code
