"""torch's default device, which programs set for what they make themselves, changes nothing that is drawn or scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from small_images import model as image_model
from tiny import QUATRAIN, poem_model, saved

import textdiff
from textdiff.core.errors import AskedError

HOLED = QUATRAIN.replace("明", "□")
ELSEWHERE = [
    "meta",  # which has no numbers
    pytest.param("cuda", marks=[pytest.mark.slow, pytest.mark.skipif(torch.cuda.is_available(), reason="it is here")]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(poem_model(form="wuyan-jueju"), tmp_path_factory.mktemp("models") / "poems")


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    yield lambda: torch.set_default_device(request.param)
    torch.set_default_device(None)
    kept = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
    if getattr(kept, "device_context", 0) is None:
        del kept.device_context  # torch 2.9 leaves it, and then fails where it is asked for the default device


CALLS: dict[str, Callable[[Any], Any]] = {
    "generate": lambda pipe: pipe.generate(n=2, steps=2, prosody="strict"),
    "fill": lambda pipe: pipe.fill(HOLED, steps=2, process="replacement"),
    "each": lambda pipe: list(pipe.each([HOLED, {"text": HOLED, "title": "月"}], steps=2)),
    "stream": lambda pipe: [frame.texts for frame in pipe.stream(n=1, steps=2)],
    "score": lambda pipe: pipe.score(QUATRAIN, levels=2),
    "detail": lambda pipe: pipe.detail(QUATRAIN),
    "evaluate": lambda pipe: pipe.evaluate([QUATRAIN], levels=2),
    "choose": lambda pipe: pipe.choose("{x}" + QUATRAIN[1:], x=["春", "床"]),
    "restore": lambda pipe: pipe.restore(HOLED, top=2, width=2),
    "refine": lambda pipe: pipe.refine(QUATRAIN, rounds=1),
    "augment": lambda pipe: pipe.augment(QUATRAIN, n=1, levels=2),
}


@pytest.mark.parametrize("elsewhere", ELSEWHERE, indirect=True)
def test_every_call_gives_what_it_gives_on_the_cpu(folder: str, elsewhere: Callable[[], None]) -> None:
    wanted = {name: call(textdiff.load(folder)) for name, call in CALLS.items()}
    elsewhere()
    pipe = textdiff.load(folder)
    assert pipe.model.device.type == "cpu"
    assert {name: call(pipe) for name, call in CALLS.items()} == wanted


@pytest.mark.parametrize("elsewhere", ["meta"], indirect=True)
def test_the_default_stands_again_after_a_call_and_between_the_steps_of_one(
    folder: str, elsewhere: Callable[[], None]
) -> None:
    pipe = textdiff.load(folder)
    elsewhere()
    for _ in pipe.stream(n=1, steps=2):
        assert torch.empty(1).is_meta
    assert torch.empty(1).is_meta


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", ["meta"], indirect=True)
def test_images_are_drawn_as_on_the_cpu(elsewhere: Callable[[], None]) -> None:
    pipe = textdiff.ImagePipeline(image_model())
    wanted = pipe.generate(n=1, steps=2)
    elsewhere()
    assert all(torch.equal(a.image, b.image) for a, b in zip(pipe.generate(n=1, steps=2), wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, "int8", "float33", 16, None])
def test_a_type_that_no_network_is_computed_in_is_refused(dtype: Any, folder: str) -> None:
    with pytest.raises(AskedError, match=r"; it must be one of torch\.float32, torch\.bfloat16"):
        textdiff.TextPipeline.from_pretrained(folder, dtype=dtype)
