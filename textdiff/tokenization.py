"""Tokenizers, and which of their tokens are text.

Every tokenizer here is an ordinary Hugging Face fast tokenizer: a saved one opens with `AutoTokenizer` alone.  Those built
here share one layout of ids:

    0 [PAD]    1 [UNK]    2 [MASK]    3 … further special tokens    then the characters or pieces
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, UNK, MASK = "[PAD]", "[UNK]", "[MASK]"
LEVELS = 64  # [level-k] says that round(k/64 of the text) is corrupted
POEM_PREFIX = ("form", "process", "level", "dynasty", *["title"] * 8)
POEM_SPECIALS = (
    *(f"[{name}]" for name in ("wuyan-jueju", "qiyan-jueju", "wuyan-lushi", "qiyan-lushi")),
    *(f"[{name}]" for name in ("mask", "replacement", "uniform")),
    *(f"[level-{k}]" for k in range(LEVELS + 1)),
    *(f"[{name}]" for name in ("tang", "song")),
    *(f"[reserved-{k}]" for k in range(19)),
)

# Tokens that stand for no text: reserved ones, single bytes of a byte fallback, and markers such as <|endoftext|>.
_NOT_TEXT = re.compile(r"\[unused[_-]?\d+\]|<0x[0-9A-Fa-f]{2}>|<\|.*\|>|\|\|\|.*\|\|\||")


def character_tokenizer(characters: Iterable[str], specials: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One character (code point) is one token; `specials` get the ids after [MASK], then the characters in their order.

    A character outside `characters` is [UNK].  Nothing is normalised, spaces and line breaks are characters like others.
    """
    names = _layout(specials)
    for character in characters:
        if len(character) != 1:
            raise ValueError(f"{character!r} is {len(character)} characters long; pass single characters")
        names.append(character)
    if len(set(names)) != len(names):
        double = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"{double!r} occurs twice among the tokens; pass each character and special token once")
    tokenizer = Tokenizer(models.WordLevel({name: k for k, name in enumerate(names)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrap(tokenizer, specials)


def content_ids(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Tensor:
    """Sorted ids (C,) that are text, and so may be noise, prior or output.

    Left out: special and added special tokens, `[unused…]`, bytes of a fallback, tokens that decode to nothing, runs of
    several spaces, and ids without a token although an embedding of `vocab_size` rows has room for them.
    """
    special = set(tokenizer.all_special_ids)
    special |= {k for k, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = []
    for token, k in tokenizer.get_vocab().items():
        if k < vocab_size and k not in special and _is_text(token):
            ids.append(k)
    return torch.tensor(sorted(set(ids)), dtype=torch.long)


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a single text: ([CLS], [SEP]), (<s>, </s>) or nothing."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    start = next(k for k in range(len(framed)) if framed[k : k + len(bare)] == bare)
    return framed[:start], framed[start + len(bare) :]


def _layout(specials: Sequence[str]) -> list[str]:
    return [PAD, UNK, MASK, *specials]


def _is_text(token: str) -> bool:
    surface = re.sub("[▁ĠĊ]", " ", token)  # how sentencepiece and byte-level vocabularies write white space
    return not _NOT_TEXT.fullmatch(token) and (len(surface) == 1 or bool(surface.strip()))


def _wrap(tokenizer: Tokenizer, specials: Sequence[str]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        mask_token=MASK,
        extra_special_tokens=list(specials),
        clean_up_tokenization_spaces=False,
    )
