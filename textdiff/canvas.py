"""Text with holes as token ids, and ids as text again.

A hole is `□`, `_`, `[MASK]` or the tokenizer's own mask token; one hole is one token.  A poem's tokens are the form's
characters alone: punctuation and line breaks belong to the form, are taken off on the way in and put back on the way out.
A sentence keeps what stands around its holes letter by letter, whatever the tokenizer makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textdiff.predictors.folder import TextModel
from textdiff.predictors.masked_lm import HEADS
from textdiff.tokenization import frame
from textdiff.verse import FORMS, Form, guess_form, split_at_punctuation

HOLE = "□"


@dataclass(frozen=True, eq=False)
class Canvas:
    """One text: the tokens that stand, where one may write, and how ids read as text."""

    ids: Tensor  # (L,), the mask's id where there is a hole
    free: Tensor  # (L,) bool
    form: Form | None
    write: Callable[[list[int]], str]  # ids of length L -> text
    unknown: int = 0  # free tokens that are the unknown one (scoring)

    @property
    def shape(self) -> tuple[int, int, Form | None]:
        """Texts of one shape walk the same levels, and so can share a batch."""
        return len(self.ids), int(self.free.sum()), self.form

    def text(self, ids: Tensor) -> str:
        """The text with ids (L,) at the free positions, □ where they are the mask."""
        return self.write(torch.where(self.free, ids, self.ids).tolist())


def blank(model: TextModel, form: Form) -> Canvas:
    """A poem with every character open."""
    return _poem(HOLE * form.length, model, form)


def window(model: TextModel, length: int) -> Canvas:
    """`length` open tokens of running text."""
    ids = torch.full((length,), model.mask_id)
    _check_length(ids, model)

    def write(ids: list[int]) -> str:
        return model.decode(torch.tensor([ids]))[0].replace(model.tokenizer.mask_token, HOLE)

    return Canvas(ids, torch.ones_like(ids, dtype=torch.bool), None, write)


def holed(text: str, model: TextModel, form: Form | None = None, *, verse: bool = True) -> Canvas:
    """A text to fill in.  Without a `form` the text's shape decides (`verse`), or it is a sentence.

    Whole lines that are too few for a poem are the opening of the shortest form of that width; the lines that follow are
    open as well, and not shown.
    """
    marked = _mark(text, model)
    if not marked.strip():
        raise ValueError("text is empty; pass a poem or a sentence with '_' for each token to be filled in")
    if HOLE not in marked:
        raise ValueError(
            f"text {shorten(text)!r} has no hole; write '_', '□' or '[MASK]' for each token to be filled in"
        )
    if form is None and not verse:
        return _sentence(marked, model)
    form = form or guess_form(marked)
    return _opening(marked, model) if form is None else _poem(marked, model, form)


def whole(text: str, model: TextModel, form: Form | None = None, *, verse: bool = True) -> Canvas:
    """A text to score: every character free.  One outside the vocabulary is the unknown token."""
    if not text.strip():
        raise ValueError("text is empty; pass a poem or a sentence")
    if form is None and not verse:
        return _score_sentence(text, model)
    if HOLE in (marked := _mark(text, model)):
        raise ValueError(_HAS_HOLE.format(shorten(text)))
    form = form or guess_form(marked)
    if form is None:
        raise _no_form(text, "")
    return _poem(marked, model, form, score=True)


def shorten(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


_HAS_HOLE = "text {!r} has a hole, and only whole texts have a likelihood; fill it first"


def _mark(text: str, model: TextModel) -> str:
    signs = {"[MASK]", "_", model.tokenizer.mask_token or "_"}
    return re.sub("|".join(map(re.escape, sorted(signs, key=len, reverse=True))), HOLE, text)


def _poem(marked: str, model: TextModel, form: Form, *, score: bool = False) -> Canvas:
    """A whole poem of `form`, one character a token."""
    lines = form.split(marked)
    ids = torch.tensor([token for k, line in enumerate(lines) for token in _characters(line, k, model, score)])
    free = torch.ones_like(ids, dtype=torch.bool) if score else ids == model.mask_id
    _check_length(ids, model)

    def write(ids: list[int]) -> str:
        return form.layout(lines if score else "".join(_tokens(ids, model)))

    return Canvas(ids, free, form, write, _unknown(ids, model))


def _characters(line: str, number: int, model: TextModel, score: bool) -> list[int]:
    """The token of each character of a line."""
    unknown = model.unk_id
    ids = model.tokenizer.convert_tokens_to_ids(list(line.replace(HOLE, "\0")))
    ids = [model.mask_id if c == HOLE else unknown if k is None else k for c, k in zip(line, ids, strict=True)]
    for place, (character, k) in enumerate(zip(line, ids, strict=True)):
        if k is None or (k == unknown and not score):
            raise _outside(character, f"line {number + 1}, character {place + 1}")
    return ids


def _opening(marked: str, model: TextModel) -> Canvas:
    """The first lines of the shortest form of their width."""
    pieces = split_at_punctuation(marked)
    characters = "".join(pieces)
    for form in FORMS.values():
        if 0 < len(characters) < form.length and not any(len(piece) % form.width for piece in pieces):
            poem = _poem(characters.ljust(form.length, HOLE), model, form)
            places = [k for k, character in enumerate(characters) if character == HOLE]
            signs = [hole.span() for hole in re.finditer(HOLE, marked)]
            spans = [(*span, k) for span, k in zip(signs, places, strict=True)]
            return Canvas(poem.ids, poem.free, form, _filled(marked, spans, model))
    raise _no_form(marked, ", or fewer whole lines of one width")


def _sentence(marked: str, model: TextModel) -> Canvas:
    """A sentence as the tokenizer cuts it."""
    mask = model.tokenizer.mask_token
    told = marked.replace(HOLE, mask)
    encoding = model.tokenizer(told, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = torch.tensor(encoding["input_ids"]), encoding["offset_mapping"]
    for token, (begin, stop) in zip(ids.tolist(), spans, strict=True):
        if token == model.unk_id:
            raise _outside(told[begin:stop], f"character {len(told[:begin].replace(mask, HOLE)) + 1}")
    _check_length(ids, model)
    holes = ids == model.mask_id
    return Canvas(ids, holes, None, _filled(told, [(*spans[k], k) for k in holes.nonzero()[:, 0].tolist()], model))


def _score_sentence(text: str, model: TextModel) -> Canvas:
    ids = torch.tensor(model.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    if (ids == model.mask_id).any():
        raise ValueError(_HAS_HOLE.format(shorten(text)))
    if not len(ids):
        raise ValueError(f"text {shorten(text)!r} has no token; pass a poem or a sentence")
    _check_length(ids, model)
    return Canvas(ids, torch.ones_like(ids, dtype=torch.bool), None, lambda ids: text, _unknown(ids, model))


def _filled(text: str, spans: Sequence[tuple[int, int, int]], model: TextModel) -> Callable[[list[int]], str]:
    """Writes tokens into `text`: (begin, end, position of the token among the ids), in order."""

    def write(ids: list[int]) -> str:
        result, done = "", 0
        for begin, stop, position in spans:
            result += text[done:begin]
            (token,) = _tokens([ids[position]], model)
            piece = HOLE if token == HOLE else model.tokenizer.convert_tokens_to_string([token])
            if token.startswith("##") and len(token) > 2:  # the rest of a word
                result, piece = result.rstrip(), token[2:]
            elif token[0] in "Ġ▁" and result and not result[-1].isspace():  # the tokenizer's mask took the space
                piece = " " + piece.lstrip()
            elif token[0] in "Ġ▁":
                piece = piece.lstrip()
            elif token == HOLE and text[begin].isspace():
                piece = " " + piece
            result, done = result + piece, stop
        return result + text[done:]

    return write


def _tokens(ids: list[int], model: TextModel) -> list[str]:
    names = model.tokenizer.convert_ids_to_tokens(ids)
    return [HOLE if k == model.mask_id else name for k, name in zip(ids, names, strict=True)]


def _unknown(ids: Tensor, model: TextModel) -> int:
    return 0 if model.unk_id is None else int((ids == model.unk_id).sum())


def _check_length(ids: Tensor, model: TextModel) -> None:
    config: Any = model.model.config
    places = getattr(config, "max_position_embeddings", model.tokenizer.model_max_length)
    places -= model.pad_id + 1 if HEADS[config.model_type].first == "padding" else 0
    around = len(model.prefix) + sum(map(len, frame(model.tokenizer)))
    limit = min(places, model.tokenizer.model_max_length) - around
    if len(ids) > limit:
        raise ValueError(f"text has {len(ids)} tokens, but the model takes {limit}; pass shorter pieces")


def _outside(character: str, place: str) -> ValueError:
    return ValueError(
        f"{character!r} ({place}) is outside the model's vocabulary; write another character, or '_' to leave it open"
    )


def _no_form(text: str, more: str) -> ValueError:
    size = sum(map(len, split_at_punctuation(text)))
    expected = ", ".join(f"{form.length} ({form.chinese})" for form in FORMS.values())
    return ValueError(f"text {shorten(text)!r} has {size} characters; expected {expected}{more}")
