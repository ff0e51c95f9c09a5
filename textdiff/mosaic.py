"""Images side by side as one PNG, and single ones as text for traces.  Values stand in [−1, 1]; others are cut off there."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

GAP = 2  # pixels between images
PAPER = 96  # the gray that shows there
LEAST = 48  # pixels of a shown image's side: smaller ones are enlarged by a whole number


def mosaic(images: Tensor, columns: int | None = None, zoom: int | None = None) -> Any:
    """A Pillow image of (N, C, H, W), row by row; `columns` None makes it about square."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"images are {tuple(images.shape)}; expected (N, 1 or 3, H, W) with at least one image")
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
            raise ValueError(f"a state is no PNG image in base64 ({error}); record the trace anew") from None
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
        raise ValueError("pictures are drawn by Pillow, which is missing; pip install 'textdiff[image]'") from None
    return Image
