"""Checking a poem: tones, rhyme, the classical faults and their rescue, and the readings that a person must decide.

Notation as in `verse`: p level 平, z oblique 仄, · free; a line of seven is a line of five behind `·` and the opposite of
its second position.  Positions are counted from 1; k of five is k + 2 of seven.  Below they are those of five.

A character has the readings of `verse.readings`, those of its simplified form if it has none, and without any it may be
whatever is wanted.  A `pronounce` decides.  A statement about a poem is *true* or *false* if it is so under every choice
of one reading per character, else *unknown*; it depends on the characters that make it so.

    tone        the position's mark in the poem's template.  The template is the one of `verse.SEQUENCES` with the fewest
                positions broken, after rescue, then before.
    拗句        a line off its template.  Rescued are
      特拗      b as ·pzpz: position 4 level, made good in the line itself by an oblique 3
      大拗      a with position 4 oblique, made good by a level 3 in the lower line (对句相救)
    小拗        a with position 3 oblique but 4 level: within the template, told whether the lower line has a level 3
    孤平        B as zpzzp.  It is avoided by a level 3 for the oblique 1 (zppzp, told as 孤平自救)
    三平尾      the last three characters are level; 三仄尾: oblique
    失对        the two lines of a couplet agree at position 2 or 4 (2, 4 or 6 of seven)
    失粘        the lower line of a couplet and the upper line of the next differ there.  A rescued position counts as what
                the template wants.  Neither needs a template: they are also looked for in an even number of lines of 5 or
                7 characters.
    出韵        a line's rhyme word (the end of an even line) has no level reading in the poem's group of 平水韵.  The
                poem's group is the level group that holds most rhyme words, in a tie that of the first line, then that of the
                earliest.  Tone and rhyme are asked of one and the same reading.
    邻韵        the rhyme words are in one of the 14 classes of `NEIGHBOURS`, though in no one group
    重韵        a rhyme word stands twice
    首句        the first line ends level, in a sequence that rhymes there, but neither in the group nor in its class

The strict form is *broken* by: a tone that is off and not rescued, 出韵, 重韵 of even lines.  These are the rules of
`verse.regulated`, with 大拗 in addition.  失对 and 失粘 break tones, too; 孤平, 三平尾, 三仄尾, 首句 and repeated characters
are told, and break nothing.  A first line's end that may be read both ways breaks nothing where either reading gives a
sequence.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from textdiff.core.errors import AskedError
from textdiff.verse import forms as verse
from textdiff.verse.forms import Form, Reading

# 戈载, 词林正韵 (1821): the level groups of its first fourteen 部.  It divides 灰, 佳 and 元 between two 部 character by
# character; here the whole group belongs to both.
NEIGHBOURS = (
    "东冬", "江阳", "支微齐灰", "鱼虞", "佳灰", "真文元", "寒删先元", "萧肴豪", "歌", "佳麻", "庚青蒸", "尤", "侵", "覃盐咸",
)  # fmt: skip

Truth = bool | None
Place = tuple[int, int]  # line, position; from 1

_ANY = (Reading("平", ""), Reading("仄", ""))  # a character without readings: any tone, any rhyme
_NAMES = (
    "拗句",
    "出韵",
    "邻韵",
    "重韵",
    "首句",
    "失对",
    "失粘",
    "孤平",
    "三平尾",
    "三仄尾",
    "特拗",
    "大拗",
    "小拗",
    "孤平自救",
)
_VERDICTS = {True: "ok", False: "broken", None: "unknown"}
_HOLES = "_□"
_TONES = {"p": "level", "z": "oblique"}


@dataclass(frozen=True)
class Character:
    """A character of the poem, at `position` of `line`."""

    line: int
    position: int
    character: str
    readings: tuple[str, ...]  # tone and group, 平寒; what was decided, if it was; empty where none is known
    tone: str  # level, oblique, either, unknown
    wanted: str | None  # p, z, free; None without a template
    verdict: str  # ok, broken, unknown: tone after rescue, and rhyme at the end of even lines


@dataclass(frozen=True)
class Line:
    """A line; `type` and `template` are None where the poem has none, and `plain` is then 'ok'."""

    text: str
    type: str | None  # a b A B
    template: str | None  # ·z·pz
    plain: str  # ok, broken (拗句), unknown: the tones before rescue
    verdict: str  # ok, broken, unknown: its characters
    characters: tuple[Character, ...]


@dataclass(frozen=True)
class RhymeWord:
    """The last character of an even line, or of the first, and its level groups (平寒)."""

    line: int
    character: str
    groups: tuple[str, ...]
    verdict: str  # ok, broken, unknown: whether its reading lies in the poem's group


@dataclass(frozen=True)
class Rhyme:
    """How the even lines rhyme."""

    group: str | None  # 平阳; None if no rhyme word has a level reading
    name: str | None  # 下平七阳
    verdict: str  # ok, broken, unknown
    neighbours: bool | None  # whether one class of NEIGHBOURS holds all rhyme words; None if unknown
    oblique: str | None  # an oblique group that holds them all, where no level one does: old style
    first: bool | None  # whether the first line rhymes with them, in the group or its class; None if unknown
    words: tuple[RhymeWord, ...]  # the even lines'
    opening: RhymeWord | None  # the first line's, where it rhymes or may


@dataclass(frozen=True)
class Finding:
    """A statement of the module's list that holds, or may hold: then `certain` is False."""

    name: str  # 失对, ...
    certain: bool
    breaks: bool  # breaks the strict form
    rescued: bool
    places: tuple[Place, ...]
    words: str


