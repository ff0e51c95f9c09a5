"""What a run learns from: files of texts, and the micro-batches that are made of them."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import POEMS, PROSE, assert_one_line, counts, micro_batches, recipe_file, windows_recipe, x_t_of

from textdiff.core.errors import AskedError, RecipeError
from textdiff.core.rng import Rng, example_seed
from textdiff.networks.tokenization import title_characters
from textdiff.training import run
from textdiff.training.data import BLOCK, _order, ascending
from textdiff.training.loss import Denoiser
from textdiff.training.planning import pieces_of
from textdiff.training.recipe import load
from textdiff.training.sections import Data, Recipe, Run
from textdiff.training.texts.poems import Text, place_of, poems

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_every_text_has_a_seed_of_its_own_in_every_epoch() -> None:
    batches = micro_batches(8, 4, batch=4, steps=8)
    assert len(torch.cat([batches[index]["seeds"] for index in range(8)]).unique()) == 32


def test_steps_of_fewer_texts_than_there_are_levels_reach_every_level_alike() -> None:
    batches = micro_batches(8, 7, batch=2, steps=210)
    seen = torch.stack([counts(batches[index]) for index in range(210)]).flatten().bincount(minlength=8)
    assert seen[0] == 0 and ((seen[1:] - 60).abs() < 4 * (420 / 7 * 6 / 7) ** 0.5).all(), seen


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


@pytest.mark.parametrize(
    ("batch", "length", "keys", "world", "expected"),
    [
        (256, 28, {}, 1, 4),  # 64 texts of 28 tokens are 1,792
        (256, 73, {}, 1, 16),  # 28 texts would do, and 256 can be divided into pieces of 16
        (36, 73, {}, 1, 2),
        (256, 8, {}, 1, 1),
        (256, 28, {}, 2, 4),
        (6, 3000, {}, 2, 6),
        (10**8, 28, {}, 1, 64),
        (256, 28, {"accumulation": 1}, 1, 1),
        (256, 28, {"accumulation": 2}, 4, 8),
    ],
)
def test_a_step_is_cut_so_that_a_piece_stays_in_the_caches(monkeypatch, batch, length, keys, world, expected) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    recipe = Recipe(Data(train="x"), run=Run(batch=batch, **keys))
    groups = [*micro_batches(8, 5).groups, *micro_batches(8, length).groups]
    assert pieces_of(recipe, groups) == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pieces_of(recipe, groups) == world * keys.get("accumulation", 1)


def test_an_epoch_shows_every_text_in_an_order_of_its_own() -> None:
    batches = micro_batches(40, 20, batch=16, steps=6)
    assert batches.steps_per_epoch() == 3
    first = [[int(x) for step in range(3 * e, 3 * e + 3) for x in batches[step]["x0"][:, 0]] for e in range(2)]
    assert first[0] != first[1]
    for order in first:
        assert set(order) == set(batches.groups[0].ids[:, 0].tolist())
        assert len(set(order[:40])) == 40  # before the last step is filled up


@pytest.mark.parametrize("n", [1, 7, 64, 65, 1000, 4096])
@pytest.mark.parametrize("different", [3, 50, 1 << 30])
def test_an_order_drawn_in_buckets_is_that_of_one_stable_sort(n: int, different: int) -> None:
    keys = (Rng([n]).uniform(n)[0] * different).floor() / different  # few different ones: many stand in the same place
    order = ascending(n, lambda at: keys[at].numpy(), block=64)
    assert order.tolist() == keys.sort(stable=True).indices.tolist()


def test_the_order_of_an_epoch_is_the_one_that_its_seeds_give_alone() -> None:
    n = BLOCK + 1000  # more than one bucket
    keys = Rng([example_seed(3, 1, 0)]).uniform(n)[0]
    assert torch.equal(_order(n, 3, 1, 0).long(), keys.argsort(stable=True))


def test_an_order_takes_little_more_memory_than_it_has() -> None:
    def peak(n: int) -> int:
        tracemalloc.start()
        try:
            ascending(n, lambda at: (at * 0.754877666246693 % 1).numpy(), block=1 << 12)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(1_000_000) - peak(500_000) < 5 * 500_000


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


def test_a_folder_that_is_no_data_set_is_not_read_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rglob", None)
    recipe = load(recipe_file(tmp_path), [f"data.train={tmp_path}"])
    with pytest.raises(RecipeError) as caught:
        run.plan(recipe)
    assert_one_line(caught.value, "a folder that `datasets` did not save; name a file of texts")


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
    for record, said in (({"title": 5}, "has title 5"), ({"dynasty": "ming"}, "tang, song")):
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


def test_windows_keep_a_text_as_it_is(tmp_path: Path) -> None:
    made = run.plan(windows_recipe(tmp_path))
    (train,), (held,) = made.batches.groups, made.validation
    read = "".join(made.text_model.decode(train.ids[:]))
    assert PROSE.startswith(read) and len(read) > 0.9 * len(PROSE)
    assert train.ids.shape[1] == 24
    assert made.text_model.decode(held.ids)[0] in PROSE


def test_data_without_one_window_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="less than one window") as caught:
        run.plan(windows_recipe(tmp_path, "data.length=5000"))
    assert_one_line(caught.value)
