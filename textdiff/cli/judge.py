"""score, check, evaluate: texts that are there are judged."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, TextIO

from textdiff.cli.bulk import Conditions, bulk_flags, forms_of, incoming, joined, results, separated, through
from textdiff.cli.common import (
    add_verb,
    check_writable,
    format_flags,
    in_colour,
    log,
    model_flags,
    names_of,
    numbers,
    open_pipeline,
    progress_bar,
    read_records,
    text_flags,
    writing,
)
from textdiff.cli.pictures import of_images
from textdiff.core.errors import AskedError
from textdiff.data.records import Record

_PLACE = re.compile(r"\s*\d+\s*:\s*\d+\s*")


def add(verbs: Any) -> None:
    """The verbs of this file and their flags."""
    p = add_verb(verbs, "score", score, "bound on −log p of each text, in nats per character")
    text_flags(p)
    p.add_argument("--form", help="the form of every text (by default what its shape says)")
    p.add_argument("--process", help="the bound of this process (the model's first one)")
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

    p = add_verb(
        verbs, "check", check, "tones, rhyme and faults of regular verse; exit code 3 if a strict form is broken"
    )
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

    p = add_verb(verbs, "evaluate", evaluate, "bound on a data file, by form; or generated poems beside real ones")
    p.add_argument(
        "file", nargs="?", metavar="FILE", help="JSON Lines with 'text', or one text a line; .gz too; - for stdin"
    )
    beside = p.add_argument_group("generated beside real", "instead of FILE; files of the same kinds")
    beside.add_argument("--samples", metavar="FILE", help="generated poems")
    beside.add_argument("--reference", metavar="FILE", help="real poems that the model has not seen")
    beside.add_argument("--train", metavar="FILE", help="what it has seen: for copying, parallel lines and fluency")
    beside.add_argument("--validation", metavar="FILE", help="more real poems: for js_unigram, and as foils")
    beside.add_argument("--plot", metavar="FILE", help="a picture of the comparison: .png, .svg or .pdf")
    images = p.add_argument_group(
        "models of images", "beside real ones; FILE is digits, a folder of images or a data set (digits)"
    )
    images.add_argument("--n", type=int, metavar="N", help="images to draw for each figure (500)")
    images.add_argument("--steps", type=numbers, default=(), metavar="5,10,…", help="(5,10,20,50,100,1000)")
    images.add_argument(
        "--samplers",
        type=names_of,
        default=(),
        metavar="ddim,…",
        help="(ddim,ddpm,analytic); others of the table, too",
    )
    images.add_argument(
        "--guidance", type=float, default=1.0, metavar="SCALE", help="classifier-free guidance (1: none)"
    )
    images.add_argument("--quick", action="store_true", help="a small version: 100 images, at most 20 steps")
    images.add_argument("--keep", metavar="DIR", help="keep what was drawn here, and go on there after a stop")
    p.add_argument("--process", help="the bound of this process (the model's first one)")
    p.add_argument("--levels", type=int, default=8, help="stratified levels of each text (8)")
    p.add_argument(
        "--told", type=names_of, default=(), metavar="title,dynasty", help="tell the network what the records say"
    )
    p.add_argument("--titles", type=int, metavar="K", help="instead: how often a poem's own title bounds it best of K")
    p.add_argument("--limit", type=int, metavar="N", help="the first N records alone")
    p.add_argument("--seed", type=int, default=0, help="(0)")
    model_flags(p)
    p.add_argument("--json", action="store_true", help="one JSON object")
    p.add_argument("--out", metavar="FILE", help="write here instead of to stdout")


def score(a: argparse.Namespace) -> int:
    records = incoming(a)
    total = len(a.text) or None
    for path in (a.svg, a.png):
        check_writable(path)
    pipe = open_pipeline(a)
    detailed, drawn = a.detail or a.svg or a.png, list[Any]()
    told = Conditions(pipe.model)

    def work(chunk: list[Record]) -> list[Any]:
        return _scored(pipe, a, chunk, told, bool(detailed))

    def show(record: Record, result: Any, out: TextIO) -> None:
        one, detail = result
        if a.svg or a.png:
            drawn.append(detail)
        if a.format == "jsonl":
            print(joined(_with_detail(one, detail), record.fields), file=out)
        elif detail is None:
            print(score_line(one), file=out)
        else:
            _write_detail(one, detail, out)

    failed = through(a, results(records, work, a.on_error == "skip"), show, total=total)
    _draw_heat(a, drawn)
    return 1 if failed else 0


def _scored(pipe: Any, a: argparse.Namespace, chunk: list[Record], told: Conditions, detailed: bool) -> list[Any]:
    """(score, detail or None) of each record.  Records with seeds of their own are scored by these."""
    seeds = [record.get("seed") if a.seed is None else a.seed for record in chunk]
    found: dict[int, Any] = {}
    for seed in dict.fromkeys(seeds):
        rows = [k for k, one in enumerate(seeds) if one == seed]
        some = [chunk[k] for k in rows]
        texts, form, said = [record.text for record in some], forms_of(some, a.form), told.of(some)
        scores = pipe.score(texts, form, process=a.process, levels=a.levels, repeats=a.repeats, seed=seed or 0, **said)
        details = pipe.detail(texts, form, **said) if detailed else [None] * len(texts)
        found |= dict(zip(rows, zip(scores, details, strict=True), strict=True))
    return [found[k] for k in range(len(chunk))]


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


def _with_detail(one: Any, detail: Any) -> dict[str, Any]:
    """The keys of a JSON line: a score, and the nats of each character where they were asked for."""
    result = dataclasses.asdict(one)
    if detail is not None:
        result["detail"] = {k: v for k, v in dataclasses.asdict(detail).items() if k not in ("text", "form", "model")}
    return result


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
    from textdiff.verse import checker

    for key, value in a.reading:
        if not _PLACE.fullmatch(key):
            checker.check(key, pronounce={key: value})  # whether it is a character that can be read so
    records = incoming(a)
    first = list(itertools.islice(records, 2))
    records = itertools.chain(first, records)
    places = [key for key, _ in a.reading if _PLACE.fullmatch(key)]
    if places and len(first) > 1:
        raise AskedError(f"--reading {places[0]} is a place, but there is more than one text; name the character")
    met, broken = set[str](), 0

    def one(record: Record) -> Any:
        here = {key: value for key, value in a.reading if key in places or key in record.text}
        met.update(here)
        return checker.check(record.text, a.form or record.get("form"), pronounce=here)

    def show(record: Record, report: Any, out: TextIO) -> None:
        nonlocal broken
        broken += report.broken
        if a.json:
            print(joined(report, record.fields), file=out)
        else:
            write(checker.describe(report, colours=in_colour(out)), out)

    write = separated()
    found = results(records, lambda chunk: [one(record) for record in chunk], a.on_error == "skip")
    failed = through(a, found, show, total=len(a.text) or None)
    if unmet := [key for key, _ in a.reading if key not in met]:
        raise AskedError(f"--reading {unmet[0]} names no character of any text; leave it out")
    return 1 if failed else 3 if broken else 0


def reading(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key.strip() and equals and value.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not LINE:POSITION=READING, such as 3:5=平")
    return key, value


def evaluate(a: argparse.Namespace) -> None:
    if a.model is not None and of_images(a.model):
        _evaluate_images(a)
        return
    if a.file is None or a.samples or a.reference or a.train or a.validation or a.plot:
        _compare(a)
        return
    with writing(a.out) as out:
        if a.limit is not None and a.limit < 1:
            raise AskedError(f"--limit is {a.limit}; it must be at least 1")
        records = read_records(sys.stdin if a.file == "-" else a.file)[: a.limit]
        pipe = open_pipeline(a)
        with progress_bar(a, len(records), "text") as bar:
            if a.titles is not None:
                pairs = pipe.retrieve(records, titles=a.titles, levels=a.levels, seed=a.seed)
                print(json.dumps(pairs), file=out)
                return
            report = pipe.evaluate(
                records, process=a.process, levels=a.levels, seed=a.seed, conditions=a.told, callback=bar.update
            )
        if a.json:
            print(json.dumps(report), file=out)
            return
        for name, row in report.items():
            error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.4f}"
            print(f"{name:12}  {row['nats_per_char']:.4f}{error} nats/char  {row['texts']} texts", file=out)


def _evaluate_images(a: argparse.Namespace) -> None:
    """The figures of a model of images beside real ones; FILE is "digits", a folder of images or a data set."""
    from textdiff.data.image_data import read_images
    from textdiff.measure import image_report, image_view, plots
    from textdiff.networks.images import ImageModel

    settings = image_report.settings_of(a.n, a.steps, a.samplers, a.quick, guidance=a.guidance, seed=a.seed)
    picture, out = (a.out, None) if plots.is_picture(a.out) else (a.plot, a.out)
    if picture:
        plots.check(picture)
    with writing(out) as stream:
        model = ImageModel.from_pretrained(a.model, device=a.device)
        if a.file is None and model.shape != (1, 8, 8):
            raise AskedError(
                f"model {a.model} draws images of {model.shape}; pass FILE, the folder or data set that it was trained on"
            )
        channels, height, _ = model.shape
        data = read_images(a.file or "digits", size=height, channels=channels, limit=a.limit)
        found = image_report.report(model, data, settings, keep=a.keep, log=(lambda line: None) if a.quiet else log)
        print(json.dumps(found) if a.json else image_view.table(found), file=stream)
    if picture:
        image_view.plot(found, picture)


def _compare(a: argparse.Namespace) -> None:
    """The half of `evaluate` that looks at texts and needs no model: generated ones beside real ones."""
    if a.file is not None:
        raise AskedError(f"FILE {a.file!r} is given beside --samples; pass FILE for a bound, flags for a comparison")
    if not (a.samples and a.reference):
        a.parser.error("pass FILE, or both --samples FILE and --reference FILE")
    from textdiff.measure import plots
    from textdiff.measure import poem_report as report

    if a.titles:
        _retrieve(a)
        return

    if a.plot:
        plots.check(a.plot)
    with writing(a.out) as out:
        parts = {}
        for name in ("samples", "reference", "validation", "train"):
            path = getattr(a, name)
            records = read_records(sys.stdin if path == "-" else path) if path else []
            parts[name] = report.Poems.sort(records)
        if a.train and not a.quiet and sys.stderr.isatty():
            log("counting the train poems, about a minute for 200 thousand")
        train = [poem for poems in parts.pop("train").whole.values() for poem in poems]
        known = report.Background.of(train, parts["validation"].whole)
        found = report.compare(parts["samples"], parts["reference"], known)
        if a.json:
            print(json.dumps(report.as_json(found, parts["samples"])), file=out)
        else:
            print("\n\n".join(map(report.table, found)), file=out)
    if a.plot:
        report.plot(found, a.plot)
    for alarm in report.alarms(found, parts["samples"]):
        log(f"textdiff: warning: {alarm}")


def _retrieve(a: argparse.Namespace) -> None:
    """How often a count model of the train poems finds the title that a poem was told, or has, among --titles K."""
    from textdiff.measure.counts import TitleModel, retrieval
    from textdiff.verse.forms import FORMS, guess_form

    if not a.train:
        raise AskedError(
            f"titles is {a.titles}, and the model that looks for them counts train poems; pass --train FILE"
        )

    def read(path: str) -> tuple[list[tuple[str, ...]], list[str | None]]:
        told = []
        for record in read_records(sys.stdin if path == "-" else path):
            form = FORMS.get(record.get("form") or "") or guess_form(record["text"])
            if form is not None:
                told.append((tuple(form.split(record["text"])), record.get("title")))
        return [poem for poem, _ in told], [title for _, title in told]

    poems, titles = read(a.train)
    model = TitleModel.fit(titles, poems)
    rows = {}
    for name in ("samples", "reference"):
        poems, titles = read(getattr(a, name))
        rows[name] = retrieval(model.score, poems, titles, k=a.titles, seed=a.seed)._asdict()
    if a.json:
        print(json.dumps(rows))
        return
    for name, row in rows.items():
        print(
            f"{name:10} {row['rate']:.3f} [{row['low']:.3f}, {row['high']:.3f}] of {row['poems']} poems, top-1 of {a.titles}"
        )
