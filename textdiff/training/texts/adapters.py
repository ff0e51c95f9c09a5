"""Low-rank adapters (LoRA; Hu et al., 2021) by peft: they alone are trained, beside the matrices of a network that stays as it is.

While it is trained a matrix W (n, m) of the network acts as W + 2·B·A, with B (n, r) and A (r, m), r the rank, and B = 0 at first.
What a run writes is an ordinary model, with the sums in the places of the matrices; `adapters/` has A and B in peft's own format.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from textdiff.core.contracts import Model

FOLDER = "adapters"  # of a run
_NAME = "default"  # what peft calls the only adapter of a network


def adapt(network: Any, rank: int, seed: int, start: str) -> None:
    """Put adapters beside all matrices inside a network that was read from `start`, and freeze everything else."""
    from peft import LoraConfig, inject_adapter_in_model

    inside = f"{network.base_model_prefix}."
    names = [name for name, part in network.named_modules() if isinstance(part, nn.Linear) and name.startswith(inside)]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, base_model_name_or_path=start)
    torch.manual_seed(seed)
    inject_adapter_in_model(config, network)


def merged(model: Model) -> Model:
    """A copy of the model in which each adapter is added to its matrix."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    network: Any = copy.deepcopy(model.model)
    for name, part in list(network.named_modules()):
        if isinstance(part, BaseTunerLayer):
            part.merge()
            path, _, last = name.rpartition(".")
            setattr(network.get_submodule(path), last, part.get_base_layer())
    del network.peft_config
    return model.with_network(network.requires_grad_(True))


def save(network: Any, folder: Path) -> None:
    """Write the adapters of a network as PeftModel.from_pretrained reads them beside the model that they were trained on."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(network, adapter_name=_NAME)
    folder.mkdir(exist_ok=True)
    save_file(
        {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in found.items()},
        folder / "adapter_model.safetensors",
    )
    config = copy.copy(network.peft_config[_NAME])
    config.inference_mode = True
    config.save_pretrained(str(folder))
