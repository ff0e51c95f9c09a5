"""Classical prosody as something to ask for: which tones, which rhyme, how firmly.

    strict     every text keeps it: a `law.Law`, and for the replacement process one pattern of that law (`pattern`)
    prefer:w   what does not fit the patterns that the text so far suggests loses w nats
    off        nothing is asked

A tone fits if one reading of the character has it; at a rhyme word one reading must fit tone and group at once.  Characters
without a reading are never written, and fit anything where they are given.  Lines of type b may take the licensed 平平仄平仄.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError
from textdiff.core.predictions import Categorical, TokenPredictor
from textdiff.core.rng import Rng
from textdiff.shaping.restricted import LEAST
from textdiff.shaping.tokens import shaped
from textdiff.verse.constrained import RestrictedPrediction
from textdiff.verse.forms import LICENSED_B, SEQUENCES, TYPES, Form, line_types, widened
from textdiff.verse.law import LETTERS, MARKS, E, Law, P, W, Z
from textdiff.verse.sounds import get_rhyme, readings, rhyme_groups, tone

WEIGHT = 2.0  # nats of `prefer`
AVOIDABLE = {"guping": "guping", "孤平": "guping", "sanpingwei": "sanpingwei", "三平尾": "sanpingwei"}
_LETTER = {"level": P, "oblique": Z, "either": E, "unknown": W}


@dataclass(frozen=True)
class Prosody:
    """What is asked of tones and rhyme."""

    tones: str = "off"  # strict, prefer or off
    rhyme: str = "off"
    pattern: str | None = None  # part of a sequence's name: 平起, 首句入韵, 仄起首句不入韵; None: the model's choice
    group: str | None = None  # a level group, as sounds.rhyme_groups names it; None: the model's choice
    tone_weight: float = WEIGHT
    rhyme_weight: float = WEIGHT
    avoid: tuple[str, ...] = ()  # of guping and sanpingwei
    no_repeat: bool = False
    room: int = 1  # a rhyme group must have words for so many poems; the replacement process exchanges words and needs spare ones

    @classmethod
    def parse(
        cls,
        prosody: str | None = None,
        tones: str | None = None,
        rhyme: str | None = None,
        avoid: str | Sequence[str] | None = None,
        no_repeat: bool = False,
    ) -> Prosody:
        """From a caller's words: strict, prefer, prefer:WEIGHT or off; `tones` may also be a pattern, `rhyme` a group.

        `prosody` stands for `tones` and `rhyme` where these are None.  A pattern or group by name is strict.
        """
        one, weight = _firmness("prosody", prosody or "off")
        if one is None:
            raise AskedError(f"prosody is {prosody!r}; it must be strict, prefer, prefer:WEIGHT or off")
        result = cls(tones=one, rhyme=one, tone_weight=weight, rhyme_weight=weight, no_repeat=no_repeat)
        if tones is not None:
            firm, weight = _firmness("tones", tones)
            if firm is None:
                names = [name for both in SEQUENCES.values() for name in both]
                if not any(tones in name for name in names):
                    raise AskedError(
                        f"tones is {tones!r}; it must be strict, prefer, prefer:WEIGHT, off, or part of a pattern's name, "
                        f"such as 平起, 首句入韵 or {names[0]}"
                    )
                result = replace(result, tones="strict", pattern=tones)
            else:
                result = replace(result, tones=firm, tone_weight=weight)
        if rhyme is not None:
            firm, weight = _firmness("rhyme", rhyme)
            if firm is None:
                group = get_rhyme(rhyme)
                result = replace(result, rhyme="strict", group=group)
            else:
                result = replace(result, rhyme=firm, rhyme_weight=weight)
        avoided = [avoid] if isinstance(avoid, str) else list(avoid or ())
        words = [word for part in avoided for word in re.split("[,，、]", part) if word]
        for word in words:
            if word not in AVOIDABLE:
                raise AskedError(f"avoid is {word!r}; what can be avoided is guping (孤平) and sanpingwei (三平尾)")
        if words and result.tones != "strict":
            raise AskedError(
                f"avoid is {', '.join(words)}, but tones are {result.tones!r}; ask for strict tones as well"
            )
        return replace(result, avoid=tuple(sorted({AVOIDABLE[word] for word in words})))

    @property
    def strict(self) -> bool:
        """Whether there is something that every text must keep."""
        return "strict" in (self.tones, self.rhyme) or self.no_repeat

    @property
    def preferring(self) -> bool:
        """Whether tones or rhyme are preferred without being strict."""
        return "prefer" in (self.tones, self.rhyme)


def _firmness(name: str, word: str) -> tuple[str | None, float]:
    """(strict, prefer or off; the weight), or None in the first place for any other word."""
    head, _, tail = word.partition(":")
    if word == "auto":  # strict, and the model chooses pattern and group
        return "strict", WEIGHT
    if head in ("strict", "off") and not tail:
        return head, WEIGHT
    if head == "prefer":
        try:
            weight = float(tail) if tail else WEIGHT
        except ValueError:
            weight = -1.0
        if not 0 <= weight < float("inf"):
            raise AskedError(f"{name} is {word!r}; the weight is a number of nats, at least 0")
        return head, weight
    return None, WEIGHT


def openings(form: Form, pattern: str | None) -> list[str]:
    """The sequences that a pattern's name allows in a form."""
    found = [o for o, names in SEQUENCES.items() if pattern is None or pattern in names[form.width == 7]]
    if not found:
        raise AskedError(f"no tone pattern of lines of {form.width} characters is called {pattern!r}")
    return found


