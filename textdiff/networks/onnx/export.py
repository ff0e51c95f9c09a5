"""A text model's network as ONNX, and the folder that it stands in.

    model.onnx          input_ids, attention_mask and position_ids (batch, length) int64 -> logits (batch, length, V) float32
    model.int8.onnx     the same with weights of 8 bits, products in whole numbers (dynamic quantisation)
    config.json  tokenizer.json  textdiff.json      as in the folder of the model

Networks that count positions themselves have no position_ids.  Position k of a text is column P + a + k behind the prefix of P slots
and the a tokens before a text, as `networks.masked_lm` says, and its position is that of the column unless columns are left out.

The exported network is held against the one that it was made of before the folder appears.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textdiff.core.errors import AskedError, ModelError
from textdiff.core.rng import Rng
from textdiff.networks.files import read_json
from textdiff.networks.folder import TextModel
from textdiff.networks.masked_lm import HEADS
from textdiff.networks.onnx.session import Session, needed
from textdiff.networks.saving import check_replaceable, replacing
from textdiff.networks.text_parts import described_by, fitting, quiet, read_tokenizer_of
from textdiff.processes import PROCESSES

WHOLE, SMALL = "model.onnx", "model.int8.onnx"
NEAR = 1e-3  # logits of the export that are further away are wrong
LARGEST = 1_500_000_000  # bytes of weights in one file; those of larger networks stand beside it
SHAPES = ((1, 9), (3, 20), (2, 33))  # batches and lengths that the export is tried with


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the network that it was made of."""

    folder: Path
    difference: float  # the largest of the logits, absolute
    int8_difference: float | None
    size: int  # bytes
    int8_size: int | None


def export(model: TextModel, folder: Path, int8: bool = False) -> Exported:
    """Write the folder; ModelError where the export does not give the logits of the network."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        needed(name)
    folder = folder.resolve()
    check_replaceable(folder, weights=False)
    served = tuple(p for p in model.processes if PROCESSES[p].data == "tokens" and not model.writes_whole(p))
    if not served:
        raise AskedError(
            f"model {model.name} serves {', '.join(model.processes)}, and none of it reads tokens in any order"
        )
    whole = replace(model.with_transformers(), processes=served)
    network = _Logits(whole.model.float().eval(), HEADS[_config(whole.model).model_type].first is not None)
    with replacing(folder) as new, quiet():
        whole.save_description(new)
        _config(whole.model).save_pretrained(new)
        with _silent():
            _write(network, new / WHOLE)
            if int8:
                quantised = needed("onnxruntime.quantization")
                quantised.quantize_dynamic(
                    new / WHOLE, new / SMALL, per_channel=True, weight_type=quantised.QuantType.QInt8
                )
        difference = _difference(whole, network, new / WHOLE)
        if not difference < NEAR:
            raise ModelError(
                f"{model.name}: the logits of the export are wrong by {difference:g}; its network cannot be exported"
            )
        small = _difference(whole, network, new / SMALL) if int8 else None
        sizes = [sum(path.stat().st_size for path in new.glob(f"{name}*")) for name in (WHOLE, SMALL)]
    return Exported(folder, difference, small, sizes[0], sizes[1] if int8 else None)


def from_onnx(folder: Path, file: str = WHOLE) -> TextModel:
    """The model of an exported folder, whose network onnxruntime runs.  It draws and scores, and cannot be trained or saved."""
    from transformers import AutoConfig

    name = str(folder)
    described = described_by(folder, read_json(folder / "config.json", name), name)
    tokenizer = read_tokenizer_of(folder, name)
    session = Session(folder / file, AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True))
    return TextModel.from_parts(session, tokenizer, name=name, **fitting(described, tokenizer, name))


class _Logits(nn.Module):
    """The network with its head, as the export names what goes in."""

    def __init__(self, network: nn.Module, positions: bool):
        super().__init__()
        self.network, self.names = network, ("input_ids", "attention_mask", *(("position_ids",) if positions else ()))
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None) -> Tensor:
        more = {} if position_ids is None else {"position_ids": position_ids}
        logits: Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask, **more).logits
        return logits


def _write(network: _Logits, path: Path) -> None:
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2, max=_most(network.network))
    ids = torch.zeros(3, 8, dtype=torch.long)
    examples = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(8).expand(3, 8).contiguous(),
    }
    with torch.no_grad():
        program: Any = torch.onnx.export(
            network,
            tuple(examples[name] for name in network.names),
            dynamo=True,
            verbose=False,
            input_names=list(network.names),
            output_names=["logits"],
            dynamic_shapes={name: {0: batch, 1: length} for name in network.names},
        )
    weights = sum(one.numel() * one.element_size() for one in network.parameters())
    program.save(path, external_data=weights > LARGEST)


def _most(network: Any) -> int:
    return int(getattr(network.config, "max_position_embeddings", 512))


def _difference(model: TextModel, network: _Logits, path: Path) -> float:
    """The largest difference of logits at live columns, over batches of random tokens of several shapes."""
    session, rng, worst = Session(path, _config(model.model)), Rng([0]), 0.0
    first = model.pad_id + 1 if HEADS[_config(model.model).model_type].first == "padding" else 0
    for rows, columns in SHAPES:
        columns = min(columns, _most(network.network) - first)
        drawn = rng.integers(torch.full((1, rows * columns), len(model.content)))[0].view(rows, columns)
        ids = model.content[drawn]
        ids[:, ::4] = model.mask_id
        live = torch.ones_like(ids)
        live[0, 1 : columns // 3] = 0  # as slots that say nothing
        inputs = {"attention_mask": live, "position_ids": (torch.arange(columns) + first).expand(rows, -1)}
        inputs = {name: value for name, value in inputs.items() if name in network.names}
        with torch.inference_mode():
            apart = (session(ids, **inputs) - network(ids, **inputs)).abs()[live.bool()]
        worst = max(worst, apart.max().item() if bool(apart.isfinite().all()) else float("inf"))
    return worst


def _config(network: Any) -> Any:
    return network.config


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the reports of the exporters, which would stand among the caller's output."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
