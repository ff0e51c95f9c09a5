"""Text with holes as token ids, and ids as text again.

A hole is `□`, `_`, `[MASK]` or the tokenizer's own mask token; one hole is one token.  A poem's tokens are the form's
characters alone: punctuation and line breaks belong to the form, are taken off on the way in and put back on the way out.
A sentence keeps what stands around its holes letter by letter, whatever the tokenizer makes of it.

Whatever is given is printed as it was written: a traditional character that the vocabulary lacks is read in its simplified
form, and comes out as it went in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.networks.folder import TextModel
from textdiff.networks.masked_lm import HEADS
from textdiff.networks.tokenization import frame
from textdiff.verse import script
from textdiff.verse.forms import FORMS, HOLE, Form, guess_form, split_at_punctuation

Pieces = list[tuple[str, str | None]]  # of a text: as the tokens read, and as it was written where it was given


@dataclass(frozen=True, eq=False)
class Canvas:
    """One text: the tokens that stand, where one may write, and how ids read as text.

    `hidden` positions are not shown, are [MASK] to the network and are not written: given an exact predictor of the mask
    process, what is drawn elsewhere follows its law with all that stands there unknown.
    """

    ids: Tensor  # (L,), the mask's id where there is a hole
    free: Tensor  # (L,) bool
    form: Form | None
    write: Callable[[list[int]], Pieces]  # ids of length L -> text
    unknown: int = 0  # free tokens that are the unknown one (scoring)
    hidden: Tensor | None = None  # (L,) bool
    allowed: Tensor | None = None  # (L, V) bool, the tokens that a free position may take; a form has always the same
    convert: Callable[[str], str] | None = None  # from the script of the model to that of the reader

    @property
    def shape(self) -> tuple[int, int, Form | None]:
        """Texts of one shape walk the same levels, and so can share a batch."""
        return len(self.ids), int(self.free.sum()), self.form

    def text(self, ids: Tensor) -> str:
        """The text with ids (L,) at the free positions, □ where they are the mask."""
        pieces = self.write(torch.where(self.free, ids, self.ids).tolist())
        if self.convert is None:
            return "".join(drawn if given is None else given for drawn, given in pieces)
        converted, done = self.convert("".join(drawn for drawn, _ in pieces)), 0  # all of it, as words decide
        result = ""
        for drawn, given in pieces:
            result += converted[done : done + len(drawn)] if given is None else given
            done += len(drawn)
        return result

    def read(self, ids: Tensor) -> str:
        """The same in the model's own characters, what was given too."""
        return "".join(drawn for drawn, _ in self.write(torch.where(self.free, ids, self.ids).tolist()))

    def under(self, process: str) -> Canvas:
        """This canvas for `process`: what is no mask process cannot leave positions unknown, and writes the hidden ones."""
        if self.hidden is None or process == "mask":
            return self
        return replace(self, free=self.free | self.hidden, hidden=None)


def blank(model: TextModel, form: Form) -> Canvas:
    """A poem with every character open."""
    _check_form(form, model)
    if form.plain:
        return _lines("\n".join([HOLE * form.width] * form.lines), model, form)
    return _poem(HOLE * form.length, model, form)


def in_script(canvas: Canvas, name: str | None) -> Canvas:
    """The canvas that prints in `name`, simplified or traditional characters; what was given stays as it was written."""
    return canvas if name is None else replace(canvas, convert=script.converter(name))


def acrostic(
    form: Form,
    first: str | None = None,
    last: str | None = None,
    diagonal: str | None = None,
    text: str | None = None,
) -> str:
    """A text of `form` to fill in, with given characters first or last in its lines, or k-th in the k-th line.

    One character a line (for the diagonal, as many as there are), `_` or □ where a line is left free.  `text` has what
    else is given and holes for the rest; of a couplet it may be the upper line alone.
    """
    lines = [HOLE * form.width] * form.lines if text is None else _split(text.replace("[MASK]", HOLE), form)
    board = [list(line) for line in lines]
    told: dict[tuple[int, int], str] = {}
    for name, characters, columns in (
        ("acrostic", first, [0] * form.lines),
        ("acrostic_end", last, [-1] * form.lines),
        ("acrostic_diagonal", diagonal, range(min(form.lines, form.width))),
    ):
        if characters is None:
            continue
        characters = characters if form.plain else "".join(split_at_punctuation(characters))
        if len(characters) != len(columns):
            places = f"{form.lines} lines" if name != "acrostic_diagonal" else f"a diagonal of {len(columns)}"
            raise AskedError(
                f"{name} has {len(characters)} characters, but form {form.name!r} has {places}; pass one character for "
                f"each, or '_' to leave it free"
            )
        for line, (column, character) in enumerate(zip(columns, characters, strict=True)):
            if character in (HOLE, "_"):
                continue
            place = column % len(board[line])
            if board[line][place] not in (HOLE, "_", character):
                raise AskedError(
                    f"line {line + 1}, character {place + 1} is {board[line][place]!r} by {told.get((line, place), 'template')} "
                    f"and {character!r} by {name}; give one character there, or '_' in one of them"
                )
            board[line][place], told[line, place] = character, name
    return "\n".join(map("".join, board))


