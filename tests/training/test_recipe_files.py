"""Recipes as files: what YAML may say in one, the recipes of the package by name, and what is checked before the first step."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import pytest
import tiny
from runs import ROOT, assert_one_line, recipe_file

from textdiff.cli import main
from textdiff.core.errors import RecipeError
from textdiff.pipeline.text import TextPipeline
from textdiff.training import packaged, run
from textdiff.training.recipe import LARGEST, load

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {train: x}\nrun: {steps: 3}\n# again\nrun: {batch: 4}\n", "'run' stands in line 2 and again in line 4"),
        ("data: {train: x}\nrun:\n  steps: 3\n  steps: 4\n", "'steps' stands in line 3 and again in line 4"),
        ("data: {train: x, train: y}\n", "'train' stands in line 1 and again in line 1"),
        ("data: &a {train: x, validation: *a}\n", "line 1 has an alias, *a"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 2 has an alias"),
        ("[" * 5000, "nested more than"),
        ("- " * 5000, "nested more than"),
        ('{"a":' * 5000, "nested more than"),
        ("data: !!python/object/apply:os.system [ls]", "not YAML"),
        ("data: {train: x}\n---\ndata: {train: y}", "not YAML"),
        ("data: {train: 2026-99-99}", "not YAML"),
        ("run: {steps: " + "9" * 5000 + "}\ndata: {train: x}", "not YAML"),
        ('data: {train: "a\\0b"}', "character that no file can hold"),
        ('data: {train: x}\ndefaults: {form: "\\ud800"}', "character that no file can hold"),
        ("data: {train: x}\ndefaults: {form: 2026-01-01}", "put text in quotes"),
        ("data: {train: x}\ndefaults: {temperature: .nan}", "expected a finite number"),
        ("data: {train: x}\nname: " + "long" * 5000 + "\nrun: 3", "expected a section"),
        ("#" * (LARGEST + 1), "larger than"),
        ("data: {train: x}\nrun: {seed: 99999999999}", "below"),
        ("data: {train: ''}", "data.train is empty"),
        ("data: {train: x}\nmodel: {init: ''}", "model.init is empty"),
        ("data: {train: x}\ntokenizer: {path: /nonexistent}", "leave it out"),
        ("data: {train: x, kind: windows}\ntokenizer: {kind: sentencepiece, path: /nonexistent}", "no such file"),
        ("data: {train: x}\ntokenizer: {kind: sentencepiece}", "data.kind=windows"),
        ("data: {train: x}\nprocesses: {gaussian: 1}", "is of images"),
        ("data: {train: x}\nprocesses: {embedding: 1}\nmodel: {repeats: true}", "process embedding shows none"),
        (
            "data: {train: x, kind: images}\nprocesses: {gaussian: 1}\nmodel: {type: unet, repeats: true}",
            "images have none",
        ),
    ],
    ids=lambda text: text[:40],
)
def test_yaml_that_is_no_recipe_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "strange.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert_one_line(caught.value, said)
    assert len(str(caught.value)) < 600


def test_a_huge_recipe_is_refused_by_its_size_at_once(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(RecipeError, match="larger than"):
        load(path)


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = recipe_file(tmp_path)
    plain = load(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(path) == plain


# -- by name, from any folder ------------------------------------------------------------------------------------------------


def test_recipes_are_found_by_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("quickstart", ["run.steps=2"]).name == "quickstart"
    assert main(["train", "quickstart", "--dry-run", "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["texts"] == 86 and report["out"] == "runs/quickstart"
    for name, near in (("quikstart", "quickstart"), ("recipes/digits-dpm.yaml", "digits-ddpm")):
        assert main(["train", name]) == 2
        assert f"did you mean {near!r}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_recipes_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == packaged.names()
    assert packaged.names() == sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    assert all(len(line.split()) > 3 for line in lines)
    assert main(["recipes", "quickstart"]) == 0
    assert capsys.readouterr().out == (ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")


# -- before the first step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.config.hidden_size=0", "model.config"),
        ("model.config.hidden_size=-4", "model.config"),
        ("model.config.hidden_size=33", "model.config"),
        ("model.config.vocab_size=-1", "model.config"),
        ("model.config.vocab_size=10", "model.config.vocab_size is 10"),
        ("model.config.max_position_embeddings=8", "change model.config"),
        ("model.config.hidden_act=foo", "'foo' is the name of nothing that it knows"),
        ("run.batch=100000000", "lower run.batch"),
        ("defaults={temperature: hot}", "temperature"),
        ("defaults={sampler: foo}", "foo"),
        ("defaults={form: sonnet}", "sonnet"),
        ("defaults={process: redraw}", "redraw"),
        ("defaults={steps: 0}", "steps"),
        ("data.train=.", "folder"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_first_step(override: str, said: str, tmp_path: Path) -> None:
    path = recipe_file(tmp_path)
    for call in (run.dry_run, run.train):
        with pytest.raises(ValueError) as caught:
            call(load(path, [override]))
        assert_one_line(caught.value, said)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_that_sentencepiece_cannot_make_is_said(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, data={"kind": "windows", "length": 8}, tokenizer={"kind": "sentencepiece", "size": 40})
    with pytest.raises(RecipeError, match=r"tokenizer\.size is 40") as caught:
        run.plan(load(path))
    assert_one_line(caught.value, "choose another size")
    assert "INTERNAL" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_a_report_that_cannot_be_made_is_said_with_the_name_of_its_extra(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(RecipeError, match=r"textdiff\[tensorboard\]"):
        load(recipe_file(tmp_path), ["run.report_to=tensorboard"])
    assert time.monotonic() - began < 60


def test_a_model_that_does_not_know_the_language_of_the_data_is_said_before_the_first_step(tmp_path: Path) -> None:
    tiny.saved(tiny.sentence_model(), tmp_path / "english")
    path = recipe_file(
        tmp_path,
        model={"config": {}},
        data={"kind": "windows", "length": 4, "limit": None},
        tokenizer={"kind": "pretrained"},
    )
    changes = [f"model.pretrained={tmp_path / 'english'}", "run.steps=1"]
    for call in (run.dry_run, run.train):
        with pytest.raises(RecipeError, match="does not know") as caught:
            call(load(path, changes))
        assert_one_line(caught.value, "poems.jsonl", "data.unknown=1")
    report = run.dry_run(load(path, [*changes, "data.unknown=1"]))
    assert float(report["unknown_tokens"].rstrip("%")) > 90
    said: list[str] = []
    assert run.train(load(path, [*changes, "data.unknown=1"]), log=said.append) is not None
    assert any("does not know" in line and line.endswith("of the tokens") for line in said)


def test_tokens_that_are_too_rare_to_be_known_are_counted(tmp_path: Path) -> None:
    report = run.dry_run(load(recipe_file(tmp_path), ["tokenizer.min_count=2", "data.unknown=1"]))
    assert 5 < float(report["unknown_tokens"].rstrip("%")) < 90
    assert run.dry_run(load(recipe_file(tmp_path)))["unknown_tokens"] == "0.00%"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("defaults={foo: 1}", "foo"),
        ("defaults={stepz: 8}", "did you mean 'steps'"),
        ("defaults={top_p: 7}", "top_p"),
        ("defaults={steps: [8]}", "steps"),
        ("defaults={script: 3}", "script"),
        ("defaults={sampler: refresh, sampler_options: {speed: 3}}", "speed"),
    ],
)
def test_defaults_are_checked_by_what_opens_the_trained_model(override: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="defaults") as caught:
        run.plan(load(recipe_file(tmp_path), [override]))
    assert_one_line(caught.value, said)


def test_previews_are_what_generate_draws(tmp_path: Path) -> None:
    defaults = {"form": "wuyan-jueju", "steps": 3, "temperature": 0.9}
    recipe = load(recipe_file(tmp_path, defaults=defaults, run={"steps": 2, "previews": 2}))
    folder = run.train(recipe)
    assert folder is not None
    outputs = TextPipeline.from_pretrained(folder).generate(n=2)
    lines = (recipe.folder / "previews.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"2\t{' '.join(output.text.split())}" for output in outputs]
