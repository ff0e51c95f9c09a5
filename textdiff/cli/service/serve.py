"""serve: one model for many callers, over HTTP."""

from __future__ import annotations

import argparse
import errno
import os
import socket
from typing import Any

from textdiff.cli.common import Parser, add_verb, log, model_flags, open_pipeline
from textdiff.core.errors import AskedError

PORT = 8765


def add(verbs: Any) -> None:
    """The verb of this file and its flags."""
    p = add_verb(verbs, "serve", serve, ending=lambda: _ENDING)
    address_flags(p)
    limit_flags(p)
    model_flags(p)


_ENDING = """\
  curl http://127.0.0.1:8765/generate --json '{"form": "wuyan-jueju", "seed": 1}'

A request is a job as those of --input are (docs/bulk.md), and its answer is the line that it would have there.  docs/serve.md
has the rest: streams, limits, errors, metrics.  Anyone who can reach the address can ask; there is no password."""


def address_flags(p: Parser) -> None:
    p.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1, this machine alone)")
    p.add_argument("--port", type=int, default=PORT, help=f"0 for one that is free ({PORT})")


def limit_flags(p: Parser) -> None:
    p.add_argument(
        "--window", type=float, default=20, metavar="MS", help="how long a request waits for others of its kind (20)"
    )
    p.add_argument(
        "--queue", type=int, default=256, metavar="N", help="requests that may wait; the next gets 429 (256)"
    )
    p.add_argument(
        "--texts", type=int, default=64, metavar="N", help="of a request, candidates and repeats counted (64)"
    )
    p.add_argument("--timeout", type=float, default=60, metavar="S", help="seconds until a request gets 504 (60)")
    p.add_argument(
        "--body", type=int, default=65536, metavar="BYTES", help="of a request; a larger one gets 413 (65536)"
    )


def serve(a: argparse.Namespace) -> None:
    address = listening(a.host, a.port)
    with address:
        app = opened(a)
        log(f"textdiff: listening at {url_of(address)} (Ctrl-C stops it)")
        run(app, address, a.timeout)


def listening(host: str, port: int) -> socket.socket:
    """A socket at an address, to which callers can connect from now on."""
    if not 0 <= port < 2**16:
        raise AskedError(f"port is {port}; it must be a number from 0 to 65535")
    try:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.getaddrinfo(host or None, port, kind)
        return socket.create_server((host, port), family=kind, backlog=1024)
    except (socket.gaierror, UnicodeError) as error:
        raise AskedError(f"host is {host!r}, which is no address; pass another --host, such as 127.0.0.1") from error
    except OSError as error:
        elsewhere = (
            "--host, such as 127.0.0.1" if error.errno == errno.EADDRNOTAVAIL else "--port, or 0 for one that is free"
        )
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise AskedError(f"cannot listen at {host}, port {port} ({reason}); pass another {elsewhere}") from error


def url_of(address: socket.socket) -> str:
    host, port = address.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def opened(a: argparse.Namespace, page: bool = False) -> Any:
    """The application of --model within the limits of the flags, perhaps with the page for people."""
    pipe = open_pipeline(a)
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise AskedError(f"a service needs {error.name}, which is missing; pip install 'textdiff[serve]'") from error
    from textdiff.pipeline.service.app import application
    from textdiff.pipeline.service.demo import page_of
    from textdiff.pipeline.service.limits import Limits

    limits = Limits(a.window / 1000, a.queue, a.texts, a.timeout, a.body)
    more = page_of(pipe) if page else ()
    return application(pipe, limits, lambda line: log(f"textdiff: {line}"), more)


def run(app: Any, address: socket.socket, seconds: float) -> None:
    """Answer until a signal comes, then finish what was asked for; the signal does the rest."""
    import uvicorn

    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=int(seconds) + 5,
    )
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[address])
    except (KeyboardInterrupt, SystemExit) as error:
        if not server.force_exit:  # which a second Ctrl-C sets
            error.add_note("what was asked for before was answered")
        raise
    finally:
        app.state.worker.stop()
