"""A report in words, to be read at a terminal."""

from __future__ import annotations

import unicodedata

from textdiff.verse.checker.findings import Report
from textdiff.verse.forms import FORMS

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

    form = FORMS.get(report.form or "")
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
