"""evaluate: a model's bound on a file; generated poems beside real ones; the figures of a model of images."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from textdiff.cli.bulk import Rejects, Unread, bulk_flags, fault_of, opened
from textdiff.cli.common import (
    Exit,
    add_verb,
    check_apart,
    check_writable,
    log,
    model_flags,
    names_of,
    numbers,
    open_pipeline,
    order_flags,
    progress_bar,
    writing,
)
from textdiff.cli.pictures import of_images
from textdiff.core.errors import AskedError

if TYPE_CHECKING:
    from textdiff.data.records import Record

LEVELS = 8  # stratified levels of each text

# The flags that mean something to each kind of evaluation; all know --seed, --limit, --json and --out.
_KINDS = {
    "the bound on a file": (
        *("file", "process", "order", "steps", "levels", "told", "titles", "on_error", "rejects", "model", "device"),
    ),
    "the restoration of a file": ("file", "restore", "order", "told", "model", "device"),
    "the comparison of --samples": ("samples", "reference", "train", "validation", "titles", "plot"),
    "a model of images": ("file", "n", "steps", "samplers", "guidance", "quick", "keep", "plot", "model", "device"),
}


def add(verbs: Any) -> None:
    """The verb and its flags."""
    p = add_verb(verbs, "evaluate", evaluate)
    p.add_argument(
        "file", nargs="?", metavar="FILE", help="JSON Lines with 'text', or one text a line; .gz too; - for stdin"
    )
    beside = p.add_argument_group(
        "generated beside real", "instead of FILE; files of the same kinds, which are held in memory"
    )
    beside.add_argument("--samples", metavar="FILE", help="generated poems")
    beside.add_argument("--reference", metavar="FILE", help="real poems that the model has not seen")
    beside.add_argument("--train", metavar="FILE", help="what it has seen: for copying, parallel lines and fluency")
    beside.add_argument("--validation", metavar="FILE", help="more real poems: for js_unigram, and as foils")
    beside.add_argument("--plot", metavar="FILE", help="a picture of the comparison: .png, .svg or .pdf")
    images = p.add_argument_group(
        "models of images", "beside real ones; FILE is digits, a folder of images or a data set (digits)"
    )
    images.add_argument("--n", type=int, metavar="N", help="images to draw for each figure (500)")
    images.add_argument(
        "--steps",
        type=numbers,
        default=(),
        metavar="5,10,…",
        help="(5,10,20,50,100,1000); with --order a single number",
    )
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
    order_flags(p)
    p.add_argument("--levels", type=int, help="stratified levels of each text (8)")
    p.add_argument(
        "--told", type=names_of, default=(), metavar="title,dynasty", help="tell the network what the records say"
    )
    p.add_argument(
        "--titles",
        type=int,
        metavar="K",
        help="instead: how often a poem's own title bounds it best of K; the file is held in memory",
    )
    p.add_argument(
        "--restore",
        type=numbers,
        default=(),
        metavar="1,2,…",
        help="instead: take so many characters out of each poem, and see how often they are restored",
    )
    p.add_argument("--limit", type=int, metavar="N", help="the first N records alone, of each file")
    p.add_argument("--seed", type=int, default=0, help="(0)")
    bulk_flags(p)
    model_flags(p)
    p.add_argument("--json", action="store_true", help="one JSON object")
    p.add_argument("--out", metavar="FILE", help="write here instead of to stdout")


def evaluate(a: argparse.Namespace) -> int:
    if a.limit is not None and a.limit < 1:
        raise AskedError(f"--limit is {a.limit}; it must be at least 1")
    if a.model is not None and of_images(a.model):
        kind, run = "a model of images", _evaluate_images
    elif a.samples or a.reference or a.train or a.validation:
        kind, run = "the comparison of --samples", _compare if a.titles is None else _retrieve
        if a.file is not None:
            raise AskedError(
                f"FILE {a.file!r} is given beside --samples; pass FILE for a bound, flags for a comparison"
            )
    elif a.restore:
        kind, run = "the restoration of a file", _restore
    else:
        kind, run = "the bound on a file", _bound if a.titles is None else _title_bound
    _check_flags(a, kind)
    if not (a.file or run is _evaluate_images or (a.samples and a.reference)):
        a.parser.error("pass FILE, or both --samples FILE and --reference FILE")
    return run(a)


def _check_flags(a: argparse.Namespace, kind: str) -> None:
    """AskedError for a flag that means nothing to this kind of evaluation."""
    for name in dict.fromkeys(name for names in _KINDS.values() for name in names):
        if name not in _KINDS[kind] and getattr(a, name) != a.parser.get_default(name):
            others = " or ".join(other for other, names in _KINDS.items() if name in names)
            raise AskedError(f"--{name.replace('_', '-')} is for {others}, and not for {kind}; leave it out")


def _rows(path: str, limit: int | None) -> Iterator[Record]:
    """The records of a file; the first wrong one is an error."""
    from textdiff.data.records import records

    source = sys.stdin if path == "-" else path
    return itertools.islice(records(source, note=lambda line: log(f"textdiff: {line}")), limit)


def _bound(a: argparse.Namespace) -> int:
    rows = itertools.islice(opened(sys.stdin if a.file == "-" else a.file, a.on_error), a.limit)
    check_apart(a.file, out=a.out, rejects=a.rejects)
    check_writable(a.out)

    def wrong(record: Record, error: AskedError) -> None:
        if a.on_error != "skip":
            raise fault_of(record, error)
        rejects.take(record, fault_of(record, error))

    with Rejects(a) as rejects:
        pipe = open_pipeline(a)
        from textdiff.pipeline.page import unread

        strange = Unread(lambda text: unread(text, pipe.model))
        with progress_bar(a, None, "text") as bar:
            report = pipe.evaluate(
                map(strange.looked, rejects.sound(rows)),
                process=a.process,
                order=a.order,
                steps=_single_number(a.steps),
                levels=LEVELS if a.levels is None else a.levels,
                seed=a.seed,
                conditions=a.told,
                callback=bar.update,
                wrong=wrong,
            )
    names = pipe.model.tokenizer.convert_ids_to_tokens(pipe.model.content.tolist())
    unit = "char" if all(len(name) == 1 for name in names) else "token"
    with writing(a.out) as out:
        if a.json:
            print(json.dumps(report), file=out)
        for name, row in report.items() if not a.json else ():
            error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.4f}"
            print(f"{name:12}  {row['nats_per_char']:.4f}{error} nats/{unit}  {row['texts']} texts", file=out)
    return rejects.ended()


def _single_number(steps: tuple[int, ...]) -> int | None:
    if len(steps) > 1:
        raise AskedError(
            f"--steps is {','.join(map(str, steps))}, and the likelihood of an order takes one number; pass one"
        )
    return steps[0] if steps else None


def _title_bound(a: argparse.Namespace) -> int:
    for name in ("process", "order", "steps", "told", "rejects"):
        if getattr(a, name):
            raise AskedError(f"--{name} is for the bound itself, and not for --titles; leave it out")
    rows = [record for record in _rows(a.file, a.limit)]
    with writing(a.out) as out:
        pipe = open_pipeline(a)
        with progress_bar(a, len(rows) * a.titles, "title") as bar:
            levels = LEVELS if a.levels is None else a.levels
            found = pipe.retrieve(rows, titles=a.titles, levels=levels, seed=a.seed, callback=bar.update)
        line = (
            f"{found['top1']:.3f} ± {found['standard_error']:.3f} of {found['texts']} poems are likeliest under their own title "
            f"among {a.titles} (by chance {found['chance']:.3f})"
        )
        print(json.dumps(found) if a.json else line, file=out)
    return Exit.DONE


def _restore(a: argparse.Namespace) -> int:
    """How often what is taken out of poems is restored, and how well the probabilities of that are calibrated."""
    from textdiff.measure.gaps import protocol

    rows = (record.fields for record in _rows(a.file, a.limit))
    with writing(a.out) as out:
        model = open_pipeline(a).model
        with progress_bar(a, a.limit, "poem") as bar:
            options = {"order": a.order, "conditions": a.told, "seed": a.seed, "callback": bar.update}
            found = protocol.restoration(model, rows, lost=a.restore, **options)
        print(json.dumps(found) if a.json else protocol.table(found), file=out)
    return Exit.DONE


def _evaluate_images(a: argparse.Namespace) -> int:
    """The figures of a model of images beside real ones; FILE is "digits", a folder of images or a data set."""
    from textdiff.data.image_data import read_images
    from textdiff.measure import image_report, image_view, plots
    from textdiff.pipeline import load

    settings = image_report.settings_of(a.n, a.steps, a.samplers, a.quick, guidance=a.guidance, seed=a.seed)
    picture, out = (a.out, None) if plots.is_picture(a.out) else (a.plot, a.out)
    if picture:
        plots.check(picture)
        check_writable(picture)
    with writing(out) as stream:
        model: Any = load(a.model, device=a.device, precision=a.precision).model
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
    return Exit.DONE


def _compare(a: argparse.Namespace) -> int:
    """Generated poems beside real ones, which needs no model."""
    from textdiff.measure import plots
    from textdiff.measure import poem_report as report

    if a.plot:
        plots.check(a.plot)
        check_writable(a.plot)
    with writing(a.out) as out:
        parts = {}
        for name in ("samples", "reference", "validation", "train"):
            path = getattr(a, name)
            parts[name] = report.Poems.sort(record.fields for record in (_rows(path, a.limit) if path else ()))
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
    return Exit.DONE


def _retrieve(a: argparse.Namespace) -> int:
    """How often a count model of the train poems finds the title that a poem was told, or has, among --titles K."""
    from textdiff.measure.counts import TitleModel, retrieval

    if not a.train:
        raise AskedError(
            f"--titles is {a.titles}, and the model that looks for them counts train poems; pass --train FILE"
        )
    for name in ("plot", "validation"):
        if getattr(a, name):
            raise AskedError(f"--{name} is for the comparison itself, and not for --titles; leave it out")
    rows = {}
    with writing(a.out) as out:
        poems, titles = _titled(a.train, a.limit)
        model = TitleModel.fit(titles, poems)
        for name in ("samples", "reference"):
            poems, titles = _titled(getattr(a, name), a.limit)
            rows[name] = retrieval(model.score, poems, titles, k=a.titles, seed=a.seed)._asdict()
        if a.json:
            print(json.dumps(rows), file=out)
        for name, row in rows.items() if not a.json else ():
            within = f"[{row['low']:.3f}, {row['high']:.3f}]"
            print(f"{name:10} {row['rate']:.3f} {within} of {row['poems']} poems, top-1 of {a.titles}", file=out)
    return Exit.DONE


def _titled(path: str, limit: int | None) -> tuple[list[tuple[str, ...]], list[str | None]]:
    """The lines of the poems of a file, and their titles."""
    from textdiff.verse.forms import get_form, guess_form

    poems, titles = list[tuple[str, ...]](), list[str | None]()
    for record in _rows(path, limit):
        try:
            form = get_form(record.get("form")) if record.get("form") else guess_form(record.text)
            if form is not None:
                poems.append(tuple(form.split(record.text)))
                titles.append(record.get("title"))
        except AskedError as error:
            raise fault_of(record, error) from None
    return poems, titles