@dataclass(frozen=True)
class Decision:
    """A character whose reading changes what is said of the poem."""

    line: int
    position: int
    character: str
    options: tuple[str, ...]  # readings, or 平 and 仄 where none is known
    matters: tuple[str, ...]  # for these


@dataclass(frozen=True)
class Repeat:
    """A character that stands more than once; `doubled` if its only places are side by side in one line, as 萧萧."""

    character: str
    doubled: bool
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Report:
    """What there is to say of a poem.  `dataclasses.asdict` of it is ready for JSON."""

    text: str
    form: str | None  # of verse.FORMS, couplet:7, ...; None for another shape
    sequence: str | None  # 仄起首句入韵; None where tones have no template, and so `broken` and `unknown` are False
    types: str | None  # ABbA
    broken: bool  # under every choice of readings
    unknown: bool  # under some
    lines: tuple[Line, ...]
    rhyme: Rhyme | None
    findings: tuple[Finding, ...]
    decide: tuple[Decision, ...]
    repeated: tuple[Repeat, ...]
    repeated_lines: tuple[tuple[int, ...], ...]  # numbers of lines that are the same

    @property
    def start(self) -> str | None:
        """平起 or 仄起: the tone of the first line's second position in the template."""
        return self.sequence[:2] if self.sequence else None

    @property
    def first_rhymes(self) -> bool | None:
        """Whether the sequence is one whose first line rhymes (首句入韵)."""
        return None if self.types is None else self.types[0].isupper()

    @property
    def verdict(self) -> str | None:
        """ok, broken or unknown; None without a strict form."""
        return None if self.sequence is None else "broken" if self.broken else "unknown" if self.unknown else "ok"

    def places(self, verdict: str = "broken") -> tuple[Place, ...]:
        """Where the characters of that verdict stand."""
        return tuple((c.line, c.position) for line in self.lines for c in line.characters if c.verdict == verdict)


def check(
    text: str, form: str | Form | None = None, *, pronounce: Mapping[int | str, str | Reading] | None = None
) -> Report:
    """Everything of the module's list about one poem, in simplified or (with `opencc`) traditional characters.

    `form` is by default what the shape says.  Text of another shape, or of a form without tonal sequences, gets what needs
    no template.  `pronounce` decides readings: keys are 'line:position', the number of a character (from 1), or a
    character, for everywhere it stands; values a tone (平 上 去 入, or 仄) or a reading (平寒, Reading('平', '寒')).
    """
    if isinstance(form, str):
        form = verse.get_form(form)
    elif form is None:
        form = verse.guess_form(text)
    lines = form.split(text) if form else verse.split_at_punctuation(text)
    if not lines:
        raise AskedError(f"text {text!r} has no characters; pass a poem")
    return _Check(text, form, lines, _choices(lines, pronounce or {})).report()


