"""Images to learn from: the digits that come with scikit-learn, a folder of image files, or a data set of `datasets`.

Values are scaled to [−1, 1].  A hash of its index decides the part of an image: 80 % are train, 10 % validation and 10 % test.
If a data set has a test split, the rest is cut 90 : 10 into train and validation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Bins
from textdiff.core.errors import AskedError

PARTS = ("train", "validation", "test")
EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
BYTES = Bins(-1.0, 1.0, 2 / 255)


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, with their classes and parts."""

    x: Tensor  # (N, C, H, W) float32 in [−1, 1]
    labels: Tensor | None  # (N,) from 0 to K − 1
    names: tuple[str, ...]  # (K,) of the classes; empty where there are no labels
    bins: Bins
    part: Tensor  # (N,) indices into PARTS

    def of(self, part: str) -> Images:
        """The images of one part."""
        keep = self.part == PARTS.index(part)
        labels = None if self.labels is None else self.labels[keep]
        return Images(self.x[keep], labels, self.names, self.bins, self.part[keep])


def read_images(
    source: str,
    *,
    size: int | None = None,
    channels: int = 1,
    image: str = "image",
    label: str = "label",
    limit: int | None = None,
) -> Images:
    """The images of `source`, scaled to `size` by `size` pixels, or to the size of the first one.

    A source is "digits", a folder of image files, whose subfolders are classes, or a data set with the columns `image` and
    `label`: a folder of `datasets.save_to_disk`, or a hub id.  An AskedError says what is missing.
    """
    if channels not in (1, 3):
        raise AskedError(f"channels is {channels}; expected 1 for gray or 3 for colours")
    if source == "digits":
        return _digits(size, channels, limit)
    folder = Path(os.path.expanduser(source))
    if not folder.exists() and (source.startswith((".", "~", "/")) or source.count("/") != 1):
        raise AskedError(
            f"there are no images {source!r}; pass 'digits', a folder of image files, or the id of a data set on the hub"
        )
    if folder.is_dir() and not any((folder / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        return _folder(folder, size, channels, limit)
    return _dataset(source, size, channels, image, label, limit)


def part_of(index: int, shares: Sequence[float] = (0.8, 0.1, 0.1)) -> int:
    """The index into PARTS of the image `index`."""
    place = int.from_bytes(hashlib.sha256(str(index).encode()).digest()[:8]) / 2**64
    return 0 if place < shares[0] else 1 if place < shares[0] + shares[1] else 2


def _digits(size: int | None, channels: int, limit: int | None) -> Images:
    if size not in (None, 8) or channels != 1:
        raise AskedError(f"digits are gray and 8 by 8, not {channels} channels of {size}; leave out size and channels")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise AskedError("the digits come with scikit-learn, which is missing; pip install 'textdiff[image]'") from None
    digits = load_digits()
    x = torch.from_numpy(digits.images[:limit]).float()[:, None] / 8 - 1  # values are 0 … 16
    labels = torch.from_numpy(digits.target[:limit]).long()
    parts = torch.tensor([part_of(k) for k in range(len(x))])
    return Images(x, labels, tuple(map(str, range(10))), Bins(-1.0, 1.0, 1 / 8), parts)


def _folder(folder: Path, size: int | None, channels: int, limit: int | None) -> Images:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)[:limit]
    if not files:
        raise AskedError(f"folder {str(folder)!r} holds no images; expected files such as .png or .jpg, in it or below")
    names = sorted({path.parent.relative_to(folder).as_posix() for path in files} - {"."})
    if names and any(path.parent == folder for path in files):
        raise AskedError(
            f"folder {str(folder)!r} holds images both beside and inside of subfolders; classes are subfolders, so move "
            f"all images into them, or none"
        )
    x = _stacked([_picture(path) for path in files], size, channels)
    labels = torch.tensor([names.index(p.parent.relative_to(folder).as_posix()) for p in files]) if names else None
    return Images(x, labels, tuple(names), BYTES, torch.tensor([part_of(k) for k in range(len(x))]))


def _picture(path: Path) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise AskedError("image files are read by Pillow, which is missing; pip install 'textdiff[image]'") from None
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (UnidentifiedImageError, OSError) as error:
        raise AskedError(f"{str(path)!r} is no image that can be read ({error}); mend or remove it") from error


def _stacked(pictures: Sequence[Any], size: int | None, channels: int) -> Tensor:
    """Pillow's pictures as a tensor (N, C, H, W) in [−1, 1]."""
    import numpy as np

    shape = (size, size) if size else pictures[0].size
    rows = []
    for picture in pictures:
        plain = picture.convert("L" if channels == 1 else "RGB")
        if plain.size != shape:
            plain = plain.resize(shape)
        rows.append(torch.from_numpy(np.array(plain)).view(plain.height, plain.width, channels).permute(2, 0, 1))
    return torch.stack(rows).float() * (2 / 255) - 1


def _dataset(source: str, size: int | None, channels: int, image: str, label: str, limit: int | None) -> Images:
    import datasets

    try:
        data = datasets.load_from_disk(source) if Path(source).exists() else datasets.load_dataset(source)
    except Exception as error:  # there are many kinds: no network, no such data set, damaged files
        reason = str(error).strip().split("\n")[0]
        raise AskedError(f"data set {source!r} cannot be read ({reason}); check its name and the connection") from error
    splits = {"train": data} if isinstance(data, datasets.Dataset) else dict(data)
    if "train" not in splits:
        raise AskedError(
            f"data set {source!r} has no split 'train', only {', '.join(splits)}; pass a data set with this split"
        )
    rows, parts = [], []
    shares = (0.9, 0.1, 0.0) if "test" in splits else (0.8, 0.1, 0.1)
    for name in ("train", "test"):
        split = splits[name].select(range(min(limit or len(splits[name]), len(splits[name])))) if name in splits else []
        rows += list(split)
        parts += [part_of(k, shares) if name == "train" else 2 for k in range(len(split))]
    if not rows or image not in rows[0]:
        columns = ", ".join(rows[0]) if rows else "no rows"
        raise AskedError(f"data set {source!r} has {columns}, no column {image!r}; name the column of the images")
    x = _stacked([row[image] for row in rows], size, channels)
    labels, names = None, ()
    if label in rows[0]:
        labels = torch.tensor([int(row[label]) for row in rows])
        feature = splits["train"].features[label]
        names = tuple(getattr(feature, "names", None) or map(str, range(int(labels.max()) + 1)))
    return Images(x, labels, names, BYTES, torch.tensor(parts))


def image_of(source: str, shape: Sequence[int]) -> Tensor:
    """One image of shape (C, H, W) in [−1, 1]: a file, or "digits:K" for the K-th digit of the test part."""
    channels, height, width = shape
    name, _, number = source.partition(":")
    if name == "digits" and not Path(source).exists():
        test = read_images("digits").of("test").x
        if not number.isdigit() or int(number) >= len(test) or tuple(test.shape[1:]) != tuple(shape):
            raise AskedError(
                f"image {source!r} is no digit of the test part that this model can take; write digits:0 to "
                f"digits:{len(test) - 1} for a model of 8 by 8 gray pixels"
            )
        return test[int(number)]
    if not Path(source).is_file():
        raise AskedError(f"there is no image {source!r}; pass an image file, or digits:0, digits:1 …")
    return _stacked([_picture(Path(source)).resize((width, height))], None, channels)[0]


def mask_of(source: str, shape: Sequence[int]) -> Tensor:
    """Booleans (H, W), True where an image is known.  `source` is a file that is white where it is not, or the name of a part."""
    _, height, width = shape
    down = torch.arange(height)[:, None].expand(height, width)
    across = torch.arange(width).expand(height, width)
    parts = {
        "left": across < width // 2,
        "right": across >= width // 2,
        "top": down < height // 2,
        "bottom": down >= height // 2,
        "centre": ((down - (height - 1) / 2).abs() < height / 4) & ((across - (width - 1) / 2).abs() < width / 4),
    }
    if source in parts:
        return ~parts[source]
    if not Path(source).is_file():
        raise AskedError(f"there is no mask {source!r}; pass an image file, or one of {', '.join(parts)}")
    return _stacked([_picture(Path(source)).resize((width, height))], None, 1)[0, 0] <= 0
