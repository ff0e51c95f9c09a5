"""Texts and images from a model, one call each."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from textdiff.core.errors import AskedError
from textdiff.core.moved import renamed

if TYPE_CHECKING:
    from textdiff.pipeline.images import ImagePipeline
    from textdiff.pipeline.text import TextPipeline

# Where the names stand that this package had in version 0.1, when it was a module.
_FILES = ("outputs", "score.scorer", "options", "plan", "run", "text", "canvas")
_MODULES = (
    *_FILES,
    "score",
    "images",
    "page",
    "refine",
    "writable",
)  # which `from textdiff.pipeline import …` asks for as well


def load(
    model: str | os.PathLike[str] | None = None, device: Any = "cpu", precision: str = "auto"
) -> TextPipeline | ImagePipeline:
    """The pipeline of a model: the packaged poem model (None), a model folder, or a hub id; of texts or images, as its folder says.

    `precision` is float32, bf16 or auto (`TextPipeline.from_pretrained`); models of images know float32 alone.
    ModelError says what is wrong with a folder.
    """
    from textdiff.networks.files import holds_images

    if holds_images(model):
        from textdiff.pipeline.images import ImagePipeline

        if precision not in ("float32", "auto"):
            raise AskedError(f"precision is {precision!r}, but a model of images is computed in float32; leave it out")
        assert model is not None, "the packaged model writes texts"
        return ImagePipeline.from_pretrained(model, device)
    from textdiff.pipeline.text import TextPipeline

    return TextPipeline.from_pretrained(model, device=device, precision=precision)


def __getattr__(name: str) -> Any:
    """The names of the module that this package was in version 0.1."""
    if not name.startswith("_") and name not in _MODULES:
        for file in _FILES:
            module = importlib.import_module(f"textdiff.pipeline.{file}")
            if name in vars(module):
                renamed(f"textdiff.pipeline.{name}", f"textdiff.pipeline.{file}.{name}")
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