# -- readings -------------------------------------------------------------------------------------------------------------


Choices = tuple[Reading, ...]


def _choices(lines: Sequence[str], pronounce: Mapping[int | str, str | Reading]) -> list[list[Choices]]:
    """The readings that every character may have, after what `pronounce` decides."""
    choices = [[_readings(character) for character in line] for line in lines]
    places = [(k, i) for k, line in enumerate(lines) for i in range(len(line))]
    for key, value in pronounce.items():
        for k, i in _named(key, lines, places):
            choices[k][i] = _decided(lines[k][i], choices[k][i], value, f"{k + 1}:{i + 1}")
    return choices


def _readings(character: str) -> Choices:
    if character in _HOLES:
        return ()
    return verse.readings(character) or verse.readings(_simplifier()(character))


@cache
def _simplifier() -> Callable[[str], str]:
    """To simplified characters, or nothing where the optional converter is not installed."""
    try:
        from textdiff.verse.script import simplified

        simplified("東")
    except (ImportError, ValueError):  # it says so in this way
        return lambda text: text
    return simplified


def _named(key: int | str, lines: Sequence[str], places: Sequence[Place]) -> list[Place]:
    if isinstance(key, int):
        if not 1 <= key <= len(places):
            raise AskedError(f"a reading is given for character {key}, but the text has {len(places)}; count from 1")
        return [places[key - 1]]
    line, colon, position = key.strip().partition(":")
    if colon and line.isdecimal() and position.isdecimal():
        place = int(line) - 1, int(position) - 1
        if place not in places:
            widths = sorted({len(line) for line in lines})
            raise AskedError(
                f"a reading is given for {key!r}, but the text has {len(lines)} lines of "
                f"{' or '.join(map(str, widths))} characters; pass LINE:POSITION, both from 1"
            )
        return [place]
    found = [(k, i) for k, i in places if lines[k][i] == key.strip()]
    if not found:
        raise AskedError(
            f"a reading is given for {key!r}, which is neither LINE:POSITION nor a character of the text; "
            f"pass one of them, such as 3:5"
        )
    return found


def _decided(character: str, choices: Choices, value: str | Reading, place: str) -> Choices:
    wanted = "".join(value).strip()
    tone, group = wanted[:1], wanted[1:]
    if wanted in verse.all_rhymes():
        return (Reading(tone, group),)  # a person may know what the table does not
    kinds = {"平": "平", "仄": "上去入仄", "上": "上", "去": "去", "入": "入"}.get(wanted)
    if kinds is None:
        raise AskedError(
            f"{value!r} is no reading for {character} at {place}; pass a tone (平 上 去 入, or 仄) or a tone and a group "
            f"of 平水韵, such as 平寒"
        )
    kept = tuple(reading for reading in choices if reading.tone in kinds)
    if choices and not kept:
        raise AskedError(
            f"{character} at {place} has no reading {wanted}, only {' '.join(map(''.join, choices))}; "
            f"pass one of these, or tone and group together (such as 平寒) to overrule the table"
        )
    return kept or (Reading(wanted, ""),)


def _mark(choices: Choices) -> str:
    """p, z, or ? where both may be."""
    kinds = {"p" if reading.tone == "平" else "z" for reading in choices or _ANY}
    return kinds.pop() if len(kinds) == 1 else "?"


def _level(choices: Choices) -> frozenset[str]:
    return frozenset(r.tone + r.rhyme for r in choices if r.tone == "平" and r.rhyme)


