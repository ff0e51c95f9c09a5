"""The command line: verbs, flags and help.  Each verb is a few lines that call the library.

Data goes to stdout (UTF-8), everything else to stderr.  Exit codes: 0; 1 a failure (model folder, output, while running);
2 a mistake in what was asked; 3 a poem that breaks its strict form (check); 130 interrupted.  Nothing here imports torch
before a verb needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import gc
import importlib
import inspect
import io
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from textdiff import __version__

CHUNK = 64  # texts drawn, and written, at a time


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    if sys.stdin is None:  # closed by the caller
        sys.stdin = io.StringIO()
    if sys.stdout is None:
        return _say("stdout is closed; leave it open, or send it to a file", 1, False) if sys.stderr else 1
    _utf8(sys.stdin, sys.stdout)
    debug = "TEXTDIFF_DEBUG" in os.environ
    try:
        arguments, more = parser().parse_known_args(argv)
        _take_up(more, arguments)
        debug = debug or arguments.debug
        with _quiet_libraries(debug), _terminable():
            code = arguments.run(arguments)
            sys.stdout.flush()
        return code or 0
    except SystemExit as stop:  # argparse has spoken, or a signal asks us to end
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return _say("interrupted", 130, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is silent, too
        return 0
    except (ValueError, FileNotFoundError) as error:
        return _say(str(error), 2, debug)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            return _say(f"the output cannot be written ({error.strerror}); make room or write elsewhere", 1, debug)
        expected = isinstance(error, OSError) or type(error).__module__.startswith("textdiff")
        return _say(str(error) if expected else f"{type(error).__name__}: {error} (--debug shows where)", 1, debug)


def _take_up(words: list[str], arguments: argparse.Namespace) -> None:
    """Texts and overrides that stand behind a flag, where argparse no longer expects any."""
    many = {"train": "override", "fill": "text", "refine": "text", "score": "text", "check": "text"}.get(arguments.verb)
    strange = [word for word in words if many is None or word.startswith("-")]
    if strange:
        arguments.parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if many is not None:
        getattr(arguments, many).extend(words)


# -- verbs ----------------------------------------------------------------------------------------------------------------


def generate(a: argparse.Namespace) -> None:
    if _for_images(a):
        _draw_images(a)
        return
    with writing(a.out) as out:
        pipe = _pipeline(a)
        settings = _settings(a) | {"form": a.form, "length": a.length} | _given(a)
        with _bar(a, a.n, "poem") as bar, _onlookers(a, pipe, a.n, settings) as looking_on:
            for first in range(0, a.n, CHUNK) or [0]:
                size = min(CHUNK, a.n - first)
                with looking_on(_advance(bar, first)) as callback:
                    outputs = pipe.generate(n=size, seed=a.seed + first, callback=callback, **settings)
                if first and a.format == "text":
                    print(file=out)
                _write(outputs, a.format, out)


def fill(a: argparse.Namespace) -> None:
    if _for_images(a):
        _fill_images(a)
        return
    records = _records(a)
    with writing(a.out) as out:
        pipe = _pipeline(a)
        form = a.form or [record.get("form") for record in records]
        texts, settings = [record["text"] for record in records], _settings(a)
        with (
            _bar(a, len(texts), "text") as bar,
            _onlookers(a, pipe, len(texts), settings, texts, form) as looking_on,
            looking_on(_advance(bar, 0)) as callback,
        ):
            outputs = pipe.fill(texts, form=form, seed=a.seed, callback=callback, **settings)
        _write(outputs, a.format, out)


def refine(a: argparse.Namespace) -> None:
    records = _records(a)
    with writing(a.out) as out:
        pipe = _pipeline(a)
        form = a.form or [record.get("form") for record in records]
        with _bar(a, len(records), "poem") as bar:
            results = pipe.refine(
                [record["text"] for record in records],
                form,
                a.seed,
                rounds=a.rounds,
                k=a.k,
                patience=a.patience,
                keep=a.keep,
                freeze=a.freeze,
                variations=a.variations,
                level=a.level,
                callback=bar.update,
                **_settings(a),
            )
        for number, one in enumerate(results):
            if a.format == "jsonl":
                print(_json(one), file=out)
            else:
                print(*[""] * bool(number), *_refined_lines(one, _in_colour(out)), sep="\n", file=out)


def score(a: argparse.Namespace) -> None:
    records = _records(a)
    with writing(a.out) as out:
        pipe = _pipeline(a)
        form = a.form or [record.get("form") for record in records]
        with _bar(a, len(records), "text") as bar:
            texts = [record["text"] for record in records]
            scores = pipe.score(
                texts, form, process=a.process, levels=a.levels, repeats=a.repeats, seed=a.seed, callback=bar.update
            )
            details = pipe.detail(texts, form) if a.detail or a.svg or a.png else None
        if details is None:
            for one in scores:
                print(_json(one) if a.format == "jsonl" else _score_line(one), file=out)
            return
        _draw_heat(a, details)
        for one, detail in zip(scores, details, strict=True):
            _write_detail(one, detail, a.format, out)
        if a.format == "text" and _in_colour(out):
            from textdiff.watching import scale

            scale(out)


def check(a: argparse.Namespace) -> int:
    from textdiff import checker

    records = _records(a)
    pronounce = dict(a.reading)
    for key in pronounce if len(records) > 1 else ():
        if not any(key in record["text"] for record in records):
            raise ValueError(
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
            print(blank + (_json(report) if a.json else checker.describe(report, colours=colours)), file=out)
    return 3 if broken else 0


def animate(a: argparse.Namespace) -> None:
    from textdiff import animation, trace

    kind = Path(a.out).suffix.lower().removeprefix(".")
    if kind not in animation.KINDS:
        raise ValueError(f"--out is {a.out!r}, expected a name that ends in .html, .svg or .gif; name it so")
    whole = trace.read(a.trace)
    shown = whole if a.n is None else animation.first(whole, a.n)
    moving: Any = animation
    if whole.header.get("images"):
        moving = importlib.import_module("textdiff.mosaic")  # meets torch
    with writing(a.out) as out:
        if kind == "gif":
            out.buffer.write(moving.gif(shown, a.delay, a.font))
        else:
            out.write(moving.html(shown, a.delay) if kind == "html" else moving.svg(shown, a.delay))


def evaluate(a: argparse.Namespace) -> None:
    if a.model is not None and _of_images(a.model):
        _evaluate_images(a)
        return
    if a.file is None or a.samples or a.reference or a.train or a.validation or a.plot:
        _compare(a)
        return
    with writing(a.out) as out:
        if a.limit is not None and a.limit < 1:
            raise ValueError(f"--limit is {a.limit}; it must be at least 1")
        records = _read_records(sys.stdin if a.file == "-" else a.file)[: a.limit]
        pipe = _pipeline(a)
        with _bar(a, len(records), "text") as bar:
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


def _of_images(model: str) -> bool:
    """Whether a model is a folder of a model of images."""
    try:
        told = json.loads((Path(model) / "textdiff.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and isinstance(told.get("data"), dict) and "shape" in told["data"]


def _evaluate_images(a: argparse.Namespace) -> None:
    """The figures of a model of images beside real ones; FILE is "digits", a folder of images or a data set."""
    from textdiff import image_report, report
    from textdiff.image_data import read_images
    from textdiff.predictors.images import ImageModel

    settings = image_report.settings_of(a.n, a.steps, a.samplers, a.quick, guidance=a.guidance, seed=a.seed)
    picture, out = (a.out, None) if image_report.is_picture(a.out) else (a.plot, a.out)
    if picture:
        report.plottable(picture)
    with writing(out) as stream:
        model = ImageModel.from_pretrained(a.model, device=a.device)
        if a.file is None and model.shape != (1, 8, 8):
            raise ValueError(
                f"model {a.model} draws images of {model.shape}; pass FILE, the folder or data set that it was trained on"
            )
        channels, height, _ = model.shape
        data = read_images(a.file or "digits", size=height, channels=channels, limit=a.limit)
        found = image_report.report(model, data, settings, keep=a.keep, log=(lambda line: None) if a.quiet else _log)
        print(json.dumps(found) if a.json else image_report.table(found), file=stream)
    if picture:
        image_report.plot(found, picture)


def _compare(a: argparse.Namespace) -> None:
    """The half of `evaluate` that looks at texts and needs no model: generated ones beside real ones."""
    if a.file is not None:
        raise ValueError(f"FILE {a.file!r} is given beside --samples; pass FILE for a bound, flags for a comparison")
    if not (a.samples and a.reference):
        a.parser.error("pass FILE, or both --samples FILE and --reference FILE")
    from textdiff import report

    if a.titles:
        _retrieve(a)
        return

    if a.plot:
        report.plottable(a.plot)
    with writing(a.out) as out:
        parts = {}
        for name in ("samples", "reference", "validation", "train"):
            path = getattr(a, name)
            records = _read_records(sys.stdin if path == "-" else path) if path else []
            parts[name] = report.Poems.sort(records)
        if a.train and not a.quiet and sys.stderr.isatty():
            _log("counting the train poems, about a minute for 200 thousand")
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
        _log(f"textdiff: warning: {alarm}")


def _retrieve(a: argparse.Namespace) -> None:
    """How often a count model of the train poems finds the title that a poem was told, or has, among --titles K."""
    from textdiff.counts import TitleModel, retrieval
    from textdiff.report import FORMS, guess_form

    if not a.train:
        raise ValueError(
            f"titles is {a.titles}, and the model that looks for them counts train poems; pass --train FILE"
        )

    def read(path: str) -> tuple[list[tuple[str, ...]], list[str | None]]:
        told = []
        for record in _read_records(sys.stdin if path == "-" else path):
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


def train(a: argparse.Namespace) -> None:
    from textdiff.training import recipe as recipes

    recipe = recipes.load(a.recipe, a.override)
    from textdiff.training import run

    if a.dry_run:
        report = run.dry_run(recipe)
        print(json.dumps(report) if a.json else "\n".join(f"{name:18}{value}" for name, value in report.items()))
        return
    folder = run.train(recipe, fresh=a.fresh, log=(lambda line: None) if a.quiet else _log)
    if folder is not None:
        print(folder)


def data_prepare(a: argparse.Namespace) -> None:
    from textdiff.corpus import prepare

    report = prepare(
        a.source,
        a.out,
        forms=a.form or None,
        simplify=not a.keep_traditional,
        validation=a.validation,
        test=a.test,
        progress=None if a.quiet or not sys.stderr.isatty() else _stage,
    )
    print(json.dumps(report.stats(), indent=None if a.json else 1))


def verify(a: argparse.Namespace) -> int:
    from tqdm import tqdm

    from textdiff.verify import verify as tokens
    from textdiff.verify_laws import verify_laws
    from textdiff.verify_values import VALUES, verify_values

    def progress(work: Iterable[Any]) -> Iterable[Any]:
        return tqdm(work, file=sys.stderr, disable=True if a.quiet else None, leave=False)

    chosen: dict[str, Any] = {"process": a.process, "sampler": a.sampler, "claim": a.claim, "progress": progress}
    rows: Iterable[Any] = () if a.process in VALUES else tokens(full=a.full, **chosen)
    broken = total = 0
    for row in itertools.chain(rows, verify_values(**chosen)):
        if a.json:
            print(json.dumps(dataclasses.asdict(row) | {"ok": row.ok}), flush=True)
        else:
            if not total:
                print(
                    f"{'space':9} {'process':14} {'sampler':16} {'steps':>5}  {'claim':11} {'from p(x1)':>10} {'prior':>8} "
                    f"{'one':>8} {'astray':>8} {'excess':>8} {'forwards':>8}"
                )
            excess = "-" if row.excess is None else f"{round(row.excess, 4) + 0.0:.4f}"  # no minus zero
            print(
                f"{row.space:9} {row.process:14} {row.sampler:16} {row.steps:5}  {row.claim:11} {row.total_variation:10.1e} "
                f"{row.shipped_prior:8.4f} {row.one_position:8.0e} {row.astray:8.0e} {excess:>8} {row.forwards:8.2f}"
                + ("" if row.ok else "  BROKEN"),
                flush=True,
            )
        broken += not row.ok
        total += 1
    if not total:
        raise ValueError(
            f"sampler {a.sampler!r} does not serve process {a.process!r}; 'textdiff samplers' lists what does"
        )
    if a.process in (None, "gaussian") and a.sampler is None:
        for law in verify_laws(progress):
            record = dataclasses.asdict(law) | {"ok": law.ok}
            shown = f"{law.law:56} {law.gap:8.1e}  at most {law.limit:.0e}" + ("" if law.ok else "  BROKEN")
            print(json.dumps(record) if a.json else shown, flush=True)
            broken += not law.ok
            total += 1
    if broken:
        _log(
            f"textdiff: {broken} of {total} rows are broken: a claim of exactness, one position, given text or an identity"
        )
    return 1 if broken else 0


def bench_sample(a: argparse.Namespace) -> None:
    from tqdm import tqdm

    from textdiff import bench

    def progress(work: Iterable[int]) -> Iterable[int]:
        return tqdm(work, file=sys.stderr, disable=True if a.quiet else None, leave=False)

    sizes = {name: getattr(a, name) for name in ("batch", "length", "steps", "rounds", "vocabulary", "layers", "width")}
    rows = bench.sample(**sizes, progress=progress)
    if a.json:
        _json_lines(dataclasses.asdict(row) for row in rows)
        return
    print(f"{'sampler':16} {'process':12} {'float32':8} {'texts/s':>8}  {'ratio':>6}  {'range':13}  to")
    for row in rows:
        spread = f"{row.lowest:.2f} to {row.highest:.2f}"
        print(
            f"{row.sampler:16} {row.process:12} {row.float32:8} {row.texts_per_second:8.1f}  {row.ratio:6.2f}  {spread:13}  "
            f"{row.baseline}"
        )
    print(bench.float32_path())


def bench_verse(a: argparse.Namespace) -> None:
    from tqdm import tqdm

    library = _library()
    from textdiff import frontier, report

    def progress(work: Iterable[Any]) -> Iterable[Any]:
        return tqdm(work, file=sys.stderr, disable=True if a.quiet else None, leave=False)

    real = report.Poems.sort(_read_records(a.reference))
    train = report.Poems.sort(_read_records(a.train)).whole if a.train else {}
    known = [poem for poems in train.values() for poem in poems]
    pipe, points = _pipeline(a), []
    if not a.json:
        print(
            "form          sampler           steps  T     forwards  s/poem  regulated             distinct_2  entropy  "
            "repeat  parallel  fluency"
        )
    for form in a.form or ["qiyan-jueju", "qiyan-lushi"]:
        name = library.get_form(form).name
        for point in frontier.frontier(pipe, name, real.of(name), n=a.n, train=known, progress=progress):
            points.append((name, point))
            if a.json:
                print(json.dumps({"form": name} | dataclasses.asdict(point)), flush=True)
                continue
            parallel = "-" if point.parallel is None else f"{point.parallel:.3f}"
            fluency = "-" if point.fluency is None else f"{point.fluency:.3f}"
            steps = "-" if point.steps is None else point.steps
            interval = f"[{point.regulated_low:.3f}, {point.regulated_high:.3f}]"
            print(
                f"{name:12}  {point.sampler:16}  {steps:>5}  {point.temperature:.2f}  {point.forwards:8.1f}  "
                f"{point.seconds:6.2f}  {point.regulated:.3f} {interval}  {point.distinct_2:10.3f}  {point.entropy:7.3f}  "
                f"{point.repeat_rate:6.3f}  {parallel:>8}  {fluency:>7}",
                flush=True,
            )
    if a.plot:
        frontier.plot(points, a.plot)


def bench_digits(a: argparse.Namespace) -> None:
    from tqdm import tqdm

    from textdiff import bench_family as family
    from textdiff.image_data import read_images
    from textdiff.predictors.images import ImageModel

    def progress(work: Iterable[Any]) -> Iterable[Any]:
        return tqdm(work, file=sys.stderr, disable=True if a.quiet else None, leave=False)

    named = [name.rpartition("=") for name in a.model]
    models = {name or Path(folder).parent.name: ImageModel.from_pretrained(folder) for name, _, folder in named}
    ways = [family.by_name(name) for name in a.sampler or ([] if a.skips or a.upsample else ["improved", "heun"])]
    ways += [family.mean_value()] * a.amed
    ways += [family.skips(*family.pair("--skips", text)) for text in a.skips or ()]
    ways += [family.enlarged(*family.pair("--upsample", text, 0.0)) for text in a.upsample or ()]
    found = family.compare(
        models,
        read_images("digits"),
        ways,
        a.evaluations,
        fine=a.fine,
        seed=a.seed,
        spacing=a.spacing,
        progress=progress,
    )
    rows: list[Any] = []
    if not a.json:
        print(family.HEADING, flush=True)
    for row in found:
        rows.append(row)
        print(json.dumps(dataclasses.asdict(row)) if a.json else family.line(row), flush=True)
    if a.plot:
        family.plot(rows, family.gallery(models, ways, max(a.evaluations)), a.plot)


def forms(a: argparse.Namespace) -> None:
    from textdiff.verse import FORMS, SIZED_FORMS

    if a.json:
        _json_lines({"name": f.name, "chinese": f.chinese, "lines": f.lines, "width": f.width} for f in FORMS.values())
        return
    for form in FORMS.values():
        print(f"{form.name:12}  {form.chinese}  {form.short}  {form.lines} lines of {form.width} characters")
    for name, what in SIZED_FORMS.items():
        print(f"{name:12}  {what}")


def samplers(a: argparse.Namespace) -> None:
    from textdiff.samplers import SAMPLERS

    if a.json:
        _json_lines({"name": name, **dataclasses.asdict(entry)} for name, entry in SAMPLERS.items())
        return
    print(f"{'sampler':16}  {'serves (* exactly)':40}  {'forwards':32}  what it does")
    for name, entry in SAMPLERS.items():
        served = ", ".join(process + "*" * (process in entry.exact) for process in entry.processes)
        options = f" [{', '.join(entry.options)}]" if entry.options else ""
        print(f"{name:16}  {served:40}  {entry.cost:32}  {entry.summary}{options}")


def env(a: argparse.Namespace) -> None:
    import platform
    from importlib import metadata

    import torch

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    facts: dict[str, Any] = {
        "textdiff": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    for name in ("torch", "transformers", "tokenizers", "safetensors", "datasets", "accelerate", "numpy"):
        facts[name] = version(name)
    facts["cpu"] = torch.backends.cpu.get_cpu_capability()
    facts["threads"] = torch.get_num_threads()
    facts["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if a.json:
        print(json.dumps(facts))
        return
    for name, fact in facts.items():
        print(f"{name:14}{fact}")


# -- images ---------------------------------------------------------------------------------------------------------------

_TEXT_FLAGS: tuple[str, ...] = ("form", "length", "temperature", "top_p", "process", "quality", "best_of", "title")
_TEXT_FLAGS += ("dynasty", "prosody", "tones", "rhyme", "avoid", "no_repeat", "keyword", "particles", "script", "watch")
_TEXT_FLAGS += ("acrostic", "acrostic_end", "acrostic_diagonal", "template", "upper", "file", "format")
_IMAGE_FLAGS = ("label", "analytic", "mask", "level")


def _for_images(a: argparse.Namespace) -> bool:
    """Whether --model is a folder of a model of images; a flag of the other kind is an error."""
    images = a.model is not None and _of_images(a.model)
    for name in _TEXT_FLAGS if images else _IMAGE_FLAGS:
        if hasattr(a, name) and getattr(a, name) != a.parser.get_default(name):
            flag, model = f"--{name.replace('_', '-')}", a.model or "the packaged model"
            if images:
                raise ValueError(f"{flag} is for texts, and {model} is a model of images; leave it out")
            raise ValueError(f"{flag} is for images, and {model} is no folder of a model of images; leave it out")
    if images and not (a.out and a.out != "-") and sys.stdout.isatty():
        raise ValueError("a picture is not written to a terminal; pass --out FILE.png, or send stdout to a file")
    return images


def _draw_images(a: argparse.Namespace) -> None:
    from textdiff import mosaic

    with writing(a.out) as out, _image_run(a, a.n) as (pipe, settings):
        drawn = pipe.generate(a.n, label=a.label, analytic=a.analytic, **settings)
        out.buffer.write(mosaic.png(drawn.images))


def _fill_images(a: argparse.Namespace) -> None:
    import torch

    from textdiff import mosaic
    from textdiff.image_data import image_of, mask_of

    if not a.text:
        raise ValueError("there is no image; pass image files, or digits:0, digits:1 … for digits held out of training")
    with writing(a.out) as out, _image_run(a, len(a.text)) as (pipe, settings):
        images = torch.stack([image_of(text, pipe.model.shape) for text in a.text])
        if a.mask is None and pipe.model.processes[0] == "cold":
            level = 1.0 if a.level is None else a.level
            shown = pipe.degrade(images, level, seed=a.seed)
            drawn = pipe.restore(shown, level=level, label=a.label, **settings)
        else:
            known = mask_of(a.mask or "centre", pipe.model.shape)
            shown = torch.where(known, images, 0.0)
            drawn = pipe.fill(images, known, label=a.label, **settings)
        out.buffer.write(mosaic.png(torch.cat([images, shown, drawn.images]), columns=len(images)))


@contextlib.contextmanager
def _image_run(a: argparse.Namespace, n: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The pipeline of a model of images, and its settings, the trace and the progress bar among them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in _library
    with _starting():
        from textdiff import mosaic, trace
        from textdiff.images import ImagePipeline

        pipe = ImagePipeline.from_pretrained(a.model, device=a.device)
    settings = {"seed": a.seed, "steps": a.steps, "sampler": a.sampler, "options": dict(a.option) or None}
    settings["guidance"] = 1.0 if a.guidance is None else a.guidance
    header = {
        "textdiff": __version__,
        "images": True,
        "model": pipe.model.name,
        "process": pipe.model.processes[0],
        "settings": settings,
        "seeds": [a.seed + k for k in range(n)],
    }
    with contextlib.ExitStack() as stack:
        record = stack.enter_context(trace.recording(a.trace, header)) if a.trace else None
        bar = stack.enter_context(_bar(a, n, "image"))
        first = 0

        def follow(state: Any) -> None:
            nonlocal first
            done = not state.t.any()
            if record is not None:
                rows = range(first, first + len(state.x))
                shown = pipe.finished(state) if done else state.x
                record(mosaic.shot(shown, rows, state.t.max().item(), state.forwards.tolist()))
            bar.update(max(0.0, first + len(state.x) * (1 - state.t.max().item()) - bar.n))
            first += len(state.x) * done

        yield pipe, settings | {"callback": follow}


# -- what verbs share -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(path: str | None) -> Iterator[TextIO]:
    """stdout, or a file that appears under its name when everything is written, and not at all if anything fails."""
    if path is None or path == "-":
        yield sys.stdout
        return
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {path!r}: it is a folder; name a file")
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
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(target.stat().st_mode if target.exists() else 0o666 & ~mask)
            temporary.replace(target)
            temporary = None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Without garbage collection: it is a quarter of the time that torch and transformers take to import (0.8 of 3.5 s)."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _read_records(source: Any) -> list[dict[str, Any]]:
    from textdiff.records import read_records

    return read_records(source)


def _library() -> Any:
    """textdiff.pipeline, and torch with it."""
    # A small network has many short products.  Threads that spin between them cost little on an idle machine, but on a
    # busy one they keep each other from working: a poem takes ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with _starting():
        from textdiff import pipeline
    return pipeline


def _pipeline(a: argparse.Namespace) -> Any:
    library = _library()
    with _starting():  # the model's own module is imported here
        return library.Pipeline.from_pretrained(a.model, device=a.device)


def _settings(a: argparse.Namespace) -> dict[str, Any]:
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
    return {name: getattr(a, name) for name in names} | {"options": _options(a)}


def _options(a: argparse.Namespace) -> dict[str, Any]:
    """What --option says; a word only where the sampler named takes one."""
    options = dict(a.option)
    for name, value in options.items():
        if isinstance(value, str):
            from textdiff.resolve import attribute
            from textdiff.samplers import SAMPLERS

            entry = SAMPLERS.get(a.sampler or "")
            takes = inspect.signature(attribute(entry.path)).parameters if entry else {}
            if name in takes and not isinstance(takes[name].default, str):
                raise ValueError(f"--option {name}={value}: sampler {a.sampler!r} takes a number there; pass one")
            if name not in takes:
                raise ValueError(
                    f"--option {name}={value} is no number, and no --sampler is named that takes a word there"
                )
    return options


def _given(a: argparse.Namespace) -> dict[str, Any]:
    """The characters of a new text that are given, and with an upper line the form of a couplet."""
    given = {name: getattr(a, name) for name in ("acrostic", "acrostic_end", "acrostic_diagonal")}
    if a.upper is None:
        return given | {"template": None if a.template is None else _read_template(a.template)}
    from textdiff.verse import split_at_punctuation

    if a.template is not None:
        raise ValueError(
            "both --upper and --template are given; write the upper line into the template, or pass one of them"
        )
    width = len("".join(split_at_punctuation(a.upper)))
    if a.form not in (None, f"couplet:{width}"):
        raise ValueError(
            f"--upper has {width} characters, but the form is {a.form!r}; pass --form couplet:{width}, or no form"
        )
    return given | {"template": a.upper, "form": f"couplet:{width}"}


def _read_template(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ValueError(f"template {path!r} cannot be read ({reason}); pass a text file, or - for stdin") from error


def _records(a: argparse.Namespace) -> list[dict[str, Any]]:
    """The texts of the command line, of --file, or of stdin."""
    if a.text and a.file:
        raise ValueError("both TEXT and --file are given; pass one of them")
    if a.text:
        return [{"text": text} for text in a.text]
    if a.file and a.file != "-":
        return _read_records(a.file)
    if a.file is None and sys.stdin.isatty():
        raise ValueError("there is no text; pass TEXT, --file FILE, or pipe it in")
    return _read_records(sys.stdin)


def _write(outputs: Iterable[Any], style: str, out: TextIO) -> None:
    if style == "jsonl":
        for output in outputs:
            print(_json(output), file=out)
    else:
        texts = [output.text for output in outputs]
        print(("\n\n" if any("\n" in text for text in texts) else "\n").join(texts), file=out)
    out.flush()


def _json(value: Any) -> str:
    return json.dumps(dataclasses.asdict(value), ensure_ascii=False)


def _json_lines(values: Iterable[dict[str, Any]]) -> None:
    for value in values:
        print(json.dumps(value, ensure_ascii=False))


def _score_line(one: Any) -> str:
    error = "" if one.standard_error is None else f" ± {one.standard_error:.4f}"
    unknown = f", {one.unknown} unknown" if one.unknown else ""
    text = "".join(one.text.splitlines())
    return f"{one.nats_per_char:.4f}{error} nats/char  {one.characters} characters{unknown}  {text}"


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


def _write_detail(one: Any, detail: Any, style: str, out: TextIO) -> None:
    """A score and the nats of each character: a JSON line, colours at a terminal, or a table."""
    if style == "jsonl":
        more = {k: v for k, v in dataclasses.asdict(detail).items() if k not in ("text", "form", "model")}
        print(json.dumps(dataclasses.asdict(one) | {"detail": more}, ensure_ascii=False), file=out)
        return
    print(_score_line(one), file=out)
    if _in_colour(out):
        from textdiff.watching import coloured

        coloured(detail, out)
    else:
        from textdiff.heat import table

        print(*table(detail), sep="\n", file=out)
    print(file=out)


def _in_colour(out: TextIO) -> bool:
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _draw_heat(a: argparse.Namespace, details: Sequence[Any]) -> None:
    """The heat map, where it is asked for."""
    if not (a.svg or a.png):
        return
    from textdiff import pictures

    scene = pictures.heat_map(details)
    if a.svg:
        with writing(a.svg) as out:
            out.write(pictures.svg(scene))
    if a.png:
        with writing(a.png) as out:
            out.buffer.write(pictures.png(scene, a.font))


@contextlib.contextmanager
def _onlookers(
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
        _log("textdiff: --watch needs a terminal at stderr; going on without")
    if not (watch or a.trace):
        yield contextlib.nullcontext
        return
    from textdiff import following, trace
    from textdiff.watching import watching

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


def _bar(a: argparse.Namespace, total: int, unit: str) -> Any:
    """A progress bar on stderr, on a terminal only."""
    from tqdm import tqdm

    off = a.quiet or getattr(a, "watch", False)
    return tqdm(total=total, unit=unit, file=sys.stderr, disable=True if off else None, leave=False)


def _advance(bar: Any, done: int) -> Callable[[Any], None]:
    """A callback that moves the bar as the states of its batches come down to level 0."""
    before = done

    def move(state: Any) -> None:
        nonlocal before
        bar.update(max(0.0, before + len(state.x) * (1 - state.t.max().item()) - bar.n))
        if not state.t.any():
            before = bar.n

    return move


def _utf8(*streams: TextIO) -> None:
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")


@contextlib.contextmanager
def _quiet_libraries(debug: bool) -> Iterator[None]:
    """Keep the libraries' warnings and bars off stderr."""
    if debug:
        yield
        return
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds like any other exit, so that no temporary file stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stage(stage: str, done: int, total: int) -> None:
    print(f"\r{stage} {done}" + (f" of {total}" if total else ""), end="\n" if done == total else "", file=sys.stderr)


