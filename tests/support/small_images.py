"""Small images and untrained models of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from textdiff.core.predictions import Bins
from textdiff.data.image_data import read_images
from textdiff.networks.images import Diffusion, ImageModel, unet

TINY = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}
COLD = Diffusion(output="data", power=1, sigma=0.1, degradation={"name": "blur"})


def model(diffusion: Diffusion | None = None, process: str = "gaussian", classes: int = 3, **more: Any) -> ImageModel:
    """An untrained model of 8 by 8 gray images, the same every time."""
    diffusion = diffusion or Diffusion()
    torch.manual_seed(0)
    network = unet((1, 8, 8), classes, diffusion.holes > 0, TINY).eval()
    names = tuple("abc"[:classes])
    return ImageModel(network, (process,), (1, 8, 8), names, Bins(-1.0, 1.0, 1 / 8), diffusion, **more)


def digits(n: int = 4) -> Tensor:
    return read_images("digits").of("test").x[:n]


def folder_of(path: Path, classes: int = 2, each: int = 12, size: int = 8, mode: str = "L") -> Path:
    """Small PNG files: class k has a bright row k."""
    for k in range(classes):
        (path / f"class-{k}").mkdir(parents=True)
        for n in range(each):
            value = (torch.rand(size, size, generator=torch.Generator().manual_seed(n)) * 60).byte()
            value[2 * k + 1] = 250
            Image.fromarray(value.numpy()).convert(mode).save(path / f"class-{k}" / f"{n}.png")
    return path
