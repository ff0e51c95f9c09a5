"""What `network` and `tokenizer` have read, as transformers has it: to be trained, saved, or given to other libraries."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

from textdiff.networks.lean.network import Encoder
from textdiff.networks.lean.tokenizer import LeanTokenizer


def network(encoder: Encoder) -> Any:
    """transformers' network with a copy of the encoder's weights."""
    config = AutoConfig.for_model(**encoder.described)
    with torch.random.fork_rng(devices=()):  # it begins with random weights
        model = AutoModelForMaskedLM.from_config(config, dtype=encoder.dtype)
    model.load_state_dict(encoder.stored(), strict=False)  # the vocabulary's weights are those of the embedding
    return model.to(encoder.words.weight.device).eval()


def tokenizer(lean: LeanTokenizer) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=lean.backend_tokenizer,
        extra_special_tokens=lean.extra_special_tokens,
        model_max_length=lean.model_max_length,
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in lean.named.items()},
    )
