"""The flags that say how texts and images are drawn, made of the fields of `Options`; and who looks on while they are."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from textdiff import __version__
from textdiff.cli.common import Parser, log, model_flags
from textdiff.core.errors import AskedError
from textdiff.pipeline.options import CHOICES, NEW, Options

MOST_OF_A_TUNE = 10_000  # characters of its file


def names_epilog() -> str:
    """The tables, for the end of a help page."""
    from textdiff.processes import PROCESSES
    from textdiff.samplers import SAMPLERS
    from textdiff.verse.forms import FORMS, SIZED_FORMS

    rows = [
        ("forms", {f.name: f.chinese for f in FORMS.values()} | SIZED_FORMS),
        ("samplers", {name: entry.summary for name, entry in SAMPLERS.items()}),
        ("processes", {name: entry.summary for name, entry in PROCESSES.items()}),
    ]
    return "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {name:16} {about}" for name, about in table.items()) for title, table in rows
    )


def drawing_flags(p: Parser, call: str) -> dict[str, Any]:
    """A flag for every option of a call, with what its field says; the groups that they stand in, by name."""
    about = "for a model of images, which writes a PNG; TEXT is then an image file, or digits:K"
    groups: dict[str, Any] = {"": p, "verse": p.add_argument_group("verse")}
    if call in NEW:
        groups["images"] = p.add_argument_group("images", about)
    for name, one in CHOICES.items():
        if not one.flag or call not in one.calls:
            continue
        more: dict[str, Any] = {"help": one.about.replace("%", "%%")}
        if one.type is bool:
            more["action"] = "store_true"
        elif one.type is str:
            more |= {"metavar": one.metavar, "choices": one.words or None}
        else:
            more |= {"metavar": one.metavar, "type": number_or_word(one.words[0]) if one.words else one.type}
        groups[one.group].add_argument(f"--{name.replace('_', '-')}", **more)
    p.add_argument(
        "--option",
        type=option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=CHOICES["sampler_options"].about,
    )
    p.add_argument("--seed", type=int, help="text k is drawn with seed + k (0, or the record's own seed)")
    if call == "generate":
        model_flags(p, "poems-zh-writer, or poems-zh where a process or a sampler is named")
    else:
        model_flags(p)
    return groups


def options_of(a: argparse.Namespace) -> Options:
    """What the flags say."""
    given = {name: getattr(a, name) for name, one in CHOICES.items() if one.flag and hasattr(a, name)}
    if (given.get("form") or "").endswith(".tune"):
        given["form"] = _tune_name(given["form"])
    return Options(**given, sampler_options=dict(a.option) or None)


def _tune_name(path: str) -> str:
    """The name of the form that a file of a tune describes; its first line may name it, as in `# 忆江南`."""
    try:
        rows = Path(path).read_text(encoding="utf-8-sig")[:MOST_OF_A_TUNE].splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AskedError(
            f"tune {path!r} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'}); name a text file, with lines "
            f"such as 平中仄，"
        ) from None
    return "tune:" + "/".join(row.strip() for row in rows if row.strip() and not row.startswith("#"))


def watching_flags(p: Parser) -> None:
    p.add_argument("--watch", action="store_true", help="show the texts at the terminal (stderr) while they are drawn")
    p.add_argument("--delay", type=float, default=0.0, help="seconds between two states of --watch (0)")
    p.add_argument("--trace", metavar="FILE", help="write every state here, JSON Lines; see 'textdiff animate'")


def number_or_word(word: str) -> Callable[[str], int | str]:
    """Reads a whole number, or this one word."""

    def read(text: str) -> int | str:
        try:
            return text if text == word else int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {word!r}") from None

    return read


def option(text: str) -> tuple[str, float | str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as eta=0.5")
    try:
        return name, float(value)
    except ValueError:
        return name, value


@contextlib.contextmanager
def onlookers(
    a: argparse.Namespace, header: Mapping[str, Any], options: Mapping[str, Any]
) -> Iterator[Callable[[Any], None] | None]:
    """What is to be called with every frame, or shot, of a run: the display of --watch and the file of --trace; None without them."""
    watch = a.watch and sys.stderr.isatty()
    if a.watch and not watch:
        log("textdiff: --watch needs a terminal at stderr; going on without")
    if a.trace and a.out and Path(a.trace).resolve() == Path(a.out).resolve():
        raise AskedError(f"--trace and --out are both {a.out!r}; name two files")
    if not (watch or a.trace):
        yield None
        return
    from textdiff.show import trace
    from textdiff.show.watching import watching

    whole = {"textdiff": __version__} | dict(header) | {"settings": {k: v for k, v in options.items() if v is not None}}
    with contextlib.ExitStack() as stack:
        looks = [stack.enter_context(trace.recording(a.trace, whole))] if a.trace else []
        looks += [stack.enter_context(watching(sys.stderr, a.delay))] if watch else []
        follow = trace.follower()

        def look(frame: Any) -> None:
            shot = frame if isinstance(frame, trace.Shot) else follow(frame)
            for one in looks:
                one(shot)

        yield look
