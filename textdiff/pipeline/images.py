"""Images from a model, one call each: make new ones, fill regions, restore degraded ones, watch.

    pipe = textdiff.load("runs/digits-ddpm/model")
    pipe.generate(64, label=3, steps=50, sampler="ddpm", seed=0).images           # (64, C, H, W) in [−1, 1]

Image k of a call with seed s is image 0 of the call with seed s + k, whatever batch it stands in, up to the last digits of
float32 (a network's products are rounded by the size of the batch).  The calls take their options as those of texts do, and are
drawn by the same `run`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, State
from textdiff.core.errors import AskedError, ModelError
from textdiff.core.levels import even_levels
from textdiff.core.rng import Rng
from textdiff.networks.devices import on_cpu
from textdiff.networks.images import ImageModel
from textdiff.pipeline.options import Options, changed
from textdiff.pipeline.plan import Plan, check_defaults, resolve
from textdiff.pipeline.run import BATCH, Batch, Scene, run, seeds_of, steps_made
from textdiff.shaping.analytic import NoisePower
from textdiff.shaping.analytic import analytic as widened
from textdiff.shaping.tokens import guided, pinned

Label = str | int | None
Callback = Callable[[State], object]
Shape = Callable[[Predictor], Predictor]


@dataclass(frozen=True, eq=False)
class Drawing:
    """An image that was drawn, and what it cost."""

    image: Tensor  # (C, H, W), about [−1, 1]
    label: Label
    seed: int
    sampler: str
    process: str
    steps: int  # that were made
    guidance: float
    forwards: int  # predictor evaluations
    model: str


class Drawn(list[Drawing]):
    """The images of a call, also as tensors."""

    @property
    def images(self) -> Tensor:
        """(N, C, H, W), about [−1, 1]."""
        return torch.stack([one.image for one in self])

    @property
    def forwards(self) -> Tensor:
        """(N,) predictor evaluations."""
        return torch.tensor([one.forwards for one in self])

    @property
    def seeds(self) -> tuple[int, ...]:
        """(N,) seeds."""
        return tuple(one.seed for one in self)


@dataclass(frozen=True, eq=False)
class Frame:
    """A place for an image: what is given there, and what is to be drawn."""

    given: Tensor  # (C, H, W)
    known: Tensor | None  # (1, H, W) bool, where `given` stands; None: nowhere
    label: Label
    level: float | None = None  # `given` is an image degraded to this level, and the chain starts from it

    @property
    def alike(self) -> Hashable:
        """Frames that are equal in this can share a batch."""
        return self.given.shape, self.known is None, self.level


@dataclass(frozen=True, eq=False)
class ImagePipeline:
    """A model of images, and the calls that use it."""

    model: ImageModel

    @classmethod
    @on_cpu
    def from_pretrained(cls, model: str | os.PathLike[str], device: torch.device | str = "cpu") -> ImagePipeline:
        """A model folder, or a hub id.  ModelError says what is wrong with it."""
        return cls.of(ImageModel.from_pretrained(model, device))

    @classmethod
    @on_cpu
    def of(cls, model: ImageModel) -> ImagePipeline:
        """The pipeline of a model that is loaded already; ModelError where its defaults do not hold."""
        try:
            check_defaults(model)
        except ValueError as error:
            raise ModelError(f"{model.name}: the defaults of textdiff.json do not hold: {error}") from error
        return cls(model)

    @on_cpu
    def generate(
        self,
        n: int | None = None,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = BATCH,
        callback: Callback | None = None,
        shape: Shape | None = None,
        **changes: Any,
    ) -> Drawn:
        """n new images, image k from seed + k; `seed` may be the list of all seeds.

        `options` and `changes` of it say how they are drawn (`Options`); `label` is one for all, or one for each.  After every
        step `callback` is called with the batch's state.  `shape` wraps the predictor last.
        """
        plan = resolve(changed(options, changes), self.model)
        seeds = seeds_of(seed, n, generator)
        return self._collected(self._open(len(seeds), plan), seeds, plan, batch_size, callback, shape)

    @on_cpu
    def fill(
        self,
        images: Tensor,
        known: Tensor,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = BATCH,
        callback: Callback | None = None,
        shape: Shape | None = None,
        **changes: Any,
    ) -> Drawn:
        """`images` (N, C, H, W) kept where `known` (H, W) or (N, 1, H, W) is True, bit for bit, and drawn elsewhere.

        A model trained with holes sees what is known; for any other it is noised along with the rest and put back in
        every step ("replacement").
        """
        plan = resolve(changed(options, changes), self.model, "fill")
        frames = self._frames(images, known, None, plan)
        seeds = seeds_of(seed, len(frames), generator)
        return self._collected(frames, seeds, plan, batch_size, callback, shape)

    @on_cpu
    def restore(
        self,
        images: Tensor,
        level: float = 1.0,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
        batch_size: int = BATCH,
        callback: Callback | None = None,
        shape: Shape | None = None,
        **changes: Any,
    ) -> Drawn:
        """Images (N, C, H, W) that are degraded to `level` already, restored by a model of cold diffusion."""
        plan = resolve(changed(options, changes), self.model, "fill")
        frames = self._frames(images, None, level, plan)
        seeds = seeds_of(seed, len(frames), generator)
        return self._collected(frames, seeds, plan, batch_size, callback, shape)

    @on_cpu
    def degrade(self, images: Tensor, level: float = 1.0, seed: int | Sequence[int] = 0) -> Tensor:
        """x_t of `images` (N, C, H, W) at `level`: what `restore` is given."""
        process = self.model.process(self.model.processes[0])
        t = torch.full((len(images), 1, 1, 1), _level(level), dtype=torch.float64, device=images.device)
        rng = Rng(seeds_of(seed, len(images), None), device=images.device)
        with torch.inference_mode():
            return process.corrupt(images, t, process.noise(images, t, rng=rng))

    @on_cpu
    def stream(
        self,
        n: int | None = None,
        seed: int | Sequence[int] = 0,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
        images: Tensor | None = None,
        known: Tensor | None = None,
        level: float | None = None,
        batch_size: int = BATCH,
        shape: Shape | None = None,
        **changes: Any,
    ) -> Iterator[State]:
        """The states of n new images, or of `images` with `known` to be filled, or with `level` to be restored, batch by batch."""
        plan = resolve(changed(options, changes), self.model, "generate" if images is None else "fill")
        if images is None:
            seeds = seeds_of(seed, n, generator)
            frames = self._open(len(seeds), plan)
        else:
            frames = self._frames(images, known, level, plan)
            seeds = seeds_of(seed, len(frames), generator)
        return (state for batch in self._run(frames, seeds, plan, batch_size, shape) for state in batch.states)

    @on_cpu
    def finished(self, state: State) -> Tensor:
        """The image of a last state: x, or where noise stays in x to the end (cold, σ > 0) the last draft."""
        return state.x0 if self.model.diffusion.sigma else state.x

    # -- parts --------------------------------------------------------------------------------------------------------

    def _run(
        self, frames: Sequence[Frame], seeds: Sequence[int], plan: Plan, batch_size: int, shape: Shape | None
    ) -> Iterator[Batch]:
        painting = Painting(self.model, plan, shape)
        return run(self.model, plan, frames, seeds, batch_size=batch_size, scenery=painting)

    def _collected(
        self,
        frames: Sequence[Frame],
        seeds: Sequence[int],
        plan: Plan,
        batch_size: int,
        callback: Callback | None,
        shape: Shape | None,
    ) -> Drawn:
        drawings: dict[int, Drawing] = {}
        for batch in self._run(frames, seeds, plan, batch_size, shape):
            state, steps = steps_made(batch.states, callback)
            images = self.finished(state).clone()
            for i, k in enumerate(batch.rows):
                drawings[k] = Drawing(
                    image=images[i],
                    label=frames[k].label,
                    seed=seeds[k],
                    sampler=plan.sampler,
                    process=plan.process,
                    steps=int(steps[i]),
                    guidance=plan.guidance,
                    forwards=int(state.forwards[i]),
                    model=self.model.name,
                )
        return Drawn(drawings[k] for k in range(len(frames)))

    def _open(self, n: int, plan: Plan) -> list[Frame]:
        channels, *usual = self.model.shape
        nothing = torch.zeros(channels, *(plan.options.size or usual), device=self.model.device)
        return [Frame(nothing, None, label) for label in self._labels(plan, n)]

    def _frames(self, images: Tensor, known: Tensor | None, level: float | None, plan: Plan) -> list[Frame]:
        if images.ndim != 4 or images.shape[1] != self.model.shape[0]:
            raise AskedError(
                f"images are {tuple(images.shape)}; expected (N, {', '.join(map(str, self.model.shape))}), values in [-1, 1]"
            )
        given = images.to(self.model.device, torch.float32)
        places = [None] * len(given) if known is None else list(_places(known, given))
        labels = self._labels(plan, len(given))
        start = None if level is None else _level(level)
        return [Frame(*one, start) for one in zip(given, places, labels, strict=True)]

    def _labels(self, plan: Plan, n: int) -> list[Label]:
        """A label for each of n images, as the caller wrote it."""
        label = plan.options.label
        labels = [label] * n if label is None or isinstance(label, (str, int)) else list(label)
        if len(labels) != n:
            raise AskedError(f"label has {len(labels)} values for {n} images; pass one for all or one for each")
        self.model.condition(n, labels)
        if plan.options.analytic:
            _table(self.model)
        return labels


class Painting:
    """Makes the scenes of images: `Frame`s drawn by one model and plan."""

    def __init__(self, model: ImageModel, plan: Plan, shape: Shape | None):
        self.model, self.plan, self.shape = model, plan, shape
        self.network = guided(model.predictor(plan.process), plan.guidance, model.untold)

    def __call__(self, frames: Sequence[Frame], rng: Rng) -> Scene:
        model, plan, predictor = self.model, self.plan, self.network
        condition = model.condition(len(frames), [one.label for one in frames])
        given = torch.stack([one.given for one in frames])
        known = [one.known for one in frames if one.known is not None]
        free = torch.ones(len(given), 1, *given.shape[2:], dtype=torch.bool, device=model.device)
        assert plan.steps is not None, "a plan for images has a number of steps"
        level = frames[0].level
        highest = 1.0 if level is None else level
        if plan.options.analytic:
            predictor = widened(predictor, _table(model), model.schedule, last=highest / plan.steps)
        if known and model.diffusion.holes:
            free = ~torch.stack(known)
        elif known:
            predictor = pinned(predictor, given, torch.stack(known))
        return Scene(
            given=given,
            free=free,
            predictor=self.shape(predictor) if self.shape else predictor,
            process=model.process(plan.process, condition),
            condition=condition,
            levels=(highest * one for one in even_levels(plan.steps)),
            start=None if level is None else given,
            level=highest,
        )


def _table(model: ImageModel) -> NoisePower:
    if model.analytic is None:
        raise ModelError(f"model {model.name} has no noise power estimated; train it again, or leave analytic out")
    return model.analytic


def _level(level: float) -> float:
    if not isinstance(level, (int, float)) or not 0 < level <= 1:
        raise AskedError(f"level is {level!r}; it must lie in (0, 1], 1 being degraded as far as can be")
    return float(level)


def _places(known: Tensor, images: Tensor) -> Tensor:
    """(N, 1, H, W) bool."""
    place = known.to(images.device) > 0.5 if known.is_floating_point() else known.to(images.device).bool()
    if place.shape[-2:] != images.shape[-2:]:
        raise AskedError(
            f"the mask is {tuple(known.shape)}, the images are {tuple(images.shape)}; pass (H, W) or (N, 1, H, W)"
        )
    return place.reshape(-1, 1, *place.shape[-2:]).expand(len(images), 1, *place.shape[-2:])
