"""Training: recipes, batches, the loss, and runs that are stopped, killed and gone on with.

Every run here is a real one, through the Trainer, on our own sample poems and networks of two thin layers.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from textdiff.core.errors import AskedError, RecipeError
from textdiff.core.likelihood import nelbo
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import title_characters
from textdiff.training import run, start
from textdiff.training.data import Group, MicroBatches, Text, place_of, poems, unsaid
from textdiff.training.loss import Denoiser, corrupted, weighted_nll
from textdiff.training.recipe import load, to_yaml
from textdiff.training.trainer import arguments, bound_on, checkpoints

ROOT = Path(__file__).parent.parent
POEMS = ROOT / "data" / "poems.jsonl"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PROSE = "the quick brown fox\n\n  jumps over, the lazy dog.\n" * 40


pytestmark = pytest.mark.usefixtures("one_thread")


def recipe_file(folder: Path, **sections: dict[str, Any]) -> Path:
    """A recipe for a tiny network, with sections changed."""
    tree: dict[str, Any] = {
        "data": {"train": str(POEMS), "limit": 60},
        "model": {
            "type": "bert",
            "config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
        },
        "optimizer": {"lr": 3e-3, "warmup": 2, "ema": 0.9},
        "run": {"steps": 6, "batch": 16, "eval_every": 1000, "save_every": 1000, "eval_texts": 8, "log_every": 1},
        "out": str(folder / "out"),
    }
    tree["run"] |= {"eval_levels": 2, "previews": 0}
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def still(**config: Any) -> dict[str, Any]:
    """The `model` section of a network without dropout."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return {"config": sizes | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | config}


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines) if "loss" in record}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_one_line(error: BaseException, *parts: str) -> None:
    message = str(error)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


# -- recipes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("run.stepz=3", "run.steps"),
        ("optimiser.lr=1", "optimizer"),
        ("data.trian=x", "data.train"),
        ("moddel={}", "model"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, override: str, nearest: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(recipe_file(tmp_path), [override])
    assert_one_line(caught.value, f"did you mean {nearest!r}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.steps=many", "expected int"),
        ("run.steps=1.5", "expected int"),
        ("run.steps=true", "expected int"),
        ("run.steps=0", "at least 1"),
        ("run.bf16=3", "expected bool"),
        ("run.keep=0", "at least 1"),
        ("run.batch=10 run.accumulation=4", "do not divide"),
        ("run.minutes=-1", "at least 0"),
        ("run.report_to=wandb", "none, tensorboard"),
        ("optimizer.name=sgd", "adamw, muon"),
        ("optimizer.lr=fast", "expected float"),
        ("optimizer.lr=-1", "at least 0"),
        ("optimizer.lr=.nan", "at least 0"),
        ("optimizer.ema=1.0", "below 1"),
        ("optimizer.betas=0.9", "2 numbers"),
        ("optimizer.betas=[0.9,1.5]", "below 1"),
        ("optimizer.decay=2", "below 1"),
        ("data=7", "expected a section"),
        ("data.kind=songs", "poems, windows"),
        ("data.holdout=1.0", "below 1"),
        ("data.train=null", "expected str"),
        ("tokenizer.kind=pretrained", "model.pretrained"),
        ("model.pretrained=x", "brings its own tokenizer"),
        ("model.pretrained=x tokenizer.kind=pretrained", "leave out model.config"),
        ("model.init=random", "plain, statistics"),
        ("model.config=3", "expected a section"),
        ("model.init=no/such/folder", "plain, statistics, packaged, or the folder"),
        ("tokenizer.kind=pretrained model.init=statistics", "model.init names one"),
        ("conditions.titel=1", "did you mean 'title'"),
        ("conditions.author=1", "known: title, dynasty"),
        ("conditions.title=1.5", "from 0 to 1"),
        ("conditions.dynasty=-0.1", "from 0 to 1"),
        ("conditions.title=often", "expected float"),
        ("conditions.title=0.5 data.kind=windows", "for data.kind poems"),
        ("processes.maks=1", "did you mean 'mask'"),
        ("processes.mask=0", "no process has a share"),
        ("processes.mask=-1", "at least 0"),
        ("steps", "no '='"),
        ("run.steps.more=1", "a value, not a section"),
        ("run.steps=[1", "not YAML"),
    ],
)
def test_a_wrong_value_is_one_clear_line(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(recipe_file(tmp_path), override.split())
    assert_one_line(caught.value, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [("- 1", "holds list"), ("run: [", "not YAML"), ("run: {steps: 3}", "'data'"), ("data: {}", "'data.train'")],
)
def test_a_broken_recipe_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert_one_line(caught.value, said)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.type=gpt2", "expected one of"),
        ("model.config.hidden_sise=32", "did you mean 'hidden_size'"),
        ("model.config.hidden_size=wide", "does not make a bert"),
    ],
)
def test_a_network_that_cannot_be_is_one_clear_line(tmp_path: Path, override: str, said: str) -> None:
    recipe = load(recipe_file(tmp_path), [override])
    with pytest.raises(RecipeError) as caught:
        run.plan(recipe)
    assert_one_line(caught.value, said)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_reads_back_and_sets_up_the_trainer(path: Path, tmp_path: Path) -> None:
    recipe = load(path, [f"out={tmp_path / 'out'}", "optimizer.lr=2e-3"])
    assert recipe.optimizer.lr == 2e-3
    again = tmp_path / "recipe.yaml"
    again.write_text(to_yaml(recipe), encoding="utf-8")
    assert load(again) == recipe
    told = arguments(recipe)
    assert told.max_steps == recipe.run.steps
    assert told.gradient_accumulation_steps == recipe.run.accumulation


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_what_how_long_and_what_to_expect(path: Path) -> None:
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("What:", "Time:", "Expect:"):
        assert any(word in line for line in header), word


