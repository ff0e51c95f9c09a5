"""generate and fill with a model of images."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from textdiff.cli.common import progress_bar, starting
from textdiff.cli.drawing import onlookers, options_of
from textdiff.core.errors import AskedError

# Flags that are no options, and mean nothing to an image.
ONLY_TEXTS = ("watch", "file", "on_error", "rejects", "format", "template", "upper")
ONLY_IMAGES = ("mask", "level")


def of_images(model: str) -> bool:
    """Whether a model, a folder or an id of the hub, is one of images."""
    with starting():
        from textdiff.networks.files import holds_images

        return holds_images(model)


def check_kind(a: argparse.Namespace, images: bool) -> None:
    """AskedError for a flag that is no option of a draw and is for the other kind of model."""
    for name in ONLY_TEXTS if images else ONLY_IMAGES:
        if getattr(a, name, None) != a.parser.get_default(name):
            name = name.replace("_", "-")
            model, kinds = a.model or "the packaged model", ("texts", "images")
            raise AskedError(
                f"--{name} is for {kinds[not images]}, and {model} is a model of {kinds[images]}; leave it out"
            )
    if images and not (a.out and a.out != "-") and sys.stdout.isatty():
        raise AskedError("a picture is not written to a terminal; pass --out FILE.png, or send stdout to a file")


def draw_images(a: argparse.Namespace, pipe: Any, out: Any) -> None:
    """Draws --n images, side by side."""
    from textdiff.show import mosaic

    check_kind(a, images=True)
    with _looking_on(a, pipe, options_of(a), a.n, "generate") as settings:
        drawn = pipe.generate(a.n, **settings)
    out.buffer.write(mosaic.png(drawn.images))


def fill_images(a: argparse.Namespace, pipe: Any, out: Any) -> None:
    """Fills or restores the images that are named: as they are, as they are shown to the model, as they come out."""
    import torch

    from textdiff.data.image_data import image_of, mask_of
    from textdiff.processes import PROCESSES
    from textdiff.show import mosaic

    check_kind(a, images=True)
    if not a.text:
        raise AskedError("there is no image; pass image files, or digits:0, digits:1 … for digits held out of training")
    images = torch.stack([image_of(text, pipe.model.shape) for text in a.text])
    with _looking_on(a, pipe, options_of(a), len(a.text), "fill") as settings:
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
def _looking_on(a: argparse.Namespace, pipe: Any, options: Any, n: int, call: str) -> Iterator[dict[str, Any]]:
    """The arguments of a call whose trace and progress bar look on."""
    from textdiff.pipeline.plan import resolve
    from textdiff.show import mosaic

    plan, first = resolve(options, pipe.model, call), 0
    header = {"images": True, "model": pipe.model.name, "process": plan.process, "sampler": plan.sampler}
    header["seeds"] = [(a.seed or 0) + k for k in range(n)]
    settings = options.given() | {"steps": plan.steps}
    with onlookers(a, header, settings) as watch, progress_bar(a, n, "image") as bar:

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

        yield {"seed": a.seed or 0, "options": options, "callback": follow}