def _say(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"textdiff: {' '.join(message.split())}", file=sys.stderr)
    return code


# -- flags ----------------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"textdiff: {' '.join(message.split())}; see '{self.prog} --help'\n")


def parser() -> argparse.ArgumentParser:
    """All verbs and flags."""
    top = Parser(
        prog="textdiff", description="Discrete text diffusion: write, fill, score and train.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"textdiff {__version__}")
    verbs = top.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True, parser_class=Parser)

    p = _verb(verbs, "generate", generate, "write poems; draw images", epilog=_names())
    p.add_argument("-n", "--n", type=int, default=1, help="how many (1)")
    p.add_argument("--length", type=int, help="tokens of a text, for a model without forms")
    for name, where in (
        ("acrostic", "first in"),
        ("acrostic-end", "last in"),
        ("acrostic-diagonal", "k-th in the k-th of"),
    ):
        p.add_argument(f"--{name}", metavar="TEXT", help=f"characters that stand {where} the lines; _ leaves one free")
    p.add_argument("--template", metavar="FILE", help="a text with holes (□ or _) to fill in n ways; - for stdin")
    p.add_argument("--upper", metavar="LINE", help="the upper line of a couplet, for which the lower one is written")
    _image_flags(p).add_argument("--analytic", action="store_true", help="draw with the variance estimated in training")
    _drawing_flags(p)
    _watching_flags(p)
    _format_flags(p)

    p = _verb(verbs, "fill", fill, "fill the holes (□, _ or [MASK]) of poems and sentences", epilog=_names())
    _text_flags(p)
    images = _image_flags(p)
    images.add_argument(
        "--mask", metavar="FILE", help="white where to draw anew; or left, right, top, bottom, centre (centre)"
    )
    images.add_argument(
        "--level", type=float, help="a model of cold diffusion without --mask: degrade so far, and restore (1)"
    )
    _drawing_flags(p)
    _watching_flags(p)
    _format_flags(p)

    p = _verb(
        verbs,
        "refine",
        refine,
        "rewrite the weakest characters of poems where that makes them likelier",
        epilog=_names(),
    )
    _text_flags(p)
    p.add_argument("--rounds", type=int, default=3, help="at most so many, each of which may change k characters (3)")
    p.add_argument("--k", type=int, default=3, help="characters rewritten together (3)")
    p.add_argument("--patience", type=int, default=2, help="end after so many rounds in a row without gain (2)")
    p.add_argument("--keep", type=_numbers, default=(), metavar="LINE,…", help="these lines stay: 1,2")
    p.add_argument(
        "--freeze", type=_names_of, default=(), metavar="LINE:POSITION,…", help="these characters stay: 3:5,4:7"
    )
    p.add_argument("--variations", type=int, metavar="N", help="instead of rounds: N versions with a share drawn anew")
    p.add_argument("--level", type=float, help="that share of the free characters, more than 0 up to 1 (0.25)")
    _drawing_flags(p)
    _format_flags(p)

    p = _verb(verbs, "animate", animate, "make a moving picture of a trace: HTML, SVG or GIF")
    p.add_argument("trace", metavar="TRACE", help="a file of --trace")
    p.add_argument("--out", metavar="FILE", required=True, help="a name that ends in .html, .svg or .gif")
    p.add_argument("-n", type=int, help="the first so many texts (all)")
    p.add_argument("--delay", type=float, default=0.25, help="seconds a state (0.25)")
    p.add_argument("--font", metavar="FILE", help="for GIF: a font with the characters (one of the system's)")

    p = _verb(verbs, "score", score, "bound on −log p of each text, in nats per character")
    _text_flags(p)
    p.add_argument("--form", help="the form of every text (by default what its shape says)")
    p.add_argument("--process", help="the bound of this process (the model's first one)")
    p.add_argument("--levels", type=int, help="stratified levels of each run (all)")
    p.add_argument("--repeats", type=int, default=4, help="runs that the average and its error are taken over (4)")
    p.add_argument("--detail", action="store_true", help="how likely each character is, given all the others")
    p.add_argument("--svg", metavar="FILE", help="the detail as a heat map")
    p.add_argument("--png", metavar="FILE", help="the same in pixels")
    p.add_argument("--font", metavar="FILE", help="for PNG: a font with the characters (one of the system's)")
    p.add_argument("--seed", type=int, default=0, help="(0)")
    _model_flags(p)
    _format_flags(p)

    p = _verb(verbs, "check", check, "tones, rhyme and faults of regular verse; exit code 3 if a strict form is broken")
    _text_flags(p)
    p.add_argument("--form", help="the form of every text (by default what its shape says)")
    p.add_argument(
        "--reading",
        type=_reading,
        action="append",
        default=[],
        metavar="LINE:POSITION=READING",
        help="how a character is read: 3:5=平, 3:5=去翰, or 看=平 wherever it stands; may be repeated",
    )
    p.add_argument("--json", action="store_true", help="JSON Lines")
    p.add_argument("--out", metavar="FILE", help="write here instead of to stdout")

    p = _verb(verbs, "evaluate", evaluate, "bound on a data file, by form; or generated poems beside real ones")
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
    images.add_argument("--steps", type=_numbers, default=(), metavar="5,10,…", help="(5,10,20,50,100,1000)")
    images.add_argument(
        "--samplers",
        type=_names_of,
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
        "--told", type=_names_of, default=(), metavar="title,dynasty", help="tell the network what the records say"
    )
    p.add_argument("--titles", type=int, metavar="K", help="instead: how often a poem's own title bounds it best of K")
    p.add_argument("--limit", type=int, metavar="N", help="the first N records alone")
    p.add_argument("--seed", type=int, default=0, help="(0)")
    _model_flags(p)
    p.add_argument("--json", action="store_true", help="one JSON object")
    p.add_argument("--out", metavar="FILE", help="write here instead of to stdout")

    p = _verb(verbs, "train", train, "train by a recipe; the same command goes on where a stopped run ended")
    p.add_argument("recipe", metavar="RECIPE", help="a YAML file, such as recipes/quickstart.yaml")
    p.add_argument("override", nargs="*", metavar="a.b=c", help="change the recipe, such as run.steps=100")
    p.add_argument("--dry-run", action="store_true", help="print parameters, tokens, steps, estimated time and memory")
    p.add_argument("--fresh", action="store_true", help="begin anew although there are checkpoints")
    p.add_argument("--json", action="store_true", help="with --dry-run: one JSON object")

    data = verbs.add_parser("data", help="prepare data", description="Prepare data.", allow_abbrev=False)
    tasks = data.add_subparsers(title="tasks", dest="task", metavar="TASK", required=True, parser_class=Parser)
    p = _verb(
        tasks, "prepare", data_prepare, "from a clone of chinese-poetry, or text or JSON Lines, to fixed-form data"
    )
    p.add_argument("source", metavar="SOURCE", help="the clone's folder, a .txt or a .jsonl file")
    p.add_argument("out", metavar="OUT", help="folder for train, validation and test")
    p.add_argument("--form", action="append", default=[], help="keep this form only; may be repeated")
    p.add_argument("--keep-traditional", action="store_true", help="leave traditional characters as they are")
    p.add_argument("--validation", type=float, default=0.05, help="share of the texts (0.05)")
    p.add_argument("--test", type=float, default=0.05, help="share of the texts (0.05)")
    p.add_argument("--json", action="store_true", help="the report in one line")

    p = _verb(
        verbs, "verify", verify, "every process × sampler against an exact predictor on small spaces", epilog=_COLUMNS
    )
    p.add_argument("--full", action="store_true", help="larger spaces, more step counts; some minutes")
    p.add_argument("--process", help="this one only: a name, or your own as module:attribute")
    p.add_argument("--sampler", help="this one only: a name, or your own as module:attribute")
    p.add_argument(
        "--claim",
        choices=("exact", "approximate"),
        help="what is claimed (the table's; approximate for your own)",
    )
    p.add_argument("--json", action="store_true", help="JSON Lines")

    bench = verbs.add_parser("bench", help="timings", description="Timings.", allow_abbrev=False)
    tasks = bench.add_subparsers(title="tasks", dest="task", metavar="TASK", required=True, parser_class=Parser)
    p = _verb(tasks, "sample", bench_sample, "samplers against the plain loop, by turns in one run")
    for name, default, what in (
        ("batch", 16, "texts at a time"),
        ("length", 56, "tokens of a text"),
        ("steps", 14, "steps of a text"),
        ("rounds", 5, "turns; the medians are printed"),
        ("vocabulary", 8000, "tokens"),
        ("layers", 6, "of the network"),
        ("width", 384, "of the network"),
    ):
        p.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    p.add_argument("--json", action="store_true", help="JSON Lines")

    p = _verb(tasks, "verse", bench_verse, "quality, diversity and cost of ways to draw poems, beside real ones")
    p.add_argument("--reference", metavar="FILE", required=True, help="real poems, such as the validation part")
    p.add_argument("--train", metavar="FILE", help="train poems, for fluency and parallelism")
    p.add_argument("--form", action="append", help="(qiyan-jueju and qiyan-lushi)")
    p.add_argument("-n", type=int, default=200, help="poems a setting (200)")
    p.add_argument("--plot", metavar="FILE.png", help="the picture (needs textdiff[plot])")
    p.add_argument("--json", action="store_true", help="JSON Lines")
    _model_flags(p)

    p = _verb(tasks, "digits", bench_digits, "images in few evaluations: samplers, models, scaled skips, larger sizes")
    p.add_argument("--model", metavar="[NAME=]DIR", action="append", required=True, help="may be repeated, to compare")
    p.add_argument("--evaluations", metavar="N", type=int, nargs="+", default=[5, 10, 20], help="(5 10 20)")
    p.add_argument("--sampler", action="append", help="may be repeated (improved, which is DDIM, and heun)")
    p.add_argument("--amed", action="store_true", help="mean-value steps as well, fitted to each number of evaluations")
    p.add_argument(
        "--skips", metavar="RHO[:TOP]", action="append", help="DDIM with scaled skips, from the lowest block up"
    )
    p.add_argument("--upsample", metavar="W[:LEVEL]", action="append", help="16 x 16, guided with weight W above LEVEL")
    p.add_argument("--spacing", type=float, default=1.5, help="power of the levels, above 1 finer at the end (1.5)")
    p.add_argument("--fine", type=int, default=200, help="evaluations of the solution that gaps are taken to (200)")
    p.add_argument("--seed", type=int, default=0, help="(0)")
    p.add_argument("--plot", metavar="FILE.png", help="the picture (needs textdiff[plot])")
    p.add_argument("--json", action="store_true", help="JSON Lines")

    for name, run, what in (
        ("forms", forms, "the forms of poems"),
        ("samplers", samplers, "the samplers, what they serve and cost"),
        ("env", env, "versions, for reports of problems"),
    ):
        _verb(verbs, name, run, what).add_argument("--json", action="store_true", help="JSON Lines")
    return top


