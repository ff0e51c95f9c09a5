"""One run: the texts or images of a call, drawn batch by batch.

    for batch in run(model, plan, blanks, seeds):
        for state in batch.states:                       # from the first, before any step, to the last
            ...                                          # row i of the state belongs to batch.blanks[i]

Everything that draws is such a loop: `generate`, `fill`, `stream`, revisions, previews of training, displays and traces.  Rows that
share a batch have the same number of free positions, walk the same levels and draw from streams of their own, so that a text does
not depend on the texts beside it.

A *blank* is what is to be drawn on: a `canvas.Canvas`, or an image with places to fill.  What a batch of blanks is drawn with (the
network, shaped as the plan says, the process, the levels) is its `Scene`; `Writing` makes the scenes of texts, and
`images.Painting` those of images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from textdiff.core.contracts import Model, Predictor, Process, Query, State
from textdiff.core.errors import AskedError
from textdiff.core.levels import count_levels, even_levels
from textdiff.core.loop import halted, sample
from textdiff.core.predictions import Categorical, TokenPredictor, positions_of
from textdiff.core.rng import Rng
from textdiff.networks.fast_float32 import fast_float32
from textdiff.networks.folder import TextModel
from textdiff.pipeline.canvas import Canvas
from textdiff.pipeline.match.law import accepted, exchangeable, pattern_for
from textdiff.pipeline.options import at_least, figures, whole
from textdiff.pipeline.page import condition, together, verse_form
from textdiff.pipeline.plan import Plan
from textdiff.pipeline.writable import keyword_ids, law_of, vocabulary
from textdiff.processes import PROCESSES
from textdiff.samplers import SAMPLERS
from textdiff.samplers.corrector import sweep_levels
from textdiff.samplers.particles import resampled
from textdiff.shaping.match.matched import Accepted, Matched, matching
from textdiff.shaping.tokens import SURE, allowed, banned, guided, nucleus, tempered
from textdiff.verse.constrained import RestrictedPrediction, constrained
from textdiff.verse.law import Law
from textdiff.verse.pattern import kept_to, pattern_of
from textdiff.verse.prosody import place_keyword, preferred

MOST = 1 << 24  # texts or images of one call
BATCH = 64  # rows of a batch, where the caller does not say
COLDEST = SURE  # temperature under strict prosody
STAGE = 1 << 16  # the stream that keywords and patterns are drawn from, before a chain begins
CHOICE = STAGE - 1  # the stream that a particle is chosen from, at the end


class Blank(Protocol):
    """Something to draw on."""

    @property
    def alike(self) -> Hashable:
        """Blanks that are equal in this can share a batch."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What a batch is drawn with; B rows."""

    given: Tensor
    free: Tensor
    predictor: Predictor
    process: Process
    condition: Any
    levels: Iterable[Any]  # that the chain walks down
    start: Tensor | None = None  # x_t of the first state; None: the prior
    level: float = 1.0  # of the first state


Left = Callable[[int], bool]  # whether nobody waits for a text any more, by its number
Scenery = Callable[[Sequence[Any], Rng], Scene]  # (a blank for each row, the rows' streams) -> their scene


@dataclass(frozen=True, eq=False)
class Batch:
    """Some of the blanks of a run, and the states in which they are drawn."""

    rows: tuple[int, ...]  # which blanks of the run these are
    blanks: tuple[Any, ...]  # one for each row of a state: a blank has `each` rows, its candidates and their particles
    each: int
    scene: Scene
    states: Iterator[State]


