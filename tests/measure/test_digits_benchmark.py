"""benchmarks/digits.py: its ways cost what they say, and the command runs on a tiny model."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from diffusers import UNet2DModel

from benchmarks import digits
from benchmarks.digits import (
    HEADING,
    Row,
    alike,
    by_name,
    drawn,
    enlarged,
    line,
    mean_value,
    pair,
    plot,
    skips,
    tiled,
)
from textdiff.core.predictions import Bins
from textdiff.core.rng import Rng
from textdiff.data.image_data import Images


def rows(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return Rng(range(seed, seed + n)).normal(*shape)


@pytest.fixture(scope="module")
def unet() -> UNet2DModel:
    return tiny.unet()


@pytest.mark.slow
@torch.no_grad()
def test_every_way_starts_from_the_same_noise_and_costs_what_it_says(unet):
    model = tiny.flow_model(unet)
    ways = [by_name("improved"), by_name("heun"), mean_value(4), skips(0.8, 1.0), enlarged(1.0, 0.3)]
    for way in ways:
        (states,) = drawn(model, way, way.steps(5), model.condition(3), seed=2)
        assert states[-1].forwards.tolist() == [5, 5, 5]
        assert states[-1].x.shape == (3, 1, 8 * way.factor, 8 * way.factor)
        if way.factor == 1:
            assert torch.equal(states[0].x, next(drawn(model, ways[0], 1, model.condition(3), seed=2))[0].x)
    assert [by_name("heun").steps(n) for n in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]


def test_pairs_of_numbers_on_the_command_line():
    assert pair("--skips", "0.8") == (0.8, 0.8) and pair("--skips", "0.8:1") == (0.8, 1.0)
    assert pair("--upsample", "1", 0.0) == (1.0, 0.0)
    with pytest.raises(ValueError, match="--skips is 'a:1'"):
        pair("--skips", "a:1")


def row_of(model, way, forwards, gap):
    return Row(model, way, forwards, 20, 0.1, 0.0, 0.2, 3.0, 2.0, 4.0, 1.0, 0.9, 1.0, gap, None)


def test_the_comparison_is_shown_in_columns_and_drawn(tmp_path):
    found = [row_of("real", "training images", 0.0, None), row_of("first", "fine", 99.0, 0.0)]
    found += [row_of(model, "improved", n, 1 / n) for model in ("first", "second") for n in (1.0, 5.0)]
    found += [row_of("first", "skips 0.8 to 1", 5.0, None)]
    starts = [HEADING.index(name) for name in ("forwards", "energy", "Fréchet", "recognised")]
    assert all(line(row)[start - 1] == " " for row in found for start in starts[1:])
    pytest.importorskip("matplotlib")
    plot(found, {"16 x 16": rows(20, 1, 16, 16).float()}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="cannot plot to"):
        plot(found, {}, tmp_path / "p.gif")


def test_images_are_tiled_row_by_row():
    x = torch.arange(20.0)[:, None, None, None].expand(20, 1, 2, 2) / 20
    assert tiled(x).shape == (4, 20) and tiled(x)[2, 2] == pytest.approx(11 / 20)


def test_real_images_of_the_same_labels_are_compared():
    labels = torch.tensor([0, 0, 1, 1, 1])
    images = Images(torch.arange(5.0)[:, None, None, None], labels, ("0", "1"), Bins(-1.0, 1.0, 0.1), torch.zeros(5))
    chosen = alike(images, torch.tensor([1, 0, 1, 0, 1, 1]))[:, 0, 0, 0].long()
    assert labels[chosen].tolist() == [1, 0, 1, 0, 1, 1]
    assert sorted(chosen[:5].tolist()) == [0, 1, 2, 3, 4] and chosen[5] == chosen[0]  # again only where none is left


@pytest.mark.slow
def test_the_command_compares_and_paints(unet, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    tiny.flow_model(unet).save_pretrained(tmp_path / "run" / "model")
    words = ["--model", str(tmp_path / "run" / "model"), "--evaluations", "2", "--fine", "3", "--limit", "120"]
    digits.main([*words, "--json", "--plot", str(tmp_path / "x.png")])
    found = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [(row["model"], row["way"]) for row in found] == [
        ("real", "training images"),
        ("run", "fine"),
        ("run", "improved"),
        ("run", "heun"),
    ]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_is_looked_at_before_the_work(capsys):
    with pytest.raises(SystemExit):
        digits.main(["--model", "there/is/none", "--plot", "x.gif"])
    assert "cannot plot to 'x.gif'" in capsys.readouterr().err
