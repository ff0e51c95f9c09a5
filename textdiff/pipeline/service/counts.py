"""What a service counts of itself, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

KIND = CONTENT_TYPE_LATEST
SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64)


class Counts:
    """The counters of one service."""

    def __init__(self, waiting: Callable[[], int]):
        self._registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self._registry}
        ProcessCollector(registry=self._registry)  # memory, processor seconds, open files
        self._requests = Counter("textdiff_requests", "requests that were answered", ["verb", "status"], **of)
        self._seconds = Histogram(
            "textdiff_request_seconds", "from a request to the end of its answer", ["verb"], buckets=SECONDS, **of
        )
        self._batch = Histogram(
            "textdiff_batch_texts", "texts that were worked on together", ["verb"], buckets=TEXTS, **of
        )
        gauge = Gauge("textdiff_waiting", "requests that wait for their turn", **of)
        gauge.set_function(waiting)

    def answered(self, verb: str, status: int, seconds: float) -> None:
        self._requests.labels(verb, str(status)).inc()
        self._seconds.labels(verb).observe(seconds)

    def batch(self, verb: str, texts: int) -> None:
        self._batch.labels(verb).observe(texts)

    def page(self) -> bytes:
        return generate_latest(self._registry)
