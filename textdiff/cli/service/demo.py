"""demo: a page on which people write poems."""

from __future__ import annotations

import argparse
from typing import Any

from textdiff.cli.common import add_verb, log, model_flags
from textdiff.cli.service.serve import address_flags, limit_flags, listening, opened, run, url_of


def add(verbs: Any) -> None:
    """The verb of this file and its flags."""
    p = add_verb(verbs, "demo", demo)
    address_flags(p)
    limit_flags(p)
    model_flags(p)


def demo(a: argparse.Namespace) -> None:
    with listening(a.host, a.port) as address:
        app = opened(a, page=True)
        log(f"textdiff: the page is at {url_of(address)}/ (Ctrl-C stops it)")
        run(app, address, a.timeout)
