"""What the tests of training share: recipes for networks of two thin layers, micro-batches, runs in processes of their own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml

from textdiff.networks.folder import TextModel
from textdiff.training.data import Group, MicroBatches, unsaid
from textdiff.training.loss import corrupted
from textdiff.training.recipe import load

ROOT = Path(__file__).parents[2]
POEMS = ROOT / "data" / "poems.jsonl"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PROSE = "the quick brown fox\n\n  jumps over, the lazy dog.\n" * 40


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


def micro_batches(texts: int, length: int, model: TextModel | None = None, **changes: Any) -> MicroBatches:
    """Batches of texts that are all different: text k begins with token k."""
    model = model or tiny.poem_model()
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
        "processes": {name: model.process(name) for name in ("mask", "replacement") if name in model.processes},
        "shares": {"mask": 1.0},
        "batch": 28,
        "pieces": 1,
        "steps": 10,
        "seed": 3,
        "prefix": model.prefix,
        "pad": model.pad_id,
    }
    return MicroBatches(**made | changes)


def one_step(denoiser: torch.nn.Module, batches: MicroBatches) -> tuple[float, torch.Tensor]:
    """(the loss, its gradient as one vector) of the first optimiser step, whose pieces are added up."""
    denoiser.zero_grad()
    loss = torch.zeros(())
    for index in range(batches.pieces):
        piece = denoiser(**batches[index])
        piece.backward()
        loss = loss + piece.detach()
    return loss.item(), torch.cat([p.grad.flatten() for p in denoiser.parameters() if p.grad is not None])


def assert_same_step(one: tuple[float, torch.Tensor], other: tuple[float, torch.Tensor]) -> None:
    """But for rounding."""
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert (one[1] - other[1]).norm() < 1e-5 * one[1].norm()


def counts(batch: dict[str, Any]) -> torch.Tensor:
    return (batch["t"][:, 0] * batch["t"].shape[1]).round().long()


def x_t_of(batches: MicroBatches, index: int) -> torch.Tensor:
    """What the loss makes of a micro-batch."""
    one = batches[index]
    return corrupted(batches.processes[one["process"]], one["x0"], one["t"], one["seeds"])


def windows_recipe(folder: Path, *overrides: str) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prose.txt").write_text(PROSE, encoding="utf-8")
    path = recipe_file(
        folder, data={"train": str(folder / "prose.txt"), "kind": "windows", "length": 24, "limit": None}
    )
    return load(path, list(overrides))


LONG = {"steps": 20, "save_every": 4, "log_every": 2, "eval_every": 1000, "batch": 16}
