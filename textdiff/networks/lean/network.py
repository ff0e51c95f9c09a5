"""An encoder of text with a masked-LM head, computed from its weights alone.

Notation: x (R, W, D), R rows of W columns; H heads of D/H features; a layer is attention and a feed-forward.

    x = norm(words[ids] + kinds[0] + places[position])                                                                (1)
    (q, k, v) = x·readᵀ + b, cut into heads;   o = softmax(q·kᵀ/√(D/H) + mask)·v;   attention(x) = o·writeᵀ + b       (2)
    feed(x) = down(act(up(x))),   or down(act(a) ⊙ b) with (a, b) = up(x) where it is gated                           (3)
    x ← norm(x + attention(x)),  x ← norm(x + feed(x))                norms after: BERT, RoBERTa, DistilBERT          (4)
    x ← x + attention(norm(x)),  x ← x + feed(norm(x)), at last norm(x)   norms before: ModernBERT                    (5)
    logits = norm(act(x·headᵀ + b))·wordsᵀ + b                                                                        (6)

Where only some places are read, the last layer is computed there alone: attention goes from few queries to all columns, and
the rest is each place's own.

Where positions are not learned, features i and i + D/2H of q and k turn by position · theta^(−2iH/D) instead of `places`
(rotary positions), and a sliding layer sees the columns that are at most half of `local_attention` away.

The order of operations is the one that Hugging Face's implementations have, so that float32 results agree to the last bit
or nearly so.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from textdiff.networks.lean.families import SLIDING, Shape, joined, shape_of, split
from textdiff.networks.lean.products import Make, Product

# The last layer takes the places of a row so many at a time, whatever their number: the rounding of a product may hang on
# its size, and what is read at a place must not hang on what else is read.
PLACES = 16
LANES = 16  # numbers that a softmax sums side by side; fewer are summed in another order
LEAST = 16**3  # multiplications from which on torch leaves a product of bfloat16 to oneDNN, counted over a batch

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "linear": lambda x: x,
}


class Columns(Protocol):
    """Keys and values of the columns that came before (`ordered.memory.Memory` is one)."""

    def joined(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Those of all columns, once these (R, H, k, D/H) have come."""


