"""Images side by side as one PNG, and traces of images as moving pictures.  Values are clamped to [−1, 1].

A trace of images is a trace of texts (trace.py) whose header has `images` and whose texts are PNGs in base64.
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
PAPER = 96  # the gray between them
LARGEST = 4096  # pixels that a side of an image in a trace may have
LEAST = 48  # pixels that a side has at least: smaller images are enlarged by a whole number


def mosaic(images: Tensor, columns: int | None = None, zoom: int | None = None) -> Any:
    """A Pillow image of images (N, C, H, W), row by row; without `columns` there are about as many rows as columns."""
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
    """The bytes of a PNG file of `mosaic`."""
    return _bytes(mosaic(images, columns, zoom))


def pixels(images: Tensor) -> Tensor:
    """Bytes (N, H, W, C) for values (N, C, H, W)."""
    return ((images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)


def encoded(images: Tensor) -> list[str]:
    """Each image as a PNG in base64, without enlargement."""
    return [base64.b64encode(_bytes(_picture(image))).decode("ascii") for image in pixels(images)]


def decoded(texts: Sequence[str]) -> Tensor:
    """The images (N, C, H, W) that `encoded` wrote; AskedError for other texts."""
    import numpy as np

    pillow = _pillow()
    images = []
    for text in texts:
        try:
            picture = pillow.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
            if max(picture.size) > LARGEST:  # a few bytes can name a picture of any size
                raise AskedError(f"{picture.width} by {picture.height} pixels, expected at most {LARGEST} a side")
            plain = np.array(picture.convert("L" if picture.mode == "L" else "RGB"))
        except Exception as error:  # Pillow raises errors of many classes
            raise AskedError(f"a state is no PNG image in base64 ({error}); record the trace again") from None
        images.append(torch.from_numpy(plain).view(picture.height, picture.width, -1).permute(2, 0, 1))
    if len({image.shape for image in images}) > 1:
        raise AskedError("the images of the trace differ in size; record it again")
    return torch.stack(images).float() / 127.5 - 1


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
    """A shot of these images for a trace: it has PNGs in the place of texts."""
    return Shot(tuple(rows), tuple(encoded(images)), level, tuple(forwards), ((),) * len(images))


def frames(trace: Trace) -> list[Any]:
    """A Pillow image of all images together for each state; an image that is finished early repeats its last state."""
    courses = [decoded([text for text, *_ in film]) for film in trace.films().values()]
    if not courses:
        raise films.nothing_to_show()
    if len({course.shape[1:] for course in courses}) > 1:
        raise AskedError("the images of the trace differ in size; record it again")
    length = max(map(len, courses))
    waiting = [torch.cat([course, course[-1:].expand(length - len(course), -1, -1, -1)]) for course in courses]
    return [mosaic(torch.stack([course[k] for course in waiting])) for k in range(length)]


def gif(trace: Trace, delay: float = 0.25, font: str | None = None) -> bytes:
    """A GIF with a frame for each state; it needs no font."""
    pictures = frames(trace)
    width, height = pictures[0].size
    films.fits_gif(width, height, len(pictures))
    return films.gif(pictures, delay)


def svg(trace: Trace, delay: float = 0.25) -> str:
    """Each state is an image that is visible for its time; a viewer without animation shows the last one."""
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
    frames(trace)  # raises an error for a trace that cannot be shown
    return films.page(trace, delay)


def _link(picture: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(_bytes(picture)).decode("ascii")