# -- data -----------------------------------------------------------------------------------------------------------------


def micro_batches(texts: int, length: int, **changes: Any) -> MicroBatches:
    """Batches of texts that are all different: text k begins with token k."""
    model = tiny.poem_model()
    ids = model.content[torch.arange(texts * length) % len(model.content)].view(texts, length).clone()
    ids[:, 0] = model.content[torch.arange(texts)]
    told = model.condition(
        texts, form="qiyan-jueju", title=["明月", "故乡春"] * (texts // 2) + ["花"] * (texts % 2), dynasty="tang"
    )
    conditions = changes.get("conditions", {})
    silent = [slot for slot in ("title", "dynasty") if slot not in conditions]
    group = Group(ids, unsaid(told, model.prefix, silent, model.pad_id), torch.ones(length, dtype=torch.bool))
    made: dict[str, Any] = {
        "groups": [group],
        "processes": {name: model.process(name) for name in ("mask", "replacement")},
        "shares": {"mask": 1.0},
        "batch": 28,
        "pieces": 1,
        "steps": 10,
        "seed": 3,
        "prefix": model.prefix,
        "pad": model.pad_id,
    }
    return MicroBatches(**made | changes)


def counts(batch: dict[str, Any]) -> torch.Tensor:
    return (batch["t"][:, 0] * batch["t"].shape[1]).round().long()


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_an_optimiser_step_hits_each_stratum_of_levels_once(pieces: int) -> None:
    batches = micro_batches(40, 28, pieces=pieces)
    for step in range(5):
        m = torch.cat([counts(batches[step * pieces + piece]) for piece in range(pieces)])
        assert m.sort().values.tolist() == list(range(1, 29))


def test_levels_are_those_that_the_process_sums_in_its_bound() -> None:
    process = dataclasses.replace(tiny.poem_model().process("uniform"), steps=40)
    batches = micro_batches(40, 4, batch=40, processes={"uniform": process}, shares={"uniform": 1.0})
    levels = batches[0]["t"]
    assert (levels == levels[:, :1]).all()
    torch.testing.assert_close(levels[:, 0].sort().values, torch.arange(1, 41).double() / 40)


def test_the_level_of_each_text_is_uniform() -> None:
    epochs = 120
    batches = micro_batches(8, 4, batch=4, steps=2 * epochs)
    seen = torch.zeros(5)
    for index in range(len(batches)):
        batch = batches[index]
        seen[counts(batch)[batch["x0"][:, 0] == batches.groups[0].ids[0, 0]]] += 1
    expected = epochs / 4
    assert seen.sum() == epochs
    assert ((seen[1:] - expected).abs() < 4 * (epochs * 0.25 * 0.75) ** 0.5).all(), seen


def x_t_of(batches: MicroBatches, index: int) -> torch.Tensor:
    """What the loss makes of a micro-batch."""
    one = batches[index]
    return corrupted(batches.processes[one["process"]], one["x0"], one["t"], one["seeds"])


@pytest.mark.parametrize("process", ["mask", "replacement"])
def test_a_step_is_the_same_however_it_is_cut_among_pieces_and_ranks(process: str) -> None:
    whole = micro_batches(40, 28, shares={process: 1.0}, conditions={"title": 0.5})
    for accumulation, world in ((4, 1), (2, 2), (1, 4)):
        pieces = accumulation * world
        cut = dataclasses.replace(whole, pieces=pieces)
        for step in range(3):
            # rank r takes every world-th micro-batch, as accelerate deals them out
            dealt = {r: [step * pieces + a * world + r for a in range(accumulation)] for r in range(world)}
            parts = [cut[index] for index in sorted(itertools.chain(*dealt.values()))]
            for key in ("x0", "seeds", "t", "condition"):
                assert torch.equal(torch.cat([part[key] for part in parts]), whole[step][key]), key
            assert {part["positions"] for part in parts} == {whole[step]["positions"]}


def test_an_epoch_shows_every_text_in_an_order_of_its_own() -> None:
    batches = micro_batches(40, 20, batch=16, steps=6)
    assert batches.steps_per_epoch() == 3
    first = [[int(x) for step in range(3 * e, 3 * e + 3) for x in batches[step]["x0"][:, 0]] for e in range(2)]
    assert first[0] != first[1]
    for order in first:
        assert set(order) == set(batches.groups[0].ids[:, 0].tolist())
        assert len(set(order[:40])) == 40  # before the last step is filled up


def test_the_corruption_of_a_text_differs_between_epochs_and_within_a_filled_batch() -> None:
    batches = micro_batches(5, 28, batch=10, steps=2)
    shown = [tuple(row.tolist()) for step in range(2) for row in x_t_of(batches, step) == 2]
    assert len(set(shown)) >= len(shown) - 1  # all are masked in the highest stratum, and may be in the next


def test_processes_take_turns_by_their_shares() -> None:
    batches = micro_batches(8, 4, shares={"mask": 3.0, "replacement": 1.0})
    names = [batches.process_of(step) for step in range(200)]
    assert abs(names.count("mask") - 150) <= 1
    assert all("replacement" in names[k : k + 8] for k in range(190))


def test_a_step_is_told_each_condition_as_a_whole_or_not_at_all_by_its_share() -> None:
    batches = micro_batches(8, 4, batch=4, conditions={"title": 0.5, "dynasty": 0.25})
    silent = [batches.silent(step) for step in range(400)]
    for name, share in batches.conditions.items():
        said = sum(name not in s for s in silent)
        assert abs(said - 400 * share) < 4 * (400 * share * (1 - share)) ** 0.5
    both = sum(not s for s in silent)  # they are drawn apart
    assert abs(both - 50) < 4 * (400 * 0.125 * 0.875) ** 0.5
    for step in range(10):
        condition = batches[step]["condition"]
        for name in batches.conditions:
            columns = [k for k, slot in enumerate(batches.prefix) if slot == name]
            assert (condition[:, columns[0]] != batches.pad).all() == (name not in silent[step])
            assert name not in silent[step] or (condition[:, columns] == batches.pad).all()
        assert (condition[:, batches.prefix.index("form")] != batches.pad).all()


def test_a_step_that_is_told_nothing_has_the_loss_it_always_had() -> None:
    model = tiny.poem_model()
    denoiser = Denoiser(model)
    plain = micro_batches(40, 28)
    never, always = (micro_batches(40, 28, conditions={"title": share}) for share in (0.0, 1.0))
    with torch.no_grad():
        for step in range(3):
            assert denoiser(**never[step]) == denoiser(**plain[step])
            assert denoiser(**always[step]) != denoiser(**plain[step])


@pytest.mark.parametrize(
    ("title", "told"),
    [
        ("春夜喜雨", "春夜喜雨"),
        ("  秋兴八首  其二", "秋兴"),
        ("寄友 其十一", "寄友"),
        ("题壁二首 并序", "题壁并序"),
        ("奉和十韵", "奉和"),
        ("三绝句", "三绝句"),
        ("其一", ""),
        ("二首 其二", ""),
        ("七绝五首", "七绝"),
        ("A 𠀀·中《国》1", "𠀀中国"),
        ("正月十五夜陪诸公观灯", "正月十五夜陪诸公"),
        ("", ""),
    ],
)
def test_a_title_is_told_without_its_place_in_a_series(title: str, told: str) -> None:
    assert title_characters(title) == told


def test_near_and_exact_duplicates_do_not_straddle_the_split() -> None:
    places = [place_of(f"text {k % 50}") for k in range(200)]
    assert places[:50] == places[50:100] and len(set(places)) == 50
    assert 0 < sum(place < 0.2 for place in places) < 200


BAD_FILES = {
    "empty.jsonl": b"",
    "blank.txt": b"\n \n",
    "cut.jsonl": POEMS.read_bytes()[:700],
    "cut.jsonl.gz": gzip.compress(POEMS.read_bytes() * 20)[:600],
    "plain.jsonl.gz": b"not compressed",
    "latin.txt": "床前明月光".encode("gb18030"),
    "fields.jsonl": b'{"poem": "x"}\n',
    "number.jsonl": b'{"text": 5}\n',
    "list.jsonl": b"[1, 2]\n",
    "shape.jsonl": '{"text": "床前明月光"}\n'.encode(),
    "form.jsonl": '{"text": "床前明月光", "form": "sonnet"}\n'.encode(),
    "short.jsonl": '{"text": "床前明月光", "form": "qiyan-jueju"}\n'.encode(),
}


@pytest.mark.parametrize("name", [*BAD_FILES, "missing.jsonl"])
def test_a_bad_data_file_is_one_clear_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name in BAD_FILES:
        path.write_bytes(BAD_FILES[name])
    with pytest.raises(AskedError) as caught:
        run.plan(load(recipe_file(tmp_path), [f"data.train={path}", "data.limit=null"]))
    assert_one_line(caught.value, name)


def test_poems_are_read_with_and_without_punctuation_and_form(tmp_path: Path) -> None:
    path = tmp_path / "poems.jsonl"
    text = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
    records = [
        {"text": text},
        {"text": text, "form": "五言绝句"},
        {"text": text.replace("\n", ""), "form": "wuyan-jueju"},
    ]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n\n" for r in records), encoding="utf-8")
    bare = "".join(c for c in text if c not in "，。\n")
    assert list(poems(path)) == [Text(bare, "wuyan-jueju")] * 3


def test_titles_and_dynasties_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "poems.jsonl"
    text = "床前明月光疑是地上霜举头望明月低头思故乡"
    records: list[dict[str, Any]] = [
        {"title": "夜思 其二", "dynasty": "tang"},
        {"title": "二首"},
        {"title": None, "dynasty": ""},
    ]
    path.write_text("".join(json.dumps({"text": text} | r) + "\n" for r in records), encoding="utf-8")
    read = list(poems(path, conditions=("title", "dynasty")))
    assert [(t.title, t.dynasty) for t in read] == [("夜思 其二", "tang"), (None, None), (None, None)]
    assert [(t.title, t.dynasty) for t in poems(path)] == [(None, None)] * 3
    for record, said in (({"title": 5}, "title is 5"), ({"dynasty": "ming"}, "tang, song")):
        path.write_text(json.dumps({"text": text} | record) + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match="line 1") as caught:
            list(poems(path, conditions=("title", "dynasty")))
        assert_one_line(caught.value, said)


def test_data_without_a_condition_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text") as caught:
        run.plan(load(recipe_file(tmp_path), ["conditions.dynasty=0.5"]))
    assert_one_line(caught.value, "poems.jsonl", "data prepare", "leave dynasty out")
    run.plan(load(recipe_file(tmp_path), ["conditions.dynasty=0"]))
    with pytest.raises(RecipeError, match="no slot") as caught:
        tiny.saved(tiny.sentence_model(), tmp_path / "bert")
        run.plan(
            load(
                recipe_file(tmp_path, model={"config": {}}, tokenizer={"kind": "pretrained"}),
                [f"model.pretrained={tmp_path / 'bert'}", "conditions.title=0.5", "data.limit=4"],
            )
        )
    assert_one_line(caught.value, "title")


def windows_recipe(folder: Path, *overrides: str) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prose.txt").write_text(PROSE, encoding="utf-8")
    path = recipe_file(
        folder, data={"train": str(folder / "prose.txt"), "kind": "windows", "length": 24, "limit": None}
    )
    return load(path, list(overrides))


def test_windows_keep_a_text_as_it_is(tmp_path: Path) -> None:
    made = run.plan(windows_recipe(tmp_path))
    (train,), (held,) = made.batches.groups, made.held
    read = "".join(made.text_model.decode(train.ids[:]))
    assert PROSE.startswith(read) and len(read) > 0.9 * len(PROSE)
    assert train.ids.shape[1] == 24
    assert made.text_model.decode(held.ids)[0] in PROSE


def test_data_without_one_window_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="less than one window") as caught:
        run.plan(windows_recipe(tmp_path, "data.length=5000"))
    assert_one_line(caught.value)


