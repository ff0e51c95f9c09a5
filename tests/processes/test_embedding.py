"""Diffusion of embedded text: how noisy embeddings are read, and what the chain and the bound come to with the exact posterior."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from embedded import IDS, POEMS, noisy, poems
from tiny import network
from transformers import BertConfig, BertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM

from textdiff.core.contracts import Query
from textdiff.core.levels import even_levels
from textdiff.core.likelihood import nelbo
from textdiff.core.loop import sample
from textdiff.core.predictions import Categorical, positions_of
from textdiff.core.rng import Rng
from textdiff.core.schedules import get_schedule, log_snr
from textdiff.networks.folder import TextModel
from textdiff.networks.reading import by_vectors
from textdiff.processes.embedding import embedding, encoded
from textdiff.samplers.ancestral import ddpm
from textdiff.samplers.interpolation import interpolated


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
