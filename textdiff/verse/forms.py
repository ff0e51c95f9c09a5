"""Regular Chinese verse: its forms, by every usual name, and the tonal sequences that they keep.

Line types (p level, z oblique, · free under 一三五不论); a line of seven is a line of five behind `·` and the opposite
of its second position:

    a  ·z·pz        A  ·z·pp
    b  ·p·zz        B  ·p·zp         b may also be  ppzpz  with its first position free

A quatrain is one of the four sequences in SEQUENCES; an octave is a quatrain followed by the one with an unrhymed
opening and the same even lines.  平起 and 仄起 go by the second character: they change places between fives and sevens.
"""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import NamedTuple

from textdiff.core.errors import AskedError
from textdiff.verse.sounds import rhyme_distinct, rhyme_level, tone

HOLE = "□"
_TUNES = resources.files("textdiff.verse").joinpath("tunes.txt")
INDENT = "\u3000\u3000"  # before the first line of a later stanza of a tune
_TUNE_LINE = re.compile("([平仄中]+)([a-z]?)([，。、；]?)")


class TuneLine(NamedTuple):
    """A line of a tune of 词."""

    tones: str  # 平 or 仄 for each character, 中 for either
    rhyme: str  # lines of one letter rhyme with one another; empty where a line does not rhyme
    end: str  # what is printed behind it


@dataclass(frozen=True)
class Form:
    """A fixed form: `lines` lines of `width` characters, or of a tune's lines, the longest of which has `width`.

    With a `host` it is a part of that form, and a model that knows the host writes its characters, one after the other, at the
    host's places `cells`, which need not follow each other there.  In a `plain` form white space and punctuation are characters
    like others, and a token counts where a model's tokens are no characters.
    """

    name: str
    chinese: str
    lines: int
    width: int
    host: Form | None = None
    cells: tuple[int, ...] = ()
    plain: bool = False
    tune: tuple[TuneLine, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """The characters of each line."""
        return tuple(len(line.tones) for line in self.tune) or (self.width,) * self.lines

    @property
    def length(self) -> int:
        """Characters of a poem, without punctuation."""
        return sum(self.widths)

    def place(self, character: int) -> tuple[int, int]:
        """(line, character in it) of a character of the poem, all counted from 0."""
        for line, width in enumerate(self.widths):
            if character < width:
                return line, character
            character -= width
        raise IndexError(f"form {self.name} has no character {character}")

    def starts(self) -> tuple[int, ...]:
        """The character that each line begins with, counted from 0."""
        return tuple(itertools.accumulate(self.widths[:-1], initial=0))

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
                f"({self._described()}); got {_shorten(text)!r}"
            )
        breaks = set(itertools.accumulate(map(len, pieces)))
        uneven = not self.tune and len({len(piece) for piece in pieces}) > 1
        if uneven or not breaks <= {*self.starts(), self.length}:
            raise AskedError(
                f"text breaks into pieces of {[len(piece) for piece in pieces]} characters, but form {self.name!r} has "
                f"{self._described().partition(' ')[2]}; break it there or not at all"
            )
        return [characters[i : i + width] for i, width in zip(self.starts(), self.widths, strict=True)]

    def _described(self) -> str:
        return f"{self.lines} lines of {', '.join(map(str, self.widths)) if self.tune else self.width}"

    def layout(self, text: str | Sequence[str]) -> str:
        """A poem as it is printed: one couplet a line, ， within it and 。 at its end."""
        if self.plain:
            return text if isinstance(text, str) else "\n".join(text)
        lines = self.split(text if isinstance(text, str) else "\n".join(text))
        if self.tune:
            return "".join(line + one.end for line, one in zip(lines, self.tune, strict=True))
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
    "couplet:N": "对联, two lines of N characters; at most 14 for a model of verse",
    "tune:…": "词 of a tune of your own, such as tune:平中仄，中仄仄平平a。/中仄平平a。 (/ breaks a line, // a stanza)",
    "lines:NxM": "N lines of M characters (tokens, where the model has no characters), for a model of running text",
}


