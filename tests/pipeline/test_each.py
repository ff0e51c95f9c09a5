"""Any number of records, drawn in their order and in bounded memory."""

from __future__ import annotations

import itertools
import weakref

import pytest
from small_images import model as image_model
from tiny import QUATRAIN, RHYMES, ordered_model, poem_model, window_model

from textdiff.core.errors import AskedError
from textdiff.pipeline import canvas
from textdiff.pipeline.images import ImagePipeline
from textdiff.pipeline.text import TextPipeline

POEMS = TextPipeline(poem_model(form="wuyan-jueju"))
HOLED = QUATRAIN.replace("光", "_").replace("疑", "_")
RECORDS = [
    {"text": HOLED, "id": 7},
    {},
    {"text": "床前□□光", "seed": 99, "title": "明月"},
    {"form": "七绝", "dynasty": "tang"},
    HOLED,
    {"text": "□" * 28, "form": "qiyan-jueju"},
]


def test_each_record_is_what_its_own_call_gives():
    whole = list(POEMS.each(RECORDS, steps=3, seed=5))
    assert whole == [
        POEMS.fill(HOLED, steps=3, seed=5)[0],
        POEMS.generate(steps=3, seed=6)[0],
        POEMS.fill("床前□□光", steps=3, seed=99, title="明月")[0],
        POEMS.generate("七绝", steps=3, seed=8, dynasty="tang")[0],
        POEMS.fill(HOLED, steps=3, seed=9)[0],
        POEMS.fill("□" * 28, steps=3, seed=10)[0],
    ]
    assert whole == list(POEMS.each(RECORDS, steps=3, seed=5, batch_size=1))
    forms = [output.form for output in POEMS.each([{"form": "七绝"}, {}], form="wuyan-lushi", steps=2)]
    assert forms == ["wuyan-lushi"] * 2, "what the call says stands above what a record says"


