"""Steps that draw a draft and bridge to the next level."""

from __future__ import annotations

import pytest
import torch
from tables import Table, process_of, texts

from textdiff.core.contracts import State
from textdiff.core.loop import sample
from textdiff.core.rng import Rng
from textdiff.samplers.ancestral import baseline, improved, refreshed

LENGTH = 9


def test_the_baseline_forgets_the_noise_of_a_text_and_the_improved_sampler_does_not():
    """From two texts with the same drafts and draws."""
    predictor, t = Table(LENGTH), torch.full((8, LENGTH), 0.8, dtype=torch.float64)
    predictor.table[:] = predictor.table[:1]  # whatever the text is

    def once(step, x):
        state = State(x, t, x, t > 0, None, x, x[:, 0], t[:, 0])
        return step(state, t / 2, predictor=predictor, process=process_of("uniform"), rng=Rng(range(8))).x

    for step, same in ((baseline(), True), (improved(), False)):
        assert torch.equal(*(once(step, texts(8, LENGTH, seed)) for seed in (1, 2))) == same


@pytest.mark.parametrize("process", ["mask", "replacement", "redraw", "uniform"])
@pytest.mark.parametrize("step", [baseline(), improved(), refreshed(0.5)], ids=["baseline", "improved", "refreshed"])
def test_a_row_that_stays_at_its_level_is_left_as_it_is(step, process):
    given, free = texts(8, LENGTH), torch.ones(8, LENGTH, dtype=torch.bool)
    lower = torch.where(torch.arange(8) < 4, 6 / 9, 3 / 9).double()[:, None]
    parts = {"predictor": Table(LENGTH), "process": process_of(process), "rng": Rng(range(8))}
    before, after = list(sample(given, free, [6 / 9, lower], step, **parts))[-2:]
    assert torch.equal(after.x[:4], before.x[:4]) and torch.equal(after.forwards[:4], before.forwards[:4])
    assert not (after.x[4:] == before.x[4:]).all(-1).any()
