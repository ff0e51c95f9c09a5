"""A canvas: the tokens of one text, where one may write, and how ids read as text again.  Canvases of running text.

A hole is `□`, `_`, `[MASK]` or the tokenizer's own mask token; one hole is one token.  Whatever is given is printed as it was
written: a traditional character that the vocabulary lacks is read in its simplified form, and comes out as it went in.  Running
text keeps what stands around its holes letter by letter, whatever the tokenizer makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.networks.folder import TextModel
from textdiff.networks.masked_lm import HEADS
from textdiff.networks.tokenization import frame
from textdiff.pipeline.match import layouts
from textdiff.processes import PROCESSES
from textdiff.shaping.match.trellis import Layout
from textdiff.verse import script
from textdiff.verse.forms import HOLE, Form
from textdiff.verse.prosody import check_regulated

Pieces = list[tuple[str, str | None]]  # of a text: as the tokens read, and as it was written where it was given


@dataclass(frozen=True, eq=False)
class Start:
    """What a chain starts from in the place of the prior."""

    text: Tensor  # (L,) a whole text; where prosody is strict, one that keeps it
    count: int  # corrupted positions of the first state
    x: Tensor | None = None  # (L,) the first state; None: the process corrupts the text


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
    # (L,) the kind of each position, and (kinds, V) bool, which tokens are of it: a free position takes those of its kind
    kinds: tuple[Tensor, Tensor] | None = None
    convert: Callable[[str], str] | None = None  # from the script of the model to that of the reader
    title: str | None = None  # what the network is told of the text, in the characters of its vocabulary
    dynasty: str | None = None
    start: Start | None = None
    layout: Layout | None = None  # what the text is made of, for an expression that it is to match

    @property
    def shape(self) -> tuple[int, int, Form | None]:
        """Texts of one shape walk the same levels."""
        return len(self.ids), int(self.free.sum()), self.form

    @property
    def slots(self) -> tuple[Hashable, ...]:
        """How much the network is told: rows that share a batch have the same slots empty, and so the same columns."""
        return self.form, self.dynasty is None, len(self.title or "")

    @property
    def alike(self) -> Hashable:
        """Canvases that are equal in this can share a batch."""
        start = None if self.start is None else (self.start.count, self.start.x is None)
        return self.shape, self.slots, start, self.kinds is None

    @property
    def poem(self) -> bool:
        """Whether a token is one character, and neither white space nor punctuation."""
        return self.form is not None and not self.form.plain

    @property
    def turn(self) -> Tensor:
        """When each position comes in the text, (L,); what is not shown comes where it stands."""
        turn, form = torch.arange(len(self.ids)), self.form
        if form is not None and form.host is not None and len(turn) == form.host.length:
            turn[list(form.cells)] = torch.tensor(sorted(form.cells))
        return turn

    def places(self, where: Tensor) -> Tensor:
        """The positions in `where` (L,) bool in the order of the text, (n,)."""
        return self.turn.argsort()[where[self.turn.argsort()]]

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
        """This canvas for `process`: a process without masks cannot leave positions unknown, and writes the hidden ones."""
        if self.hidden is None or PROCESSES[process].masks:
            return self
        return replace(self, free=self.free | self.hidden, hidden=None)


def knows_forms(model: TextModel) -> bool:
    """Whether a model writes verse."""
    return "form" in model.prefix


def verse_form(canvas: Canvas) -> Form:
    """The form whose prosody a canvas keeps; AskedError where there is none."""
    form = canvas.form
    if form is None or form.plain:
        raise AskedError("tones and rhyme belong to poems, and this text has no poem's form; leave prosody out")
    if form.tune:
        raise AskedError(f"form {form.chinese} is a tune, whose tones and rhymes are strict or off; leave 'prefer' out")
    return check_regulated(form.host if form.host is not None and form.host.length == len(canvas.ids) else form)


def condition(model: TextModel, canvases: Sequence[Canvas]) -> Tensor:
    """What the network is told of texts of one form, a row for each."""
    form = canvases[0].form
    named = (form.host or form).name if form and knows_forms(model) else None
    titles, dynasties = [c.title for c in canvases], [c.dynasty for c in canvases]
    return model.condition(len(canvases), form=named, title=titles, dynasty=dynasties)


def shorten(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


HAS_HOLE = "text {!r} has a hole, and only whole texts have a likelihood; fill it first"


def spelled(text: str, model: TextModel) -> str:
    """The text with characters that the vocabulary lacks in simplified form, where it has that and OpenCC is installed."""
    lacking = {c for c in set(script.HAN.findall(text)) if not _known(c, model)}
    if not lacking or not script.available():
        return text
    simple = script.simplified(text)
    return "".join(new if c in lacking and _known(new, model) else c for c, new in zip(text, simple, strict=True))


def traditional_for(text: str, model: TextModel) -> bool:
    """Whether a text is in traditional characters and the model in simplified ones; False without OpenCC.

    Many characters are of both scripts.  Those that the model knows in simplified form alone must be more than those that only
    a simplified text has.
    """
    read = spelled(text, model)
    if read == text:
        return False
    exchanged = sum(old != new for old, new in zip(text, read, strict=True))
    same = "".join(old for old, new in zip(text, read, strict=True) if old == new)
    return exchanged > sum(old != new for old, new in zip(same, script.traditional(same), strict=True))


def script_of(text: str, model: TextModel) -> str | None:
    """The script of what is written beside a text; None for that of the model."""
    return "traditional" if traditional_for(text, model) else None


def unread(text: str, model: TextModel) -> str:
    """The characters of a text that may be traditional ones and that the model lacks, where OpenCC is not there to read them."""
    return "".join(c for c in script.unread(text) if not _known(c, model))


def _known(character: str, model: TextModel) -> bool:
    return model.tokenizer.convert_tokens_to_ids(character) not in (None, model.unk_id)


def tokens_of(ids: list[int], model: TextModel) -> list[str]:
    names = model.tokenizer.convert_ids_to_tokens(ids)
    return [HOLE if k == model.mask_id else name for k, name in zip(ids, names, strict=True)]


def unknown_in(ids: Tensor, model: TextModel) -> int:
    return 0 if model.unk_id is None else int((ids == model.unk_id).sum())


def check_length(ids: Tensor, model: TextModel) -> None:
    if len(ids) > (most := longest(model)):
        raise AskedError(f"text has {len(ids)} tokens, but the model takes {most}; pass shorter pieces")


def longest(model: TextModel) -> int:
    """How many tokens of a text a model takes."""
    if model not in _LONGEST:
        _LONGEST[model] = _longest(model)
    return _LONGEST[model]


_LONGEST: WeakKeyDictionary[TextModel, int] = WeakKeyDictionary()


def _longest(model: TextModel) -> int:
    config: Any = model.model.config
    places = getattr(config, "max_position_embeddings", model.tokenizer.model_max_length)
    places -= model.pad_id + 1 if HEADS[config.model_type].first == "padding" else 0
    around = len(model.prefix) + sum(map(len, frame(model.tokenizer)))
    return int(min(places, model.tokenizer.model_max_length) - around)


def outside(character: str, place: str, way: str = "write another character, or '_' to leave it open") -> AskedError:
    if script.HAN.match(character) and not script.available():
        way += ", or install OpenCC (pip install 'textdiff[zh]'), which reads traditional characters"
    return AskedError(f"{character!r} ({place}) is outside the model's vocabulary; {way}")


def together(keys: Sequence[Hashable]) -> Iterator[list[int]]:
    """The indices of equal keys, in the order of the first of them."""
    groups: dict[Hashable, list[int]] = {}
    for k, key in enumerate(keys):
        groups.setdefault(key, []).append(k)
    yield from groups.values()


# -- running text ---------------------------------------------------------------------------------------------------------


def lines_canvas(marked: str, model: TextModel, form: Form) -> Canvas:
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
    laid: list[Layout] = []
    strip = bool(words) and not breaks  # a line begins without the space of its first word
    for number, line in enumerate(marked.split("\n")):
        if strip:
            line = re.sub(f"^(?!{HOLE}| )", " ", re.sub(f" +(?={HOLE})", "", line))
        tokens, write_line, layout = _line(line, len(ids), model, f"line {number + 1}", strip)
        if len(tokens) != form.width:
            raise AskedError(
                f"line {number + 1} has {len(tokens)} tokens, but form {form.name!r} has lines of {form.width}; "
                f"one hole ('_') is one token"
            )
        starts.append(len(ids))
        parts.append(write_line)
        laid.append(layout)
        ids += tokens + breaks
    row = torch.tensor(ids)
    check_length(row, model)
    network: Any = model.model
    allowed = torch.ones(len(row), network.get_input_embeddings().weight.shape[0], dtype=torch.bool)
    allowed[:, breaks] = False
    if strip:
        allowed[starts] = torch.zeros_like(allowed[0]).index_fill(0, torch.tensor(words), True)

    def write(ids: list[int]) -> Pieces:
        lines = [part(ids) if breaks else _without_space(part(ids), at_start=True) for part in parts]
        return [piece for k, line in enumerate(lines) for piece in [("\n", None)] * (k > 0) + line]

    return Canvas(row, row == model.mask_id, form, write, allowed=allowed, layout=layouts.joined(laid, "\n"))


def _line(
    line: str, start: int, model: TextModel, place: str, strip: bool
) -> tuple[list[int], Callable[[list[int]], Pieces], Layout]:
    """The tokens of one line with holes, how it reads, and its layout; its first token is number `start` of the text."""
    mask = model.tokenizer.mask_token
    read = spelled(line, model).replace(HOLE, mask)
    encoding = model.tokenizer(read, add_special_tokens=False, return_offsets_mapping=True)
    tokens = encoding["input_ids"]
    spans = [(_begin(read, *span), span[1], start + k) for k, span in enumerate(encoding["offset_mapping"])]
    for token, (begin, stop, _) in zip(tokens, spans, strict=True):
        if token == model.unk_id:
            raise outside(read[begin:stop].strip(), place)
    if set(line) == {HOLE}:  # a tokenizer knows best how its tokens go together
        laid = layouts.of_open(start, len(tokens), strip=strip)
        return tokens, lambda ids: decoded(ids[start : start + len(tokens)], model), laid
    holes = [span for span, token in zip(spans, tokens, strict=True) if token == model.mask_id]
    return tokens, filled(read, line.replace(HOLE, mask), holes, model), layouts.of_holes(read, holes, strip=strip)


def decoded(ids: list[int], model: TextModel) -> Pieces:
    return [(model.decode(torch.tensor([ids]))[0].replace(model.tokenizer.mask_token, HOLE), None)]


def sentence_canvas(marked: str, model: TextModel) -> Canvas:
    """A sentence as the tokenizer cuts it."""
    mask = model.tokenizer.mask_token
    read = spelled(marked, model).replace(HOLE, mask)
    encoding = model.tokenizer(read, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor(encoding["input_ids"])
    spans = [(_begin(read, *span), span[1]) for span in encoding["offset_mapping"]]
    for token, (begin, stop) in zip(ids.tolist(), spans, strict=True):
        if token == model.unk_id:
            raise outside(read[begin:stop], f"character {len(read[:begin].replace(mask, HOLE)) + 1}")
    check_length(ids, model)
    holes = ids == model.mask_id
    places = [(*spans[k], k) for k in holes.nonzero()[:, 0].tolist()]
    write = filled(read, marked.replace(HOLE, mask), places, model)
    kinds = _kinds(read, places, len(ids), model)
    return Canvas(ids, holes, None, write, kinds=kinds, layout=layouts.of_holes(read, places))


def _begin(text: str, begin: int, stop: int) -> int:
    """Where a token begins that may take in white space before it: of that, a single space alone."""
    lead = len(text[begin:stop]) - len(text[begin:stop].lstrip())
    return begin if lead == stop - begin or text[begin : begin + lead] == " " else begin + lead


def _kinds(
    text: str, places: Sequence[tuple[int, int, int]], length: int, model: TextModel
) -> tuple[Tensor, Tensor] | None:
    """`Canvas.kinds` of a text of which a hole stands behind white space that stays, where no rest of a word can; else None."""
    ends = [0, *(stop for _, stop, _ in places[:-1])]
    apart = [at for done, (begin, _, at) in zip(ends, places, strict=True) if layouts.stays(text[done:begin])]
    content = model.content.tolist() if apart else []
    names = model.tokenizer.convert_ids_to_tokens(content)
    rests = [k for k, name in zip(content, names, strict=True) if name.startswith("##")]
    if not rests:
        return None
    network: Any = model.model
    fitting = torch.ones(2, network.get_input_embeddings().weight.shape[0], dtype=torch.bool)
    fitting[1, rests] = False
    return torch.zeros(length, dtype=torch.long).index_fill(0, torch.tensor(apart), 1), fitting


def scored_sentence(text: str, model: TextModel) -> Canvas:
    ids = torch.tensor(model.tokenizer(spelled(text, model), add_special_tokens=False)["input_ids"], dtype=torch.long)
    if (ids == model.mask_id).any():
        raise AskedError(HAS_HOLE.format(shorten(text)))
    if not len(ids):
        raise AskedError(f"text {shorten(text)!r} has no token; pass a poem or a sentence")
    check_length(ids, model)
    return Canvas(ids, torch.ones_like(ids, dtype=torch.bool), None, lambda ids: [(text, text)], unknown_in(ids, model))


def filled(
    text: str, given: str, spans: Sequence[tuple[int, int, int]], model: TextModel
) -> Callable[[list[int]], Pieces]:
    """Writes tokens into `text`, which was written as `given`: (begin, end, position of the token among the ids), in order."""

    def write(ids: list[int]) -> Pieces:
        pieces: Pieces = []
        before, done = "", 0  # what has been read so far
        for begin, stop, position in spans:
            pieces.append((text[done:begin], given[done:begin]))
            before += text[done:begin]
            (token,) = tokens_of([ids[position]], model)
            piece = HOLE if token == HOLE else model.tokenizer.convert_tokens_to_string([token])
            if token.startswith("##") and len(token) > 2:  # the rest of a word
                piece = token[2:]
                if not layouts.stays(text[done:begin]):
                    pieces, before = _without_space(pieces), before.rstrip()
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
