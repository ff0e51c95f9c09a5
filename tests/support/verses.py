"""Poems written to measure, for the tests of the checker: every tone wanted, one rhyme, and no fault but those asked for."""

from __future__ import annotations

from textdiff.verse import checker, sounds
from textdiff.verse import forms as verse

FORMS = list(verse.FORMS.values())


def of(tone: str, group: str | None = None) -> list[str]:
    """Characters whose one reading has this tone (and group)."""
    return [
        character
        for character, listed in sounds._table().items()
        if len(listed) == 1 and (listed[0].tone == "平") == (tone == "p") and group in (None, listed[0].rhyme)
    ]


RHYMES = of("p", "东")
PLAIN = {"p": [c for c in of("p") if c not in set(RHYMES)], "z": of("z")}


def written(lines: list[str], rhyme_first: bool = False) -> str:
    """A poem of these tones: no character twice, the even lines rhyme in 一东, no other line does but the first if asked."""
    fresh = {tone: iter(found) for tone, found in PLAIN.items()}
    words = iter(RHYMES)
    rows = []
    for k, tones in enumerate(lines):
        row = [next(fresh[tone]) for tone in tones]
        if tones[-1] == "p" and (k % 2 or (k == 0 and rhyme_first)):
            row[-1] = next(words)
        rows.append("".join(row))
    return "\n".join(rows)


# What free positions hold so that nothing is rescued and no fault but the one looked for is there.
QUIET = {"a": "pzppz", "b": "pppzz", "A": "pzzpp", "B": "ppzzp"}


def quiet(kind: str, width: int) -> str:
    five = QUIET[kind]
    return five if width == 5 else "p" + ("z" if five[1] == "p" else "p") + five


def tones(opening: str, form: verse.Form) -> list[str]:
    return [quiet(kind, form.width) for kind in verse.line_types(opening, form.lines)]


def poem(opening: str, form: verse.Form, **lines: str) -> str:
    """A poem without fault but what the lines given (line2="zpzzp") bring into it."""
    rows = tones(opening, form)
    for name, row in lines.items():
        rows[int(name.removeprefix("line")) - 1] = row
    return written(rows, rhyme_first=opening[0].isupper())


def names(report: checker.Report) -> set[str]:
    return {finding.name for finding in report.findings}


def finding(report: checker.Report, name: str) -> checker.Finding:
    (found,) = [found for found in report.findings if found.name == name]
    return found


def changed(text: str, line: int, position: int, character: str) -> str:
    rows = text.split("\n")
    rows[line - 1] = rows[line - 1][: position - 1] + character + rows[line - 1][position:]
    return "\n".join(rows)


WUJUE, QIJUE, WULV, QILV = FORMS
