"""How x_t enters a masked language model, and what each place of x_t says about x0 by itself.

Tokens enter as they are, and say nothing but that special tokens never are x0.  Noisy embeddings x_t = ᾱ E(x0) + β̄ ε enter
as what a place alone makes of them; c_v are the logits that the network's head gives for nothing heard:

    e_v = ᾱ/β̄² · x_t·E(v)                log p(x_t | v) without what is the same for every v, as all ‖E(v)‖ are one   (1)
    p = softmax(c + e)                    the posterior of this place alone                                          (2)
    input = Σ_v p_v w_v + (1 − Σ_v p_v²) w_[MASK],      w the network's own input embeddings                        (3)
    log q(x0 = v | x_t) = logits_v + e_v, normalised                                                                (4)

So a network that has been trained on tokens meets what it knows, its tokens where the noise is low and nearly [MASK] where
it is high, on the scale of its own embeddings, and by (4) it has to say only what the other places know.  p carries no
gradient; w and E do.  A network trained with self-conditioning sees in the place of w_[MASK] what is halfway to its last draft:

    (w_[MASK] + w_previous)/2                                                                                        (5)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from textdiff.core.contracts import spread
from textdiff.core.levels import count
from textdiff.core.rng import PIECE
from textdiff.core.schedules import Schedule
from textdiff.processes.embedding import encoded


class Speaker(Protocol):
    """A masked language model, and what a predictor has to know of how textdiff speaks to it (`folder.TextModel` is one)."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def name(self) -> str: ...
    @property
    def prefix(self) -> tuple[str, ...]: ...
    @property
    def content(self) -> Tensor: ...
    @property
    def mask_id(self) -> int: ...
    @property
    def unk_id(self) -> int | None: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def self_conditioning(self) -> float: ...
    @property
    def precision(self) -> str: ...
    def level_ids(self) -> Tensor: ...
    def noise_schedule(self) -> Schedule: ...


LEAST_VARIANCE = 1e-3  # of the noise in (1): at level 0 there is none


@dataclass(frozen=True)
class Reading:
    """What a predictor does with x_t; R rows, L places, W columns with what stands around the text."""

    tokens: Callable[[Tensor], Tensor]  # x_t (R, L, …) -> (R, L) ids, what stands for it among them
    share: Callable[[Tensor, Tensor], Tensor]  # (tokens (R, L), t (R, L)) -> (R,) what the level slot says, in [0, 1]
    always: bool  # whether the level slot speaks where the process slot is silent
    by_ids: bool  # whether the network is called with the ids and nothing else of x_t
    # (ids (R, W), x_t, t, first column of the text, last draft) -> what the encoder is called with
    inputs: Callable[[Tensor, Tensor, Tensor, int, Tensor | None], dict[str, Tensor]]
    evidence: Callable[[Tensor, Tensor], Tensor]  # (x_t (n, …), t (n,)) of some places -> added to their logits, (n, V)


def by_tokens(text_model: Speaker, banned: Tensor, silence: Callable[[], Tensor]) -> Reading:
    """Tokens; the level is the share of the text, padding left out, that is corrupted."""
    pad = text_model.pad_id
    return Reading(
        tokens=lambda x: x,
        share=lambda tokens, t: count(t, t > 0) / (tokens != pad).sum(-1).clamp(min=1),
        always=False,
        by_ids=True,
        inputs=lambda ids, x, t, start, previous: {"input_ids": ids},
        evidence=lambda x, t: banned,
    )


def by_vectors(text_model: Speaker, banned: Tensor, silence: Callable[[], Tensor]) -> Reading:
    """Noisy embeddings; the level is t itself.  `silence` gives c of (2), (1, V)."""
    model: Any = text_model.model
    schedule = text_model.noise_schedule()
    embed: nn.Embedding = model.get_input_embeddings()

    def evidence(x: Tensor, t: Tensor) -> Tensor:
        alpha, beta = schedule(t)
        slope = spread(alpha / beta.square().clamp(min=LEAST_VARIANCE), x).to(x.dtype)
        return (slope * x) @ encoded(embed.weight).T + banned

    def unheard(x: Tensor, previous: Tensor | None) -> Tensor:
        """What a place shows as far as it is unsure, (R·L, D) or (1, D): [MASK], or by (5) half of the last draft."""
        nothing: Tensor = embed.weight[text_model.mask_id][None]
        if not text_model.self_conditioning or previous is None or previous.is_floating_point():  # no draft yet
            return nothing.expand(x.shape[0] * x.shape[1], -1)
        last: Tensor = embed(previous.flatten())
        return (nothing + last) / 2

    def inputs(ids: Tensor, x: Tensor, t: Tensor, start: int, previous: Tensor | None) -> dict[str, Tensor]:
        vectors, nothing = [], silence()
        shown = unheard(x, previous)
        pieces = -(-t.numel() // PIECE)  # of about one size, so that none is small
        parts = (v.tensor_split(pieces) for v in (x.flatten(0, 1), t.flatten(), shown))
        for places, level, other in zip(*parts, strict=True):
            with torch.no_grad():
                p = (evidence(places, level) + nothing).softmax(-1)  # (2)
                unsure = 1 - p.square().sum(-1, keepdim=True)
            vectors.append(p.to(x.dtype) @ embed.weight + unsure.to(x.dtype) * other)
        text = torch.cat(vectors).view(*x.shape)
        around = embed(ids)
        return {"inputs_embeds": torch.cat([around[:, :start], text.to(around), around[:, start + x.shape[1] :]], 1)}

    return Reading(
        tokens=lambda x: torch.full(x.shape[:2], text_model.mask_id, device=x.device),
        share=lambda tokens, t: t.amax(-1),
        always=True,
        by_ids=False,
        inputs=inputs,
        evidence=evidence,
    )


# What a process makes of a text (`processes.Entry.data`) -> how it is read.
READINGS = {"tokens": by_tokens, "vectors": by_vectors}
