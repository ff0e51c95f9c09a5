"""How characters sounded: classical readings, their tones, and the 106 rhyme groups of 平水韵.

Of the tones 平 is level, and 上 去 入 are oblique.  Regulated verse rhymes in the level groups.  Only simplified characters are in
the table.  Answers of three values are True, False, or None where a character without a reading leaves the question open.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

from textdiff.core.errors import AskedError


class Reading(NamedTuple):
    """One classical reading of a character: its tone, one of 平上去入, and its group of 平水韵 (平 and 东, say)."""

    tone: str
    rhyme: str


@cache
def _table() -> dict[str, tuple[Reading, ...]]:
    text = resources.files("textdiff.verse").joinpath("readings.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines())
    return {character: tuple(Reading(r[0], r[1:]) for r in listed.split(" ")) for character, listed in rows}


def readings(character: str) -> tuple[Reading, ...]:
    """The classical readings of a simplified character; empty where none is known."""
    return _table().get(character, ())


@lru_cache(maxsize=1 << 15)
def tone(character: str) -> str:
    """'level', 'oblique', 'either' (it has readings of both kinds) or 'unknown'."""
    kinds = {"level" if reading.tone == "平" else "oblique" for reading in readings(character)}
    return "either" if len(kinds) == 2 else kinds.pop() if kinds else "unknown"


def rhyme_groups(character: str, level_only: bool = True) -> frozenset[str]:
    """The groups of 平水韵 a character belongs to, named with their tone: {'平东'}."""
    return frozenset(r.tone + r.rhyme for r in readings(character) if r.tone == "平" or not level_only)


@cache
def characters_of(groups: frozenset[str]) -> frozenset[str]:
    """The characters with a reading in one of these groups, named with their tone."""
    return frozenset(c for c, listed in _table().items() if any(r.tone + r.rhyme in groups for r in listed))


@cache
def all_rhymes() -> frozenset[str]:
    """The 106 groups of 平水韵, named with their tone."""
    return frozenset(r.tone + r.rhyme for listed in _table().values() for r in listed)


# Which level groups later poets rhymed with one another: the level tones of the first fourteen 部 of 戈载, 词林正韵 (1821).  It
# divides three groups between two 部, character by character: 灰 (灰 回 杯 with 支微齐; 开 来 台 with 佳), 佳 (街 with 灰; 佳 涯 with
# 麻) and 元 (魂 and 痕 of 广韵 with 真文; 元 itself with 寒删先).  The table of readings does not tell the halves apart, so the
# whole group stands in both classes.
SONG_RHYMES = (  # the 19 部, by their groups of each tone; 上 and 去 rhyme with one another, 入 by itself
    "平东冬 上董肿 去送宋",
    "平江阳 上讲养 去绛漾",
    "平支微齐灰 上纸尾荠贿 去寘未霁泰队",
    "平鱼虞 上语麌 去御遇",
    "平佳灰 上蟹贿 去泰卦队",
    "平真文元 上轸吻阮 去震问愿",
    "平寒删先元 上旱潸铣阮 去翰谏霰愿",
    "平萧肴豪 上筱巧皓 去啸效号",
    "平歌 上哿 去个",
    "平佳麻 上马 去祃卦",
    "平庚青蒸 上梗迥 去敬径",
    "平尤 上有 去宥",
    "平侵 上寝 去沁",
    "平覃盐咸 上感俭豏 去勘艳陷",
    "入屋沃",
    "入觉药",
    "入质陌锡职缉",
    "入物月曷黠屑叶",
    "入合洽",
)
NEIGHBOURS = tuple(parts.split()[0][1:] for parts in SONG_RHYMES if parts[0] == "平")


def neighbour_classes(group: str) -> frozenset[int]:
    """The classes of NEIGHBOURS, by index, that hold a level group named by its character (阳)."""
    return frozenset(n for n, names in enumerate(NEIGHBOURS) if group in names)


_LEVEL_GROUPS = {"上平": "东冬江支微鱼虞齐佳灰真文元寒删", "下平": "先萧肴豪歌麻阳庚青蒸尤侵覃盐咸"}  # in order
_NUMERALS = [*"一二三四五六七八九十", "十一", "十二", "十三", "十四", "十五"]
_RHYME_NAMES = {
    f"平{group}": f"{volume}{number}{group}"
    for volume, groups in _LEVEL_GROUPS.items()
    for number, group in zip(_NUMERALS, groups, strict=True)
}
_SIMPLIFIED = str.maketrans("東魚虞齊刪蕭陽鹽韻聲", "东鱼虞齐删萧阳盐韵声")


def get_rhyme(name: str) -> str:
    """The level group of 平水韵 of that name, as `rhyme_groups` spells it: 七阳, 阳, 下平七阳, 平阳, 陽 give 平阳."""
    named = {}
    for group, full in _RHYME_NAMES.items():
        for alias in (full[2:], full, group, group[1:], full[:2] + group[1:], f"平声{group[1:]}"):
            named[alias] = group
    wanted = str(name).strip().translate(_SIMPLIFIED).removesuffix("韵")
    if wanted in named:
        return named[wanted]
    same = [full[2:] for group, full in _RHYME_NAMES.items() if group[1:] in wanted]  # 六阳: right group, wrong number
    near = same[:3] or difflib.get_close_matches(wanted, [full[2:] for full in _RHYME_NAMES.values()], n=3, cutoff=0.5)
    known = " ".join(full[2:] for full in _RHYME_NAMES.values())
    raise AskedError(
        f"unknown rhyme {name!r}; regulated verse rhymes in one of the level groups {known}"
        + (f"; did you mean {' or '.join(map(repr, near))}?" if near else "")
    )


def rhyme_name(group: str) -> str:
    """The name of a group for printing: 平阳 is 下平七阳, 去霰 is 去声霰."""
    if group in _RHYME_NAMES:
        return _RHYME_NAMES[group]
    if len(group) == 2 and group[0] in "上去入":
        return f"{group[0]}声{group[1]}"
    raise AskedError(f"unknown rhyme group {group!r}; a group is a tone and a character, such as '平阳' or '去霰'")


def rhyme_words(lines: Sequence[str]) -> list[str]:
    """The last characters of a poem's even lines."""
    return [line[-1] for line in lines[1::2]]


def rhyme_level(lines: Sequence[str]) -> bool | None:
    """Whether one level group holds every even line's ending; None if an ending without a reading leaves it open."""
    words = rhyme_words(lines)
    known = [rhyme_groups(word) for word in words if readings(word)]
    if known and not frozenset.intersection(*known):
        return False
    return True if len(known) == len(words) else None


def rhyme_distinct(lines: Sequence[str]) -> bool:
    """Whether no rhyme word stands twice."""
    words = rhyme_words(lines)
    return len(set(words)) == len(words)
