"""textdiff: discrete text diffusion.  Submodules load when first used, so that `import textdiff` costs nothing."""

from __future__ import annotations

import importlib
from typing import Any

from textdiff.core import moved

__version__ = "0.1.0"

_WHERE = {"Pipeline": "textdiff.pipeline.text", "Output": "textdiff.pipeline.text", "Score": "textdiff.pipeline.text"}
__all__ = ["Output", "Pipeline", "Score", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'textdiff' has no attribute {name!r}; it has {', '.join(__all__)}")


moved.install()
