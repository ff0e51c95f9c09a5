"""The programs that a run reports to by transformers' own integrations: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from textdiff.core.errors import TextdiffError


@contextlib.contextmanager
def reporting(to: str) -> Iterator[None]:
    """Say plainly what the program `to` has refused: no account, no way to its server, a file that it cannot write."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != to:
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TextdiffError(
            f"run.report_to {to} failed ({reason}); set {to} up, or leave run.report_to out: log.jsonl has the same figures, "
            f"and the same command goes on from the newest checkpoint"
        ) from error
