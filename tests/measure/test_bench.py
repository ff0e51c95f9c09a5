"""The benchmark runs and compares what it says; how fast anything is, no test asserts."""

from __future__ import annotations

import pytest
import torch

from textdiff.measure import bench
from textdiff.networks import fast_float32

TINY = dict(batch=2, length=6, steps=3, rounds=2, vocabulary=40, layers=1, width=16)


@pytest.mark.parametrize("fast", [False, True])
def test_every_sampler_is_timed_against_its_plain_loop(monkeypatch, fast):
    monkeypatch.setattr(fast_float32, "chosen", lambda: fast)
    rows = bench.sample(**TINY)
    names = [(row.sampler, row.process) for row in rows if row.float32 == "default"]
    assert names == [("plain", "mask"), ("plain-edit", "replacement"), *bench.OURS]
    assert ({row.float32 for row in rows} == {"default", "oneDNN"}) == fast
    for row in rows:
        assert row.baseline == ("plain" if row.process == "mask" else "plain-edit")
        assert 0 < row.lowest <= row.ratio <= row.highest and row.texts_per_second > 0
        if row.sampler == row.baseline:
            assert row.lowest == row.highest == 1


@pytest.mark.parametrize("make", [bench.plain, bench.plain_edit])
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_the_plain_loops_write_whole_texts(make, steps):
    model = bench.model(40, 1, 16, 6)
    x = make(model, 4, 6, steps)(0)
    assert x.shape == (4, 6) and torch.isin(x, model.content).all()


@pytest.mark.parametrize(("sampler", "process"), bench.OURS)
def test_ours_write_whole_texts(sampler, process):
    model = bench.model(40, 1, 16, 6)
    x = bench.ours(model, sampler, process, 4, 6, 3)(0)
    assert x.shape == (4, 6) and torch.isin(x, torch.cat([model.content, torch.tensor([model.unk_id])])).all()


def test_the_float32_path_is_told_in_a_sentence():
    assert bench.float32_path().startswith("float32 through oneDNN: ")
