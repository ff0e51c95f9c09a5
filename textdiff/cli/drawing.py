"""The flags that say how texts are drawn, and what they come to: keywords of the library, onlookers."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from textdiff import __version__
from textdiff.cli.common import Parser, log, model_flags
from textdiff.core.errors import AskedError


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


def drawing_flags(p: Parser) -> None:
    p.add_argument(
        "--form", help="a form by name, wuyan-jueju or 五言绝句 (the model's default; for fill, the text's shape)"
    )
    p.add_argument("--seed", type=int, default=0, help="text k is drawn with seed + k (0)")
    p.add_argument("--sampler", help="(the model's default)")
    p.add_argument("--steps", type=int, help="(one position at a time)")
    p.add_argument("--temperature", type=float, help="1 is the law of the model itself (the model's default)")
    p.add_argument("--top-p", type=float, help="draw from the likeliest tokens that make up this share")
    p.add_argument("--process", help="(the model's first one)")
    p.add_argument("--option", type=option, action="append", default=[], metavar="NAME=VALUE", help="the sampler's own")
    p.add_argument("--quality", help="draft, good or best: steps and candidates chosen for you (good)")
    p.add_argument(
        "--best-of", type=int, metavar="N", help="give the best of N candidates, by prosody and the model's bound"
    )
    verse = p.add_argument_group("verse")
    verse.add_argument("--title", help="what the poem is about: its first 8 characters count")
    verse.add_argument("--dynasty", help="tang or song")
    verse.add_argument(
        "--guidance", type=float, help="how far towards title and dynasty; 1 is as trained, 1.5 stronger"
    )
    verse.add_argument(
        "--prosody", metavar="MODE", help="tones and rhyme: strict, prefer, prefer:WEIGHT (nats) or off (off)"
    )
    verse.add_argument(
        "--tones",
        metavar="MODE|PATTERN",
        help="the same for tones alone, auto (strict), or 平起首句入韵, 仄起, 首句不入韵 …",
    )
    verse.add_argument(
        "--rhyme",
        metavar="MODE|GROUP",
        help="the same for rhyme alone, auto (strict), or a group of 平水韵 such as 七阳",
    )
    verse.add_argument("--avoid", metavar="FAULT,…", help="孤平 (guping), 三平尾 (sanpingwei); with strict tones")
    verse.add_argument("--no-repeat", action="store_true", help="no character twice")
    verse.add_argument("--keyword", help="characters that stand together somewhere, where the model would have them")
    verse.add_argument(
        "--particles",
        type=int,
        metavar="N",
        help="chains a poem, resampled by their weights (strict prosody, mask process)",
    )
    p.add_argument(
        "--script",
        choices=("simplified", "traditional"),
        help="print in these characters, but for given ones (as the model writes, for poems-zh simplified); traditional "
        "ones are made from simplified text, which is lossy (needs textdiff[zh])",
    )
    model_flags(p)


def watching_flags(p: Parser) -> None:
    p.add_argument("--watch", action="store_true", help="show the texts at the terminal (stderr) while they are drawn")
    p.add_argument("--delay", type=float, default=0.0, help="seconds between two states of --watch (0)")
    p.add_argument("--trace", metavar="FILE", help="write every state here, JSON Lines; see 'textdiff animate'")


def option(text: str) -> tuple[str, float | str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as eta=0.5")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def settings_of(a: argparse.Namespace) -> dict[str, Any]:
    """The flags that decide how a text is drawn."""
    names: tuple[str, ...] = ("sampler", "process", "steps", "temperature", "top_p", "dynasty", "title", "script")
    names += (
        "guidance",
        "prosody",
        "tones",
        "rhyme",
        "avoid",
        "no_repeat",
        "keyword",
        "particles",
        "best_of",
        "quality",
    )
    return {name: getattr(a, name) for name in names} | {"options": options_of(a)}


def options_of(a: argparse.Namespace) -> dict[str, Any]:
    """What --option says; a word only where the sampler named takes one."""
    options = dict(a.option)
    for name, value in options.items():
        if isinstance(value, str):
            from textdiff.core.resolve import attribute
            from textdiff.samplers import SAMPLERS

            entry = SAMPLERS.get(a.sampler or "")
            takes = inspect.signature(attribute(entry.path)).parameters if entry else {}
            if name in takes and not isinstance(takes[name].default, str):
                raise AskedError(f"--option {name}={value}: sampler {a.sampler!r} takes a number there; pass one")
            if name not in takes:
                raise AskedError(
                    f"--option {name}={value} is no number, and no --sampler is named that takes a word there"
                )
    return options


def given_of(a: argparse.Namespace) -> dict[str, Any]:
    """The characters of a new text that are given, and with an upper line the form of a couplet."""
    given = {name: getattr(a, name) for name in ("acrostic", "acrostic_end", "acrostic_diagonal")}
    if a.upper is None:
        return given | {"template": None if a.template is None else read_template(a.template)}
    from textdiff.verse.forms import split_at_punctuation

    if a.template is not None:
        raise AskedError(
            "both --upper and --template are given; write the upper line into the template, or pass one of them"
        )
    width = len("".join(split_at_punctuation(a.upper)))
    if a.form not in (None, f"couplet:{width}"):
        raise AskedError(
            f"--upper has {width} characters, but the form is {a.form!r}; pass --form couplet:{width}, or no form"
        )
    return given | {"template": a.upper, "form": f"couplet:{width}"}


def read_template(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise AskedError(f"template {path!r} cannot be read ({reason}); pass a text file, or - for stdin") from error


@contextlib.contextmanager
def onlookers(
    a: argparse.Namespace,
    pipe: Any,
    n: int,
    settings: dict[str, Any],
    texts: Sequence[str] | None = None,
    form: Any = None,
) -> Iterator[Callable[[Callable[[Any], None]], contextlib.AbstractContextManager[Callable[[Any], None]]]]:
    """Makes a callback one that the display of --watch and the file of --trace are told by as well."""
    watch = a.watch and sys.stderr.isatty()
    if a.watch and not watch:
        log("textdiff: --watch needs a terminal at stderr; going on without")
    if not (watch or a.trace):
        yield contextlib.nullcontext
        return
    from textdiff.pipeline import following
    from textdiff.show import trace
    from textdiff.show.watching import watching

    plan = pipe.plan(**{name: settings[name] for name in inspect.signature(pipe.plan).parameters if name in settings})
    each = plan.best_of * (plan.particles or 1)
    if texts is None:
        named = inspect.signature(following.new_texts).parameters
        casting = following.new_texts(pipe, **{name: value for name, value in settings.items() if name in named})
    else:
        casting = following.filled_texts(pipe, texts, form, script=settings["script"], each=each)
    header = {
        "textdiff": __version__,
        "model": pipe.model.name,
        "form": settings.get("form", form),
        "process": plan.process_name,
        "sampler": plan.sampler,
        "settings": {name: value for name, value in settings.items() if value is not None and name != "form"}
        | {name: getattr(plan, name) for name in ("steps", "temperature", "top_p", "options")},
        "seeds": [a.seed + k for k in range(n)],
        "each": each,
    }
    with contextlib.ExitStack() as stack:
        record = stack.enter_context(trace.recording(a.trace, header)) if a.trace else None

        @contextlib.contextmanager
        def looking_on(callback: Callable[[Any], None]) -> Iterator[Callable[[Any], None]]:
            with watching(sys.stderr, a.delay) if watch else contextlib.nullcontext() as show:
                follow = following.following(casting, record, show, decode=plan.process.decode)

                def both(state: Any) -> None:
                    callback(state)
                    follow(state)

                yield both

        yield looking_on


def advance(bar: Any, done: int) -> Callable[[Any], None]:
    """A callback that moves the bar as the states of its batches come down to level 0."""
    before = done

    def move(state: Any) -> None:
        nonlocal before
        bar.update(max(0.0, before + len(state.x) * (1 - state.t.max().item()) - bar.n))
        if not state.t.any():
            before = bar.n

    return move
