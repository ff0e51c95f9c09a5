"""Generated poems beside real ones: every metric of `poems` for both, with intervals, as a table, JSON and a picture.

The intervals (`intervals`) are over poems:

    a yes or no for each poem           Wilson's
    another number for each poem        the mean's
    a number of the whole list          the jackknife's

Numbers of the whole list are taken over the first n poems of either side, n = 500 or as many as both have, since they depend
on n; a bootstrap would not do, because poems drawn twice make a list less diverse.  Malformed poems count in `format` and
nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from textdiff.core.errors import AskedError
from textdiff.measure import intervals, plots
from textdiff.measure import poems as metrics
from textdiff.measure.counts import KneserNey
from textdiff.measure.grams import Poem, Values
from textdiff.measure.intervals import Interval
from textdiff.measure.poems import Association, Train
from textdiff.verse.forms import FORMS, Form, get_form, guess_form

FIRST = 500  # poems that the numbers of a whole list are taken over
ALARM = 2.0  # times the real rate of copying


# -- what is read ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Poems:
    """The poems of a file by form, and how many had none: {"wuyan-jueju": [poem, …]}, malformed ones by form."""

    whole: dict[str, list[Poem]]
    malformed: dict[str, int]
    formless: int = 0  # no form told, and the shape of none

    @classmethod
    def sort(cls, records: Iterable[Mapping[str, Any]]) -> Poems:
        """From records with "text" and perhaps "form".  If all others are of one form, a formless text is of it, too."""
        whole: dict[str, list[Poem]] = {}
        malformed: dict[str, int] = {}
        formless = 0
        for record in records:
            text = record["text"] if isinstance(record["text"], str) else ""
            told = record.get("form")
            form = FORMS.get(told) or get_form(told) if told else guess_form(text)
            if form is None:
                formless += 1
            elif (poem := _poem(text, form)) is None:
                malformed[form.name] = malformed.get(form.name, 0) + 1
            else:
                whole.setdefault(form.name, []).append(poem)
        known = {*whole, *malformed}
        if len(known) == 1:
            (only,) = known
            malformed[only] = malformed.get(only, 0) + formless
            formless = 0
        return cls(whole, malformed, formless)

    def of(self, form: str) -> list[Poem]:
        """The well-formed poems of a form."""
        return self.whole.get(form, [])


def _poem(text: str, form: Form) -> Poem | None:
    poem = tuple(text.split("\n"))
    if metrics.well_formed([poem], form)[0]:  # as data files have it, and much faster
        return poem
    try:
        poem = tuple(form.split(text))
    except ValueError:
        return None
    return poem if metrics.well_formed([poem], form)[0] else None


@dataclass(frozen=True)
class Background:
    """What generated and real poems are both held against; each part may be missing, and its rows with it."""

    train: Train | None = None
    association: Association | None = None
    model: KneserNey | None = None
    validation: Mapping[str, Sequence[Poem]] = field(default_factory=dict)  # by form

    @classmethod
    def of(
        cls, train: Sequence[Poem] | None = None, validation: Mapping[str, Sequence[Poem]] | None = None
    ) -> Background:
        """From the train poems of all forms, and the validation poems by form."""
        if not train:
            return cls(validation=validation or {})
        return cls(Train.index(train), Association.learn(train), KneserNey.fit(train), validation or {})


# -- what is measured -----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A metric: its values from poems, what is known besides and the poems that foils come from; None where it has none."""

    name: str
    of: Callable[[Sequence[Poem], Background, Sequence[Poem]], Values | float | None]
    first: bool = False  # only on lists of equal length


def _alone(name: str, of: Callable[..., Values | float], *more: Any, first: bool = False) -> Row:
    return Row(name, lambda poems, background, others: of(poems, *more), first)


def _copied(name: str, of: Callable[[Sequence[Poem], Train], Values]) -> Row:
    return Row(name, lambda poems, known, others: None if known.train is None else of(poems, known.train))


def _parallel(poems: Sequence[Poem], known: Background, others: Sequence[Poem]) -> Values | None:
    if known.association is None or len(poems[0]) != 8 or len(set(others)) < 2:
        return None
    return metrics.parallel_accuracy(poems, known.association, others)


def _js(poems: Sequence[Poem], known: Background, others: Sequence[Poem]) -> float | None:
    return metrics.js_unigram(poems, others) if known.validation else None


def _fluency(poems: Sequence[Poem], known: Background, others: Sequence[Poem]) -> Values | None:
    return None if known.model is None else metrics.fluency(poems, known.model)