# -- the loss -------------------------------------------------------------------------------------------------------------


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
    found = []
    for pieces in (1, 4):
        cut = dataclasses.replace(whole, pieces=pieces)
        denoiser.zero_grad()
        total = 0.0
        for index in range(pieces):
            loss = denoiser(**cut[index])
            loss.backward()
            total += loss.item()
        gradient = torch.cat([p.grad.flatten() for p in denoiser.parameters() if p.grad is not None])
        found.append((total, gradient))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert (found[0][1] - found[1][1]).norm() < 1e-5 * found[0][1].norm()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
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
        run={"steps": 60, "batch": 32, "eval_levels": 20},
    )
    recipe = load(path)
    run.train(recipe)
    told = losses(recipe.folder)
    assert told[1] > 3.5
    assert told[60] < 0.4 * told[1]
    log = [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]
    assert [r["eval_mask_bound"] for r in log if "eval_mask_bound" in r][-1] < 0.5 * told[1]


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
        run={"steps": 70, "batch": 32, "eval_levels": 20},
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


# -- weights and what is saved --------------------------------------------------------------------------------------------


def test_the_result_holds_the_averaged_weights_and_evaluation_uses_them(tmp_path: Path) -> None:
    steps, decay = 5, 0.7
    path = recipe_file(tmp_path, optimizer={"ema": decay}, run={"steps": steps, "save_every": 1, "keep": 99})
    recipe = load(path)
    folder = run.train(recipe)
    assert folder is not None
    name = "bert.encoder.layer.0.attention.self.query.weight"
    raw = [load_file(recipe.folder / f"checkpoint-{k}" / "model.safetensors")[name] for k in range(1, steps + 1)]
    averaged = raw[0].clone()
    for k, weights in enumerate(raw[1:], start=1):
        averaged = torch.lerp(averaged, weights, 1 - min(decay, (1 + k) / (10 + k)))
    assert torch.allclose(load_file(folder / "model.safetensors")[name], averaged, atol=1e-7)
    assert torch.equal(load_file(recipe.folder / "raw" / "model.safetensors")[name], raw[-1])
    assert not torch.allclose(averaged, raw[-1], atol=1e-5)
    log = [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]
    told = next(r["eval_mask_bound"] for r in log if "eval_mask_bound" in r)
    model = TextModel.from_pretrained(folder)
    value, _ = bound_on(model, run.plan(recipe).held, process="mask", levels=recipe.run.eval_levels)
    assert value == pytest.approx(told, abs=1e-5)  # the network has dropout: it was off


