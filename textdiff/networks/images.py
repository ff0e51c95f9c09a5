"""A saved model of images: what diffusers writes, and `textdiff.json` beside it.

    config.json  diffusion_pytorch_model.safetensors       UNet2DModel.from_pretrained opens them without us
    textdiff.json   {"format": 1, "data": {"shape": [C, H, W], "bins": [low, high, width] or null, "classes": [names]},
                     "processes": [names], "prefix": ["label"] or [], "told": the same, "diffusion": {schedule, factor,
                     output, weighting, degradation, sigma, power, holes}, "defaults": {…}, "analytic": {table} or null}
    terminal.safetensors   of a model that generates by cold diffusion: the law of F_1(x0)

Values stand in [−1, 1].  Beside x_t the network reads the timestep 1000·t of a row's highest level, and where
there are classes a label, (B, 1); the last label, number K of K classes, says nothing (classifier-free guidance).  A
network trained with `holes` sees the levels of the places as one channel more, 0 where an image is known.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from textdiff.core.contracts import Bins, Process, Query
from textdiff.core.errors import AskedError, ModelError
from textdiff.core.predictions import Normal, ValuePredictor
from textdiff.core.resolve import attribute, unknown
from textdiff.core.rng import Rng
from textdiff.core.schedules import STEPS, Schedule, get_schedule
from textdiff.networks.denoiser import denoiser
from textdiff.networks.files import (
    DESCRIPTION,
    check_format,
    check_layers,
    describe,
    describes_images,
    first_line,
    locate,
    not_finite,
    read_json,
)
from textdiff.networks.saving import replacing
from textdiff.processes import PROCESSES, of_data
from textdiff.processes.degradations import Degradation, get_degradation
from textdiff.shaping.analytic import NoisePower, noise_power

TERMINAL = "terminal.safetensors"
RANK = 16  # of the law of F_1(x0)
MOST_VALUES = 1 << 24  # of an image: what is larger was not meant


@dataclass(frozen=True)
class Diffusion:
    """What the process of an image model is built from."""

    schedule: str = "cosine"  # as in schedules.py
    factor: float = 1.0  # of the schedule's signal-to-noise ratio, its root (schedules.shifted)
    output: str = "v"  # of the network: noise, data, v, velocity
    weighting: str = "velocity"  # of the loss: noise, data, velocity, min-snr, bound
    degradation: dict[str, Any] = field(default_factory=dict)  # cold: {name: blur, fade or pixelate, option: value}
    sigma: float = 0.0  # cold: deviation of the noise on top
    power: int = 2  # of the error in the loss; 1 for cold diffusion
    holes: float = (
        0.0  # share of the examples of which a part is known; above 0 the network sees the levels of the places
    )


@dataclass(frozen=True, eq=False)
class ImageModel:
    """A network that finds images in noise, and how textdiff speaks to it."""

    model: nn.Module
    processes: tuple[str, ...]
    shape: tuple[int, int, int]  # C, H, W
    classes: tuple[str, ...]  # names; empty for a model without labels
    bins: Bins | None
    diffusion: Diffusion
    degrade: Degradation | None = None  # F_t where it is not a named one
    terminal: Mapping[str, Tensor] | None = None  # law of F_1(x0): mean (K + 1, D), basis (K + 1, RANK, D)
    analytic: NoisePower | None = None  # for analytic variance
    defaults: Mapping[str, Any] = field(default_factory=dict)
    name: str = "model"

    def __post_init__(self) -> None:
        for process in self.processes:
            if process not in of_data("values"):
                known = ", ".join(of_data("values"))
                raise ModelError(f"{self.name}: process {process!r} is not of images; expected one of {known}")
            if PROCESSES[process].degrades and self.degrade is None and not self.diffusion.degradation:
                raise ModelError(f"{self.name}: process {process} needs a degradation, such as blur, and none is named")

    # -- what training, sampling and pictures need --------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> ImageModel:
        """The same model on a device."""
        return replace(self, model=self.model.to(device))

    def with_network(self, network: nn.Module) -> ImageModel:
        """The same model around another network."""
        return replace(self, model=network)

    def vocabulary(self) -> dict[str, int]:
        """No tokens."""
        return {}

    def guessed(self, process: str) -> float:
        """0: no example sees a first guess."""
        return 0.0

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("label",) if self.classes else ()

    told = prefix

    @property
    def pad_id(self) -> int:
        """The label that says nothing."""
        return len(self.classes)

    @property
    def schedule(self) -> Schedule:
        return get_schedule(self.diffusion.schedule, self.diffusion.factor)

    def condition(self, n: int, label: str | int | Sequence[str | int | None] | None = None) -> Tensor:
        """Labels (n, 1), or (n, 0) where the model knows none; `label` is a name or number, one for all or one a row."""
        labels = [label] * n if label is None or isinstance(label, (str, int)) else list(label)
        if len(labels) != n:
            raise AskedError(f"label has {len(labels)} values for {n} images; pass one for all or one for each")
        numbers = [self.pad_id if one is None else self._number(one) for one in labels]
        return torch.tensor(numbers, dtype=torch.long, device=self.device)[:, None][:, : len(self.prefix)]

    def _number(self, label: str | int) -> int:
        if not self.classes:
            raise AskedError(f"label is {label!r}, but model {self.name} was trained without labels; leave it out")
        if str(label) not in self.classes:
            raise unknown("label", str(label), self.classes)
        return self.classes.index(str(label))

    def untold(self, condition: Tensor) -> Tensor:
        """The condition with nothing said."""
        return torch.full_like(condition, self.pad_id)

    def process(self, name: str, condition: Tensor | None = None) -> Process:
        """The process `name`; where a `terminal` law is known, cold images begin there, by their labels `condition`."""
        entry, diffusion = PROCESSES[self._served(name)], self.diffusion
        parts = {
            "schedule": self.schedule,
            "weighting": diffusion.weighting,
            "bins": self.bins,
            "sigma": diffusion.sigma,
            "terminal": None if self.terminal is None else functools.partial(_terminal, self.terminal, condition),
        }
        if entry.degrades:
            parts["degrade"] = self.degrade or get_degradation(diffusion.degradation)
        built: Process = attribute(entry.path)(**{key: parts[key] for key in entry.needs})
        return built

    def predictor(self, process: str) -> ValuePredictor:
        """The network as the predictor of `process`."""
        self._served(process)
        diffusion, model = self.diffusion, self.model
        schedule = self.schedule if PROCESSES[process].scheduled else None

        def network(levels: Tensor, x_t: Tensor, level: Tensor, condition: Any) -> Tensor:
            seen = x_t
            if diffusion.holes:
                places = levels.expand(len(x_t), 1, *x_t.shape[2:]).to(x_t.dtype)
                seen = torch.cat([x_t, places], 1)
            labels = _labels(condition, self.prefix, self.pad_id, x_t)
            out: Tensor = model(seen, (level * STEPS).to(x_t.dtype), **labels).sample
            if not torch.is_grad_enabled() and not bool(out.isfinite().all()):
                raise not_finite(self.name)
            return out

        def predict(query: Query) -> Normal:
            return denoiser(functools.partial(network, query.t), schedule, diffusion.output, diffusion.power)(query)

        return predict

    def _served(self, process: str) -> str:
        if process not in self.processes:
            raise AskedError(f"model {self.name} serves {', '.join(self.processes)}, not process {process!r}")
        return process

    def fitted(self, x0: Tensor, labels: Tensor | None) -> ImageModel:
        """With the law of F_1(x0), if the process has one: a Gaussian of low rank of all images, and of each class."""
        degrading = [name for name in self.processes if PROCESSES[name].degrades]
        if not degrading:
            return self
        degrade = self.degrade or get_degradation(self.diffusion.degradation)
        ends = degrade(x0, torch.ones(len(x0), 1, 1, 1, dtype=torch.float64)).flatten(1)
        of_class = [] if labels is None else [ends[labels == k] for k in range(len(self.classes))]
        laws = [gaussian(part) for part in (*of_class, ends)]
        mean, basis = (torch.stack(parts) for parts in zip(*laws, strict=True))
        return replace(self, terminal={"mean": mean, "basis": basis})

    def measured(self, x0: Tensor, condition: Tensor, levels: int = 50) -> ImageModel:
        """With the noise power of the network on x0 (N, C, H, W), for analytic variance, if its process has a schedule."""
        served = [name for name in self.processes if PROCESSES[name].scheduled]
        if not served:
            return self
        places = [1 / STEPS, 5 / STEPS, *((k + 1) / levels for k in range(levels))]
        survives = self.schedule(torch.tensor(places, dtype=torch.float64))[0] > 0  # at level 1 of flow nothing does
        places = [place for place, left in zip(places, survives.tolist(), strict=True) if left]
        predictor, seeds = self.predictor(served[0]), torch.arange(len(x0), device=x0.device)
        return replace(
            self, analytic=noise_power(predictor, self.schedule, x0, places, seeds=seeds, condition=condition)
        )

    # -- files --------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder, whole or not at all, as `TextModel.save_pretrained` does."""
        description = {
            "data": {
                "shape": list(self.shape),
                "bins": None if self.bins is None else [self.bins.low, self.bins.high, self.bins.width],
                "classes": list(self.classes),
            },
            "processes": list(self.processes),
            "prefix": list(self.prefix),
            "told": list(self.told),
            "diffusion": asdict(self.diffusion),
            "defaults": dict(self.defaults),
            "analytic": None if self.analytic is None else self.analytic.to_dict(),
        }
        network: Any = self.model
        with replacing(Path(folder)) as new:
            network.save_pretrained(new, safe_serialization=True)
            if self.terminal is not None:
                save_file({key: value.contiguous() for key, value in self.terminal.items()}, new / TERMINAL)
            describe(new, description)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        degrade: Degradation | None = None,
    ) -> ImageModel:
        """A folder or a model of the hub; `degrade` is F_t where the model was trained with one that has no name."""
        folder, name = locate(path_or_id)
        described = read_json(folder / DESCRIPTION, name)
        check_format(described, name)
        if not describes_images(described):
            raise ModelError(f"{name}: textdiff.json describes no model of images; pass one")
        try:
            data, bins = described["data"], described["data"]["bins"]
            fields = {
                "processes": tuple(described["processes"]),
                "shape": tuple(data["shape"]),
                "classes": tuple(data["classes"]),
                "bins": None if bins is None else Bins(*bins),
                "diffusion": Diffusion(**described["diffusion"]),
                "analytic": None if described.get("analytic") is None else NoisePower.from_dict(described["analytic"]),
                "defaults": described.get("defaults", {}),
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{name}: textdiff.json cannot be read ({error}); save the model again") from error
        _check_fields(fields, name)
        network, end = _read_tensors(folder, device, name)
        made = cls(model=network, degrade=degrade, terminal=end, name=name, **fields)
        made._try_out()
        return made

    @torch.no_grad()
    def _try_out(self) -> None:
        """ModelError where the network does not take the images that are described: much of its configuration shows in use only."""
        condition = self.condition(1)
        for name in self.processes:
            try:
                given = torch.zeros(1, *self.shape, device=self.device)
                level = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64, device=self.device)
                process = self.process(name, condition)
                x = process.prior(given, torch.ones_like(given, dtype=torch.bool), rng=Rng([0], device=self.device))
                found = self.predictor(name)(Query(x, level, condition=condition)).mean.shape
            except ModelError:
                raise
            except Exception as error:  # torch and diffusers meet a wrong value wherever they first use it
                raise ModelError(
                    f"{self.name}: the network or its process cannot be used ({first_line(error)}); save the model again"
                ) from error
            if found != given.shape:
                raise ModelError(
                    f"{self.name}: the network makes {tuple(found[1:])} of {self.shape}; textdiff.json belongs to another model"
                )


