"""What is asked and answered over HTTP.

    POST /generate, /fill and so on            a job, an object of JSON -> the line that it has among the results of jobs
    GET  /health                               the model, and how many requests wait
    GET  /metrics                              counters in the format of Prometheus

With `Accept: text/event-stream` the answer is a stream of server-sent events: `frame` with the fields of a `Frame` after the
steps (to a reader that is slow only the newest one), then `result` with the line of the job, or `error`.  A job without an id and
a seed has an id by chance, and with it another seed each time.

An error is {"error": …, the keys of the job}: 413 and 422 where the request asks for what cannot be, 429 where too many wait,
504 where it takes too long, 500 for a fault of the model or of textdiff.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from textdiff import __version__
from textdiff.core.errors import AskedError, ModelError
from textdiff.data.decoding import Line
from textdiff.data.records import Record, record_of
from textdiff.pipeline.jobs.lines import identified, joined
from textdiff.pipeline.jobs.verbs import VERBS, Verb, prepared
from textdiff.pipeline.outputs import Frame
from textdiff.pipeline.service.counts import KIND, Counts
from textdiff.pipeline.service.limits import Limits, texts_of
from textdiff.pipeline.service.worker import Full, Stopped, Ticket, Worker
from textdiff.pipeline.text import TextPipeline

READING = 10.0  # seconds that a request may take to come in
DISCARDED = 1 << 24  # bytes of a request that is too large which are read, so that the caller hears why
ALIVE = 5.0  # seconds after which a stream says that it is still there
JSON, EVENTS = "application/json", "text/event-stream"
LEFT = 499  # the status that is counted where the caller has left


class Refused(Exception):
    """A request that is not worked on, or not to its end; `fields` are those of the job."""

    def __init__(
        self, status: int, why: str, fields: Mapping[str, Any] | None = None, headers: dict[str, str] | None = None
    ):
        Exception.__init__(self, why)
        self.status, self.headers = status, headers
        self.line = joined({"error": why}, fields or {})

    def response(self) -> Response:
        return Response(self.line, self.status, self.headers, JSON)


def application(
    pipe: TextPipeline,
    limits: Limits | None = None,
    log: Callable[[str], object] = lambda _: None,
    more: Sequence[Route] = (),
) -> Starlette:
    """The service of a model, with `more` that it shows; its lifespan starts and stops the thread that works, `state.worker`."""
    service = Service(pipe, limits or Limits(), log)
    routes = [
        *(Route(f"/{name}", service.door(verb), methods=["POST"]) for name, verb in VERBS.items()),
        Route("/health", service.health),
        Route("/metrics", service.metrics),
        *more,
    ]
    app = Starlette(routes=routes, lifespan=service.lifespan, exception_handlers={HTTPException: _no_such_door})
    app.state.worker = service.worker
    return app


class Service:
    """A worker, and the doors to it."""

    def __init__(self, pipe: TextPipeline, limits: Limits, log: Callable[[str], object]):
        self.counts = Counts(lambda: self.worker.waiting)
        self.worker = Worker(pipe, limits, self.counts.batch, log)
        self.pipe, self.limits = pipe, limits

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        self.worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.worker.stop)

    def door(self, verb: Verb) -> Callable[[Request], Any]:
        """The answer to a request for a verb."""

        async def answer(request: Request) -> Response:
            began = time.monotonic()

            def count(status: int) -> None:
                self.counts.answered(verb.name, status, time.monotonic() - began)

            try:
                record = _read(await _body(request, self.limits.body))
                ticket, box = self._ticket(verb, record, streamed=EVENTS in request.headers.get("accept", ""))
                if ticket.show is not None:
                    return _stream(box, ticket, record, self.limits.seconds, count)
                result = await _result(request, box, ticket, self.limits.seconds, record)
                response = Response(joined(result, record.fields), media_type=JSON)
            except Refused as refused:
                response = refused.response()
            except ClientDisconnect:
                response = Response(status_code=LEFT)
            count(response.status_code)
            return response

        return answer

    def _ticket(self, verb: Verb, record: Record, streamed: bool) -> tuple[Ticket, Mailbox]:
        """The ticket of a request, which waits from now on, and where its result comes in."""
        box, fields = Mailbox(), record.fields
        try:
            shared, job = prepared(verb, fields, {})
            texts = texts_of(self.pipe, verb, shared, job)
            if texts > self.limits.texts:
                raise AskedError(
                    f"the job asks for {texts} texts, counting candidates, rounds, passes and repeats, and at most "
                    f"{self.limits.texts} are done at a time; ask for fewer, several times"
                )
            ticket = Ticket(verb, shared, job, texts, box.deliver, box.show if streamed else None)
            self.worker.put(ticket)
        except AskedError as error:
            raise Refused(422, str(error), fields) from error
        except Full as error:
            raise Refused(429, str(error), fields, {"Retry-After": str(error.seconds)}) from error
        except Stopped as error:
            raise _refusal(error, fields) from error
        return ticket, box

    async def health(self, _: Request) -> Response:
        alive = self.worker.alive
        said = {"status": "ok" if alive else "stopped", "model": self.pipe.model.name}
        return JSONResponse(
            said | {"waiting": self.worker.waiting, "textdiff": __version__}, status_code=200 if alive else 503
        )

    async def metrics(self, _: Request) -> Response:
        return Response(self.counts.page(), media_type=KIND)


# -- what comes in --------------------------------------------------------------------------------------------------------


async def _body(request: Request, most: int) -> bytes:
    """The body of a request of JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise Refused(415, f"a request is an object of JSON; send it with Content-Type: {JSON}")
    size, pieces = 0, list[bytes]()
    try:
        async with asyncio.timeout(READING):
            async for piece in request.stream():
                size += len(piece)
                if size <= most:
                    pieces.append(piece)
                elif size > DISCARDED:
                    break
    except TimeoutError:
        raise Refused(408, f"the request did not come in within {READING:g} s; send it at once") from None
    if size > most:
        raise Refused(413, f"the request has more than {most} bytes; send a smaller one")
    return b"".join(pieces)


