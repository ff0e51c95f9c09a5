"""Generated poems beside real ones: every metric of `poems` for both, with intervals, as a table, JSON and a picture.

The intervals (`intervals`) treat poems as independent draws:

    a metric that is yes or no for each poem          Wilson's interval
    a metric that is a number for each poem           the interval of the mean
    a metric that only a whole list of poems has      the interval of the jackknife

The metrics of a whole list depend on the number of poems, so we take them over the first n poems of either side, where n is
500, or less if one side has less.  A bootstrap would be wrong here, because a list that holds a poem twice is less diverse.
Malformed poems count in `format` and nowhere else.
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

FIRST = 500  # poems over which the metrics of a whole list are taken
ALARM = 2.0  # times the rate at which real poems copy; above it the report warns


# -- what is read ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Poems:
    """The poems of a file by form: {"wuyan-jueju": [poem, …]}, the numbers of malformed ones, and of texts without a form."""

    whole: dict[str, list[Poem]]
    malformed: dict[str, int]
    formless: int = 0  # texts that name no form and have the shape of none

    @classmethod
    def sort(cls, records: Iterable[Mapping[str, Any]]) -> Poems:
        """Sorts records with a "text" and perhaps a "form".  If all others have one form, a formless text is malformed there."""
        whole: dict[str, list[Poem]] = {}
        malformed: dict[str, int] = {}
        formless = 0
        for record in records:
            text = record["text"] if isinstance(record["text"], str) else ""
            name = record.get("form")
            form = FORMS.get(name) or get_form(name) if name else guess_form(text)
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
    if metrics.well_formed([poem], form)[0]:  # data files have poems in this shape, and this test is much faster
        return poem
    try:
        poem = tuple(form.split(text))
    except ValueError:
        return None
    return poem if metrics.well_formed([poem], form)[0] else None


@dataclass(frozen=True)
class Background:
    """What generated and real poems are both compared with.  Each part may be missing; the rows that need it are left out then."""

    train: Train | None = None
    association: Association | None = None
    model: KneserNey | None = None
    validation: Mapping[str, Sequence[Poem]] = field(default_factory=dict)  # by form

    @classmethod
    def of(
        cls, train: Sequence[Poem] | None = None, validation: Mapping[str, Sequence[Poem]] | None = None
    ) -> Background:
        """Learns from the train poems of all forms; `validation` are the validation poems by form."""
        if not train:
            return cls(validation=validation or {})
        return cls(Train.index(train), Association.learn(train), KneserNey.fit(train), validation or {})


# -- what is measured -----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A metric: `of(poems, background, others)` gives its values, or None where it cannot be had; foils come from `others`."""

    name: str
    of: Callable[[Sequence[Poem], Background, Sequence[Poem]], Values | float | None]
    first: bool = False  # whether it needs lists of equal length, and so the first n poems only


def _alone(name: str, of: Callable[..., Values | float], *more: Any, first: bool = False) -> Row:
    return Row(name, lambda poems, background, others: of(poems, *more), first)


def _copied(name: str, of: Callable[[Sequence[Poem], Train], Values]) -> Row:
    return Row(
        name, lambda poems, background, others: None if background.train is None else of(poems, background.train)
    )


def _parallel(poems: Sequence[Poem], background: Background, others: Sequence[Poem]) -> Values | None:
    if background.association is None or len(poems[0]) != 8 or len(set(others)) < 2:
        return None
    return metrics.parallel_accuracy(poems, background.association, others)


def _js(poems: Sequence[Poem], background: Background, others: Sequence[Poem]) -> float | None:
    return metrics.js_unigram(poems, others) if background.validation else None


def _fluency(poems: Sequence[Poem], background: Background, others: Sequence[Poem]) -> Values | None:
    return None if background.model is None else metrics.fluency(poems, background.model)


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
    """A value, its 95 % interval (None where there is none) and the number of poems that it comes from."""

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
    """Every metric that can be had of well-formed poems of one form; those of a whole list take the first `first` poems."""
    measures: dict[str, Measured] = {}
    for row in ROWS if poems else ():
        part = poems[:first] if row.first else poems
        if row.first and len(part) < (2 if row.name.startswith("self_bleu") else 1):
            continue
        values = row.of(part, background, others)
        if values is None:
            continue
        if row.first:
            measures[row.name] = _jackknife(lambda some, row=row: row.of(some, background, others), part)  # type: ignore[misc]
        else:
            measures[row.name] = _mean(np.asarray(values), rate=row.name in RATES)
    return measures