def _classes(reading: Reading) -> frozenset[int]:
    """The classes of NEIGHBOURS that a reading may rhyme in."""
    if reading.tone != "平":
        return frozenset()
    return frozenset(n for n, names in enumerate(NEIGHBOURS) if reading.rhyme in names)  # all, if it is not known


# -- truth in three values ------------------------------------------------------------------------------------------------


def _neighbours(ends: Sequence[Choices]) -> Truth:
    """Whether one class of NEIGHBOURS holds all rhyme words."""
    sure = [frozenset.intersection(*map(_classes, choices)) if choices else frozenset() for choices in ends]
    may = [frozenset[int]().union(*map(_classes, choices or _ANY)) for choices in ends]
    return True if frozenset.intersection(*sure) else None if frozenset.intersection(*may) else False


def _meets(tone: str, mark: str) -> Truth:
    return True if mark == "·" else None if tone == "?" else tone == mark


def _either(one: Truth, other: Truth) -> Truth:
    return True if one or other else None if None in (one, other) else False


def _every(values: Iterable[Truth]) -> Truth:
    """Of statements about different characters: False if one is, else None if one is."""
    values = tuple(values)
    return False if False in values else None if None in values else True


# -- tones against a template ---------------------------------------------------------------------------------------------

_RESCUE = {"b": (0, "z"), "a": (1, "p")}  # position 4 may be off, if 3 of the line that many lines further is this


def _plain(tones: Sequence[str], types: str) -> list[list[Truth]]:
    templates = [verse.line_template(kind, len(line)) for kind, line in zip(types, tones, strict=True)]
    return [list(map(_meets, line, template)) for line, template in zip(tones, templates, strict=True)]


def _rescued(tones: Sequence[str], types: str) -> list[list[Truth]]:
    """`_plain`, where position 4 is also met by what makes it good."""
    met = _plain(tones, types)
    for k, kind in enumerate(types):
        if kind in _RESCUE:
            further, mark = _RESCUE[kind]
            met[k][-2] = _either(met[k][-2], _meets(tones[k + further][-3], mark))
    return met


def _types(tones: Sequence[str], rhymes: Truth) -> tuple[str, bool]:
    """The line types of the best sequence, and whether the first line's end is open to both of its two openings."""

    def misses(opening: str) -> tuple[int, int]:
        types = verse.line_types(opening, len(tones))
        rescued, plain = ([truth for line in met(tones, types) for truth in line] for met in (_rescued, _plain))
        return rescued.count(False), plain.count(False)

    best = min(verse.SEQUENCES, key=misses)
    if tones[0][-1] != "?":
        return verse.line_types(best, len(tones)), False
    other = best[0].swapcase() + best[1:]
    if misses(other) == misses(best) and rhymes is not None and best[0].isupper() != rhymes:
        best, other = other, best
    types, others = (verse.line_types(opening, len(tones)) for opening in (best, other))
    return types, _rescued(tones, types)[0][:-1] == _rescued(tones, others)[0][:-1]