def _read(body: bytes) -> Record:
    """The job of a request."""
    try:
        record = identified(record_of(Line(1, body.decode("utf-8-sig")), "the request"), uuid.uuid4().hex)
    except UnicodeDecodeError:
        raise Refused(422, "the request is no UTF-8; send it in UTF-8") from None
    if record.error is not None:
        raise Refused(422, f"{record.place} {record.error}", record.fields)
    return record


# -- what goes out --------------------------------------------------------------------------------------------------------


class Mailbox:
    """Where the worker's thread leaves what a request waits for."""

    def __init__(self) -> None:
        self._loop, self._come = asyncio.get_running_loop(), asyncio.Event()
        self._frame: Frame | None = None
        self._results: list[Any] = []

    def deliver(self, result: Any) -> None:
        self._put(lambda: self._results.append(result))

    def show(self, frame: Frame) -> None:
        self._put(lambda: setattr(self, "_frame", frame))

    def _put(self, change: Callable[[], object]) -> None:
        def there() -> None:
            change()
            self._come.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(there)

    async def next(self) -> Frame | Result:
        """The newest frame that was not taken yet, or else the result, as soon as there is one."""
        while True:
            if self._frame is not None:
                frame, self._frame = self._frame, None
                return frame
            if self._results:
                return Result(self._results[0])
            self._come.clear()
            await self._come.wait()


@dataclass(frozen=True)
class Result:
    """What comes last."""

    value: Any


async def _result(request: Request, box: Mailbox, ticket: Ticket, seconds: float, record: Record) -> Any:
    """The result of a request that is not streamed."""
    come, left = asyncio.ensure_future(box.next()), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({come, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if come.done():
            return _sound(come.result(), record)
        if left.done():
            raise ClientDisconnect
        raise _late(seconds, record)
    finally:
        ticket.gone = True
        come.cancel()
        left.cancel()


async def _left(request: Request) -> None:
    """Until the caller has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stream(
    box: Mailbox, ticket: Ticket, record: Record, seconds: float, count: Callable[[int], None]
) -> StreamingResponse:
    """The answer to a request as events."""

    def ended(status: int) -> None:
        if not ticket.gone:
            ticket.gone = True
            count(status)

    return StreamingResponse(
        _events(box, record, seconds, ended),
        headers={"Cache-Control": "no-store"},
        media_type=EVENTS,
        background=BackgroundTask(ended, LEFT),  # where the caller has left before the first event was asked for
    )


async def _events(box: Mailbox, record: Record, seconds: float, ended: Callable[[int], None]) -> AsyncIterator[str]:
    """The events of a request; where the caller leaves, the generator is closed."""
    status, end = LEFT, time.monotonic() + seconds
    try:
        while True:
            try:
                come = await asyncio.wait_for(box.next(), min(ALIVE, max(0.0, end - time.monotonic())))
            except TimeoutError:
                if time.monotonic() >= end:
                    raise _late(seconds, record) from None
                yield ": waiting\n\n"
                continue
            if isinstance(come, Frame):
                yield _event("frame", json.dumps(asdict(come), ensure_ascii=False))
                continue
            line = joined(_sound(come, record), record.fields)
            status = 200
            yield _event("result", line)
            return
    except Refused as refused:
        status = refused.status
        yield _event("error", refused.line)
    finally:
        ended(status)


def _event(name: str, line: str) -> str:
    return f"event: {name}\ndata: {line}\n\n"


def _sound(result: Frame | Result, record: Record) -> Any:
    """The result of a job, if it is none that went wrong."""
    assert isinstance(result, Result), "frames come to those who asked for them"
    if isinstance(result.value, AskedError):
        raise Refused(422, str(result.value), record.fields)
    if isinstance(result.value, Exception):
        raise _refusal(result.value, record.fields)
    return result.value


def _refusal(error: Exception, fields: Mapping[str, Any]) -> Refused:
    if isinstance(error, Stopped):
        return Refused(503, "the service stops; ask again when it is there", fields)
    why = str(error) if isinstance(error, ModelError) else "a fault of textdiff; its log says more"
    return Refused(500, why, fields)


def _late(seconds: float, record: Record) -> Refused:
    return Refused(504, f"it was not done within {seconds:g} s; ask for fewer texts or steps", record.fields)


async def _no_such_door(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    ways = ", ".join(f"POST /{name}" for name in VERBS)
    why = f"{request.method} {request.url.path} is nothing that is served here; there are {ways}, GET /health, GET /metrics"
    return Response(joined({"error": why}, {}), error.status_code, error.headers, JSON)
