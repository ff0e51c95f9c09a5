"""Regular Chinese verse: the four forms, and the classical tones and rhymes of their characters.

Tones.  平 is level, 上 去 入 are oblique.  Rhymes are the 106 groups of 平水韵; regulated verse rhymes in level groups.

Line types (p level, z oblique, · free under 一三五不论); a line of seven is a line of five behind `·` and the opposite
of its second position:

    a  ·z·pz        A  ·z·pp
    b  ·p·zz        B  ·p·zp         b may also be  ppzpz  with its first position free

A quatrain is one of the four sequences in SEQUENCES; an octave is a quatrain followed by the one with an unrhymed
opening and the same even lines.  平起 and 仄起 go by the second character: they change places between fives and sevens.

Three-valued answers: True, False, or None where a character without a reading leaves it open.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

from textdiff.core.errors import AskedError

HOLE = "□"


@dataclass(frozen=True)
class Form:
    """A fixed form: `lines` lines of `width` characters.

    With a `host` it is a part of that form, from line `offset` on (counted from 0), and a model that knows the host
    writes it there.  In a `plain` form white space and punctuation are characters like others, and a token counts where
    a model's tokens are no characters.
    """

    name: str
    chinese: str
    lines: int
    width: int
    host: Form | None = None
    offset: int = 0
    plain: bool = False

    @property
    def length(self) -> int:
        """Characters of a poem, without punctuation."""
        return self.lines * self.width

    @property
    def short(self) -> str:
        """The customary two-character name, 五绝 for 五言绝句."""
        return self.chinese[0] + self.chinese[2]

    def split(self, text: str) -> list[str]:
        """The lines of a poem, from its bare characters or from text with line breaks and punctuation.

        Between breaks may stand a line, a couplet or more, but as much everywhere.  Anything that is neither white
        space nor punctuation is a character of the poem, signs for a hole (`_`, □) too.
        """
        pieces = split_at_punctuation(text)
        characters = "".join(pieces)
        if len(characters) != self.length:
            raise AskedError(
                f"text has {len(characters)} characters, but form {self.name!r} has {self.length} "
                f"({self.lines} lines of {self.width}); got {_shorten(text)!r}"
            )
        if len({len(piece) for piece in pieces}) > 1 or len(pieces[0]) % self.width:
            raise AskedError(
                f"text breaks into pieces of {[len(piece) for piece in pieces]} characters, but form {self.name!r} has "
                f"lines of {self.width}; break it there or not at all"
            )
        return [characters[i : i + self.width] for i in range(0, self.length, self.width)]

    def layout(self, text: str | Sequence[str]) -> str:
        """A poem as it is printed: one couplet a line, ， within it and 。 at its end."""
        if self.plain:
            return text if isinstance(text, str) else "\n".join(text)
        lines = self.split(text if isinstance(text, str) else "\n".join(text))
        return "\n".join(f"{upper}，{lower}。" for upper, lower in zip(lines[::2], lines[1::2], strict=True))


FORMS = {
    form.name: form
    for form in (
        Form("wuyan-jueju", "五言绝句", 4, 5),
        Form("qiyan-jueju", "七言绝句", 4, 7),
        Form("wuyan-lushi", "五言律诗", 8, 5),
        Form("qiyan-lushi", "七言律诗", 8, 7),
    )
}


SIZED_FORMS = {  # forms whose name says how large they are
    "couplet:N": "对联, two lines of N characters; 5 or 7 for a model of verse",
    "lines:NxM": "N lines of M characters (tokens, where the model has no characters), for a model of running text",
}


def couplet(width: int) -> Form:
    """对联, two lines of `width` characters: of 5 or 7 the second couplet of an octave, where the lines are parallel."""
    host = next((form for form in FORMS.values() if (form.lines, form.width) == (8, width)), None)
    number = "零一二三四五六七八九十"[width] if width <= 10 else str(width)
    return Form(f"couplet:{width}", f"{number}言对联", 2, width, host, offset=2 if host else 0)


def _sized(name: str) -> Form | None:
    """The form whose name tells its size, couplet:7 or lines:4x32."""
    kind, _, size = name.partition(":")
    numbers = size.split("x")
    if not all(number.isdecimal() and number.isascii() and int(number) for number in numbers):
        return None
    if kind == "couplet" and len(numbers) == 1:
        return couplet(int(size))
    if kind == "lines" and len(numbers) == 2:
        lines, width = map(int, numbers)
        return Form(f"lines:{lines}x{width}", f"{lines}行{width}字", lines, width, plain=True)
    return None


_OLD_FORM_NAMES = str.maketrans("絕詩", "绝诗")
_PINYIN = {  # what is said for short, and the names without a hyphen
    "wujue": "wuyan-jueju",
    "qijue": "qiyan-jueju",
    "wulu": "wuyan-lushi",
    "wulv": "wuyan-lushi",
    "qilu": "qiyan-lushi",
    "qilv": "qiyan-lushi",
} | {name.replace("-", ""): name for name in FORMS}


def get_form(name: str) -> Form:
    """The form of that name: English (wuyan-jueju), Chinese (五言绝句), short (五绝) or sized (couplet:7, lines:4x32)."""
    if sized := _sized(str(name).strip().lower()):
        return sized
    named = {alias: form for form in FORMS.values() for alias in (form.name, form.chinese, form.short)}
    plain = str(name).strip().lower().replace("_", "-").replace(" ", "-").translate(_OLD_FORM_NAMES)
    form = named.get(plain) or named.get(_PINYIN.get(plain.replace("-", ""), ""))
    if form is None:
        near = difflib.get_close_matches(str(name), named, n=1, cutoff=0.5)
        known = ", ".join(f"{form.name} ({form.chinese}, {form.short})" for form in FORMS.values())
        known += f", {' and '.join(SIZED_FORMS)}"
        raise AskedError(f"unknown form {name!r}; known are {known}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return form


def guess_form(text: str) -> Form | None:
    """The form a text has the shape of, or None."""
    pieces = split_at_punctuation(text)
    for form in FORMS.values():
        if sum(map(len, pieces)) == form.length:
            alike = len({len(piece) for piece in pieces}) == 1 and len(pieces[0]) % form.width == 0
            return form if alike else None
    return None


def split_at_punctuation(text: str) -> list[str]:
    """The runs of a text between white space and punctuation; `_` counts as a character, it stands for a hole."""
    return "".join("\n" if c.isspace() or (unicodedata.category(c)[0] == "P" and c != "_") else c for c in text).split()


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


@cache
def tone(character: str) -> str:
    """'level', 'oblique', 'either' (it has readings of both kinds) or 'unknown'."""
    kinds = {"level" if reading.tone == "平" else "oblique" for reading in readings(character)}
    return "either" if len(kinds) == 2 else kinds.pop() if kinds else "unknown"


def rhyme_groups(character: str, level_only: bool = True) -> frozenset[str]:
    """The groups of 平水韵 a character belongs to, named with their tone: {'平东'}."""
    return frozenset(r.tone + r.rhyme for r in readings(character) if r.tone == "平" or not level_only)


@cache
def all_rhymes() -> frozenset[str]:
    """The 106 groups of 平水韵, named with their tone."""
    return frozenset(r.tone + r.rhyme for listed in _table().values() for r in listed)


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
    """The last characters of the even lines."""
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


TYPES = {"a": "·z·pz", "b": "·p·zz", "A": "·z·pp", "B": "·p·zp"}
LICENSED_B = "·pzpz"
SEQUENCES = {  # line types of a quatrain -> its names in fives and in sevens
    "aBbA": ("仄起首句不入韵", "平起首句不入韵"),
    "ABbA": ("仄起首句入韵", "平起首句入韵"),
    "bAaB": ("平起首句不入韵", "仄起首句不入韵"),
    "BAaB": ("平起首句入韵", "仄起首句入韵"),
}


class ToneFit(NamedTuple):
    """How well a poem keeps the tonal sequence it comes nearest to."""

    name: str  # 仄起首句入韵, ...
    types: str  # one letter a line, of the table in the module's docstring
    fits: tuple[bool, ...]  # line by line; b may be its licensed variant
    strict: tuple[bool, ...]  # line by line, without that licence
    positions: float  # share of the fixed positions met; unknown characters meet any

    @property
    def regular(self) -> bool:
        """Whether every line fits."""
        return all(self.fits)


def tone_fit(lines: Sequence[str], *, licensed: bool = True) -> ToneFit:
    """The best of the four tonal sequences by fixed positions met, for 4 or 8 lines of 5 or 7 characters.

    A b that fits as its licensed variant counts as fitting, in all positions, unless `licensed` is False.
    """
    widths = {len(line) for line in lines}
    if len(lines) not in (4, 8) or widths not in ({5}, {7}):
        lengths = [len(line) for line in lines]
        raise AskedError(f"tones are defined for 4 or 8 lines of 5 or 7 characters; got lines of lengths {lengths}")
    return max(
        (_against(lines, opening, licensed) for opening in SEQUENCES), key=lambda fit: (fit.positions, sum(fit.fits))
    )


def line_types(opening: str, lines: int) -> str:
    """The types of all lines of a quatrain or an octave that opens with a sequence of SEQUENCES."""
    return opening if lines == 4 else opening + ("aBbA" if opening.endswith("bA") else "bAaB")


def line_template(kind: str, width: int) -> str:
    """The marks of a line of type a, b, A or B in fives or sevens: ·z·pz."""
    return widened(TYPES[kind], width)


def _against(lines: Sequence[str], opening: str, licensed: bool = True) -> ToneFit:
    width = len(lines[0])
    types = line_types(opening, len(lines))
    plain = [_met(line, widened(TYPES[kind], width)) for line, kind in zip(lines, types, strict=True)]
    strict = tuple(all(met) for met in plain)
    free_b = widened(LICENSED_B, width)
    fits = tuple(
        ok or (licensed and kind == "b" and all(_met(line, free_b)))
        for ok, kind, line in zip(strict, types, lines, strict=True)
    )
    met = [one for line, fit in zip(plain, fits, strict=True) for one in ([True] * len(line) if fit else line)]
    return ToneFit(SEQUENCES[opening][width == 7], types, fits, strict, sum(met) / len(met))


def widened(five: str, width: int) -> str:
    """The marks of a line of `width` 5 or 7 whose last five characters have these."""
    return five if width == 5 else "·" + ("z" if five[1] == "p" else "p") + five


def _met(line: str, pattern: str) -> list[bool]:
    wrong = {"p": "oblique", "z": "level"}
    return [tone(c) != wrong[mark] for c, mark in zip(line, pattern, strict=True) if mark != "·"]


def regulated(lines: Sequence[str]) -> bool:
    """Whether all lines keep their tones (b licensed), the even ones rhyme in a level group, no rhyme word twice."""
    return rhyme_level(lines) is True and rhyme_distinct(lines) and tone_fit(lines).regular


def _shorten(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