ROWS = (
    _alone("regulated", metrics.regulated),
    _alone("rhyme_level", metrics.rhyme_level),
    _alone("rhyme_loose", metrics.rhyme_loose),
    _alone("rhyme_all", metrics.rhyme_all),
    _alone("rhyme_share", metrics.rhyme_share),
    _alone("rhyme_distinct", metrics.rhyme_distinct),
    _alone("tone_position", metrics.tone_position),
    _alone("tone_line", metrics.tone_line),
    _alone("tone_poem", metrics.tone_poem),
    _alone("tone_special_line", metrics.tone_line, True),
    _alone("tone_special_poem", metrics.tone_poem, True),
    _alone("all_distinct", metrics.all_distinct),
    _alone("repeat_rate", metrics.repeat_rate),
    _alone("same_line", metrics.same_line),
    Row("parallel_accuracy", _parallel),
    _copied("copied_lines", metrics.copied_lines),
    _copied("copied_4grams", metrics.copied_4grams),
    _copied("nearest_overlap", metrics.nearest_overlap),
    _copied("near_copies", metrics.near_copies),
    _copied("exact", metrics.exact),
    *(_alone(f"distinct_{n}", metrics.distinct, n, first=True) for n in (1, 2, 3)),
    *(_alone(f"self_bleu_{n}", metrics.self_bleu, n, first=True) for n in (2, 3, 4)),
    _alone("entropy", metrics.entropy, first=True),
    Row("js_unigram", _js, first=True),
    Row("fluency", _fluency),
)
RATES = {"format", "regulated", "rhyme_level", "rhyme_loose", "rhyme_all", "rhyme_distinct", "tone_poem"} | {
    *("tone_special_poem", "all_distinct", "same_line", "near_copies", "exact")
}
NATS = {"entropy", "js_unigram", "fluency"}


class Measured(NamedTuple):
    """A value, its 95 % interval (None where there is none) and the number of poems behind it."""

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def interval(self) -> Interval:
        return Interval(*self[:3])


def measure(
    poems: Sequence[Poem], background: Background, others: Sequence[Poem], *, first: int = FIRST
) -> dict[str, Measured]:
    """Every row that can be had for well-formed poems of one form; `first` of them for those of a whole list."""
    found: dict[str, Measured] = {}
    for row in ROWS if poems else ():
        part = poems[:first] if row.first else poems
        if row.first and len(part) < (2 if row.name.startswith("self_bleu") else 1):
            continue
        values = row.of(part, background, others)
        if values is None:
            continue
        if row.first:
            found[row.name] = _jackknife(lambda some, row=row: row.of(some, background, others), part)  # type: ignore[misc]
        else:
            found[row.name] = _mean(np.asarray(values), rate=row.name in RATES)
    return found


def _mean(values: Values, rate: bool) -> Measured:
    n = len(values)
    return Measured(*(intervals.share(float(values.mean()), n) if rate else intervals.mean(values)), n)


def _jackknife(of: Callable[[Sequence[Poem]], Values | float], poems: Sequence[Poem]) -> Measured:
    """Of G groups, group k is every G-th poem from k on."""

    def value(some: Sequence[Poem]) -> float:
        return float(np.mean(of(some)))

    groups = intervals.groups_of(len(poems))
    without = [value([p for i, p in enumerate(poems) if i % groups != k]) for k in range(groups)] if groups > 1 else []
    return Measured(*intervals.jackknife(value(poems), without), len(poems))


# -- side by side ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """One form: each metric of the generated and of the real poems, and what to be alarmed by."""

    form: str
    generated: dict[str, Measured]
    real: dict[str, Measured]
    first: int  # poems behind the numbers of a whole list, on either side

    def alarms(self) -> list[str]:
        """Copying at more than twice the real rate, and any near copy."""
        found = []
        for name in ("copied_lines", "copied_4grams"):
            if name in self.generated and name in self.real:
                ours, theirs = self.generated[name].value, self.real[name].value
                if ours > ALARM * theirs:
                    found.append(
                        f"{self.form}: {name} is {ours:.3f}, more than twice that of real poems ({theirs:.3f})"
                    )
        if "near_copies" in self.generated and (near := self.generated["near_copies"]).value:
            copies = round(near.value * near.n)
            whole = round(self.generated["exact"].value * near.n)
            found.append(
                f"{self.form}: {copies} of {near.n} poems are near copies of a train poem ({metrics.NEAR:.0%} of the "
                f"4-grams or more), {whole} of them word for word"
            )
        return found


