"""score, check, choose, restore: texts that are there are judged."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from textdiff.cli.bulk import Conditions, Unread, bulk_flags, forms_of, incoming, results, separated, through
from textdiff.cli.common import (
    Exit,
    add_verb,
    check_writable,
    format_flags,
    in_colour,
    model_flags,
    open_pipeline,
    order_flags,
    progress_bar,
    text_flags,
    writing,
)
from textdiff.cli.jobs.running import check_jobs, do_jobs, job_flags
from textdiff.core.errors import AskedError
from textdiff.pipeline.jobs.lines import joined

if TYPE_CHECKING:
    from textdiff.data.records import Record

_PLACE = re.compile(r"\s*\d+\s*:\s*\d+\s*")


def add(verbs: Any) -> None:
    """The verbs of this file and their flags."""
    p = add_verb(verbs, "score", score)
    text_flags(p)
    p.add_argument("--form", help="the form of every text (by default what its shape says)")
    p.add_argument("--process", help="the bound of this process (the model's first one)")
    order_flags(p)
    p.add_argument("--steps", type=int, metavar="N", help="with --order: in N steps (one position at a time)")
    p.add_argument("--levels", type=int, help="stratified levels of each run (all)")
    p.add_argument("--repeats", type=int, default=4, help="runs that the average and its error are taken over (4)")
    p.add_argument("--detail", action="store_true", help="how likely each character is, given all the others")
    p.add_argument("--svg", metavar="FILE", help="the detail as a heat map")
    p.add_argument("--png", metavar="FILE", help="the same in pixels")
    p.add_argument("--font", metavar="FILE", help="for PNG: a font with the characters (one of the system's)")
    p.add_argument("--seed", type=int, help="(that of the record, or 0)")
    bulk_flags(p)
    model_flags(p)
    format_flags(p)
    job_flags(p)

    p = add_verb(verbs, "check", check)
    text_flags(p)
    p.add_argument("--form", help="the form of every text (by default what its shape says)")
    p.add_argument(
        "--reading",
        type=reading,
        action="append",
        default=[],
        metavar="LINE:POSITION=READING",
        help="how a character is read: 3:5=平, 3:5=去翰, or 看=平 wherever it stands; may be repeated",
    )
    bulk_flags(p)
    p.add_argument("--json", action="store_true", help="JSON Lines")
    p.add_argument("--out", metavar="FILE", help="write here instead of to stdout")

    p = add_verb(verbs, "choose", choose)
    text_flags(p)
    p.add_argument(
        "--slot",
        type=slot,
        action="append",
        default=[],
        metavar="NAME=A,B,…",
        help="the candidates of {NAME}, words or numbers 1..9; may be repeated (the record's own slots)",
    )
    p.add_argument(
        "--template", metavar="TEXT", help="put the records into this: {text} on {topic}, with --slot topic=…"
    )
    p.add_argument("--form", help="the form of every text (by default what its shape says)")
    p.add_argument(
        "--compare",
        choices=("text", "slots"),
        default="text",
        help="texts of different lengths, by the whole text or by the slots alone (text)",
    )
    p.add_argument("--order", help="in which the slots are written (left, or that of a writer)")
    p.add_argument("--limit", type=int, default=4096, metavar="N", help="texts that are compared at most (4096)")
    p.add_argument("--seed", type=int, default=0, help="of random orders (0)")
    bulk_flags(p)
    model_flags(p)
    format_flags(p)

    p = add_verb(
        verbs,
        "restore",
        restore,
    )
    text_flags(p)
    p.add_argument("--form", help="the form of every text (by default what its shape says)")
    p.add_argument("--top", type=int, default=20, metavar="N", help="fillings of each gap (20)")
    p.add_argument("--width", type=int, default=64, metavar="N", help="of the beam that finds them (64)")
    p.add_argument("--order", help="in which the gaps are written (left, or that of a writer)")
    p.add_argument("--seed", type=int, default=0, help="of random orders (0)")
    bulk_flags(p)
    model_flags(p)
    format_flags(p)


def score(a: argparse.Namespace) -> int:
    check_jobs(a)
    if a.input is not None:
        ways = ("form", "process", "order", "steps", "levels", "repeats")
        return do_jobs(a, {name: getattr(a, name) for name in ways} | ({"detail": True} if a.detail else {}))
    records = incoming(a)
    total = len(a.text) or None
    for path in (a.svg, a.png):
        check_writable(path)
    pipe = open_pipeline(a)
    from textdiff.pipeline.page import unread
    from textdiff.pipeline.score.scorer import with_detail

    detailed, drawn = a.detail or a.svg or a.png, list[Any]()
    told, strange = Conditions(pipe.model), Unread(lambda text: unread(text, pipe.model))

    def work(chunk: list[Record]) -> list[Any]:
        return _scored(pipe, a, chunk, told, bool(detailed))

    def show(record: Record, result: Any, out: TextIO) -> None:
        one, detail = result
        strange.looked(record)
        if a.svg or a.png:
            drawn.append(detail)
        if a.format == "jsonl":
            print(joined(with_detail(one, detail), record.fields), file=out)
        elif detail is None:
            print(score_line(one), file=out)
        else:
            _write_detail(one, detail, out)

    def end(out: TextIO) -> None:
        if detailed and a.format == "text" and in_colour(out):
            from textdiff.show.watching import scale

            scale(out)

    code = through(a, results(records, work, a.on_error == "skip"), show, total=total, end=end)
    _draw_heat(a, drawn)
    return code


def _scored(pipe: Any, a: argparse.Namespace, chunk: list[Record], told: Conditions, detailed: bool) -> list[Any]:
    """(score, detail or None) of each record.  Records with seeds of their own are scored by these."""
    texts, form, said = [record.text for record in chunk], forms_of(chunk, a.form), told.of(chunk)
    seeds = [(record.get("seed") or 0) if a.seed is None else a.seed for record in chunk]
    options = {name: getattr(a, name) for name in ("process", "order", "steps", "levels", "repeats")}
    scores = pipe.score(texts, form, **options, seed=seeds, **said)
    details = pipe.detail(texts, form, **said) if detailed else [None] * len(texts)
    return list(zip(scores, details, strict=True))


def score_line(one: Any) -> str:
    error = "" if one.standard_error is None else f" ± {one.standard_error:.4f}"
    unknown = f", {one.unknown} unknown" if one.unknown else ""
    text, (short, unit) = "".join(one.text.splitlines()), unit_of(one)
    return f"{one.nats_per_char:.4f}{error} nats/{short}  {one.characters} {unit}s{unknown}  {text}"


def unit_of(one: Any) -> tuple[str, str]:
    """What the numbers of a score count: characters, or tokens where these are something else."""
    bare = "".join(one.text.split())
    letters = [c for c in bare if unicodedata.category(c)[0] != "P"]
    alike = one.characters in (len(one.text), len(bare), len(letters))
    return ("char", "character") if alike else ("token", "token")


def _write_detail(one: Any, detail: Any, out: TextIO) -> None:
    """A score and the nats of each character, in colours at a terminal, or as a table."""
    print(score_line(one), file=out)
    if in_colour(out):
        from textdiff.show.watching import coloured

        coloured(detail, out)
    else:
        from textdiff.show.heat import table

        print(*table(detail), sep="\n", file=out)
    print(file=out)


def _draw_heat(a: argparse.Namespace, details: Sequence[Any]) -> None:
    """The heat map, where it is asked for."""
    if not details:
        return
    from textdiff.show import pictures

    scene = pictures.heat_map(details)
    if a.svg:
        with writing(a.svg) as out:
            out.write(pictures.svg(scene))
    if a.png:
        with writing(a.png) as out:
            out.buffer.write(pictures.png(scene, a.font))


def check(a: argparse.Namespace) -> int:
    from textdiff.verse import checker, script
    from textdiff.verse.forms import split_at_punctuation

    for key, value in a.reading:
        if not _PLACE.fullmatch(key):
            if not split_at_punctuation(key):
                raise AskedError(f"--reading {f'{key}={value}'!r} names no character; write it like 3:5=平 or 看=平")
            checker.check(key, pronounce={key: value})  # whether it is a character that can be read so
    records = incoming(a)
    first = list(itertools.islice(records, 2))
    records = itertools.chain(first, records)
    places = [key for key, _ in a.reading if _PLACE.fullmatch(key)]
    if places and len(first) > 1:
        raise AskedError(f"--reading {places[0]} is a place, but there is more than one text; name the character")
    met, broken, strange = set[str](), 0, Unread(script.unread)

    def one(record: Record) -> Any:
        here = {key: value for key, value in a.reading if key in places or key in record.text}
        met.update(here)
        return checker.check(record.text, a.form or record.get("form"), pronounce=here)

    def show(record: Record, report: Any, out: TextIO) -> None:
        nonlocal broken
        broken += report.broken
        strange.looked(record)
        if a.json:
            print(joined(report, record.fields), file=out)
        else:
            write(checker.describe(report, colours=in_colour(out)), out)

    write = separated()
    found = results(records, lambda chunk: [one(record) for record in chunk], a.on_error == "skip")
    code = through(a, found, show, total=len(a.text) or None)
    if unmet := [key for key, _ in a.reading if key not in met]:
        raise AskedError(f"--reading {unmet[0]} names no character of any text; leave it out")
    return code or (Exit.BROKEN if broken else Exit.DONE)


def reading(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key.strip() and equals and value.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not LINE:POSITION=READING, such as 3:5=平")
    return key, value


# -- choose ---------------------------------------------------------------------------------------------------------------

LISTED = 10  # assignments that are printed


def choose(a: argparse.Namespace) -> int:
    records = incoming(a)
    pipe = open_pipeline(a)
    told, slots = Conditions(pipe.model), _once(a.slot)
    from textdiff.pipeline.score.template import Template

    def template(record: Record) -> Any:
        mine = slots or record.get("slots") or {}
        text = record.text if a.template is None else a.template
        return Template.parse(text, mine, {} if a.template is None else record.fields)

    def work(chunk: list[Record]) -> list[Any]:
        options = {"compare": a.compare, "order": a.order, "limit": a.limit, "seed": a.seed}
        templates = [template(record) for record in chunk]
        found: list[Any] = pipe.choose(templates, form=forms_of(chunk, a.form), **options, **told.of(chunk))
        return found

    def show(record: Record, one: Any, out: TextIO) -> None:
        if a.format == "jsonl":
            print(joined(one, record.fields), file=out)
        else:
            write(chosen_lines(one), out)

    write = separated()
    return through(a, results(records, work, a.on_error == "skip"), show, total=len(a.text) or None)


def chosen_lines(one: Any) -> str:
    """The likeliest text, and the likeliest assignments below it."""
    rows = [f"{row.probability:8.4f}  {' '.join(map(str, row.labels.values()))}" for row in one.assignments[:LISTED]]
    more = len(one.assignments) - LISTED
    rows += [f"          and {more} more"] if more > 0 else []
    return "\n".join([one.text, *rows, f"entropy {one.entropy:.3f} nats, margin {one.margin:.3f}"])


def slot(text: str) -> tuple[str, list[str]]:
    """NAME=A,B or NAME=1..9."""
    name, equals, words = text.partition("=")
    first, dots, last = words.partition("..")
    if dots and first.strip().isdecimal() and last.strip().isdecimal():
        return name.strip(), [str(k) for k in range(int(first), int(last) + 1)[: 1 << 16]]
    if not (name.strip() and equals and words.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=A,B, such as season=spring,autumn or n=1..9")
    if "，" in words and "," not in words:
        raise argparse.ArgumentTypeError(f"{text!r} has one candidate; write the comma between two as , and not as ，")
    return name.strip(), [word.strip() for word in words.split(",")]


def _once(slots: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """The candidates of each slot; AskedError where --slot names one twice."""
    twice = next((name for name, n in Counter(name for name, _ in slots).items() if n > 1), None)
    if twice is not None:
        raise AskedError(f"--slot {twice} is given twice; write all its candidates into one, separated by commas")
    return dict(slots)


# -- restore --------------------------------------------------------------------------------------------------------------


def restore(a: argparse.Namespace) -> int:
    records = incoming(a)
    pipe = open_pipeline(a)
    from textdiff.pipeline.page import unread

    told, strange = Conditions(pipe.model), Unread(lambda text: unread(text, pipe.model))

    def work(chunk: list[Record]) -> list[Any]:
        texts, before = [record.text for record in chunk], bar.n
        options = {"top": a.top, "width": a.width, "order": a.order, "seed": a.seed, "callback": bar.update}
        try:
            found: list[Any] = pipe.restore(texts, forms_of(chunk, a.form), **options, **told.of(chunk))
        except AskedError:  # those of the texts that are sound are done again
            bar.update(before - bar.n)
            raise
        return found

    def show(record: Record, one: Any, out: TextIO) -> None:
        strange.looked(record)
        if a.format == "jsonl":
            print(joined(dataclasses.asdict(one), record.fields), file=out)
        else:
            write(restored_lines(one), out)

    write, bar = separated(), progress_bar(a, len(a.text) or None, "text")
    return through(a, results(records, work, a.on_error == "skip"), show, bar=bar)


def restored_lines(one: Any) -> str:
    """The restored text, and the likeliest fillings of each gap."""
    rows = [f"{one.text}", f"{one.probability:8.4f}  all gaps together"]
    for number, gap in enumerate(one.gaps, start=1):
        likely = "  ".join(f"{row.text} {row.probability:.3f}" for row in gap.fillings)
        sizes = "  ".join(f"{size}: {p:.3f}" for size, p in gap.lengths.items())
        rows.append(
            f"{gap.covered:8.4f}  gap {number}: {likely}" + (f"  (length {sizes})" if len(gap.lengths) > 1 else "")
        )
    return "\n".join(rows)