class _Check:
    """One poem under way: what is found is noted in `findings` and `decide`, and `report` puts it together."""

    def __init__(self, text: str, form: Form | None, lines: list[str], choices: list[list[Choices]]) -> None:
        self.text, self.form, self.lines, self.choices = text, form, lines, choices
        self.tones = ["".join(map(_mark, line)) for line in choices]
        self.findings: list[Finding] = []
        self.matters: dict[tuple[int, int], list[str]] = {}  # line and position from 0

    def report(self) -> Report:
        strict = self.form is not None and self.form.name in verse.FORMS
        rhyme, types = None, None
        plain: list[list[Truth]] = [[True] * len(line) for line in self.lines]
        met = [list(line) for line in plain]
        if strict:
            rhyme, ends, may_open = self._rhyme()
            types, both_openings = _types(self.tones, may_open)
            plain, met = _plain(self.tones, types), _rescued(self.tones, types)
            if both_openings:
                plain[0][-1] = met[0][-1] = True
                self._depends("首句入韵", [(0, len(self.lines[0]) - 1)])
            self._deviations(types, plain, met)
            for k, truth in ends:
                met[k][-1] = _every((met[k][-1], truth))
            self._first_line(types, rhyme)
        self._couplets(types, plain, met)
        self._line_faults(types)
        order = {name: n for n, name in enumerate(_NAMES)}
        self.findings.sort(key=lambda finding: (order[finding.name], finding.places))
        flat = [truth for line in met for truth in line]
        broken = False in flat or any(finding.breaks and finding.certain for finding in self.findings)
        return Report(
            text=self.text,
            form=self.form.name if self.form else None,
            sequence=verse.SEQUENCES[types[:4]][len(self.lines[0]) == 7] if types else None,
            types=types,
            broken=broken,
            unknown=not broken and None in flat,
            lines=tuple(self._line(k, types[k] if types else None, plain[k], met[k]) for k in range(len(self.lines))),
            rhyme=rhyme,
            findings=tuple(self.findings),
            decide=tuple(self._decisions()),
            repeated=tuple(_repeats(self.lines)),
            repeated_lines=_same_lines(self.lines),
        )

    # what is noted

    def _find(
        self,
        name: str,
        truth: Truth,
        places: Sequence[Place],
        words: str,
        *,
        breaks: bool = False,
        rescued: bool = False,
    ) -> None:
        """Notes a statement that holds or may hold; `places` from 0."""
        if truth is False:
            return
        if truth is None:
            self._depends(name, [(k, i) for k, i in places if self.tones[k][i] == "?"])
        shown = tuple((k + 1, i + 1) for k, i in places)
        self.findings.append(Finding(name, truth is True, breaks, rescued, shown, words))

    def _depends(self, name: str, places: Iterable[Place]) -> None:
        for place in places:
            names = self.matters.setdefault(place, [])
            if name not in names:
                names.append(name)

    # tones

    def _deviations(self, types: str, plain: list[list[Truth]], met: list[list[Truth]]) -> None:
        """拗句 and their rescue; 小拗; what the tones depend on."""
        for k, kind in enumerate(types):
            template, tones, number = verse.line_template(kind, len(self.lines[k])), self.tones[k], k + 1
            here = len(tones)
            off = [(k, i) for i, truth in enumerate(met[k]) if truth is False]
            if off:
                what = ", ".join(
                    f"{self.lines[k][i]} at {i + 1} is {_TONES[tones[i]]} ({self._spelt(k, i)}) where "
                    f"{_TONES[template[i]]} is wanted"
                    for k, i in off
                )
                self._find("拗句", True, off, f"line {number} is off its template: {what}", breaks=True)
            self._depends("tone", [(k, i) for i, truth in enumerate(met[k]) if truth is None and tones[i] == "?"])
            if kind not in _RESCUE:
                continue
            further, _ = _RESCUE[kind]
            four, three = (k, here - 2), (k + further, here - 3)
            if met[k][-2] is None:
                self._depends("tone", [place for place in (four, three) if self.tones[place[0]][place[1]] == "?"])
            if plain[k][-2] is False and met[k][-2] is True and kind == "b":
                words = (
                    f"line {number} ends 仄平仄 for 平仄仄: the level {here - 1} is made good by the oblique {here - 2}"
                )
                self._find("特拗", True, [three, four], words, rescued=True)
            if plain[k][-2] is False and met[k][-2] is True and kind == "a":
                words = (
                    f"line {number} is oblique at {here - 1}, made good by the level {self.lines[k + 1][-3]} at "
                    f"{here - 2} of line {number + 1}"
                )
                self._find("大拗", True, [four, three], words, rescued=True)
            if kind == "a" and tones[-3:-1] == "zp" and met[k][-2]:
                answered = self.tones[k + 1][-3] == "p"
                answer = f"made good by the level {self.lines[k + 1][-3]} at {here - 2} of line {number + 1}"
                words = f"line {number} is oblique at {here - 2}, " + (answer if answered else "which may be left so")
                self._find("小拗", True, [(k, here - 3), *([three] * answered)], words, rescued=answered)

    def _line_faults(self, types: str | None) -> None:
        """孤平 and its avoidance, three equal tones at the end."""
        for k, tones in enumerate(self.tones):
            if len(tones) not in (5, 7):
                continue
            first, number = len(tones) - 5, k + 1
            five = [(k, first + i) for i in range(5)]
            for name, ending, what in (("三平尾", "ppp", "level"), ("三仄尾", "zzz", "oblique")):
                truth = _every(map(_meets, tones[-3:], ending))
                self._find(name, truth, five[2:], f"line {number} ends with three {what} characters")
            if types is not None and types[k] == "B":
                lone = f"line {number} has no level character but {self.lines[k][first + 1]} before the rhyme word"
                self._find("孤平", _every(map(_meets, tones[first:], "zpzzp")), five, lone)
                if tones[first:] == "zppzp":
                    words = f"line {number}: the oblique {first + 1} is made good by the level {first + 3}"
                    self._find("孤平自救", True, [five[0], five[2]], words, rescued=True)

    def _couplets(self, types: str | None, plain: list[list[Truth]], met: list[list[Truth]]) -> None:
        """失对 and 失粘."""
        widths = {len(line) for line in self.lines}
        if len(self.lines) % 2 or widths not in ({5}, {7}):
            return

        def tone(k: int, i: int) -> str:
            if types is not None and types[k] in _RESCUE and i == len(self.tones[k]) - 2 and plain[k][i] is not True:
                return "?" if met[k][i] is None else "p" if met[k][i] is (types[k] == "a") else "z"
            return self.tones[k][i]

        for k in range(len(self.lines) - 1):
            name, opposed = ("失粘", False) if k % 2 else ("失对", True)
            for i in range(1, len(self.lines[0]) - 1, 2):
                one, other = tone(k, i), tone(k + 1, i)
                truth = None if "?" in (one, other) else (one == other) is opposed
                both = f"lines {k + 1} and {k + 2}"
                words = f"{both} {'agree' if opposed else 'differ'} at {i + 1}: {self._pair(k, i)}"
                self._find(name, truth, [(k, i), (k + 1, i)], words)

    def _pair(self, k: int, i: int) -> str:
        marks = {"p": "平", "z": "仄", "?": "中"}
        return " and ".join(f"{self.lines[n][i]} {marks[self.tones[n][i]]}" for n in (k, k + 1))

    # rhyme

    def _rhyme(self) -> tuple[Rhyme, list[tuple[int, Truth]], Truth]:
        """The rhyme; by line, whether an even one's end has its tone and its group at once; whether the first may rhyme."""
        even = range(1, len(self.lines), 2)
        ends = [line[-1] for line in self.choices]
        votes = Counter(group for k in even for group in _level(ends[k]))
        opening, first_seen = _level(ends[0]), list(dict.fromkeys(g for k in even for g in sorted(_level(ends[k]))))
        group = max(first_seen, key=lambda g: (votes[g], g in opening, -first_seen.index(g)), default=None)

        def lies(choices: Choices) -> Truth:
            fits = {r.tone == "平" and (r.tone + r.rhyme == group if r.rhyme else None) for r in choices or _ANY}
            return fits.pop() if len(fits) == 1 else None

        judged = [(k, lies(ends[k])) for k in even]
        shared = frozenset.intersection(*(frozenset(r.tone + r.rhyme for r in ends[k]) for k in even))
        oblique = next((name for name in sorted(shared) if name[0] != "平" and len(name) == 2), None)
        for k, truth in judged:
            place = (k, len(self.lines[k]) - 1)
            level = " ".join(map(verse.rhyme_name, sorted(_level(ends[k]))))
            if group is None:
                words = f"{self.lines[k][-1]} (line {k + 1}) has no level reading"
                words += f"; the poem rhymes in {verse.rhyme_name(oblique)}" if oblique else ""
            else:
                where = f"rhymes in {level}" if level else "has no level reading"
                words = f"{self.lines[k][-1]} (line {k + 1}) {where}, the others in {verse.rhyme_name(group)}"
            if truth is False:
                self._find("出韵", True, [place], words, breaks=True)
            elif truth is None:
                self._depends("rhyme", [place])
        near = _neighbours([ends[k] for k in even])
        target = _classes(Reading("平", group[1])) if group else frozenset()
        first = {bool(_classes(r) & target) if r.rhyme or r.tone != "平" else None for r in ends[0] or _ANY}
        if any(truth is False for _, truth in judged):
            spots = [(k, len(self.lines[k]) - 1) for k in even]
            self._find("邻韵", near, spots, "the rhyme words are neighbours, in one class of 词林正韵")
        for word, count in Counter(line[-1] for line in self.lines[1::2]).items():
            spots = [(k, len(self.lines[k]) - 1) for k in even if self.lines[k][-1] == word]
            if count > 1 and word not in _HOLES:
                self._find("重韵", True, spots, f"the rhyme word {word} stands {count} times", breaks=True)
        rhyme = Rhyme(
            group=group,
            name=verse.rhyme_name(group) if group else None,
            verdict=_VERDICTS[_every(truth for _, truth in judged)],
            neighbours=near,
            oblique=None if group else oblique,
            first=next(iter(first)) if len(first) == 1 else None,
            words=tuple(self._word(k, truth) for k, truth in judged),
            opening=self._word(0, True if first == {True} else None) if True in first or None in first else None,
        )
        return rhyme, judged, True if True in first else None if None in first else False

    def _word(self, k: int, truth: Truth) -> RhymeWord:
        return RhymeWord(k + 1, self.lines[k][-1], tuple(sorted(_level(self.choices[k][-1]))), _VERDICTS[truth])

    def _first_line(self, types: str, rhyme: Rhyme) -> None:
        if types[0].isupper() and rhyme.first is False and rhyme.name:
            end = (0, len(self.lines[0]) - 1)
            groups = " ".join(map(verse.rhyme_name, sorted(_level(self.choices[0][-1]))))
            words = f"line 1 ends level with {self.lines[0][-1]} ({groups}), but does not rhyme in {rhyme.name}"
            self._find("首句", True if self.tones[0][-1] == "p" else None, [end], words)
        if rhyme.first and self.lines[0][-1] in [word.character for word in rhyme.words]:
            spots = [(k, len(line) - 1) for k, line in enumerate(self.lines) if line[-1] == self.lines[0][-1]]
            self._find("首句", True, spots, f"line 1 ends with the rhyme word {self.lines[0][-1]} of another line")

    # what is put together

    def _spelt(self, k: int, i: int) -> str:
        return " ".join("".join(reading) for reading in self.choices[k][i]) or "no known reading"

    def _line(self, k: int, kind: str | None, plain: list[Truth], met: list[Truth]) -> Line:
        text = self.lines[k]
        template = None if kind is None else verse.line_template(kind, len(text))
        characters = []
        for i, character in enumerate(text):
            choices = self.choices[k][i]
            characters.append(
                Character(
                    line=k + 1,
                    position=i + 1,
                    character=character,
                    readings=tuple("".join(reading) for reading in choices),
                    tone=_TONES.get(self.tones[k][i], "either" if choices else "unknown"),
                    wanted=None if template is None else "free" if template[i] == "·" else template[i],
                    verdict=_VERDICTS[met[i]],
                )
            )
        return Line(text, kind, template, _VERDICTS[_every(plain)], _VERDICTS[_every(met)], tuple(characters))

    def _decisions(self) -> Iterator[Decision]:
        for (k, i), names in sorted(self.matters.items()):
            options = tuple("".join(reading) for reading in self.choices[k][i] or _ANY)
            yield Decision(k + 1, i + 1, self.lines[k][i], options, tuple(names))