class Encoder(nn.Module):
    """The network of a folder, for use and not for training: its weights take no gradient."""

    def __init__(self, config: Shape, weights: Mapping[str, Tensor], described: Mapping[str, Any]):
        super().__init__()
        self.config = config
        self.described = dict(described)  # config.json
        self.words: nn.Embedding = nn.Embedding.from_pretrained(weights["words"])
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(weight, requires_grad=False) for name, weight in weights.items() if name != "words"}
        )
        self.make: Make | None = None  # of products; None: torch's, of the weights as they are
        self.products: dict[tuple[str, int | None, int | None], Product] = {}  # by weight, and its first and last row
        self.others: dict[Any, Encoder] = {}  # by what makes their products

    def __getstate__(self) -> dict[str, Any]:
        """Without what is laid out for products, which no other process could take over and each makes anew."""
        return {**self.__dict__, "products": {}, "others": {}}

    @property
    def dtype(self) -> torch.dtype:
        return self.words.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def multiplying(self, make: Make | None) -> Encoder:
        """The same network with products that `make` makes of its weights, once; it is remembered."""
        if make is self.make:
            return self
        key = make, self.words.weight.device, self.dtype
        if key not in self.others:
            other = copy.copy(self)
            other.make, other.products, other.others = make, {}, {}
            self.others[key] = other
        return self.others[key]

    def stored(self) -> dict[str, Tensor]:
        """The weights under the names that Hugging Face gives them."""
        return split(self.config, {"words": self.words.weight, **dict(self.weights.items())})

    def encode(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        at: tuple[Tensor, Tensor] | None = None,
        memory: Columns | None = None,
    ) -> Tensor:
        """Hidden states (R, W, D) of ids (R, W) or their embeddings (R, W, D); or (n, D), those of rows and columns `at` alone.

        `at` is ordered by row.  A column is hidden from attention where the mask (R, W) is 0; a mask of four axes, (R, 1, W, all
        columns), is added to the attention's logits.  Without `position_ids` (R, W) columns are counted from 0.  With a `memory`
        these columns come after the ones that it holds, and it holds them afterwards.
        """
        shape = self.config
        x = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(x.shape[1], device=x.device)[None]
        if shape.type_vocab_size:
            x = x + self.weights["kinds"][0]
        if not shape.modern:
            x = x + functional.embedding(position_ids, self.weights["places"])
        x = self._norm("embedded", x)
        kinds = set(shape.layer_types)
        seen = {kind: self._seen(kind, x, attention_mask) for kind in kinds}
        turn = {kind: self._turn(kind, x, position_ids) for kind in kinds & set(shape.rope_parameters)}
        for k, kind in enumerate(shape.layer_types):
            inputs = self._norm(f"{k} attention norm", x) if shape.modern and k > 0 else x
            if at is not None and k + 1 == shape.num_hidden_layers:
                x = self._attention_at(k, inputs, seen[kind], turn.get(kind), at) + x[at]
            else:
                x = self._attention(k, inputs, seen[kind], turn.get(kind), memory) + x
            if not shape.modern:
                x = self._norm(f"{k} attention norm", x)
            x = self._feed(k, self._norm(f"{k} feed norm", x) if shape.modern else x) + x
            if not shape.modern:
                x = self._norm(f"{k} feed norm", x)
        return self._norm("last norm", x) if shape.modern else x

    def logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states (n, D): the vocabulary's logits by (6), (n, V)."""
        x = self._norm(
            "head norm", _ACTIVATIONS[self.config.classifier_activation](self._product("head", hidden).float())
        )
        return self._product("vocabulary", x)

    def _found(self, name: str) -> Tensor | None:
        weight: Tensor | None = self.weights.get(name, None)
        return weight

    def _product(self, name: str, x: Tensor, first: int | None = None, last: int | None = None) -> Tensor:
        """x times a weight, or its rows from `first` to before `last`."""
        made = self.products.get((name, first, last))
        if made is not None:
            return made(x)
        weight = self.words.weight if name == "vocabulary" else self.weights[f"{name} weight"]
        bias = self._found(name if name == "vocabulary" else f"{name} bias")
        if first is not None or last is not None:
            weight, bias = weight[first:last], None if bias is None else bias[first:last]
        if self.make is None:
            return functional.linear(x, weight, bias)
        made = self.products[name, first, last] = self.make(weight, bias)
        return made(x)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name} weight"], self._found(f"{name} bias")
        return functional.layer_norm(x, weight.shape, weight, bias, self.config.norm_eps)

    def _attention(
        self,
        k: int,
        x: Tensor,
        seen: Tensor | None,
        turn: tuple[Tensor, Tensor] | None,
        memory: Columns | None = None,
    ) -> Tensor:
        rows, columns, width = x.shape
        heads = self.config.num_attention_heads
        cut = self._product(f"{k} read", x).view(rows, columns, 3, heads, width // heads)
        q, key, v = cut.permute(2, 0, 3, 1, 4)  # (R, H, W, D/H)
        if turn is not None:
            q, key = _turned(cut[:, :, :2].permute(2, 0, 3, 1, 4), turn)
        if memory is not None:
            key, v = memory.joined(k, key, v)
        out = _attended(q, key, v, seen)
        return self._product(f"{k} write", out.transpose(1, 2).reshape(rows, columns, width))

    def _attention_at(
        self, k: int, x: Tensor, seen: Tensor | None, turn: tuple[Tensor, Tensor] | None, at: tuple[Tensor, Tensor]
    ) -> Tensor:
        """`_attention` at places that are ordered by row, (n, D)."""
        (rows, columns, width), heads = x.shape, self.config.num_attention_heads
        q = self._product(f"{k} read", x[at], None, width).view(-1, heads, width // heads)
        both = self._product(f"{k} read", x, width).view(rows, columns, 2, heads, width // heads)
        key, v = both.permute(2, 0, 3, 1, 4)  # (R, H, W, D/H)
        if turn is not None:
            key = _turned(key, turn)
            cosine, sine = (part.expand(rows, -1, -1, -1)[at[0], 0, at[1]][:, None] for part in turn)
            q = _turned(q, (cosine, sine))
        # Every row gets as many slots as the fullest needs.  What fills the others is not read.
        first = torch.searchsorted(at[0], torch.arange(rows + 1, device=x.device))
        slots = -(-int(first.diff().max()) // PLACES) * PLACES
        held = (first[:-1, None] + torch.arange(slots, device=x.device)).clamp(max=len(q) - 1)  # (R, slots)
        asked = q[held].transpose(1, 2)
        if seen is not None:
            seen = seen.expand(rows, -1, -1, -1)[at[0], 0, at[1]][held][:, None]
        pieces = [slice(k, k + PLACES) for k in range(0, slots, PLACES)]
        outs = [_attended(asked[:, :, piece], key, v, None if seen is None else seen[:, :, piece]) for piece in pieces]
        out = outs[0] if len(outs) == 1 else torch.cat(outs, 2)  # (R, H, slots, D/H)
        slot = torch.arange(len(q), device=x.device) - first[at[0]]
        return self._product(f"{k} write", out[at[0], :, slot].reshape(-1, width))

    def _feed(self, k: int, x: Tensor) -> Tensor:
        act, up = _ACTIVATIONS[self.config.hidden_activation], self._product(f"{k} up", x)
        if not self.config.modern:
            return self._product(f"{k} down", act(up))
        a, b = up.chunk(2, -1)
        if a.dtype == torch.bfloat16:
            a = a.contiguous()  # torch computes gelu in another way where it is not, and one row always is
        return self._product(f"{k} down", act(a) * b)

    def _seen(self, kind: str, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Which columns a column sees, broadcasting against (R, H, W, W); None: all of them."""
        if mask is not None and mask.ndim == 4:
            return mask.to(x.dtype)
        seen = None if mask is None else mask.bool()[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        if kind != SLIDING:
            return seen
        column = torch.arange(x.shape[1], device=x.device)
        near = ((column[:, None] - column).abs() <= self.config.local_attention // 2)[None, None]
        return near if seen is None else seen & near

    def _turn(self, kind: str, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the rotary angles, (R, 1, W, D/H)."""
        features = self.config.hidden_size // self.config.num_attention_heads
        power = torch.arange(0, features, 2, device=x.device, dtype=torch.float) / features
        angle = position[..., None].float() * (
            1.0 / self.config.rope_parameters[kind]["rope_theta"] ** power
        )  # (R, W, D/2H)
        angle = torch.cat([angle, angle], -1)[:, None]
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


def _attended(q: Tensor, key: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """softmax(q·kᵀ/√(D/H) + mask)·v, (R, H, n, D/H), at the precision of q.

    On a CPU torch's own takes twice as long in bfloat16 as two products and a softmax in float32 between them.  These give a query
    the same bits whatever the number of queries and of hidden keys, which it could not be rounded without.
    """
    if q.dtype != torch.bfloat16 or q.device.type != "cpu":
        mask = seen if seen is None or seen.dtype == torch.bool else seen.to(q.dtype)
        return functional.scaled_dot_product_attention(q, key, v, attn_mask=mask)
    (rows, heads, asked, features), columns = q.shape, key.shape[2]
    more = max(0, LANES - columns, LEAST // (heads * asked * features) + 1 - columns)
    if more:
        key, v = (functional.pad(part, (0, 0, 0, more)) for part in (key, v))
    q, key, v = (part.reshape(rows * heads, -1, features) for part in (q, key, v))
    scores = torch.bmm(q, key.mT).float().mul_(features**-0.5).unflatten(0, (rows, heads))
    if more:
        scores[..., columns:] = -torch.inf
    if seen is not None:
        open_ = scores[..., :columns]
        scores[..., :columns] = open_.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else open_ + seen
    weights = torch.softmax(scores, -1).bfloat16().flatten(0, 1)
    return torch.bmm(weights, v).view(rows, heads, -1, features)


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """x (…, D/H) with its pairs of features (i, i + D/2H) turned."""
    (cosine, sine), half = turn, x.shape[-1] // 2
    wide = x.float()
    out = wide * cosine
    out[..., :half] -= wide[..., half:] * sine[..., :half]
    out[..., half:] += wide[..., :half] * sine[..., half:]
    return out.to(x.dtype)


def read_encoder(folder: Path, dtype: torch.dtype) -> Encoder | None:
    """The network of a model folder; None where the folder holds anything that is not known here for certain."""
    weights = folder / "model.safetensors"
    if [path.name for path in folder.glob("*.safetensors")] != [weights.name] or (
        folder / "adapter_config.json"
    ).exists():
        return None
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = shape_of(described)
    if shape is None:
        return None
    with safe_open(weights, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        if any(found.get_dtype() not in ("F32", "F16", "BF16") for found in slices.values()):
            return None
        stored = {name: tuple(found.get_shape()) for name, found in slices.items()}
        found = joined(shape, stored, lambda name: file.get_tensor(name).to(dtype))
    return None if found is None else Encoder(shape, found, described).eval()
