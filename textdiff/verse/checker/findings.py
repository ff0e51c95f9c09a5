"""What a check of a poem reports: its lines and characters, its rhyme, what holds of it, and which readings matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Place = tuple[int, int]  # line and position, both counted from 1

HOLES = "_□"
TONES = {"p": "level", "z": "oblique"}
VERDICTS = {True: "ok", False: "broken", None: "unknown"}
NAMES = (  # of findings, in the order in which they are reported
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


@dataclass(frozen=True)
class Character:
    """A character of the poem, at `position` of `line`."""

    line: int
    position: int
    character: str
    readings: tuple[str, ...]  # tone and group, 平寒; what was decided, if it was; empty where none is known
    tone: str  # level, oblique, either, unknown
    wanted: str | None  # p, z, free; None without a template
    verdict: str  # ok, broken, unknown: its tone after rescue, and at the end of an even line its rhyme


@dataclass(frozen=True)
class Line:
    """A line; where the poem has no template, `type` and `template` are None and `plain` is 'ok'."""

    text: str
    type: str | None  # a b A B
    template: str | None  # ·z·pz
    plain: str  # ok, broken (拗句), unknown: its tones before rescue
    verdict: str  # ok, broken, unknown: what its characters come to
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
    """A statement of the list in `checker` that holds, or that may hold: then `certain` is False."""

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
    """All that is said of a poem.  `dataclasses.asdict` of it is ready for JSON."""

    text: str
    form: str | None  # a name of forms.FORMS, couplet:7, ...; None for another shape
    sequence: (
        str | None
    )  # 仄起首句入韵, of a couplet 仄起; None where tones have no template: `broken` and `unknown` are False
    types: str | None  # ABbA
    broken: bool  # the strict form is broken under every choice of readings
    unknown: bool  # it is broken under some choices and kept under others
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


def repeats(lines: Sequence[str]) -> Iterator[Repeat]:
    """The characters that stand more than once, in the order in which they first stand."""
    places: dict[str, list[Place]] = {}
    for k, line in enumerate(lines, start=1):
        for i, character in enumerate(line, start=1):
            places.setdefault(character, []).append((k, i))
    for character, found in places.items():
        if len(found) > 1 and character not in HOLES:
            (k, first) = found[0]
            side_by_side = found == [(k, first + n) for n in range(len(found))]
            yield Repeat(character, side_by_side, tuple(found))


def same_lines(lines: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The numbers of lines that are the same, as many tuples as there are such lines."""
    counted = Counter(lines)
    return tuple(
        tuple(k for k, other in enumerate(lines, start=1) if other == line)
        for line in counted
        if counted[line] > 1 and set(line) - set(HOLES)
    )
