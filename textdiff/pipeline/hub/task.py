"""The task "text-diffusion" of transformers' `pipeline`, which draws as `TextPipeline` does.

    textdiff.register_pipeline()
    pipe = transformers.pipeline("text-diffusion", model=folder)
    pipe("床前□□光", num_return_sequences=2, seed=0)                     # a list of {"generated_text": …, "seed": …, …}
    pipe(num_return_sequences=4, form="wuyan-jueju")                     # new texts
    pipe(["床前□□光", "春眠不□晓"])                                       # a list of such lists

Text k is drawn from seed + k, counted over all texts and sequences, as by `TextPipeline.fill` and `generate`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from textdiff.core.errors import AskedError
from textdiff.core.resolve import unknown
from textdiff.networks.devices import float_type
from textdiff.networks.files import MASKED, locate, packaged
from textdiff.networks.folder import TextModel
from textdiff.networks.text_parts import fitting, read_description, read_weights
from textdiff.pipeline.options import CHOICES, at_least, whole
from textdiff.pipeline.outputs import Output
from textdiff.pipeline.run import BATCH, MOST
from textdiff.pipeline.text import TextPipeline

TASK = "text-diffusion"
OPTIONS = tuple(name for name, one in CHOICES.items() if one.kind != "image" and {"generate", "fill"} & {*one.calls})
_OF_LOADING = ("revision", "token", "local_files_only", "cache_dir")


class TextDiffusionPipeline(Pipeline):
    """transformers' pipeline of a model of text.  Its options are `num_return_sequences`, `seed`, and those of `textdiff.Options`."""

    # In transformers these stand as None, which is the only type that is seen of them.
    _load_tokenizer = True  # type: ignore[assignment]
    _load_processor = _load_image_processor = _load_feature_extractor = _load_video_processor = False  # type: ignore[assignment]

    def __init__(self, model: Any, tokenizer: Any = None, **more: Any):
        if tokenizer is None:
            raise AskedError("tokenizer is None; pass that of the model, or the model as a folder or an id")
        name = str(model.name_or_path or "model")
        folder = Path(name) if (Path(name) / "config.json").is_file() else None
        described = fitting(read_description(folder, name)[1], tokenizer, name) if folder else {}
        super().__init__(model=model.eval(), tokenizer=tokenizer, **more)
        self.texts = TextPipeline.of(
            replace(TextModel.from_parts(model, tokenizer, name=name, **described), folder=folder)
        )

    def __call__(
        self, inputs: Any = None, *args: Any, num_workers: Any = None, batch_size: int | None = None, **options: Any
    ) -> Any:
        """The texts of one input (None: new texts), a list of them for a list of inputs, and an iterator for a data set."""
        size = batch_size if batch_size is not None else self._batch_size or BATCH
        at_least("batch_size", size, 1)
        if hasattr(inputs, "tolist"):  # a column of numpy or pandas
            inputs = inputs.tolist()
        if isinstance(inputs, (list, tuple)):
            parameters = {**self._forward_params, **self._sanitize_parameters(**options)[1]}
            return list(self._each(inputs, size, parameters))
        call: Any = super().__call__
        return call(inputs, *args, batch_size=size, **options)

    def fill(self, inputs: Any, n: int = 1, **options: Any) -> Any:
        """Each input with its holes filled in n ways."""
        return self(inputs, num_return_sequences=n, **options)

    def to(self, device: torch.device | str) -> TextDiffusionPipeline:
        """This pipeline, on another device."""
        self.texts = self.texts.to(device)
        self.device = self.texts.model.device  # the network is moved where it is
        return self

    def save_pretrained(self, save_directory: str | os.PathLike[str], **more: Any) -> None:
        """Write the model's folder, as `TextPipeline.save_pretrained` does."""
        self.texts.save_pretrained(save_directory, **more)

    def push_to_hub(self, repo_id: str, **more: Any) -> Any:
        """Put the model's folder on the hub, as `TextPipeline.push_to_hub` does."""
        return self.texts.push_to_hub(repo_id, **more)

    # -- what transformers calls ----------------------------------------------------------------------------------------

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name in options:
            if name not in (*OPTIONS, "num_return_sequences", "seed"):
                raise unknown("option", name, (*OPTIONS, "num_return_sequences", "seed"))
        return {}, options, {}

    def preprocess(self, input_: Any, **_: Any) -> dict[str, Any]:
        return {"text": input_}

    def _forward(self, input_tensors: dict[str, Any], **parameters: Any) -> Any:
        (found,) = self._each([input_tensors["text"]], BATCH, parameters)
        return {"found": found}

    def postprocess(self, model_outputs: dict[str, Any], **_: Any) -> list[dict[str, Any]]:
        return list(model_outputs["found"])

    def get_iterator(
        self, inputs: Any, num_workers: int, batch_size: int, before: Any, parameters: Any, after: Any
    ) -> Iterator[list[dict[str, Any]]]:
        """The texts of each input of a data set, which is read as they are needed."""
        return self._each(inputs, batch_size, parameters)

    def _each(
        self, inputs: Iterable[Any], batch_size: int, parameters: dict[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        options = dict(parameters)
        n, seed = options.pop("num_return_sequences", 1), whole("seed", options.pop("seed", 0))
        at_least("num_return_sequences", whole("num_return_sequences", n), 1, MOST)
        records = (_record(one, j) for one in inputs for j in range(n))
        outputs = self.texts.each(records, seed=seed, batch_size=batch_size, **options)
        while found := list(itertools.islice(outputs, n)):
            yield [_said(one) for one in found if isinstance(one, Output)]


def _record(one: Any, j: int) -> dict[str, Any]:
    """The record of sequence j of an input; where it has a seed of its own, j is added to that."""
    if one is None or isinstance(one, str):
        return {"text": one}
    if isinstance(one, dict):
        return one if one.get("seed") is None else {**one, "seed": whole("seed", one["seed"]) + j}
    raise AskedError(f"input is {one!r}; pass a text with holes, a record with its keys, or None for a new text")


def _said(output: Output) -> dict[str, Any]:
    fields = asdict(output)
    return {"generated_text": fields.pop("text"), **fields}


class Reader:
    """Reads a network for transformers' `pipeline`, from a folder or the hub: safetensors alone, no code, no weight missing."""

    @classmethod
    def from_pretrained(cls, name: str, *, dtype: Any = "auto", config: Any = None, **more: Any) -> nn.Module:
        """In float32, in which texts are drawn, unless a `dtype` is named."""
        for key in ("_from_pipeline", "trust_remote_code", "code_revision"):
            more.pop(key, None)
        hub = {key: more.pop(key) for key in _OF_LOADING if key in more}
        folder, name = locate(name, **{key: value for key, value in hub.items() if value is not None})
        read_description(folder, name)
        return read_weights(folder, name, torch.float32 if dtype in (None, "auto") else float_type(dtype), **more)


def register_pipeline() -> None:
    """Make `transformers.pipeline("text-diffusion", model=…)` known, which without a model takes the packaged one of `load()`.

    It may be called again.
    """
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        usual: dict[str, Any] = {"model": (str(packaged(MASKED)), "main")}
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=TextDiffusionPipeline, pt_model=Reader, default=usual, type="text"
        )
