"""textdiff: discrete text diffusion.

    import textdiff

    pipe = textdiff.load()                      # the packaged poem model; or a folder, or a hub id
    pipe.generate("qiyan-jueju", n=4, seed=0)

Everything that is public stands in `textdiff.__all__`.  It loads when it is first used, so that `import textdiff` costs nothing.
"""

from __future__ import annotations

import importlib

from textdiff.core import moved

TYPE_CHECKING = False  # so that typing is not imported
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_WHERE = {  # the file below textdiff -> its public names
    "pipeline": "load",
    "pipeline.text": "TextPipeline Pipeline",
    "pipeline.jobs.mapper": "Mapper",
    "pipeline.hub.task": "TextDiffusionPipeline register_pipeline",
    "pipeline.images": "ImagePipeline",
    "pipeline.options": "Options",
    "pipeline.outputs": "Output Refined Frame",
    "pipeline.revision.augment": "Variant",
    "pipeline.score.scorer": "Score Detail",
    "pipeline.score.choose": "Chosen",
    "pipeline.score.restore": "Restoration",
    "verse.checker": "check",
    "verse.forms": "FORMS",
    "training.run": "train",
    "training.recipe": "Recipe",
    "core.loop": "sample",
    "training.loss": "weighted_nll",
    "core.likelihood": "nelbo",
    "core.rng": "Rng",
    "core.contracts": "State Query Process Prediction Predictor Step Model",
    "processes": "PROCESSES",
    "samplers": "SAMPLERS",
    "core.errors": "TextdiffError ModelError RecipeError AskedError",
}
_NAMES = {name: file for file, names in _WHERE.items() for name in names.split()}
__all__ = ["__version__", "verify", *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(f"textdiff.{_NAMES[name]}"), name)
        globals()[name] = value  # pdoc looks for it there
        return value
    if name == "verify":  # a package that can be called
        return importlib.import_module("textdiff.verify")
    raise AttributeError(f"module 'textdiff' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


moved.install()
