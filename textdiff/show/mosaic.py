"""Images side by side as one PNG, and their traces as moving pictures.  Values stand in [−1, 1]; others are cut off there.

A trace of images is one of texts (trace.py) whose header has `images` and whose texts are PNGs in base64.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.show.pictures import svg_head
from textdiff.show.trace import Shot, Trace

GAP = 2  # pixels between images
PAPER = 96  # the gray that shows there
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
            plain = np.array(picture.convert("L" if picture.mode == "L" else "RGB"))
        except Exception as error:
            raise AskedError(f"a state is no PNG image in base64 ({error}); record the trace anew") from None
        found.append(torch.from_numpy(plain).view(picture.height, picture.width, -1).permute(2, 0, 1))
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

REST = 2.0  # seconds that the end stands


def shot(images: Tensor, rows: Sequence[int], level: float, forwards: Sequence[int]) -> Shot:
    """A state of these images for a trace: PNGs in the place of texts."""
    return Shot(tuple(rows), tuple(encoded(images)), level, tuple(forwards), ((),) * len(images))


def frames(trace: Trace) -> list[Any]:
    """Pillow images of all the trace's images together, one a state; an image that is done earlier waits."""
    films = [decoded([text for text, *_ in film]) for film in trace.films().values()]
    if not films:
        raise AskedError("the trace has a header, but no states to show; record it anew")
    if len({film.shape[1:] for film in films}) > 1:
        raise AskedError("the images of the trace differ in size; record it anew")
    length = max(map(len, films))
    waiting = [torch.cat([film, film[-1:].expand(length - len(film), -1, -1, -1)]) for film in films]
    return [mosaic(torch.stack([film[k] for film in waiting])) for k in range(length)]


def gif(trace: Trace, delay: float = 0.25, font: str | None = None) -> bytes:
    """One frame a state, the last one longer, repeated for ever; a font is not needed."""
    check_delay(delay)
    pictures, stream = frames(trace), io.BytesIO()
    times = [round(1000 * delay)] * (len(pictures) - 1) + [round(1000 * REST)]
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, disposal=1)
    return stream.getvalue()


def svg(trace: Trace, delay: float = 0.25) -> str:
    """Each state is an image that is visible for its time; a viewer that moves nothing shows the last."""
    check_delay(delay)
    pictures = frames(trace)
    whole = (len(pictures) - 1) * delay + REST
    lines = [svg_head(*pictures[0].size)]
    for k, picture in enumerate(pictures):
        last = k == len(pictures) - 1
        begin, end = k * delay / whole, 1.0 if last else (k + 1) * delay / whole
        values, times = ["hidden", "visible", "hidden"], [0.0, begin, end]
        kept = slice(1 if k == 0 else 0, 2 if last else 3)
        told = f'values="{";".join(values[kept])}" keyTimes="{";".join(f"{t:.5g}" for t in times[kept])}"'
        moving = f'<animate attributeName="visibility" calcMode="discrete" {told} dur="{whole:g}s" repeatCount="indefinite"/>'
        hidden = "" if last else ' visibility="hidden"'
        size = f'width="{picture.width}" height="{picture.height}"'
        shown = moving if len(pictures) > 1 else ""
        lines.append(f'<image {size}{hidden} href="{_link(picture)}">{shown}</image>')
    return "\n".join([*lines, "</svg>\n"])


def html(trace: Trace, delay: float = 0.25) -> str:
    """A page with a play button and a slider."""
    check_delay(delay)
    pictures = json.dumps([_link(picture) for picture in frames(trace)])
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>textdiff</title>'
        "<style>body{font-family:sans-serif;text-align:center;background:#fdfcf8}img{image-rendering:pixelated}</style>"
        '<p><img id="image" alt="the images of this state"></p>'
        '<p><button id="play">play</button> <input id="time" type="range" min="0" value="0"> <span id="say"></span></p>'
        f'<script type="application/json" id="trace">{pictures}</script><script>'
        'const all=JSON.parse(document.getElementById("trace").textContent),'
        "[image,time,play,say]=['image','time','play','say'].map(k=>document.getElementById(k));let run=null;"
        "time.max=all.length-1;const show=()=>{image.src=all[time.value];say.textContent=time.value+' / '+time.max};"
        "const stop=()=>{clearInterval(run);run=null;play.textContent='play'};"
        "time.oninput=()=>{stop();show()};play.onclick=()=>{if(run)return stop();"
        "if(+time.value>=+time.max)time.value=0;play.textContent='stop';"
        f"run=setInterval(()=>{{if(+time.value>=+time.max)return stop();time.value=+time.value+1;show()}},{1000 * delay:g})}};"
        "time.value=time.max;show();</script></html>\n"
    )


def check_delay(delay: float) -> None:
    if not 0.02 <= delay < 3600:
        raise AskedError(f"delay is {delay}; it must be a number of seconds, at least 0.02")


def _link(picture: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(_bytes(picture)).decode("ascii")