def couplet(width: int) -> Form:
    """对联, two lines of `width` characters, in the couplets of an octave whose lines are parallel, the second and the third.

    Lines of at most 7 characters are the second one.  Lines of 8 to 14 have two parts, the second of 5 or 7 characters: their first
    parts are the second couplet and their second parts the third, so that each part stands above the one that it is parallel to.
    """
    digits = "零一二三四五六七八九十"
    number = digits[width] if width <= 10 else f"十{digits[width - 10]}" if width < 20 else str(width)
    parts = (width,) if width <= 7 else (width - 5, 5) if width <= 10 else (width - 7, 7)
    host = FORMS["wuyan-lushi"] if max(parts) == 5 else FORMS["qiyan-lushi"] if width <= 14 else None
    upper, lower = (
        [cell for k, part in enumerate(parts) for cell in _cells(host, (part,), first=line + 2 * k)] if host else []
        for line in (2, 3)
    )
    return Form(f"couplet:{width}", f"{number}言对联", 2, width, host, (*upper, *lower))


def _cells(host: Form, widths: Sequence[int], first: int = 0) -> tuple[int, ...]:
    """Where lines of these widths stand in the lines of a host, from line `first` on, one in each.

    The host's words of two characters begin at its odd places, and so does a line: it takes the beginning of the host's where
    it has an even number of characters, and else the end.
    """
    result: list[int] = []
    for line, width in enumerate(widths, start=first):
        start = line * host.width + (0 if width % 2 == 0 else host.width - width)
        result += range(start, start + width)
    return tuple(result)


@cache
def tunes() -> dict[str, Form]:
    """The tunes of 词 that come with textdiff, by their Chinese names."""
    return {form.chinese: form for form in _read_tunes(_TUNES.read_text(encoding="utf-8"))}


def read_tune(text: str) -> Form:
    """The form of a tune that is written as those of `tunes.txt` are; AskedError for what is none."""
    found = list(_read_tunes(text))
    if len(found) != 1:
        raise AskedError(
            f"the text has {len(found)} tunes; write one, which begins with a line '# name' and has lines such as 平中仄，"
        )
    return found[0]


def _read_tunes(text: str) -> Iterator[Form]:
    for block in re.split(r"^#", text, flags=re.M)[1:]:
        head, *rows = block.strip().splitlines()
        names = head.split()
        lines: list[TuneLine] = []
        for row in map(str.strip, rows):
            if not row:  # a stanza ends
                lines[-1:] = [line._replace(end=line.end.rstrip(INDENT) + INDENT) for line in lines[-1:]]
                continue
            found = re.findall(_TUNE_LINE, row)
            if "".join(a + b + c for a, b, c in found) != row:
                raise AskedError(
                    f"a line of tune {_shorten(head)!r} is {_shorten(row)!r}; write 平, 仄, 中, a letter for a rhyme, and ，or 。"
                )
            lines += [TuneLine(*one) for one in found[:-1]]
            lines.append(TuneLine(found[-1][0], found[-1][1], found[-1][2] + "\n"))
        widths = [len(line.tones) for line in lines]
        host = FORMS["qiyan-lushi"]
        if not names or not lines or len(lines) > host.lines or max(widths) > host.width:
            has = f"lines of {', '.join(map(str, widths))} characters" if lines else "no lines"
            raise AskedError(
                f"tune {_shorten(head)!r} has {has}; give it a name, at most {host.lines} lines, and "
                f"lines of at most {host.width} characters"
            )
        lines[-1] = lines[-1]._replace(end=lines[-1].end.rstrip())
        name = next((one for one in names if one.isascii()), names[0])
        yield Form(name, names[0], len(lines), max(widths), host, _cells(host, widths), tune=tuple(lines))


