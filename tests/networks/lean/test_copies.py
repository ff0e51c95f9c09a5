"""A network of our own in other processes, in copies, and under autocast."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import QUATRAIN, poem_model, saved

import textdiff
from textdiff.networks.lean import products

HOLED = QUATRAIN.replace("明", "□")


@pytest.fixture(params=[products.packed, products.plain, products.bf16], ids=lambda make: make.__name__)
def pipe(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> textdiff.TextPipeline:
    monkeypatch.setattr(products, "packing_serves", lambda: request.param is products.packed)
    precision = "bf16" if request.param is products.bf16 else "float32"
    return textdiff.load(saved(poem_model(), tmp_path / "model"), precision=precision)


@pytest.mark.parametrize("copied", [lambda pipe: pickle.loads(pickle.dumps(pipe)), copy.deepcopy, copy.copy])
def test_a_pipeline_that_has_drawn_is_copied_and_sent_to_another_process(pipe, copied):
    drawn = pipe.fill(HOLED, steps=1)
    assert copied(pipe).fill(HOLED, steps=1) == drawn


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_drawn_and_scored_under_autocast_is_as_outside_but_for_rounding(pipe, dtype):
    outside = pipe.score(QUATRAIN, levels=2)[0].nats_per_char
    with torch.autocast("cpu", dtype=dtype):
        assert pipe.score(QUATRAIN, levels=2)[0].nats_per_char == pytest.approx(outside, abs=0.05)
        assert pipe.fill(HOLED, steps=1)[0].text.replace("□", "").startswith("床前")
        assert len(pipe.generate(prosody="strict", steps=2)) == len(pipe.restore(HOLED, top=2)) == 1
