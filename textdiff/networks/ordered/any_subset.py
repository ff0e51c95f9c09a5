"""A masked-LM network that was trained to write holes one after the other, given any text that stands, as a predictor.

The columns of a row, v of whose positions stand and h of which are holes, are

    prefix   frame   the v tokens   [MASK]   the tokens of the first h − 1 holes                                      (1)

Column c ≥ v of the text's part says which token goes to the hole c − v, holes in ascending order.  Every token has its own
position.  The [MASK] stands at the position of the first hole, and to the embedding of each token behind it that of [next-k] is
added, where k is the position that this column is to say.

    the prefix, the frame and the v tokens see each other; a column behind them sees these, itself and those before it   (2)

Where the vocabulary has tokens [again-k], what a column says includes (1) of `masked_lm.py`, of the positions that it sees.

So log q(holes | text) takes one pass, and a text is written with the keys and values of what stands already (`memory.Memory`), every
column being computed once.  Both give the same numbers, as no column sees a later one.

What stands, the query says: a position is a hole if its level is above 0, and is absent if it shows [MASK] at level 0.  The holes
that hold a token are those that the chain has written, which must be the first ones.  (2) with ascending holes is the
any-subset factorisation of Shih, Sadigh and Ermon (2022); the next position beside a token's own, of σ-GPT (Pannatier et al., 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from textdiff.core.contracts import Query
from textdiff.core.errors import AskedError, ModelError
from textdiff.core.predictions import Categorical, positions_of
from textdiff.networks.dropout import keyed
from textdiff.networks.files import not_finite
from textdiff.networks.lean.network import Encoder
from textdiff.networks.masked_lm import HEADS, fewest_of, filled_up, network_of, parts, repeats
from textdiff.networks.ordered.memory import Recent
from textdiff.networks.ordered.prediction import InOrder
from textdiff.networks.reading import Speaker
from textdiff.networks.tokenization import NEXT, frame, named


@dataclass(frozen=True)
class Columns:
    """The columns (1) of R rows: F of prefix and frame, then the text's part."""

    ids: Tensor  # (R, W)
    following: Tensor  # (R, W) k of [next-k], −1 where a column has none
    position: Tensor  # (R, W)
    live: Tensor  # (R, W) bool
    visible: Tensor  # (R, W) bool: seen by all