_COLUMNS = """columns:
  from p(x1)   total variation of the law of results from p(x0), started from the exact law at level 1
  prior        the same, started from the prior that ships
  one          the same on texts of one position, where every sampler must be exact
  astray       probability of a result that shows [MASK] or another given text, which must be 0
  excess       the likelihood bound minus the entropy, nats; - where the process has no bound
  forwards     predictor evaluations of a text, on average

"mask, in form" keeps tones and a rhyme: there `one` is the distance of one draw from the product restricted to them, astray
what breaks them, and `from p(x1)` the gap between the chain and p(x0 | in form), which is not claimed to be 0.

For values (gaussian, cold) the distance is the 2-Wasserstein distance to the exact law, by a mean of p(x0 | x_t) alone; `one`
is that of one dimension by all of p(x0 | x_t), for cold from the true x0 under x + t·e.  For embedded texts it is a total
variation by the marginals, over 10,000 draws; `one` and excess are by quadrature on two tokens.  Where a sampler draws no
x̂0 (heun, interpolation), `one` is with a known x0.

Every "exact", and the columns one and astray, hold to 1e-6, and a distance "in limit" falls with four times the steps, or
the row is BROKEN and the exit code 1."""


def _verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int | None], what: str, **more: Any) -> Parser:
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
    return p


