"""A Hugging Face masked language model as a predictor.

The network reads   prefix (P)  before (a)  text (L)  after (b)   with `before`, `after` the tokenizer's own frame.  Slots of the
prefix that say nothing, and padding, are hidden from attention; the columns that are empty in the whole batch are left
out, and the network gets the positions of the others explicitly, so that nothing shifts.

Only rows with a position of the query are encoded, or one where all are equal, as empty canvases are; where the network is
textdiff's own, its last layer is computed at these positions alone.  And only they meet the vocabulary: `Categorical.read`
takes their hidden states (n, D) and applies the head to those, (n, V) in float32, −inf outside the content tokens and [UNK].

A network may also say how much likelier, or less likely, the tokens of a text are to come again.  It does where its vocabulary has
a token [again-k] for each position k: with z the head's logits at a hole, and K(v) the positions where token v stands,

    logit(v) = z(v) + Σ_{k ∈ K(v)} z([again-k])                                                                       (1)

How x_t becomes the text's columns, `reading.py` says: tokens as they are, noisy embeddings as `inputs_embeds`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.predictions import Categorical, TokenPredictor, positions_of
from textdiff.networks.dropout import keyed
from textdiff.networks.files import not_finite
from textdiff.networks.lean.network import Encoder
from textdiff.networks.lean.products import fewest_rows, maker
from textdiff.networks.onnx.session import Session
from textdiff.networks.reading import READINGS, Reading, Speaker
from textdiff.networks.tokenization import AGAIN, frame, named
from textdiff.processes import PROCESSES


@dataclass(frozen=True)
class Head:
    """How a family of models goes from hidden states to logits, and how it counts positions."""

    logits: Callable[[Any, Tensor], Tensor]  # (model, (n, D)) -> (n, V)
    first: str | None  # where positions begin: "zero", after the "padding" id; None if the model counts columns itself


def _distilbert(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))
    return logits


def _cls(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.cls(hidden)
    return logits


def _lm_head(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(hidden)
    return logits


# `config.model_type` -> head.
HEADS: dict[str, Head] = {
    "bert": Head(_cls, "zero"),
    "megatron-bert": Head(_cls, "zero"),
    "roberta": Head(_lm_head, "padding"),
    "xlm-roberta": Head(_lm_head, "padding"),
    "camembert": Head(_lm_head, "padding"),
    "roberta-prelayernorm": Head(_lm_head, "padding"),
    "distilbert": Head(_distilbert, "zero"),
    "modernbert": Head(lambda model, hidden: model.decoder(model.head(hidden)), "zero"),
    "roformer": Head(_cls, None),
}


def masked_lm(text_model: Speaker, process: str | None = None) -> TokenPredictor:
    """The predictor of a masked language model.  `condition` is the prefix, (B, P), all null if None.

    The process slot says `process` where the condition leaves it empty.  In rows whose process is not mask, the level slot
    says how much of the text is corrupted: [level-k] with k = round(K·m/L), m = m(t), L the length without padding; for
    noisy embeddings k = round(K·t).
    """
    model = network_of(text_model)
    head = HEADS[model.config.model_type]
    encode, to_logits = parts(model, head)
    if "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
        head = replace(head, first=None)  # a window is counted in columns, and so none may be left out
    before, after = frame(text_model.tokenizer)
    pad = text_model.pad_id
    banned = torch.full((model.get_input_embeddings().weight.shape[0],), -torch.inf, device=text_model.device)
    banned[text_model.content] = 0.0
    if text_model.unk_id is not None:
        banned[text_model.unk_id] = 0.0
    width = len(text_model.prefix)
    offset = width + len(before)
    again = repeats(text_model)
    edges = [torch.tensor(edge, dtype=torch.long, device=text_model.device) for edge in (before, after)]
    fewest = fewest_of(model)

    def silence() -> Tensor:
        nothing = torch.zeros(fewest, model.config.hidden_size, dtype=model.dtype, device=text_model.device)
        return to_logits(nothing)[:1].float()

    reading = READINGS[PROCESSES[process].data if process else "tokens"](text_model, banned, silence)
    fill = _filled(text_model, process, reading)
    start = {"zero": 0, "padding": pad + 1}.get(head.first or "zero", 0)

    def predict(query: Query) -> Categorical:
        x_t, t, at, condition, previous = query.x_t, query.t, query.at, query.condition, query.previous
        if at is None:
            at = positions_of(torch.ones(x_t.shape[:2], dtype=torch.bool, device=x_t.device))
        rows, place = at[0].unique_consecutive(return_inverse=True)
        if 0 < len(rows) * x_t.shape[1] < fewest:
            rows = torch.cat([rows, rows[:1].expand(fewest)])
        x, level = x_t[rows], t[rows]
        text = reading.tokens(x)
        if condition is None:
            condition = torch.full((len(x_t), width), pad, device=x_t.device)
        first, last = (edge.expand(len(x), -1) for edge in edges)
        ids = torch.cat([fill(condition[rows], text, level), first, text, last], 1)  # (R, P + a + L + b)
        encoded = place  # which of the rows that are encoded each position is in
        asked = at[1]  # columns of the text whose hidden states are computed, in the rows `encoded`
        alike = reading.by_ids and x_t.shape[1] >= fewest and len(rows) > 1 and not torch.is_grad_enabled()
        same: Tensor | None = (
            None  # where all rows are equal, each column is computed once: which of them a position has
        )
        if alike and bool((ids == ids[:1]).all()):
            asked, same = asked.unique(return_inverse=True)
            ids, encoded = ids[:1], torch.zeros_like(asked)
        live = ids != pad
        full = bool(live.all())
        column = there = torch.arange(ids.shape[1], device=x.device)  # where each column went, and those that are left
        position = (column + start).expand(len(ids), -1)
        if not full:
            order = (live[:, width:].cumsum(-1) - 1).clamp(min=0) + width + start
            position = torch.cat([position[:, :width], order], 1)
        last_draft = None if previous is None else previous[rows]
        inputs = reading.inputs(ids, x, level, offset, last_draft) if len(ids) else {}
        if head.first is not None and len(ids) and not full:
            keep = live.any(0)
            column, there = keep.cumsum(0) - 1, keep.nonzero()[:, 0]
            live, position = live[:, keep], position[:, keep]
            inputs = {name: columns[:, keep] for name, columns in inputs.items()}
        if head.first is not None:
            inputs["position_ids"] = position
        if not full and not live.all():
            inputs["attention_mask"] = live.long()
        context = _autocast(x.device.type)
        hidden = None
        if len(ids):
            keyed.reading(rows[: len(ids)], there, ids.shape[1])
            several = filled_up(torch.arange(len(asked), device=x.device), fewest)
            hidden = encode((encoded[several], column[offset + asked[several]]), **inputs)

        def read(index: Tensor) -> Tensor:
            if hidden is None or not len(index):
                return torch.zeros(len(index), len(banned), device=banned.device)
            several = filled_up(index, fewest)
            row, there = place[several], at[1][several]
            with context():
                evidence = reading.evidence(x[row, there], level[row, there])
                if same is None:
                    logits = to_logits(hidden(several))
                else:
                    once, back = same[several].unique(return_inverse=True)
                    logits = to_logits(hidden(filled_up(once, fewest)))[back]
            scores = (logits.float() + evidence)[: len(index)]  # a sum is cheaper than a fill
            if reading.by_ids:
                tokens = x_t[at[0][index]]
                scores = again(scores, logits[: len(index)], tokens, (tokens != pad) & (tokens != text_model.mask_id))
            # Training looks at its loss itself, and a forward that is differentiated must not wait for this.
            if not torch.is_grad_enabled() and not bool(scores.amax(-1).isfinite().all()):
                raise not_finite(text_model.name)
            return scores

        return Categorical(read, at, reading.tokens(x_t))

    return predict


def repeats(text_model: Speaker) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The function that completes scores by (1), or leaves them as they are where the vocabulary has no [again-k].

    It takes the scores (n, V), all logits of the head (n, V), the texts (n, L), and where a token of them stands (n, L) bool.
    """
    ids = torch.tensor(named(AGAIN, text_model.tokenizer.get_vocab()), dtype=torch.long, device=text_model.device)

    def add(scores: Tensor, logits: Tensor, tokens: Tensor, standing: Tensor) -> Tensor:
        if not len(ids):
            return scores
        tokens, standing = tokens[:, : len(ids)], standing[:, : len(ids)]
        more = logits[:, ids[: tokens.shape[1]]].float()
        return scores.scatter_add(1, tokens, torch.where(standing, more, 0.0))

    return add


