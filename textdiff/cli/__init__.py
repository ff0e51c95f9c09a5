"""The command line: verbs, flags and help.  Each verb is a few lines that call the library.

Data goes to stdout (UTF-8), everything else to stderr.  The exit codes are `Exit` (common.py).  Nothing here imports torch
before a verb needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
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
from textdiff.cli.common import VERBS, Exit, Parser, fit_threads, keep_memory
from textdiff.core.errors import AskedError, TextdiffError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    with _open_streams():
        if sys.stdout is None:
            return _say("stdout is closed; leave it open, or send it to a file", Exit.FAILED, False)
        _utf8(sys.stdin, sys.stdout, sys.stderr)
        debug = "TEXTDIFF_DEBUG" in os.environ
        try:
            words = _spelled_out(sys.argv[1:] if argv is None else list(argv))
            if any("\0" in word for word in words):
                raise AskedError("a word of the command has a NUL character; leave it out")
            for word in words:
                _check_encodable(word)
            arguments, more = parser(words).parse_known_args(words)
            _take_up(more, arguments)
            debug = debug or arguments.debug
            with _quiet_libraries(debug), _terminable():
                if hasattr(arguments, "threads"):
                    fit_threads(arguments.threads)
                keep_memory()
                code = arguments.run(arguments)
                sys.stdout.flush()
            return code or Exit.DONE
        except BaseException as error:
            return _ended(error, debug)


def _ended(error: BaseException, debug: bool) -> int:
    """The exit code of a command that ended by an exception, which is said in a line."""
    if isinstance(error, SystemExit):  # argparse has spoken, or a signal asks us to end
        code = error.code if isinstance(error.code, int) else Exit.DONE
        return _say(_with_notes("terminated", error), code, debug) if code == Exit.TERMINATED else code
    if isinstance(error, KeyboardInterrupt):
        return _say(_with_notes("interrupted", error), Exit.INTERRUPTED, debug)
    if isinstance(error, OSError):
        _flush_or_drop(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return Exit.DONE
    if isinstance(error, AskedError):
        return _say(_with_notes(str(error), error), Exit.ASKED, debug)
    if not isinstance(error, Exception):
        raise error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        message = f"the output cannot be written ({error.strerror}); make room or write elsewhere"
    else:
        expected = isinstance(error, (OSError, TextdiffError))
        message = str(error) if expected else f"{type(error).__name__}: {error} (--debug shows where)"
    return _say(_with_notes(message, error), Exit.FAILED, debug)


def _flush_or_drop(stream: TextIO) -> None:
    """Write what a stream still holds, or leave it unwritten, so that the flush at exit neither complains nor sets an exit code."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _with_notes(message: str, error: BaseException) -> str:
    """The message, and what was said of it on the way up: where the results so far are."""
    return "; ".join([message, *getattr(error, "__notes__", [])])


_HOW_TO_SAY_IT = " (--title says what a poem is about, --keyword what stands in it, --template a text with holes)"


def _spelled_out(words: list[str]) -> list[str]:
    """`help` and `help VERB` as --help says them."""
    return [*words[1:], "--help"] if words[:1] == ["help"] else words


def _take_up(words: list[str], arguments: argparse.Namespace) -> None:
    """Texts and overrides that stand behind a flag, where argparse no longer expects any."""
    texts = dict.fromkeys(("fill", "refine", "augment", "score", "check", "choose", "restore"), "text")
    many = (texts | {"train": "override"}).get(arguments.verb)
    strange = [word for word in words if many is None or word.startswith("-")]
    if strange:
        hint = "" if arguments.verb != "generate" or strange[0].startswith("-") else _HOW_TO_SAY_IT
        arguments.parser.error(f"unrecognized arguments: {' '.join(strange)}{hint}")
    if many is not None:
        getattr(arguments, many).extend(words)


def parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """All verbs, and the flags of all of them or, for a command of these words, of those that stand with its verb in a file."""
    top = Parser(
        prog="textdiff", description="Discrete text diffusion: write, fill, score and train.", allow_abbrev=False
    )
    top.epilog = "'textdiff help VERB' says more about a verb."
    top.add_argument("--version", action="version", version=f"textdiff {__version__}")
    verbs = top.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True, parser_class=Parser)
    verb = None if words is None else next((word for word in words if not word.startswith("-")), "")
    needed = VERBS[verb][0] if verb in VERBS else None
    for name, (file, what) in VERBS.items():
        if words is not None and file != needed:
            verbs.add_parser(name, help=what)
        elif name not in verbs.choices:
            importlib.import_module(f"textdiff.cli.{file}").add(verbs)
    return top


@contextlib.contextmanager
def _open_streams() -> Iterator[None]:
    """With something to read from and to complain to where the caller has closed stdin or stderr.

    Their file numbers are taken, too: a file opened later would get them, and the libraries' complaints into it.
    """
    missing = [name for name in ("stdin", "stderr") if getattr(sys, name) is None]
    if missing:
        for number in (0, 1, 2):
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    with contextlib.ExitStack() as stack:
        for name in missing:
            stream = stack.enter_context(open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))
            setattr(sys, name, stream)
            stack.callback(setattr, sys, name, None)
        yield


def _utf8(*streams: TextIO) -> None:
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if stream is sys.stderr else "strict")


@contextlib.contextmanager
def _quiet_libraries(debug: bool) -> Iterator[None]:
    """Keep the libraries' warnings and bars off stderr."""
    # A small network has many short products.  Threads that spin between them cost little on an idle machine, but on a
    # busy one they keep each other from working: a poem takes ten times as long.  Those that sleep at once wake up late, which
    # took a third more time on an idle machine; a tenth of a millisecond of spinning costs nothing on either.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # which GNU's library prefers to the policy
    if debug:
        yield
        return
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
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

    def stop(*_: Any) -> NoReturn:
        raise SystemExit(Exit.TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_encodable(word: str) -> None:
    """AskedError for a word that no file system and no stream can take: it has half of a surrogate pair."""
    try:
        os.fsencode(word)
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise AskedError(f"a word of the command has {half!r}, which is half of a character; leave it out") from None


def _say(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"textdiff: {' '.join(message.split())}", file=sys.stderr)
    return code