def compare(samples: Poems, reference: Poems, background: Background) -> list[Comparison]:
    """Each form that samples and reference both have; foils and characters of js_unigram are the validation poems'.

    Without validation poems the foils are the reference poems, and js_unigram is left out.
    """
    shared = [name for name in FORMS if {name} <= {*samples.whole, *samples.malformed} and reference.of(name)]
    if not shared:
        raise AskedError(
            f"samples have forms {sorted({*samples.whole, *samples.malformed}) or 'none'}, reference poems "
            f"{sorted(reference.whole) or 'none'}; pass poems of the same form"
        )
    if background.validation and (absent := [name for name in shared if not background.validation.get(name)]):
        raise AskedError(f"validation has no poems of {', '.join(absent)}; pass some, or leave --validation out")
    found = []
    for name in shared:
        others = background.validation.get(name) or reference.of(name)
        first = min(FIRST, len(samples.of(name)), len(reference.of(name)))
        generated, real = (
            _format(side, name) | measure(side.of(name), background, others, first=first)
            for side in (samples, reference)
        )
        found.append(Comparison(name, generated, real, first))
    return found


def _format(side: Poems, form: str) -> dict[str, Measured]:
    whole = len(side.of(form))
    n = whole + side.malformed.get(form, 0)
    return {"format": Measured(*intervals.share(whole / n, n), n)}


def alarms(comparisons: Sequence[Comparison], samples: Poems) -> list[str]:
    """All alarms, and samples that no form could be found for."""
    found = [alarm for one in comparisons for alarm in one.alarms()]
    if samples.formless:
        found.append(f"{samples.formless} samples have the shape of no form and name none; they are left out")
    if left := sorted({*samples.whole, *samples.malformed} - {one.form for one in comparisons}):
        found.append(f"no reference poem has the form of the samples of {', '.join(left)}; they are left out")
    return found


def as_json(comparisons: Sequence[Comparison], samples: Poems) -> dict[str, Any]:
    """{"forms": {form: {"first": n, "metrics": {name: {"generated": {value, low, high, n}, "real": …}}}}, "alarms": …}."""
    forms = {
        one.form: {
            "first": one.first,
            "metrics": {
                name: {
                    "generated": one.generated[name]._asdict() if name in one.generated else None,
                    "real": real._asdict(),
                }
                for name, real in one.real.items()
            },
        }
        for one in comparisons
    }
    warnings = alarms(comparisons, samples)
    return {"confidence": 0.95, "forms": forms, "formless": samples.formless, "alarms": warnings}


def table(one: Comparison) -> str:
    """The comparison for reading: a row a metric, value and interval of either side."""
    ours, theirs = one.generated["format"].n, one.real["format"].n
    title = f"{one.form}: {ours} generated, {theirs} real; * over the first {one.first} of each; 95 % intervals"
    starred = {row.name for row in ROWS if row.first}
    lines = [title, f"  {'':19} {'generated':24} real"]
    for name, real in one.real.items():
        generated = intervals.written(one.generated[name].interval) if name in one.generated else "-"
        lines.append(f"  {name + '*' * (name in starred):19} {generated:24} {intervals.written(real.interval)}")
    return "\n".join(lines)


def plot(comparisons: Sequence[Comparison], path: str | Path) -> None:
    """The comparison as a picture: a column of panels a form, shares above, nats below; needs matplotlib."""
    plots.check(path)
    names = [[row for row in ("format", *(r.name for r in ROWS)) if (row in NATS) is nats] for nats in (False, True)]
    shown = [[n for n in part if any(n in one.real for one in comparisons)] for part in names]
    figure = plots.figure(1.5 + 3.2 * len(comparisons), 9)
    axes = figure.subplots(2, len(comparisons), squeeze=False, height_ratios=[max(1, len(part)) for part in shown])
    for column, one in enumerate(comparisons):
        for row, part in enumerate(shown):
            axis = axes[row][column]
            for side, label, colour, shift in (
                (one.real, "real", "tab:gray", 0.15),
                (one.generated, "generated", "tab:red", -0.15),
            ):
                here = [(y, side[name]) for y, name in enumerate(part) if name in side]
                reach = plots.reach(measured.interval for _, measured in here)
                x, ys = [measured.value for _, measured in here], [y - shift for y, _ in here]
                axis.errorbar(x, ys, xerr=reach, fmt="o", ms=4, color=colour, label=label)
            axis.set_yticks(range(len(part)), part if column == 0 else [""] * len(part))
            axis.set_ylim(len(part) - 0.5, -0.5)
            axis.grid(alpha=0.3)
            if row == 0:
                axis.set_title(one.form)
                axis.set_xlim(-0.03, 1.03)
            axis.set_xlabel("nats" if row else "share")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    plots.save(figure, path, dpi=130)
