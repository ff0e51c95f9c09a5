"""Options: every choice once, for the library and the command line, and the one check of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_images import model as image_model
from tiny import QUATRAIN, poem_model, sentence_model

from textdiff.cli import parser
from textdiff.core.errors import AskedError, ModelError
from textdiff.pipeline.images import ImagePipeline
from textdiff.pipeline.options import CHOICES, Options, defaults_of
from textdiff.pipeline.plan import check_defaults, resolve
from textdiff.pipeline.text import TextPipeline
from textdiff.processes import PROCESSES

POEMS, WORDS = TextPipeline(poem_model()), TextPipeline(sentence_model())


@pytest.mark.parametrize("call", ["generate", "fill", "refine", "augment"])
def test_a_verb_has_a_flag_for_every_option_of_its_call_and_for_no_other(call):
    arguments = parser().parse_args([call])
    expected = {name for name, one in CHOICES.items() if one.flag and call in one.calls}
    assert {name for name in CHOICES if hasattr(arguments, name)} - {"template"} == expected


@pytest.mark.parametrize("call", ["generate", "fill", "refine", "augment"])
def test_flags_that_are_left_out_leave_their_options_open(call):
    from textdiff.cli.drawing import options_of

    assert options_of(parser().parse_args([call])) == Options()


def test_options_and_changes_of_them_are_the_keywords():
    settings = {"form": "五绝", "steps": 3, "temperature": 0.5, "title": "明月"}
    expected = POEMS.generate(n=2, **settings)
    assert POEMS.generate(n=2, options=Options(**settings)) == expected
    assert POEMS.generate("五绝", 2, 0, Options(steps=9, title="明月"), steps=3, temperature=0.5) == expected
    with pytest.raises(ValueError, match=r"unknown option 'temprature'.*did you mean 'temperature'"):
        POEMS.generate(temprature=1)
    with pytest.warns(DeprecationWarning, match="is now sampler_options"):
        old = POEMS.generate("五绝", sampler="gibbs", options={"sweeps": 0.5})
    assert old == POEMS.generate("五绝", sampler="gibbs", sampler_options={"sweeps": 0.5})


def test_no_number_of_steps_is_the_default_and_each_is_one_position_at_a_time():
    pipe = TextPipeline(poem_model(form="wuyan-jueju", steps=8))
    assert pipe.plan().steps == pipe.plan(steps=None).steps == 8 and pipe.plan(steps="each").steps is None
    assert [pipe.generate(steps=steps)[0].forwards for steps in (None, "each", 4)] == [8, 20, 4]
    with pytest.raises(ValueError, match="steps is 'all'; it must be a whole number or 'each'"):
        pipe.plan(steps="all")
    with pytest.raises(ValueError, match="which is for texts"):
        ImagePipeline(image_model()).generate(steps="each")


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        ({"sampler": "entropy-bounded", "sampler_options": {"gamma": 1000}}, 1),
        ({"sampler": "entropy-bounded", "sampler_options": {"gamma": 0}}, 20),
        ({"steps": 400}, 20),
        ({"steps": 4}, 4),
        ({"process": "uniform", "steps": 6}, 6),
        ({"sampler": "gibbs", "sampler_options": {"sweeps": 0.5}}, 40),  # 20 down, then 10 up and 10 down again
    ],
)
def test_an_output_says_how_many_steps_were_made(settings, made):
    assert [poem.steps for poem in POEMS.generate("五绝", n=2, **settings)] == [made, made]


@pytest.mark.parametrize(
    ("pipe", "settings", "says"),
    [
        (POEMS, {"sampler": "refresh", "sampler_options": {"share": "x"}}, "option share .* is 'x'; expected a number"),
        (POEMS, {"label": 3}, "label is for images, and tiny-poems is a model of texts"),
        (ImagePipeline(image_model()), {"title": "月"}, "title is for texts, and model is a model of images"),
        (ImagePipeline(image_model()), {"guidance": float("inf")}, "guidance is inf; it must be a number"),
        (POEMS, {"process": ["mask"]}, r"process is \['mask'\]; it must be a word"),
        (POEMS, {"match": b"x"}, "match is b'x'; it must be a word"),
        (POEMS, {"tones": {}}, "tones is {}; it must be a word"),
        (POEMS, {"steps": np.array([1, 2])}, r"steps is array\(\[1, 2\]\); it must be a number"),
        (POEMS, {"no_repeat": [1]}, r"no_repeat is \[1\]; it must be true or false"),
        (POEMS, {"sampler_options": "x"}, "sampler_options is 'x'; pass a mapping"),
        (POEMS, {"n": 2**63}, "n is 9223372036854775808; it must be at most 16777216"),
        (POEMS, {"batch_size": None}, "batch_size is None; it must be a whole number"),
        (POEMS, {"temperature": 10**400}, r"temperature is too large; write a number below 2e\+308"),
        (POEMS, {"guidance": -(10**400)}, "guidance is too large"),
        (POEMS, {"keyword": 3}, "keyword is 3; it must be a word"),
        (POEMS, {"script": "runes"}, "unknown script 'runes'"),
    ],
)
def test_texts_and_images_are_checked_alike(pipe, settings, says):
    with pytest.raises(AskedError, match=says):
        pipe.generate(**settings)


def test_an_option_of_another_call_is_refused():
    with pytest.raises(AskedError, match="acrostic is '春', which is for generate; leave it out of fill"):
        POEMS.fill("床前□□光", acrostic="春")


@pytest.mark.parametrize(
    ("defaults", "says"),
    [
        ({"foo": 1}, "unknown default 'foo'"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"form": "haiku"}, "unknown form 'haiku'"),
        ({"sampler": "foo"}, "unknown sampler 'foo'"),
        ({"process": "gaussian"}, "serves mask"),
        ({"prosody": "stern"}, "prosody is 'stern'"),
        ({"title": "月"}, "unknown default 'title'"),
    ],
)
def test_defaults_of_a_model_are_checked_as_what_a_caller_says(defaults, says):
    model = dataclasses.replace(POEMS.model, defaults=defaults)
    with pytest.raises(AskedError, match=says):
        check_defaults(model)
    with pytest.raises(ModelError, match=says):
        TextPipeline.of(model)


def test_defaults_of_image_models_are_checked_and_their_old_name_for_options_holds():
    old = image_model(defaults={"sampler": "ddpm", "options": {"eta": 0.5}, "steps": 3})
    assert defaults_of(old).sampler_options == {"eta": 0.5}
    assert resolve(Options(), old).sampler_options["eta"] == 0.5
    assert resolve(Options(sampler="ddpm", sampler_options={}), old).sampler_options["eta"] != 0.5
    assert resolve(Options(sampler="improved"), old).sampler_options == {}
    with pytest.raises(ModelError, match="unknown default 'stepps'"):
        ImagePipeline.of(image_model(defaults={"stepps": 3}))


def test_a_new_process_is_drawn_by_the_sampler_that_its_line_names(monkeypatch):
    line = dataclasses.replace(PROCESSES["mask"], first="margin")
    monkeypatch.setitem(PROCESSES, "mine", line)
    model = dataclasses.replace(POEMS.model, processes=("mine",))
    plan = TextPipeline(model).plan()
    assert (plan.process, plan.sampler, plan.steps) == ("mine", "margin", None)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"best_of": 10**9}, "best_of is 1000000000 chains for one text"),
        ({"best_of": 65, "particles": 64, "prosody": "strict"}, "best_of × particles is 4160 chains for one text"),
    ],
)
def test_chains_of_a_text_are_as_many_as_memory_can_hold(asked, says):
    with pytest.raises(AskedError, match=f"{says}; ask for at most 4096"):
        POEMS.plan(**asked)


def test_a_mistake_quotes_a_text_as_it_was_typed():
    for text in ("the [MASK] xylophone", "the _ xylophone"):
        with pytest.raises(AskedError, match="xylophone"):
            WORDS.fill(text)
    for sign in ("[MASK]", "_", "□"):
        with pytest.raises(AskedError) as error:
            POEMS.fill(f"the {sign} sat on the mat")
        assert f"the {sign} sat" in str(error.value)


def test_each_poem_of_a_revision_may_have_its_own_title():
    poems, titles = [QUATRAIN, QUATRAIN], ["明月", "春"]
    both = POEMS.refine(poems, title=titles, rounds=1, seed=[3, 3])
    alone = [POEMS.refine(QUATRAIN, title=title, rounds=1, seed=3)[0] for title in titles]
    assert [one.after for one in both] == [one.after for one in alone]
    assert both[0].score_before != both[1].score_before
    with pytest.raises(AskedError, match="title has 1 values for 2 texts"):
        POEMS.refine(poems, title=["明月"])
