"""The calls of a pipeline, on tiny models with real parts."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter

import pytest
import torch
from tiny import CHARACTERS, PROCESSES, QUATRAIN, poem_model, saved, sentence_model, window_model

from textdiff.core.contracts import Query
from textdiff.networks.folder import ModelError
from textdiff.pipeline.canvas import HOLE, holed
from textdiff.pipeline.score.scorer import Score
from textdiff.pipeline.text import Frame, Output, Pipeline
from textdiff.processes import TOKENS
from textdiff.samplers import SAMPLERS
from textdiff.verse.forms import FORMS

POEMS = Pipeline(poem_model())
WORDS = Pipeline(sentence_model())
WINDOWS = Pipeline(window_model())
PAIRS = [(process, name) for name, entry in SAMPLERS.items() for process in TOKENS if process in entry.processes]
HOLED = QUATRAIN.replace("光", "_").replace("疑", "□").replace("思", "[MASK]")


def texts(outputs: list[Output]) -> list[str]:
    return [output.text for output in outputs]


# -- generate -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda f: f.name)
def test_poems_have_their_form_whatever_it_is_called(form):
    (poem,) = POEMS.generate(form=form.chinese, steps=4)
    assert poem.form == form.name and [len(line) for line in poem.lines] == [form.width] * form.lines
    assert poem.text == form.layout(list(poem.lines)) and set("".join(poem.lines)) <= set(CHARACTERS)
    assert poem == POEMS.generate(form=form.short, steps=4)[0] == POEMS.generate(form=form.name, steps=4)[0]


@pytest.mark.parametrize(("process", "sampler"), PAIRS)
def test_a_poem_is_that_of_its_seed_whatever_stands_beside_it(process, sampler):
    settings = {"form": "wuyan-jueju", "process": process, "sampler": sampler}
    settings["steps"] = None if sampler == "entropy-bounded" else 5
    settings["sampler_options"] = {"sweeps": 0.2} if sampler == "gibbs" else None
    together = POEMS.generate(n=3, seed=11, **settings)
    assert together == POEMS.generate(n=3, seed=11, batch_size=2, **settings)
    assert together[1:2] == POEMS.generate(seed=[12], **settings)
    assert [poem.seed for poem in together] == [11, 12, 13]
    assert len(set(texts(together))) > 1
    if sampler not in ("entropy-bounded", "gibbs", "edit-count"):
        assert {poem.forwards for poem in together} == {5}


def test_one_position_at_a_time_costs_a_forward_each_and_steps_are_what_was_asked():
    assert POEMS.generate(form="五绝")[0].forwards == 20
    assert POEMS.generate(form="五绝", steps=4)[0].forwards == 4
    assert POEMS.generate(form="五绝", steps=400)[0].forwards == 20
    assert POEMS.generate(form="五绝", sampler="gibbs", sampler_options={"sweeps": 0.5})[0].forwards == 30
    bounded = [
        POEMS.generate(form="五绝", sampler="entropy-bounded", sampler_options={"gamma": g})[0] for g in (0, 1, 1000)
    ]
    assert bounded[0].forwards == 20 >= bounded[1].forwards >= bounded[2].forwards == 1


def test_a_generator_gives_the_seeds():
    def draw() -> list[Output]:
        return POEMS.generate(form="五绝", n=3, generator=torch.Generator().manual_seed(7))

    assert draw() == draw() and len({poem.seed for poem in draw()}) == 3
    assert draw()[1:] == POEMS.generate(form="五绝", seed=[poem.seed for poem in draw()[1:]])
    torch.manual_seed(1)
    first = POEMS.generate(form="五绝")
    torch.manual_seed(2)
    assert POEMS.generate(form="五绝") == first, "nothing is drawn from the global generator"


@pytest.mark.parametrize("process", PROCESSES)
def test_specials_and_unknowns_are_never_written(process):
    """Rows of the output layer with the largest bias would be drawn at once if they were allowed."""
    model = poem_model()
    with torch.no_grad():
        model.model.cls.predictions.bias[: model.content.min()] += 50.0
    for poem in Pipeline(model).generate(form="五绝", n=4, process=process):
        assert set("".join(poem.lines)) <= set(CHARACTERS)


def test_shaping_narrows_what_is_drawn():
    def kinds(**settings: float) -> int:
        return len(Counter("".join(poem.text for poem in POEMS.generate(form="五绝", n=8, steps=4, **settings))))

    assert kinds(temperature=0.2) < kinds() < kinds(temperature=20.0)
    greedy = POEMS.generate(form="五绝", n=4, sampler="confidence", temperature=0)
    nearly = POEMS.generate(form="五绝", n=4, sampler="confidence", top_p=1e-6)
    assert len(set(texts(greedy))) == len(set(texts(nearly))) == 1 and texts(greedy) == texts(nearly)
    assert texts(POEMS.generate(form="五绝", top_p=1.0)) == texts(POEMS.generate(form="五绝"))


def test_the_prefix_is_told_and_matters():
    plain, tang, titled = (
        POEMS.generate(form="五绝", temperature=0.1, **told) for told in ({}, {"dynasty": "tang"}, {"title": "明月"})
    )
    assert plain != tang and plain != titled
    with pytest.raises(ValueError, match="dynasty"):
        WORDS.fill("the _ sat", dynasty="tang")
    with pytest.raises(ValueError, match="dynasty is 'mask'; models know tang"):
        POEMS.generate(dynasty="mask")


def test_a_slot_that_training_never_spoke_in_cannot_be_told(tmp_path):
    untold = Pipeline(dataclasses.replace(POEMS.model, told=("form", "process", "level")))
    untold.model.save_pretrained(tmp_path / "m")
    for pipe in (untold, Pipeline.from_pretrained(tmp_path / "m")):
        assert texts(pipe.generate(form="五绝")) == texts(POEMS.generate(form="五绝"))
        with pytest.raises(ValueError, match="cannot be told a title"):
            pipe.generate(title="明月")


@pytest.mark.parametrize(
    ("defaults", "says"),
    [
        ({"sampler": "foo"}, "unknown sampler 'foo'"),
        ({"process": "foo"}, "unknown process 'foo'"),
        ({"form": 3}, "unknown form 3"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"temperature": -1}, "temperature is -1"),
        ({"length": 0}, "length is 0"),
    ],
)
def test_defaults_that_do_not_hold_are_the_models_fault(tmp_path, defaults, says):
    dataclasses.replace(POEMS.model, defaults=defaults).save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match=says):
        Pipeline.from_pretrained(tmp_path / "m")


def test_the_replacement_with_redraws_has_no_bound():
    with pytest.raises(ValueError, match="process 'redraw' has no bound"):
        POEMS.score(QUATRAIN, process="redraw")


def test_a_model_without_forms_writes_running_text_of_a_length():
    (text,) = WINDOWS.generate(length=7)
    assert len(text.text) == 7 and text.form is None and text.forwards == 7
    assert set(text.text) <= set("abcdefgh .\n")
    with pytest.raises(ValueError, match="knows no forms; pass a form or the length"):
        WINDOWS.generate()
    with pytest.raises(ValueError, match="length is 7, but a form has its own"):
        POEMS.generate(length=7)


def test_defaults_come_from_the_model():
    pipe = Pipeline(
        poem_model(form="wuyan-lushi", process="replacement", sampler="edit-count", steps=3, temperature=0.5)
    )
    (poem,) = pipe.generate()
    assert (poem.form, poem.process, poem.sampler) == ("wuyan-lushi", "replacement", "edit-count")
    assert (poem.steps, poem.temperature, poem.forwards) == (3, 0.5, 3)
    (poem,) = pipe.generate(process="mask", steps=4, temperature=1)
    assert (poem.process, poem.sampler, poem.steps, poem.temperature) == ("mask", "improved", 4, 1.0)
    assert pipe.generate(sampler="margin")[0].process == "mask", "the first process that the sampler serves"
    assert POEMS.generate()[0].form == "qiyan-jueju"


# -- fill -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("process", "sampler"), PAIRS)
def test_given_characters_stay_as_they_are(process, sampler):
    for output in POEMS.fill([HOLED, HOLED], process=process, sampler=sampler):
        assert output.form == "wuyan-jueju" and HOLE not in output.text
        for marked, now in zip(HOLED.replace("[MASK]", "_"), output.text, strict=True):
            assert now == marked or (marked in "_□" and now in CHARACTERS)


def test_holes_are_filled_jointly():
    """The pairs drawn follow ½ q1(a) q2(b | a) + ½ q2(b) q1(a | b), not the product of both holes' margins."""
    text, size = "_明_光白，日依山尽黄，河入海流欲，穷千里目更。", 600
    outputs = POEMS.fill([text] * size, batch_size=300)
    drawn = torch.tensor([POEMS.model.encode([o.lines[0][0] + o.lines[0][2]]).tolist()[0] for o in outputs])
    model, size_v = POEMS.model, len(POEMS.model.content)
    open_ = holed(text, model).ids
    told = model.condition(1 + 2 * size_v, form="wuyan-jueju")
    x = open_.repeat(1 + 2 * size_v, 1)  # both open; the first known to be each token; the second
    x[1 : 1 + size_v, 0], x[1 + size_v :, 2] = model.content, model.content
    t = (x == model.mask_id).double()
    with torch.inference_mode():
        (at_first, at_second) = (
            model.predictor("mask")(
                Query(x, t, at=(torch.arange(len(x)), torch.full((len(x),), k)), condition=told)
            ).logits()
            for k in (0, 2)
        )
    first, second = (q[:, model.content].log_softmax(-1) for q in (at_first, at_second))  # without [UNK]
    joint = torch.logaddexp(
        first[0][:, None] + second[1 : 1 + size_v], (second[0][:, None] + first[1 + size_v :]).T
    ) - math.log(2)
    apart = first[0][:, None] + second[0]
    assert torch.logsumexp(joint.flatten(), 0).abs() < 1e-4
    a, b = torch.searchsorted(model.content, drawn).unbind(-1)
    gain = (joint - apart)[a, b]  # log-likelihood ratio of the two laws, positive in the mean under the first alone
    assert gain.mean() > 4 * gain.std() / math.sqrt(size)
    surprise, entropy = -joint[a, b], -(joint.exp() * joint).sum()
    assert (surprise.mean() - entropy).abs() < 4 * surprise.std() / math.sqrt(size)


