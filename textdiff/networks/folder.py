"""A saved model: an ordinary Hugging Face folder, and `textdiff.json` beside it.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json       open with transformers alone
    textdiff.json   {"format": 1, "vocabulary": V, "tokens": of the tokenizer, "processes": [names], "prefix": [slots],
                     "told": [slots], "defaults": {…}, "schedule": name, "factor": number,
                     "self_conditioning": share}

The prefix is the condition, which the network reads beside x_t: tokens in front of the text, a fixed number of slots P, each "form",
"process", "level", "dynasty" or "title" (one character a slot).  A slot where nothing is said holds [PAD] and is masked
out of attention; text character i has position P + i whatever the slots hold.  "told" names the slots that the
network was trained to read (form, process and level where the key is missing); the other slots are reserved and stay empty.
"schedule" is that of the embedding process, its signal times "factor" (`noise_schedule`), and "self_conditioning" the share of
its training examples that saw a first guess; these keys may be missing.

A folder without `textdiff.json` is framed by its tokenizer's own specials ([CLS] text [SEP]), has no prefix, and serves
the mask process as it is.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from textdiff.core.contracts import Process, Query
from textdiff.core.errors import AskedError, ModelError
from textdiff.core.predictions import TokenPredictor
from textdiff.core.resolve import attribute
from textdiff.core.schedules import Schedule, get_schedule
from textdiff.networks.devices import float_type, on_cpu
from textdiff.networks.files import describe, locate
from textdiff.networks.lean.network import Encoder
from textdiff.networks.lean.products import check_precision
from textdiff.networks.lean.tokenizer import LeanTokenizer
from textdiff.networks.masked_lm import masked_lm
from textdiff.networks.ordered.any_subset import any_subset
from textdiff.networks.saving import replacing
from textdiff.networks.text_parts import SCHEDULE, SLOTS, USUALLY_TOLD, check_parts, embedding_rows, quiet, read_folder
from textdiff.networks.tokenization import NEXT, SLOT_WORDS, content_ids, named, title_characters
from textdiff.processes import PROCESSES

# factor · √D by default.  By its D coordinates together a token is recognised where ᾱ²D/β̄² is some ten, so the
# signal of each is made as faint: then the cross-entropy of the draft rises over the whole range of levels.
RECOGNISED = 3.6


@dataclass(frozen=True, eq=False)
class TextModel:
    """A masked language model, its tokenizer, and how textdiff speaks to them.

    V is the number of rows of the embedding; a `content` id may be noise, prior or output, and is never special.
    """

    model: nn.Module
    tokenizer: Any
    processes: tuple[str, ...]
    prefix: tuple[str, ...]
    told: tuple[str, ...]
    content: Tensor  # (C,) sorted ids
    mask_id: int
    unk_id: (
        int | None
    )  # predicted with a probability of its own, so that unknown text can be scored; ban it to generate
    defaults: dict[str, Any]
    name: str
    schedule: str  # of the embedding process
    factor: float  # of its signal
    self_conditioning: float  # share of its training examples that saw a guess; above 0 it reads its last draft
    folder: Path | None = None  # that the model was read from
    precision: str = "float32"  # of the network's products (lean/products.py); networks of transformers have no other
    look: Callable[[], object] | None = None  # called before every forward; it ends the work by an exception of its own

    @classmethod
    @on_cpu
    def from_parts(
        cls,
        model: nn.Module,
        tokenizer: Any,
        *,
        processes: Sequence[str] = ("mask",),
        prefix: Sequence[str] = (),
        told: Sequence[str] = USUALLY_TOLD,
        defaults: dict[str, Any] | None = None,
        name: str = "model",
        schedule: str | None = None,
        factor: float | None = None,
        self_conditioning: float = 0.0,
    ) -> TextModel:
        """From a network and a tokenizer that are there already (training begins here)."""
        check_parts(model, tokenizer, processes, prefix, name)
        rows = embedding_rows(model)
        content = content_ids(tokenizer, rows).to(next(model.parameters()).device)
        if len(content) < 2:
            raise ModelError(f"{name}: the tokenizer has {len(content)} tokens that are text; it needs at least 2")
        taken = {tokenizer.mask_token_id, tokenizer.pad_token_id}
        unk = tokenizer.unk_token_id
        return cls(
            model=model,
            tokenizer=tokenizer,
            processes=tuple(processes),
            prefix=tuple(prefix),
            told=tuple(slot for slot in SLOTS if slot in told and slot in prefix),
            content=content,
            mask_id=tokenizer.mask_token_id,
            unk_id=None if unk in taken else unk,
            defaults=dict(defaults or {}),
            name=name,
            schedule=schedule or SCHEDULE,
            factor=RECOGNISED / _embedding_width(model) ** 0.5 if factor is None else factor,
            self_conditioning=self_conditioning,
        )

    @classmethod
    @on_cpu
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        lean: bool = False,
    ) -> TextModel:
        """The packaged poem model (None), a folder, or a model of the hub by its id.  Raises ModelError.

        With `lean`, network and tokenizer are textdiff's own where these can read the folder, so that transformers need
        not be imported (seconds): the numbers are the same, but such a network cannot be trained.
        """
        folder, name = locate(path_or_id)
        model, tokenizer, described = read_folder(folder, name, float_type(dtype), lean)
        return replace(cls.from_parts(model.to(device).eval(), tokenizer, name=name, **described), folder=folder)

    @on_cpu
    def with_transformers(self) -> TextModel:
        """The same model with the network and the tokenizer of transformers, for training and for other libraries."""
        if not isinstance(self.model, Encoder) and not isinstance(self.tokenizer, LeanTokenizer):
            return self
        from textdiff.networks.lean import whole

        model: Any = whole.network(self.model) if isinstance(self.model, Encoder) else self.model
        tokenizer = whole.tokenizer(self.tokenizer) if isinstance(self.tokenizer, LeanTokenizer) else self.tokenizer
        return replace(self, model=model, tokenizer=tokenizer, precision="float32")

    def at_precision(self, precision: str) -> TextModel:
        """The same model whose network multiplies so: float32, bf16 or auto."""
        check_precision(precision)
        if precision == "bf16" and not isinstance(self.model, Encoder):
            raise AskedError(
                f"precision is 'bf16', but textdiff has no network of its own for model {self.name}; leave it out, or pass "
                f"dtype=torch.bfloat16 to TextPipeline.from_pretrained"
            )
        return replace(self, precision=precision)

    @on_cpu
    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write the folder, whole or not at all, in the place of an old one; `dtype` converts the weights.

        A folder that is no model is refused; files of the old folder that no save writes are kept.
        """
        whole = self.with_transformers()
        model: Any = whole.model if dtype is None else copy.deepcopy(whole.model).to(dtype)
        with replacing(Path(folder)) as new, quiet():
            model.save_pretrained(new)
            whole.save_description(new)

    def save_description(self, folder: Path) -> None:
        """Write the tokenizer and textdiff.json."""
        description = {
            "vocabulary": embedding_rows(self.model),
            "tokens": len(self.tokenizer),
            "processes": list(self.processes),
            "prefix": list(self.prefix),
            "told": list(self.told),
            "defaults": self.defaults,
        }
        if any(PROCESSES[name].encodes for name in self.processes):
            description |= {
                "schedule": self.schedule,
                "factor": self.factor,
                "self_conditioning": self.self_conditioning,
            }
        self.tokenizer.save_pretrained(folder)
        describe(folder, description)

    # -- text and ids -------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.content.device

    def to(self, device: torch.device | str) -> TextModel:
        """The same model on a device."""
        return replace(self, model=self.model.to(device), content=self.content.to(device))

    def with_network(self, network: nn.Module) -> TextModel:
        """The same model around another network."""
        return replace(self, model=network)

    def vocabulary(self) -> dict[str, int]:
        """The tokenizer's tokens with their ids."""
        return dict(self.tokenizer.get_vocab())

    def guessed(self, process: str) -> float:
        """The share of a process's training examples that see a first guess: tokens see none."""
        return self.self_conditioning if PROCESSES[process].encodes else 0.0

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, L) of texts of equal length in tokens; a hole is written as `tokenizer.mask_token`.

        What the vocabulary cannot say becomes `unk_id`, where there is one.
        """
        rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        for k, row in enumerate(rows):
            if len(row) != len(rows[0]):
                raise AskedError(_lengths_differ(self.tokenizer, texts, rows, k))
        ids = torch.tensor(rows, dtype=torch.long, device=self.device).view(len(rows), -1)
        if self.unk_id is None:
            return ids
        known = torch.isin(ids, self.content) | (ids == self.mask_id)
        return torch.where(known, ids, self.unk_id)

    def decode(self, ids: Tensor) -> list[str]:
        """Texts of ids (B, L).  Masked and unknown positions show as the tokenizer's tokens, other specials not at all."""
        shown = {self.mask_id, self.unk_id}
        hidden = set(self._specials().tolist()) - shown
        texts = [[token for token in row if token not in hidden] for row in ids.tolist()]
        return [_join(self.tokenizer.decode(row, skip_special_tokens=False)) for row in texts]

    def condition(
        self,
        n: int,
        form: str | Sequence[str | None] | None = None,
        process: str | Sequence[str | None] | None = None,
        dynasty: str | Sequence[str | None] | None = None,
        title: str | Sequence[str | None] | None = None,
    ) -> Tensor:
        """The prefix, (n, P) ids, [PAD] where nothing is said; each argument one value for all rows or one per row.

        The level slot stays [PAD]: the predictor fills it.  Of a title the network reads `title_characters`.  A process without
        a slot is let go; any other value without a slot is a ValueError, and so is a title without a Chinese character.
        """
        columns = torch.full((n, len(self.prefix)), self.pad_id, dtype=torch.long)
        for slot, value in (("form", form), ("process", process), ("dynasty", dynasty)):
            words = _per_row(slot, value, n)
            for word in {w for w in words if w is not None}:
                if slot == "process" and slot not in self.prefix:
                    continue
                column = self._slot(slot, word)
                columns[torch.tensor([w == word for w in words]), column] = self._token(slot, word)
        titles = {row: said for row, said in enumerate(_per_row("title", title, n)) if said}
        if titles:
            start = self._slot("title", next(iter(titles.values())))
            read = [title_characters(said) for said in titles.values()]
            if not all(read):
                raise AskedError(
                    f"title {list(titles.values())[read.index('')]!r} has no Chinese character to go by; "
                    f"write a title in Chinese, or leave it out"
                )
            width = self.prefix.count("title")
            rows = self.tokenizer(read, add_special_tokens=False)["input_ids"]
            padded = [row[:width] + [self.pad_id] * (width - len(row)) for row in rows]
            columns[list(titles), start : start + width] = torch.tensor(padded)
        return columns.to(self.device)

    def untold(self, condition: Tensor) -> Tensor:
        """The prefix (n, P) without title and dynasty."""
        about = torch.tensor(
            [slot in ("title", "dynasty") for slot in self.prefix], dtype=torch.bool, device=condition.device
        )
        return torch.where(about, self.pad_id, condition)

    # -- parts --------------------------------------------------------------------------------------------------------

    def predictor(self, process: str) -> TokenPredictor:
        """The network as the predictor of `process`, whose name it reads where the condition names none."""
        predictor = any_subset(self) if self.writes_whole(process) else masked_lm(self, process)
        return cast(TokenPredictor, predictor if self.look is None else _watched(predictor, self.look))

    def writes_whole(self, process: str) -> bool:
        """Whether a process has an order in which the network was trained to write; then its predictor gives whole texts a law."""
        return PROCESSES[self._served(process)].ordered and bool(named(NEXT, self.tokenizer.get_vocab()))

    def process(self, name: str, vocabulary: Tensor | None = None) -> Process:
        """The process `name` over this vocabulary, or a part of it."""
        entry, model = PROCESSES[self._served(name)], cast(Any, self.model)
        parts = {
            "mask_id": self.mask_id,
            "whole": self.writes_whole(name),
            "vocabulary": self.content if vocabulary is None else vocabulary,
            "table": model.get_input_embeddings().weight,  # itself, so that it is trained
            "schedule": self.noise_schedule(),
        }
        built: Process = attribute(entry.path)(**{key: parts[key] for key in entry.needs})
        return built

    def noise_schedule(self) -> Schedule:
        """ᾱ and β̄ of the embedding process."""
        return get_schedule(self.schedule, self.factor)

    def level_ids(self) -> Tensor:
        """Ids of [level-0] … [level-K], (K + 1,)."""
        vocabulary = self.tokenizer.get_vocab()
        count = sum(token.startswith("[level-") for token in vocabulary)
        return torch.tensor([vocabulary[f"[level-{k}]"] for k in range(count)], device=self.device)

    def _served(self, process: str) -> str:
        if process not in self.processes:
            raise AskedError(f"model {self.name} serves {', '.join(self.processes)}, not process {process!r}")
        return process

    def _slot(self, slot: str, word: str) -> int:
        if slot not in self.told:
            raise AskedError(f"{slot} is {word!r}, but model {self.name} cannot be told a {slot}; leave it out")
        return self.prefix.index(slot)

    def _token(self, slot: str, word: str) -> int:
        vocabulary = self.tokenizer.get_vocab()
        if word not in SLOT_WORDS[slot] or f"[{word}]" not in vocabulary:
            known = [name for name in SLOT_WORDS[slot] if f"[{name}]" in vocabulary]
            raise AskedError(f"{slot} {word!r} is unknown to model {self.name}; it knows {', '.join(known)}")
        return int(vocabulary[f"[{word}]"])

    def _specials(self) -> Tensor:
        ids = set(self.tokenizer.all_special_ids)
        ids |= {k for k, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return torch.tensor(sorted(ids), device=self.device)


# -- small parts ----------------------------------------------------------------------------------------------------------


def _watched(predictor: Callable[[Query], Any], look: Callable[[], object]) -> Callable[[Query], Any]:
    def predict(query: Query) -> Any:
        look()
        return predictor(query)

    return predict


def _embedding_width(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[1])


def _per_row(slot: str, value: str | Sequence[str | None] | None, n: int) -> Sequence[str | None]:
    if value is None or isinstance(value, str):
        return [value] * n
    if len(value) != n:
        raise AskedError(f"{slot} has {len(value)} values for {n} rows; pass one for all or one per row")
    return value


def _lengths_differ(tokenizer: Any, texts: Sequence[str], rows: list[list[int]], k: int) -> str:
    first, other = rows[0], rows[k]
    longer, at = (k, len(first)) if len(other) > len(first) else (0, len(other))
    token = tokenizer.decode(rows[longer][at : at + 1])
    return (
        f"text {k} has {len(other)} tokens, text 0 has {len(first)}: from token {at}, {token!r} of text {longer}, they have "
        f"no partner; pass texts of equal length, or one at a time"
    )


def _join(text: str) -> str:
    """Text without the spaces that a word-piece decoder puts between Chinese characters."""
    return re.sub(r"(?<=[\u3000-\u9fff\uff00-\uffef]) (?=[\u3000-\u9fff\uff00-\uffef])", "", text)