@pytest.mark.parametrize(
    "options",
    [
        {"prosody": "strict", "particles": 2, "best_of": 2, "steps": 4},
        {"process": "replacement", "prosody": "strict", "steps": 8},
        {"process": "uniform", "steps": 8},
        {"process": "ascending"},
        pytest.param({"sampler": "gibbs", "match": "[^月]*\\n.*\\n.*\\n.*", "steps": 5}, marks=pytest.mark.slow),
        pytest.param({"sampler": "entropy-bounded", "no_repeat": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_text_that_nobody_waits_for_costs_no_more_and_changes_no_other(options):
    make = ordered_model if options.get("process") == "ascending" else poem_model
    pipe, frames = TextPipeline(make(RHYMES, form="wuyan-jueju")), []
    records: list[dict[str, str]] = [{"title": "明月"}] * 2 + [{}] * 3
    whole = list(pipe.each(records, **options))
    last = 3 * pipe.plan(**options).each
    left = lambda k: k == 3 and frames and last in frames[-1].rows and frames[-1].level < 0.5  # noqa: E731
    found = list(pipe.each(records, watch=frames.append, left=left, **options))
    assert found[:3] + found[4:] == whole[:3] + whole[4:]
    assert 0 < found[3].forwards < whole[3].forwards
    assert ("□" in found[3].text) == (options.get("process") not in ("replacement", "uniform"))


def test_a_bounded_sampler_goes_on_until_the_last_row_of_its_batch_is_written():
    found = POEMS.fill([HOLED, "_" * 20], sampler="entropy-bounded", sampler_options={"gamma": 0.0})
    assert [one.forwards for one in found] == [2, 20]
    assert not any("□" in one.text for one in found)


def test_records_are_read_as_they_are_needed():
    read = itertools.count()
    records = ({} for _ in iter(lambda: next(read), 150))
    outputs = POEMS.each(records, steps=1, batch_size=2)
    first = next(outputs)
    assert first == POEMS.generate(steps=1)[0] and next(read) < 40
    assert sum(1 for _ in outputs) > 100


def test_the_open_pages_of_the_latest_forms_alone_are_kept(monkeypatch):
    made: list[tuple[str, weakref.ref[canvas.Canvas]]] = []

    def opened(model, options, whole=canvas.open_page):
        page = whole(model, options)
        made.append((options.form, weakref.ref(page)))
        return page

    monkeypatch.setattr(canvas, "open_page", opened)
    forms = [f"lines:{n}x{k}" for n in range(1, 20) for k in range(2, 20) if n * (k + 1) < 78]
    records = itertools.chain(({"form": one} for one in forms), itertools.repeat({"form": forms[-1]}, 5))
    given = TextPipeline(window_model()).each(records, steps=1, batch_size=1)
    count = sum(1 for _ in itertools.islice(given, len(forms) + 4))
    assert count == len(forms) + 4 and [form for form, _ in made] == forms, "that of the last form is made once"
    assert sum(page() is not None for _, page in made) <= 64 + 8, "those of a window are in use"


def test_a_wrong_record_stops_the_others_after_those_before_it_or_is_passed_over():
    wrong = [{"text": HOLED}, {"text": "no poem"}, {"text": HOLED, "title": "x"}, {"text": 3}, {"seed": "x"}, {}]
    outputs = POEMS.each(wrong, steps=1)
    assert next(outputs) == POEMS.fill(HOLED, steps=1)[0]
    with pytest.raises(AskedError, match="'no poem' has no hole"):
        next(outputs)
    found = list(POEMS.each(wrong, steps=1, on_error="skip"))
    assert [isinstance(one, AskedError) for one in found] == [False, True, True, True, True, False]
    assert found[-1] == POEMS.generate(steps=1, seed=5)[0]


def test_a_record_that_cannot_be_drawn_does_not_take_its_batch_with_it():
    """A keyword finds no place in a text only when the batch is drawn."""
    full, open_ = QUATRAIN.replace("乡", "_"), "_" * 20
    found = list(POEMS.each([open_, full, open_], keyword="明月白", steps=2, on_error="skip"))
    assert [isinstance(one, AskedError) for one in found] == [False, True, False]
    assert "明月白" in found[2].text and found[2] == POEMS.fill(open_, keyword="明月白", steps=2, seed=2)[0]


def test_who_watches_sees_every_record_under_its_number():
    last: dict[int, str] = {}
    outputs = list(
        POEMS.each(RECORDS * 6, steps=2, batch_size=2, watch=lambda f: last.update(zip(f.rows, f.texts, strict=True)))
    )
    assert last == {k: output.text for k, output in enumerate(outputs)}


def test_what_a_caller_does_between_states_of_images_is_outside_of_inference_and_nothing_keeps_gradients():
    import torch

    pipe, seen = ImagePipeline(image_model()), []
    for state in pipe.stream(2, steps=2):
        assert not torch.is_inference_mode_enabled() and not state.x.requires_grad
    pipe.generate(2, steps=2, callback=lambda state: seen.append(torch.is_inference_mode_enabled()))
    assert seen == [False] * 3


def test_images_take_seeds_as_texts_do():
    import torch

    pipe = ImagePipeline(image_model())
    drawn = pipe.generate(3, 4, steps=2)
    assert drawn.seeds == (4, 5, 6) and [one.steps for one in drawn] == [2, 2, 2] and drawn[1].label is None
    some = pipe.generate(seed=[6, 4], steps=2)
    torch.testing.assert_close(some.images, drawn.images[[2, 0]], rtol=0, atol=1e-4)
    by_generator = pipe.generate(2, generator=torch.Generator().manual_seed(1), steps=1)
    assert by_generator.seeds == pipe.generate(2, generator=torch.Generator().manual_seed(1), steps=1).seeds
    with pytest.raises(AskedError, match="seed has 2 values for 3 texts"):
        pipe.generate(3, seed=[1, 2])
