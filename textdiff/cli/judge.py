"""score, check, evaluate: texts that are there are judged."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from textdiff.cli.common import (
    add_verb,
    format_flags,
    in_colour,
    json_line,
    log,
    model_flags,
    names_of,
    numbers,
    open_pipeline,
    progress_bar,
    read_records,
    records_of,
    text_flags,
    writing,
)
from textdiff.cli.pictures import of_images
from textdiff.core.errors import AskedError


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
    p.add_argument("--seed", type=int, default=0, help="(0)")
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


def score(a: argparse.Namespace) -> None:
    records = records_of(a)
    with writing(a.out) as out:
        pipe = open_pipeline(a)
        form = a.form or [record.get("form") for record in records]
        with progress_bar(a, len(records), "text") as bar:
            texts = [record["text"] for record in records]
            scores = pipe.score(
                texts, form, process=a.process, levels=a.levels, repeats=a.repeats, seed=a.seed, callback=bar.update
            )
            details = pipe.detail(texts, form) if a.detail or a.svg or a.png else None
        if details is None:
            for one in scores:
                print(json_line(one) if a.format == "jsonl" else score_line(one), file=out)
            return
        _draw_heat(a, details)
        for one, detail in zip(scores, details, strict=True):
            _write_detail(one, detail, a.format, out)
        if a.format == "text" and in_colour(out):
            from textdiff.show.watching import scale

            scale(out)


def score_line(one: Any) -> str:
    error = "" if one.standard_error is None else f" ± {one.standard_error:.4f}"
    unknown = f", {one.unknown} unknown" if one.unknown else ""
    text = "".join(one.text.splitlines())
    return f"{one.nats_per_char:.4f}{error} nats/char  {one.characters} characters{unknown}  {text}"


def _write_detail(one: Any, detail: Any, style: str, out: TextIO) -> None:
    """A score and the nats of each character: a JSON line, colours at a terminal, or a table."""
    if style == "jsonl":
        more = {k: v for k, v in dataclasses.asdict(detail).items() if k not in ("text", "form", "model")}
        print(json.dumps(dataclasses.asdict(one) | {"detail": more}, ensure_ascii=False), file=out)
        return
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
    if not (a.svg or a.png):
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

    records = records_of(a)
    pronounce = dict(a.reading)
    for key in pronounce if len(records) > 1 else ():
        if not any(key in record["text"] for record in records):
            raise AskedError(
                f"--reading {key} names no character of the {len(records)} texts; pass a place with one text"
            )
    broken = 0
    with writing(a.out) as out:
        colours = out is sys.stdout and out.isatty() and not os.environ.get("NO_COLOR")
        for k, record in enumerate(records):
            text = record["text"]
            here = {key: value for key, value in pronounce.items() if len(records) == 1 or key in text}
            report = checker.check(text, a.form or record.get("form"), pronounce=here)
            broken += report.broken
            blank = "\n" if k and not a.json else ""
            print(blank + (json_line(report) if a.json else checker.describe(report, colours=colours)), file=out)
    return 3 if broken else 0


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
