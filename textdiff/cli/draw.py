"""generate, fill, refine, augment: texts that are written."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from textdiff.cli.bulk import (
    Conditions,
    bulk_flags,
    forms_of,
    incoming,
    one_by_one,
    results,
    seeds_of,
    separated,
    through,
)
from textdiff.cli.common import (
    add_verb,
    check_writable,
    format_flags,
    in_colour,
    log,
    names_of,
    numbers,
    open_model,
    open_pipeline,
    progress_bar,
    text_flags,
    writing,
)
from textdiff.cli.drawing import (
    drawing_flags,
    names_epilog,
    onlookers,
    options_of,
    watching_flags,
)
from textdiff.cli.jobs.running import check_jobs, do_jobs, job_flags
from textdiff.cli.pictures import check_kind, draw_images, fill_images, of_images
from textdiff.core.errors import AskedError
from textdiff.networks.files import for_new_texts
from textdiff.pipeline.jobs.lines import joined
from textdiff.pipeline.options import Options
from textdiff.pipeline.revision.keep import all_kept
from textdiff.processes import PROCESSES
from textdiff.shaping.match.expression import parse

if TYPE_CHECKING:
    from textdiff.data.records import Record


def add(verbs: Any) -> None:
    """The verbs of this file and their flags."""
    p = add_verb(verbs, "generate", generate, ending=names_epilog)
    p.add_argument("-n", "--n", type=int, default=1, help="how many (1)")
    p.add_argument("--template", metavar="FILE", help="a text with holes (□ or _) to fill in n ways; - for stdin")
    p.add_argument("--upper", metavar="LINE", help="the upper line of a couplet, for which the lower one is written")
    drawing_flags(p, "generate")
    watching_flags(p)
    format_flags(p)
    job_flags(p)

    p = add_verb(verbs, "fill", fill, ending=names_epilog)
    text_flags(p)
    images = drawing_flags(p, "fill")["images"]
    images.add_argument(
        "--mask", metavar="FILE", help="white where to draw anew; or left, right, top, bottom, centre (centre)"
    )
    images.add_argument(
        "--level", type=float, help="a model of cold diffusion without --mask: degrade so far, and restore (1)"
    )
    bulk_flags(p)
    watching_flags(p)
    format_flags(p)
    job_flags(p)

    p = add_verb(
        verbs,
        "refine",
        refine,
        ending=names_epilog,
    )
    text_flags(p)
    p.add_argument("--rounds", type=int, help="at most so many, each of which may change k characters (3)")
    p.add_argument("--k", type=int, help="characters rewritten together (3)")
    p.add_argument("--patience", type=int, help="end after so many rounds in a row without gain (2)")
    p.add_argument("--keep", type=numbers, default=(), metavar="LINE,…", help="these lines stay: 1,2")
    p.add_argument(
        "--freeze", type=names_of, default=(), metavar="LINE:POSITION,…", help="these characters stay: 3:5,4:7"
    )
    p.add_argument("--variations", type=int, metavar="N", help="instead of rounds: N versions with a share drawn anew")
    p.add_argument("--level", type=float, help="that share of the free characters, more than 0 up to 1 (0.25)")
    drawing_flags(p, "refine")
    bulk_flags(p)
    format_flags(p)
    job_flags(p)

    p = add_verb(
        verbs,
        "augment",
        augment,
        ending=names_epilog,
    )
    text_flags(p)
    p.add_argument("-n", "--n", type=int, help="variants of each text (4)")
    p.add_argument("--strength", type=float, help="the share of the free tokens drawn anew, more than 0 up to 1 (0.2)")
    p.add_argument(
        "--keep",
        action="append",
        metavar="STRING",
        help="this stays wherever it stands; may be repeated (the record's keep)",
    )
    p.add_argument(
        "--keep-pattern",
        type=pattern,
        metavar="REGEX",
        help="and so does what this regular expression finds, as --match reads it",
    )
    p.add_argument("--tries", type=int, help="draws of a variant that is like its text or another one (4)")
    p.add_argument("--levels", type=int, help="stratified levels of the bound on −log p; 0: no bound (16)")
    drawing_flags(p, "augment")
    bulk_flags(p)
    format_flags(p)
    job_flags(p)


def generate(a: argparse.Namespace) -> int | None:
    a.model = for_new_texts(a.model, vars(a))
    check_jobs(a)
    if a.input is not None:
        check_kind(a, images=False)
        return do_jobs(a, _new_options(a).given() | {"n": a.n})
    _write_new(a)
    return None


def _write_new(a: argparse.Namespace) -> None:
    check_writable(a.out)
    texts = a.model is None or not of_images(a.model)  # half a picture is none
    with writing(a.out, keep=texts) as out:
        options, pipe = _new_options(a), open_model(a)
        if a.model is not None and PROCESSES[pipe.model.processes[0]].data == "values":
            draw_images(a, pipe, out)
            return
        check_kind(a, images=False)
        if a.n < 1:
            raise AskedError(f"n is {a.n}; it must be at least 1")
        with (
            _watched(a, pipe, options, [(a.seed or 0) + k for k in range(a.n)] if a.trace else []) as watch,
            progress_bar(a, a.n, "poem") as bar,
        ):
            write = separated()
            for output in pipe.each(
                itertools.repeat({}, min(a.n, sys.maxsize)), options, seed=a.seed or 0, watch=watch
            ):
                if a.format == "jsonl":
                    print(joined(output, {}), file=out)
                else:
                    write(output.text, out)
                out.flush()
                bar.update()


def _new_options(a: argparse.Namespace) -> Options:
    """What the flags say of a new text, the characters of --template or --upper among it."""
    options = options_of(a)
    if a.upper is None:
        return options if a.template is None else replace(options, template=_read_template(a.template))
    if a.template is not None:
        raise AskedError(
            "both --upper and --template are given; write the upper line into the template, or pass one of them"
        )
    from textdiff.verse.forms import split_at_punctuation

    width = len("".join(split_at_punctuation(a.upper)))
    if not width:
        raise AskedError(f"--upper is {a.upper!r}, which has no character; pass the upper line of a couplet")
    if a.form not in (None, f"couplet:{width}"):
        raise AskedError(
            f"--upper has {width} characters, but the form is {a.form!r}; pass --form couplet:{width}, or no form"
        )
    return replace(options, template=a.upper, form=f"couplet:{width}")


def _read_template(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise AskedError(f"template {path!r} cannot be read ({reason}); pass a text file, or - for stdin") from error


def fill(a: argparse.Namespace) -> int | None:
    check_jobs(a)
    if a.input is not None:
        check_kind(a, images=False)
        return do_jobs(a, options_of(a).given())
    if a.model is not None and of_images(a.model):
        with writing(a.out) as out:
            fill_images(a, open_model(a), out)
        return None
    check_kind(a, images=False)
    records, total = incoming(a), len(a.text) or None
    if a.trace or a.watch:  # which say at the beginning what they show
        known = list(records)
        records, total, seeds = iter(known), len(known), seeds_of(known, a.seed)
    pipe, options = open_pipeline(a), options_of(a)
    conditions, write = Conditions(pipe.model), separated()

    def ask(record: Record) -> dict[str, Any]:
        words = {name: value for name, (value,) in conditions.of([record]).items()}
        return {"text": record.text, "form": record.get("form"), "seed": seeds_of([record], a.seed)[0]} | words

    def show(record: Record, output: Any, out: TextIO) -> None:
        if a.format == "jsonl":
            print(joined(output, record.fields), file=out)
        else:
            write(output.text, out)

    with _watched(a, pipe, options, seeds if total and (a.trace or a.watch) else []) as watch:

        def stream(records: Iterator[Any]) -> Iterator[Any]:
            yield from pipe.each(records, options, on_error="skip", watch=watch)

        return through(a, one_by_one(records, stream, ask, a.on_error == "skip"), show, total=total)


def _watched(a: argparse.Namespace, pipe: Any, options: Options, seeds: list[int]) -> Any:
    """What looks on while texts are drawn, --watch and --trace."""
    plan = pipe.plan(options)
    chosen = {name: getattr(plan, name) for name in ("steps", "temperature", "top_p", "sampler_options")}
    settings = {name: value for name, value in options.given().items() if name != "form"} | chosen
    header = {"model": pipe.model.name, "form": options.form, "process": plan.process, "sampler": plan.sampler}
    return onlookers(a, header | {"seeds": seeds, "each": plan.each}, settings)


def refine(a: argparse.Namespace) -> int:
    check_jobs(a)
    task = {name: getattr(a, name) for name in ("rounds", "k", "patience", "keep", "freeze", "variations", "level")}
    if a.input is not None:
        return do_jobs(a, options_of(a).given() | task | {"keep": list(a.keep), "freeze": list(a.freeze)})
    records = incoming(a)
    pipe, options = open_pipeline(a), options_of(a)
    conditions, write = Conditions(pipe.model), separated()

    def work(chunk: list[Record]) -> list[list[Any]]:
        words = {name: value for name, value in conditions.of(chunk).items() if getattr(options, name) is None}
        texts, forms = [record.text for record in chunk], forms_of(chunk, a.form)
        versions = pipe.refine(texts, forms, seeds_of(chunk, a.seed), options, **task, **words)
        each = len(versions) // len(chunk)  # versions of a poem
        return [versions[k : k + each] for k in range(0, len(versions), each)]

    def show(record: Record, versions: list[Any], out: TextIO) -> None:
        for one in versions:
            if a.format == "jsonl":
                rest = {key: value for key, value in record.fields.items() if key != "text"}  # which is `before`
                print(joined(one, rest), file=out)
            else:
                write("\n".join(_refined_lines(one, in_colour(out))), out)

    return through(a, results(records, work, a.on_error == "skip"), show, "poem", len(a.text) or None)


def augment(a: argparse.Namespace) -> int:
    check_jobs(a)
    task = {name: value for name in ("strength", "n", "tries", "levels") if (value := getattr(a, name)) is not None}
    if a.input is not None:
        return do_jobs(a, options_of(a).given() | task | {"keep": a.keep, "keep_pattern": a.keep_pattern})
    records = incoming(a)
    pipe, options = open_pipeline(a), options_of(a)
    conditions, alike, total = Conditions(pipe.model), 0, 0

    def work(chunk: list[Record]) -> list[list[Any]]:
        words = {name: value for name, value in conditions.of(chunk).items() if getattr(options, name) is None}
        keep = [all_kept(a.keep or record.get("keep"), a.keep_pattern) for record in chunk]
        texts, forms = [record.text for record in chunk], forms_of(chunk, a.form)
        found = pipe.augment(texts, forms, seeds_of(chunk, a.seed), options, keep=keep, **task, **words)
        each = len(found) // len(chunk)
        return [found[k : k + each] for k in range(0, len(found), each)]

    def show(record: Record, variants: list[Any], out: TextIO) -> None:
        nonlocal alike, total
        alike, total = alike + sum(one.like is not None for one in variants), total + len(variants)
        for one in variants:
            if a.format == "jsonl":
                rest = {key: value for key, value in record.fields.items() if key != "text"}  # which is `original`
                print(joined(one, rest), file=out)
            else:
                print(_variant_line(one), file=out)

    code = through(a, results(records, work, a.on_error == "skip"), show, total=len(a.text) or None)
    if alike:
        log(f"textdiff: {alike} of {total} variants are like their text or another variant; more strength makes fewer")
    return code


def _variant_line(one: Any) -> str:
    nats = "" if one.nats_per_char is None else f"  {one.nats_per_char:.4f} nats/char"
    bound = "" if one.exact or not nats else " at most"
    return f"{one.changed:.2f} changed  {one.edits} edits{nats}{bound}  {' '.join(one.text.splitlines())}"


def pattern(text: str) -> str:
    """Reads a regular expression."""
    try:
        parse(text, "--keep-pattern")
    except AskedError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


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
        yield f"first rewritten, where the text broke what was asked: {places}"