def test_a_run_leaves_no_pickle_and_all_that_it_promises(tmp_path: Path) -> None:
    path = recipe_file(
        tmp_path,
        run={"steps": 2, "save_every": 1, "previews": 2, "eval_every": 1},
        processes={"mask": 0.5, "replacement": 0.5},
    )
    recipe = load(path)
    folder = run.train(recipe)
    assert folder == recipe.folder / "model"
    names = {p.name for p in recipe.folder.rglob("*") if p.is_file()}
    assert not {n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle"))}
    assert {"recipe.yaml", "log.jsonl", "previews.txt", "complete.json", "README.md", "textdiff.json"} <= names
    assert load(recipe.folder / "recipe.yaml") == recipe
    previews = (recipe.folder / "previews.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in previews] == ["1", "1", "2", "2"]
    assert all("[" not in line for line in previews)
    assert TextModel.from_pretrained(folder).processes == ("mask", "replacement")


def test_the_dry_run_trains_nothing_and_reports(tmp_path: Path) -> None:
    recipe = load(recipe_file(tmp_path))
    report = run.dry_run(recipe)
    assert {"parameters", "tokens", "steps", "minutes", "memory_mb"} <= report.keys()
    assert report["steps"] == 6 and report["texts"] + report["validation_texts"] <= 60
    assert not recipe.folder.exists()


# -- stopped, killed, gone on with ----------------------------------------------------------------------------------------


LONG = {"steps": 30, "save_every": 4, "log_every": 2, "eval_every": 1000, "batch": 16}


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TRANSFORMERS_VERBOSITY": "error"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


TRAIN = "import sys, torch; torch.set_num_threads(1); from textdiff.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("optimizer", ["muon"])
def test_a_killed_run_goes_on_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    """With dropout, averaged weights, two processes and titles; killed at a random step, gone on with by the same command."""
    sections: dict[str, Any] = {
        "optimizer": {"name": optimizer},
        "processes": {"mask": 0.7, "replacement": 0.3},
        "conditions": {"title": 0.5},
        "run": LONG,
    }
    whole, killed = (load(recipe_file(tmp_path / name, **sections)) for name in ("whole", "killed"))
    run.train(whole)
    at = random.Random().randrange(2, 12)  # lines of the log
    process = python(TRAIN, "train", str(tmp_path / "killed" / "tiny.yaml"), "--quiet")
    log = killed.folder / "log.jsonl"
    while process.poll() is None and (not log.exists() or log.read_text(encoding="utf-8").count("\n") < at):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert not (killed.folder / "model").exists()
    with log.open("a", encoding="utf-8") as file:
        file.write('{"step": 5')  # a line that the kill has cut
    resumed = checkpoints(killed.folder)
    assert run.train(killed) == killed.folder / "model", f"killed after {at} lines"
    assert losses(killed.folder) == losses(whole.folder), f"killed after {at} lines, resumed from {resumed}"
    for name in ("model", "raw"):
        file = f"{name}/model.safetensors"
        assert digest(killed.folder / file) == digest(whole.folder / file), f"killed after {at} lines"


def test_a_signal_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"run": {"steps": 8, "batch": 16}}
    whole, stopped = (load(recipe_file(tmp_path / name, **sections)) for name in ("whole", "stopped"))
    run.train(whole)
    said: list[str] = []

    def stop_at(step: int, number: signal.Signals) -> Any:
        def log(line: str) -> None:
            said.append(line)
            if line.startswith(f"step {step}/"):
                os.kill(os.getpid(), number)

        return log

    for step, number in ((2, signal.SIGTERM), (5, signal.SIGINT)):
        before = signal.getsignal(number)
        assert run.train(stopped, log=stop_at(step, number)) is None
        assert signal.getsignal(number) == before
        left = checkpoints(stopped.folder)[-1]
        assert left.name in (f"checkpoint-{step}", f"checkpoint-{step + 1}")

    incomplete = stopped.folder / "checkpoint-7"  # as a kill while writing would leave it
    incomplete.mkdir()
    (incomplete / "model.safetensors").write_bytes(b"half")
    said.clear()
    assert run.train(stopped, log=said.append) == stopped.folder / "model"
    assert left.name in said[0]
    assert losses(stopped.folder) == losses(whole.folder)
    assert digest(stopped.folder / "model" / "model.safetensors") == digest(
        whole.folder / "model" / "model.safetensors"
    )


def test_a_run_does_not_go_on_with_another_recipe_unless_begun_afresh(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, run={"steps": 2})
    run.train(load(path))
    for override in (
        "data.limit=50",
        "model.config.hidden_size=64",
        "tokenizer.min_count=2",
        "processes.uniform=1",
        "conditions.title=0.5",
        "optimizer.name=muon",
        "run.seed=1",
        "run.batch=32",
    ):
        with pytest.raises(RecipeError) as caught:
            run.train(load(path, [override]))
        assert_one_line(caught.value, "--fresh", override.split("=")[0].split(".")[0])
    changed = load(path, ["run.seed=1", "run.steps=1"])
    run.train(changed, fresh=True)
    assert [p.name for p in checkpoints(changed.folder)] == ["checkpoint-1"]
    assert losses(changed.folder).keys() == {1}


def test_data_that_changed_under_a_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    lines = POEMS.read_text(encoding="utf-8").splitlines(keepends=True)
    data = tmp_path / "poems.jsonl"
    data.write_text("".join(lines[:40]), encoding="utf-8")
    path = recipe_file(tmp_path, data={"train": str(data)}, run={"steps": 2})
    run.train(load(path))
    data.write_text("".join(lines[:60]), encoding="utf-8")
    with pytest.raises(ValueError, match="--fresh") as caught:
        run.train(load(path, ["run.steps=3"]))
    assert_one_line(caught.value)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    path = recipe_file(tmp_path / "one", model=still(), run={"steps": 3, "batch": 16})
    one = load(path)
    run.train(one)
    two = tmp_path / "two"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "textdiff.cli"]
        + ["train", str(path), f"out={two}"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes") == 1, done.stderr  # both at work, one of them speaks
    assert losses(two).keys() == losses(one.folder).keys()
    for step, loss in losses(one.folder).items():
        assert losses(two)[step] == pytest.approx(loss, abs=1e-5)


# -- the recipes' own ways ------------------------------------------------------------------------------------------------


def test_a_pretrained_model_is_adapted_by_the_recipe(tmp_path: Path) -> None:
    tiny.saved(tiny.sentence_model(), tmp_path / "bert")
    (tmp_path / "words.txt").write_text("the cat sat on the mat.\na dog ran under two trees.\n" * 60, encoding="utf-8")
    recipe = load(
        ROOT / "recipes" / "adapt-bert.yaml",
        [
            f"model.pretrained={tmp_path / 'bert'}",
            f"data.train={tmp_path / 'words.txt'}",
            f"out={tmp_path / 'out'}",
            *("data.length=8", "run.steps=12", "run.batch=16", "run.accumulation=1", "run.eval_every=6"),
            *("run.log_every=1", "run.save_every=100", "optimizer.lr=3e-3", "optimizer.warmup=1", "run.bf16=false"),
        ],
    )
    folder = run.train(recipe)
    assert folder is not None
    log = [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]
    bounds = [r["eval_mask_bound"] for r in log if "eval_mask_bound" in r]
    assert bounds[-1] < bounds[0]
    model = TextModel.from_pretrained(folder)
    assert model.tokenizer.cls_token == "[CLS]" and model.prefix == ()


def test_pieces_of_sentencepiece_train_on_windows(tmp_path: Path) -> None:
    recipe = windows_recipe(
        tmp_path, "tokenizer={kind: sentencepiece, size: 120}", "data.length=8", "run.steps=2", "run.previews=1"
    )
    made = run.plan(recipe)
    (group,) = made.batches.groups
    assert made.text_model.unk_id not in group.ids[:]
    read = "".join(made.text_model.decode(group.ids[:3].view(1, -1)))
    assert PROSE.replace("\n", " ").startswith(read) and read
    assert run.train(recipe) is not None


# -- a start from a model ---------------------------------------------------------------------------------------------------


def test_a_run_starts_from_the_weights_of_a_model(tmp_path: Path) -> None:
    first = load(recipe_file(tmp_path / "first", model=still(), run={"steps": 2}))
    folder = run.train(first)
    model = TextModel.from_pretrained(folder)
    started = load(recipe_file(tmp_path / "next", model=still(), run={"steps": 3}), [f"model.init={folder}"])
    made = run.plan(started)
    for name, weight in model.model.state_dict().items():
        assert torch.equal(made.text_model.model.state_dict()[name], weight), name
    assert bound_on(made.text_model, made.held, process="mask", levels=2) == bound_on(
        model, made.held, process="mask", levels=2
    )
    again = run.train(dataclasses.replace(started, conditions={"title": 1.0}))
    assert TextModel.from_pretrained(again).told == ("form", "process", "level", "title")
    assert load(tmp_path / "next" / "out" / "recipe.yaml").model.init == str(folder)

    few = ["data.limit=10", f"model.init={folder}"]
    with pytest.raises(ValueError, match="vocabulary") as caught:
        run.plan(load(recipe_file(tmp_path / "few", model=still()), few))
    assert_one_line(caught.value, "kind: pretrained")
    bare = load(recipe_file(tmp_path / "few", model={"config": {}}), [*few, "tokenizer.kind=pretrained"])
    assert run.plan(bare).text_model.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    with pytest.raises(ValueError, match="another network") as caught:
        run.plan(load(recipe_file(tmp_path / "wide", model=still(hidden_size=64)), [f"model.init={folder}"]))
    assert_one_line(caught.value, "leave out model.config")
    strange = recipe_file(tmp_path / "few", model=still(), tokenizer={"kind": "pretrained"})
    tiny.saved(dataclasses.replace(model, prefix=("form", "level")), tmp_path / "prefix")
    with pytest.raises(ValueError, match="before the text"):
        run.plan(load(strange, [f"model.init={tmp_path / 'prefix'}", "data.limit=10"]))


def test_a_run_starts_from_the_model_of_the_package(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, model={"config": {}}, tokenizer={"kind": "pretrained"}, conditions={"title": 0.5})
    made = run.plan(load(path, ["model.init=packaged", "data.limit=20"]))
    packaged = TextModel.from_pretrained()
    assert made.text_model.prefix == packaged.prefix and "title" in made.text_model.told
    assert made.text_model.model.dtype == torch.float32
    weight = packaged.model.state_dict()["model.layers.0.attn.Wqkv.weight"]
    assert torch.equal(made.text_model.model.state_dict()["model.layers.0.attn.Wqkv.weight"], weight)


# -- a start from statistics ----------------------------------------------------------------------------------------------


def test_pairs_are_counted_as_one_would_by_hand() -> None:
    ids = torch.tensor([[3, 4, 3, 5, 1, 4, 3]])
    group = Group(ids, torch.zeros(1, 0, dtype=torch.long), torch.ones(7, dtype=torch.bool))
    scored = torch.tensor([3, 4, 5])
    expected = torch.zeros(3, 3)
    for i, j in itertools.permutations(range(7), 2):
        if abs(i - j) <= start.WINDOW and ids[0, i] >= 3 and ids[0, j] >= 3:
            expected[ids[0, i] - 3, ids[0, j] - 3] += 1
    assert torch.equal(start.pair_counts([group], scored, 6), expected)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_statistics_are_a_better_start_than_none(kind: str, tmp_path: Path) -> None:
    recipe = load(recipe_file(tmp_path), [f"model.type={kind}", "data.limit=null"])
    bounds = []
    for init in ("plain", "statistics"):
        made = run.plan(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, init=init)))
        made.text_model.model.eval()
        bounds.append(bound_on(made.text_model, made.batches.groups, process="mask", levels=2)[0])
    assert bounds[1] < bounds[0]
