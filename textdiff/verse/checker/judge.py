"""The check itself: from a poem's characters and readings to the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from textdiff.core.errors import AskedError
from textdiff.verse.checker.findings import (
    HOLES,
    NAMES,
    TONES,
    VERDICTS,
    Character,
    Decision,
    Finding,
    Line,
    Place,
    Report,
    Rhyme,
    RhymeWord,
    repeats,
    same_lines,
)
from textdiff.verse.checker.readings import ANY, Choices, choices_of, classes_of, level_groups, mark_of
from textdiff.verse.checker.tones import (
    RESCUE,
    Truth,
    every,
    in_octave,
    in_one_class,
    line_types_of,
    meets,
    plain_tones,
    rescued_tones,
)
from textdiff.verse.forms import FORMS, SEQUENCES, Form, get_form, guess_form, line_template, split_at_punctuation
from textdiff.verse.sounds import Reading, rhyme_name

LONGEST = 10_000  # characters; 离骚 has 2,490


def check(
    text: str, form: str | Form | None = None, *, pronounce: Mapping[int | str, str | Reading] | None = None
) -> Report:
    """Everything of the list in `checker` about one poem, in simplified or (with `opencc`) traditional characters.

    `form` is by default what the shape says.  Of a text of another shape, or of a form without tonal sequences, only that is
    said which needs no template.  `pronounce` decides readings: keys are 'line:position', the number of a character (from 1), or a
    character, for everywhere it stands; values a tone (平 上 去 入, or 仄) or a reading (平寒, Reading('平', '寒')).
    """
    if len(text) > LONGEST:
        raise AskedError(
            f"text has {len(text)} characters and begins {text[:8]!r}; at most {LONGEST} are checked as one poem, give one at a time"
        )
    if form is None:
        form = guess_form(text)
    elif not isinstance(form, Form):
        form = get_form(form)
    if form is not None and form.tune:
        raise AskedError(
            f"form {form.chinese} is a tune of 词, whose tones and rhymes are its own, and what is checked are those of regulated "
            f"verse; leave the form out, or let 'refine --prosody strict' rewrite what breaks the tune"
        )
    lines = form.split(text) if form else split_at_punctuation(text)
    if not lines:
        raise AskedError(f"text {text!r} has no characters; pass a poem")
    return _Check(text, form, lines, choices_of(lines, pronounce or {})).report()


class _Check:
    """The check of one poem: its methods note what holds in `findings` and `matters`, and `report` puts it together."""

    def __init__(self, text: str, form: Form | None, lines: list[str], choices: list[list[Choices]]) -> None:
        self.text, self.form, self.lines, self.choices = text, form, lines, choices
        self.tones = ["".join(map(mark_of, line)) for line in choices]
        self.findings: list[Finding] = []
        self.matters: dict[tuple[int, int], list[str]] = {}  # line and position from 0

    def report(self) -> Report:
        strict = self.form is not None and self.form.name in FORMS
        rhyme, types, sequence = None, None, None
        templates: list[str | None] = [None] * len(self.lines)
        plain: list[list[Truth]] = [[True] * len(line) for line in self.lines]
        met = [list(line) for line in plain]
        if strict:
            rhyme, ends, may_open = self._rhyme()
            types, both_openings = line_types_of(self.tones, may_open)
            plain, met = plain_tones(self.tones, types), rescued_tones(self.tones, types)
            if both_openings:
                plain[0][-1] = met[0][-1] = True
                self._depends("首句入韵", [(0, len(self.lines[0]) - 1)])
            sequence = SEQUENCES[types[:4]][len(self.lines[0]) == 7]
            templates = [line_template(kind, len(line)) for kind, line in zip(types, self.lines, strict=True)]
            self._deviations(types, plain, met)
            for k, truth in ends:
                met[k][-1] = every((met[k][-1], truth))
            self._first_line(types, rhyme)
        elif self.form is not None and self.form.host is not None:
            found, plain, met = in_octave(self.tones, self.form, self.form.host)
            sequence, templates = "平起" if found[0].strip("·")[:1] == "p" else "仄起", list(found)
            for k, template in enumerate(found):
                self._off(k, template, met[k])
        self._couplets(types, plain, met)
        self._line_faults(types)
        order = {name: n for n, name in enumerate(NAMES)}
        self.findings.sort(key=lambda finding: (order[finding.name], finding.places))
        flat = [truth for line in met for truth in line]
        broken = False in flat or any(finding.breaks and finding.certain for finding in self.findings)
        return Report(
            text=self.text,
            form=self.form.name if self.form else None,
            sequence=sequence,
            types=types,
            broken=broken,
            unknown=not broken and None in flat,
            lines=tuple(
                self._line(k, types[k] if types else None, templates[k], plain[k], met[k])
                for k in range(len(self.lines))
            ),
            rhyme=rhyme,
            findings=tuple(self.findings),
            decide=tuple(self._decisions()),
            repeated=tuple(repeats(self.lines)),
            repeated_lines=same_lines(self.lines),
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
            tones, number, here = self.tones[k], k + 1, len(self.lines[k])
            self._off(k, line_template(kind, here), met[k])
            if kind not in RESCUE:
                continue
            further, _ = RESCUE[kind]
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

    def _off(self, k: int, template: str, met: list[Truth]) -> None:
        """What of a line is off its template."""
        tones, off = self.tones[k], [(k, i) for i, truth in enumerate(met) if truth is False]
        if off:
            what = ", ".join(
                f"{self.lines[k][i]} at {i + 1} is {TONES[tones[i]]} ({self._spelt(k, i)}) where {TONES[template[i]]} is wanted"
                for k, i in off
            )
            self._find("拗句", True, off, f"line {k + 1} is off its template: {what}", breaks=True)
        self._depends("tone", [(k, i) for i, truth in enumerate(met) if truth is None and tones[i] == "?"])

    def _line_faults(self, types: str | None) -> None:
        """孤平 and its avoidance, three equal tones at the end."""
        for k, tones in enumerate(self.tones):
            if len(tones) not in (5, 7):
                continue
            first, number = len(tones) - 5, k + 1
            five = [(k, first + i) for i in range(5)]
            for name, ending, what in (("三平尾", "ppp", "level"), ("三仄尾", "zzz", "oblique")):
                truth = every(map(meets, tones[-3:], ending))
                self._find(name, truth, five[2:], f"line {number} ends with three {what} characters")
            if types is not None and types[k] == "B":
                lone = f"line {number} has no level character but {self.lines[k][first + 1]} before the rhyme word"
                self._find("孤平", every(map(meets, tones[first:], "zpzzp")), five, lone)
                if tones[first:] == "zppzp":
                    words = f"line {number}: the oblique {first + 1} is made good by the level {first + 3}"
                    self._find("孤平自救", True, [five[0], five[2]], words, rescued=True)

    def _couplets(self, types: str | None, plain: list[list[Truth]], met: list[list[Truth]]) -> None:
        """失对 and 失粘."""
        widths = {len(line) for line in self.lines}
        if len(self.lines) % 2 or widths not in ({5}, {7}):
            return

        def tone(k: int, i: int) -> str:
            if types is not None and types[k] in RESCUE and i == len(self.tones[k]) - 2 and plain[k][i] is not True:
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
        votes = Counter(group for k in even for group in level_groups(ends[k]))
        opening, first_seen = (
            level_groups(ends[0]),
            list(dict.fromkeys(g for k in even for g in sorted(level_groups(ends[k])))),
        )
        group = max(first_seen, key=lambda g: (votes[g], g in opening, -first_seen.index(g)), default=None)

        def lies(choices: Choices) -> Truth:
            fits = {r.tone == "平" and (r.tone + r.rhyme == group if r.rhyme else None) for r in choices or ANY}
            return fits.pop() if len(fits) == 1 else None

        judged = [(k, lies(ends[k])) for k in even]
        shared = frozenset.intersection(*(frozenset(r.tone + r.rhyme for r in ends[k]) for k in even))
        oblique = next((name for name in sorted(shared) if name[0] != "平" and len(name) == 2), None)
        for k, truth in judged:
            place = (k, len(self.lines[k]) - 1)
            level = " ".join(map(rhyme_name, sorted(level_groups(ends[k]))))
            if group is None:
                words = f"{self.lines[k][-1]} (line {k + 1}) has no level reading"
                words += f"; the poem rhymes in {rhyme_name(oblique)}" if oblique else ""
            else:
                where = f"rhymes in {level}" if level else "has no level reading"
                words = f"{self.lines[k][-1]} (line {k + 1}) {where}, the others in {rhyme_name(group)}"
            if truth is False:
                self._find("出韵", True, [place], words, breaks=True)
            elif truth is None:
                self._depends("rhyme", [place])
        near = in_one_class([ends[k] for k in even])
        target = classes_of(Reading("平", group[1])) if group else frozenset()
        first = {bool(classes_of(r) & target) if r.rhyme or r.tone != "平" else None for r in ends[0] or ANY}
        if any(truth is False for _, truth in judged):
            spots = [(k, len(self.lines[k]) - 1) for k in even]
            self._find("邻韵", near, spots, "the rhyme words are neighbours, in one class of 词林正韵")
        for word, count in Counter(line[-1] for line in self.lines[1::2]).items():
            spots = [(k, len(self.lines[k]) - 1) for k in even if self.lines[k][-1] == word]
            if count > 1 and word not in HOLES:
                self._find("重韵", True, spots, f"the rhyme word {word} stands {count} times", breaks=True)
        rhyme = Rhyme(
            group=group,
            name=rhyme_name(group) if group else None,
            verdict=VERDICTS[every(truth for _, truth in judged)],
            neighbours=near,
            oblique=None if group else oblique,
            first=next(iter(first)) if len(first) == 1 else None,
            words=tuple(self._word(k, truth) for k, truth in judged),
            opening=self._word(0, True if first == {True} else None) if True in first or None in first else None,
        )
        return rhyme, judged, True if True in first else None if None in first else False

    def _word(self, k: int, truth: Truth) -> RhymeWord:
        return RhymeWord(k + 1, self.lines[k][-1], tuple(sorted(level_groups(self.choices[k][-1]))), VERDICTS[truth])

    def _first_line(self, types: str, rhyme: Rhyme) -> None:
        if types[0].isupper() and rhyme.first is False and rhyme.name:
            end = (0, len(self.lines[0]) - 1)
            groups = " ".join(map(rhyme_name, sorted(level_groups(self.choices[0][-1]))))
            words = f"line 1 ends level with {self.lines[0][-1]} ({groups}), but does not rhyme in {rhyme.name}"
            self._find("首句", True if self.tones[0][-1] == "p" else None, [end], words)
        if rhyme.first and self.lines[0][-1] in [word.character for word in rhyme.words]:
            spots = [(k, len(line) - 1) for k, line in enumerate(self.lines) if line[-1] == self.lines[0][-1]]
            self._find("首句", True, spots, f"line 1 ends with the rhyme word {self.lines[0][-1]} of another line")

    # what is put together

    def _spelt(self, k: int, i: int) -> str:
        return " ".join("".join(reading) for reading in self.choices[k][i]) or "no known reading"

    def _line(self, k: int, kind: str | None, template: str | None, plain: list[Truth], met: list[Truth]) -> Line:
        text = self.lines[k]
        characters = []
        for i, character in enumerate(text):
            choices = self.choices[k][i]
            characters.append(
                Character(
                    line=k + 1,
                    position=i + 1,
                    character=character,
                    readings=tuple("".join(reading) for reading in choices),
                    tone=TONES.get(self.tones[k][i], "either" if choices else "unknown"),
                    wanted=None if template is None else "free" if template[i] == "·" else template[i],
                    verdict=VERDICTS[met[i]],
                )
            )
        return Line(text, kind, template, VERDICTS[every(plain)], VERDICTS[every(met)], tuple(characters))

    def _decisions(self) -> Iterator[Decision]:
        for (k, i), names in sorted(self.matters.items()):
            options = tuple("".join(reading) for reading in self.choices[k][i] or ANY)
            yield Decision(k + 1, i + 1, self.lines[k][i], options, tuple(names))
