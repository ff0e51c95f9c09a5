"""Runs that train adapters beside a network that stays as it is, and leave ordinary models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import digest, losses, recipe_file
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from textdiff.cli import main
from textdiff.networks.folder import TextModel
from textdiff.training import run
from textdiff.training.recipe import load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

peft: Any = pytest.importorskip("peft")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_adapters_alone_are_trained_and_end_in_the_matrices(
    optimizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = run.train(load(recipe_file(tmp_path / "start", run={"steps": 1})))
    assert start is not None
    sections: dict[str, Any] = {
        "model": {"config": {}, "init": str(start), "lora": 2},
        "tokenizer": {"kind": "pretrained"},
        "optimizer": {"name": optimizer, "ema": 0.5, "decay": 0.0},
        "run": {"steps": 4, "save_every": 2},
    }
    said: list[str] = []
    whole = load(recipe_file(tmp_path / "whole", **sections))
    folder = run.train(whole, log=said.append)
    assert folder is not None and "M parameters of which 0.00 M are trained" in said[0]

    path = recipe_file(tmp_path / "stopped", **sections)  # and went on
    run.train(load(path, ["run.steps=2"]))
    run.train(load(path), log=said.append)
    assert any("going on from checkpoint-2" in line for line in said)
    assert losses(load(path).folder) == losses(whole.folder)
    for name in ("model", "raw"):
        files = (recipe.folder / name / "model.safetensors" for recipe in (whole, load(path)))
        assert len({digest(file) for file in files}) == 1

    before, after = (load_file(place / "model.safetensors") for place in (start, folder))
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and all("encoder" in name and before[name].ndim == 2 for name in changed)

    network = AutoModelForMaskedLM.from_pretrained(start)
    beside = peft.PeftModel.from_pretrained(network, whole.folder / "adapters").merge_and_unload().state_dict()
    for name, weight in after.items():
        torch.testing.assert_close(beside[name], weight)
    for place in (folder, whole.folder / "checkpoint-4"):
        assert TextModel.from_pretrained(place).processes == ("mask",)
    assert main(["generate", "--model", str(folder), "-n", "1", "--steps", "1", "--quiet"]) == 0
    assert capsys.readouterr().out.strip()