def _repeats(lines: Sequence[str]) -> Iterator[Repeat]:
    places: dict[str, list[Place]] = {}
    for k, line in enumerate(lines, start=1):
        for i, character in enumerate(line, start=1):
            places.setdefault(character, []).append((k, i))
    for character, found in places.items():
        if len(found) > 1 and character not in _HOLES:
            (k, first) = found[0]
            side_by_side = found == [(k, first + n) for n in range(len(found))]
            yield Repeat(character, side_by_side, tuple(found))


def _same_lines(lines: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    counted = Counter(lines)
    return tuple(
        tuple(k for k, other in enumerate(lines, start=1) if other == line)
        for line in counted
        if counted[line] > 1 and set(line) - set(_HOLES)
    )


# -- in words -------------------------------------------------------------------------------------------------------------

_SIGNS = {"level": "平", "oblique": "仄", "either": "中", "unknown": "？"}
_WANTED = {"p": "平", "z": "仄", "free": "・", None: "　"}
_MARKS = {"broken": "Ｘ", "unknown": "？", "ok": "　"}
_COLOURS = {"broken": "31", "unknown": "33", "rescued": "36"}


def describe(report: Report, *, colours: bool = False) -> str:
    """A report to be read at a terminal: line by line characters, tones, template and marks, then what was found.

    平 level, 仄 oblique, 中 either, ？ unknown; ・ free; Ｘ broken, ？ to be decided, 救 rescued.  `colours` are ANSI ones.
    """

    def paint(text: str, kind: str) -> str:
        return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if colours and kind in _COLOURS else text

    form = verse.FORMS.get(report.form or "")
    rhyme = report.rhyme.name if report.rhyme else None
    verdict = report.verdict or ""
    says = {
        "ok": "keeps its strict form",
        "broken": "breaks its strict form",
        "unknown": f"nothing broken, {len(report.decide)} reading{'s' * (len(report.decide) > 1)} to decide",
        "": "has no tonal template",
    }
    parts = [form.chinese if form else report.form or "no form", report.sequence, rhyme]
    rows = [f"{' · '.join(part for part in parts if part)}: {paint(says[verdict], verdict)}"]
    saved = {
        finding.places[-1 if finding.name == "特拗" else 0] for finding in report.findings if finding.name in _SAVED
    }
    for number, line in enumerate(report.lines, start=1):
        head = f"{number:2} {line.type or ' '}  "
        table: list[list[tuple[str, str]]] = [[(c.character, c.verdict) for c in line.characters]]
        table.append([(_SIGNS[c.tone], c.verdict) for c in line.characters])
        if line.template is not None:
            table.append([(_WANTED[c.wanted], "ok") for c in line.characters])
            marks = [
                ("救", "rescued") if (number, c.position) in saved else (_MARKS[c.verdict], c.verdict)
                for c in line.characters
            ]
            if any(mark != "　" for mark, _ in marks):
                table.append(marks)
        for row in table:
            rows.append((head + " ".join(paint(_two(text), kind) for text, kind in row)).rstrip(" 　"))
            head = " " * len(head)
    rows += [
        f"{paint(finding.name, 'broken' if finding.breaks else 'rescued' if finding.rescued else '')}  {finding.words}"
        for finding in report.findings
        if finding.certain
    ]
    for repeat in report.repeated:
        if not repeat.doubled:
            spots = " ".join(f"{k}:{i}" for k, i in repeat.places)
            rows.append(f"repeated  {repeat.character} at {spots}")
    doubled = " ".join(repeat.character * len(repeat.places) for repeat in report.repeated if repeat.doubled)
    if doubled:
        rows.append(f"doubled  {doubled}")
    rows += [f"the same  lines {' and '.join(map(str, numbers))}" for numbers in report.repeated_lines]
    if report.decide:
        rows.append("readings that a person must decide (--reading LINE:POSITION=READING):")
    for one in report.decide:
        options = " or ".join(one.options)
        rows.append(f"  {one.line}:{one.position} {one.character}  {options}  for {', '.join(one.matters)}")
    return "\n".join(rows)


_SAVED = ("特拗", "大拗")


def _two(text: str) -> str:
    """Padded to the two columns of a Chinese character."""
    return text if unicodedata.east_asian_width(text) in "WF" else text + " "
