"""Diffusion of embedded text: how noisy embeddings are read, what is learnt, and the same pipeline beside the tokens'."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import sys

import pytest
import torch
import yaml
from tiny import CHARACTERS, QUATRAIN, network, poem_model, saved, sentence_model
from torch import nn
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM

from textdiff import cli
from textdiff.core.contracts import Query
from textdiff.core.errors import RecipeError
from textdiff.core.levels import even_levels
from textdiff.core.likelihood import nelbo
from textdiff.core.loop import sample
from textdiff.core.predictions import Bins, Categorical, Normal, positions_of
from textdiff.core.rng import Rng
from textdiff.core.schedules import get_schedule, log_snr
from textdiff.networks.folder import ModelError, TextModel
from textdiff.networks.reading import by_vectors
from textdiff.pipeline.text import Pipeline
from textdiff.processes.embedding import embedding, encoded
from textdiff.processes.gaussian import Gaussian
from textdiff.samplers import SAMPLERS
from textdiff.samplers.ancestral import ddpm, improved
from textdiff.samplers.interpolation import interpolated
from textdiff.training import run as training
from textdiff.training.data import Group, MicroBatches
from textdiff.training.loss import Denoiser, corrupted, guessed, weighted_nll
from textdiff.training.recipe import load
from textdiff.verse.forms import get_form

SERVING = [name for name, entry in SAMPLERS.items() if "embedding" in entry.processes]
HOLED = QUATRAIN.replace("光", "_").replace("疑", "□").replace("思", "[MASK]")


def modern(tokens: int) -> ModernBertForMaskedLM:
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=tokens,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        layer_types=["full_attention", "full_attention"],
        initializer_range=0.4,
        pad_token_id=0,
    )
    return ModernBertForMaskedLM(config).eval()


def poems(build=network, **more: object) -> TextModel:
    old = poem_model()
    model = build(len(old.tokenizer))
    return dataclasses.replace(old, model=model, processes=("embedding", "mask", "replacement"), **more)


POEMS = poems()
PIPE = Pipeline(POEMS)
IDS = POEMS.encode(["床前明月光疑是地上霜举头望明月低思故乡白", "白日依山尽黄河入海流欲穷千里目更一层楼春"])


def noisy(model: TextModel, ids: torch.Tensor, level: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    t = torch.full(ids.shape, level, dtype=torch.float64)
    return corrupted(model.process("embedding"), ids, t, torch.arange(len(ids)) + seed).detach(), t


# -- reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [network, modern])
def test_without_noise_the_network_sees_what_it_sees_of_tokens(build):
    model = poems(build)
    x, t = noisy(model, IDS, 0.0)
    with torch.no_grad():
        reading = by_vectors(model, torch.zeros(1), lambda: torch.zeros(1))
        around = torch.full((2, 3), model.mask_id)
        inputs = reading.inputs(torch.cat([around, IDS, around], 1), x, t, 3, None)["inputs_embeds"]
        expected = model.model.get_input_embeddings()(torch.cat([around, IDS, around], 1))
        torch.testing.assert_close(inputs, expected, rtol=1e-4, atol=1e-5)
        known = model.predictor("embedding")(Query(x, t, condition=model.condition(2, form="wuyan-jueju")))
        assert known.mode().equal(IDS), "and one place is enough to know it by"


def test_the_evidence_of_a_place_is_the_likelihood_of_its_tokens():
    x, t = noisy(POEMS, IDS, 0.4)
    table = encoded(POEMS.model.get_input_embeddings().weight.detach())[POEMS.content]
    reading = by_vectors(POEMS, torch.zeros(1), lambda: torch.zeros(1))
    found = reading.evidence(x[:, 5], t[:, 5]).detach().double()[:, POEMS.content]
    alpha, beta = POEMS.noise_schedule()(t[:, 5])
    distance = (x[:, 5, None].double() - alpha[:, None, None] * table).square().sum(-1)
    likelihood = -distance / (2 * beta.square()[:, None])
    torch.testing.assert_close(found.log_softmax(-1), likelihood.log_softmax(-1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("build", [network, modern])
def test_positions_asked_for_and_rows_alone_are_as_among_all(build):
    model = poems(build)
    ids = POEMS.content[torch.randint(len(POEMS.content), (40, 20), generator=torch.Generator().manual_seed(0))]
    x, t = noisy(model, ids, 0.5)
    told = model.condition(40, form="wuyan-jueju")
    predictor = model.predictor("embedding")
    where = torch.zeros(ids.shape, dtype=torch.bool)
    where[1, 3] = where[1, 19] = where[30, 0] = True
    with torch.inference_mode():
        whole = predictor(Query(x, t, condition=told)).logits().view(40, 20, -1)
        part = predictor(Query(x, t, at=positions_of(where), condition=told)).logits()
        torch.testing.assert_close(part, whole[where], rtol=1e-4, atol=1e-4)
        alone = predictor(Query(x[:1], t[:1], condition=told[:1])).logits().view(20, -1)
        torch.testing.assert_close(alone, whole[0], rtol=1e-4, atol=1e-4)
    drawn = predictor(Query(x, t, condition=told)).pin(ids, ~where).draw(rng=Rng(range(40)))
    assert drawn[~where].equal(ids[~where]) and set(drawn.flatten().tolist()) <= set(POEMS.content.tolist())


def test_the_level_is_told_as_it_is_and_the_text_alone_is_noisy():
    seen: list[torch.Tensor] = []
    model = poems()
    model.model.base_model.register_forward_pre_hook(
        lambda module, args, told: seen.append(told["inputs_embeds"]), with_kwargs=True
    )
    ids, table = IDS.clone(), model.model.get_input_embeddings().weight
    t = torch.full(ids.shape, 0.75, dtype=torch.float64)
    t[:, :10] = 0.0  # given
    process = model.process("embedding")
    x = process.corrupt(ids, t, process.noise(ids, t, rng=Rng([0, 1])))
    with torch.no_grad():
        model.predictor("embedding")(Query(x, t, condition=model.condition(2, form="wuyan-jueju")))
    (inputs,) = seen  # form, level, text: slots that say nothing are left out
    vocabulary = model.tokenizer.get_vocab()
    assert inputs.shape[1] == 2 + 20
    assert inputs[0, 0].equal(table[vocabulary["[wuyan-jueju]"]]) and inputs[0, 1].equal(
        table[vocabulary["[level-48]"]]
    )
    torch.testing.assert_close(inputs[:, 2:12], table[ids[:, :10]], rtol=1e-4, atol=1e-5)
    assert (inputs[:, 12:] - table[ids[:, 10:]]).norm(dim=-1).min() > 0.1


def test_a_token_is_as_faint_in_many_coordinates_as_in_few():
    wide = BertForMaskedLM(
        BertConfig(vocab_size=len(POEMS.tokenizer), hidden_size=96, num_hidden_layers=1, num_attention_heads=2)
    )
    wide = TextModel.from_parts(wide, POEMS.tokenizer, processes=("embedding",))
    t = torch.tensor([0.1, 0.5, 0.9])
    found = [log_snr(model.noise_schedule(), t) + math.log(width) for model, width in ((POEMS, 32), (wide, 96))]
    torch.testing.assert_close(*found)


# -- laws -----------------------------------------------------------------------------------------------------------------

LAW = {(0, 0): 0.4, (0, 2): 0.1, (1, 1): 0.2, (2, 1): 0.25, (2, 2): 0.05}
TABLE = torch.tensor([[1.0, 0.2, -0.5], [-0.3, 1.0, 0.4], [0.1, -0.9, 1.2]], dtype=torch.float64)
SCHEDULE = get_schedule("sqrt", 1.5)


def posterior(law: dict[tuple[int, ...], float]):
    """The exact q(x0_i | x_t) for x0 from `law`, by enumeration."""
    texts, weights = torch.tensor(list(law)), torch.tensor(list(law.values()), dtype=torch.float64)
    vectors = encoded(TABLE)[texts].flatten(1)  # (K, L · D)

    def predict(query):
        x_t, t = query.x_t, query.t
        alpha, beta = SCHEDULE(t.amax(-1))
        distance = (x_t.flatten(1)[:, None] - alpha[:, None, None] * vectors).square().sum(-1)
        p = (weights.log() - distance / (2 * beta.square()[:, None])).softmax(-1)  # (B, K)
        each = torch.nn.functional.one_hot(texts, len(TABLE)).double()
        return Categorical.from_logits(torch.einsum("bk,klv->blv", p, each).log(), torch.zeros(x_t.shape[:2]).long())

    return predict


def test_the_bound_is_over_the_entropy_and_close_to_it_with_the_exact_posterior():
    process = embedding(TABLE, torch.arange(3), SCHEDULE)
    texts = torch.tensor(list(LAW))
    p = torch.tensor(list(LAW.values()), dtype=torch.float64)
    rows, free = texts.repeat_interleave(24, 0), torch.ones(24 * len(texts), 2, dtype=torch.bool)
    bound = nelbo(
        rows, free, predictor=posterior(LAW), process=process, seeds=torch.arange(len(rows)), levels=500, rows=5000
    ).view(-1, 24)
    entropy = -(p * p.log()).sum()
    mean, error = (p * bound.mean(-1)).sum(), ((p * bound.std(-1)).square().sum() / 24).sqrt()
    assert error < 0.02
    assert entropy - 3 * error < mean < entropy + 0.02 + 3 * error, (mean, entropy, error)


@pytest.mark.parametrize(("law", "step", "steps"), [
    ({(0,): 0.6, (1,): 0.1, (2,): 0.3}, ddpm(), 12),  # one place: a draw of x̂0 and the bridge are the true reverse step
    (LAW, interpolated(1.0), 200),  # in the limit of small steps the mean of x̂0 is all that counts
])  # fmt: skip
def test_the_chain_with_the_exact_posterior_has_the_law_of_the_data(law, step, steps):
    process = embedding(TABLE, torch.arange(3), SCHEDULE)
    n = 1200
    given = torch.zeros(n, len(next(iter(law))), dtype=torch.long)
    *_, state = sample(
        given, torch.ones_like(given, dtype=torch.bool), even_levels(steps), step,
        predictor=posterior(law), process=process, rng=Rng(range(n)),
    )  # fmt: skip
    found = [tuple(x) for x in process.decode(state.x).tolist()]
    distance = 0.5 * sum(
        abs(found.count(x) / n - law.get(x, 0.0)) for x in itertools.product(range(3), repeat=given.shape[1])
    )
    expected = 0.5 * sum(math.sqrt(2 * p * (1 - p) / (math.pi * n)) for p in law.values())  # of n draws of the law
    assert distance < 3 * expected + (0 if steps < 100 else 0.02), (distance, expected)


# -- training -------------------------------------------------------------------------------------------------------------


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


# -- the pipeline ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SERVING)
def test_a_poem_is_that_of_its_seed_whatever_stands_beside_it(sampler):
    settings = {"form": "wuyan-jueju", "process": "embedding", "sampler": sampler, "steps": 6}
    together = PIPE.generate(n=5, seed=11, **settings)
    assert together == PIPE.generate(n=5, seed=11, batch_size=2, **settings)
    assert together[3:4] == PIPE.generate(seed=14, **settings)
    assert len({poem.text for poem in together}) == 5
    for poem in together:
        assert poem.text == get_form("wuyan-jueju").layout(list(poem.lines)) and set("".join(poem.lines)) <= set(
            CHARACTERS
        )


def test_temperature_and_nucleus_shape_what_is_drawn():
    cold = PIPE.generate(n=2, form="五绝", process="embedding", temperature=0.0, steps=3)
    assert cold == PIPE.generate(n=2, form="五绝", process="embedding", temperature=0.0, steps=3)
    assert cold != PIPE.generate(n=2, form="五绝", process="embedding", steps=3)
    assert PIPE.generate(form="五绝", process="embedding", top_p=0.5, steps=3)[0].top_p == 0.5
    best = PIPE.generate(form="五绝", process="embedding", best_of=2, steps=3)[0]
    assert best.forwards == 6 and best.text.count("，") == 2
    assert "明月" in PIPE.generate(form="五绝", process="embedding", keyword="明月", steps=3)[0].text
    assert PIPE.generate(form="五绝", process="embedding")[0].forwards == 64


def test_fill_keeps_what_is_given_letter_by_letter():
    filled = [PIPE.fill(HOLED, process="embedding", steps=5, sampler=name, seed=3)[0].text for name in SERVING]
    for text in filled:
        assert [a for a, b in zip(text, HOLED.replace("[MASK]", "_"), strict=True) if b not in "_□"] == [
            b for b in HOLED.replace("[MASK]", "_") if b not in "_□"
        ]
        assert "□" not in text
    words = sentence_model()
    words = Pipeline(dataclasses.replace(words, processes=("embedding", "mask")))  # no prefix: no level is told
    assert words.fill("The cat _ on the _.", process="embedding", steps=4)[0].text.startswith("The cat ")


def test_a_stream_ends_with_the_text_and_shows_the_nearest_tokens_on_the_way():
    how = {"form": "五绝", "n": 2, "seed": 5, "process": "embedding", "steps": 6}
    frames = list(PIPE.stream(**how))
    assert [round(frame.level * 6) for frame in frames] == [6, 5, 4, 3, 2, 1, 0]
    assert list(frames[-1].texts) == [poem.text for poem in PIPE.generate(**how)]
    assert all(set(text) <= set(CHARACTERS + "，。\n") for frame in frames for text in frame.texts)
    shown = []
    PIPE.generate(**how, watch=shown.append)
    assert shown == frames


def test_a_score_depends_on_its_text_and_more_levels_agree():
    few, many = (PIPE.score([QUATRAIN] * 1, process="embedding", levels=levels, repeats=8)[0] for levels in (16, 128))
    assert few.process == "embedding" and few.characters == 20
    assert abs(few.nats_per_char - many.nats_per_char) < 4 * (few.standard_error + many.standard_error)
    beside = PIPE.score([QUATRAIN.replace("月", "春"), QUATRAIN], process="embedding", levels=16, repeats=8)[1]
    assert beside.nats_per_char == pytest.approx(few.nats_per_char, rel=1e-4)
    assert PIPE.evaluate([QUATRAIN], process="embedding")["all"]["texts"] == 1


def test_a_saved_model_draws_as_before_and_its_schedule_is_checked(tmp_path):
    model = poems(schedule="cosine", factor=0.25)
    folder = saved(model, tmp_path / "model")
    how = {"n": 2, "form": "五绝", "process": "embedding", "steps": 5}
    again = Pipeline.from_pretrained(folder)
    assert [p.text for p in again.generate(**how)] == [p.text for p in Pipeline(model).generate(**how)]
    assert (again.model.schedule, again.model.factor) == ("cosine", 0.25)
    path = tmp_path / "model" / "textdiff.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in told.items() if k not in ("schedule", "factor")}), encoding="utf-8")
    assert (TextModel.from_pretrained(folder).schedule, TextModel.from_pretrained(folder).factor) == (
        "sqrt",
        POEMS.factor,
    )
    for wrong in ({"schedule": "none"}, {"factor": -1}, {"factor": "1"}):
        path.write_text(json.dumps(told | wrong), encoding="utf-8")
        with pytest.raises(ModelError, match=r"expected one of linear, cosine, .* and a positive number"):
            TextModel.from_pretrained(folder)


def test_what_needs_tokens_on_the_way_is_refused():
    with pytest.raises(
        ValueError, match="strict prosody is kept by the processes mask and replacement, not 'embedding'"
    ):
        PIPE.generate(process="embedding", prosody="strict")
    with pytest.raises(ValueError, match="in process 'embedding' none does; use another process"):
        PIPE.generate(process="embedding", prosody="prefer")
    with pytest.raises(ValueError, match="process 'embedding' has no tokens to start a revision from; revise by mask"):
        PIPE.refine(QUATRAIN, process="embedding")
    with pytest.raises(ValueError, match=r"sampler 'edit' does not serve process 'embedding'; use one of baseline"):
        PIPE.generate(process="embedding", sampler="edit")


def test_the_command_line_serves_it_like_the_others(tmp_path, capsys, monkeypatch):
    folder = saved(POEMS, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    how = ["--model", folder, "--process", "embedding", "--steps", "4"]
    assert (
        cli.main(["generate", *how, "--form", "五绝", "--trace", "t.jsonl", "--sampler", "ddpm", "--option", "eta=0.5"])
        == 0
    )
    poem = capsys.readouterr().out.strip()
    told = {"process": "embedding", "steps": 4, "sampler": "ddpm", "sampler_options": {"eta": 0.5}}
    assert [poem] == [p.text for p in Pipeline.from_pretrained(folder).generate("五绝", **told)]
    trace = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(trace) == 1 + 5 and trace[-1]["texts"] == [poem] and trace[0]["process"] == "embedding"
    assert cli.main(["fill", *how, HOLED]) == 0 and capsys.readouterr().out.startswith("床前明月")
    assert cli.main(["score", "--model", folder, "--process", "embedding", "--levels", "8", "--json", QUATRAIN]) == 0
    assert json.loads(capsys.readouterr().out)["process"] == "embedding"
    assert cli.main(["generate", *how, "--prosody", "strict"]) == 2


# -- the same encoder on values -------------------------------------------------------------------------------------------


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
