"""A network that was exported to ONNX, run by onnxruntime in the place of the network that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textdiff.core.errors import AskedError, ModelError


class Session(nn.Module):
    """From ids, positions and what is live (R, W) to logits (R, W, V), on the CPU."""

    def __init__(self, path: Path, config: Any):
        super().__init__()
        self.config = config
        onnxruntime: Any = needed("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{path} cannot be run ({str(error).splitlines()[0]}); export the model again") from error
        self.names = {one.name for one in self.session.get_inputs()}
        shape = torch.zeros(1, 1).expand(
            config.vocab_size, config.hidden_size
        )  # of an embedding that stays in the file
        self.words: nn.Embedding = nn.Embedding.from_pretrained(shape)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def forward(self, input_ids: Tensor, **more: Tensor) -> Tensor:
        """Logits (R, W, V); what is live may be left out where all is."""
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)} | more
        arrays = {name: value.long().contiguous().numpy() for name, value in inputs.items() if name in self.names}
        (logits,) = self.session.run(None, arrays)
        return torch.from_numpy(logits)

    def encode(self, at: tuple[Tensor, Tensor], **inputs: Tensor) -> Tensor:
        """Logits (N, V) at N places, as what is read there."""
        logits: Tensor = self(**inputs)[at]
        return logits

    def logits(self, read: Tensor) -> Tensor:
        return read


def needed(name: str) -> Any:
    """A module of the extra; AskedError where it is missing."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise AskedError(f"{name.split('.')[0]} is missing; pip install 'textdiff[onnx]'") from None
