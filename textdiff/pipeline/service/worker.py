"""The requests that wait, and the one thread that works on them.

The oldest request is worked on first, and with it all others that wait and have the same verb and the same options, up to a batch.
It waits `window` seconds for such others, unless the batch is full or the thread was at work meanwhile.  Since a text does not
depend on the texts beside it, neither does an answer.

A request that nobody waits for any more is not begun.  If it is at work, its texts take no part in what follows of its batch, and
where the others of the batch are done or gone, too, the work ends before the next forward of the network.

Where a batch fails by a fault of the model or of ours, halves of it are tried, down to the request that makes it fail.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from textdiff.core.errors import AskedError, ModelError
from textdiff.pipeline.jobs.faults import sheltered
from textdiff.pipeline.jobs.verbs import Callers, Job, Settings, Verb, alike, done
from textdiff.pipeline.outputs import Frame
from textdiff.pipeline.run import BATCH
from textdiff.pipeline.service.limits import Limits
from textdiff.pipeline.text import TextPipeline

PATIENCE = 60  # seconds after which a caller is asked to come again, at most


class Full(Exception):
    """Too many requests wait; a caller may come again after so many seconds."""

    def __init__(self, waiting: int, seconds: int):
        Exception.__init__(self, f"{waiting} requests are waiting already; ask again in {seconds} s")
        self.seconds = seconds


class Stopped(Exception):
    """The service stops, and a request is not worked on to its end."""


class _Left(Exception):
    """Nobody waits for what is worked on."""


@dataclass(eq=False)
class Ticket:
    """A request that waits or is worked on."""

    verb: Verb
    shared: Settings  # the options that it may have in common with others
    job: Job
    texts: int  # `limits.texts_of`
    deliver: Callable[[Any], object]  # called once by the thread: with the result, or with what went wrong
    show: Callable[[Frame], object] | None = None  # called with what the request shows after a step
    gone: bool = False  # nobody waits for it any more; the caller says it, the thread reads it
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.kind = (self.verb.name, alike(self.shared))


class Worker:
    """The queue and the thread; `log` is called with a line about what went wrong here, and `count` with each batch."""

    def __init__(
        self,
        pipe: TextPipeline,
        limits: Limits,
        count: Callable[[str, int], object] = lambda verb, texts: None,
        log: Callable[[str], object] = lambda line: None,
    ):
        self.pipe = TextPipeline(replace(pipe.model, look=self._look))
        self.limits, self.count, self.log = limits, count, log
        self._queue: list[Ticket] = []
        self._at_work: list[Ticket] = []
        self._changed = threading.Condition()
        self._stopping = self._at_once = False
        self._pace = 0.1  # seconds a text, lately
        self._thread = threading.Thread(target=self._run, name="textdiff worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def put(self, ticket: Ticket) -> None:
        """Full where too many wait."""
        with self._changed:
            if len(self._queue) >= self.limits.queue:
                self._queue = [one for one in self._queue if not one.gone]
            if len(self._queue) >= self.limits.queue:
                seconds = math.ceil(self._pace * sum(one.texts for one in self._queue))
                raise Full(len(self._queue), min(max(1, seconds), PATIENCE))
            if self._stopping:
                raise Stopped
            self._queue.append(ticket)
            self._changed.notify()

    def stop(self, at_once: bool = True) -> None:
        """End when what waits is done, or `at_once`; returns when the thread has ended."""
        with self._changed:
            self._stopping, self._at_once = True, self._at_once or at_once
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while tickets := self._next():
            self._work(tickets)

    def _next(self) -> list[Ticket]:
        """The tickets that are worked on next, without those that are gone; none at the end."""
        with self._changed:
            while True:
                self._queue = [one for one in self._queue if not one.gone]
                if self._at_once:
                    for one in self._queue:
                        one.deliver(Stopped())
                    self._queue = []
                if not self._queue and self._stopping:
                    return []
                if not self._queue:
                    self._changed.wait()
                    continue
                some = list(self._together())
                left = self._queue[0].since + self.limits.window - time.monotonic()
                if left <= 0 or self._stopping or sum(one.texts for one in some) >= BATCH:
                    self._queue = [one for one in self._queue if one not in some]
                    return some
                self._changed.wait(left)

    def _together(self) -> Iterator[Ticket]:
        """The oldest ticket, and others that can be worked on with it, as far as they fit into a batch."""
        room = BATCH
        for one in self._queue:
            if one is self._queue[0] or (one.kind == self._queue[0].kind and one.texts <= room):
                room -= one.texts
                yield one

    def _look(self) -> None:
        """Called before every forward of the network, and every step."""
        if self._at_once or all(one.gone for one in self._at_work):
            raise _Left

    def _work(self, tickets: list[Ticket]) -> None:
        texts, began = sum(one.texts for one in tickets), time.monotonic()
        self.count(tickets[0].verb.name, texts)
        left = list(tickets)
        try:
            for one, result in sheltered(tickets, self._done):
                left.remove(one)
                if isinstance(result, Exception) and not isinstance(result, AskedError):
                    self._say(result)
                one.deliver(Stopped() if one.gone else result)
            self._deliver(left, Stopped())
        except Exception as error:  # memory or the device fails, which must not end the service
            self._say(error)
            self._deliver(left, error)
        self._pace += 0.2 * ((time.monotonic() - began) / texts - self._pace)

    def _done(self, tickets: Sequence[Ticket]) -> Iterator[tuple[int, Any]]:
        """The results of tickets by their numbers, as long as somebody waits for one."""
        self._at_work = list(tickets)

        def show(k: int, frame: Frame) -> None:
            if (its := tickets[k].show) is not None and not tickets[k].gone:
                its(frame)

        def left(k: int) -> bool:
            self._look()
            return tickets[k].gone

        first, jobs = tickets[0], [one.job for one in tickets]
        callers = Callers(show if any(one.show for one in tickets) else None, left)
        with contextlib.suppress(_Left):
            for k, result in done(self.pipe, first.verb, jobs, first.shared, callers):
                self._at_work.remove(tickets[k])
                yield k, result

    def _say(self, error: Exception) -> None:
        self.log(str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}")

    def _deliver(self, tickets: Sequence[Ticket], what: Exception) -> None:
        for one in tickets:
            one.deliver(what)
