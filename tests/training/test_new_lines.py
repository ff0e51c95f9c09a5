"""A process or a sampler is one file and one line of its table: every verb works with it, and no other file names it.

The files are `toys.py`; the lines are put into the tables here, as a person who adds one would.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from runs import POEMS, recipe_file
from test_image_training import recipe_file as image_recipe
from tiny import QUATRAIN

from textdiff import cli
from textdiff.measure import image_report
from textdiff.pipeline import load
from textdiff.processes import PROCESSES
from textdiff.processes import Entry as Process
from textdiff.samplers import SAMPLERS
from textdiff.samplers import Entry as Sampler
from textdiff.verify import tokens, vectors
from textdiff.verify.spaces import Space

pytestmark = pytest.mark.usefixtures("one_thread")

COVERED = Process(
    path="toys:covered",
    summary="a toy with masks",
    needs=("mask_id",),
    data="tokens",
    first="plain",
    counts=True,
    masks=True,
)
STIRRED = Process(
    path="toys:Stirred", summary="a toy without", needs=("vocabulary",), data="tokens", first="plain", bounded=False
)
SQUARE = Process(
    path="toys:Square", summary="a toy of values", needs=(), data="values", first="plain", bounded=False, steps=4
)
PLAIN = Sampler(path="toys:plain", summary="a toy that walks", cost="1 a step", converges=True)
LINES: dict[str, Process] = {"covered": COVERED, "stirred": STIRRED, "square": SQUARE}
OF_TOKENS = pytest.mark.parametrize("name", ["covered", "stirred"])


@pytest.fixture(autouse=True)
def added(monkeypatch):
    """The tables with the new lines."""
    for name, line in LINES.items():
        monkeypatch.setitem(PROCESSES, name, line)
    monkeypatch.setitem(SAMPLERS, "plain", PLAIN)
    monkeypatch.setattr(vectors, "ROWS", 300)
    monkeypatch.setattr(tokens, "DEFAULT", Space.random(2, 3))


@pytest.fixture
def run(capfd):
    """A command: its exit code and what it printed."""

    def call(*words: object) -> str:
        code = cli.main([str(word) for word in words])
        out, err = capfd.readouterr()
        assert code == 0, err
        return out

    return call


@pytest.fixture
def record(run):
    """A command: the last line that it printed, as JSON."""

    def call(*words: object) -> dict[str, Any]:
        return json.loads(run(*words).splitlines()[-1])

    return call


def test_the_listings_name_the_new_lines(run):
    listed = {record["name"]: record for record in map(json.loads, run("samplers", "--json").splitlines())}
    assert set(listed["plain"]["processes"]) == set(PROCESSES)
    assert all("square" in record["processes"] for name, record in listed.items() if name in ("improved", "baseline"))
    assert "square" in run("samplers")


@pytest.mark.parametrize("verb", ["generate", "fill", "refine", "augment"])
def test_the_help_of_a_verb_names_the_new_lines(verb, run):
    page = run(verb, "--help")
    assert all(f"  {name:16} {line.summary}" in page for name, line in {**LINES, "plain": PLAIN}.items())


@OF_TOKENS
def test_verify_walks_a_new_process_of_tokens(name, run):
    rows = [json.loads(line) for line in run("verify", "--process", name, "--json").splitlines()]
    assert {"plain", "improved"} <= {row["sampler"] for row in rows if row["process"] == name}


def test_verify_walks_a_new_process_of_values(run):
    rows = [
        json.loads(line) for line in run("verify", "--process", "square", "--sampler", "plain", "--json").splitlines()
    ]
    assert [row["claim"] for row in rows] == ["in limit"]


# -- models that are trained by recipes that name the new processes --------------------------------------------------------

TEXTS = {"data": {"limit": 16}, "run": {"batch": 4}}
IMAGES = {"data": {"limit": 60}, "run": {"batch": 4}, "diffusion": {"output": "data"}}
SHORT = ("run.steps=2", "run.eval_every=2", "run.eval_texts=2", "run.previews=1", "run.save_every=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Callable[[str], str]:
    """The folder of a model that `textdiff train` made in two steps; each is trained once."""

    @functools.cache
    def folder_of(name: str) -> str:
        folder = tmp_path_factory.mktemp(name)
        of_texts = LINES[name].data == "tokens"
        recipe = recipe_file(folder, **TEXTS) if of_texts else image_recipe(folder, processes={name: 1.0}, **IMAGES)
        assert cli.main(["train", str(recipe), f"processes={{{name}: 1.0}}", *SHORT]) == 0
        log = (folder / "out" / "log.jsonl").read_text(encoding="utf-8")
        assert f"eval_{name}_" in log
        return str(folder / "out" / "model")

    return folder_of


@OF_TOKENS
def test_a_model_that_is_trained_on_a_new_process_writes_and_fills_by_it(name, trained, record):
    pipe = load(trained(name))
    assert pipe.model.processes == (name,)
    (output,) = pipe.generate("wuyan-jueju", n=1, seed=3)
    assert (output.process, output.sampler, len("".join(output.lines))) == (name, "plain", 20)
    words = ("--model", trained(name), "--seed", 3, "--json")
    assert record("generate", "--form", "wuyan-jueju", *words)["text"] == output.text
    holed = "_" + output.text[1:-2] + "_" + output.text[-1]
    (filled,) = pipe.fill(holed, seed=3)
    assert record("fill", holed, *words)["text"] == filled.text
    assert [a for a, b in zip(filled.text, holed, strict=True) if b not in (a, "_")] == []
    assert record("generate", "--sampler", "baseline", "--steps", 2, *words)["process"] == name


def test_a_new_process_with_a_bound_scores_and_evaluates(trained, record):
    words = ("--model", trained("covered"), "--json")
    assert record("score", QUATRAIN, *words)["process"] == "covered"
    assert record("evaluate", POEMS, "--limit", 2, "--levels", 2, *words)["all"]["texts"] == 2


def test_a_new_process_without_a_bound_says_so(trained, capfd):
    for words in (["score", QUATRAIN], ["evaluate", str(POEMS), "--limit", "2"]):
        assert cli.main([*words, "--model", trained("stirred")]) == 2
        assert "stirred" in capfd.readouterr().err


@pytest.mark.slow
def test_a_model_of_images_that_is_trained_on_a_new_process_draws_by_it(trained, run, tmp_path):
    folder = trained("square")
    drawn = load(folder).generate(2, seed=3, label="3")
    assert {(one.process, one.sampler, one.steps) for one in drawn} == {("square", "plain", 4)}
    run("generate", "--model", folder, "-n", 2, "--seed", 3, "--out", tmp_path / "new.png")
    run("fill", "digits:0", "--model", folder, "--mask", "left", "--out", tmp_path / "filled.png")
    assert (tmp_path / "new.png").stat().st_size > 100 and (tmp_path / "filled.png").stat().st_size > 100


def test_a_model_of_images_that_is_trained_on_a_new_process_is_evaluated(trained, record, monkeypatch):
    monkeypatch.setattr(
        image_report.Settings, "quick", lambda self: replace(self, n=10, steps=(2,), repeats=2, epochs=1)
    )
    figures = record("evaluate", "--model", trained("square"), "--quick", "--limit", 60, "--json", "--quiet")
    assert figures["process"] == "square" and figures["conditional"] and "bounds" not in figures
