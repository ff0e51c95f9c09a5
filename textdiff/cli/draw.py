"""generate, fill, refine: texts that are written."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from textdiff.cli.common import (
    add_verb,
    format_flags,
    in_colour,
    json_line,
    names_of,
    numbers,
    open_pipeline,
    progress_bar,
    records_of,
    text_flags,
    writing,
)
from textdiff.cli.drawing import (
    drawing_flags,
    names_epilog,
    new_options,
    onlookers,
    options_of,
    text_header,
    watching_flags,
)
from textdiff.cli.pictures import draw_images, fill_images, for_images
from textdiff.core.errors import AskedError


def add(verbs: Any) -> None:
    """The verbs of this file and their flags."""
    p = add_verb(verbs, "generate", generate, "write poems; draw images", epilog=names_epilog())
    p.add_argument("-n", "--n", type=int, default=1, help="how many (1)")
    p.add_argument("--template", metavar="FILE", help="a text with holes (□ or _) to fill in n ways; - for stdin")
    p.add_argument("--upper", metavar="LINE", help="the upper line of a couplet, for which the lower one is written")
    drawing_flags(p, "generate")
    watching_flags(p)
    format_flags(p)

    p = add_verb(verbs, "fill", fill, "fill the holes (□, _ or [MASK]) of poems and sentences", epilog=names_epilog())
    text_flags(p)
    images = drawing_flags(p, "fill")["images"]
    images.add_argument(
        "--mask", metavar="FILE", help="white where to draw anew; or left, right, top, bottom, centre (centre)"
    )
    images.add_argument(
        "--level", type=float, help="a model of cold diffusion without --mask: degrade so far, and restore (1)"
    )
    watching_flags(p)
    format_flags(p)

    p = add_verb(
        verbs,
        "refine",
        refine,
        "rewrite the weakest characters of poems where that makes them likelier",
        epilog=names_epilog(),
    )
    text_flags(p)
    p.add_argument("--rounds", type=int, default=3, help="at most so many, each of which may change k characters (3)")
    p.add_argument("--k", type=int, default=3, help="characters rewritten together (3)")
    p.add_argument("--patience", type=int, default=2, help="end after so many rounds in a row without gain (2)")
    p.add_argument("--keep", type=numbers, default=(), metavar="LINE,…", help="these lines stay: 1,2")
    p.add_argument(
        "--freeze", type=names_of, default=(), metavar="LINE:POSITION,…", help="these characters stay: 3:5,4:7"
    )
    p.add_argument("--variations", type=int, metavar="N", help="instead of rounds: N versions with a share drawn anew")
    p.add_argument("--level", type=float, help="that share of the free characters, more than 0 up to 1 (0.25)")
    drawing_flags(p, "refine")
    format_flags(p)


def generate(a: argparse.Namespace) -> None:
    if for_images(a):
        draw_images(a)
        return
    with writing(a.out) as out:
        options, pipe = new_options(a), open_pipeline(a)
        if a.n < 1:
            raise AskedError(f"n is {a.n}; it must be at least 1")
        _draw(a, pipe, options, ({} for _ in range(a.n)), a.n, "poem", out)


def fill(a: argparse.Namespace) -> None:
    if for_images(a):
        fill_images(a)
        return
    records = records_of(a)
    with writing(a.out) as out:
        pipe = open_pipeline(a)
        _draw(a, pipe, options_of(a), records, len(records), "text", out)


def _draw(
    a: argparse.Namespace, pipe: Any, options: Any, records: Iterable[Any], n: int, unit: str, out: TextIO
) -> None:
    """Draws a text for each record, and writes it as soon as it and those before it are done."""
    header, said = text_header(pipe.plan(options), pipe.model.name, [a.seed + k for k in range(n)])
    with onlookers(a, header, said) as watch, progress_bar(a, n, unit) as bar:
        before = ""
        for output in pipe.each(records, options, seed=a.seed, watch=watch):
            before = write_output(output, a.format, out, before)
            bar.update()


def refine(a: argparse.Namespace) -> None:
    records = records_of(a)
    with writing(a.out) as out:
        pipe = open_pipeline(a)
        form = a.form or [record.get("form") for record in records]
        with progress_bar(a, len(records), "poem") as bar:
            results = pipe.refine(
                [record["text"] for record in records],
                form,
                a.seed,
                options_of(a),
                rounds=a.rounds,
                k=a.k,
                patience=a.patience,
                keep=a.keep,
                freeze=a.freeze,
                variations=a.variations,
                level=a.level,
                callback=bar.update,
            )
        for number, one in enumerate(results):
            if a.format == "jsonl":
                print(json_line(one), file=out)
            else:
                print(*[""] * bool(number), *_refined_lines(one, in_colour(out)), sep="\n", file=out)


def write_output(output: Any, style: str, out: TextIO, before: str) -> str:
    """Writes a text, apart from the one `before` by an empty line if either has several lines; the text."""
    if style == "jsonl":
        print(json_line(output), file=out)
    else:
        print(*[""] * bool(before and "\n" in before + output.text), output.text, sep="\n", file=out)
    out.flush()
    return str(output.text)


def _refined_lines(one: Any, colours: bool) -> Iterator[str]:
    """A poem before and after side by side, what is new marked, and a line of scores."""
    begin, end = ("\033[1;32m", "\033[0m") if colours else ("[", "]")
    new = {(change.line, change.character) for change in one.changed}
    before, after = one.before.splitlines(), one.after.splitlines()
    line, character = 1, 0
    for old, now in zip(before, after, strict=True):
        shown = ""
        for sign in now:
            if sign in "，。":
                line, character = line + 1, 0
            else:
                character += 1
            shown += f"{begin}{sign}{end}" if (line, character) in new and sign not in "，。" else sign
        yield f"{old}  →  {shown}"
    which = "" if one.variation is None else f"variation {one.variation}: "
    size = f"{len(one.changed)} character{'s' * (len(one.changed) != 1)} changed"
    rounds = "" if one.variation is not None else f" in {one.rounds} round{'s' * (one.rounds != 1)}"
    yield (
        f"{which}{one.score_before:.4f} → {one.score_after:.4f} nats/char given the others, "
        f"bound {one.bound_before:.4f} → {one.bound_after:.4f}; {size}{rounds}"
    )
    if one.mended:
        places = ", ".join(f"{line}:{character}" for line, character in one.mended)
        yield f"first rewritten, as the prosody asked for broke there: {places}"
