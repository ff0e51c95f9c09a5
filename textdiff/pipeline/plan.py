"""From options and a model to a plan, in which no choice is left open: the one place where choices are checked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from textdiff.core.contracts import Model, Step
from textdiff.core.errors import AskedError
from textdiff.core.resolve import attribute, unknown
from textdiff.pipeline.options import CHOICES, EACH, QUALITIES, Options, checked_number, defaults_of
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS
from textdiff.shaping.match.expression import parse
from textdiff.verse.forms import get_form
from textdiff.verse.prosody import Prosody

MOST_CHAINS = 4096  # for one text: all are in memory together, and their streams lie below `run.CHOICE`


@dataclass(frozen=True, eq=False)
class Plan:
    """How texts or images are drawn by one model, every choice made."""

    options: Options  # what the caller chose
    process: str
    sampler: str
    sampler_options: dict[str, Any]  # all that the sampler has
    step: Step
    steps: int | None  # None: one position at a time
    temperature: float
    top_p: float | None
    guidance: float
    prosody: Prosody
    particles: int | None
    best_of: int

    @property
    def match(self) -> str | None:
        """The expression that texts match."""
        return self.options.match

    @property
    def each(self) -> int:
        """Chains for each text that is given."""
        return self.best_of * (self.particles or 1)


def resolve(options: Options, model: Model, call: str = "generate") -> Plan:
    """The choices of a call (generate, fill or refine) with a model; AskedError for what cannot be."""
    check_call(options, model, call)
    values = PROCESSES[model.processes[0]].data == "values"
    defaults = defaults_of(model)
    quality = QUALITIES[_known("quality", options.quality or "good", QUALITIES)]
    process, sampler = _process_and_sampler(options, defaults, model)
    entry, way = PROCESSES[process], SAMPLERS[sampler]

    steps = quality.get("steps", defaults.steps) if options.steps is None else options.steps
    if not way.stepped and options.steps is not None:
        raise AskedError(
            f"steps is {options.steps}, but sampler {sampler!r} takes as many as its bound asks; "
            f"leave steps out, and allow more per step with its option {', '.join(way.options)}"
        )
    if steps == EACH and values:
        raise AskedError(f"steps is {EACH!r}, which is for texts; pass a number, or leave it out")
    steps = entry.steps if steps is None else steps

    numbers = {name: _first(options, defaults, name) for name, one in CHOICES.items() if one.type in (int, float)}
    numbers = {name: checked_number(name, value) for name, value in (numbers | {"steps": steps}).items()}
    steps = numbers["steps"]
    _check_words(options, defaults)
    count = None if steps is None or steps == EACH or not way.stepped else int(steps)

    prosody = Prosody.parse(
        _first(options, defaults, "prosody"), options.tones, options.rhyme, options.avoid, bool(options.no_repeat)
    )
    _check_prosody(prosody, options, process, sampler, count)
    _check_match(prosody, options, process, call)
    if entry.prosody == "pattern":  # the draft's rhyme words, old ones and new ones meet while words are exchanged
        prosody = replace(prosody, room=3)
    usual = sampler == defaults.sampler and options.sampler_options is None
    chosen = _sampler_options(sampler, (defaults if usual else options).sampler_options)
    best_of = numbers["best_of"] if options.best_of is not None else quality.get("best_of", numbers["best_of"])
    chains = (best_of or 1) * (numbers["particles"] or 1)
    if chains > MOST_CHAINS:
        names = " × ".join(name for name in ("best_of", "particles") if (numbers[name] or 1) > 1)
        raise AskedError(f"{names} is {chains} chains for one text; ask for at most {MOST_CHAINS}")
    return Plan(
        options=options,
        process=process,
        sampler=sampler,
        sampler_options=chosen,
        step=attribute(way.path)(**chosen),
        steps=count,
        temperature=1.0 if numbers["temperature"] is None else float(numbers["temperature"]),
        top_p=None if numbers["top_p"] is None else float(numbers["top_p"]),
        guidance=1.0 if options.guidance is None else float(options.guidance),
        prosody=prosody,
        particles=numbers["particles"],
        best_of=best_of or 1,
    )


def by_process(plan: Plan, process: str) -> Plan:
    """The plan with another process, drawn by the sampler that is usual there."""
    sampler = PROCESSES[process].first
    options = _sampler_options(sampler, None)
    step = attribute(SAMPLERS[sampler].path)(**options)
    return replace(plan, process=process, sampler=sampler, sampler_options=options, step=step)


def check_defaults(model: Model) -> None:
    """AskedError where a model's defaults (of textdiff.json, or of a recipe) are none that the model could draw with."""
    resolve(Options(), model)


def check_call(options: Options, model: Model, call: str) -> None:
    """AskedError for a choice that is for another kind of model, or for another call."""
    kind = "image" if PROCESSES[model.processes[0]].data == "values" else "text"
    for name, value in options.given().items():
        one = CHOICES[name]
        if one.kind not in ("both", kind):
            raise AskedError(f"{name} is for {one.kind}s, and {model.name} is a model of {kind}s; leave it out")
        if call not in one.calls:
            raise AskedError(f"{name} is {value!r}, which is for {' and '.join(one.calls)}; leave it out of {call}")


