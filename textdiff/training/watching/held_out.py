"""The bounds and losses of examples that are held out."""

from __future__ import annotations

import torch

from textdiff.core.contracts import Model
from textdiff.core.likelihood import nelbo, ratio
from textdiff.training.data import Group
from textdiff.training.loss import corrupted, weighted_nll


@torch.no_grad()
def bound_on(
    text_model: Model, groups: list[Group], *, process: str, levels: int, seed: int = 0
) -> tuple[float, float]:
    """(nats per token or value, standard error) of the bound of `process` over all texts of `groups`."""
    totals, counts = [], []
    for group in groups:
        ids = group.ids[:].to(text_model.device)
        free = group.free.to(ids.device).expand_as(ids)
        total = nelbo(
            ids,
            free,
            predictor=text_model.predictor(process),
            process=text_model.process(process),
            seeds=torch.arange(len(ids), device=ids.device) + seed,
            levels=levels,
            condition=group.condition[:].to(ids.device),
        )
        totals.append(total)
        counts.append(free.flatten(1).sum(-1))
    return ratio(torch.cat(totals), torch.cat(counts))


@torch.no_grad()
def loss_on(text_model: Model, groups: list[Group], *, process: str, levels: int, seed: int = 0) -> tuple[float, float]:
    """(the training loss, standard error) of `process` over all texts of `groups`, each at `levels` even levels."""
    totals, counts = [], []
    predictor, forward = text_model.predictor(process), text_model.process(process)
    for group in groups:
        ids = group.ids[:].to(text_model.device)
        free = group.free.to(ids.device).expand(len(ids), *group.free.shape)
        for rows in torch.arange(len(ids), device=ids.device).split(16):
            total = torch.zeros((), device=ids.device)
            for level in range(levels):
                t = free[rows].double() * ((level + 0.5) / levels)
                seeds = rows + (seed + level * len(ids))
                x_t = corrupted(forward, ids[rows], t, seeds)
                condition = group.condition[:].to(ids.device)[rows]
                total += weighted_nll(predictor, forward, ids[rows], x_t, t, condition) / levels
            totals.append(total)
            counts.append(ids[rows].numel())
    return ratio(torch.stack(totals), torch.tensor(counts))


def held_out(text_model: Model, groups: list[Group], *, process: str, levels: int) -> dict[str, float]:
    """The bound of `process` over `groups` where it has one, else its loss; each with its standard error."""
    for name, measure in (("bound", bound_on), ("loss", loss_on)):
        try:
            value, error = measure(text_model, groups, process=process, levels=levels)
        except NotImplementedError:  # what a process without a bound says of it
            continue
        return {name: value, "standard_error": error}
    return {}
