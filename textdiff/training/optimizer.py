"""The optimiser of a recipe: AdamW, or Muon on the matrices inside the network with AdamW on everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from textdiff.training.devices.shards import like, whole
from textdiff.training.sections import Optimizer


class Muon(torch.optim.Muon):
    """PyTorch's Muon with the matrices of one shape made orthogonal together, in `dtype`.

    PyTorch's own takes them one by one and in bfloat16, whose products are thirty times slower than float32's on a CPU that has
    none of them.  Up to the rounding of bfloat16 both take the same step.  Divided matrices are put together by every process.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], *, dtype: torch.dtype, lr: float, weight_decay: float):
        super().__init__(list(parameters), lr=lr, weight_decay=weight_decay)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                updates = torch.stack([whole(self._with_momentum(one, group["momentum"])) for one in parameters])
                updates = orthogonal(updates.to(self.dtype), group["ns_coefficients"], group["ns_steps"], group["eps"])
                step = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates.to(parameters[0].dtype), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(like(update, parameter), alpha=-step)

    def _with_momentum(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        """The gradient with Nesterov's momentum."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None, "a caller leaves out what has no gradient"
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer: torch.Tensor = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)


def orthogonal(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """U·S·Vᵀ of matrices (K, n, m) with singular values S near 1, by Newton and Schulz's iteration (Jordan et al., 2024)."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Pair(torch.optim.Optimizer):
    """Two optimisers over disjoint parameters that step together; their groups are listed one after the other."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer):
        self.parts = (first, second)
        self.defaults: dict[str, Any] = {}
        self._hook_for_profile = lambda: None

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        return {key: value for part in self.parts for key, value in part.state.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


def build(network: nn.Module, recipe: Optimizer, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
    """The optimiser for `network`; vectors and embeddings are not decayed, and Muon computes in `dtype`."""
    vectors = {id(p) for p in network.parameters() if p.ndim < 2}
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    parameters = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in parameters if id(p) not in vectors | embeddings]
    rest = [
        {
            "params": [p for p in parameters if id(p) in embeddings],
            "lr": recipe.embedding_lr or recipe.lr,
            "weight_decay": 0.0,
        },
        {"params": [p for p in parameters if id(p) in vectors], "lr": recipe.lr, "weight_decay": 0.0},
    ]
    if recipe.name == "adamw":
        groups = [{"params": matrices, "lr": recipe.lr, "weight_decay": recipe.weight_decay}, *rest]
        return torch.optim.AdamW(groups, betas=recipe.betas)
    muon = Muon(matrices, dtype=dtype, lr=recipe.muon_lr, weight_decay=recipe.weight_decay)
    return Pair(muon, torch.optim.AdamW(rest, betas=recipe.betas))


def rate(step: int, steps: int, warmup: int, decay: float) -> float:
    """Share of the full learning rate: up over `warmup` steps, level, down to 0 over the last `decay` of the steps."""
    rising = min(1.0, (step + 1) / max(warmup, 1))
    falling = min(1.0, (steps - step) / max(decay * steps, 1.0))
    return max(0.0, min(rising, falling))


def flatten(state: Any, prefix: str = "") -> tuple[dict[str, torch.Tensor], Any]:
    """(tensors by path, the rest as JSON with "<tensor>" in their places) of a nested state dict."""
    if isinstance(state, torch.Tensor):
        return {prefix: state.contiguous()}, "<tensor>"
    if isinstance(state, dict):
        items: Iterable[tuple[Any, Any]] = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {}, state
    tensors: dict[str, torch.Tensor] = {}
    tree: dict[str, Any] = {}
    for key, value in items:
        inner, rest = flatten(value, f"{prefix}/{key}")
        tensors |= inner
        tree[str(key)] = rest
    return tensors, {
        "kind": type(state).__name__,
        "keys": [type(k).__name__ for k, _ in items_of(state)],
        "items": tree,
    }


def items_of(state: Any) -> list[tuple[Any, Any]]:
    """The items of a dict, or the numbered ones of a list."""
    return list(state.items()) if isinstance(state, dict) else list(enumerate(state))


def unflatten(tensors: dict[str, torch.Tensor], tree: Any, prefix: str = "") -> Any:
    """The state dict that `flatten` took apart."""
    if tree == "<tensor>":
        return tensors[prefix]
    if not isinstance(tree, dict):
        return tree
    values = {
        (int(key) if kind == "int" else key): unflatten(tensors, value, f"{prefix}/{key}")
        for (key, value), kind in zip(tree["items"].items(), tree["keys"], strict=True)
    }
    return values if tree["kind"] == "dict" else (tuple if tree["kind"] == "tuple" else list)(values.values())
