"""The texts of a recipe: read, split, given a tokenizer, and grouped by length."""

from __future__ import annotations

import tempfile
from collections import Counter
from typing import Any

import torch
import transformers
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import POEM_SPECIALS, character_tokenizer, sentencepiece_tokenizer
from textdiff.training.data import Group, Text, read_texts, split_by_hash
from textdiff.training.network import network, start_of
from textdiff.training.recipe import Recipe, Tokenizer
from textdiff.training.start import start_from_statistics

SPECIALS = tuple(
    token for token in POEM_SPECIALS if token.startswith(("[mask]", "[replacement]", "[uniform]", "[level-"))
)


def read(recipe: Recipe) -> tuple[TextModel, list[Group], list[Group]]:
    """(the network before training, what is learnt from, what is held out)."""
    data = recipe.data
    texts = read_texts(data.train, data.kind, data.limit, recipe.told)
    held = read_texts(data.validation, data.kind, None, recipe.told) if data.validation else []
    if recipe.data.kind == "windows":
        texts, held = _joined(texts), _joined(held)
    if not held and recipe.data.kind == "poems":
        texts, held = split_by_hash(texts, recipe.data.holdout)
    elif not held:  # the end of the text
        cut = int(len(texts[0].text) * (1 - recipe.data.holdout))
        texts, held = [Text(texts[0].text[:cut])], [Text(texts[0].text[cut:])]
    found = start_of(recipe)
    own = found is not None and recipe.tokenizer == Tokenizer("pretrained")
    text_model = network(recipe, found.tokenizer if own and found else _tokenizer(recipe, texts), found)
    train = _groups(text_model, texts, recipe)
    validation = _head(_groups(text_model, held, recipe), recipe.run.eval_texts)
    if recipe.model.init == "statistics":
        start_from_statistics(text_model, train)
    return text_model, train, validation


def _tokenizer(recipe: Recipe, texts: list[Text]) -> Any:
    told = recipe.tokenizer
    if told.kind == "pretrained":
        return transformers.AutoTokenizer.from_pretrained(told.path, trust_remote_code=False)
    specials = POEM_SPECIALS if recipe.data.kind == "poems" else SPECIALS
    if told.kind == "sentencepiece" and told.path:
        return sentencepiece_tokenizer(model=told.path, specials=specials)
    if told.kind == "sentencepiece":
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
            file.writelines(t.text + "\n" for t in texts)
            file.flush()
            return sentencepiece_tokenizer([file.name], vocab_size=told.size, specials=specials)
    counts = Counter(character for t in texts for character in t.text)
    kept = sorted((c for c, k in counts.items() if k >= told.min_count), key=lambda c: (-counts[c], c))
    return character_tokenizer(kept, specials)


def _groups(text_model: TextModel, texts: list[Text], recipe: Recipe) -> list[Group]:
    """Texts by form, or windows of `data.length` tokens."""
    if recipe.data.kind == "windows":
        joined = "".join(t.text for t in texts)
        if recipe.tokenizer.kind == "sentencepiece":
            joined = joined.replace("\n", " ")  # its pieces hold no line breaks
        ids, length = _encode(text_model, [joined], recipe)[0], recipe.data.length
        if len(ids) < length:
            raise AskedError(
                f"the texts for training or validation hold {len(ids)} tokens, less than one window of {length}; "
                f"lower data.length, or give more text"
            )
        rows = ids[: len(ids) // length * length].view(-1, length)
        return [_group(text_model, rows, None)]
    by_form: dict[str, list[Text]] = {}
    for t in texts:
        by_form.setdefault(t.form or "", []).append(t)
    return [
        _group(text_model, _encode(text_model, [t.text for t in rows], recipe), form, **said)
        for form, rows in sorted(by_form.items())
        for said in [{name: [getattr(t, name) for t in rows] for name in recipe.told}]
    ]


def _encode(text_model: TextModel, rows: list[str], recipe: Recipe) -> Tensor:
    """Token ids (N, L).  Where each character is a token, the tokenizer is asked for each different one only."""
    if recipe.tokenizer.kind != "characters":
        return text_model.encode(rows)
    codes = torch.frombuffer(bytearray("".join(rows).encode("utf-32-le")), dtype=torch.int32)
    letters, place = codes.unique(return_inverse=True)
    return text_model.encode([chr(code) for code in letters.tolist()])[:, 0][place].view(len(rows), -1)


def _group(text_model: TextModel, ids: Tensor, form: str | None, **said: list[str | None]) -> Group:
    told = {"form": form} if "form" in text_model.prefix else {}
    condition = text_model.condition(len(ids), **told, **said)
    return Group(ids, condition, torch.ones(ids.shape[1], dtype=torch.bool))


def _head(groups: list[Group], texts: int) -> list[Group]:
    """About `texts` texts, in proportion from each group, at least two of each."""
    total = sum(len(g.ids) for g in groups)
    return [
        Group(g.ids[:k], g.condition[:k], g.free)
        for g in groups
        for k in [max(2, round(len(g.ids) * min(1.0, texts / total)))]
    ]


def _joined(texts: list[Text]) -> list[Text]:
    return [Text("\n".join(t.text for t in texts))] if texts else []