def unet(shape: Sequence[int], classes: int, context: bool, config: Mapping[str, Any]) -> nn.Module:
    """diffusers' UNet2DModel for images of `shape` (C, H, W); ValueError where `config` says what it cannot be."""
    kind: Any = _unet_class()
    known = set(inspect.signature(kind.__init__).parameters) - {"self"}
    for key in config:
        if key not in known:
            raise unknown("key of model.config", key, sorted(known))
    channels, height, width = shape
    fixed = {
        "sample_size": height if height == width else (height, width),
        "in_channels": channels + context,
        "out_channels": channels,
        "num_class_embeds": classes + 1 if classes else None,
    }
    try:
        network: Any = kind(**(fixed | dict(config)))
        halves = 2 ** (len(network.config.block_out_channels) - 1)
    except Exception as error:  # diffusers checks with errors of several kinds
        raise AskedError(f"model.config does not make a UNet2DModel: {' '.join(str(error).split())}") from error
    if height % halves or width % halves:
        raise AskedError(
            f"images of {height} by {width} cannot be halved {halves.bit_length() - 1} times, as model.config asks; "
            f"name fewer blocks, or give data.size a multiple of {halves}"
        )
    made: nn.Module = network
    return made


def gaussian(values: Tensor) -> tuple[Tensor, Tensor]:
    """(mean (D,), basis (RANK, D)) of the rows of values (N, D): mean + z @ basis with z ~ N(0, 1) has their covariance."""
    mean = values.mean(0)
    _, size, directions = torch.linalg.svd((values - mean).double(), full_matrices=False)
    basis = size[:RANK, None] * directions[:RANK] / max(len(values) - 1, 1) ** 0.5
    return mean, torch.nn.functional.pad(basis, (0, 0, 0, RANK - len(basis))).to(values.dtype)


