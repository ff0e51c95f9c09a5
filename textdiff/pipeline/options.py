"""How a text or an image is drawn: every choice there is, once.

`Options` has a field for each choice.  A field's default says that the caller leaves the choice to the model, and its metadata
(`Choice`) what the choice means, which values it takes, and which calls it is for.  The command line makes its flags of these
fields, the pipelines take them as keywords, and a model folder or a recipe may set some of them as its defaults.  `plan.resolve`
checks them.

Importing this module imports no torch.
"""

from __future__ import annotations

import math
import operator
import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from textdiff.core.errors import AskedError
from textdiff.core.moved import renamed
from textdiff.core.resolve import unknown

if TYPE_CHECKING:
    from textdiff.core.contracts import Model

EACH = "each"  # the number of steps that writes one position at a time
QUALITIES: dict[str, dict[str, int]] = {"draft": {"steps": 8}, "good": {}, "best": {"best_of": 8}}
ALL = ("generate", "fill", "refine", "augment")
JUDGED = ("generate", "fill", "refine")  # the calls whose texts are chosen, or keep a law
NEW = ("generate", "fill")  # the calls that write on an open page
OF_TEXTS = ("form", "title", "dynasty")  # the options that may be others for each text
LARGEST = 2**31 - 1  # of a number that says how much is done
MOST_TEXTS = 1000  # that one call makes of a text, or one job asks for
Forms = str | Sequence[str | None] | None  # of all texts, or one for each; None: what a text's shape says
Words = str | Sequence[str | None] | None  # a word for all texts, or one for each


@dataclass(frozen=True)
class Choice:
    """What is known of one field of `Options`."""

    about: str  # for --help; what stands in brackets holds where the choice is left open
    kind: Literal["text", "image", "both"] = "text"
    calls: tuple[str, ...] = ALL
    type: type = str
    least: float | None = None  # the range of a number; None: no bound
    most: float | None = None
    open_: bool = False  # whether `least` itself is left out
    note: str = ""  # what a message about the range adds
    lasting: bool = False  # whether a model folder may set it as a default
    group: str = ""  # under which heading --help shows it
    metavar: str | None = None
    words: tuple[str, ...] = ()  # the only values, where there are few
    flag: bool = True  # False: the command line has flags of its own for it


def choice(about: str, default: Any = None, **more: Any) -> Any:
    """A field of `Options`."""
    return field(default=default, metadata={"choice": Choice(about, **more)})


