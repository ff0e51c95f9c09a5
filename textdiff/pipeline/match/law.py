"""The texts that a canvas may come to under `match`: their trellises, made once for texts of one layout, and what breaks them.

Strict prosody beside an expression is a trellis, too, and what both accept is their product.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.networks.folder import TextModel
from textdiff.pipeline.match.layouts import CHARACTER
from textdiff.pipeline.match.spelling import never, spelling
from textdiff.pipeline.page import Canvas, shorten, spelled, verse_form
from textdiff.pipeline.plan import Plan
from textdiff.shaping.match.automaton import Spelling, automaton, tokens_in
from textdiff.shaping.match.expression import Expression, containing, parse
from textdiff.shaping.match.kept import Kept
from textdiff.shaping.match.matched import Accepted
from textdiff.shaping.match.trellis import Layout, Trellis, both
from textdiff.verse.automata.regulated import trellis_of_law
from textdiff.verse.forms import HOLE, Form
from textdiff.verse.pattern import Pattern as Classes
from textdiff.verse.prosody import Prosody, verse_law
from textdiff.verse.tunes import pattern_of

KEPT = 128 << 20  # bytes of the trellises of a model that are kept

# By expression, layout, banned tokens and allowed ones; the last are kept beside, so that their identity stays theirs.
_MADE: WeakKeyDictionary[TextModel, Kept[tuple[Trellis | None, Tensor | None]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Pattern:
    """What the whole text is to match, and what errors call it."""

    name: str
    trees: tuple[Expression, ...]  # all of them
    key: Hashable  # patterns of one key are the same
    prosody: Prosody | None = None  # of regulated verse, what of it is strict


def pattern_for(model: TextModel, form: Form | None, plan: Plan) -> Pattern | None:
    """The pattern of a text: an expression that was asked for, or under strict prosody that of its tune; None without either.

    Beside an expression it is that of the tune, or what is strict in regulated verse, as well; and a keyword stands somewhere.
    """
    prosody, tune, parts = plan.prosody, _tune_pattern(form, plan), list[Pattern]()
    if plan.match is None and tune is None:
        return None
    if plan.match is not None:
        text = spelled(plan.match, model)
        parts.append(Pattern(f"match {shorten(plan.match)!r}", (parse(text),), text))
    if (keyword := plan.options.keyword) is not None:
        text = spelled(keyword, model)
        parts.append(Pattern(f"keyword {shorten(keyword)!r}", (containing(text),), ("keyword", text)))
    if tune is not None and not parts:
        return tune
    name = " and ".join(part.name for part in parts) + " with strict prosody" * prosody.strict
    if tune is not None:
        parts.append(tune)
    trees, keys = tuple(tree for part in parts for tree in part.trees), tuple(part.key for part in parts)
    if prosody.strict and tune is None:
        return Pattern(name, trees, (*keys, form, prosody), prosody)
    return Pattern(name, trees, keys)


def _tune_pattern(form: Form | None, plan: Plan) -> Pattern | None:
    """The strict pattern of a tune; None where it is none, or none is asked for."""
    prosody = plan.prosody
    if form is None or not form.tune or not prosody.strict:
        return None
    if prosody.pattern or prosody.group or prosody.avoid or prosody.no_repeat:
        raise AskedError(
            f"form {form.chinese} is a tune, which has its own tones and rhymes; leave out what else is asked of them, and "
            f"no_repeat"
        )
    tones, rhyme = prosody.tones == "strict", prosody.rhyme == "strict"
    return Pattern(f"the pattern of {form.chinese}", (pattern_of(form, tones, rhyme),), (form, tones, rhyme))


def accepted(model: TextModel, canvases: Sequence[Canvas], pattern: Pattern, banned: Tensor) -> Accepted:
    """The texts that match, for each canvas of a batch; `banned` (N,) tokens are never written."""
    found = [trellis_of(model, canvas, pattern, banned) for canvas in canvases]
    kinds = list({id(one): one for one in found}.values())
    number = {id(one): k for k, one in enumerate(kinds)}
    spelt = _spelling(model, canvases[0], banned)
    return Accepted(
        trellises=tuple(kinds),
        of_row=torch.tensor([number[id(one)] for one in found], device=model.device),
        unread=model.mask_id,
        never=never(spelt, model.device),
    )


def trellis_of(model: TextModel, canvas: Canvas, pattern: Pattern, banned: Tensor) -> Trellis:
    """The texts of a canvas that match; AskedError if there is none."""
    layout, allowed = _layout(canvas), canvas.allowed

    def made() -> tuple[Trellis | None, Tensor | None]:
        spelt = _spelling(model, canvas, banned)
        literals = "".join(literal for place in layout.places for _, literal in place.ways) + layout.ending
        alphabet, found = spelt.alphabet | frozenset(literals), list[Trellis | None]()
        for tree in pattern.trees:
            found.append(Trellis.of(tokens_in(automaton(tree, alphabet), spelt), layout, allowed, model.device))
        if pattern.prosody is not None:
            characters = spelt.forms[CHARACTER]
            can = torch.tensor([bool(c) for c in characters])
            law = verse_law(verse_form(canvas), pattern.prosody, characters, model.mask_id, can, model.device)
            found.append(trellis_of_law(law, layout, model.device))
        result, *others = found
        for other in others:
            result = None if result is None or other is None else both(result, other)
        return result, allowed

    key = (pattern.key, layout, tuple(banned.tolist()), id(allowed))
    found, _ = _MADE.setdefault(model, Kept(KEPT)).get(key, made)
    if found is None:
        raise AskedError(
            f"{pattern.name} fits no text like this, {shorten(canvas.read(canvas.ids))!r} ({HOLE} is one token); "
            f"the whole text must match, with a line break between the lines of a poem; let it leave room (.*), or fit its length"
        )
    return found


def check_match(model: TextModel, canvas: Canvas, pattern: Pattern, process: str, banned: Tensor) -> None:
    """AskedError where no text that matches has what stands on a canvas."""
    trellis, given = trellis_of(model, canvas, pattern, banned), canvas.under(process)
    ids = given.ids.to(model.device)[None]
    open_ = given.free.to(model.device)[None] | (ids == model.mask_id)
    if trellis.possible(ids, open_)[0]:
        return
    standing = [p for p in trellis.position.tolist() if not open_[0, p]]
    for n, position in enumerate(standing):
        open_[0, standing] = True
        open_[0, standing[: n + 1]] = False
        if not trellis.possible(ids, open_)[0]:
            (token,) = model.tokenizer.convert_ids_to_tokens([int(ids[0, position])])
            place = trellis.position.tolist().index(position) + 1
            raise AskedError(
                f"{token!r} (character {place}) does not fit {pattern.name}, given what is fixed before it; "
                f"change it, or let the pattern leave room for it"
            )


def exchangeable(texts: Accepted, draft: Tensor, vocabulary: Tensor) -> tuple[Classes, Tensor]:
    """Classes of tokens that can be exchanged in drafts (B, L), and where a class has several tokens, (B, L) bool.

    A draft goes through its trellis from state to state, and the tokens of a place that lead to the same state are a class;
    elsewhere tokens of all the `vocabulary` (C,) are.
    """
    anywhere = torch.zeros_like(texts.never).index_fill(0, vocabulary, True) & ~texts.never
    tables, kinds = [anywhere], torch.zeros_like(draft)
    index: dict[bytes, int] = {}
    known: dict[tuple[int, int, int, int], int] = {}
    for number, (trellis, rows) in enumerate(texts.parts()):
        stands = torch.stack(
            [of[draft[rows, p]] for of, p in zip(trellis.classes, trellis.position.tolist(), strict=True)], -1
        )
        states = trellis.walk(stands)
        for k, (of, following) in enumerate(zip(trellis.classes, trellis.following, strict=True)):
            for row, before, after in zip(rows.tolist(), states[:, k].tolist(), states[:, k + 1].tolist(), strict=True):
                key = (number, k, before, after)
                if key not in known:
                    table = (following[before] == after)[of] & anywhere
                    known[key] = index.setdefault(table.cpu().numpy().tobytes(), len(tables))
                    tables += [table] * (known[key] == len(tables))
                kinds[row, trellis.position[k]] = known[key]
    table = torch.stack(tables)
    return Classes(kinds, table, (), False), table.sum(-1)[kinds] > 1


def unfit(trellis: Trellis, ids: Tensor, frozen: Tensor, nats: Tensor) -> Tensor:
    """The fewest positions, (L,) bool and none of them `frozen`, without which ids (L,) belong to an accepted text.

    Of equally few the ones with the most nats (L,).  What is frozen fits some accepted text.
    """
    ways: dict[int, tuple[int, float, tuple[int, ...]]] = {0: (0, 0.0, ())}  # the best one to each state of a layer
    nowhere = [*map(len, trellis.following[1:]), 1]
    for p, of, following, none in zip(
        trellis.position.tolist(), trellis.classes, trellis.following, nowhere, strict=True
    ):
        stands = int(of[ids[p]])
        after: dict[int, tuple[int, float, tuple[int, ...]]] = {}
        for state, (count, saved, changed) in ways.items():
            for k, goal in enumerate(following[state].tolist()):
                if goal == none or (k != stands and bool(frozen[p])):
                    continue
                new = k != stands
                way = (count + new, saved - new * nats[p].item(), changed + (p,) * new)
                if goal not in after or way < after[goal]:
                    after[goal] = way
        ways = after
    return torch.zeros_like(frozen).index_fill(0, torch.tensor(ways[0][2], dtype=torch.long), True)


def _layout(canvas: Canvas) -> Layout:
    if canvas.layout is None:
        raise AskedError(
            "match is for texts that are written or revised, and this one is not laid out for it; leave it out"
        )
    return canvas.layout


def _spelling(model: TextModel, canvas: Canvas, banned: Tensor) -> Spelling:
    forms = frozenset(form for place in _layout(canvas).places for form, _ in place.ways)
    return spelling(model, forms, banned)