def check_regulated(form: Form) -> Form:
    """The form; AskedError where it is none of regulated verse."""
    if form.lines not in (4, 8) or form.width not in (5, 7):
        raise AskedError(
            f"prosody is defined for quatrains and octaves of 5 or 7 characters, not for form {form.name!r}"
        )
    return form


def verse_law(
    form: Form, prosody: Prosody, characters: Sequence[str], unread: int, writable: Tensor, device: Any = "cpu"
) -> Law:
    """The law of what is strict, for a vocabulary: characters (V) as the tokenizer writes its tokens."""
    check_regulated(form)
    letters = [_LETTER[tone(c)] if len(c) == 1 else W for c in characters]
    tones, rhyme = prosody.tones == "strict", prosody.rhyme == "strict"
    chosen = openings(form, prosody.pattern) if tones else []
    sequences = [
        [_patterns(kind, form.width, prosody.avoid) for kind in line_types(opening, form.lines)] for opening in chosen
    ]
    if not tones and not rhyme:  # no_repeat alone: readings do not matter
        letters = [P] * len(letters)
    groups = [rhyme_groups(c) if len(c) == 1 else frozenset() for c in characters]
    if prosody.group is not None:
        groups = [belongs & {prosody.group} for belongs in groups]
    can = writable.tolist()
    sizes: dict[str, int] = {}
    for k, belongs in enumerate(groups):
        for group in belongs:
            sizes[group] = sizes.get(group, 0) + can[k]
    if prosody.room > 1:
        enough = prosody.room * (form.lines // 2 + 1)
        groups = [frozenset(group for group in belongs if sizes[group] >= enough) for belongs in groups]
    return Law.of(
        form.lines,
        form.width,
        letters=letters,
        unread=unread,
        writable=writable,
        sequences=sequences,
        groups=groups if rhyme else None,
        words=[(k + 1) * form.width - 1 for k in range(1, form.lines, 2)] if rhyme else (),
        first=form.width - 1 if rhyme and tones else None,
        rhyming_first=[opening[0] in "AB" for opening in chosen],
        no_repeat=prosody.no_repeat,
        device=device,
    )


def _patterns(kind: str, width: int, avoid: Sequence[str]) -> list[str]:
    """The patterns of a line type, the licensed one among them, without those that have a fault to avoid."""
    five = [TYPES[kind]]
    if kind == "b":
        five = [TYPES["b"], LICENSED_B]
    elif kind == "A" and "sanpingwei" in avoid:
        five = ["·zzpp"]
    elif kind == "B" and "guping" in avoid:  # a level character beside the second, or its rescue at the third
        five = ["pp·zp", "·ppzp"]
    return [widened(pattern, width) for pattern in five]


def check_given(
    law: Law, ids: Tensor, free: Tensor, form: Form, characters: Sequence[str], part: Form | None = None
) -> None:
    """AskedError that names the first given character, in reading order, with which no text of the law is left; ids, free (L,).

    Given characters belong to `part` where only that part of the form is a text's own.
    """
    text = part or form
    spots = {at: text.place(k) for k, at in enumerate(text.cells or range(text.length))}
    where = [at for at in spots if not free[at]]
    if possible(law, ids, where):
        return
    size = next(n for n in range(len(where) + 1) if not possible(law, ids, where[:n]))
    if size == 0:
        raise AskedError(
            f"no text of form {form.name!r} keeps what is asked with the model's {int(law.writable.sum())} characters; "
            f"relax --tones or --rhyme, or leave --no-repeat out"
        )
    place = where[size - 1]
    line, column = (number + 1 for number in spots[place])
    character = characters[int(ids[place])]
    if law.no_repeat and bool((ids[where[: size - 1]] == ids[place]).any()):
        raise AskedError(
            f"{character!r} (line {line}, character {column}) stands there once more, and no character may stand twice; "
            f"change it, or leave --no-repeat out"
        )
    kinds = "/".join(sorted({r.tone + r.rhyme for r in readings(character)})) or "no reading"
    raise AskedError(
        f"{character!r} (line {line}, character {column}; {kinds}) does not fit the tones and rhyme asked for, given what is "
        f"fixed before it; change it, choose another pattern or group, or relax --tones or --rhyme"
    )


def possible(law: Law, ids: Tensor, where: Sequence[int]) -> bool:
    """Whether some text of the law has ids (L,) at the positions `where`."""
    x = torch.full_like(ids, law.unread)
    x[list(where)] = ids[list(where)]
    if law.no_repeat and len(set(ids[list(where)].tolist())) < len(where):
        return False
    rest = x[None] == law.unread
    mass = RestrictedPrediction(uniform(law, x[None], rest), law, rest, x[None]).log_mass()
    return bool(mass.item() > -torch.inf)


def uniform(law: Law, x: Tensor, where: Tensor) -> Categorical:
    """The prediction that finds all writable tokens alike at `where` (B, L) bool, and has x (B, L) elsewhere."""
    rows, positions = where.nonzero(as_tuple=True)
    logits = torch.where(law.writable, 0.0, -torch.inf).double()
    return Categorical(lambda index: logits.expand(len(index), -1), (rows, positions), x)


def place_keyword(
    prediction: Categorical,
    law: Law | None,
    keyword: Sequence[int],
    given: Tensor,
    free: Tensor,
    width: int,
    *,
    rng: Rng,
) -> tuple[Tensor, Tensor]:
    """given and free (B, L) once the tokens of `keyword` stand together within one line of `width` tokens.

    The place is drawn: each with probability in proportion to what the prediction gives the tokens there, times the mass Z of
    the law that is left once they stand.
    """
    rows = len(given)
    size = given.shape[1]
    starts = [k for k in range(size - len(keyword) + 1) if k % width + len(keyword) <= width]
    scores = torch.full((rows, max(len(starts), 1)), -torch.inf, dtype=torch.float64, device=given.device)
    for j, start in enumerate(starts):
        span = torch.arange(start, start + len(keyword), device=given.device)
        token = torch.tensor(keyword, device=given.device).expand(rows, -1)
        fits = (free[:, span] | (given[:, span] == token)).all(-1)
        if law is not None and law.no_repeat:
            again = ~free.index_fill(1, span, True) & torch.isin(given, token[0])
            fits = fits & ~again.any(-1) & (len(set(keyword)) == len(keyword))
        if not fits.any():
            continue
        x = given.index_put((torch.arange(rows, device=given.device)[:, None], span), token)
        (log_q,) = prediction.log_prob(x)
        score = torch.where(free[:, span], log_q[:, span].clamp(min=math.log(LEAST)), 0.0).sum(-1)
        if law is not None:
            where = torch.zeros_like(free).index_fill(1, span, True)
            rest = free & ~where
            score = score + RestrictedPrediction(prediction.pin(x, ~rest), law, rest, x).log_mass()
        scores[:, j] = torch.where(fits, score, -torch.inf)
    if (scores == -torch.inf).all(-1).any():
        raise AskedError(
            f"the keyword of {len(keyword)} characters fits no place: lines have {width} characters, and what is given, "
            f"tones, rhyme and no_repeat must leave room for it; shorten it or ask for less"
        )
    first = torch.tensor(starts, device=given.device)[rng.categorical(scores)]
    span = first[:, None] + torch.arange(len(keyword), device=given.device)
    where = torch.zeros_like(free).scatter(1, span, True)
    token = torch.tensor(keyword, device=given.device).expand(rows, -1)
    return given.scatter(1, span, token), free & ~where


# -- prefer ---------------------------------------------------------------------------------------------------------------


def preferred(
    predictor: TokenPredictor, form: Form, prosody: Prosody, characters: Sequence[str], unread: int, device: Any = "cpu"
) -> TokenPredictor:
    """`predictor` tilted towards the patterns and groups that the text so far suggests.

    With n(s) the number of positions where x_t breaks sequence s, P(s) ∝ exp(−w·n(s)), and the logit of token v at position i
    gains log Σ_s P(s) exp(−w·[v breaks s at i]).  At rhyme words the same is done with groups in the place of sequences.
    Before anything stands, all sequences and groups count alike.
    """
    letter_of = torch.tensor([_LETTER[tone(c)] if len(c) == 1 else W for c in characters], device=device)
    tones = rhyme = None
    if prosody.tones == "prefer":
        meets = [
            [
                [any(letter in MARKS[p[j]] for p in _patterns(kind, form.width, ())) for letter in range(LETTERS)]
                for kind in line_types(opening, form.lines)
                for j in range(form.width)
            ]
            for opening in openings(form, prosody.pattern)
        ]
        tones = (torch.tensor(meets, device=device), prosody.tone_weight)  # (S, L, 4)
    if prosody.rhyme == "prefer":
        names = sorted({group for c in characters if len(c) == 1 for group in rhyme_groups(c)})
        groups = [rhyme_groups(c) if len(c) == 1 else frozenset() for c in characters]
        table = torch.tensor([[name in belongs for name in names] for belongs in groups], device=device)  # (V, G)
        rhyme = (table, prosody.rhyme_weight)
    words = torch.tensor([(k + 1) * form.width - 1 for k in range(1, form.lines, 2)], device=device)

    def predict(query: Query) -> Categorical:
        x_t = query.x_t
        letters = torch.where(x_t == unread, W, letter_of[x_t])
        gains: list[Callable[[Tensor, Tensor], Tensor]] = []
        if tones is not None:
            meets, weight = tones
            broken = ~meets[:, torch.arange(letters.shape[1], device=letters.device), letters]  # (S, B, L)
            share = (-weight * broken.sum(-1).double()).softmax(0)  # (S, B)
            loss = torch.where(meets, 1.0, math.exp(-weight)).double()
            gain = torch.einsum("sb,slc->blc", share, loss).log()  # (B, L, 4)
            gains.append(lambda rows, positions: gain[rows, positions][:, letter_of])
        if rhyme is not None:
            belongs_to, firmness = rhyme
            there = x_t[:, words]
            off = (~belongs_to[there] & (there != unread)[..., None]).sum(1)  # (B, G)
            suggested = (-firmness * off.double()).softmax(-1)
            fits = suggested @ belongs_to.T.double()  # (B, V)
            leaning = (fits + (1 - fits) * math.exp(-firmness)).log()
            gains.append(lambda rows, positions: torch.where(torch.isin(positions, words)[:, None], leaning[rows], 0.0))

        def shape(logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
            for gain in gains:
                logits = logits + gain(rows, positions).to(logits.dtype)
            return logits

        return shaped(predictor, shape)(query)

    return predict