@dataclass(frozen=True)
class Options:
    """How texts or images are drawn.  What is left out is the model's default, or what the help of the field says."""

    form: Forms = choice(  # noqa: RUF009  (it makes a field)
        "a form by name, wuyan-jueju or 五言绝句 (the model's default; for fill, the text's shape)", lasting=True
    )
    sampler: str | None = choice("(the model's default)", kind="both", lasting=True)
    steps: int | str | None = choice(
        "a number, or 'each' for one position at a time (the model's default; of a model without one, each)",
        kind="both",
        type=int,
        least=1,
        words=(EACH,),
        lasting=True,
    )
    temperature: float | None = choice(
        "1 is the law of the model itself (the model's default)",
        type=float,
        least=0,
        note=" (1 is the model's own law)",
        lasting=True,
    )
    top_p: float | None = choice(
        "draw from the likeliest tokens that make up this share", type=float, least=0, most=1, open_=True, lasting=True
    )
    process: str | None = choice("(the model's first one)", kind="both", lasting=True)
    sampler_options: Mapping[str, Any] | None = choice(
        "an option of the sampler's own ('textdiff samplers' names them)", kind="both", flag=False, lasting=True
    )
    quality: str | None = choice("draft, good or best: steps and candidates chosen for you (good)", calls=JUDGED)
    best_of: int | None = choice(
        "give the best of N candidates, by prosody and the model's bound",
        type=int,
        least=1,
        metavar="N",
        lasting=True,
        calls=JUDGED,
    )
    title: Words = choice("what the poem is about: its first 8 characters count", group="verse")  # noqa: RUF009
    dynasty: Words = choice("tang or song", group="verse")  # noqa: RUF009
    guidance: float | None = choice(
        "how far towards title and dynasty, or the label; 1 is as trained, 1.5 stronger",
        kind="both",
        type=float,
        group="verse",
    )
    prosody: str | None = choice(
        "tones and rhyme: strict, prefer, prefer:WEIGHT (nats) or off (off)",
        group="verse",
        metavar="MODE",
        lasting=True,
        calls=JUDGED,
    )
    tones: str | None = choice(
        "the same for tones alone, auto (strict), or 平起首句入韵, 仄起, 首句不入韵 …",
        group="verse",
        metavar="MODE|PATTERN",
        calls=JUDGED,
    )
    rhyme: str | None = choice(
        "the same for rhyme alone, auto (strict), or a group of 平水韵 such as 七阳",
        group="verse",
        metavar="MODE|GROUP",
        calls=JUDGED,
    )
    avoid: str | Sequence[str] | None = choice(
        "孤平 (guping), 三平尾 (sanpingwei); with strict tones", group="verse", metavar="FAULT,…", calls=JUDGED
    )
    no_repeat: bool = choice("no character twice", False, type=bool, group="verse", calls=JUDGED)
    keyword: str | None = choice(
        "characters that stand together somewhere, where the model would have them", group="verse", calls=NEW
    )
    particles: int | None = choice(
        "chains a text, resampled by their weights (strict prosody or match, mask process)",
        group="verse",
        type=int,
        least=1,
        metavar="N",
        calls=NEW,
    )
    match: str | None = choice(
        "a regular expression that the whole text matches, always; the lines of a poem are read with a line break between them",
        metavar="REGEX",
    )
    script: str | None = choice(
        "print in these characters, but for given ones (as the model writes, for poems-zh simplified); traditional "
        "ones are made from simplified text, which is lossy (needs textdiff[zh])",
        words=("simplified", "traditional"),
    )
    length: int | None = choice(
        "tokens of a text, for a model without forms", type=int, least=1, calls=("generate",), lasting=True
    )
    acrostic: str | None = choice(
        "characters that stand first in the lines; _ leaves one free", metavar="TEXT", calls=("generate",)
    )
    acrostic_end: str | None = choice(
        "characters that stand last in the lines; _ leaves one free", metavar="TEXT", calls=("generate",)
    )
    acrostic_diagonal: str | None = choice(
        "characters that stand k-th in the k-th of the lines; _ leaves one free", metavar="TEXT", calls=("generate",)
    )
    template: str | None = choice("a text with holes to fill in", calls=("generate",), flag=False)
    label: Any = choice("the class to draw", kind="image", group="images", calls=NEW)  # noqa: RUF009
    analytic: bool = choice(
        "draw with the variance estimated in training", False, kind="image", type=bool, group="images", calls=NEW
    )
    size: tuple[int, int] | None = choice("height and width", kind="image", calls=("generate",), flag=False)

    def __post_init__(self) -> None:
        for name in OF_TEXTS:  # a column of a table has no truth value, and a list has
            value = getattr(self, name)
            if _is_several(value) and not isinstance(value, (list, tuple, Mapping)):
                object.__setattr__(self, name, list(value))
        for f in fields(self):
            if getattr(self, f.name) is not f.default and f.metadata["choice"].kind != "image":
                _check_kind(f.name, f.metadata["choice"], getattr(self, f.name))

    def given(self) -> dict[str, Any]:
        """The choices that are not left open."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


def _check_kind(name: str, one: Choice, value: Any) -> None:
    """AskedError for a value that is of another kind than an option has."""
    if name == "sampler_options" and not isinstance(value, Mapping):
        raise AskedError(f"{name} is {reprlib.repr(value)}; pass a mapping from names to values")
    if name in (*OF_TEXTS, "sampler_options", "avoid"):
        return
    if one.type is str and not isinstance(value, str):
        raise AskedError(f"{name} is {reprlib.repr(value)}; it must be a word")
    if one.type is not str and _is_several(value):
        raise AskedError(
            f"{name} is {reprlib.repr(value)}; it must be {'true or false' if one.type is bool else 'a number'}"
        )


def _is_several(value: Any) -> bool:
    """Whether a value is a list or a column, and neither text nor a number of numpy or torch, which has no dimension."""
    return isinstance(value, Iterable) and not isinstance(value, str) and bool(getattr(value, "ndim", True))


CHOICES: dict[str, Choice] = {f.name: f.metadata["choice"] for f in fields(Options)}


def changed(options: Options | Mapping[str, Any] | None, changes: Mapping[str, Any]) -> Options:
    """The options with some of them changed, by name; an unknown name is an error that names the nearest known one."""
    for name in changes:
        if name not in CHOICES:
            raise unknown("option", name, CHOICES)
    if options is not None and not isinstance(options, Options):  # the sampler options, as version 0.1 called them
        if not isinstance(options, Mapping):
            raise AskedError(f"options is {options!r}; pass an Options")
        renamed("options={…}", "sampler_options={…}")
        return replace(Options(sampler_options=options), **changes)
    return replace(options or Options(), **changes)


def formed(options: Options, form: Forms) -> Options:
    """The options with a form, where one is named beside them."""
    return options if form is None else replace(options, form=form)


def defaults_of(model: Model) -> Options:
    """The options that a model sets."""
    given = dict(model.defaults)
    if "options" in given:  # the name of version 0.1
        given["sampler_options"] = given.pop("options")
    known = {name for name, one in CHOICES.items() if one.lasting}
    for name in given:
        if name not in known:
            raise unknown("default", name, sorted(known))
    return Options(**given)


def whole(name: str, value: Any) -> int:
    """A whole number; AskedError for any other value."""
    try:
        return operator.index(value)
    except TypeError:
        raise AskedError(f"{name} is {value!r}; it must be a whole number") from None


def several(name: str, values: Any, what: str) -> list[Any]:
    """The values as a list; AskedError where they are none that can be gone through."""
    if isinstance(values, (bytes, Mapping)) or not _is_several(values):
        raise AskedError(f"{name} is {values!r}; pass {what}")
    return list(values)


def texts_in(texts: Any) -> list[Any]:
    """The texts of a call, which is given one or several."""
    return [texts] if isinstance(texts, str) else several("texts", texts, "a text, or a list of texts")


def at_least(name: str, value: Any, least: int, most: int | None = None) -> Any:
    """The whole number that a value is, from `least` to `most` (or LARGEST), or None; AskedError for any other value."""
    if value is None:
        return None
    number = whole(name, value)
    if number < least:
        raise AskedError(f"{name} is {figures(number)}; it must be at least {least}")
    if number > (LARGEST if most is None else most):
        why = ", which no run comes to the end of" if most is None else ", as all of them are in memory together"
        raise AskedError(f"{name} is {figures(number)}; it must be at most {LARGEST if most is None else most}{why}")
    return number


def figures(number: int) -> str:
    """A whole number as a message has it; Python itself does not write one of thousands of figures."""
    return str(number) if abs(number) < 10**30 else f"{'-' if number < 0 else ''}10^{math.log10(abs(number)):.0f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def checked_number(name: str, value: Any) -> Any:
    """The value of an option that is a number; AskedError where it is none, or lies outside its range."""
    one = CHOICES[name]
    if value is None or value in one.words:
        return value
    if one.type is int:
        if isinstance(value, str) and one.words:
            raise AskedError(f"{name} is {value!r}; it must be a whole number or {' or '.join(map(repr, one.words))}")
        return at_least(name, value, int(one.least or 0))
    if not _is_number(value):
        raise AskedError(f"{name} is {value!r}; it must be a number")
    try:
        float(value)
    except OverflowError:
        raise AskedError(f"{name} is too large; write a number below {sys.float_info.max:.0e}") from None
    if one.most is not None:
        low, high = one.least or 0, one.most
        if not (low <= value <= high) or (one.open_ and value == low):
            raise AskedError(
                f"{name} is {value}; it must lie in {'(' if one.open_ else '['}{low}, {high}], or be left out"
            )
    elif one.least is not None and not (one.least <= value < math.inf):
        raise AskedError(f"{name} is {value}; it must be at least {one.least}{one.note}")
    elif not math.isfinite(value):
        raise AskedError(f"{name} is {value}; it must be a number")
    return value


ROUNDS = {"rounds": 3, "k": 3, "patience": 2}  # what is done where a revision says nothing of them


@dataclass(frozen=True)
class Task:
    """What a caller wants of a revision; AskedError for what cannot be."""

    rounds: int
    k: int
    patience: int
    candidates: int
    keep: tuple[int, ...]  # lines, from 1
    freeze: tuple[tuple[int, int], ...]  # (line, character), from 1
    variations: int | None
    level: float | None

    def __post_init__(self) -> None:
        for name in ("rounds", "k", "patience"):
            object.__setattr__(self, name, at_least(name, getattr(self, name), 1))
        object.__setattr__(self, "variations", at_least("variations", self.variations, 1, MOST_TEXTS))
        if self.level is not None and self.variations is None:
            raise AskedError(f"level is {self.level}, which is for variations; pass how many, or leave it out")
        if self.level is not None and not 0 < self.level <= 1:
            raise AskedError(
                f"level is {self.level}; it must lie in (0, 1], the share of the free characters drawn anew"
            )


def in_rounds(named: Mapping[str, int | None], variations: int | None) -> dict[str, int]:
    """The numbers of a revision in rounds; AskedError where they are named beside variations, which have no rounds."""
    for name, value in named.items():
        if value is not None and variations is not None:
            raise AskedError(
                f"{name} is {value}, which is for rounds, and variations have none; leave one of the two out"
            )
    return {name: ROUNDS[name] if value is None else value for name, value in named.items()}


def place(where: str | Sequence[int]) -> tuple[int, int]:
    """(line, character) of "LINE:POSITION", or of the pair itself."""
    try:
        line, character = where.split(":") if isinstance(where, str) else where
        return int(line), int(character)
    except (TypeError, ValueError):
        raise AskedError(f"freeze has {where!r}; write LINE:POSITION, such as 3:5") from None
