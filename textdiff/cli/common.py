"""What the verbs share: the parser, where results go, how texts come in, progress."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import enum
import gc
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from textdiff.core.errors import AskedError

# The verbs in the order of the help page -> the file that has them, and what they do.  A command imports the one file.
VERBS = {
    "generate": ("draw", "write poems; draw images"),
    "fill": ("draw", "fill the holes (□, _ or [MASK]) of poems and sentences"),
    "refine": ("draw", "rewrite the weakest characters of poems where that makes them likelier"),
    "augment": ("draw", "variants of texts to train on: a share is drawn anew, and what is kept stays"),
    "score": ("judge", "bound on −log p of each text, in nats per character"),
    "check": ("judge", "tones, rhyme and faults of regular verse; exit code 3 if a strict form is broken"),
    "choose": ("judge", "which candidates fit best into the slots of a text, with their probabilities"),
    "restore": ("judge", "the likeliest fillings of damaged texts, for each gap and all of it, with probabilities"),
    "evaluate": ("evaluate", "bound on a data file, by form; or generated poems beside real ones"),
    "train": ("train", "train by a recipe; the same command goes on where a stopped run ended"),
    "recipes": ("train", "the recipes that travel with the package; with a name, what is in one"),
    "curves": ("train", "the losses and bounds of training runs: a table, and curves in a picture"),
    "data": ("train", "prepare data"),
    "export": ("train", "a model for other programs"),
    "bench": ("bench", "timings"),
    "serve": ("service.serve", "answer requests over HTTP: generate, fill, refine, score"),
    "demo": ("service.demo", "a page on this machine: poems that condense, frozen and redrawn by the character"),
    "animate": ("lists", "make a moving picture of a trace: HTML, SVG or GIF"),
    "verify": ("lists", "every process × sampler against an exact predictor on small spaces"),
    "forms": ("lists", "the forms of poems"),
    "samplers": ("lists", "the samplers, what they serve and cost"),
    "env": ("lists", "versions, for reports of problems"),
}


class Exit(enum.IntEnum):
    """The exit codes of every verb; there are no others."""

    DONE = 0
    FAILED = (
        1  # the model folder, the output, an error while running; records that were skipped; a claim that does not hold
    )
    ASKED = 2  # the command asks for what cannot be
    BROKEN = 3  # check: a poem breaks its strict form
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one line, and an end of the help page that is made when the page is."""

    ending: Callable[[], str] | None = None

    def format_help(self) -> str:
        if self.ending is not None:
            self.epilog = self.ending()
        return argparse.ArgumentParser.format_help(self)

    def error(self, message: str) -> NoReturn:
        self.exit(Exit.ASKED, f"textdiff: {' '.join(message.split())}; see '{self.prog} --help'\n")


def add_verb(
    verbs: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    what: str | None = None,
    ending: Callable[[], str] | None = None,
    **more: Any,
) -> Parser:
    """A verb, or a part of one, of which `what` says what it does."""
    what = VERBS[name][1] if what is None else what
    p: Parser = verbs.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,
    )
    p.add_argument("--quiet", action="store_true", help="no progress")
    p.add_argument("--debug", action="store_true", help="show where an error arose")
    p.set_defaults(run=run, parser=p)
    p.ending = ending
    return p


def add_parts(verbs: Any, name: str, description: str, kind: str) -> Any:
    """What the parts of a verb are added to; `kind` says what they are."""
    p = verbs.add_parser(name, help=VERBS[name][1], description=description, allow_abbrev=False)
    return p.add_subparsers(title=f"{kind}s", dest=kind, metavar=kind.upper(), required=True, parser_class=Parser)


def model_flags(p: Parser, default: str = "the packaged model") -> None:
    p.add_argument("--model", metavar="DIR|ID", help=f"a model folder or hub id ({default})")
    p.add_argument("--device", default="cpu", help="(cpu)")
    p.add_argument(
        "--precision",
        choices=("float32", "bf16", "auto"),
        default="auto",
        help="of the network's products; auto: bf16 on a CPU where that is faster, float32 elsewhere (auto)",
    )
    p.add_argument("--threads", type=int, metavar="N", help="processors that may be used at once (those that are free)")


MALLOC = {-1: 1 << 28, -3: 1 << 25}  # what malloc.h calls M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, in bytes


def fit_threads(asked: int | None) -> None:
    """Let torch use so many processors, or those that are free.  It reads the number when it is imported."""
    if asked is not None and asked < 1:
        raise AskedError(f"threads is {asked}; it must be at least 1")
    if "torch" in sys.modules:
        if asked is not None:
            sys.modules["torch"].set_num_threads(asked)
    elif asked is not None or "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(free_processors() if asked is None else asked)


def keep_memory() -> None:
    """Have the C library keep memory that was freed for what is asked next, where it is glibc and the environment says nothing else.

    A network asks for the same few megabytes at every layer.  Memory that was given back comes anew from the system, which clears
    every page of it: on two cores of an AMD Zen 4 that was a tenth of the time of a batch, and a fifth of that of one text.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, size in MALLOC.items():
            mallopt(option, size)


def free_processors(load: str = "/proc/loadavg") -> int:
    """How many of the processors that we may use are idle, at least 1.

    Threads that share a processor wait for each other at every product.  A processor counts as taken if both the load of the
    last minute and what is running now say so: the first remembers our own commands, the second is a glance.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        minute, _, _, now, _ = Path(load).read_text().split()
        taken = min(float(minute), int(now.split("/")[0]) - 1)  # we are running, too
    except (OSError, ValueError):
        return processors
    return max(1, processors - round(taken))