def test_texts_of_any_shape_come_back_in_their_order():
    mixed = ["床前□□光", HOLED, "_" * 28, "白日依山_，黄河入海流。", HOLED.replace("床", "_"), "_" * 40]
    outputs = POEMS.fill(mixed, seed=5, batch_size=2, steps=5)
    for k, (given, output) in enumerate(zip(mixed, outputs, strict=True)):
        assert output == POEMS.fill(given, seed=5 + k, steps=5)[0]
    assert len(outputs[0].text) == 5 and len(outputs[3].text) == 12


def test_a_string_a_list_an_iterator_and_a_dataset_column_are_alike():
    datasets = pytest.importorskip("datasets")
    listed = POEMS.fill([HOLED, "床前□□光"])
    assert listed == POEMS.fill(text for text in [HOLED, "床前□□光"])
    column = datasets.Dataset.from_dict({"text": [HOLED, "床前□□光"]})["text"]
    assert listed == POEMS.fill(column) and listed[:1] == POEMS.fill(HOLED)
    assert [s.text for s in POEMS.score(datasets.Dataset.from_dict({"text": [QUATRAIN]})["text"], levels=2)] == [
        QUATRAIN
    ]


def test_plain_sentences_go_through_any_masked_language_model():
    (output,) = WORDS.fill("The CAT [MASK] under  the _.")
    assert output.text.startswith("The CAT") and output.text.endswith(".") and HOLE not in output.text
    assert "under  the" in output.text and output.forwards == 2 and output.form is None
    assert "[" not in output.text, "no special token is written"


