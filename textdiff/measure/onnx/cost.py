"""What an export costs in the bound: the same texts and the same corruptions, by the network and by its export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textdiff.measure import intervals
from textdiff.pipeline.score.scorer import Scorer

LEVELS = 4  # stratified, of each text


def cost(
    network: Scorer, exported: Scorer, records: Sequence[Mapping[str, Any]], levels: int = LEVELS
) -> dict[str, Any]:
    """The mean bounds of texts in nats per character, and their difference with its 95 % interval over texts."""
    texts, forms = [record["text"] for record in records], [record.get("form") for record in records]
    options: dict[str, Any] = {"levels": levels, "repeats": 1, "seed": list(range(len(texts)))}
    before, after = (
        [one.nats_per_char for one in pipe.score(texts, forms, process=exported.model.processes[0], **options)]
        for pipe in (network, exported)
    )
    more = intervals.mean([b - a for a, b in zip(before, after, strict=True)])
    return {
        "texts": len(texts),
        "nats_per_char": sum(before) / len(texts),
        "exported_nats_per_char": sum(after) / len(texts),
        "difference": more.value,
        "low": more.low,
        "high": more.high,
    }
