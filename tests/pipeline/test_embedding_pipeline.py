"""Every call of a pipeline with a model of embedded text."""

from __future__ import annotations

import dataclasses
import io
import json
import sys

import pytest
from embedded import POEMS, poems
from tiny import CHARACTERS, QUATRAIN, saved, sentence_model

from textdiff import cli
from textdiff.networks.folder import ModelError, TextModel
from textdiff.pipeline.text import Pipeline
from textdiff.samplers import SAMPLERS
from textdiff.verse.forms import get_form

SERVING = [name for name, entry in SAMPLERS.items() if "embedding" in entry.processes]
HOLED = QUATRAIN.replace("光", "_").replace("疑", "□").replace("思", "[MASK]")
PIPE = Pipeline(POEMS)


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
        ValueError, match=r"strict prosody is kept by the processes mask, .*replacement, not 'embedding'"
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
