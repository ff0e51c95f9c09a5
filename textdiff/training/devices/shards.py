"""A network whose parameters are divided among processes, by torch's `fully_shard` (FSDP2).

Each of N processes holds 1/N of every parameter, of its gradient, its moments and its average, and has the whole parameters of
a layer only while that layer is computed.  Whole copies of the network are made to evaluate and to save it.

The state of the optimiser is written as one safetensors file a process, which any number of processes puts together again
(torch.distributed.checkpoint, without the pickled table of contents of its own format).  The files of all processes stand in
one folder, so that machines must share it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate

from textdiff.training.checking import check_divisible
from textdiff.training.data import processes
from textdiff.training.sections import Recipe

FOLDER, WHOLE = "shards", "training.safetensors"  # of a checkpoint: the state divided, or in one file
ACCELERATE = "ACCELERATE_USE_FSDP"  # what `accelerate launch` sets where its configuration says FSDP


def wanted(recipe: Recipe) -> bool:
    """Whether the recipe, or `accelerate launch`, divides the network among several processes.

    Accelerate is then kept from dividing it a second time: its own way is for GPUs alone.
    """
    asked = recipe.run.shard or os.environ.get(ACCELERATE, "").lower() in ("1", "true")
    os.environ.pop(ACCELERATE, None)
    if not asked or processes() == 1:
        return False
    check_divisible(recipe)
    return True


def divide(denoiser: nn.Module) -> None:
    """Divide the parameters of a module among all processes, those of each of its layers together."""
    device = next(denoiser.parameters()).device.type
    mesh = init_device_mesh(device, (processes(),))
    layers = [layer for layers in denoiser.modules() if isinstance(layers, nn.ModuleList) for layer in layers]
    for layer in reversed(layers):  # those inside first
        fully_shard(layer, mesh=mesh)
    fully_shard(denoiser, mesh=mesh)


def divide_alike(copy: nn.Module, network: nn.Module) -> None:
    """Divide the parameters of a whole copy of `network` as those of `network` are; a copy is not for computing."""
    own = dict(network.named_parameters(remove_duplicate=False))
    made: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for name, parameter in list(copy.named_parameters(remove_duplicate=False)):
        if id(parameter) not in made:
            made[id(parameter)] = nn.Parameter(like(parameter.detach(), own[name]), requires_grad=False)
        path, _, last = name.rpartition(".")
        copy.get_submodule(path).register_parameter(last, made[id(parameter)])


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together; all processes must ask for it at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor that every process has whole, divided as `other` is."""
    if not isinstance(other, DTensor):
        return tensor
    everywhere = DTensor.from_local(
        tensor.to(other.device), other.device_mesh, [Replicate()] * other.device_mesh.ndim, run_check=False
    )
    divided: Tensor = everywhere.redistribute(placements=other.placements)
    return divided


@torch.no_grad()
def fill(copy: nn.Module, network: nn.Module) -> None:
    """Give a whole copy the weights of `network`."""
    of = network.state_dict()
    for name, tensor in copy.state_dict().items():
        tensor.copy_(whole(of[name]))


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are finite, of this process's parts."""
    parts = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    return all(bool(part.isfinite().all()) for part in parts)


def save(tensors: dict[str, Tensor], checkpoint: Path) -> None:
    """Write the divided tensors of a checkpoint's state, a file a process; all processes call this."""
    dist.barrier()  # the first process has made the checkpoint's folder
    state_dict_saver.save(
        tensors, storage_writer=HuggingFaceStorageWriter(str(checkpoint / FOLDER), save_distributed=True)
    )


def load(checkpoint: Path, owners: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint's state; those of the shape of the parameter that owns them are divided as that is.

    `owners` gives the parameter by the path of a tensor, or that of the part of the state around it.
    """

    def owned(path: str, shape: torch.Size) -> Tensor | None:
        owner = owners.get(path, owners.get(path.rpartition("/")[0]))
        return owner if owner is not None and owner.shape == shape else None

    folder = checkpoint / FOLDER
    if not folder.is_dir():
        read = load_file(checkpoint / WHOLE)
        return {k: v if (owner := owned(k, v.shape)) is None else like(v, owner) for k, v in read.items()}
    reader = HuggingFaceStorageReader(str(folder))
    tensors: dict[str, Tensor] = {}
    for path, about in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(about, TensorStorageMetadata)
        owner, dtype = owned(path, about.size), about.properties.dtype
        tensors[path] = torch.zeros(about.size, dtype=dtype) if owner is None else torch.zeros_like(owner, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        state_dict_loader.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    return tensors


def owners(optimizer: torch.optim.Optimizer, averaged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of an optimiser and the averages, by where their state stands in what `optimizer.flatten` gives."""
    parts: list[tuple[str, Any]] = [("/optimizer", optimizer)]
    if hasattr(optimizer, "parts"):
        parts = [(f"/optimizer/parts/{k}", part) for k, part in enumerate(optimizer.parts)]
    found = {f"/averaged/{name}": tensor for name, tensor in averaged.items()}
    for prefix, part in parts:
        parameters = [parameter for group in part.param_groups for parameter in group["params"]]
        found |= {f"{prefix}/state/{k}": parameter for k, parameter in enumerate(parameters)}
    return found
