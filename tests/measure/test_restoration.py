"""How often what is taken out of poems is restored: the protocol, on laws that can be listed."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
import torch
from tiny import CHARACTERS, QUATRAIN, oracle, poem_model, saved

import textdiff.pipeline.canvas as canvas
from textdiff import cli
from textdiff.core.errors import AskedError
from textdiff.measure.gaps.protocol import best_of_product, calibration_error, damages, restoration, table

LAW = {"ab": 0.4, "ba": 0.35, "bc": 0.25}  # the likeliest letters alone, b and b, make no text


def row(found, kind, lost):
    return next(one for one in found["rows"] if (one["kind"], one["lost"]) == (kind, lost))


def test_holes_filled_jointly_make_the_likeliest_text_and_filled_alone_may_make_none():
    found = restoration(oracle(LAW), [{"text": "ab"}, {"text": "ba"}], lost=(1, 2))
    both = row(found, "contiguous", 2)
    assert both["whole"]["jointly"] == {"top1": 0.5, "top5": 1, "top20": 1}
    assert both["whole"]["alone"] == {"top1": 0, "top5": 1, "top20": 1}
    assert both["gain"]["value"] == 0.5 and both["characters"] == {"jointly": 0.5, "alone": 0.5}
    assert both["poems"] == found["poems"] == 2 and found["left_out"] == 0
    surprise = {"jointly": [0.4, 0.35], "alone": [0.4 * 0.35, 0.6 * 0.4]}  # of ab, of ba
    wanted = {way: -sum(map(math.log, both_)) / 4 for way, both_ in surprise.items()}
    assert both["nats"] == pytest.approx(wanted)
    assert both["nats_gain"]["value"] == pytest.approx(wanted["alone"] - wanted["jointly"])
    pairs = found["calibration"]
    assert pairs["jointly"]["said"] == pytest.approx(0.4) and pairs["jointly"]["right"] == 0.5
    assert pairs["jointly"]["error"] == pytest.approx(0.1) and pairs["jointly"]["n"] == 4
    assert pairs["alone"]["said"] == pytest.approx(0.6 * 0.4) and pairs["alone"]["error"] == pytest.approx(0.24)
    assert pairs["characters alone"]["n"] == 2 * 2 * (1 + 2)


def test_of_one_hole_both_ways_say_the_same():
    found = restoration(oracle(LAW), [{"text": text} for text in LAW], lost=(1,))
    for one in found["rows"]:
        assert one["whole"]["jointly"] == one["whole"]["alone"] and one["gain"]["value"] == 0
        assert one["whole"]["alone"] == one["characters_alone"]


def test_a_poem_loses_as_many_characters_as_it_should_and_always_the_same():
    page = canvas.whole(QUATRAIN, poem_model())
    lost = (1, 2, 5, 10, 20)
    found = list(damages(page, lost, seed=3))
    assert [(kind, len(holes)) for kind, holes in found] == [
        (kind, n) for n in lost for kind in ("scattered", "contiguous")
    ]
    for kind, holes in found:
        at = holes.tolist()
        assert at == sorted(set(at)) and all(0 <= k < 20 for k in at)
        assert kind == "scattered" or at == list(range(at[0], at[0] + len(at)))
    again, other = list(damages(page, lost, seed=3)), list(damages(page, lost, seed=4))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, again, strict=True))
    assert not all(torch.equal(a, b) for (_, a), (_, b) in zip(found, other, strict=True))


def test_every_place_of_a_poem_is_lost_as_often_as_any_other():
    page = canvas.read(canvas.whole, "ab", oracle(LAW))
    lost = [int(holes[0]) for seed in range(400) for _, holes in damages(page, (1,), seed)]
    assert abs(sum(lost) - 400) < 4 * math.sqrt(800 / 4)


def test_the_best_of_a_product_are_those_of_all_its_outcomes():
    log_q = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double().log_softmax(-1)
    every = torch.tensor(list(itertools.product(range(5), repeat=4)))
    nats = -log_q[torch.arange(4), every].sum(-1)
    wanted, order = nats.sort()
    for k in (1, 7, 30):
        ids, found = best_of_product(log_q, k)
        torch.testing.assert_close(found, wanted[:k])
        assert torch.equal(ids, every[order[:k]])


def test_the_calibration_error_is_none_where_what_is_said_comes_true_and_all_where_the_sure_is_wrong():
    assert calibration_error(
        [(0.25, True)] + [(0.25, False)] * 3 + [(0.8, True)] * 4 + [(0.8, False)]
    ) == pytest.approx(0)
    assert calibration_error([(1.0, False)] * 3) == 1
    assert calibration_error([(0.02, True), (0.92, False)]) == pytest.approx((0.98 + 0.92) / 2)
    draw = random.Random(0)
    many = [(p, draw.random() < p) for p in (draw.random() for _ in range(20_000))]
    assert calibration_error(many) < 0.02 < calibration_error([(p * p, right) for p, right in many])


def test_poems_that_the_model_cannot_read_are_left_out_and_counted():
    poems = [{"text": QUATRAIN}, {"text": QUATRAIN.replace("床", "鑫")}]
    found = restoration(poem_model(), poems, lost=(2,))
    assert (found["poems"], found["left_out"]) == (1, 1)
    with pytest.raises(AskedError, match="no poem"):
        restoration(poem_model(), poems[1:], lost=(2,))
    for wrong in ((), (0,)):
        with pytest.raises(AskedError, match="how many characters"):
            restoration(poem_model(), poems, lost=wrong)


def test_the_verb_writes_the_table_or_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, poems = saved(poem_model(), tmp_path / "poems"), [QUATRAIN, CHARACTERS[:20], CHARACTERS[20:40]]
    (tmp_path / "in").write_text("".join(json.dumps({"text": text}) + "\n" for text in poems), encoding="utf-8")
    command = ["evaluate", "in", "--model", model, "--restore", "1,2", "--limit", "2"]
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["poems"] == 2 and [one["lost"] for one in found["rows"]] == [1, 2, 1, 2]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert printed == table(found) + "\n" and "2 contiguous" in printed
    assert cli.main([*command, "--levels", "3"]) == 2 and "--levels is for" in capsys.readouterr().err