def order_flags(p: Parser) -> None:
    """The flag of verbs that give likelihoods."""
    orders = "left, right, random:K, confidence, margin, entropy, or a file"
    p.add_argument("--order", help=f"instead: −log p of writing the text in this order ({orders})")


def format_flags(p: Parser) -> None:
    p.add_argument("--format", choices=("text", "jsonl"), default="text", help="(text)")
    p.add_argument("--json", dest="format", action="store_const", const="jsonl", help="the same as --format jsonl")
    p.add_argument("--out", metavar="FILE", help="write here instead of to stdout")


def text_flags(p: Parser) -> None:
    p.add_argument("text", nargs="*", metavar="TEXT", help="by default from stdin, one a line or JSON Lines")
    p.add_argument("--file", metavar="FILE", help="read the texts here; .gz too; - for stdin")


def names_of(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 1,2") from None


@contextlib.contextmanager
def writing(path: str | None, keep: bool = False) -> Iterator[TextIO]:
    """stdout, or a file that appears under its name when everything is written.

    If anything fails, nothing of it stays; with `keep` what was written stays as FILE.partial, and the error says so.
    """
    if path is None or path == "-":
        yield sys.stdout
        return
    check_writable(path)
    target = Path(path).resolve()
    try:
        if target.exists() and not target.is_file():  # a pipe or a device
            stream, temporary = target.open("w", encoding="utf-8"), None
        else:
            if target.exists():
                target.open("a").close()
            handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
            stream, temporary = os.fdopen(handle, "w", encoding="utf-8"), Path(name)
    except OSError as error:
        raise OSError(
            f"cannot write {path!r} ({error.strerror}); name a file in a folder that can be written"
        ) from error
    try:
        with stream:
            yield stream
            stream.flush()
            if temporary is not None:
                os.fsync(stream.fileno())
        if temporary is not None:
            _publish(temporary, target)
            temporary = None
    except BaseException as error:
        if keep and temporary is not None and temporary.stat().st_size:
            partial = target.with_name(f"{target.name}.partial")
            _publish(temporary, partial)
            temporary = None
            error.add_note(f"what was finished is in {str(partial)!r}")
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(path: str | None) -> None:
    """OSError where a file cannot be written; checked before the work that it is for."""
    if path is None or path == "-":
        return
    try:
        target = Path(path).resolve()
    except FileNotFoundError:
        raise OSError(f"cannot write {path!r}: the folder that we are in was removed; go to another one") from None
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {path!r}: it is a folder; name a file")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        reason = "Permission denied" if target.parent.is_dir() else "No such file or directory"
        raise OSError(f"cannot write {path!r} ({reason}); name a file in a folder that can be written")


def check_apart(read: str | None, **written: str | None) -> None:
    """AskedError where two names are those of one file, which would then lose what it has; `written` are flags."""
    names = {flag: os.path.realpath(path) for flag, path in written.items() if path not in (None, "-")}
    names = {flag: name for flag, name in names.items() if os.path.isfile(name) or not os.path.exists(name)}
    flags: dict[str, str] = {}
    for flag, name in names.items():
        if read is not None and name == os.path.realpath(read):
            raise AskedError(f"--{flag} is {written[flag]!r}, which is the file that is read; name another one")
        if name in flags:
            raise AskedError(f"--{flag} and --{flags[name]} are both {written[flag]!r}; name two files")
        flags[name] = flag


def _publish(temporary: Path, target: Path) -> None:
    """Put a file that is written under its name, with the rights that a new file has, or those of the file it replaces."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(target.stat().st_mode if target.exists() else 0o666 & ~mask)
    temporary.replace(target)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Without garbage collection: it is a quarter of the time that torch and transformers take to import (0.8 of 3.5 s)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def sign_of_life(a: argparse.Namespace, what: str) -> Iterator[None]:
    """A line on stderr for as long as something takes, on a terminal that was not asked to be quiet."""
    if a.quiet or not sys.stderr.isatty():
        yield
        return
    print(f"{what} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(f"\r{' ' * (len(what) + 2)}\r", end="", file=sys.stderr, flush=True)


def load_library() -> Any:
    """textdiff.pipeline.text, and torch with it."""
    with starting():
        from textdiff.pipeline import text as pipeline
    return pipeline


def open_model(a: argparse.Namespace) -> Any:
    """The pipeline of --model, of texts or of images as its folder says."""
    with sign_of_life(a, f"loading {a.model or 'the packaged model'}"), starting():
        from textdiff.pipeline import load

        return load(a.model, device=a.device, precision=a.precision)


def open_pipeline(a: argparse.Namespace) -> Any:
    with sign_of_life(a, f"loading {a.model or 'the packaged model'}"), starting():
        return load_library().Pipeline.from_pretrained(a.model, device=a.device, precision=a.precision)


def json_lines(values: Iterable[dict[str, Any]]) -> None:
    for value in values:
        print(json.dumps(value, ensure_ascii=False))


def in_colour(out: TextIO) -> bool:
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def progress_bar(a: argparse.Namespace, total: int | None, unit: str) -> Any:
    """A progress bar on stderr, on a terminal only."""
    from tqdm import tqdm

    off = a.quiet or getattr(a, "watch", False)
    counted = f"%|{{bar}}| {{n:.0f}}/{{total:.0f}} {unit}s [{{elapsed}}<{{remaining}}]"
    form = f"{{percentage:3.0f}}{counted}" if total else f"{{n:.0f}} {unit}s [{{elapsed}}, {{rate_fmt}}]"
    return tqdm(total=total, unit=unit, file=sys.stderr, disable=True if off else None, leave=False, bar_format=form)


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def stage_line(stage: str, done: int, total: int) -> None:
    print(f"\r{stage} {done}" + (f" of {total}" if total else ""), end="\n" if done == total else "", file=sys.stderr)
