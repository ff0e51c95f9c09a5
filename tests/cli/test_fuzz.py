"""Whatever is typed: a result or one clear line, an exit code of the list, no file left behind.

`PYTHONPATH=tests/support python tests/cli/test_fuzz.py FIRST LAST` runs the cases of these seeds and shows what is wrong.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import Case, Home, case, laid_out

from textdiff import cli
from textdiff.cli.common import Exit
from textdiff.pipeline.images import ImagePipeline
from textdiff.pipeline.text import Pipeline

CASES, MANY, SECONDS, LONGEST = 520, 20_000, 60, 1200  # the time that a case may take: of the processor; of the clock
CRASH = re.compile(r"Traceback|\b[A-Z]\w*(Error|Exception|Warning): |--debug shows where")
# What a command may leave: the files that its flags name.
LEFT = {"out", "out.partial", "rejects", "rejects.partial", "t", "made", "film.html", "film.svg", "film.gif"}


class Hang(BaseException):
    """A case that takes too long."""


def stream(data: bytes = b"") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)) if data else io.BytesIO(), encoding="utf-8")  # type: ignore[type-var]


def outcome(one: Case, home: Home) -> tuple[int, str, set[str]]:
    """(exit code, stderr, files that appeared) of a case; what is on stdout must be UTF-8, or a picture."""
    before = sys.stdin, sys.stdout, sys.stderr, os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        laid_out(one, Path(folder), home)
        there = {path.name for path in Path(folder).iterdir()}
        sys.stdin, sys.stdout, sys.stderr = stream(one.stdin), stream(), stream()
        out, err = sys.stdout, sys.stderr
        try:
            code = cli.main(list(one.argv))
            new = {path.name for path in Path(folder).iterdir()} - there
            for one_stream in (out, err):
                one_stream.flush()
            if not _bytes(out).startswith(b"\x89PNG"):
                _bytes(out).decode()
            return code, _bytes(err).decode(), new
        finally:
            sys.stdin, sys.stdout, sys.stderr = before[:3]
            os.chdir(before[3])


def _bytes(text: io.TextIOWrapper) -> bytes:
    buffer: Any = text.buffer
    return bytes(buffer.getvalue())


def fault(seed: int, home: Home) -> str | None:
    """What is wrong with the outcome of a case, or None."""
    one = case(seed, home)
    try:
        with timed():
            code, err, new = outcome(one, home)
    except Hang:
        return f"hangs: {one.argv}"
    except BaseException:
        return f"escapes: {one.argv}\n{traceback.format_exc(limit=-3)}"
    named = {word for word in one.argv if word} | LEFT | {f"{word}.partial" for word in one.argv}
    wrong = [
        "an exit code outside the list" * (code not in list(Exit)),
        "a raw error" * bool(CRASH.search(err)),
        "no message" * (code in (1, 2) and not err.strip()),
        "a message that does not say who speaks" * (code in (1, 2) and "textdiff: " not in err and "usage:" not in err),
        "lines of a message that is one" * (code == 2 and err.count("\n") > 12),
        f"files left behind: {new - named}" * bool(new - named),
    ]
    if any(wrong):
        return f"{[w for w in wrong if w]} of {one.argv!r}, exit {code}\n{err[-600:]}"
    return None


@contextlib.contextmanager
def timed() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    limits = {signal.ITIMER_PROF: (signal.SIGPROF, SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, LONGEST)}
    before = {number: signal.signal(number, stop) for number, _ in limits.values()}
    try:
        for timer, (_, limit) in limits.items():
            signal.setitimer(timer, limit)
        yield
    finally:
        for timer, (number, _) in limits.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Home]:
    with at_home(tmp_path_factory.mktemp("home")) as found:
        yield found


@contextlib.contextmanager
def at_home(folder: Path) -> Iterator[Home]:
    """The models of the cases.  What most of the time would go into is made once: the sound models, and the parser of all flags."""
    found = Home(folder)
    sound = set(found.models.values())
    with pytest.MonkeyPatch.context() as patch:
        for pipeline in (Pipeline, ImagePipeline):
            patch.setattr(pipeline, "from_pretrained", _once(pipeline.from_pretrained, sound))
        whole = cli.parser()
        patch.setattr(cli, "parser", lambda words=None: whole)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield found


def _once(read: Callable[..., Any], sound: set[str]) -> Callable[..., Any]:
    once = functools.cache(read)
    return lambda model, *more, **how: (once if model in sound else read)(model, *more, **how)


def test_whatever_is_typed_ends_in_a_result_or_one_clear_line(home):
    assert not [found for seed in range(CASES) if (found := fault(seed, home))]


@pytest.mark.slow
def test_whatever_is_typed_many_times_over(home):
    assert not [found for seed in range(CASES, CASES + MANY) if (found := fault(seed, home))]


def main() -> None:
    first, last = (int(word) for word in sys.argv[1:3])
    folder = Path(tempfile.mkdtemp())
    with at_home(folder) as home:
        for seed in range(first, last):
            if found := fault(seed, home):
                print(f"{seed}: {found}", flush=True)
            if (seed + 1) % 500 == 0:
                print(f"up to {seed}: {time.process_time():.0f} seconds of the processor", file=sys.stderr, flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
