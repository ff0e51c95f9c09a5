"""Training a model of embedded text, and the same encoder on values."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
import yaml
from embedded import IDS, POEMS, noisy, poems
from tiny import QUATRAIN
from torch import nn
from transformers import AutoModelForMaskedLM

from textdiff.core.contracts import Query
from textdiff.core.errors import RecipeError
from textdiff.core.levels import even_levels
from textdiff.core.likelihood import nelbo
from textdiff.core.loop import sample
from textdiff.core.predictions import Bins, Normal
from textdiff.core.rng import Rng
from textdiff.core.schedules import get_schedule
from textdiff.networks.folder import ModelError, TextModel
from textdiff.pipeline.text import Pipeline
from textdiff.processes.embedding import encoded
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers.ancestral import ddpm, improved
from textdiff.training import run as training
from textdiff.training.data import Group, MicroBatches
from textdiff.training.loss import Denoiser, corrupted, guessed, weighted_nll
from textdiff.training.recipe import load


def test_steps_of_training_move_the_embedding_at_its_fixed_scale_and_lower_the_loss():
    model = dataclasses.replace(poems(), processes=("embedding",))
    ids = model.encode(["".join(QUATRAIN.replace("，", "").replace("。", "").split())] * 32)
    free = torch.ones(20, dtype=torch.bool)
    group = Group(ids, model.condition(32, form="wuyan-jueju"), free)
    batches = MicroBatches([group], {"embedding": model.process("embedding")}, {"embedding": 1.0}, 16, 1, 40, seed=0)
    denoiser = Denoiser(model)
    before = model.model.get_input_embeddings().weight.detach().clone()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=5e-3)
    losses = []
    for k in range(40):
        loss = denoiser(**batches[k])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5]), losses
    after = model.model.get_input_embeddings().weight.detach()
    moved = (encoded(after) - encoded(before)).norm(dim=-1)
    assert moved[ids[0]].min() > 0.05
    assert torch.allclose(
        model.process("embedding").noise(ids, torch.ones(1), rng=Rng(range(32))).std(), torch.tensor(1.0), atol=0.05
    )
    assert torch.allclose(encoded(after)[model.content].norm(dim=-1), torch.tensor(math.sqrt(32)))


def recipe_file(folder, **sections) -> str:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tree = {
        "data": {"train": f"{__file__.rpartition('tests')[0]}data/poems.jsonl", "limit": 60},
        "model": {"type": "bert", "config": sizes},
        "processes": {"embedding": 0.5, "mask": 0.5},
        "optimizer": {"lr": 3e-3, "warmup": 2, "ema": 0.9},
        "run": {
            "steps": 4,
            "batch": 16,
            "eval_every": 100,
            "save_every": 2,
            "eval_texts": 8,
            "eval_levels": 2,
            "previews": 1,
        },
        "defaults": {"form": "wuyan-jueju", "steps": 4},
        "out": str(folder / "out"),
    }
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return str(path)


def test_a_recipe_gives_a_plain_model_that_every_call_serves(tmp_path):
    path = recipe_file(tmp_path, model={"schedule": "cosine", "factor": 0.5})
    folder = training.train(load(path))
    told = json.loads((folder / "textdiff.json").read_text(encoding="utf-8"))
    assert (told["processes"], told["schedule"], told["factor"]) == (["embedding", "mask"], "cosine", 0.5)
    plain = AutoModelForMaskedLM.from_pretrained(folder)
    pipe = Pipeline.from_pretrained(folder)
    assert plain.get_input_embeddings().weight.equal(pipe.model.model.get_input_embeddings().weight)
    (poem,) = pipe.generate()
    assert (poem.process, poem.sampler, poem.steps, poem.forwards) == ("embedding", "ddpm", 4, 4)
    logged = (tmp_path / "out" / "log.jsonl").read_text(encoding="utf-8")
    assert "eval_embedding_bound" in logged and "eval_mask_bound" in logged
    again = training.train(load(path, [f"out={tmp_path / 'again'}", "run.save_every=4"]))
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    with pytest.raises(RecipeError, match=r"model.schedule is 'cosin'; expected one of linear, cosine"):
        load(path, ["model.schedule=cosin"])


def test_a_network_trained_with_guesses_goes_by_its_last_draft_and_no_other_does():
    told = poems(self_conditioning=0.5)
    x, t = noisy(told, IDS, 0.7)
    nothing = torch.full_like(IDS, told.mask_id)
    with torch.no_grad():
        for model, heeds in ((POEMS, False), (told, True)):
            predictor = model.predictor("embedding")
            alone, hinted, empty, at_first = (
                predictor(Query(x, t, previous=previous)).logits() for previous in (None, IDS, nothing, x)
            )
            assert torch.equal(alone, empty) and torch.equal(alone, at_first), "no draft is [MASK] everywhere"
            assert torch.equal(alone, hinted) != heeds
        sure, _ = noisy(told, IDS, 0.0)
        predictor = told.predictor("embedding")
        other = predictor(Query(sure, 0 * t, previous=IDS.flip(-1))).logits()
        torch.testing.assert_close(other, predictor(Query(sure, 0 * t)).logits(), rtol=1e-3, atol=1e-3)  # heard clearly
    first, second = (Pipeline(model).generate("wuyan-jueju", process="embedding", steps=6) for model in (POEMS, told))
    assert first[0].text != second[0].text


def test_guesses_are_a_share_of_the_examples_however_a_step_is_cut(tmp_path):
    model = poems(self_conditioning=0.5)
    process, predictor, rows = model.process("embedding"), model.predictor("embedding"), 200
    ids, seeds = IDS[:1].expand(rows, -1), torch.arange(rows)
    t = torch.full(ids.shape, 0.6, dtype=torch.float64)
    x_t = corrupted(process, ids, t, seeds)
    whole = guessed(predictor, process, x_t, t, None, 0.5, seeds)
    told = (whole != model.mask_id).any(-1)
    assert abs(told.sum() - rows / 2) < 4 * (rows / 4) ** 0.5 and (whole[~told] == model.mask_id).all()
    parts = [guessed(predictor, process, x_t[k], t[k], None, 0.5, seeds[k]) for k in seeds.tensor_split(4)]
    assert torch.equal(torch.cat(parts), whole) and not whole.requires_grad
    assert guessed(predictor, process, x_t, t, None, 0.0, seeds) is None
    folder = training.train(load(recipe_file(tmp_path, model={"self_conditioning": 0.5})))
    assert TextModel.from_pretrained(folder).self_conditioning == 0.5
    description = json.loads((folder / "textdiff.json").read_text(encoding="utf-8")) | {"self_conditioning": 2}
    (folder / "textdiff.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(ModelError, match="self_conditioning 2, not a share"):
        TextModel.from_pretrained(folder)


class Coded(nn.Module):
    """A trained linear encoder of n values at fixed scale, and a network that tells them from their noisy codes.

    The code of x is √D·W(x, 1)/‖W(x, 1)‖: with the 1 beside x, no scale of x is lost, and the code can be read back.
    """

    def __init__(self, n: int, width: int, inner: int):
        nn.Module.__init__(self)
        torch.manual_seed(0)
        self.rows = nn.Parameter(torch.randn(width, n + 1))
        sizes = (width + 1, inner), (inner, inner), (inner, n)
        first, second, last = (nn.Linear(*size) for size in sizes)
        self.layers = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)

    def encode(self, x0: torch.Tensor) -> torch.Tensor:
        return encoded(nn.functional.pad(x0, (0, 1), value=1.0) @ self.rows.T)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        back = x @ torch.linalg.pinv(self.rows.detach()).T
        return back[..., :-1] / back[..., -1:]

    def forward(self, query) -> Normal:
        x_t, t = query.x_t, query.t
        return Normal.point(self.layers(torch.cat([x_t, t[..., None].float()], -1)))


@pytest.mark.slow
def test_a_learnt_encoder_of_values_trains_by_the_same_loss_and_is_sampled_by_the_same_loop():
    points = Coded(2, 8, 64)
    process = Gaussian(get_schedule("cosine"), "data", encode=points.encode, decode=points.decode)
    centres = torch.tensor([[1.0, 1.0], [-1.0, 0.5], [0.0, -1.2]])
    assert torch.allclose(points.decode(points.encode(centres)), centres, atol=1e-4)
    before = points.encode(centres).detach()
    optimizer = torch.optim.AdamW(points.parameters(), lr=1e-2)
    losses = []
    for k in range(250):
        rng = Rng(torch.arange(192) + 192 * k)
        x0 = (centres[torch.arange(192) % 3] + 0.05 * rng.normal(2).float())[:, None]  # (B, 1, 2): one place
        t = rng.uniform(1)
        x_t = process.corrupt(x0, t, process.noise(x0, t, rng=rng))
        loss = weighted_nll(points, process, x0, x_t, t) / len(x0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    after = points.encode(centres).detach()
    assert (after - before).norm(dim=-1).min() > 0.1 and torch.allclose(after.norm(dim=-1), torch.tensor(math.sqrt(8)))
    apart = torch.cdist(torch.stack([before, after]), torch.stack([before, after])).flatten(1).amax(-1)
    assert apart[1] >= apart[0], "the codes of what differs part, as far as the scale lets them"
    with torch.inference_mode():
        for step in (ddpm(), improved()):
            *_, state = sample(
                torch.zeros(300, 1, 2), torch.ones(300, 1, dtype=torch.bool), even_levels(40), step,
                predictor=points, process=process, rng=Rng(range(300)),
            )  # fmt: skip
            distance, nearest = torch.cdist(state.x0[:, 0], centres).min(-1)  # the last step returns x̂0
            assert torch.allclose(process.decode(state.x), state.x0, atol=1e-3), "and its code reads back as it"
            assert (distance < 0.3).float().mean() > 0.85, distance.sort().values[-60:]
            assert nearest.bincount(minlength=3).min() > 40


@pytest.mark.slow
def test_digits_are_drawn_through_a_learnt_code_and_have_a_bound():
    from sklearn.datasets import load_digits

    digits = torch.tensor(load_digits().data / 8 - 1, dtype=torch.float32)[:, None]  # (N, 1, 64): one place
    train, held = digits[:1600], digits[1600:1660]
    coded = Coded(64, 96, 256)
    bins = Bins(-1.0, 1.0, 1 / 8)
    process = Gaussian(get_schedule("coarse"), "data", bins=bins, steps=40, encode=coded.encode, decode=coded.decode)
    optimizer = torch.optim.AdamW(coded.parameters(), lr=3e-3)
    first = coded.rows.detach().clone()
    for k in range(150):
        rng = Rng(torch.arange(96) + 96 * k)
        x0, t = train[(rng.uniform(1)[:, 0] * len(train)).long()], rng.uniform(1)
        loss = weighted_nll(coded, process, x0, process.corrupt(x0, t, process.noise(x0, t, rng=rng)), t) / len(x0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (coded.rows - first).norm() > 0.1 * first.norm()
    with torch.inference_mode():
        *_, state = sample(
            torch.zeros(100, 1, 64), torch.ones(100, 1, dtype=torch.bool), even_levels(40), ddpm(),
            predictor=coded, process=process, rng=Rng(range(100)),
        )  # fmt: skip
        near, usual = (torch.cdist(x[:, 0], train[:, 0]).amin(-1).mean() for x in (state.x0, held))
        assert near < 1.4 * usual, "as near to some digit as a digit that was not seen"
        told = {"predictor": coded, "process": process, "seeds": torch.arange(60)}
        everywhere = torch.ones(60, 1, dtype=torch.bool)
        bits = nelbo(held, everywhere, **told).mean() / 64 / math.log(2)
        mixed = nelbo(held[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(0))], everywhere, **told)
        assert 1 < bits < mixed.mean() / 64 / math.log(2)  # a network this small tells values less well than noise does
