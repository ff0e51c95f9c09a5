"""How a network learns to write its holes in order: what an example sees, what it is charged, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from runs import POEMS, losses, recipe_file, still

import textdiff
from textdiff.core.contracts import Query
from textdiff.core.errors import RecipeError
from textdiff.training import run
from textdiff.training.loss import Denoiser
from textdiff.training.recipe import load
from textdiff.training.texts.visible import shown, subsets

ROWS = 20_000


def test_what_an_example_sees_is_nothing_or_a_subset_of_uniform_size() -> None:
    free = torch.tensor([True, True, False, True, True]).expand(ROWS, -1)
    seen = subsets(torch.arange(ROWS), free, nothing=0.3)
    assert not seen[:, 2].any()
    share = torch.bincount(seen.sum(-1), minlength=5) / ROWS
    expected = torch.tensor([0.3 + 0.7 / 4, 0.7 / 4, 0.7 / 4, 0.7 / 4, 0.0])
    assert (share - expected).abs().max() < 4 * 0.5 / ROWS**0.5
    of_one = seen[seen.sum(-1) == 1].double().mean(0)
    assert (of_one[[0, 1, 3, 4]] - 0.25).abs().max() < 0.04


def test_processes_without_an_order_see_no_part(tmp_path: Path) -> None:
    both = load(recipe_file(tmp_path, processes={"mask": 0.5, "ascending": 0.5}, tokenizer={"kind": "characters"}))
    known = shown(both)
    assert known is not None and shown(load(recipe_file(tmp_path, processes={"mask": 1.0}))) is None
    free = torch.ones(64, 8, dtype=torch.bool)
    assert known("ascending", torch.arange(64), free).any() and not known("mask", torch.arange(64), free).any()


def test_the_loss_is_the_likelihood_of_the_holes() -> None:
    """All holes of an example count once, each given what is seen and the holes before it."""
    model = tiny.ordered_model()
    x0 = model.encode(["床前明月光疑是地上霜举头望明月低头思故乡", "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少"])
    hole = torch.rand(x0.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    condition, t = model.condition(2, form="wuyan-jueju"), hole.double()
    with torch.no_grad():
        loss = Denoiser(model)(x0, t, torch.arange(2), condition, "ascending", positions=40, dropout=torch.arange(2))
        x_t = torch.where(hole, model.mask_id, x0)
        law = model.predictor("ascending")(Query(x_t, t, condition=condition))
    assert loss.item() * 40 == pytest.approx(-law.log_prob(x0)[0][hole].sum().item(), rel=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was shown sixty poems, half of the steps by each process."""
    folder = tmp_path_factory.mktemp("writer")
    sections = {
        "processes": {"ascending": 0.5, "mask": 0.5},
        "optimizer": {"lr": 1e-2},
        "run": {"steps": 60, "eval_every": 60},
    }
    made = run.train(load(recipe_file(folder, model=still(), **sections)))
    assert made is not None
    return made


def test_a_trained_network_writes_scores_and_serves_both_processes(trained: Path) -> None:
    log = losses(trained.parent)
    assert min(log[step] for step in (57, 58, 59, 60)) < 0.8 * log[1]
    records = [json.loads(line) for line in (trained.parent / "log.jsonl").read_text("utf-8").splitlines()]
    evaluated = next(record for record in records if "eval_ascending_bound" in record)
    pipe = textdiff.load(trained)
    assert set(pipe.model.processes) == {"ascending", "mask"}
    poem = json.loads(POEMS.read_text("utf-8").splitlines()[0])["text"]
    (exact,), (bound,) = pipe.score(poem, process="ascending"), pipe.score(poem, process="mask")
    assert exact.exact and not bound.exact
    assert abs(exact.nats_per_char - evaluated["eval_ascending_bound"]) < 2.5
    for process in ("ascending", "mask"):
        (output,) = pipe.generate(form="wuyan-jueju", process=process)
        assert output.process == process and "□" not in output.text


def test_the_folder_opens_as_any_masked_language_model(trained: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, tokenizer = AutoModelForMaskedLM.from_pretrained(trained), AutoTokenizer.from_pretrained(trained)
    assert tokenizer.convert_tokens_to_ids("[next-55]") < model.config.vocab_size


def test_any_masked_language_model_can_be_taught_to_write(tmp_path: Path) -> None:
    """One with word pieces, a frame of [CLS] and [SEP], and running text: it gets the tokens that it lacks."""
    tiny.saved(tiny.sentence_model(), tmp_path / "words")
    (tmp_path / "text").write_text("the cat sat on the mat and two dogs ran under a tree .\n" * 60, encoding="utf-8")
    recipe = recipe_file(
        tmp_path,
        data={"train": str(tmp_path / "text"), "kind": "windows", "length": 8, "limit": None, "unknown": 0.5},
        tokenizer={"kind": "pretrained"},
        processes={"ascending": 1.0},
    )
    tree = yaml.safe_load(recipe.read_text("utf-8")) | {"model": {"pretrained": str(tmp_path / "words")}}
    recipe.write_text(yaml.safe_dump(tree | {"processes": {"ascending": 1.0}}), encoding="utf-8")
    made = run.train(load(recipe))
    assert made is not None
    pipe = textdiff.load(made)
    before = tiny.sentence_model().tokenizer.get_vocab()
    assert {token: k for token, k in pipe.model.vocabulary().items() if k < len(before)} == before
    (filled,) = pipe.fill("the cat [MASK] on the [MASK] .", process="ascending")
    assert filled.text.startswith("the cat ") and "[MASK]" not in filled.text
    (score,) = pipe.score("the cat sat on the mat .")
    assert score.exact


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_that_is_none_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(RecipeError, match="from_nothing"):
        load(recipe_file(tmp_path), [f"from_nothing={share}"])