def window(model: TextModel, length: int) -> Canvas:
    """`length` open tokens of running text."""
    ids = torch.full((length,), model.mask_id)
    _check_length(ids, model)

    return Canvas(ids, torch.ones_like(ids, dtype=torch.bool), None, lambda ids: _decoded(ids, model))


def holed(text: str, model: TextModel, form: Form | None = None, *, verse: bool = True) -> Canvas:
    """A text to fill in.  Without a `form` the text's shape decides (`verse`), or it is a sentence.

    Whole lines that are too few for a poem are the opening of the shortest form of that width; the lines that follow are
    open as well, and not shown.  A couplet's upper line alone asks for the lower one.
    """
    marked = _mark(text, model)
    if form is not None:
        _check_form(form, model)
        marked = "\n".join(_split(marked, form))
    if not marked.strip():
        raise AskedError("text is empty; pass a poem or a sentence with '_' for each token to be filled in")
    if HOLE not in marked:
        raise AskedError(
            f"text {shorten(text)!r} has no hole; write '_', '□' or '[MASK]' for each token to be filled in"
        )
    if form is None and not verse:
        return _sentence(marked, model)
    if form is not None and form.plain:
        return _lines(marked, model, form)
    form = form or guess_form(marked)
    return _opening(marked, model) if form is None else _poem(marked, model, form)


def whole(text: str, model: TextModel, form: Form | None = None, *, verse: bool = True) -> Canvas:
    """A text to score: every character free.  One outside the vocabulary is the unknown token."""
    if not text.strip():
        raise AskedError("text is empty; pass a poem or a sentence")
    if form is None and not verse:
        return _score_sentence(text, model)
    if form is not None:
        _check_form(form, model)
        if form.plain:
            raise AskedError(f"form {form.name!r} tells how to write a text, not how to score one; leave it out")
    if HOLE in (marked := _mark(text, model)):
        raise AskedError(_HAS_HOLE.format(shorten(text)))
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


def spelled(text: str, model: TextModel) -> str:
    """The text with characters that the vocabulary lacks in simplified form, where it has that and OpenCC is installed."""
    lacking = {c for c in set(script.HAN.findall(text)) if not _known(c, model)}
    if not lacking or not script.available():
        return text
    simple = script.simplified(text)
    return "".join(new if c in lacking and _known(new, model) else c for c, new in zip(text, simple, strict=True))


def _known(character: str, model: TextModel) -> bool:
    return model.tokenizer.convert_tokens_to_ids(character) not in (None, model.unk_id)


def _check_form(form: Form, model: TextModel) -> None:
    """Raise ValueError for a form that the model cannot be told."""
    if "form" not in model.prefix or form in FORMS.values() or form.host is not None:
        return
    known = ", ".join(f.name for f in FORMS.values())
    raise AskedError(
        f"form {form.name!r} is none that model {model.name} knows; pass {known}, couplet:5 or couplet:7, "
        f"or a model without forms"
    )


def _split(text: str, form: Form) -> list[str]:
    """The lines of a text of `form`; a couplet's upper line alone is followed by an open one."""
    if form.plain:
        lines = text.strip("\r\n").splitlines()
        if len(lines) != form.lines or not all(lines):
            raise AskedError(
                f"text has {len([line for line in lines if line])} lines, but form {form.name!r} has {form.lines} "
                f"and none is empty; got {shorten(text)!r}"
            )
        return lines
    if form.name.startswith("couplet:") and len("".join(split_at_punctuation(text))) == form.width:
        text += "\n" + HOLE * form.width
    return form.split(text)


