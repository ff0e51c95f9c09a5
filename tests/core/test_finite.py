"""What is no number is refused where it comes from: a damaged network, a temperature beyond float32."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest
import torch
from tables import Table, texts
from tiny import poem_model

from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError, ModelError
from textdiff.core.loop import sample
from textdiff.core.rng import Rng
from textdiff.networks import fast_float32
from textdiff.networks.images import Diffusion, ImageModel, unet
from textdiff.samplers.order import confidence, entropy, entropy_bounded, margin
from textdiff.shaping.tokens import tempered

QUERY = Query(texts(2, 3), torch.ones(2, 3))
NETWORK = {"block_out_channels": [8], "layers_per_block": 1, "down_block_types": ["DownBlock2D"],
           "up_block_types": ["UpBlock2D"], "norm_num_groups": 4, "add_attention": False}  # fmt: skip


def damaged(model):
    network = copy.deepcopy(model.model)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(torch.nan)
    return replace(model, model=network)


@pytest.mark.parametrize("process", ["mask", "replacement", "uniform"])
def test_a_network_of_texts_without_numbers_is_refused_by_its_name(process):
    model = damaged(poem_model())
    ids = torch.full((1, 20), model.mask_id if process == "mask" else model.content[0])
    with torch.inference_mode():
        prediction = model.predictor(process)(Query(ids, torch.ones(1, 20).double()))
        for read in (lambda: prediction.draw(rng=Rng([0])), lambda: prediction.nll(ids), prediction.mode):
            with pytest.raises(ModelError, match=f"{model.name}: the network's answer is no number"):
                read()


@pytest.mark.parametrize("order", [confidence, entropy, margin, entropy_bounded])
def test_an_order_refuses_to_rank_positions_by_answers_that_are_no_numbers(order):
    model = damaged(poem_model())
    blank = torch.full((1, 20), model.mask_id)
    with torch.inference_mode(), pytest.raises(ModelError, match="the network's answer is no number"):
        chain = sample(blank, torch.ones(1, 20, dtype=torch.bool), [0.5], order(), predictor=model.predictor("mask"),
                       process=model.process("mask"), rng=Rng([0]))  # fmt: skip
        list(chain)


def test_a_network_of_images_without_numbers_is_refused_by_its_name():
    model = ImageModel(unet((1, 8, 8), 0, False, NETWORK).eval(), ("gaussian",), (1, 8, 8), (), None, Diffusion())
    query = Query(torch.zeros(1, 1, 8, 8), torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64))
    with torch.inference_mode():
        assert bool(model.predictor("gaussian")(query).mean.isfinite().all())
        with pytest.raises(ModelError, match="model: the network's answer is no number"):
            damaged(model).predictor("gaussian")(query)


@pytest.mark.parametrize("temperature", [1e-40, 1e-31, 1e31, 1e39])
def test_a_temperature_beyond_float32_is_refused(temperature):
    with pytest.raises(AskedError, match="float32"):
        tempered(Table(3), temperature)


@pytest.mark.parametrize("temperature", [0, 1e-30, 0.02, 1e30])
def test_every_other_temperature_gives_probabilities(temperature):
    q = tempered(Table(3), temperature)(QUERY).logits().softmax(-1)
    torch.testing.assert_close(q.sum(-1), torch.ones(6))


def test_the_setting_of_float32_products_is_put_back_in_whatever_order_threads_leave():
    before = torch.backends.mkldnn.matmul.fp32_precision
    inside, leave = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def block(k):
        with fast_float32.through_onednn():
            inside[k].set()
            leave[k].wait(10)

    threads = [threading.Thread(target=block, args=(k,)) for k in (0, 1)]
    for k in (0, 1):  # the first enters before the second, and leaves before it
        threads[k].start()
        assert inside[k].wait(10)
    for k in (0, 1):
        leave[k].set()
        threads[k].join(10)
        assert torch.backends.mkldnn.matmul.fp32_precision == (before if k else "bf16")
