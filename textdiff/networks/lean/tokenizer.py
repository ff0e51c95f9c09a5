"""A tokenizer of the `tokenizers` library, read from a folder with what textdiff needs of it.

It answers as transformers' does.  Where a folder asks for more than its tokenizer.json (a class that builds its own parts,
tokens to be added, truncation, padding), `read_tokenizer` gives None.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
UNLIMITED = int(1e30)  # what transformers writes where a tokenizer has no limit

# Classes of transformers that take tokenizer.json as it is, and the family of models whose tokenizers always do.
_AS_IT_IS = ("TokenizersBackend", "PreTrainedTokenizerFast")
_ALWAYS = "modernbert"
_SILENT = {
    "add_prefix_space",
    "backend",
    "is_local",
    "local_files_only",
    "model_input_names",
    "name_or_path",
    "padding_side",
    "truncation_side",
}
_MANY = 100_000  # from here on transformers looks for a fault of one family of tokenizers


class LeanTokenizer:
    """What textdiff uses of a Hugging Face tokenizer, under the same names."""

    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    sep_token: str | None
    pad_token: str | None
    cls_token: str | None
    mask_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    sep_token_id: int | None
    pad_token_id: int | None
    cls_token_id: int | None
    mask_token_id: int | None

    def __init__(self, backend: Tokenizer, named: dict[str, str], extra: Sequence[str], limit: int = UNLIMITED):
        self.backend_tokenizer = backend
        self.extra_special_tokens = list(extra)
        self.model_max_length = limit
        for name in NAMED:
            token = named.get(name)
            setattr(self, f"{name}_token", token)
            setattr(self, f"{name}_token_id", None if token is None else backend.token_to_id(token))

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def __call__(
        self, text: str | Sequence[str], add_special_tokens: bool = True, return_offsets_mapping: bool = False
    ) -> dict[str, Any]:
        """Ids of one text or of several, and where asked for the (begin, end) of each token."""
        texts = [text] if isinstance(text, str) else list(text)
        found = self.backend_tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        answer: dict[str, Any] = {"input_ids": [one.ids for one in found]}
        if return_offsets_mapping:
            answer["offset_mapping"] = [one.offsets for one in found]
        return {key: values[0] for key, values in answer.items()} if isinstance(text, str) else answer

    def decode(self, ids: int | Sequence[int], skip_special_tokens: bool = False) -> str:
        several = [ids] if isinstance(ids, int) else list(ids)
        return self.backend_tokenizer.decode(several, skip_special_tokens=skip_special_tokens)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._vocabulary)

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab()

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> Any:
        """The token of an id, or those of several; None where there is none."""
        if isinstance(ids, int):
            return self.backend_tokenizer.id_to_token(ids)
        return [self.backend_tokenizer.id_to_token(int(k)) for k in ids]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token, or those of several; the unknown token's where there is none."""
        if isinstance(tokens, str):
            found = self.backend_tokenizer.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        decoder = self.backend_tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    @property
    def named(self) -> dict[str, str]:
        """The special tokens that have a name, by it."""
        found = {name: getattr(self, f"{name}_token") for name in NAMED}
        return {name: token for name, token in found.items() if token is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys([*self.named.values(), *self.extra_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        ids: list[int] = self.convert_tokens_to_ids(self.all_special_tokens)
        return ids

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return self.backend_tokenizer.get_added_tokens_decoder()


def read_tokenizer(folder: Path, model_type: str) -> LeanTokenizer | None:
    """The tokenizer of a folder; None where transformers might make something else of the folder."""
    whole, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not whole.is_file() or not settings.is_file() or (folder / "added_tokens.json").exists():
        return None
    told = json.loads(settings.read_text(encoding="utf-8"))
    if told.pop("tokenizer_class", None) not in _AS_IT_IS and model_type != _ALWAYS:
        return None
    backend = Tokenizer.from_file(str(whole))
    added = backend.get_added_tokens_decoder()
    listed = told.pop("added_tokens_decoder", None)  # older folders; without it special_tokens_map.json counts
    if listed is None and (folder / "special_tokens_map.json").exists():
        return None
    if any(repr(added.get(int(k))) != repr(AddedToken(**token)) for k, token in (listed or {}).items()):
        return None
    named = {name: _content(told.pop(f"{name}_token", None)) for name in NAMED}
    special = {name: token for name, token in named.items() if token is not None}
    extra = told.pop("extra_special_tokens", None) or told.pop("additional_special_tokens", None) or []
    limit = told.pop("model_max_length", UNLIMITED)
    if (
        set(told) - _SILENT - {"clean_up_tokenization_spaces"}
        or told.get("clean_up_tokenization_spaces")
        or not isinstance(extra, list)
        or not {*special.values(), *map(_content, extra)} <= {token.content for token in added.values()}
        or type(limit) is not int
        or backend.padding is not None
        or backend.truncation is not None
        or backend.get_vocab_size() > _MANY
    ):
        return None
    return LeanTokenizer(backend, special, [_content(token) for token in extra], limit)


def _content(token: Any) -> Any:
    """The text of a special token, which is written as it is or as an object."""
    return token.get("content") if isinstance(token, dict) else token
