"""The texts of a recipe: read, split, given a tokenizer, tokenised, and grouped by length.

Whatever is held at once is a piece: the text itself goes from file to file (prepared.py, rows.py).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from textdiff.data import prepared
from textdiff.data.rows import Rows
from textdiff.networks.folder import TextModel
from textdiff.training.data import Group
from textdiff.training.recipe import Recipe
from textdiff.training.start import start_from_statistics
from textdiff.training.texts.network import network, start_of, tokenizer_of
from textdiff.training.texts.preparation import Preparation


def read(recipe: Recipe) -> tuple[TextModel, list[Group], list[Group]]:
    """(the network before training, what is learnt from, what is held out)."""
    found = start_of(recipe)
    data = prepared.get(_key(recipe, found), Preparation(recipe, found).make, keep=_large(recipe))
    text_model = network(recipe, tokenizer_of(recipe, found, data.about["tokenizer"]), found)
    train = [_group(text_model, data, told) for told in data.about["train"]]
    validation = _head([_group(text_model, data, told) for told in data.about["validation"]], recipe.run.eval_texts)
    if recipe.model.init == "statistics":
        start_from_statistics(text_model, train)
    return text_model, train, validation


def _sources(recipe: Recipe) -> list[Path]:
    return [Path(path) for path in (recipe.data.train, recipe.data.validation) if path]


def _large(recipe: Recipe) -> bool:
    """Whether to keep what is made: of files alone, since the key does not know what else a source holds."""
    files = [path for path in _sources(recipe) if path.is_file()]
    return len(files) == len(_sources(recipe)) and sum(path.stat().st_size for path in files) >= prepared.KEPT


def _key(recipe: Recipe, found: TextModel | None) -> str:
    """What decides the files of ids."""
    data, contents = recipe.data, []
    for path in _sources(recipe):
        if path.is_file():
            with path.open("rb") as file:
                contents.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    settings = [data.kind, data.length, data.holdout, data.limit, recipe.told]
    speech: list[Any] = [vars(recipe.tokenizer)]
    for tokenizer, told in [(found.tokenizer, found.told)] if found else []:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        speech += [backend.to_str() if backend else sorted(tokenizer.get_vocab().items()), told, found and found.prefix]
    if recipe.tokenizer.path:
        path = Path(recipe.tokenizer.path).expanduser()
        files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file() and "token" in p.name)
        speech += [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    return prepared.key_of(contents, settings, speech)


def _group(text_model: TextModel, data: prepared.Prepared, told: dict[str, Any]) -> Group:
    """The rows of one file, as `Writer` (preparation.py) describes them."""
    shape = told["rows"], told["length"]
    form = {"form": told["form"]} if "form" in text_model.prefix else {}
    condition: Any = text_model.condition(1, **form).expand(shape[0], -1)
    if "told" in told:
        condition = Rows(data.files[told["told"]], told["kind"], (shape[0], len(text_model.prefix)))
    free = torch.ones(told["length"], dtype=torch.bool)
    return Group(Rows(data.files[told["ids"]], told["kind"], shape), condition, free)


def _head(groups: list[Group], texts: int) -> list[Group]:
    """About `texts` texts, in proportion from each group, at least two of each."""
    total = sum(len(g.ids) for g in groups)
    return [
        Group(g.ids[:k], g.condition[:k], g.free)
        for g in groups
        for k in [max(2, round(len(g.ids) * min(1.0, texts / total)))]
    ]
