"""train, recipes, curves, data, export: from texts to a model folder, and from there to other programs."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textdiff.cli.common import add_parts, add_verb, json_lines, log, sign_of_life, stage_line
from textdiff.core.errors import AskedError, TextdiffError


def add(verbs: Any) -> None:
    """The verbs of this file and their flags."""
    p = add_verb(verbs, "train", train)
    p.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file, or one of 'textdiff recipes' by name, such as quickstart"
    )
    p.add_argument("override", nargs="*", metavar="a.b=c", help="change the recipe, such as run.steps=100")
    p.add_argument("--dry-run", action="store_true", help="print parameters, tokens, steps, estimated time and memory")
    p.add_argument("--fresh", action="store_true", help="begin anew although there are checkpoints")
    p.add_argument("--json", action="store_true", help="with --dry-run: one JSON object")

    p = add_verb(verbs, "recipes", recipes)
    p.add_argument(
        "name", nargs="?", metavar="NAME", help="print this recipe, to be changed: 'recipes NAME > mine.yaml'"
    )
    p.add_argument("--json", action="store_true", help="JSON Lines")

    p = add_verb(verbs, "curves", curves)
    p.add_argument(
        "folder", nargs="+", metavar="RUN", help="the folder of a run, such as runs/quickstart; several are compared"
    )
    p.add_argument(
        "--over", choices=("tokens", "steps", "minutes"), default="tokens", help="what the curves are drawn over"
    )
    p.add_argument("--png", metavar="FILE", help="draw the curves (.png, .svg or .pdf) instead of printing the table")
    p.add_argument("--json", action="store_true", help="JSON Lines instead of csv")

    tasks = add_parts(verbs, "data", "Prepare data.", "task")
    p = add_verb(
        tasks, "prepare", data_prepare, "from a clone of chinese-poetry, or texts of any kind, to fixed-form data"
    )
    p.add_argument(
        "source", metavar="SOURCE", help="the clone's folder, or what the other verbs read: text, JSON Lines, a table"
    )
    p.add_argument("out", metavar="OUT", help="folder for train, validation and test")
    p.add_argument("--form", action="append", default=[], help="keep this form only; may be repeated")
    p.add_argument("--keep-traditional", action="store_true", help="leave traditional characters as they are")
    p.add_argument("--validation", type=float, default=0.05, help="share of the texts (0.05)")
    p.add_argument("--test", type=float, default=0.05, help="share of the texts (0.05)")
    p.add_argument("--json", action="store_true", help="the report in one line")

    kinds = add_parts(verbs, "export", "Export a model.", "kind")
    p = add_verb(kinds, "onnx", export_onnx, "the network as ONNX, held against the one it is made of (textdiff[onnx])")
    p.add_argument("model", metavar="MODEL", help="a model folder or hub id, or poems-zh, the packaged model")
    p.add_argument("folder", metavar="DIR", help="where to write model.onnx, the tokenizer and textdiff.json")
    p.add_argument("--int8", action="store_true", help="model.int8.onnx beside it, with weights of 8 bits")
    p.add_argument("--texts", metavar="FILE", help="say what the export costs in the bound of these texts")
    p.add_argument("--json", action="store_true", help="the report in one line")


def train(a: argparse.Namespace) -> int | None:
    from textdiff.training.recipe import load

    recipe = load(a.recipe, a.override)
    with sign_of_life(a, "starting"):
        from textdiff.training import run

    if a.dry_run:
        report = run.dry_run(recipe, log=(lambda line: None) if a.quiet else log)
        print(json.dumps(report) if a.json else "\n".join(f"{name:18}{value}" for name, value in report.items()))
        return None
    try:
        folder = run.train(recipe, fresh=a.fresh, log=(lambda line: None) if a.quiet else log)
    except AskedError:  # nothing was trained
        raise
    except TextdiffError as error:
        if run.leader():
            _leave_figures(recipe.folder, None)
        if not isinstance(error, run.Stopped):
            raise
        log(str(error))
        return 128 + error.signal
    if run.leader():
        _leave_figures(recipe.folder, None if a.quiet else log)
        if folder is not None:
            print(folder)
    return None


def _leave_figures(run: Path, log: Callable[[str], object] | None) -> None:
    """The figures of a run in its folder: a table, and curves where matplotlib is installed.

    A run has not failed because they cannot be written.
    """
    from textdiff.measure import curves

    with contextlib.suppress(AskedError, OSError):
        found = curves.readings(run)
        with (run / "log.csv").open("w", encoding="utf-8", newline="") as file:
            curves.write(found, file)
        curves.plot([run], run / "curves.png")
        if log is not None:
            log(f"  {run / 'curves.png'}")


def curves(a: argparse.Namespace) -> None:
    from textdiff.measure import curves

    if a.png:
        curves.plot(a.folder, a.png, a.over)
        return
    found = [reading for run in a.folder for reading in curves.readings(run)]
    if a.json:
        json_lines([reading.row() for reading in found])
    else:
        curves.write(found, sys.stdout)


def recipes(a: argparse.Namespace) -> None:
    from textdiff.training import packaged

    if a.name is not None:
        print(packaged.find(a.name).read_text(encoding="utf-8"), end="")
    elif a.json:
        json_lines({"name": name, "summary": packaged.summary(name)} for name in packaged.names())
    else:
        print("\n".join(f"{name:28}{packaged.summary(name)}" for name in packaged.names()))


def data_prepare(a: argparse.Namespace) -> None:
    from textdiff.data.corpus import prepare

    report = prepare(
        a.source,
        a.out,
        forms=a.form or None,
        simplify=not a.keep_traditional,
        validation=a.validation,
        test=a.test,
        progress=None if a.quiet or not sys.stderr.isatty() else stage_line,
    )
    print(json.dumps(report.stats(), indent=None if a.json else 1))


def export_onnx(a: argparse.Namespace) -> None:
    from pathlib import Path

    from textdiff.networks.saving import check_replaceable

    check_replaceable(Path(a.folder).resolve(), weights=False)
    from textdiff.data.records import read_records
    from textdiff.measure.onnx.cost import cost
    from textdiff.networks.folder import TextModel
    from textdiff.networks.onnx.export import SMALL, WHOLE, export, from_onnx
    from textdiff.pipeline.text import TextPipeline

    records = read_records(a.texts) if a.texts else []
    model = TextModel.from_pretrained(None if a.model == "poems-zh" else a.model)
    with sign_of_life(a, "exporting"):
        found = export(model, Path(a.folder), a.int8)
    report: dict[str, Any] = {
        WHOLE: {"size": found.size, "difference": found.difference},
        **({SMALL: {"size": found.int8_size, "difference": found.int8_difference}} if a.int8 else {}),
    }
    if records:
        pipe = TextPipeline.of(model)
        for file, row in report.items():
            row["bound"] = cost(pipe, TextPipeline.of(from_onnx(found.folder, file)), records)
    if a.json:
        json_lines([report])
        return
    for file, row in report.items():
        print(f"{file}  {row['size'] / 1e6:.1f} MB, logits differ by at most {row['difference']:.2g}")
        if "bound" in row:
            of = row["bound"]
            print(
                f"  bound {of['nats_per_char']:.4f} → {of['exported_nats_per_char']:.4f} nats per character of {of['texts']} texts: "
                f"{of['difference']:+.4f} [{of['low']:+.4f}, {of['high']:+.4f}]"
            )
