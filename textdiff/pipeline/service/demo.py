"""The page of a service on which people write poems: three files, and what they need to know of the model.

Everything else the page asks for comes through the doors of `app`, as any other request does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from textdiff.core.errors import AskedError
from textdiff.pipeline.options import defaults_of
from textdiff.pipeline.page import knows_forms
from textdiff.pipeline.text import TextPipeline
from textdiff.verse.forms import FORMS

FOLDER = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}


def page_of(pipe: TextPipeline) -> list[Route]:
    """The routes of the page; AskedError for a model that does not write verse."""
    if not knows_forms(pipe.model):
        raise AskedError(
            f"model {pipe.model.name} writes no verse, for which the page is; use 'textdiff serve' with it"
        )
    settings = settings_of(pipe)

    async def said(_: Request) -> Response:
        return JSONResponse(settings)

    return [*(Route(path, _file(name)) for path, name in FILES.items()), Route("/settings", said)]


def settings_of(pipe: TextPipeline) -> dict[str, Any]:
    """What the page is told of the model."""
    return {
        "model": pipe.model.name,
        "form": defaults_of(pipe.model).form,
        "told": list(pipe.model.told),
        "forms": [
            {"name": form.name, "chinese": form.chinese, "lines": form.lines, "width": form.width}
            for form in FORMS.values()
        ],
    }


def _file(name: str) -> Callable[[Request], Any]:
    async def answer(_: Request) -> Response:
        return FileResponse(FOLDER / name, headers=HEADERS)

    return answer
