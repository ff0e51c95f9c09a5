"""What a network says of tokens that come again, beside a sum that is written out."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import tiny
import torch
from runs import recipe_file, still
from transformers import AutoModelForMaskedLM

import textdiff
from textdiff.core.contracts import Query
from textdiff.core.predictions import positions_of
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import AGAIN, NEXT, character_tokenizer, named, naming
from textdiff.training import run
from textdiff.training.recipe import load

LENGTH, LETTERS = 5, "abc"


@pytest.fixture(scope="module", params=["transformers", "our own"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """Three letters, and a network that repeats them, read in either way."""
    tokenizer = character_tokenizer(LETTERS, (*naming(NEXT, LENGTH), *naming(AGAIN, LENGTH)))
    parts = TextModel.from_parts(
        tiny.network(len(tokenizer)), tokenizer, processes=("mask", "replacement", "ascending"), name="letters"
    )
    folder = tiny.saved(parts, tmp_path_factory.mktemp("letters"))
    return TextModel.from_pretrained(folder, lean=request.param == "our own")


def written_out(model: TextModel, logits: torch.Tensor, x: list[int], standing: list[int]) -> torch.Tensor:
    """log softmax over the letters and [UNK] of logits (V,), each letter's with those of the places where it stands."""
    again = named(AGAIN, model.vocabulary())
    total = logits.clone().double()
    for k in standing:
        total[x[k]] += float(logits[again[k]])
    assert model.unk_id is not None
    scored = [*model.content.tolist(), model.unk_id]
    return total[scored].log_softmax(-1)


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_a_token_that_stands_is_as_likely_elsewhere_as_the_logits_of_its_places_say(
    model: TextModel, process: str
) -> None:
    a, b, c = model.content.tolist()
    hole = model.mask_id if process == "mask" else a
    texts = [[c, c, a, a, b], [a, hole, b, b, hole], [c, hole, c, c, a], [hole] * LENGTH]
    x = torch.tensor(texts)
    free = torch.zeros(4, LENGTH, dtype=torch.bool)
    free[1, [1, 4]], free[2, 1], free[3] = True, True, True
    at = positions_of(free)
    stock = AutoModelForMaskedLM.from_pretrained(model.name).eval()
    with torch.inference_mode():
        prediction = model.predictor(process)(Query(x, torch.where(free, 0.5, 0.0).double(), at=at))
        found = prediction.logits()[:, [a, b, c, model.unk_id]].double().log_softmax(-1)
        raw = stock(input_ids=x).logits
    for (row, place), law in zip(zip(*(index.tolist() for index in at), strict=True), found, strict=True):
        standing = [k for k in range(LENGTH) if texts[row][k] != model.mask_id]
        torch.testing.assert_close(law, written_out(model, raw[row, place], texts[row], standing), atol=2e-4, rtol=0)


def test_a_writer_repeats_what_it_sees_and_what_it_has_written_and_nothing_else(model: TextModel) -> None:
    """Without [again-k] the law is another; with it, it is that of the columns' own logits and the sum over what they see."""
    a, b, c = model.content.tolist()
    free = torch.tensor([[True, False, True, True, True]])
    x = torch.tensor([[b, a, a, c, b]])
    stock = AutoModelForMaskedLM.from_pretrained(model.name).eval()
    table = stock.get_input_embeddings().weight
    following = named(NEXT, model.vocabulary())
    order = [1, 0, 2, 3, 4]  # what stands, then the holes
    ids = torch.tensor([[a, model.mask_id, b, a, c]])
    embedded = table[ids].clone()
    for column, goal in ((2, 2), (3, 3), (4, 4)):
        embedded[0, column] += table[following[goal]]
    positions = torch.tensor([[1, 0, 0, 2, 3]])  # of the [MASK] the first hole's, of tokens their own
    seen = torch.ones(LENGTH, LENGTH).tril().log()[None, None]
    with torch.inference_mode():
        raw = stock(inputs_embeds=embedded, position_ids=positions, attention_mask=seen).logits[0]
        shown = torch.where(free, model.mask_id, x)
        found = model.predictor("ascending")(Query(shown, free.double())).log_prob(x)[0][0]
    letters = [*model.content.tolist(), model.unk_id]
    for column, hole in ((1, 0), (2, 2), (3, 3), (4, 4)):
        standing = order[:1] + [k for k in order[1:] if k < hole]
        law = written_out(model, raw[column], x[0].tolist(), standing)
        assert float(found[hole]) == pytest.approx(float(law[letters.index(int(x[0, hole]))]), abs=2e-4)


def test_a_network_that_has_not_learnt_to_repeat_is_the_network_without_it(tmp_path: Path) -> None:
    start = tiny.saved(tiny.poem_model(), tmp_path / "start")
    laws = []
    for repeats in (False, True):
        recipe = recipe_file(
            tmp_path, data={"unknown": 0.9}, tokenizer={"kind": "pretrained"}, run={"steps": 1}, optimizer={"lr": 1e-30}
        )
        made = run.train(
            load(recipe, [f"model={{pretrained: {start}, repeats: {repeats}}}", f"out={tmp_path / str(repeats)}"])
        )
        pipe = textdiff.load(made)
        assert len(named(AGAIN, pipe.model.vocabulary())) == 56 * repeats
        laws.append(pipe.detail("床前明月光疑是地上霜举头望明月低头思故乡")[0].nats)
    assert laws[0] == pytest.approx(laws[1], abs=1e-5)


def test_what_never_comes_twice_is_learnt_not_to(tmp_path: Path) -> None:
    """Texts of five different letters: a network that repeats knows after some steps that what stands does not come again."""
    (tmp_path / "text").write_text("".join(map("".join, itertools.permutations("abcde"))) * 4, encoding="utf-8")
    twice = []
    for repeats in (False, True):
        recipe = recipe_file(
            tmp_path,
            data={"train": str(tmp_path / "text"), "kind": "windows", "length": 5, "limit": None},
            tokenizer={"kind": "characters"},
            model=still() | {"repeats": repeats},
            processes={"ascending": 1.0},
            optimizer={"lr": 1e-2},
            run={"steps": 60},
        )
        made = run.train(load(recipe, [f"out={tmp_path / str(repeats)}"]))
        drawn = textdiff.load(made).generate(length=5, n=64, temperature=1.0)
        twice.append(sum(len(set(output.text)) < len(output.text) for output in drawn))
    assert twice[1] < 0.5 * twice[0]