def _sized(name: str) -> Form | None:
    """The form whose name tells its size, couplet:7 or lines:4x32, or its lines, tune:中平仄，中仄平a。"""
    kind, _, size = name.partition(":")
    if kind == "tune":
        return replace(read_tune("# 词\n" + size.replace("/", "\n")), name=name)
    numbers = size.split("x")
    if not all(number.isdecimal() and number.isascii() and int(number) for number in numbers):
        return None
    if kind == "couplet" and len(numbers) == 1:
        return couplet(int(size))
    if kind == "lines" and len(numbers) == 2:
        lines, width = map(int, numbers)
        return Form(f"lines:{lines}x{width}", f"{lines}行{width}字", lines, width, plain=True)
    return None


def _spelt_plainly(name: str) -> str:
    """A name without case, accents, spaces and hyphens, in simplified characters: Wǔ-jué and wujue are the same."""
    letters = unicodedata.normalize("NFKD", name).casefold()
    return "".join(c for c in letters if c.isalnum()).translate(_SIMPLIFIED)


_SIMPLIFIED = str.maketrans("絕絶詩對聯", "绝绝诗对联")
_WAYS = {  # how the parts of a form's name are written
    "五": ("五", "wu", "5"),
    "七": ("七", "qi", "7"),
    "绝": ("绝句", "绝", "jueju", "jue"),
    "律": ("律诗", "律", "lushi", "lu", "lvshi", "lv"),
}


@cache
def _named_forms() -> dict[str, Form]:
    """The forms by all their names, spelt plainly."""
    whole = [(form, form.short[0], _WAYS[form.short[1]]) for form in FORMS.values()]
    couplets = [(couplet(width), number, ("对联",)) for width, number in ((5, "五"), (7, "七"))]
    regular = {
        start + middle + kind: form
        for form, number, kinds in whole + couplets
        for start in _WAYS[number]
        for middle in ("", "言", "yan")
        for kind in kinds
    }
    return regular | {_spelt_plainly(name): form for form in tunes().values() for name in (form.name, form.chinese)}


def get_form(name: str) -> Form:
    """The form of that name.

    English (wuyan-jueju, wujue, 5-jue), Chinese in simplified or traditional characters (五言绝句, 五言絕句), short (五绝), or
    with its size (couplet:7, lines:4x32) or its lines (tune:中平仄，中仄平a。).
    """
    if sized := _sized(str(name).strip().lower()):
        return sized
    form = _named_forms().get(_spelt_plainly(name)) if isinstance(name, str) else None  # a record may have anything
    if form is None:
        named = [alias for form in FORMS.values() for alias in (form.name, form.chinese, form.short)] + [*tunes()]
        near = difflib.get_close_matches(str(name), named, n=1, cutoff=0.5)
        known = ", ".join(f"{form.name} ({form.chinese}, {form.short})" for form in FORMS.values())
        known += f", {' and '.join(SIZED_FORMS)}, the tunes {', '.join(tunes())}"
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


def tune_of_shape(text: str) -> Form | None:
    """A tune that comes with textdiff whose lines are as long as those of a text, or None."""
    widths = tuple(map(len, split_at_punctuation(text)))
    return next((form for form in tunes().values() if form.widths == widths), None)


def split_at_punctuation(text: str) -> list[str]:
    """The runs of a text between white space and punctuation; `_` counts as a character, it stands for a hole."""
    return text.translate(_BREAKS).split()


def breaks(character: str) -> bool:
    """Whether a text breaks at a character."""
    return _BREAKS[ord(character)] == "\n"


class _Breaks(dict[int, int | str]):
    """Characters at which a text breaks lead to a line break, others to themselves; the first ones that are met are remembered."""

    def __missing__(self, code: int) -> int | str:
        c = chr(code)
        value = "\n" if c.isspace() or (unicodedata.category(c)[0] == "P" and c != "_") else code
        if len(self) < 1 << 15:
            self[code] = value
        return value


_BREAKS = _Breaks()


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
