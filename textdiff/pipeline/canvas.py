"""Texts with holes, and open pages, as canvases to draw on.

A poem's tokens are the form's characters alone: punctuation and line breaks belong to the form, are taken off on the way in and
put back on the way out.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch

from textdiff.core.errors import AskedError
from textdiff.networks.folder import TextModel
from textdiff.pipeline.match import layouts
from textdiff.pipeline.options import Forms, Options, Words, at_least, defaults_of, several, texts_in
from textdiff.pipeline.page import (
    HAS_HOLE,
    Canvas,
    Pieces,
    check_length,
    decoded,
    filled,
    knows_forms,
    lines_canvas,
    longest,
    outside,
    scored_sentence,
    script_of,
    sentence_canvas,
    shorten,
    spelled,
    tokens_of,
    unknown_in,
)
from textdiff.verse import script
from textdiff.verse.forms import FORMS, HOLE, Form, breaks, get_form, guess_form, split_at_punctuation
from textdiff.verse.names import dynasty_of

__all__ = ["HOLE", "Canvas", "spelled"]

Maker = Callable[..., Canvas]  # `holed` or `whole`


def blank(model: TextModel, form: Form) -> Canvas:
    """A poem with every character open."""
    _check_form(form, model)
    if form.plain:
        return lines_canvas("\n".join([HOLE * form.width] * form.lines), model, form)
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
    lines = [HOLE * width for width in form.widths] if text is None else _split(text.replace("[MASK]", HOLE), form)
    board = [list(line) for line in lines]
    named: dict[tuple[int, int], str] = {}
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
                    f"line {line + 1}, character {place + 1} is {board[line][place]!r} by {named.get((line, place), 'template')} "
                    f"and {character!r} by {name}; give one character there, or '_' in one of them"
                )
            board[line][place], named[line, place] = character, name
    return "\n".join(map("".join, board))


def window(model: TextModel, length: int) -> Canvas:
    """`length` open tokens of running text."""
    if length > (most := longest(model)):
        raise AskedError(f"length is {length}, but the model takes {most} tokens; pass at most so many")
    ids = torch.full((length,), model.mask_id)

    free, laid = torch.ones_like(ids, dtype=torch.bool), layouts.of_open(0, length)
    return Canvas(ids, free, None, lambda ids: decoded(ids, model), layout=laid)


def holed(text: str, model: TextModel, form: Form | None = None, *, verse: bool = True) -> Canvas:
    """A text to fill in.  Without a `form` the text's shape decides (`verse`), or it is a sentence.

    Whole lines that are too few for a poem are the opening of the shortest form of that width; the lines that follow are
    open as well, and not shown.  A couplet's upper line alone asks for the lower one.
    """
    marked = with_holes(text, model)
    try:
        return _holed(marked, model, form, verse)
    except AskedError as error:  # quotes the text as it was typed
        raise AskedError(str(error).replace(repr(shorten(marked)), repr(shorten(text)))) from None


def _holed(marked: str, model: TextModel, form: Form | None, verse: bool) -> Canvas:
    quoted = shorten(marked)
    if form is not None:
        _check_form(form, model)
        marked = "\n".join(_split(marked, form))
    if not marked.strip():
        raise AskedError("text is empty; pass a poem or a sentence with '_' for each token to be filled in")
    if HOLE not in marked:
        raise AskedError(f"text {quoted!r} has no hole; write '_', '□' or '[MASK]' for each token to be filled in")
    if form is None and not verse:
        return sentence_canvas(marked, model)
    if form is not None and form.plain:
        return lines_canvas(marked, model, form)
    form = form or guess_form(marked)
    return _opening(marked, model) if form is None else _poem(marked, model, form)


def whole(text: str, model: TextModel, form: Form | None = None, *, verse: bool = True) -> Canvas:
    """A text to score: every character free.  One outside the vocabulary is the unknown token."""
    if not text.strip():
        raise AskedError("text is empty; pass a poem or a sentence")
    if form is None and not verse:
        return scored_sentence(text, model)
    if form is not None:
        _check_form(form, model)
        if form.plain:
            raise AskedError(f"form {form.name!r} tells how to write a text, not how to score one; leave it out")
    if HOLE in (marked := with_holes(text, model)):
        raise AskedError(HAS_HOLE.format(shorten(text)))
    form = form or guess_form(marked)
    if form is None:
        raise _no_form(text, "")
    return _poem(marked, model, form, score=True)


# -- what a caller gives --------------------------------------------------------------------------------------------------


def open_page(model: TextModel, options: Options) -> Canvas:
    """What a new text is written on: a form or a length, with the characters of a template or an acrostic.

    What is written beside given characters of the traditional script is printed in such, for a model of simplified ones.
    """
    defaults, form = defaults_of(model), options.form
    if form is not None and not isinstance(form, str):
        raise AskedError(f"form is {form!r}; pass the name of one form")
    usual = str(defaults.form or "qiyan-jueju")
    ends = {"first": options.acrostic, "last": options.acrostic_end, "diagonal": options.acrostic_diagonal}
    if options.template is None and all(value is None for value in ends.values()):
        return _open(model, form, usual, options.length, defaults.length)
    if options.length is not None:
        raise AskedError(
            f"length is {options.length}, but given characters have their places in a form; leave length out"
        )
    given = "".join(part for part in (options.template, *ends.values()) if part is not None)
    return in_script(_given(model, options.template, form, ends, usual), script_of(given, model))


def _given(model: TextModel, template: str | None, form: str | None, ends: dict[str, str | None], usual: str) -> Canvas:
    """The canvas of a template or an acrostic."""
    verse = knows_forms(model)
    shaped = guess_form(template.replace("[MASK]", HOLE)) if form is None and template is not None else None
    if form is None and not verse and shaped is None:
        if template is None or any(value is not None for value in ends.values()):
            raise AskedError(f"model {model.name} knows no forms; pass one with the acrostic, such as lines:4x32")
        return holed(template, model, verse=False)
    shaped = shaped or get_form(usual if form is None else form)
    return holed(acrostic(shaped, text=template, **ends), model, shaped, verse=verse)


def _open(model: TextModel, form: str | None, usual: str, length: int | None, usual_length: int | None) -> Canvas:
    at_least("length", length, 1)
    if length is None and (form is not None or knows_forms(model)):
        return blank(model, get_form(usual if form is None else form))
    if form is not None or knows_forms(model):
        raise AskedError(
            f"length is {length}, but a form has its own; pass a form or a length to a model without forms"
        )
    length = length or usual_length
    if length is None:
        raise AskedError(f"model {model.name} knows no forms; pass a form or the length in tokens")
    return window(model, length)


def read(make: Maker, text: Any, model: TextModel, form: str | None = None, number: int = 0) -> Canvas:
    """The canvas that `make` makes of a text, number `number` of a call from 0: errors name it.

    What is written into a text of traditional characters is printed in such, for a model of simplified ones.
    """
    if not isinstance(text, str):
        raise AskedError(f"text {number + 1} is {type(text).__name__}; pass strings")
    with numbered(number):
        made = make(text, model, None if form is None else get_form(form), verse=knows_forms(model))
        return in_script(made, script_of(text, model))


def read_all(make: Maker, texts: str | Iterable[Any], model: TextModel, form: Forms = None) -> list[Canvas]:
    """The canvases of all texts of a call."""
    texts = texts_in(texts)
    if not texts:
        raise AskedError("there is no text; pass at least one")
    forms = per_text("form", form, len(texts))
    return [read(make, text, model, f, k) for k, (text, f) in enumerate(zip(texts, forms, strict=True))]


def about(canvas: Canvas, model: TextModel, title: str | None, dynasty: str | None) -> Canvas:
    """The canvas of a text of which the network is told a title and a dynasty; AskedError where it cannot be."""
    if not title and dynasty is None:
        return canvas if title is None else replace(canvas, title=title)
    title, dynasty = title and spelled(title, model), dynasty and dynasty_of(dynasty)
    model.condition(1, title=title, dynasty=dynasty)
    return replace(canvas, title=title, dynasty=dynasty)


def about_all(canvases: Iterable[Canvas], model: TextModel, title: Words, dynasty: Words) -> list[Canvas]:
    """`about` for all canvases of a call, with one title and dynasty or one for each."""
    canvases = list(canvases)
    titles, dynasties = (per_text(k, v, len(canvases)) for k, v in (("title", title), ("dynasty", dynasty)))
    return [about(c, model, t, d) for c, t, d in zip(canvases, titles, dynasties, strict=True)]


def per_text(name: str, value: Words, n: int) -> list[str | None]:
    """One value for each of n texts."""
    if value is None or isinstance(value, str):
        return [value] * n
    given = several(name, value, "a word, or one for each text")
    if len(given) != n:
        raise AskedError(f"{name} has {len(given)} values for {n} texts; pass one, or one for each text")
    values: list[Any] = [one if one == one else None for one in given]  # NaN stands in a table where nothing does
    for one in values:
        if one is not None and not isinstance(one, str):
            raise AskedError(f"{name} has {one!r}; pass text, or None where there is none")
    return values


@contextlib.contextmanager
def numbered(number: int) -> Iterator[None]:
    """Errors of text `number` of a call, from 0, name it where it is not the first."""
    try:
        yield
    except AskedError as error:
        raise AskedError(f"text {number + 1}: {error}" if number else str(error)) from None


# -- parts ----------------------------------------------------------------------------------------------------------------


def with_holes(text: str, model: TextModel) -> str:
    signs = {"[MASK]", "_", model.tokenizer.mask_token or "_"}
    return re.sub("|".join(map(re.escape, sorted(signs, key=len, reverse=True))), HOLE, text)


def _check_form(form: Form, model: TextModel) -> None:
    """AskedError for a form that has no name the model knows."""
    if "form" not in model.prefix or form in FORMS.values() or form.host is not None:
        return
    known = ", ".join(f.name for f in FORMS.values())
    raise AskedError(
        f"form {form.name!r} is none that model {model.name} knows; pass {known}, couplet:N of at most 14, a tune, "
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
    hidden, shown = None, torch.arange(len(ids))
    if form.host is not None and "form" in model.prefix:
        shown = torch.tensor(form.cells)
        hidden = torch.ones(form.host.length, dtype=torch.bool)
        hidden[shown] = False
        ids = torch.full((form.host.length,), model.mask_id).index_copy(0, shown, ids)
        free = torch.zeros_like(hidden).index_copy(0, shown, free)
    check_length(ids, model)

    def write(ids: list[int]) -> Pieces:
        printed = form.layout(read if score else "".join(tokens_of([ids[k] for k in shown.tolist()], model)))
        characters = iter(given)
        return [(c, None if breaks(c) else next(characters)) for c in printed]

    laid = layouts.of_lines(tuple(shown.tolist()), form.starts())
    return Canvas(ids, free, form, write, unknown_in(ids, model), hidden, layout=laid)


def _characters(line: str, number: int, model: TextModel, score: bool) -> list[int]:
    """The token of each character of a line."""
    unknown = model.unk_id
    ids = model.tokenizer.convert_tokens_to_ids(list(line.replace(HOLE, "\0")))
    ids = [model.mask_id if c == HOLE else unknown if k is None else k for c, k in zip(line, ids, strict=True)]
    for place, (character, k) in enumerate(zip(line, ids, strict=True)):
        if k is None or (k == unknown and not score):
            raise outside(character, f"line {number + 1}, character {place + 1}")
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
            laid = layouts.of_lines(tuple(range(len(characters))), form.starts())
            return Canvas(poem.ids, poem.free, form, filled(spelled(marked, model), marked, spans, model), layout=laid)
    raise _no_form(marked, ", or fewer whole lines of one width")


def _no_form(text: str, more: str) -> AskedError:
    size = sum(map(len, split_at_punctuation(text)))
    expected = ", ".join(f"{form.length} ({form.chinese})" for form in FORMS.values())
    return AskedError(f"text {shorten(text)!r} has {size} characters; expected {expected}{more}")
