"""Images from a model, one call each: make new ones, fill regions, restore degraded ones, watch.

    pipe = ImagePipeline.from_pretrained("runs/digits-ddpm/model")
    pipe.generate(64, label=3, steps=50, sampler="ddpm", seed=0).images           # (64, C, H, W) in [−1, 1]

Row k of a call with seed s is row 0 of the call with seed s + k, whatever batch it stands in, up to the last digits of
float32 (a network's products are rounded by the size of the batch).  Everything runs through `samplers.loop.sample`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Predictor, State, Step
from textdiff.core.errors import AskedError, ModelError
from textdiff.core.levels import even_levels
from textdiff.core.loop import sample
from textdiff.core.resolve import attribute, unknown
from textdiff.core.rng import Rng
from textdiff.networks.images import ImageModel
from textdiff.samplers import SAMPLERS
from textdiff.shaping.analytic import NoisePower
from textdiff.shaping.analytic import analytic as widened
from textdiff.shaping.tokens import guided, pinned

STEPS = 50
FIRST_CHOICE = {"gaussian": "ddpm", "cold": "improved"}
Label = str | int | Sequence[str | int | None] | None
Callback = Callable[[State], object]
ByRow = Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn, and what it cost."""

    images: Tensor  # (N, C, H, W), about [−1, 1]
    forwards: Tensor  # (N,) predictor evaluations
    seeds: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ImagePipeline:
    """An ImageModel with its samplers."""

    model: ImageModel

    @classmethod
    def from_pretrained(cls, path_or_id: Any, device: torch.device | str = "cpu") -> ImagePipeline:
        return cls(ImageModel.from_pretrained(path_or_id, device))

    def generate(self, n: int = 1, *, label: Label = None, seed: int = 0, **settings: Any) -> Drawn:
        """n new images; `label` is one for all, or one for each.  `settings` are those of `stream`."""
        return self._collected(n, label, seed, settings)

    def fill(self, images: Tensor, known: Tensor, *, label: Label = None, seed: int = 0, **settings: Any) -> Drawn:
        """`images` (N, C, H, W) kept where `known` (H, W) or (N, 1, H, W) is True, bit for bit, and drawn elsewhere.

        A model trained with holes sees what is known; for any other it is noised along with the rest and put back in
        every step ("replacement").
        """
        return self._collected(len(images), label, seed, settings | {"images": images, "known": known})

    def restore(
        self, images: Tensor, *, label: Label = None, seed: int = 0, level: float = 1.0, **settings: Any
    ) -> Drawn:
        """Images (N, C, H, W) that are degraded to `level` already, restored by a model of cold diffusion."""
        return self._collected(len(images), label, seed, settings | {"images": images, "level": level})

    def degrade(self, images: Tensor, level: float = 1.0, seed: int = 0) -> Tensor:
        """x_t of `images` (N, C, H, W) at `level`: what `restore` is given."""
        process = self.model.process(self.model.processes[0])
        t = torch.full((len(images), 1, 1, 1), level, dtype=torch.float64, device=images.device)
        rng = Rng(range(seed, seed + len(images)), device=images.device)
        return process.corrupt(images, t, process.noise(images, t, rng=rng))

    def stream(
        self,
        n: int = 1,
        *,
        label: Label = None,
        seed: int = 0,
        steps: int | None = None,
        sampler: str | None = None,
        options: Mapping[str, Any] | None = None,
        guidance: float = 1.0,
        images: Tensor | None = None,
        known: Tensor | None = None,
        level: float | None = None,
        analytic: bool = False,
        size: tuple[int, int] | None = None,
        shape: Callable[[Predictor], Predictor] | None = None,
    ) -> Iterator[State]:
        """The states of n images drawn together, the first before any step.

        steps (50, or the model's own default), a sampler of the table that serves the process, with its `options`;
        guidance as in `shaping.guided`; `images` with `known` to be filled, or with `level` to be restored; `analytic`
        draws x̂0 with the deviation that was estimated in training; `size` (H, W) if not the model's; `shape` wraps the
        predictor last.
        """
        model, name = self.model, self.model.processes[0]
        settings = {"steps": steps, "sampler": sampler, "options": options}
        told = dict(model.defaults) | {key: value for key, value in settings.items() if value is not None}
        step = step_of(name, told.get("sampler"), told.get("options"))
        condition = model.condition(n, label)
        process: Any = model.process(name, condition)
        count = int(told.get("steps", STEPS))
        highest = 1.0 if level is None else float(level)
        predictor = guided(model.predictor(name), guidance, model.untold)
        if analytic:
            predictor = widened(predictor, self._table(), model.schedule, last=highest / count)
        channels, *own = model.shape
        height, width = size or own
        given = torch.zeros(n, channels, height, width, device=model.device)
        free = torch.ones(n, 1, height, width, dtype=torch.bool, device=model.device)
        if images is not None:
            given = self._checked(images)
        if known is not None:
            place = _places(known, given)
            if model.diffusion.holes:
                free = ~place
            else:
                predictor = pinned(predictor, given, place)
        predictor = shape(predictor) if shape else predictor
        yield from sample(
            given,
            free,
            (highest * one for one in even_levels(count)),
            step,
            predictor=predictor,
            process=process,
            rng=Rng(range(seed, seed + n), device=model.device),
            condition=condition,
            start=None if level is None else given,
            level=highest,
        )

    def finished(self, state: State) -> Tensor:
        """The image of a last state: x, or where noise stays in x to the end (cold, σ > 0) the last draft."""
        return state.x0 if self.model.diffusion.sigma else state.x

    def _collected(self, n: int, label: Label, seed: int, settings: dict[str, Any]) -> Drawn:
        if n < 1:
            raise AskedError(f"n is {n}; it must be at least 1")
        settings = dict(settings)
        batch, callback = settings.pop("batch_size", 64), settings.pop("callback", None)
        if batch < 1:
            raise AskedError(f"batch_size is {batch}; it must be at least 1")
        whole = {name: settings.pop(name, None) for name in ("images", "known")}
        labels = [label] * n if label is None or isinstance(label, (str, int)) else list(label)
        if len(labels) != n:
            raise AskedError(f"label has {len(labels)} values for {n} images; pass one for all or one for each")
        images, forwards = [], []
        for first in range(0, n, batch):
            rows = slice(first, min(first + batch, n))
            part = {name: _rows(value, rows, n) for name, value in whole.items()}
            with torch.inference_mode():
                for state in self.stream(rows.stop - first, label=labels[rows], seed=seed + first, **part, **settings):
                    if callback is not None:
                        callback(state)
            images.append(self.finished(state))
            forwards.append(state.forwards)
        drawn = torch.cat(images).clone()
        return Drawn(drawn, torch.cat(forwards).clone(), tuple(range(seed, seed + n)))

    def _table(self) -> NoisePower:
        if self.model.analytic is None:
            raise ModelError(
                f"model {self.model.name} has no noise power estimated; train it again, or leave analytic out"
            )
        return self.model.analytic

    def _checked(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.model.shape[0]:
            raise AskedError(
                f"images are {tuple(images.shape)}; expected (N, {', '.join(map(str, self.model.shape))}), values in [-1, 1]"
            )
        return images.to(self.model.device, torch.float32)


def step_of(process: str, sampler: str | None = None, options: Mapping[str, Any] | None = None) -> Step:
    """The step of a sampler that serves `process`; ValueError for a name or an option that does not fit."""
    name = sampler or FIRST_CHOICE[process]
    serving = [key for key, entry in SAMPLERS.items() if process in entry.processes]
    if name not in serving:
        raise unknown(f"sampler of process {process}", name, serving)
    make = attribute(SAMPLERS[name].path)
    parameters = inspect.signature(make).parameters
    for option, value in (options or {}).items():
        if option not in SAMPLERS[name].options:
            raise unknown(f"option of sampler {name}", option, SAMPLERS[name].options)
        if isinstance(parameters[option].default, str) != isinstance(value, str):
            expected = "a word" if isinstance(parameters[option].default, str) else "a number"
            raise AskedError(f"option {option} of sampler {name} is {value!r}; expected {expected}")
    step: Step = make(**(options or {}))
    return step


def _places(known: Tensor, images: Tensor) -> Tensor:
    """(N, 1, H, W) bool."""
    place = known.to(images.device) > 0.5 if known.is_floating_point() else known.to(images.device).bool()
    if place.shape[-2:] != images.shape[-2:]:
        raise AskedError(
            f"the mask is {tuple(known.shape)}, the images are {tuple(images.shape)}; pass (H, W) or (N, 1, H, W)"
        )
    return place.reshape(-1, 1, *place.shape[-2:]).expand(len(images), 1, *place.shape[-2:])


def _rows(value: Any, rows: slice, n: int) -> Any:
    """The part of a tensor that has a row for each image."""
    return value[rows] if value is not None and value.ndim == 4 and len(value) == n else value
