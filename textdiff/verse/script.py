"""Simplified and traditional characters, through OpenCC (`pip install 'textdiff[zh]'`).

One simplified character may stand for several traditional ones (发 for 發 and 髮, 后 for 後 and 后).  OpenCC decides by the
words around it, and verse has few words: what is made traditional from simplified text is a good guess, never the spelling
that a poet chose.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from textdiff.core.errors import AskedError
from textdiff.verse.sounds import readings

VARIANTS = {"t": "s2t", "tw": "s2tw", "hk": "s2hk"}
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3007\U00020000-\U000323af]")


def simplified(text: str) -> str:
    """The text in simplified characters, as many as before.

    Where every character is in our table of simplified ones it stays as it is, and OpenCC is not needed.
    """
    return text if all(map(readings, HAN.findall(text))) else _convert("t2s", text)


def traditional(text: str, variant: str = "t") -> str:
    """The text in traditional characters, as many as before: OpenCC's own standard, Taiwan's ("tw") or Hong Kong's ("hk").

    From simplified text this is lossy, see above.
    """
    if variant not in VARIANTS:
        raise AskedError(f"variant {variant!r} is unknown; pass one of {', '.join(VARIANTS)}")
    return _convert(VARIANTS[variant], text)


SCRIPTS: dict[str, Callable[[str], str]] = {"simplified": simplified, "traditional": traditional}


def converter(name: str) -> Callable[[str], str]:
    """`simplified` or `traditional` by name; a ValueError if OpenCC is needed and missing."""
    if name not in SCRIPTS:
        raise AskedError(f"script {name!r} is unknown; pass one of {', '.join(SCRIPTS)}")
    if name == "traditional":
        _opencc("s2t")
    return SCRIPTS[name]


def available() -> bool:
    """Whether OpenCC is installed."""
    try:
        _opencc("t2s")
    except ValueError:
        return False
    return True


def unread(text: str) -> str:
    """The characters of a text, each once, that may be traditional ones, where OpenCC is not there to read them."""
    if available():
        return ""
    return "".join(c for c in dict.fromkeys(HAN.findall(text)) if not readings(c))


def _convert(name: str, text: str) -> str:
    convert = _opencc(name)
    whole = convert(text)
    if len(whole) == len(text):
        return whole
    # A dictionary may turn a word into one of another length; texts of fixed length cannot have that.
    return "".join(new if len(new) == 1 else old for old, new in ((c, convert(c)) for c in text))


@cache
def _opencc(name: str) -> Callable[[str], str]:
    try:
        from opencc import OpenCC
    except ImportError:
        raise AskedError(
            "simplified and traditional characters are converted by OpenCC, which is not installed; "
            "pip install 'textdiff[zh]'"
        ) from None
    convert: Callable[[str], str] = OpenCC(name).convert
    return convert
