"""What a model of text may write: the tokens that never stand in a text, the laws of strict prosody over the others, and which
characters of a poem break such a law.

Tokens and laws are worked out once for a model and kept as long as the model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import Canvas, spelled
from textdiff.pipeline.match.law import check_match, pattern_for, trellis_of, unfit
from textdiff.pipeline.page import together, verse_form
from textdiff.pipeline.plan import Plan
from textdiff.shaping.match.kept import Kept
from textdiff.verse.forms import Form, split_at_punctuation
from textdiff.verse.law import LEVEL as LEVEL_TONE
from textdiff.verse.law import OBLIQUE, Law, P, W, Z
from textdiff.verse.prosody import Prosody, check_given, possible, verse_law

KEPT = 64 << 20  # bytes of the laws of a model that are kept


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model, and what may be written of them.  It does not hold the model itself, or neither would ever go."""

    characters: list[str]  # (V,) each token as the tokenizer writes it
    mask_id: int
    content: Tensor  # (C,) ids of the tokens that are text
    never: Tensor  # (N,) ids that are never written: the unknown token
    never_in_poems: Tensor  # the same for poems, where a character is a token: all that is no single character, too
    laws: Kept[Law] = field(default_factory=lambda: Kept(KEPT))  # by form and prosody, as they are needed

    def banned(self, poem: bool) -> Tensor:
        """The ids that are never written."""
        return self.never_in_poems if poem else self.never

    def law(self, form: Form, prosody: Prosody) -> Law:
        """The law of the strict parts of a prosody."""

        def made() -> Law:
            writable = torch.zeros(len(self.characters), dtype=torch.bool)
            writable[self.content.cpu()] = True
            writable[self.never_in_poems.cpu()] = False
            return verse_law(form, prosody, self.characters, self.mask_id, writable, self.content.device)

        return self.laws.get((form, prosody), made)


_KNOWN: WeakKeyDictionary[TextModel, Vocabulary] = WeakKeyDictionary()


def vocabulary(model: TextModel) -> Vocabulary:
    """The vocabulary of a model, worked out at the first call."""
    if model not in _KNOWN:
        _KNOWN[model] = _vocabulary(model)
    return _KNOWN[model]


def _vocabulary(model: TextModel) -> Vocabulary:
    network: Any = model.model
    rows = network.get_input_embeddings().weight.shape[0]
    names = model.tokenizer.convert_ids_to_tokens(range(min(rows, len(model.tokenizer))))
    content = model.content.tolist()
    never = [] if model.unk_id is None else [model.unk_id]
    words = model.tokenizer.convert_ids_to_tokens(content)
    in_poems = [k for k, c in zip(content, words, strict=True) if len(c) != 1 or split_at_punctuation(c) != [c]]
    return Vocabulary(
        characters=[name or "" for name in names] + [""] * (rows - len(names)),
        mask_id=model.mask_id,
        content=model.content,
        never=torch.tensor(never, dtype=torch.long, device=model.device),
        never_in_poems=torch.tensor(never + in_poems, dtype=torch.long, device=model.device),
    )


def law_of(model: TextModel, canvas: Canvas, prosody: Prosody) -> Law:
    """The law that a canvas keeps under strict prosody."""
    return vocabulary(model).law(verse_form(canvas), prosody)


def check_canvas(model: TextModel, canvas: Canvas, plan: Plan) -> None:
    """AskedError where what stands on a canvas cannot keep the prosody of the plan or match, before anything is drawn."""
    if plan.guidance != 1 and not (canvas.title or canvas.dynasty):
        raise AskedError(f"guidance is {plan.guidance:g}, but there is no title or dynasty to guide towards; pass one")
    if plan.prosody.preferring:
        verse_form(canvas)
    pattern = pattern_for(model, canvas.form, plan)
    if pattern is not None:
        if plan.options.keyword is not None:
            keyword_ids(model, plan.options.keyword, canvas.poem)
        check_match(model, canvas, pattern, plan.process, vocabulary(model).banned(canvas.poem))
    elif plan.prosody.strict:
        given = canvas.under(plan.process)
        open_ = given.free | (given.ids == model.mask_id)
        law = law_of(model, canvas, plan.prosody)
        check_given(law, given.ids, open_, verse_form(canvas), vocabulary(model).characters, canvas.form)


def keyword_ids(model: TextModel, keyword: str, poem: bool) -> Sequence[int]:
    """The tokens of a keyword; AskedError where one of them is never written."""
    ids: list[int] = model.encode([spelled(keyword, model)])[0].tolist() if keyword else []
    known = vocabulary(model)
    if not ids or not set(ids) <= set(known.content.tolist()) - set(known.banned(poem).tolist()):
        raise AskedError(f"keyword {keyword!r} is empty or outside the model's vocabulary; pass other characters")
    return ids


