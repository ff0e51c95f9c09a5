"""The contracts: what a prediction cannot do it refuses in words, and every kind of model has what the contract promises."""

from __future__ import annotations

import pytest
import torch
from small_images import model as image_model
from tiny import poem_model

from textdiff.core.contracts import Model
from textdiff.core.errors import AskedError
from textdiff.core.loop import sample
from textdiff.core.predictions import Categorical, Normal
from textdiff.core.rng import Rng
from textdiff.networks.causal import Autoregressive
from textdiff.processes.mask import Mask
from textdiff.processes.replacement import Replacement
from textdiff.samplers.ancestral import improved
from textdiff.samplers.edit import marginal
from textdiff.samplers.order import confidence

SIZE, MASK_ID = 3, 3
BLANK, FREE = torch.full((2, 4), MASK_ID), torch.ones(2, 4, dtype=torch.bool)
MASK, REPLACEMENT = Mask(MASK_ID), Replacement(torch.arange(SIZE))


def only_drawn(query=None):
    return Autoregressive(lambda prefix: torch.zeros(len(prefix), SIZE), BLANK, FREE)


@pytest.mark.parametrize(
    "question",
    [
        lambda q: q.by_token(),
        lambda q: q.weighted_nll(BLANK, FREE.float()),
        lambda q: q.expect(lambda x: x),
        lambda q: q.last_nll(BLANK, torch.ones(()), None),
        lambda q: q.towards(q, 2.0),
    ],
)
def test_a_prediction_that_can_only_be_drawn_from_refuses_every_other_question(question):
    with pytest.raises(AskedError, match=r"Autoregressive\) can only be drawn from"):
        question(only_drawn())


def chain(step, process):
    return list(sample(BLANK, FREE, [0.5, 0.0], step, predictor=only_drawn, process=process, rng=Rng([0, 1])))


@pytest.mark.parametrize("step, process", [(marginal, MASK), (confidence, MASK), (improved, REPLACEMENT)])
def test_a_step_or_process_that_reads_probabilities_refuses_a_predictor_that_has_none(step, process):
    with pytest.raises(AskedError, match="reads the probabilities of tokens needs more"):
        chain(step(), process)


def test_a_step_that_only_draws_needs_no_probabilities():
    assert bool((chain(improved(), MASK)[-1].x < SIZE).all())


def test_a_prediction_of_values_is_none_of_tokens():
    with pytest.raises(AskedError, match="a prediction of values, and tokens are needed"):
        Normal.point(torch.zeros(1, 2)).by_token()


def test_without_its_count_a_prediction_is_the_one_that_it_conditions():
    base = Categorical.from_logits(torch.zeros(2, 4, SIZE), BLANK)
    (state, *_) = sample(BLANK, FREE, [], improved(), predictor=only_drawn, process=REPLACEMENT, rng=Rng([0, 1]))
    assert REPLACEMENT.consistent(base, state).by_token() is base


@pytest.mark.parametrize("model", [poem_model, image_model])
def test_models_of_texts_and_of_images_have_all_that_the_contract_promises_and_nothing_of_each_other(model):
    made = model()
    promised = [name for name in vars(Model) if not name.startswith("_")]
    assert len(promised) > 12 and [name for name in promised if not hasattr(made, name)] == []
    network = torch.nn.Identity()
    assert made.with_network(network).model is network and made.with_network(network).processes == made.processes
    assert str(made.to("cpu").device) == "cpu" and type(made.to("cpu")) is type(made)
    assert {made.guessed(process) for process in made.processes} == {0.0}
    assert bool(made.vocabulary()) is hasattr(made, "tokenizer") is hasattr(made, "self_conditioning")
    assert made.condition(2).shape == (2, len(made.prefix))
