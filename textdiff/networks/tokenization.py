"""Tokenizers, and which of their tokens are text.

Every tokenizer here is an ordinary Hugging Face fast tokenizer: a saved one opens with `AutoTokenizer` alone.  Those built
here share one layout of ids:

    0 [PAD]    1 [UNK]    2 [MASK]    3 … further special tokens    then the characters or pieces
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from textdiff.core.errors import AskedError
from textdiff.processes import PROCESSES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, MASK = "[PAD]", "[UNK]", "[MASK]"
NEXT, AGAIN = "next", "again"  # [next-k], [again-k]: tokens that name position k of the text
LEVELS = 64  # [level-k] says that round(k/64 of the text) is corrupted
POEM_PREFIX = ("form", "process", "level", "dynasty", *["title"] * 8)
SLOT_WORDS = {
    "form": ("wuyan-jueju", "qiyan-jueju", "wuyan-lushi", "qiyan-lushi"),
    "process": tuple(name for name, entry in PROCESSES.items() if entry.in_prefix),
    "dynasty": ("tang", "song"),
}
POEM_SPECIALS = (
    *(f"[{word}]" for slot in ("form", "process") for word in SLOT_WORDS[slot]),
    *(f"[level-{k}]" for k in range(LEVELS + 1)),
    *(f"[{word}]" for word in SLOT_WORDS["dynasty"]),
    *(f"[reserved-{k}]" for k in range(19)),
)
TEXT_SPECIALS = tuple(  # of texts without forms
    token for token in POEM_SPECIALS if token[1:-1] in SLOT_WORDS["process"] or token.startswith("[level-")
)

# What a title says of its place in a series ("… 其二" at its end) and of its length ("三首", "十二韵").
_SERIES_PLACE = re.compile(r"\s*其[一二三四五六七八九十百廿卅]+$")
_SERIES_SIZE = re.compile(r"[一二三四五六七八九十百廿卅]+(首|绝|章|咏|韵)(?=$|\s)")
_NO_CHARACTER = re.compile(r"[^\u3400-\u9fff\U00020000-\U0010ffff]")

# Tokens that stand for no text: reserved ones, single bytes of a byte fallback, and markers such as <|endoftext|>.
_NOT_TEXT = re.compile(r"\[unused[_-]?\d+\]|<0x[0-9A-Fa-f]{2}>|<\|.*\|>|\|\|\|.*\|\|\||")


def title_characters(title: str) -> str:
    """The characters of a poem's title that stand in its title slots, at most as many as there are slots, perhaps none.

    Left out: the poem's place in a series, the size of the series, and whatever is no Chinese character.
    """
    bare = _SERIES_SIZE.sub("", _SERIES_PLACE.sub("", title.strip()))
    return _NO_CHARACTER.sub("", bare)[: POEM_PREFIX.count("title")]


def character_tokenizer(characters: Iterable[str], specials: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One character (code point) is one token; `specials` get the ids after [MASK], then the characters in their order.

    A character outside `characters` is [UNK].  Nothing is normalised, spaces and line breaks are characters like others.
    """
    names = _layout(specials)
    for character in characters:
        if len(character) != 1:
            raise AskedError(f"{character!r} is {len(character)} characters long; pass single characters")
        names.append(character)
    if len(set(names)) != len(names):
        double = next(name for k, name in enumerate(names) if name in names[:k])
        raise AskedError(f"{double!r} occurs twice among the tokens; pass each character and special token once")
    tokenizer = Tokenizer(models.WordLevel({name: k for k, name in enumerate(names)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrap(tokenizer, specials)


def sentencepiece_tokenizer(
    files: Sequence[str | os.PathLike[str]] = (),
    *,
    model: str | os.PathLike[str] | bytes | None = None,
    vocab_size: int = 8000,
    specials: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """A unigram sentencepiece vocabulary, trained on text `files` (one sentence a line) or read from a `.model` file.

    Its pieces follow `specials` in the order of the model; control and unused pieces are left out.  `vocab_size` counts all
    tokens of a trained vocabulary, special ones too; it is an upper limit where the text has too little variety.  Trained
    here, text comes back from its tokens letter by letter; a loaded model, a file or its contents, brings its own normalisation.
    """
    import sentencepiece

    if bool(files) == (model is not None):
        raise AskedError("pass text files to train on, or model= with a .model file, and not both")
    if model is None:
        proto = train_sentencepiece(files, vocab_size=vocab_size, specials=specials)
    elif isinstance(model, bytes):
        proto = model
    else:
        path = Path(model)
        if not path.is_file():
            raise AskedError(f"there is no sentencepiece model {path}; pass the .model file that training wrote")
        proto = path.read_bytes()
    return _unigram(
        sentencepiece.SentencePieceProcessor(model_proto=proto), _Model.parse(proto), _layout(specials), specials
    )


def train_sentencepiece(
    files: Sequence[str | os.PathLike[str]], *, vocab_size: int, specials: Sequence[str] = ()
) -> bytes:
    """What a `.model` file holds, trained as `sentencepiece_tokenizer` says."""
    import sentencepiece

    for file in files:
        if not Path(file).is_file() or not Path(file).stat().st_size:
            raise AskedError(f"text file {file} is missing or empty; pass text with one sentence a line")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        input=[os.fspath(file) for file in files],
        model_writer=written,
        model_type="unigram",
        vocab_size=vocab_size - len(_layout(specials)) + 1,  # of ours only [UNK] is a piece of theirs
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


@dataclass(frozen=True)
class _Model:
    """What `SentencePieceProcessor` does not tell about a model (sentencepiece_model.proto)."""

    kind: int  # 1 unigram, 2 BPE
    charsmap: bytes  # the compiled normalisation, may be empty
    dummy_prefix: bool  # whether a space is put in front of a text
    extra_spaces_removed: bool

    @classmethod
    def parse(cls, proto: bytes) -> _Model:
        model = _fields(proto)
        trainer, normalizer = _fields(model.get(2, b"")), _fields(model.get(3, b""))
        return cls(trainer.get(3, 1), normalizer.get(2, b""), bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1)))


def _fields(message: bytes) -> dict[int, Any]:
    """Field number -> its last value in a serialised protocol buffer: int, or bytes for strings and messages."""
    values: dict[int, Any] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            values[key >> 3] = varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        values[key >> 3] = message[at : at + size]
        at += size
    return values


def _unigram(pieces: Any, model: _Model, names: list[str], specials: Sequence[str]) -> PreTrainedTokenizerFast:
    if model.kind != 1:
        raise AskedError("this sentencepiece model is not a unigram model; train one with model_type=unigram")
    text = [
        (pieces.id_to_piece(k), pieces.get_score(k))
        for k in range(pieces.get_piece_size())
        if not (pieces.is_control(k) or pieces.is_unused(k) or pieces.is_unknown(k))
    ]
    text = [(piece, score) for piece, score in text if piece not in names]
    tokenizer = Tokenizer(
        models.Unigram(
            [(name, 0.0) for name in names] + text,
            unk_id=names.index(UNK),
            byte_fallback=any(pieces.is_byte(k) for k in range(pieces.get_piece_size())),
        )
    )
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.extra_spaces_removed:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    # Only at the very start of a text: "always" would put a space after each hole, too.  (A text that begins with spaces
    # goes without; sentencepiece would cut it like one that does not.)
    space = "first" if model.dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=space, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=space, split=False), decoders.Fuse()]
    )
    return _wrap(tokenizer, specials)


def content_ids(tokenizer: Any, vocab_size: int) -> Tensor:
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


def naming(kind: str, positions: int) -> tuple[str, ...]:
    """The tokens of a kind that name as many positions."""
    return tuple(f"[{kind}-{k}]" for k in range(positions))


def named(kind: str, vocabulary: Mapping[str, int]) -> list[int]:
    """The ids of the tokens of a kind, in the order of the positions that they name."""
    ids: list[int] = []
    while (token := f"[{kind}-{len(ids)}]") in vocabulary:
        ids.append(vocabulary[token])
    return ids


def names_position(token: str) -> bool:
    """Whether a token names a position."""
    return token.startswith((f"[{NEXT}-", f"[{AGAIN}-"))


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
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
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        mask_token=MASK,
        extra_special_tokens=list(specials),
        clean_up_tokenization_spaces=False,
    )
