"""The metrics of poems as an `evaluate.Metric`, for programs that compute through that interface; nothing is downloaded.

    from textdiff.measure.hf_metrics import PoemMetrics
    PoemMetrics().compute(predictions=generated, references=real)

This needs the package `evaluate`, which the extra of that name brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from textdiff.measure import poem_report as report


class PoemMetrics(evaluate.Metric):  # type: ignore[misc]
    """Every metric of `poem_report.ROWS`: {"qiyan-jueju/regulated": …, "qiyan-jueju/real/regulated": …}.

    Predictions and references are poems as text, equally many of both; the shape of a text decides its form.
    `compute` also takes `background=`, a `poem_report.Background`; copying, parallelism and fluency are left out without it.
    """

    def __init__(self, *, keep_in_memory: bool = True, **settings: Any):
        super().__init__(keep_in_memory=keep_in_memory, **settings)  # on disk it would only leave empty folders

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Prosody, repetition, copying and diversity of Chinese regular verse, beside real poems.",
            citation="",
            inputs_description="predictions, references: poems as text; background: a textdiff.measure.poem_report.Background.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], background: report.Background | None = None
    ) -> dict[str, float]:
        samples, real = (report.Poems.sort({"text": text} for text in texts) for texts in (predictions, references))
        values: dict[str, float] = {}
        for one in report.compare(samples, real, background or report.Background()):
            values |= {f"{one.form}/{name}": measured.value for name, measured in one.generated.items()}
            values |= {f"{one.form}/real/{name}": measured.value for name, measured in one.real.items()}
        return values
