"""Recipes: what is said of keys and values that cannot be, and that every recipe of ours holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import RECIPES, assert_one_line, recipe_file

from textdiff.core.errors import RecipeError
from textdiff.training import run
from textdiff.training.recipe import load, to_yaml
from textdiff.training.trainer import arguments

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("run.stepz=3", "run.steps"),
        ("optimiser.lr=1", "optimizer"),
        ("data.trian=x", "data.train"),
        ("moddel={}", "model"),
        ("batch=3", "run.batch"),
        ("ema=.9", "optimizer.ema"),
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
        ("run.patience=0", "at least 1"),
        ("run.recompute=true run.compile=true", "leave one of them out"),
        ("run.report_to=comet", "tensorboard, wandb, mlflow"),
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
        ("model.lora=4", "name the model to start from"),
        ("model.lora=4 model.init=packaged tokenizer.kind=pretrained", "leave out model.config"),
        ("model.lora=0", "at least 1"),
        ("model.lora=4 run.shard=true", "does not go with model.lora"),
        ("run.compile=true run.shard=true", "does not go with run.compile"),
        ("processes.embedding=1 run.shard=true", "process embedding needs whole"),
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
        ("processes.mask=.inf", "a share is a number of at least 0"),
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
    "name", ["2026-11-28", "7", "yes", "1e3", "a: b", "a #1", "[x].txt", "*.txt", "&a", "!a", "'q'.txt"]
)
def test_a_name_on_the_command_line_is_taken_as_it_stands(tmp_path: Path, name: str) -> None:
    recipe = load(recipe_file(tmp_path), [f"out={name}", f"data.train={name}", f"name={name}"])
    assert (recipe.out, recipe.data.train, recipe.name) == (name, name, name)
    quoted = load(recipe_file(tmp_path), ["out='it''s'", 'name="a\\tb"', "data.validation=null"])
    assert (quoted.out, quoted.name, quoted.data.validation) == ("it's", "a\tb", None)


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
    told = arguments(recipe, 3)
    assert told.max_steps == recipe.run.steps
    assert told.gradient_accumulation_steps == 3


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_what_how_long_and_what_to_expect(path: Path) -> None:
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("What:", "Time:", "Expect:"):
        assert any(word in line for line in header), word
