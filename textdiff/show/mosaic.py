"""Images side by side as one PNG, and their traces as moving pictures.  Values stand in [−1, 1]; others are cut off there.

A trace of images is one of texts (trace.py) whose header has `images` and whose texts are PNGs in base64.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.show import films
from textdiff.show.films import Clock
from textdiff.show.pictures import svg_head
from textdiff.show.trace import Shot, Trace

GAP = 2  # pixels between images
PAPER = 96  # the gray that shows there
LARGEST = 4096  # pixels of the side of an image in a trace
LEAST = 48  # pixels of a shown image's side: smaller ones are enlarged by a whole number


def mosaic(images: Tensor, columns: int | None = None, zoom: int | None = None) -> Any:
    """A Pillow image of (N, C, H, W), row by row; `columns` None makes it about square."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise AskedError(f"images are {tuple(images.shape)}; expected (N, 1 or 3, H, W) with at least one image")
    n, _, height, width = images.shape
    across = columns or -(-n // max(1, int(n**0.5)))
    times = zoom or max(1, -(-LEAST // max(height, width)))
    values = pixels(images).repeat_interleave(times, 1).repeat_interleave(times, 2)  # (N, H, W, C)
    tall, wide = height * times + GAP, width * times + GAP
    rows = -(-n // across)
    paper = torch.full((rows * tall + GAP, min(across, n) * wide + GAP, values.shape[3]), PAPER, dtype=torch.uint8)
    for k, value in enumerate(values):
        y, x = GAP + k // across * tall, GAP + k % across * wide
        paper[y : y + tall - GAP, x : x + wide - GAP] = value
    return _picture(paper)


def png(images: Tensor, columns: int | None = None, zoom: int | None = None) -> bytes:
    """`mosaic` as a PNG file."""
    return _bytes(mosaic(images, columns, zoom))


def pixels(images: Tensor) -> Tensor:
    """(N, H, W, C) bytes of (N, C, H, W) values."""
    return ((images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)


def encoded(images: Tensor) -> list[str]:
    """Each image as a PNG of its own size, in base64."""
    return [base64.b64encode(_bytes(_picture(one))).decode("ascii") for one in pixels(images)]


def decoded(texts: Sequence[str]) -> Tensor:
    """(N, C, H, W) of what `encoded` wrote; ValueError where it did not."""
    import numpy as np

    image = _pillow()
    found = []
    for text in texts:
        try:
            picture = image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
            if max(picture.size) > LARGEST:  # a few bytes can name a picture of any size
                raise AskedError(f"{picture.width} by {picture.height} pixels, expected at most {LARGEST} a side")
            plain = np.array(picture.convert("L" if picture.mode == "L" else "RGB"))
        except Exception as error:  # Pillow raises errors of many classes
            raise AskedError(f"a state is no PNG image in base64 ({error}); record the trace anew") from None
        found.append(torch.from_numpy(plain).view(picture.height, picture.width, -1).permute(2, 0, 1))
    if len({one.shape for one in found}) > 1:
        raise AskedError("the images of the trace differ in size; record it anew")
    return torch.stack(found).float() / 127.5 - 1


def _picture(values: Tensor) -> Any:
    plain = values[:, :, 0] if values.shape[2] == 1 else values
    return _pillow().fromarray(plain.contiguous().numpy())


def _bytes(picture: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise AskedError("pictures are drawn by Pillow, which is missing; pip install 'textdiff[image]'") from None
    return Image


# -- a trace of images ----------------------------------------------------------------------------------------------------


def shot(images: Tensor, rows: Sequence[int], level: float, forwards: Sequence[int]) -> Shot:
    """A state of these images for a trace: PNGs in the place of texts."""
    return Shot(tuple(rows), tuple(encoded(images)), level, tuple(forwards), ((),) * len(images))


def frames(trace: Trace) -> list[Any]:
    """Pillow images of all the trace's images together, one a state; an image that is done earlier waits."""
    courses = [decoded([text for text, *_ in film]) for film in trace.films().values()]
    if not courses:
        raise films.nothing_to_show()
    if len({course.shape[1:] for course in courses}) > 1:
        raise AskedError("the images of the trace differ in size; record it anew")
    length = max(map(len, courses))
    waiting = [torch.cat([course, course[-1:].expand(length - len(course), -1, -1, -1)]) for course in courses]
    return [mosaic(torch.stack([course[k] for course in waiting])) for k in range(length)]


def gif(trace: Trace, delay: float = 0.25, font: str | None = None) -> bytes:
    """One frame a state; a font is not needed."""
    pictures = frames(trace)
    width, height = pictures[0].size
    films.fits_gif(width, height, len(pictures))
    return films.gif(pictures, delay)


def svg(trace: Trace, delay: float = 0.25) -> str:
    """Each state is an image that is visible for its time; a viewer that moves nothing shows the last."""
    pictures = frames(trace)
    clock = Clock(len(pictures), delay)
    lines = [svg_head(*pictures[0].size)]
    for k, picture in enumerate(pictures):
        moving, hidden = clock.visible(k, k + 1)
        size = f'width="{picture.width}" height="{picture.height}"'
        lines.append(f'<image {size}{hidden} href="{_link(picture)}">{moving}</image>')
    return "\n".join([*lines, "</svg>\n"])


def html(trace: Trace, delay: float = 0.25) -> str:
    """A page with the images in it, a play button and a slider."""
    frames(trace)  # says what is wrong with it
    return films.page(trace, delay)


def _link(picture: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(_bytes(picture)).decode("ascii")
