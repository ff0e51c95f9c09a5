"""How many products oneDNN keeps the code of, which it writes for each shape that it meets: a quarter of a megabyte each.

A batch has another number of rows than the last one, and so a service would meet new shapes for hours.  oneDNN keeps 1,024 of
them, and torch as many for each thread, some 300 MB together.  A step of a network needs about a dozen.  Code that has to be
written again costs a millisecond; on the models that were tried 64 took no more time than 1,024.
"""

from __future__ import annotations

import os

KEPT = 64
NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # of oneDNN, and of torch, which fails with 0


def keep_few() -> None:
    """Called before the first product: afterwards it changes nothing.  What the environment says stands."""
    for name in NAMES:
        os.environ.setdefault(name, str(KEPT))