# -- score and evaluate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["mask", "replacement", "uniform"])
def test_a_score_is_the_texts_own(process):
    other = QUATRAIN.replace("霜", "龘")
    alone = POEMS.score(other, process=process, levels=4)
    beside = POEMS.score([QUATRAIN, other, "白" * 28], process=process, levels=4, batch_size=2)
    assert beside[1].nats_per_char == pytest.approx(alone[0].nats_per_char, rel=1e-5)
    assert (alone[0].unknown, alone[0].characters, alone[0].form) == (1, 20, "wuyan-jueju")
    assert alone[0].bits_per_char == pytest.approx(alone[0].nats_per_char / math.log(2))
    assert all(0 < s.nats_per_char < math.inf and s.standard_error > 0 for s in beside)


def test_a_likelier_text_has_a_lower_bound():
    drawn = POEMS.generate(form="五绝", temperature=0.1)[0].text
    scores = POEMS.score([drawn, QUATRAIN])
    assert scores[0].nats_per_char + 4 * scores[0].standard_error < scores[1].nats_per_char


def test_the_standard_error_is_that_of_the_average():
    scores = [POEMS.score(QUATRAIN, levels=4, repeats=4, seed=s)[0] for s in range(60)]
    means, claimed = (torch.tensor([getattr(one, k) for one in scores]) for k in ("nats_per_char", "standard_error"))
    ratio = means.std() / claimed.square().mean().sqrt()
    assert 0.7 < ratio < 1.4  # a standard deviation of 60 values is good to 9 %, both of them here
    every = POEMS.score(QUATRAIN)[0]
    tolerance = 5 * float(means.std()) / math.sqrt(60) + 5 * every.standard_error
    assert every.nats_per_char == pytest.approx(means.mean().item(), abs=tolerance)
    assert POEMS.score(QUATRAIN, repeats=1, levels=2)[0].standard_error is None


