"""The likelihood of a text in the order of a sampler, against laws that can be listed."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest
import tiny
import torch

import textdiff
from textdiff.core.errors import AskedError
from textdiff.core.levels import count_levels
from textdiff.core.resolve import attribute
from textdiff.pipeline.score.order import Order
from textdiff.processes.mask import Mask
from textdiff.samplers import SAMPLERS
from textdiff.samplers.likelihood import in_order, of_orders
from textdiff.samplers.order import confidence
from textdiff.verify.chains import run
from textdiff.verify.spaces import ExactPredictor, Space, ignorant

SPACE = Space.random(3, 3)
PROCESS = Mask(SPACE.size)
EXACT = ExactPredictor(SPACE, PROCESS)


def texts():
    """All 27 texts, and their probabilities."""
    codes = SPACE.support()
    return SPACE.decode(codes), SPACE.p0[codes]


def nats(order, predictor=EXACT, steps=None, seeds=None):
    x0, _ = texts()
    free = torch.ones_like(x0, dtype=torch.bool)
    seeds = torch.arange(len(x0)) if seeds is None else seeds
    return Order.parse(order).nats(x0, free, predictor=predictor, mask_id=SPACE.size, seeds=seeds, steps=steps)


@pytest.mark.parametrize("order", ["left", "right", "random", "confidence", "margin", "entropy"])
def test_with_exact_marginals_every_order_gives_the_law_of_the_texts(order):
    torch.testing.assert_close((-nats(order)).exp(), texts()[1])


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy"])
@pytest.mark.parametrize("steps", [1, 2])
def test_in_few_steps_it_is_the_law_of_the_sampler_itself(order, steps):
    """The chain's law, by enumeration of its draws, against the likelihood of each text."""
    levels = [level.item() for level in count_levels(torch.tensor([3]), steps)]
    x0, _ = texts()
    law = (-nats(order, steps=steps)).exp()
    claimed = replace(SPACE, p0=torch.zeros_like(SPACE.p0).index_put((SPACE.code(x0),), law))
    step = attribute(SAMPLERS[order].path)()
    assert run(claimed, PROCESS, EXACT, step, levels).from_prior < 1e-9
    assert steps == 1 or run(SPACE, PROCESS, EXACT, step, levels).from_prior > 1e-3


def test_left_and_right_differ_where_the_predictor_is_none_of_the_texts(tmp_path):
    predictor = biased()
    left, right = nats("left", predictor), nats("right", predictor)
    assert (left - right).abs().max() > 0.01
    for likelihood in (left, right):
        assert (-likelihood).exp().sum().item() == pytest.approx(1)
    (tmp_path / "order").write_text("3\n2 1\n", encoding="utf-8")
    torch.testing.assert_close(nats(str(tmp_path / "order"), predictor), right)


def biased():
    """A predictor that is no law's: what it says of a position leans on how many others stand."""

    def predictor(query):
        base = EXACT(query)
        return replace(base, read=lambda index: base.read(index) * (1 + 0.3 * base.at[1][index][:, None]))

    return predictor


def test_orders_taken_together_bound_the_likelihood_and_more_of_them_bound_it_closer():
    predictor, (x0, _) = biased(), texts()
    many = [nats("random", predictor, seeds=torch.arange(len(x0)) + 1000 * k) for k in range(64)]
    exact = of_orders(torch.stack(many, -1)).mean()
    means = [nats(f"random:{k}", predictor, seeds=torch.arange(len(x0)) * 100).mean() for k in (1, 8)]
    assert exact < means[1] + 0.01 and means[1] < means[0] + 0.01
    assert of_orders(torch.tensor([[1.0, 3.0]])).item() == pytest.approx(-math.log((math.exp(-1) + math.exp(-3)) / 2))


def test_one_step_is_the_product_of_the_first_predictions():
    x0, _ = texts()
    free = torch.ones_like(x0, dtype=torch.bool)
    uniform = in_order(
        x0, free, confidence(), predictor=ignorant(SPACE), process=PROCESS, seeds=torch.arange(len(x0)), steps=1
    )
    torch.testing.assert_close(uniform, torch.full((len(x0),), 3 * math.log(3)).double())


STRANGE = ["/", "x" * 5000, "~nobody-of-this-name/x", "a\0b", sys.executable]


@pytest.mark.parametrize("word", ["", "random:0", "random:x", "edit", "/no/such/file", "gibbs", *STRANGE])
def test_an_order_that_is_none_is_refused(word):
    with pytest.raises(AskedError, match=r"order is .* expected left, right"):
        Order.parse(word)


def test_files_are_looked_for_only_where_they_may_be_named(tmp_path):
    (tmp_path / "order").write_text("\ufeff2 1\n", encoding="utf-8")
    assert Order.parse(str(tmp_path / "order")).written == (1, 0)
    for word in (str(tmp_path / "order"), str(tmp_path / "other")):
        with pytest.raises(AskedError) as error:
            Order.parse(word, files=False)
        assert "expected one of left, right, random:K" in str(error.value) and "file" not in str(error.value)


def test_every_sampler_that_orders_by_the_state_names_an_order():
    named = {name for name, entry in SAMPLERS.items() if "any_order" in entry.needs and entry.stepped}
    assert named == {"confidence", "margin", "entropy"}
    assert all(Order.parse(name).sampler == name for name in named)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return textdiff.load(tiny.saved(tiny.poem_model(), tmp_path_factory.mktemp("poems")))


@pytest.mark.parametrize("order", ["left", "confidence", "random:3"])
def test_a_text_has_the_same_score_beside_others(pipe, order):
    poems = [tiny.QUATRAIN, tiny.QUATRAIN.replace("明月光", "月明光")]
    together = pipe.score(poems, order=order)
    assert [one.nats_per_char for one in together] == pytest.approx(
        [pipe.score(poem, order=order)[0].nats_per_char for poem in poems], abs=1e-5
    )
    assert all(one.exact == (order != "random:3") and one.order == order for one in together)
    if order != "random:3":
        found = pipe.evaluate(poems[:1], order=order)["all"]["nats_per_char"]
        assert found == pytest.approx(together[0].nats_per_char, abs=1e-5)


def test_a_writer_in_its_own_order_has_its_exact_score(tmp_path):
    writer = textdiff.load(tiny.saved(tiny.ordered_model(), tmp_path / "writer"))
    model = textdiff.load(tiny.saved(tiny.poem_model(), tmp_path / "other"))
    with pytest.raises(AskedError, match="steps is 3"):
        model.score(tiny.QUATRAIN, steps=3)
    (score,) = writer.score(tiny.QUATRAIN)
    assert score.exact and score.order is None


@pytest.mark.parametrize("order", ["left", "right", "margin"])
def test_a_model_without_the_mask_process_is_said_to_write_in_no_order(order):
    pipe = textdiff.TextPipeline.of(replace(tiny.poem_model(), processes=("replacement",)))
    with pytest.raises(
        AskedError, match="model tiny-poems does not serve the mask process, by which a text is written in"
    ):
        pipe.score(tiny.QUATRAIN, order=order)