def _names() -> str:
    """The tables, for the end of a help page."""
    from textdiff.processes import PROCESSES
    from textdiff.samplers import SAMPLERS
    from textdiff.verse import FORMS, SIZED_FORMS

    rows = [
        ("forms", {f.name: f.chinese for f in FORMS.values()} | SIZED_FORMS),
        ("samplers", {name: entry.summary for name, entry in SAMPLERS.items()}),
        ("processes", {name: entry.summary for name, entry in PROCESSES.items()}),
    ]
    return "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {name:16} {about}" for name, about in table.items()) for title, table in rows
    )


def _drawing_flags(p: Parser) -> None:
    p.add_argument(
        "--form", help="a form by name, wuyan-jueju or 五言绝句 (the model's default; for fill, the text's shape)"
    )
    p.add_argument("--seed", type=int, default=0, help="text k is drawn with seed + k (0)")
    p.add_argument("--sampler", help="(the model's default)")
    p.add_argument("--steps", type=int, help="(one position at a time)")
    p.add_argument("--temperature", type=float, help="1 is the law of the model itself (the model's default)")
    p.add_argument("--top-p", type=float, help="draw from the likeliest tokens that make up this share")
    p.add_argument("--process", help="(the model's first one)")
    p.add_argument(
        "--option", type=_option, action="append", default=[], metavar="NAME=VALUE", help="the sampler's own"
    )
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
    _model_flags(p)