def _mean(values: Values, rate: bool) -> Measured:
    n = len(values)
    return Measured(*(intervals.share(float(values.mean()), n) if rate else intervals.mean(values)), n)


def _jackknife(of: Callable[[Sequence[Poem]], Values | float], poems: Sequence[Poem]) -> Measured:
    """The jackknife over groups: of G groups, group k holds every G-th poem from k on."""

    def value(some: Sequence[Poem]) -> float:
        return float(np.mean(of(some)))

    groups = intervals.groups_of(len(poems))
    without = [value([p for i, p in enumerate(poems) if i % groups != k]) for k in range(groups)] if groups > 1 else []
    return Measured(*intervals.jackknife(value(poems), without), len(poems))


# -- side by side ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """The generated and the real poems of one form: every metric of either side."""

    form: str
    generated: dict[str, Measured]
    real: dict[str, Measured]
    first: int  # poems of either side over which the metrics of a whole list are taken

    def alarms(self) -> list[str]:
        """Warnings about copies at more than twice the rate of real poems, and about every near copy."""
        warnings = []
        for name in ("copied_lines", "copied_4grams"):
            if name in self.generated and name in self.real:
                ours, theirs = self.generated[name].value, self.real[name].value
                if ours > ALARM * theirs:
                    warnings.append(
                        f"{self.form}: {name} is {ours:.3f}, more than twice that of real poems ({theirs:.3f})"
                    )
        if "near_copies" in self.generated and (near := self.generated["near_copies"]).value:
            copies = round(near.value * near.n)
            whole = round(self.generated["exact"].value * near.n)
            warnings.append(
                f"{self.form}: {copies} of {near.n} poems are near copies of a train poem ({metrics.NEAR:.0%} of the "
                f"4-grams or more), {whole} of them word for word"
            )
        return warnings


def compare(samples: Poems, reference: Poems, background: Background) -> list[Comparison]:
    """The comparisons of the forms that samples and reference share; foils and the characters of js_unigram come from validation.

    Without validation poems the foils come from the reference poems, and js_unigram is left out.
    """
    shared = [name for name in FORMS if {name} <= {*samples.whole, *samples.malformed} and reference.of(name)]
    if not shared:
        raise AskedError(
            f"samples have forms {sorted({*samples.whole, *samples.malformed}) or 'none'}, reference poems "
            f"{sorted(reference.whole) or 'none'}; pass poems of the same form"
        )
    if background.validation and (absent := [name for name in shared if not background.validation.get(name)]):
        raise AskedError(f"validation has no poems of {', '.join(absent)}; pass some, or leave --validation out")
    comparisons = []
    for name in shared:
        others = background.validation.get(name) or reference.of(name)
        first = min(FIRST, len(samples.of(name)), len(reference.of(name)))
        generated, real = (
            _format(side, name) | measure(side.of(name), background, others, first=first)
            for side in (samples, reference)
        )
        comparisons.append(Comparison(name, generated, real, first))
    return comparisons


def _format(side: Poems, form: str) -> dict[str, Measured]:
    whole = len(side.of(form))
    n = whole + side.malformed.get(form, 0)
    return {"format": Measured(*intervals.share(whole / n, n), n)}


def alarms(comparisons: Sequence[Comparison], samples: Poems) -> list[str]:
    """The warnings of all forms, and those about samples that no form or no reference poem fits."""
    warnings = [alarm for one in comparisons for alarm in one.alarms()]
    if samples.formless:
        warnings.append(f"{samples.formless} samples have the shape of no form and name none; they are left out")
    if left := sorted({*samples.whole, *samples.malformed} - {one.form for one in comparisons}):
        warnings.append(f"no reference poem has the form of the samples of {', '.join(left)}; they are left out")
    return warnings


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
    """The comparison as text: a line for each metric, with the value and the interval of either side."""
    ours, theirs = one.generated["format"].n, one.real["format"].n
    title = f"{one.form}: {ours} generated, {theirs} real; * over the first {one.first} of each; 95 % intervals"
    starred = {row.name for row in ROWS if row.first}
    lines = [title, f"  {'':19} {'generated':24} real"]
    for name, real in one.real.items():
        generated = intervals.written(one.generated[name].interval) if name in one.generated else "-"
        lines.append(f"  {name + '*' * (name in starred):19} {generated:24} {intervals.written(real.interval)}")
    return "\n".join(lines)


def plot(comparisons: Sequence[Comparison], path: str | Path) -> None:
    """Draws the comparison into a file: a column for each form, shares above nats; needs matplotlib."""
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