def run(
    model: Model,
    plan: Plan,
    blanks: Sequence[Blank],
    seeds: Sequence[int],
    *,
    batch_size: int = BATCH,
    scenery: Scenery | None = None,
    streams: Sequence[int] | None = None,
    left: Left | None = None,
) -> Iterator[Batch]:
    """The batches of a run, one after the other: each is to be exhausted before the next.

    seeds: one for each blank.  streams: where several blanks have one seed, which of its streams is theirs (0).  A batch has at
    most `batch_size` rows, or the rows of one blank.  left: asked before every step; blanks that nobody waits for stay as they are.
    """
    at_least("batch_size", whole("batch_size", batch_size), 1)
    made: Scenery = Writing(cast(TextModel, model), plan) if scenery is None else scenery  # blanks are canvases
    size, particles = max(1, batch_size // plan.each), plan.particles or 1
    for members in together([blank.alike for blank in blanks]):
        for k in range(0, len(members), size):
            rows = members[k : k + size]
            repeated = tuple(blanks[i] for i in rows for _ in range(plan.each))
            chains = [
                (seeds[i], ((streams[i] if streams else 0) * plan.best_of + j) * particles + particle)
                for i in rows
                for j in range(plan.best_of)
                for particle in range(particles)
            ]
            chain_seeds, stream = [seed for seed, _ in chains], torch.tensor([number for _, number in chains])
            with torch.inference_mode(), fast_float32():
                scene = made(repeated, Rng(chain_seeds, stream=stream + STAGE, device=model.device))
            gone = None if left is None else _gone(left, rows, plan.each, model.device)
            states = _states(scene, plan, Rng(chain_seeds, stream=stream, device=model.device), gone)
            yield Batch(tuple(rows), repeated, plan.each, scene, states)


def _gone(left: Left, rows: Sequence[int], each: int, device: torch.device) -> Callable[[], Tensor]:
    """Whether nobody waits for a row of a batch any more, (B,) bool; `each` of them belong to one of the blanks `rows`."""
    return lambda: torch.tensor([left(k) for k in rows], device=device).repeat_interleave(each)


def _states(scene: Scene, plan: Plan, rng: Rng, gone: Callable[[], Tensor] | None) -> Iterator[State]:
    particles = plan.particles or 1
    step = resampled(plan.step, particles) if particles > 1 else plan.step
    states = sample(
        scene.given,
        scene.free,
        scene.levels,
        step if gone is None else halted(step, gone),
        predictor=scene.predictor,
        process=scene.process,
        rng=rng,
        condition=scene.condition,
        start=scene.start,
        level=scene.level,
    )
    while True:
        with torch.inference_mode(), fast_float32():  # entered anew for each step: the caller's code runs outside
            state = next(states, None)
        if state is None:
            return
        yield state
        if not SAMPLERS[plan.sampler].stepped and not state.t.any():
            return


def steps_made(states: Iterable[State], look: Callable[[State], object] | None = None) -> tuple[State, Tensor]:
    """The last of the states, and the steps in which each row moved on, (B,); `look` is called with every state."""
    before: State | None = None
    made: Any = None
    for state in states:
        if look is not None:
            look(state)
        if before is None:
            made = torch.zeros_like(state.forwards)
        else:
            made = made + ((state.t != before.t).flatten(1).any(-1) | (state.forwards != before.forwards)).long()
        before = state
    assert before is not None, "a chain has a first state"
    return before, made


def seeds_of(seed: int | Sequence[int], n: int | None, generator: torch.Generator | None) -> list[int]:
    """One seed for each of n texts or images: seed, seed + 1, …; those of a list; or what a caller's generator draws."""
    at_least("n", n, 1, MOST)
    if generator is not None:
        drawn: list[int] = torch.randint(2**62, (n or 1,), generator=generator, device=generator.device).tolist()
        return drawn
    dimensions: int = getattr(seed, "ndim", 1)  # a number of numpy or torch has none
    if isinstance(seed, Iterable) and dimensions:
        seed = list(seed)
        if len(seed) != (n or len(seed)) or not seed:
            raise AskedError(
                f"seed has {len(seed)} values for {n or 'no'} texts; pass one for each, or a single number"
            )
        seeds = [whole("seed", s) for s in seed]
    else:
        seeds = [whole("seed", seed) + k for k in range(n or 1)]
    for one in seeds:
        if not -(2**63) <= one < 2**63:
            raise AskedError(f"seed is {figures(one)}; it must fit into 64 bits")
    return seeds


# -- texts ----------------------------------------------------------------------------------------------------------------


class Writing:
    """Makes the scenes of texts: `Canvas`es drawn by one model and plan."""

    def __init__(self, model: TextModel, plan: Plan):
        self.model, self.plan = model, plan
        self.network = guided(model.predictor(plan.process), plan.guidance, model.untold)
        self.shaped: dict[Hashable, TokenPredictor] = {}  # by what of a canvas they depend on

    def __call__(self, canvases: Sequence[Canvas], rng: Rng) -> Scene:
        model, plan, device = self.model, self.plan, self.model.device
        canvases = [c.under(plan.process) for c in canvases]
        first = canvases[0]
        scene = Scene(
            given=torch.stack([c.ids for c in canvases]).to(device),
            free=torch.stack([c.free for c in canvases]).to(device),
            predictor=self._predictor(canvases),
            process=self._process(first),
            condition=condition(model, canvases),  # the predictor tells its process itself
            levels=(),
        )
        pattern = pattern_for(model, first.form, plan)
        law = law_of(model, first, plan.prosody) if plan.prosody.strict and pattern is None else None
        if plan.options.keyword is not None and pattern is None:
            scene = self._with_keyword(scene, first, law, rng)
        if law is not None:
            scene = self._lawful(scene, law, canvases, rng)
        if pattern is not None:
            scene = self._matching(scene, accepted(model, canvases, pattern, self._banned(first)), rng)
        levels = walked(plan, scene.free.sum(-1), len(first.ids))
        if first.start is None:
            return replace(scene, levels=levels)
        starts = [c.start for c in canvases if c.start is not None]
        start = torch.stack([one.text if one.x is None else one.x for one in starts]).to(device)
        level = first.start.count / int(scene.free[0].sum())
        if first.start.x is None:
            t = scene.free.double() * level
            start = scene.process.corrupt(start, t, scene.process.noise(start, t, rng=rng.branch()))
        down = itertools.dropwhile(lambda s: bool((torch.as_tensor(s) > level - 1e-9).any()), levels)
        return replace(scene, levels=down, start=start, level=level)

    def _predictor(self, canvases: Sequence[Canvas]) -> TokenPredictor:
        """The network, shaped as far as each position goes by itself."""
        canvas = canvases[0]
        model, plan, table = self.model, self.plan, canvas.allowed
        key = (canvas.form, id(table) if table is not None else None)
        if table is None and canvas.kinds is None and key in self.shaped:
            return self.shaped[key]
        predictor = banned(self.network, self._banned(canvas))
        predictor = predictor if table is None else allowed(predictor, table.to(model.device))
        if canvas.kinds is not None:
            kinds = torch.stack([c.kinds[0] for c in canvases if c.kinds is not None]).to(model.device)
            fitting = canvas.kinds[1].to(model.device)
            predictor = allowed(predictor, lambda rows, positions: fitting[kinds[rows, positions]])
        # The likeliest token that fits must still be told from the others where the likeliest of all does not.
        predictor = tempered(predictor, self._temperature(canvas))
        if plan.prosody.preferring:
            characters = vocabulary(model).characters
            form, mask_id = verse_form(canvas), model.mask_id
            predictor = preferred(predictor, form, plan.prosody, characters, mask_id, model.device)
        predictor = predictor if plan.top_p is None else nucleus(predictor, plan.top_p)
        if canvas.kinds is None:
            self.shaped[key] = predictor
        return predictor

    def _banned(self, canvas: Canvas) -> Tensor:
        """The ids that are never written."""
        return vocabulary(self.model).banned(canvas.poem)

    def _temperature(self, canvas: Canvas) -> float:
        """What the logits are divided by: a likeliest text that matches is looked for by the law itself."""
        plan = self.plan
        matching = pattern_for(self.model, canvas.form, plan) is not None
        if matching and plan.temperature == 0 and PROCESSES[plan.process].prosody == "law":
            return 1.0
        return max(plan.temperature, COLDEST if plan.prosody.strict or matching else 0.0)

    def _process(self, canvas: Canvas) -> Process:
        """The plan's process; where its noise may stay in the text, without tokens that are never written."""
        model, name = self.model, self.plan.process
        if "vocabulary" not in PROCESSES[name].needs:
            return model.process(name)
        keep = ~torch.isin(model.content, self._banned(canvas))
        if canvas.allowed is not None:
            keep &= canvas.allowed[canvas.free].any(0).to(keep.device)[model.content]
        return model.process(name) if keep.all() else model.process(name, model.content[keep])

    def _with_keyword(self, scene: Scene, canvas: Canvas, law: Law | None, rng: Rng) -> Scene:
        """The scene with the keyword given, in the line and at the place where the model would have it."""
        ids = keyword_ids(self.model, self.plan.options.keyword or "", canvas.poem)
        length = scene.given.shape[1]
        x = scene.process.prior(scene.given, scene.free, rng=rng.branch())
        form = canvas.form and (canvas.form.host or canvas.form)
        width = form.width if form and form.length == length else length  # else there are line breaks, or no lines
        draft = _everywhere(scene, x)
        given, free = place_keyword(draft, law, ids, scene.given, scene.free, width, rng=rng.branch())
        return replace(scene, given=given, free=free)

    def _lawful(self, scene: Scene, law: Law, canvases: Sequence[Canvas], rng: Rng) -> Scene:
        """The scene under strict prosody: drawn from the law, or by exchanges within a pattern that the law allows."""
        plan = self.plan
        if PROCESSES[plan.process].prosody == "law":
            weigh = plan.particles is not None
            return replace(scene, predictor=constrained(_of_tokens(scene), law, weigh=weigh))
        if canvases[0].start is None:
            x = scene.process.prior(scene.given, scene.free, rng=rng.branch())
            draft = RestrictedPrediction(_everywhere(scene, x), law, scene.free, scene.given).draw(rng=rng.branch())
        else:
            draft = torch.stack([c.start.text for c in canvases if c.start is not None]).to(scene.given.device)
        pattern = pattern_of(law, draft)
        several = plan.steps is not None or not SAMPLERS[plan.sampler].single
        process: Any = scene.process
        return replace(
            scene,
            predictor=kept_to(_of_tokens(scene), pattern, several),
            process=replace(process, tokens=pattern.tokens),
        )

    def _matching(self, scene: Scene, texts: Accepted, rng: Rng) -> Scene:
        """The scene under a pattern: drawn from the texts that match, or by exchanges within classes that a first draft has."""
        plan, predictor = self.plan, _of_tokens(scene)
        if PROCESSES[plan.process].prosody == "law":
            weigh, best = plan.particles is not None, plan.temperature == 0
            return replace(scene, predictor=matching(predictor, texts, weigh, best))
        x = scene.process.prior(scene.given, scene.free, rng=rng.branch())
        draft = Matched(_everywhere(scene, x), texts, scene.free, scene.given).draw(rng=rng.branch())
        process: Any = scene.process
        pattern, several = exchangeable(texts, draft, process.vocabulary)
        return replace(
            scene,
            given=torch.where(scene.free, draft, scene.given),
            free=scene.free & several,
            predictor=kept_to(predictor, pattern, several=False),
            process=replace(process, tokens=pattern.tokens),
        )


def walked(plan: Plan, n: Tensor, most: int) -> Iterable[Any]:
    """The levels that rows of n (B,) free positions walk; without a keyword each row would have `most`."""
    if not PROCESSES[plan.process].counts:
        return even_levels(plan.steps or most)
    levels = count_levels(n, plan.steps)
    if not SAMPLERS[plan.sampler].sweeps:
        return levels
    return itertools.chain(levels, sweep_levels(n, round(plan.sampler_options["sweeps"] * most)))


def _of_tokens(scene: Scene) -> TokenPredictor:
    """The predictor of a scene that `Writing` makes, which is one of tokens."""
    return cast(TokenPredictor, scene.predictor)


def _everywhere(scene: Scene, x: Tensor) -> Categorical:
    """The prediction at level 1 of all free positions, what is given pinned."""
    at = positions_of(scene.free)
    asked = _of_tokens(scene)(Query(x, scene.free.double(), at=at, condition=scene.condition))
    return asked.by_token().pin(scene.given, ~scene.free)