def test_sentences_are_scored_by_token():
    (score,) = WORDS.score("the cats sat")
    assert score.characters == 4 and score.form is None and score.text == "the cats sat"
    assert 0 < score.nats_per_char < math.inf


def test_evaluation_is_over_all_and_by_form():
    poems = [poem.text for poem in POEMS.generate(form="五绝", n=6)] + [
        poem.text for poem in POEMS.generate(form="七绝", n=3)
    ]
    records = [{"text": poem} for poem in poems]
    report = POEMS.evaluate(records, levels=3, batch_size=4)
    assert list(report) == ["all", "qiyan-jueju", "wuyan-jueju"]
    assert [report[name]["texts"] for name in report] == [9, 3, 6]
    per_char = {name: row["nats_per_char"] for name, row in report.items()}
    assert per_char["all"] == pytest.approx(
        (per_char["qiyan-jueju"] * 3 * 28 + per_char["wuyan-jueju"] * 6 * 20) / (3 * 28 + 6 * 20)
    )
    assert all(row["standard_error"] > 0 for row in report.values())
    alike = POEMS.evaluate(poems, levels=3, batch_size=64)
    assert alike["all"]["nats_per_char"] == pytest.approx(per_char["all"], rel=1e-5)
    assert POEMS.evaluate(poems[:1], levels=3)["all"]["standard_error"] is None


# -- stream ---------------------------------------------------------------------------------------------------------------


def test_a_stream_runs_from_the_prior_to_what_generate_gives():
    frames = list(POEMS.stream(form="五绝", n=2, seed=3))
    assert len(frames) == 21 and all(isinstance(frame, Frame) for frame in frames)
    assert frames[0].level == 1.0 and frames[0].forwards == (0, 0) and frames[-1].level == 0.0
    for done, frame in enumerate(frames):
        assert [text.count(HOLE) for text in frame.texts] == [20 - done] * 2
    for earlier, later in itertools.pairwise(frames):
        assert all(a in (HOLE, b) for a, b in zip("".join(earlier.texts), "".join(later.texts), strict=True))
    assert list(frames[-1].texts) == texts(POEMS.generate(form="五绝", n=2, seed=3))
    filled = list(POEMS.stream("床前□□光", seed=1))
    assert filled[0].texts == ("床前□□光",) and [filled[-1].texts[0]] == texts(POEMS.fill("床前□□光", seed=1))
    both = ["床前□□光", HOLED]
    *_, last = POEMS.stream(both, seed=1)
    assert (last.rows, list(last.texts)) == ((1,), texts(POEMS.fill(both, seed=1))[1:]), "texts of other shapes follow"


