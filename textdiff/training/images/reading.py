"""What a recipe with data.kind images comes to: a network, groups of one shape, and pictures on the way.

<out>/previews/step-N.png  samples at each evaluation, one class a row
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textdiff.core.errors import RecipeError
from textdiff.core.rng import Rng
from textdiff.data.image_data import Images, read_images
from textdiff.networks.images import ImageModel, unet
from textdiff.pipeline.images import ImagePipeline
from textdiff.show.mosaic import png
from textdiff.training.data import Examples, Group, Known
from textdiff.training.sections import Recipe, to_yaml
from textdiff.training.trainer import Log, silent

MEASURED = 512  # images that the noise power is estimated from
HOLES = 1 << 17  # the stream that the known regions of examples are drawn from


def read(recipe: Recipe, log: Log = silent) -> Examples:
    """(the network before training, what is learnt from, what is held out)."""
    data = recipe.data
    images = read_images(
        data.train, size=data.size, channels=data.channels, image=data.image, label=data.label, limit=data.limit
    )
    if recipe.conditioned and images.labels is None:
        raise RecipeError(f"conditions has 'label', but the images of {data.train!r} have none; leave it out")
    names = images.names if recipe.conditioned else ()
    channels, height, width = images.x.shape[1:]
    shape = (channels, height, width)
    torch.manual_seed(recipe.run.seed)
    try:
        network = unet(shape, len(names), recipe.diffusion.holes > 0, recipe.model.config)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    model = ImageModel(
        model=network,
        processes=tuple(recipe.processes),
        shape=shape,
        classes=names,
        bins=images.bins,
        diffusion=recipe.diffusion,
        defaults=recipe.defaults,
        name=recipe.name,
    )
    train, validation = (_group(images.of(part), model) for part in ("train", "validation"))
    for part, group in (("train", train), ("validation", validation)):
        if not len(group.ids):
            raise RecipeError(f"no image of {data.train!r} falls into the {part} part; give more images")
    few = slice(recipe.run.eval_texts)
    validation = Group(validation.ids[few], validation.condition[few], validation.free)
    labels = train.condition[:, 0] if names else None
    return Examples(model.fitted(train.ids, labels), [train], [validation])


def _group(images: Images, model: ImageModel) -> Group:
    labels = None if images.labels is None or not model.classes else images.labels.tolist()
    condition = model.condition(len(images.x), None if labels is None else [model.classes[k] for k in labels])
    return Group(images.x, condition, torch.ones(1, *images.x.shape[2:], dtype=torch.bool))


def regions(seeds: Tensor, height: int, width: int, share: float) -> Tensor:
    """Which places of an example are known, (B, 1, H, W): in a `share` of them a rectangle, or all outside of one."""
    draws = Rng(seeds, stream=HOLES).uniform(6)
    low, high = draws[:, :4].view(-1, 2, 2).sort(-1).values.unbind(-1)  # (B, 2): rows, columns
    inside = torch.ones(len(seeds), height, width, dtype=torch.bool)
    for axis, size in enumerate((height, width)):
        place = (torch.arange(size) + 0.5) / size
        between = (place >= low[:, axis, None]) & (place <= high[:, axis, None])  # (B, size)
        inside &= between[:, :, None] if axis == 0 else between[:, None, :]
    known = inside ^ (draws[:, 4] < 0.75)[:, None, None]
    return (known & (draws[:, 5] < share)[:, None, None])[:, None]


def shown(recipe: Recipe) -> Known | None:
    """What examples are shown, by their seeds; None where nothing is known of any."""
    share, size = recipe.diffusion.holes, recipe.data.size
    if not share:
        return None
    if size is None and recipe.data.train != "digits":
        raise RecipeError("diffusion.holes needs the size of the images; write data.size")
    return lambda process, seeds, free: regions(seeds, size or 8, size or 8, share)


def finished(model: ImageModel, groups: Sequence[Group]) -> ImageModel:
    """With what is estimated once, from the training images: the noise power, for analytic variance."""
    (group,) = groups
    few = slice(MEASURED)
    return model.measured(group.ids[few].to(model.device), group.condition[few].to(model.device))


class Previews:
    """A picture of samples at each evaluation; the same seeds every time."""

    def __init__(self, recipe: Recipe, folder: Path, log: Any):
        self.count, self.folder, self.log = recipe.run.previews, folder / "previews", log

    def __call__(self, model: ImageModel, groups: Sequence[Group], step: int) -> None:
        if not self.count:
            return
        columns = 8
        names = model.classes or (None,) * self.count
        labels = [name for name in names for _ in range(columns)]
        images = ImagePipeline(model).generate(len(labels), label=labels if model.classes else None).images
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"step-{step}.png"
        path.write_bytes(png(images, columns))
        self.log(f"  {path}")


def card(recipe: Recipe, made: Any, seconds: float, tokens: int, bounds: dict[str, float]) -> str:
    """The model card: origin, recipe, cost and bounds."""
    import diffusers

    rows = "\n".join(f"| {k.removeprefix('eval_')} | {v:.4f} |" for k, v in bounds.items())
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
license: apache-2.0
tags: [textdiff, diffusion]
---
# {recipe.name}

A U-Net trained by textdiff as the predictor of {", ".join(made.text_model.processes)} diffusion.
{made.parameters / 1e6:.2f} M parameters, {made.texts} training images, {tokens / 1e6:.1f} M values seen,
{seconds / 3600:.2f} hours on {platform.machine()} with {torch.get_num_threads()} threads.

| on the held-out images, nats per value (1.4427 bits each) | |
| --- | --- |
{rows}

The recipe:

```yaml
{to_yaml(recipe)}```

`textdiff generate --model FOLDER --out grid.png` samples from it; `diffusers.UNet2DModel.from_pretrained(FOLDER)` opens it alone.

{json.dumps({"diffusers": diffusers.__version__, "torch": torch.__version__})}
"""
