"""How the tokens of a model read, in each of the forms of `layouts`.  Worked out when it is needed, and kept as long as the model is.

A token whose characters do not stand by themselves is written in no form: a part of a character's bytes, white space where words
bring their own, and where the tokenizer puts spaces between words but not between Chinese characters, the words or the characters,
whichever are fewer.
"""

from __future__ import annotations

import re
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from textdiff.networks.folder import TextModel
from textdiff.pipeline.match.layouts import CHARACTER, CONTINUED, FIRST, FORMS, NEXT, PLAIN, SPACED
from textdiff.shaping.match.automaton import Spelling

WIDE = re.compile(r"[\u3000-\u9fff\uff00-\uffef]")
BROKEN = "\ufffd"  # what a decoder gives for bytes that are no character

_KNOWN: WeakKeyDictionary[TextModel, dict[tuple[frozenset[int], tuple[int, ...]], Spelling]] = WeakKeyDictionary()


def spelling(model: TextModel, forms: frozenset[int], banned: Tensor) -> Spelling:
    """How the tokens of a model read in these forms, without those of `banned` (N,); V is the size of its embedding."""
    known, without = _KNOWN.setdefault(model, {}), tuple(banned.tolist())
    if (forms, without) not in known:
        keep = sorted({*model.content.tolist()} - {*without})
        network = model.model
        size = network.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        tables = []
        for form in FORMS:
            table = [""] * size
            for k, text in zip(keep, _of_form(model, keep, form) if form in forms else (), strict=form in forms):
                table[k] = text
            tables.append(tuple(table))
        known[forms, without] = Spelling(tuple(tables))
    return known[forms, without]


def never(spelt: Spelling, device: torch.device | str) -> Tensor:
    """Which tokens are written in no form, (V,) bool."""
    return torch.tensor([not any(forms) for forms in zip(*spelt.forms, strict=True)], device=device)


def _of_form(model: TextModel, ids: list[int], form: int) -> list[str]:
    """The characters of tokens in a form."""
    names: list[str] = model.tokenizer.convert_ids_to_tokens(ids)
    if form == CHARACTER:
        return [name if len(name) == 1 else "" for name in names]
    kinds = [_kind(name) for name in names]
    if form in (FIRST, NEXT):
        firsts = _decoded(model, [[k] for k in ids])
        if form == NEXT:
            return _behind(model, ids, kinds, firsts)
        return [text if kind != CONTINUED else "" for kind, text in zip(kinds, firsts, strict=True)]
    words = any(kind != PLAIN for kind in kinds)
    result = []
    for name, kind in zip(names, kinds, strict=True):
        text = (
            "" if kind != form else name[2:] if kind == CONTINUED else model.tokenizer.convert_tokens_to_string([name])
        )
        text = text.lstrip() if kind == SPACED else text
        result.append("" if BROKEN in text or (words and text != text.strip()) else text)
    return result


def _kind(name: str) -> int:
    """What a token is in a hole, by its name."""
    if name.startswith("##") and len(name) > 2:
        return CONTINUED
    return SPACED if name[:1] in ("Ġ", "▁") else PLAIN


def _behind(model: TextModel, ids: list[int], kinds: list[int], firsts: list[str]) -> list[str]:
    """The characters of each token behind another one."""
    wide = [bool(WIDE.match(text)) for text in firsts]
    most = 2 * sum(wide) > len(wide)
    usual = [(k, text) for k, text, one in zip(ids, firsts, wide, strict=True) if one == most and text.strip()]
    if not usual:
        return [""] * len(ids)
    (anchor, before), *_ = usual
    both = _decoded(model, [[anchor, k] for k in ids])
    (mixed,) = _decoded(model, [[anchor, next((k for k, one in zip(ids, wide, strict=True) if one != most), anchor)]])
    spaces = " " in mixed.removeprefix(before)
    result = []
    for text, one, kind in zip(both, wide, kinds, strict=True):
        alone = text.startswith(before) and (one == most or kind == CONTINUED or not spaces)
        result.append(text[len(before) :] if alone else "")
    return result


def _decoded(model: TextModel, rows: list[list[int]]) -> list[str]:
    """Rows of tokens as the model reads them; "" where some of it is no character."""
    texts = model.decode(torch.tensor(rows, dtype=torch.long).view(len(rows), -1))
    return ["" if BROKEN in text else text for text in texts]