def test_the_callers_code_between_states_is_free_to_learn():
    for _ in POEMS.stream(form="五绝", steps=2):
        assert not torch.is_inference_mode_enabled()
    seen = []
    POEMS.generate(form="五绝", n=3, steps=2, batch_size=2, callback=seen.append)
    assert [len(state.x) for state in seen] == [2, 2, 2, 1, 1, 1] and not seen[-1].t.any()


# -- at the door ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"form": "wuyan-jueyu"}, "did you mean 'wuyan-jueju'"),
        ({"sampler": "improve"}, "unknown sampler 'improve'.*did you mean 'improved'"),
        ({"process": "masks"}, "unknown process 'masks'.*did you mean 'mask'"),
        (
            {"sampler": "margin", "process": "replacement"},
            "sampler 'margin' does not serve process 'replacement'; use one of",
        ),
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"n": 1.5}, "n is 1.5; it must be a whole number"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"temperature": -1}, "temperature is -1; it must be at least 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0}, r"top_p is 0; it must lie in \(0, 1\]"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": [1, 2], "n": 3}, "seed has 2 values for 3 texts"),
        ({"seed": 2**63}, "must fit into 64 bits"),
        ({"seed": "x"}, "seed is 'x'; it must be a whole number"),
        (
            {"sampler": "gibbs", "sampler_options": {"sweep": 1}},
            "sampler 'gibbs' has no option 'sweep'; it takes sweeps",
        ),
        ({"sampler_options": {"share": 1}}, "has no option 'share'; it takes none"),
        ({"sampler": "refresh", "sampler_options": {"share": 2}}, "share is 2"),
    ],
)
def test_mistakes_are_refused_with_the_value_and_the_way_out(settings, says):
    with pytest.raises(ValueError, match=says) as error:
        POEMS.generate(**({"form": "五绝"} | settings))
    assert "\n" not in str(error.value)


def test_mistakes_name_the_text():
    with pytest.raises(ValueError, match=r"^text 2: text has 5 characters"):
        POEMS.fill([HOLED, "床前□□光"], form="五绝")
    with pytest.raises(ValueError, match="text 2 is int; pass strings"):
        POEMS.fill([HOLED, 3])
    with pytest.raises(ValueError, match="there is no text"):
        POEMS.fill([])
    with pytest.raises(ValueError, match="there is no text to evaluate"):
        POEMS.evaluate([])
    with pytest.raises(ValueError, match="levels is 0"):
        POEMS.score(QUATRAIN, levels=0)
    with pytest.raises(ValueError, match="sampler 'edit-count' serves replacement, but model tiny-words only mask"):
        WORDS.fill("the _", sampler="edit-count")


# -- results and records --------------------------------------------------------------------------------------------------


def test_results_are_frozen_and_their_fields_are_json():
    (poem,), (score,) = POEMS.generate(form="五绝", steps=2), POEMS.score(QUATRAIN, levels=2)
    for result, kind in ((poem, Output), (score, Score)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.text = ""  # type: ignore[misc]
        record = json.loads(json.dumps(dataclasses.asdict(result)))
        assert list(record) == [f.name for f in dataclasses.fields(kind)] and record["model"] == "tiny-poems"
    assert {"text", "lines", "form", "seed", "sampler", "process", "forwards", "model"} <= set(dataclasses.asdict(poem))


def test_a_saved_model_draws_and_scores_the_same(tmp_path):
    pipe = Pipeline.from_pretrained(saved(POEMS.model, tmp_path / "model"))
    assert texts(pipe.generate(form="五绝", n=2)) == texts(POEMS.generate(form="五绝", n=2))
    assert pipe.score(QUATRAIN)[0].nats_per_char == pytest.approx(POEMS.score(QUATRAIN)[0].nats_per_char, rel=1e-6)


def test_each_text_may_name_its_own_form():
    together = POEMS.fill([HOLE * 20, HOLE * 28], form=["wuyan-jueju", None])
    assert [o.form for o in together] == ["wuyan-jueju", "qiyan-jueju"]
    with pytest.raises(ValueError, match="form has 1 values for 2 texts"):
        POEMS.fill([HOLE * 20, HOLE * 28], form=["wuyan-jueju"])
