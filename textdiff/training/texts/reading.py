"""The texts of a recipe: read, split, given a tokenizer, tokenised, and grouped by length.

One piece at a time is in memory: the text itself goes from file to file (prepared.py, rows.py).
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import torch

from textdiff.core.errors import RecipeError
from textdiff.data import prepared
from textdiff.data.rows import Rows
from textdiff.data.tables import is_folder
from textdiff.networks.folder import TextModel
from textdiff.training.data import Examples, Group
from textdiff.training.packaged import data as located
from textdiff.training.sections import Recipe
from textdiff.training.texts.adapters import adapt
from textdiff.training.texts.network import network, specials_of, start_of, tokenizer_of
from textdiff.training.texts.preparation import Preparation
from textdiff.training.texts.start import start_from_statistics
from textdiff.training.trainer import Log, silent


def read(recipe: Recipe, log: Log = silent) -> Examples:
    """The network before training, and the rows of token ids that it learns from and is evaluated on."""
    start = start_of(recipe)
    data = prepared.get(_key(recipe, start), Preparation(recipe, start, log).make, keep=_large(recipe), log=log)
    text_model = network(recipe, tokenizer_of(recipe, start, data.about["tokenizer"]), start)
    _check_unknown(recipe, data.about["unknown"], log)
    train = [_group(text_model, data, table) for table in data.about["train"]]
    validation = _head([_group(text_model, data, table) for table in data.about["validation"]], recipe.run.eval_texts)
    if recipe.model.init == "statistics":
        start_from_statistics(text_model, train)
    if recipe.model.lora is not None:
        adapt(text_model.model, recipe.model.lora, recipe.run.seed, recipe.model.pretrained or recipe.model.init)
    return Examples(text_model, train, validation, data.about["unknown"])


def _check_unknown(recipe: Recipe, share: float, log: Log) -> None:
    """Say how much of the texts the tokenizer does not know; RecipeError where it is more than the recipe allows."""
    if share > recipe.data.unknown:
        raise RecipeError(
            f"the tokenizer does not know {share:.0%} of the tokens of {recipe.data.train!r}; take a model of the language "
            f"of the texts, or tokenizer.kind=characters, or allow it with data.unknown={math.ceil(100 * share) / 100:g}"
        )
    if share >= 0.001:
        log(f"the tokenizer does not know {share:.1%} of the tokens")


def _sources(recipe: Recipe) -> list[Path]:
    return [located(path) for path in (recipe.data.train, recipe.data.validation) if path]


def _files(source: Path) -> list[Path]:
    """The files of a source; none of a data set of the hub."""
    if source.is_dir():
        if not is_folder(source):  # which may be someone's home, and is not read through
            raise RecipeError(f"{str(source)!r} is a folder that `datasets` did not save; name a file of texts")
        return sorted(p for p in source.rglob("*") if p.is_file())
    return [source] if source.is_file() else []


def _large(recipe: Recipe) -> bool:
    """Whether the files of ids are worth keeping; what the hub has may change under the same name, and is read anew."""
    files = [_files(source) for source in _sources(recipe)]
    return all(files) and sum(path.stat().st_size for some in files for path in some) >= prepared.WORTHWHILE


def _key(recipe: Recipe, start: TextModel | None) -> str:
    """What decides the files of ids."""
    data, contents = recipe.data, []
    for source in _sources(recipe):
        for path in _files(source):
            with path.open("rb") as file:
                contents.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    settings = [data.kind, data.length, data.holdout, data.limit, data.column, recipe.conditioned]
    speech: list[Any] = [vars(recipe.tokenizer), specials_of(recipe)]
    for tokenizer, slots in [(start.tokenizer, start.told)] if start else []:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        speech += [
            backend.to_str() if backend else sorted(tokenizer.get_vocab().items()),
            slots,
            start and start.prefix,
        ]
    if recipe.tokenizer.path:
        path = Path(os.path.expanduser(recipe.tokenizer.path))
        files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file() and "token" in p.name)
        speech += [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    return prepared.key_of(contents, settings, speech)


def _group(text_model: TextModel, data: prepared.Prepared, table: dict[str, Any]) -> Group:
    """The rows of one file, as `Writer` (preparation.py) describes them."""
    shape = table["rows"], table["length"]
    form = {"form": table["form"]} if "form" in text_model.prefix else {}
    condition: Any = text_model.condition(1, **form).expand(shape[0], -1)
    if "prefixes" in table:
        condition = Rows(data.files[table["prefixes"]], table["kind"], (shape[0], len(text_model.prefix)))
    free = torch.ones(table["length"], dtype=torch.bool)
    return Group(Rows(data.files[table["ids"]], table["kind"], shape), condition, free)


def _head(groups: list[Group], texts: int) -> list[Group]:
    """About `texts` texts, in proportion from each group, at least two of each."""
    total = sum(len(g.ids) for g in groups)
    return [
        Group(g.ids[:k], g.condition[:k], g.free)
        for g in groups
        for k in [max(2, round(len(g.ids) * min(1.0, texts / total)))]
    ]