# -- what breaks a law ----------------------------------------------------------------------------------------------------


def broken(model: TextModel, canvas: Canvas, plan: Plan, ids: Tensor, frozen: Tensor, nats: Tensor) -> Tensor:
    """What of ids (L,) breaks the strict prosody of a plan, or keeps the text from matching, (L,) bool: see `misfits`."""
    pattern = pattern_for(model, canvas.form, plan)
    if pattern is None:
        return misfits(law_of(model, canvas, plan.prosody), ids, frozen, nats)
    return unfit(trellis_of(model, canvas, pattern, vocabulary(model).banned(canvas.poem)), ids, frozen, nats)


def misfits(law: Law, ids: Tensor, frozen: Tensor, nats: Tensor) -> Tensor:
    """The fewest positions, (L,) bool and none of them `frozen`, without which ids (L,) belong to a text of the law.

    Of equally few the ones with the most nats (L,).  Positions that show `law.unread` are open as they are.  Under
    `no_repeat` they need not be the fewest: of doubled tokens all but one are added to what breaks tones and rhyme least.
    """
    standing = (ids != law.unread).nonzero()[:, 0].tolist()
    known = law.known(ids)
    options = []
    for sequence in range(law.sequences):
        for of_group in _groups(law, ids):
            broken = _broken(law, known, sequence, of_group, frozen, nats)
            broken |= _doubled(law, ids, sequence, of_group is not None, broken, frozen, nats)
            if not any(frozen[at] for at in broken):
                options.append((len(broken), -sum(nats[at].item() for at in broken), sorted(broken)))
    options.append((len(standing) + 1, 0.0, [at for at in standing if not frozen[at]]))
    for _, _, at in sorted(options):
        rest = [k for k in standing if k not in at]
        if not rest or possible(law, ids, rest):
            break
    return torch.zeros_like(frozen).index_fill(0, torch.tensor(at, dtype=torch.long), True)


def _groups(law: Law, ids: Tensor) -> list[list[bool] | None]:
    """For each single rhyme group, whether it has the token of each position; [None] without rhyme."""
    if law.rhymes is None:
        return [None]
    rhymes = law.rhymes
    member = torch.cat([rhymes.member, torch.zeros_like(rhymes.member[:1])])[rhymes.place[ids]]  # (L, K)
    return [member[:, k].tolist() for k in (rhymes.size == 1).nonzero()[:, 0].tolist()]


def _broken(
    law: Law, known: Tensor, sequence: int, of_group: list[bool] | None, frozen: Tensor, nats: Tensor
) -> set[int]:
    """Positions whose letters (L,) break a sequence, each line by the pattern it breaks least, or the rhyme group."""
    letters = known.tolist()
    ends = {*law.ends} if of_group is not None else set()
    result: set[int] = set()
    for line in range(law.lines):
        bits = int(law.patterns[sequence, line])
        options = []
        for pattern in (k for k in range(len(law.marks)) if bits >> k & 1):
            asks = law.marks[pattern].tolist()
            places = [
                at
                for at, mark in zip(range(line * law.width, (line + 1) * law.width), asks, strict=True)
                if at not in ends and (letters[at], mark) in ((P, OBLIQUE), (Z, LEVEL_TONE))
            ]
            fixed = sum(bool(frozen[at]) for at in places)
            options.append((fixed, len(places), -sum(nats[at].item() for at in places), places))
        result.update(min(options)[3])
    if of_group is not None:
        result.update(at for at in law.words if letters[at] != W and not of_group[at])
        if law.first is not None:
            rhyming = law.rhyming_first >> sequence & 1
            end = letters[law.first]
            if (rhyming and end != W and not of_group[law.first]) or (not rhyming and end == P):
                result.add(law.first)
    return result


def _doubled(
    law: Law, ids: Tensor, sequence: int, rhyme: bool, broken: set[int], frozen: Tensor, nats: Tensor
) -> set[int]:
    """Of a token that stands several times where none may, all positions but one (a frozen one, or the one of least nats)."""
    among: Sequence[int] = ()
    if law.no_repeat:
        among = (ids != law.unread).nonzero()[:, 0].tolist()
    elif rhyme and law.distinct:
        among = law.ends if law.rhyming_first >> sequence & 1 else law.words
    result: set[int] = set()
    for alike in together([int(ids[at]) if at not in broken and ids[at] != law.unread else -1 - at for at in among]):
        places = sorted((among[k] for k in alike), key=lambda at: (not frozen[at], nats[at].item()))
        result.update(places[1:])
    return result