def _poem(marked: str, model: TextModel, form: Form, *, score: bool = False) -> Canvas:
    """A whole poem of `form`, one character a token.

    A part of another form stands where it belongs, and the rest of that form is hidden, if the model knows forms.
    """
    lines = form.split(marked)
    read = spelled("\n".join(lines), model).split("\n")
    ids = torch.tensor([token for k, line in enumerate(read) for token in _characters(line, k, model, score)])
    given = [c if score or c != HOLE else None for line in lines for c in line]
    free = torch.ones_like(ids, dtype=torch.bool) if score else ids == model.mask_id
    hidden, shown = None, slice(None)
    if form.host is not None and "form" in model.prefix:
        first = form.offset * form.width
        shown = slice(first, first + form.length)
        hidden = torch.ones(form.host.length, dtype=torch.bool)
        hidden[shown] = False
        ids = torch.full((form.host.length,), model.mask_id).masked_scatter(~hidden, ids)
        free = torch.zeros_like(hidden).masked_scatter(~hidden, free)
    _check_length(ids, model)

    def write(ids: list[int]) -> Pieces:
        printed = form.layout(read if score else "".join(_tokens(ids[shown], model)))
        told = iter(given)
        return [(c, next(told) if split_at_punctuation(c) else None) for c in printed]

    return Canvas(ids, free, form, write, _unknown(ids, model), hidden)


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
            return Canvas(poem.ids, poem.free, form, _filled(spelled(marked, model), marked, spans, model))
    raise _no_form(marked, ", or fewer whole lines of one width")


def _lines(marked: str, model: TextModel, form: Form) -> Canvas:
    """Lines of running text, `form.width` tokens each.

    Where the vocabulary has a line break, one stands before the first line (not shown) and after each, and none is drawn
    inside.  Elsewhere the lines follow each other.  If such a vocabulary tells where words begin, each line begins with one
    (for certain under the mask process alone), and a hole takes in the space before it, as its token may bring its own.
    """
    names = model.tokenizer.convert_ids_to_tokens(range(len(model.tokenizer)))
    content = [(k, names[k]) for k in model.content.tolist()]
    breaks = [k for k, name in content if name == "\n"]
    words = [k for k, name in content if name[0] in "Ġ▁"]
    ids, starts = list(breaks), []
    parts: list[Callable[[list[int]], Pieces]] = []
    for number, line in enumerate(marked.split("\n")):
        if words and not breaks:
            line = re.sub(f"^(?!{HOLE}| )", " ", re.sub(f" +(?={HOLE})", "", line))
        tokens, write_line = _line(line, len(ids), model, f"line {number + 1}")
        if len(tokens) != form.width:
            raise AskedError(
                f"line {number + 1} has {len(tokens)} tokens, but form {form.name!r} has lines of {form.width}; "
                f"one hole ('_') is one token"
            )
        starts.append(len(ids))
        parts.append(write_line)
        ids += tokens + breaks
    row = torch.tensor(ids)
    _check_length(row, model)
    network: Any = model.model
    allowed = torch.ones(len(row), network.get_input_embeddings().weight.shape[0], dtype=torch.bool)
    allowed[:, breaks] = False
    if words and not breaks:
        allowed[starts] = torch.zeros_like(allowed[0]).index_fill(0, torch.tensor(words), True)

    def write(ids: list[int]) -> Pieces:
        lines = [part(ids) if breaks else _without_space(part(ids), at_start=True) for part in parts]
        return [piece for k, line in enumerate(lines) for piece in [("\n", None)] * (k > 0) + line]

    return Canvas(row, row == model.mask_id, form, write, allowed=allowed)


def _line(line: str, start: int, model: TextModel, place: str) -> tuple[list[int], Callable[[list[int]], Pieces]]:
    """The tokens of one line with holes, and how it reads; its first token is number `start` of the text."""
    mask = model.tokenizer.mask_token
    told = spelled(line, model).replace(HOLE, mask)
    encoding = model.tokenizer(told, add_special_tokens=False, return_offsets_mapping=True)
    tokens = encoding["input_ids"]
    spans = [(*span, start + k) for k, span in enumerate(encoding["offset_mapping"])]
    for token, (begin, stop, _) in zip(tokens, spans, strict=True):
        if token == model.unk_id:
            raise _outside(told[begin:stop].strip(), place)
    if set(line) == {HOLE}:  # a tokenizer knows best how its tokens go together
        return tokens, lambda ids: _decoded(ids[start : start + len(tokens)], model)
    holes = [span for span, token in zip(spans, tokens, strict=True) if token == model.mask_id]
    return tokens, _filled(told, line.replace(HOLE, mask), holes, model)


