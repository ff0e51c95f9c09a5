"""generate and fill with a model of images."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textdiff import __version__
from textdiff.cli.common import Parser, progress_bar, starting, writing
from textdiff.core.errors import AskedError

_TEXT_FLAGS: tuple[str, ...] = ("form", "length", "temperature", "top_p", "process", "quality", "best_of", "title")
_TEXT_FLAGS += ("dynasty", "prosody", "tones", "rhyme", "avoid", "no_repeat", "keyword", "particles", "script", "watch")
_TEXT_FLAGS += ("acrostic", "acrostic_end", "acrostic_diagonal", "template", "upper", "file", "format")
_IMAGE_FLAGS = ("label", "analytic", "mask", "level")


def image_flags(p: Parser) -> Any:
    about = "for a model of images, which writes a PNG; TEXT is then an image file, or digits:K"
    group = p.add_argument_group("images", about)
    group.add_argument("--label", help="the class to draw")
    return group


def of_images(model: str) -> bool:
    """Whether a model is a folder of a model of images."""
    try:
        told = json.loads((Path(model) / "textdiff.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and isinstance(told.get("data"), dict) and "shape" in told["data"]


def for_images(a: argparse.Namespace) -> bool:
    """Whether --model is a folder of a model of images; a flag of the other kind is an error."""
    images = a.model is not None and of_images(a.model)
    for name in _TEXT_FLAGS if images else _IMAGE_FLAGS:
        if hasattr(a, name) and getattr(a, name) != a.parser.get_default(name):
            flag, model = f"--{name.replace('_', '-')}", a.model or "the packaged model"
            if images:
                raise AskedError(f"{flag} is for texts, and {model} is a model of images; leave it out")
            raise AskedError(f"{flag} is for images, and {model} is no folder of a model of images; leave it out")
    if images and not (a.out and a.out != "-") and sys.stdout.isatty():
        raise AskedError("a picture is not written to a terminal; pass --out FILE.png, or send stdout to a file")
    return images


def draw_images(a: argparse.Namespace) -> None:
    from textdiff.show import mosaic

    with writing(a.out) as out, _image_run(a, a.n) as (pipe, settings):
        drawn = pipe.generate(a.n, label=a.label, analytic=a.analytic, **settings)
        out.buffer.write(mosaic.png(drawn.images))


def fill_images(a: argparse.Namespace) -> None:
    import torch

    from textdiff.data.image_data import image_of, mask_of
    from textdiff.processes import PROCESSES
    from textdiff.show import mosaic

    if not a.text:
        raise AskedError("there is no image; pass image files, or digits:0, digits:1 … for digits held out of training")
    with writing(a.out) as out, _image_run(a, len(a.text)) as (pipe, settings):
        images = torch.stack([image_of(text, pipe.model.shape) for text in a.text])
        if a.mask is None and PROCESSES[pipe.model.processes[0]].degrades:
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
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in library
    with starting():
        from textdiff.pipeline.images import ImagePipeline
        from textdiff.show import mosaic, trace

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
        bar = stack.enter_context(progress_bar(a, n, "image"))
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
