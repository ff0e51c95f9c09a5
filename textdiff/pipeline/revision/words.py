"""Tokens of running text by their kinds: what may take whose place, so that words and their ends stay where they are.

A token that begins a word takes the place of one that begins a word, a rest of a word that of a rest, and a sign without letters
that of a sign.  White space stays.  A vocabulary marks the rests (##ing) or the beginnings (Ġthe, ▁the); where it marks neither, each
token is a word of its own, as the characters of a model of characters are.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from textdiff.networks.folder import TextModel
from textdiff.pipeline.writable import vocabulary

REST, SIGN, EITHER, ANY = 1, 2, 4, 6  # begins a word: 0; kinds are sums, and ANY is the kind of what nobody writes
KINDS = 7
_BEGIN = "Ġ▁"


@dataclass(frozen=True, eq=False)
class Words:
    """The tokens of a vocabulary by their kinds."""

    printed: list[str]  # (V,) what a token adds to a text, without white space; "" where it is nothing by itself
    kinds: list[int]  # (V,) the kind of each
    fitting: Tensor  # (KINDS, V) bool, the tokens that may stand where one of a kind stood
    marks_beginnings: bool

    def kind(self, token: int, before: str) -> int:
        """The kind of a token behind a character of the text ("" at its beginning)."""
        own = self.kinds[token]
        if self.marks_beginnings and own & REST and not before.isalnum():
            return EITHER + (own & SIGN) // SIGN  # nothing was there that it could go on with
        return own


_KNOWN: WeakKeyDictionary[TextModel, Words] = WeakKeyDictionary()


def words(model: TextModel) -> Words:
    """The words of a model, worked out at the first call."""
    if model not in _KNOWN:
        _KNOWN[model] = _words(model)
    return _KNOWN[model]


def _words(model: TextModel) -> Words:
    known = vocabulary(model)
    names = known.characters
    rests = any(name.startswith("##") and len(name) > 2 for name in names)
    beginnings = not rests and any(len(name) > 1 and name[0] in _BEGIN for name in names)
    written = set(model.content.tolist()) - set(known.banned(False).tolist())
    printed, kinds = [], []
    for token, name in enumerate(names):
        rest = name.startswith("##") and len(name) > 2 if rests else beginnings and name[:1] not in tuple(_BEGIN)
        text = ""
        if token in written:
            text = name[2:] if rest and rests else model.tokenizer.convert_tokens_to_string([name]).strip()
        alone = bool(text) and "�" not in text and not any(map(str.isspace, text)) and not _unfit(text)
        printed.append(text if alone else "")
        kinds.append(REST * rest + SIGN * (not any(map(str.isalnum, text))) if alone else ANY)
    kind = torch.tensor(kinds)
    fitting = torch.stack(
        [kind == k for k in range(EITHER)] + [(kind < EITHER) & (kind & SIGN == s) for s in (0, SIGN)]
    )
    return Words(printed, kinds, torch.cat([fitting, torch.ones_like(fitting[:1])]), beginnings)


def _unfit(text: str) -> bool:
    """Whether a text begins with an accent, which would change the character before it, or has a control character."""
    return unicodedata.category(text[0])[0] == "M" or any(unicodedata.category(c) == "Cc" for c in text)