def _image_flags(p: Parser) -> Any:
    about = "for a model of images, which writes a PNG; TEXT is then an image file, or digits:K"
    group = p.add_argument_group("images", about)
    group.add_argument("--label", help="the class to draw")
    return group


def _watching_flags(p: Parser) -> None:
    p.add_argument("--watch", action="store_true", help="show the texts at the terminal (stderr) while they are drawn")
    p.add_argument("--delay", type=float, default=0.0, help="seconds between two states of --watch (0)")
    p.add_argument("--trace", metavar="FILE", help="write every state here, JSON Lines; see 'textdiff animate'")


def _model_flags(p: Parser) -> None:
    p.add_argument("--model", metavar="DIR|ID", help="a model folder or hub id (the packaged model)")
    p.add_argument("--device", default="cpu", help="(cpu)")


def _format_flags(p: Parser) -> None:
    p.add_argument("--format", choices=("text", "jsonl"), default="text", help="(text)")
    p.add_argument("--json", dest="format", action="store_const", const="jsonl", help="the same as --format jsonl")
    p.add_argument("--out", metavar="FILE", help="write here instead of to stdout")


def _text_flags(p: Parser) -> None:
    p.add_argument("text", nargs="*", metavar="TEXT", help="by default from stdin, one a line or JSON Lines")
    p.add_argument("--file", metavar="FILE", help="read the texts here; .gz too; - for stdin")


def _names_of(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 1,2") from None


def _option(text: str) -> tuple[str, float | str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as eta=0.5")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _reading(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key.strip() and equals and value.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not LINE:POSITION=READING, such as 3:5=平")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
