"""generate and fill with a model of images."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textdiff.cli.common import progress_bar, starting, writing
from textdiff.cli.drawing import onlookers, options_of
from textdiff.core.errors import AskedError

# Flags that are no options, and mean nothing to an image.
ONLY_TEXTS = ("watch", "file", "on_error", "rejects", "format", "template", "upper")
ONLY_IMAGES = ("mask", "level")


def of_images(model: str) -> bool:
    """Whether a model is a folder of a model of images."""
    try:
        told = json.loads((Path(model) / "textdiff.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and isinstance(told.get("data"), dict) and "shape" in told["data"]


def for_images(a: argparse.Namespace) -> bool:
    """Whether --model is a folder of a model of images; a flag of the other kind that is no option is an error."""
    images = a.model is not None and of_images(a.model)
    for name in ONLY_TEXTS if images else ONLY_IMAGES:
        if getattr(a, name, None) != a.parser.get_default(name):
            name = name.replace("_", "-")
            model, kinds = a.model or "the packaged model", ("texts", "images")
            raise AskedError(
                f"--{name} is for {kinds[not images]}, and {model} is a model of {kinds[images]}; leave it out"
            )
    if images and not (a.out and a.out != "-") and sys.stdout.isatty():
        raise AskedError("a picture is not written to a terminal; pass --out FILE.png, or send stdout to a file")
    return images


def draw_images(a: argparse.Namespace) -> None:
    from textdiff.show import mosaic

    with writing(a.out) as out, _image_run(a, options_of(a), a.n, "generate") as (pipe, settings):
        drawn = pipe.generate(a.n, **settings)
        out.buffer.write(mosaic.png(drawn.images))


def fill_images(a: argparse.Namespace) -> None:
    import torch

    from textdiff.data.image_data import image_of, mask_of
    from textdiff.processes import PROCESSES
    from textdiff.show import mosaic

    if not a.text:
        raise AskedError("there is no image; pass image files, or digits:0, digits:1 … for digits held out of training")
    with writing(a.out) as out, _image_run(a, options_of(a), len(a.text), "fill") as (pipe, settings):
        images = torch.stack([image_of(text, pipe.model.shape) for text in a.text])
        if a.mask is None and PROCESSES[pipe.model.processes[0]].degrades:
            level = 1.0 if a.level is None else a.level
            shown = pipe.degrade(images, level, seed=a.seed or 0)
            drawn = pipe.restore(shown, level=level, **settings)
        else:
            known = mask_of(a.mask or "centre", pipe.model.shape)
            shown = torch.where(known, images, 0.0)
            drawn = pipe.fill(images, known, **settings)
        out.buffer.write(mosaic.png(torch.cat([images, shown, drawn.images]), columns=len(images)))


@contextlib.contextmanager
def _image_run(a: argparse.Namespace, options: Any, n: int, call: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The pipeline of a model of images, and the arguments of a call; the trace and the progress bar look on."""
    with starting():
        from textdiff.pipeline.images import ImagePipeline
        from textdiff.pipeline.plan import resolve
        from textdiff.show import mosaic

        pipe = ImagePipeline.from_pretrained(a.model, device=a.device)
    plan, first = resolve(options, pipe.model, call), 0
    header = {"images": True, "model": pipe.model.name, "process": plan.process, "sampler": plan.sampler}
    header["seeds"] = [(a.seed or 0) + k for k in range(n)]
    said = options.given() | {"steps": plan.steps}
    with onlookers(a, header, said) as watch, progress_bar(a, n, "image") as bar:

        def follow(state: Any) -> None:
            nonlocal first
            done = not state.t.any()
            if watch is not None:
                shown = pipe.finished(state) if done else state.x
                rows = range(first, first + len(state.x))
                watch(mosaic.shot(shown, rows, state.t.max().item(), state.forwards.tolist()))
            if done:
                bar.update(len(state.x))
                first += len(state.x)

        yield pipe, {"seed": a.seed or 0, "options": options, "callback": follow}