def _terminal(law: Mapping[str, Tensor], condition: Tensor | None, given: Tensor, *, rng: Rng) -> Tensor:
    """F_1 of new images, like `given`, by the labels `condition` (B, 1); the last law is that of all images."""
    last = len(law["mean"]) - 1
    label = torch.full((len(given),), last, device=given.device)
    if condition is not None and condition.shape[1]:
        label = condition[:, 0]
    drawn = rng.normal(law["basis"].shape[1]).to(given.dtype)  # (B, RANK)
    mean, basis = law["mean"].to(given.device)[label], law["basis"].to(given.device)[label]
    return (mean + (drawn[:, None] @ basis)[:, 0]).view_as(given)


def _labels(condition: Any, prefix: tuple[str, ...], pad: int, x_t: Tensor) -> dict[str, Tensor]:
    if not prefix:
        return {}
    if condition is None:
        return {"class_labels": torch.full((len(x_t),), pad, device=x_t.device)}
    return {"class_labels": condition[:, 0]}


def _unet_class() -> Any:
    try:
        from diffusers import UNet2DModel
    except ImportError:
        raise ModelError(
            "models of images are networks of diffusers, which is missing; pip install 'textdiff[image]'"
        ) from None
    return UNet2DModel


def _check_fields(fields: Mapping[str, Any], name: str) -> None:
    """ModelError for values of textdiff.json that are of another kind than what a save writes."""
    shape, bins = fields["shape"], fields["bins"]
    numbers = (bins.low, bins.high, bins.width) if bins is not None else ()
    sound = {
        "shape": len(shape) == 3 and all(type(n) is int and n > 0 for n in shape) and math.prod(shape) <= MOST_VALUES,
        "classes": all(isinstance(one, str) for one in fields["classes"]),
        "processes": bool(fields["processes"]) and all(isinstance(one, str) for one in fields["processes"]),
        "bins": all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers),
        "defaults": isinstance(fields["defaults"], dict),
    }
    for key, good in sound.items():
        if not good:
            raise ModelError(
                f"{name}: {key!r} in textdiff.json is {fields[key]!r}, which no save writes; save the model again"
            )


def _read_tensors(folder: Path, device: torch.device | str, name: str) -> tuple[nn.Module, dict[str, Tensor] | None]:
    """The network, and the law of F_1(x0) where there is one."""
    kind = _unet_class()
    check_layers(folder, read_json(folder / kind.config_name, name), name)
    try:
        network, about = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        end = load_file(folder / TERMINAL, device=str(device)) if (folder / TERMINAL).exists() else None
    except Exception as error:
        raise ModelError(
            f"{name}: the network cannot be read ({first_line(error)}); copy or save the model again"
        ) from error
    if about["missing_keys"]:  # diffusers leaves them without values
        raise ModelError(
            f"{name}: the weights lack {len(about['missing_keys'])} that config.json asks for, {min(about['missing_keys'])} "
            f"among them; copy or save the model again"
        )
    return network.to(device).eval(), end