def _decoded(ids: list[int], model: TextModel) -> Pieces:
    return [(model.decode(torch.tensor([ids]))[0].replace(model.tokenizer.mask_token, HOLE), None)]


def _sentence(marked: str, model: TextModel) -> Canvas:
    """A sentence as the tokenizer cuts it."""
    mask = model.tokenizer.mask_token
    told = spelled(marked, model).replace(HOLE, mask)
    encoding = model.tokenizer(told, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = torch.tensor(encoding["input_ids"]), encoding["offset_mapping"]
    for token, (begin, stop) in zip(ids.tolist(), spans, strict=True):
        if token == model.unk_id:
            raise _outside(told[begin:stop], f"character {len(told[:begin].replace(mask, HOLE)) + 1}")
    _check_length(ids, model)
    holes = ids == model.mask_id
    places = [(*spans[k], k) for k in holes.nonzero()[:, 0].tolist()]
    return Canvas(ids, holes, None, _filled(told, marked.replace(HOLE, mask), places, model))


def _score_sentence(text: str, model: TextModel) -> Canvas:
    ids = torch.tensor(model.tokenizer(spelled(text, model), add_special_tokens=False)["input_ids"], dtype=torch.long)
    if (ids == model.mask_id).any():
        raise AskedError(_HAS_HOLE.format(shorten(text)))
    if not len(ids):
        raise AskedError(f"text {shorten(text)!r} has no token; pass a poem or a sentence")
    _check_length(ids, model)
    return Canvas(ids, torch.ones_like(ids, dtype=torch.bool), None, lambda ids: [(text, text)], _unknown(ids, model))


def _filled(
    text: str, given: str, spans: Sequence[tuple[int, int, int]], model: TextModel
) -> Callable[[list[int]], Pieces]:
    """Writes tokens into `text`, which was written as `given`: (begin, end, position of the token among the ids), in order."""

    def write(ids: list[int]) -> Pieces:
        pieces: Pieces = []
        before, done = "", 0  # what has been read so far
        for begin, stop, position in spans:
            pieces.append((text[done:begin], given[done:begin]))
            before += text[done:begin]
            (token,) = _tokens([ids[position]], model)
            piece = HOLE if token == HOLE else model.tokenizer.convert_tokens_to_string([token])
            if token.startswith("##") and len(token) > 2:  # the rest of a word
                pieces, before, piece = _without_space(pieces), before.rstrip(), token[2:]
            elif token[0] in "Ġ▁" and before and not before[-1].isspace():  # the tokenizer's mask took the space
                piece = " " + piece.lstrip()
            elif token[0] in "Ġ▁":
                piece = piece.lstrip()
            elif token == HOLE and text[begin].isspace():
                piece = " " + piece
            pieces.append((piece, None))
            before, done = before + piece, stop
        return [*pieces, (text[done:], given[done:])]

    return write


def _without_space(pieces: Pieces, *, at_start: bool = False) -> Pieces:
    """The pieces of a text without the white space at its end, or its start."""
    edge = 0 if at_start else -1
    strip = str.lstrip if at_start else str.rstrip
    pieces = list(pieces)
    while pieces and not pieces[edge][0].strip():
        del pieces[edge]
    if pieces:
        drawn, given = pieces[edge]
        pieces[edge] = strip(drawn), None if given is None else strip(given)
    return pieces


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
        raise AskedError(f"text has {len(ids)} tokens, but the model takes {limit}; pass shorter pieces")


def _outside(character: str, place: str) -> AskedError:
    way = "; write another character, or '_' to leave it open"
    if script.HAN.match(character) and not script.available():
        way += ", or install OpenCC (pip install 'textdiff[zh]'), which reads traditional characters"
    return AskedError(f"{character!r} ({place}) is outside the model's vocabulary{way}")


def _no_form(text: str, more: str) -> AskedError:
    size = sum(map(len, split_at_punctuation(text)))
    expected = ", ".join(f"{form.length} ({form.chinese})" for form in FORMS.values())
    return AskedError(f"text {shorten(text)!r} has {size} characters; expected {expected}{more}")
