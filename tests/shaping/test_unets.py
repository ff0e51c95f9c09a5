"""U-Nets of images: skips that are scaled while images are drawn, and flows that are trained on their own pairs."""

from __future__ import annotations

import pytest
import tiny
import torch
from diffusers import UNet2DModel

from textdiff.core.contracts import Query
from textdiff.core.errors import RecipeError
from textdiff.core.loop import sample
from textdiff.core.rng import Rng
from textdiff.core.schedules import cosine
from textdiff.networks.denoiser import denoiser
from textdiff.networks.images import ImageModel
from textdiff.samplers.second_order import heun
from textdiff.shaping.skips import across, skip_tuned
from textdiff.training.images.reflow import read
from textdiff.training.loss import corrupted
from textdiff.training.recipe import load
from textdiff.training.run import train


def rows(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return Rng(range(seed, seed + n)).normal(*shape)


# -- scaled skips ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unet() -> UNet2DModel:
    return tiny.unet()


def denoised(unet: UNet2DModel):
    return denoiser(lambda x, t, c: unet(x.float(), t * 1000).sample, cosine(), "v")


X, T = rows(3, 1, 8, 8).float(), torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64).view(-1, 1, 1, 1)


def hooks(unet: UNet2DModel) -> int:
    return sum(len(module._forward_pre_hooks) for module in unet.modules())


@torch.no_grad()
def test_a_factor_of_one_changes_no_bit(unet):
    plain = denoised(unet)(Query(X, T)).mean
    for factor in (1.0, across(1.0, 1.0), across(1.0, 1.0, clean=1.0)):
        assert torch.equal(skip_tuned(denoised(unet), unet.up_blocks, factor)(Query(X, T)).mean, plain)


@torch.no_grad()
def test_the_factor_counts_and_leaves_no_trace(unet):
    plain = denoised(unet)(Query(X, T)).mean
    before = {name: p.clone() for name, p in unet.state_dict().items()}
    tuned = skip_tuned(denoised(unet), unet.up_blocks, across(0.6, 1.0))(Query(X, T)).mean
    assert (tuned - plain).abs().amax((1, 2, 3)).min() > 1e-4
    assert hooks(unet) == 0 and torch.equal(denoised(unet)(Query(X, T)).mean, plain)
    assert all(torch.equal(p, before[name]) for name, p in unet.state_dict().items())


@torch.no_grad()
def test_the_factor_of_the_blocks_and_levels_is_the_one_asked_for(unet):
    told = []

    def factor(depth, level):
        told.append((depth, level.tolist()))
        return across(0.6, 1.2, clean=1.0)(depth, level)

    tuned = skip_tuned(denoised(unet), unet.up_blocks, factor)(Query(X, T)).mean
    assert told == [(0.0, [0.9, 0.5, 0.1]), (1.0, [0.9, 0.5, 0.1])]
    torch.testing.assert_close(factor(0.0, T).flatten(), torch.tensor([0.64, 0.8, 0.96]).double())
    alone = skip_tuned(denoised(unet), unet.up_blocks, factor)(Query(X[1:2], T[1:2])).mean
    torch.testing.assert_close(alone, tuned[1:2], rtol=1e-4, atol=1e-5)  # each row by its own level


def test_hooks_fall_when_the_network_fails(unet):
    with pytest.raises(RuntimeError):
        skip_tuned(denoised(unet), unet.up_blocks, 0.5)(Query(rows(1, 2, 8, 8), T[:1]))
    assert hooks(unet) == 0


# -- models of images -----------------------------------------------------------------------------------------------------


def recipe_of_pairs(folder, *overrides):
    (folder / "r.yaml").write_text("processes: {gaussian: 1.0}\noptimizer: {warmup: 1, ema: 0}\n", encoding="utf-8")
    plain = [f"data.train={folder}/first", "data.kind=pairs", "data.limit=8", "data.steps=2", "data.holdout=0.25"]
    small = ["run.steps=2", "run.batch=4", "run.eval_levels=1", "run.previews=0", f"out={folder}/out"]
    return load(folder / "r.yaml", [*plain, *small, *overrides])


def test_a_reflow_recipe_goes_on_with_the_model_on_its_own_pairs(unet, tmp_path):
    tiny.flow_model(unet).save_pretrained(tmp_path / "first")
    model, (train_part,), (held,), _ = read(recipe_of_pairs(tmp_path))
    assert (len(train_part.ids), len(held.ids)) == (6, 2)
    process, predictor = model.process("gaussian"), model.predictor("gaussian")
    x = corrupted(process, train_part.ids, torch.ones(6, 1, 1, 1, dtype=torch.float64), train_part.seeds)
    with torch.no_grad():
        again = list(
            sample(
                x,
                torch.ones(6, 1, 1, 1, dtype=torch.bool),
                [0.5, 0.0],
                heun(),
                predictor=predictor,
                process=process,
                rng=Rng(range(6)),
                start=x,
            )
        )
    torch.testing.assert_close(again[-1].x, train_part.ids, rtol=1e-4, atol=1e-5)
    folder = train(recipe_of_pairs(tmp_path))
    trained = ImageModel.from_pretrained(folder)
    assert trained.diffusion == model.diffusion
    changed = [not torch.equal(a, b) for a, b in zip(trained.model.parameters(), unet.parameters(), strict=True)]
    assert any(changed)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.type=unet", "leave out model"),
        ("diffusion.schedule=flow", "leave out diffusion"),
        ("data.holdout=0", "held out"),
        ("processes={cold: 1.0}", "processes"),
        ("data.steps=0", "data.steps is 0"),
    ],
)
def test_what_a_reflow_recipe_cannot_say(override, told, unet, tmp_path):
    tiny.flow_model(unet).save_pretrained(tmp_path / "first")
    with pytest.raises(RecipeError, match=told):
        read(recipe_of_pairs(tmp_path, override))


def test_the_noise_power_of_a_flow_is_estimated_where_something_of_the_data_is_left(unet):
    model = tiny.flow_model(unet).measured(rows(4, 1, 8, 8).float(), torch.zeros(4, 0, dtype=torch.long), levels=2)
    assert model.analytic is not None and max(model.analytic.levels) < 1