def filled_up(rows: Tensor, fewest: int) -> Tensor:
    """Rows (n, …) with copies of the last one, up to `fewest`."""
    missing = max(0, fewest - len(rows))
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


def fewest_of(model: Any) -> int:
    """How many rows a product of the network takes at least, so that no row notices the others."""
    return fewest_rows(model.make if isinstance(model, Encoder) else None, model.get_input_embeddings().weight)


def network_of(text_model: Speaker, auto: str = "auto") -> Any:
    """The network of a model, which multiplies at the model's precision; at that of `auto` where this is "auto"."""
    model, precision = text_model.model, text_model.precision
    if not isinstance(model, Encoder):
        return model
    return model.multiplying(maker(auto if precision == "auto" else precision, model.words.weight))


def parts(model: Any, head: Head) -> tuple[Callable[..., Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]:
    """Of a network: (N places, and what it is called with) -> (indices (n,) of places -> hidden states (n, D)); these -> logits."""
    if isinstance(model, (Encoder, Session)):
        return (lambda at, **inputs: model.encode(**inputs, at=at).__getitem__), model.logits

    def encode(at: tuple[Tensor, Tensor], **inputs: Tensor) -> Callable[[Tensor], Tensor]:
        hidden = model.base_model(**inputs).last_hidden_state
        return lambda index: hidden[at[0][index], at[1][index]]

    return encode, (lambda hidden: head.logits(model, hidden))


def _filled(text_model: Speaker, process: str | None, reading: Reading) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(condition (R, P), tokens x (R, L), t (R, L)) -> the condition with its process and level slots filled."""
    prefix, pad = text_model.prefix, text_model.pad_id
    vocabulary = text_model.tokenizer.get_vocab()
    levels = text_model.level_ids()
    # Processes whose x_t shows by itself how much of it is open.
    slots = (f"[{name}]" for name, entry in PROCESSES.items() if entry.masks)
    shown = torch.tensor(
        [vocabulary[slot] for slot in slots if slot in vocabulary], dtype=torch.long, device=levels.device
    )

    def fill(condition: Tensor, x: Tensor, t: Tensor) -> Tensor:
        condition = condition.clone()
        said = torch.full_like(x[:, 0], pad if process is None else vocabulary.get(f"[{process}]", pad))
        if "process" in prefix:
            slot = prefix.index("process")
            said = torch.where(condition[:, slot] == pad, said, condition[:, slot])
            condition[:, slot] = said
        if "level" in prefix:
            level = levels[(reading.share(x, t) * (len(levels) - 1)).round().long()]
            silent = (said[:, None] == shown).any(-1) | ((said == pad) & (not reading.always))
            condition[:, prefix.index("level")] = torch.where(silent, pad, level)
        return condition

    return fill


def _autocast(device: str) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """What reopens the autocast that is on now: logits read later see the same precision as the hidden states."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)