def any_subset(text_model: Speaker) -> Callable[[Query], InOrder]:
    """The network of `text_model` as a predictor of whole texts."""
    model = network_of(text_model, auto="float32")  # of one column at a time bfloat16 takes no less time
    head = HEADS[model.config.model_type]
    if head.first is None or "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
        raise ModelError(
            f"{text_model.name}: a network that writes in order takes positions and sees all columns, which "
            f"{model.config.model_type} with its settings does not; use one of another type, or full attention in every layer"
        )
    encode, to_logits = parts(model, head)
    before, after = frame(text_model.tokenizer)
    pad, mask, width = text_model.pad_id, text_model.mask_id, len(text_model.prefix)
    next_ids, again = named(NEXT, text_model.tokenizer.get_vocab()), repeats(text_model)
    following_ids = torch.tensor(next_ids, device=text_model.device)
    first = {"zero": 0, "padding": pad + 1}[head.first]
    banned = torch.full((len(model.get_input_embeddings().weight),), -torch.inf, device=text_model.device)
    banned[text_model.content] = 0.0
    if text_model.unk_id is not None:
        banned[text_model.unk_id] = 0.0
    fewest = fewest_of(model)
    recent = Recent(fewest)

    def embed(columns: Columns) -> Tensor:
        table = model.get_input_embeddings()
        more = torch.nn.functional.embedding(following_ids[columns.following.clamp(min=0)], table.weight)
        return table(columns.ids) + torch.where(columns.following[..., None] >= 0, more, 0.0)  # type: ignore[no-any-return]

    def logits_of(hidden: Tensor, tokens: Tensor, standing: Tensor) -> Tensor:
        """Of hidden states (n, D), and the texts (n, L) with what stands of them (n, L) bool."""
        logits = to_logits(filled_up(hidden, fewest)).float()[: len(hidden)]
        return checked(again(logits + banned, logits, tokens, standing))

    def checked(scores: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and not bool(scores.amax(-1).isfinite().all()):
            raise not_finite(text_model.name)
        return scores

    def predict(query: Query) -> InOrder:
        x_t, t = query.x_t, query.t
        hole = t > 0
        if x_t.shape[1] > len(next_ids):
            raise AskedError(
                f"a text has {x_t.shape[1]} positions, and model {text_model.name} writes at most {len(next_ids)}; "
                f"pass a shorter one"
            )
        at = query.at
        if at is None:
            at = positions_of(hole)
        rows, place = at[0].unique_consecutive(return_inverse=True)
        visible = (~hole & (x_t != mask) & (x_t != pad))[rows]
        standing, of_row = x_t[rows], hole[rows]
        rank = of_row.cumsum(-1) - 1  # of a hole among those of its row
        v, which = visible.sum(-1), rank[place, at[1]]  # which column of the text's part says a position
        condition = query.condition
        if condition is None:
            condition = torch.full((len(x_t), width), pad, device=x_t.device)
        ends = (standing.new_tensor(edge).expand(len(rows), -1) for edge in (before, after))
        around = torch.cat([condition[rows], *ends], 1)
        said = (around != pad).any(0)  # the other columns are empty in the whole batch, and left out
        slots, around = said.nonzero()[:, 0].expand(len(rows), -1), around[:, said]  # (R, F)
        length = (standing != pad).sum(-1, keepdim=True)
        places = torch.where(slots < width + len(before), slots, slots + length)

        def columns(x: Tensor, most: int) -> Columns:
            """The columns (1) with x's tokens (R, L), those of the text's part as far as the hole `most`."""
            index = torch.arange(x.shape[1], device=x.device).expand_as(x)
            order = torch.where(
                visible, index, torch.where(of_row, x.shape[1] + index, 2 * x.shape[1] + index)
            ).argsort(-1)
            size = min(int(v.max()) + most + 1, x.shape[1])
            column = torch.arange(size, device=x.device).expand(len(x), -1)
            start, source = column == v[:, None], torch.where(column < v[:, None], column, column - 1).clamp(min=0)
            goal = order.gather(1, column.clamp(max=x.shape[1] - 1))  # the position that a column is to say
            own = torch.where(start, goal, order.gather(1, source))
            live = column < (v + of_row.sum(-1))[:, None]
            return Columns(
                ids=torch.cat([around, torch.where(start, mask, x.gather(1, own))], 1),
                following=torch.cat([torch.full_like(around, -1), torch.where(column > v[:, None], goal, -1)], 1),
                position=torch.cat([places, own + width + len(before)], 1) + first,
                live=torch.cat([around != pad, live], 1),
                visible=torch.cat([around != pad, column < v[:, None]], 1),
            )

        def given(x: Tensor) -> Categorical:
            x_rows = x[rows]
            missing = (of_row & (x_rows == mask)).long().cumsum(-1)  # holes without a token, as far as each position
            passed: list[Callable[[Tensor], Tensor]] = []
            last: dict[int, Tensor] = {}  # the last column as far as a hole -> its hidden states (R, D)
            reusing = isinstance(model, Encoder) and not torch.is_grad_enabled() and bool((v == v[:1]).all())

            def read(index: Tensor) -> Tensor:
                if not len(index):
                    return torch.zeros(0, len(banned), device=banned.device)
                row, at_hole = place[index], which[index]
                lacking = missing[row, at[1][index]] - (x_rows[row, at[1][index]] == mask).long()
                if bool((lacking > 0).any()) or bool((at_hole < 0).any()):
                    raise AskedError(
                        f"model {text_model.name} writes its holes from left to right, and a hole was asked for before "
                        f"those to its left have tokens; use the process 'ascending'"
                    )
                most = int(at_hole.max())
                before_it = torch.arange(x.shape[1], device=x.device) < at[1][index][:, None]
                text = x_rows[row], visible[row] | (of_row[row] & before_it)
                if reusing and bool((at_hole == most).all()):
                    if most not in last:
                        last[most] = recent.last(model, columns(x_rows, most), embed, around.shape[1] + int(v[0]))
                    return logits_of(last[most][row], *text)
                if not passed:
                    read_at = (place, around.shape[1] + v[place] + which)
                    seen = columns(x_rows, int(which.max()))
                    part = torch.arange(seen.ids.shape[1] - around.shape[1], device=x.device) + len(said)
                    keyed.reading(rows, torch.cat([said.nonzero()[:, 0], part]), len(said) + x.shape[1])
                    passed.append(_passed(encode, seen, embed, read_at))
                return logits_of(passed[0](index), *text)

            return Categorical(read, at, x_t)

        def unheard(index: Tensor) -> Tensor:
            nothing = torch.zeros(1, model.config.hidden_size, dtype=model.dtype, device=banned.device)
            return checked(to_logits(filled_up(nothing, fewest)).float()[:1] + banned).expand(len(index), -1)

        return InOrder(given, Categorical(unheard, at, x_t, kind=torch.zeros_like(at[0])), hole)

    return predict


def _passed(
    encode: Callable[..., Callable[[Tensor], Tensor]],
    columns: Columns,
    embed: Callable[[Columns], Tensor],
    at: tuple[Tensor, Tensor],
) -> Callable[[Tensor], Tensor]:
    """All columns in one pass: indices (n,) of the rows and columns `at` -> hidden states (n, D)."""
    seen = sight(columns)
    return encode(
        at=at,
        inputs_embeds=embed(columns),
        position_ids=columns.position,
        attention_mask=torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, torch.finfo(torch.float).min)[
            :, None
        ],
    )


def sight(columns: Columns) -> Tensor:
    """(2): whether a column sees another, (R, W, W) bool."""
    size = columns.ids.shape[1]
    column = torch.arange(size, device=columns.ids.device)
    earlier = (column <= column[:, None]) & ~columns.visible[:, :, None]
    return columns.live[:, None, :] & (columns.visible[:, None, :] | earlier)
