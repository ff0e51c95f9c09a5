"""Folders that earlier versions wrote are read, and give what they gave: one of each format of textdiff.json stands in tests/formats.

`PYTHONPATH=.:tests/support python tests/networks/test_formats.py FOLDER` writes such folders in today's format, for a new number.
What is expected of them are figures that no draw has part in, since the order of draws may change from version to version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import small_images
import torch
from tiny import CHARACTERS, QUATRAIN, network

import textdiff
from textdiff.core.contracts import Query
from textdiff.networks.files import FORMAT, read_json
from textdiff.networks.folder import SLOTS, TextModel
from textdiff.networks.images import Diffusion, ImageModel, unet
from textdiff.networks.tokenization import POEM_PREFIX, POEM_SPECIALS, character_tokenizer

FORMATS = Path(__file__).parents[1] / "formats"
WRITTEN = sorted((path.name for path in FORMATS.iterdir()), key=int)


def text_model() -> TextModel:
    """A model of verse that has everything textdiff.json can say of one."""
    tokenizer = character_tokenizer(sorted(set(CHARACTERS)), POEM_SPECIALS)
    return TextModel.from_parts(
        network(len(tokenizer)),
        tokenizer,
        processes=("mask", "replacement", "uniform", "embedding"),
        prefix=POEM_PREFIX,
        told=SLOTS,
        defaults={
            "form": "wuyan-jueju",
            "process": "mask",
            "sampler": "refresh",
            "sampler_options": {"share": 0.3},
            "steps": 8,
        },
        schedule="cosine",
        factor=0.5,
        self_conditioning=0.25,
    )


def image_model() -> ImageModel:
    """A model of images that has everything textdiff.json can say of one."""
    layout = small_images.TINY | {"block_out_channels": [4, 8], "norm_num_groups": 2}
    diffusion = Diffusion(schedule="flow", output="velocity", holes=0.25)
    torch.manual_seed(0)
    names = ("a", "b", "c")
    made = small_images.model()
    return ImageModel(unet((1, 8, 8), 3, True, layout).eval(), ("gaussian",), (1, 8, 8), names, made.bins, diffusion)


def text_figures(folder: Path) -> dict[str, Any]:
    pipe = textdiff.load(folder)
    (detail,) = pipe.detail(QUATRAIN, title="明月", dynasty="tang")
    model = pipe.model
    said = {"processes": model.processes, "prefix": model.prefix, "told": model.told, "defaults": model.defaults}
    more = {"schedule": model.schedule, "factor": model.factor, "self_conditioning": model.self_conditioning}
    plan = pipe.plan()
    return (
        said | more | {"nats": detail.nats, "best": detail.best, "steps": plan.steps, "options": plan.sampler_options}
    )


def image_figures(folder: Path) -> dict[str, Any]:
    model = textdiff.load(folder).model
    x = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    with torch.inference_mode():
        prediction = model.predictor("gaussian")(
            Query(x, torch.full_like(x, 0.5), condition=model.condition(1, label="b"))
        )
    said = {
        "shape": model.shape,
        "classes": model.classes,
        "processes": model.processes,
        "schedule": model.diffusion.schedule,
    }
    return said | {
        "output": model.diffusion.output,
        "holes": model.diffusion.holes,
        "mean": prediction.mean.flatten()[:8].tolist(),
    }


FIGURES = {"texts": text_figures, "images": image_figures}


def write(home: Path) -> None:
    home.mkdir(parents=True)
    text_model().save_pretrained(home / "texts", torch.bfloat16)
    image_model().save_pretrained(home / "images")
    for kind, figures in FIGURES.items():
        (home / f"{kind}.json").write_text(
            json.dumps(figures(home / kind), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )


def test_there_is_a_folder_of_every_format():
    assert [int(number) for number in WRITTEN] == list(range(1, FORMAT + 1))
    for number, kind in ((number, kind) for number in WRITTEN for kind in FIGURES):
        assert read_json(FORMATS / number / kind / "textdiff.json", kind)["format"] == int(number)


@pytest.mark.parametrize("number", WRITTEN)
@pytest.mark.parametrize("kind", FIGURES)
def test_a_folder_of_an_earlier_version_says_and_gives_what_it_did(kind, number):
    if kind == "images":
        pytest.importorskip("diffusers")
    expected = json.loads((FORMATS / number / f"{kind}.json").read_text(encoding="utf-8"))
    found = json.loads(json.dumps(FIGURES[kind](FORMATS / number / kind)))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        exact = key not in ("nats", "mean")
        assert found[key] == (value if exact else pytest.approx(value, abs=1e-4)), key


@pytest.mark.parametrize("number", WRITTEN)
def test_a_folder_of_an_earlier_version_opens_with_transformers_too(number):
    lean = textdiff.load(FORMATS / number / "texts").model
    whole = TextModel.from_pretrained(FORMATS / number / "texts")
    x = lean.encode(["床前" + lean.tokenizer.mask_token + "月光"])
    condition = lean.condition(1, form="wuyan-jueju")
    found = [
        m.predictor("mask")(Query(x, torch.full(x.shape, 0.2).double(), condition=condition)) for m in (lean, whole)
    ]
    assert torch.allclose(*(one.by_token().logits() for one in found), atol=1e-4)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