def process_of(model: Model, name: str | None) -> str:
    """A process that the model serves, its usual one where none is named."""
    served = model.processes
    name = defaults_of(model).process or served[0] if name is None else name
    _known("process", name, PROCESSES)
    if name not in served:
        raise AskedError(f"model {model.name} serves {', '.join(served)}, not process {name!r}; use one of these")
    return str(name)


# -- parts ----------------------------------------------------------------------------------------------------------------


def _first(options: Options, defaults: Options, name: str) -> Any:
    value = getattr(options, name)
    return getattr(defaults, name) if value is None else value


def _check_words(options: Options, defaults: Options) -> None:
    """AskedError for an option that is no word where it must be, and for a form or script that does not exist."""
    for name, one in CHOICES.items():
        for value in (getattr(options, name), getattr(defaults, name)):
            if value is None or one.type is not str or one.kind == "image":
                continue
            if name == "script":
                _known(name, value, one.words)
            elif name == "form":
                if isinstance(value, str) or not isinstance(value, Sequence):
                    get_form(value)
            elif not isinstance(value, (str, Sequence, Mapping)):
                raise AskedError(f"{name} is {value!r}; it must be a word")


def _known(kind: str, name: Any, table: Any) -> Any:
    if not isinstance(name, str) or name not in table:
        raise unknown(kind, name, table)
    return name


def _process_and_sampler(options: Options, defaults: Options, model: Model) -> tuple[str, str]:
    """A process that the model serves and a sampler that serves the process."""
    usual, sampler = process_of(model, None), options.sampler
    if sampler is not None:
        _known("sampler", sampler, SAMPLERS)
    name = options.process
    if name is None and sampler is not None:
        served = [p for p in (usual, *model.processes) if SAMPLERS[sampler].serves(p)]
        if not served:
            raise AskedError(
                f"sampler {sampler!r} serves {', '.join(SAMPLERS[sampler].processes)}, but model {model.name} only "
                f"{', '.join(model.processes)}; pick another sampler"
            )
        name = served[0]
    name = process_of(model, name)
    if sampler is None:
        sampler = _known("sampler", defaults.sampler or PROCESSES[usual].first, SAMPLERS)
        if name != usual or not SAMPLERS[sampler].serves(name):
            sampler = PROCESSES[name].first
    if not SAMPLERS[sampler].serves(name):
        fitting = ", ".join(s for s, entry in SAMPLERS.items() if entry.serves(name))
        raise AskedError(f"sampler {sampler!r} does not serve process {name!r}; use one of {fitting}")
    return name, sampler


def _sampler_options(sampler: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The sampler's own options, its defaults for what is left out."""
    known = SAMPLERS[sampler].options
    parameters = inspect.signature(attribute(SAMPLERS[sampler].path)).parameters
    for name, value in (options or {}).items():
        if name not in known:
            taken = f"it takes {', '.join(known)}" if known else "it takes none"
            raise AskedError(f"sampler {sampler!r} has no option {name!r}; {taken}")
        word = isinstance(parameters[name].default, str)
        if not isinstance(value, str if word else Real):
            raise AskedError(
                f"option {name} of sampler {sampler} is {value!r}; expected {'a word' if word else 'a number'}"
            )
    return {name: parameters[name].default for name in known} | dict(options or {})


def _check_prosody(prosody: Prosody, options: Options, process: str, sampler: str, steps: int | None) -> None:
    """AskedError where tones, rhyme and the like cannot be kept by a process or sampler."""
    entry, way, particles = PROCESSES[process], SAMPLERS[sampler], options.particles
    if prosody.strict and entry.prosody is None:
        keeping = ", ".join(name for name, one in PROCESSES.items() if one.prosody is not None)
        raise AskedError(
            f"strict prosody is kept by the processes {keeping}, not {process!r}; pick one, or prosody='prefer'"
        )
    if prosody.preferring and entry.data != "tokens":
        raise AskedError(
            f"prosody='prefer' goes by the tokens that stand, and in process {process!r} none does; use another process"
        )
    if entry.prosody == "pattern":
        if prosody.strict and way.noise == "mixed":
            raise AskedError(
                f"sampler {sampler!r} mixes new noise with old, which could bring a rhyme word in twice; use another sampler "
                f"for the {process} process under strict prosody, such as {entry.first!r}, or the mask process"
            )
        if prosody.no_repeat and (steps is not None or not way.single):
            raise AskedError(
                f"no_repeat under the {process} process needs single edits, not sampler {sampler!r} with steps {steps}; "
                f"use sampler {entry.first!r} with steps='each', or the mask process"
            )
    weighed = (prosody.strict or options.match is not None) and entry.prosody == "law" and not way.sweeps
    if particles is not None and not weighed:
        raise AskedError(
            f"particles is {particles}, which serves strict prosody under the mask process, or match, and any sampler but gibbs; "
            f"leave it out, or ask for prosody='strict'"
        )


def _check_match(prosody: Prosody, options: Options, process: str, call: str) -> None:
    """AskedError for an expression that is none, or that cannot be kept together with the other choices."""
    if options.match is None:
        return
    parse(options.match)
    keeping = [name for name, one in PROCESSES.items() if one.prosody == "law" or (one.prosody and call != "refine")]
    if process not in keeping:
        raise AskedError(
            f"match is kept by the processes {', '.join(keeping)} here, not {process!r}; pick one of these"
        )
    if prosody.no_repeat:
        raise AskedError("match and no_repeat are not kept together; leave one of them out")
