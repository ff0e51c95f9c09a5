"""The usual names of dynasties: 唐, 唐代, 唐朝, 盛唐, Tang, T'ang, Tang dynasty."""

from __future__ import annotations

from textdiff.core.errors import AskedError

_CHINESE = {"唐": "tang", "宋": "song"}
_LATIN = {"tang": "tang", "song": "song", "sung": "song"}


def dynasty_of(name: str) -> str:
    """tang or song, as models are told it; AskedError for another dynasty, or a word that names none."""
    word = "".join(c for c in name.strip().lower() if c not in "'’ʻ -_")
    bare = word.removesuffix("dynasty").removesuffix("代").removesuffix("朝")
    if bare in _LATIN:
        return _LATIN[bare]
    if bare in _CHINESE or (len(bare) == 2 and bare[0] in "初盛中晚北南" and bare[1] in _CHINESE):
        return _CHINESE[bare[-1]]
    raise AskedError(
        f"dynasty is {name!r}; models know tang (唐, 唐代, 唐朝) and song (宋, 宋代, 宋朝); pass one or leave it out"
    )
