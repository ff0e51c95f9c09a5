"""The one loss, in a step of any number of pieces, and what a network learns by it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import POEMS, assert_one_line, assert_same_step, losses, micro_batches, one_step, recipe_file, still, x_t_of
from torch.utils._python_dispatch import TorchDispatchMode

from textdiff.core.errors import RecipeError
from textdiff.core.likelihood import nelbo
from textdiff.networks.folder import TextModel
from textdiff.training import run
from textdiff.training.loss import Denoiser, weighted_nll
from textdiff.training.recipe import load

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_mask_loss_is_the_bound_in_expectation() -> None:
    """Over all levels and all masked sets, and against the estimator that evaluation uses."""
    model = tiny.poem_model()
    process, predictor = model.process("mask"), model.predictor("mask")
    n = 4
    x0 = model.encode(["明月故乡"])
    free = torch.ones_like(x0, dtype=torch.bool)
    total = 0.0
    with torch.no_grad():
        for m in range(1, n + 1):
            sets = [list(s) for s in itertools.combinations(range(n), m)]
            x_t = x0.repeat(len(sets), 1)
            for row, s in enumerate(sets):
                x_t[row, s] = model.mask_id
            t = torch.full(x_t.shape, m / n, dtype=torch.float64)
            total += float(weighted_nll(predictor, process, x0.expand_as(x_t), x_t, t)) / len(sets) / n
        seeds = torch.arange(1500)
        many = nelbo(
            x0.expand(1500, -1), free.expand(1500, -1), predictor=predictor, process=process, seeds=seeds, rows=1024
        )
    assert total == pytest.approx(many.mean().item(), abs=4 * many.std().item() / 1500**0.5)


@pytest.mark.parametrize("process", ["mask", "replacement", "redraw", "uniform"])
def test_pieces_add_up_to_the_loss_and_gradient_of_the_whole_step(process: str) -> None:
    model = tiny.poem_model()
    denoiser = Denoiser(model)
    whole = micro_batches(40, 28, processes={process: model.process(process)}, shares={process: 1.0})
    assert_same_step(*(one_step(denoiser, dataclasses.replace(whole, pieces=pieces)) for pieces in (1, 4)))


@pytest.mark.parametrize("optimizer", ["muon"])
def test_one_batch_of_64_trains_as_four_of_16(optimizer: str, tmp_path: Path) -> None:
    found = []
    for accumulation in (1, 4):
        path = recipe_file(
            tmp_path / str(accumulation),
            model=still(),
            optimizer={"name": optimizer},
            run={"steps": 3, "batch": 64, "accumulation": accumulation},
        )
        recipe = load(path)
        run.train(recipe)
        found.append(losses(recipe.folder))
    assert found[0].keys() == found[1].keys() == {1, 2, 3}
    for step in found[0]:
        assert found[0][step] == pytest.approx(found[1][step], abs=1e-5)


class Projections(TorchDispatchMode):
    """Counts the rows of matrix products whose result is as wide as the vocabulary."""

    def __init__(self, vocabulary: int):
        TorchDispatchMode.__init__(self)
        self.vocabulary, self.rows, self.largest = vocabulary, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim > 1 and result.shape[-1] == self.vocabulary:
            rows = result.numel() // self.vocabulary
            self.largest = max(self.largest, rows)
            if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
                self.rows += rows
        return result


def test_the_vocabulary_is_met_only_where_there_is_loss() -> None:
    model = tiny.poem_model()
    denoiser = Denoiser(model)
    batches = micro_batches(40, 20, batch=20)
    inputs = batches[0]
    masked = int((x_t_of(batches, 0) == model.mask_id).sum())
    assert masked < inputs["x0"].numel()
    with Projections(len(model.tokenizer)) as seen:
        denoiser(**inputs)
    assert seen.rows == masked
    assert seen.largest <= masked


def test_a_memorised_batch_costs_little(tmp_path: Path) -> None:
    data = tmp_path / "few.jsonl"
    data.write_text("".join(POEMS.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8")
    path = recipe_file(
        tmp_path,
        data={"train": str(data), "validation": str(data)},
        model=still(hidden_size=64),
        optimizer={"name": "muon", "lr": 0.01, "decay": 0.5},
        run={"steps": 40, "batch": 16, "eval_levels": 20},
    )
    recipe = load(path)
    run.train(recipe)
    told = losses(recipe.folder)
    assert told[1] > 3.5
    assert told[40] < 0.4 * told[1]
    log = [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]
    assert [r["eval_mask_bound"] for r in log if "eval_mask_bound" in r][-1] < 0.5 * told[1]


@pytest.mark.slow
def test_a_model_learns_to_go_by_the_title(tmp_path: Path) -> None:
    """Two texts, and the title says which: the right one is worth log 2 a text, the wrong one costs much."""
    data = tmp_path / "two.jsonl"
    texts = ["".join(map(chr, range(first, first + 20))) for first in (0x4E10, 0x4E30)]
    right = [text[0] for text in texts]  # a character that no text holds would be unknown in a title, too
    records = [{"title": f"{title}二首 其一", "text": text} for title, text in zip(right, texts, strict=True)]
    data.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    path = recipe_file(
        tmp_path,
        data={"train": str(data), "validation": str(data)},
        model=still(hidden_size=64),
        optimizer={"name": "muon", "lr": 0.01, "decay": 0.5},
        conditions={"title": 0.5},
        run={"steps": 70, "batch": 16, "eval_levels": 20},
    )
    folder = run.train(load(path))
    assert folder is not None
    model = TextModel.from_pretrained(folder)
    assert model.told == ("form", "process", "level", "title")
    ids = model.encode(texts)
    free = torch.ones_like(ids, dtype=torch.bool)
    bounds = {}
    for name, title in (("right", right), ("wrong", right[::-1]), ("untold", None)):
        condition = model.condition(2, form="wuyan-jueju", title=title)
        seeds = torch.arange(2)
        bounds[name] = nelbo(
            ids,
            free,
            predictor=model.predictor("mask"),
            process=model.process("mask"),
            seeds=seeds,
            condition=condition,
        ).mean()
    assert bounds["right"] < bounds["untold"] - 0.3
    assert bounds["wrong"] > bounds["untold"] + 2
    log = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    last = [r for r in log if "eval_mask_bound" in r][-1]
    assert last["eval_mask_told_bound"] < last["eval_mask_bound"] - 0.3 / 20
    with pytest.raises(ValueError, match="no Chinese character"):
        model.condition(1, title="二首 其一")
    with pytest.raises(ValueError, match="cannot be told a dynasty"):
        model.condition(1, dynasty="tang")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, at its import of the compiler
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_network_trains_as_the_plain_one(tmp_path: Path) -> None:
    found = []
    for compiled in (False, True):
        path = recipe_file(tmp_path / str(compiled), model=still(), run={"steps": 3, "compile": compiled})
        recipe = load(path)
        folder = run.train(recipe)
        assert folder is not None and TextModel.from_pretrained(folder).told
        found.append(losses(recipe.folder))
    assert found[0].keys() == found[1].keys()
    for step, loss in found[0].items():
        assert found[1][step] == pytest.approx(loss, abs=1e-4)


def test_compiling_without_a_compiler_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RecipeError) as caught:
        run.train(load(recipe_file(tmp_path), ["run.compile=true"]))
    assert_one_line(caught.value, "C++ compiler", "leave run.compile out")
