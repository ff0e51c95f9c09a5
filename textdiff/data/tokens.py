"""Token ids of a text that comes in pieces, the same as if the whole text had been tokenised at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from textdiff.networks.folder import TextModel

BLOCK = 1 << 14  # characters that a tokenizer gets at once
CONTEXT = 256  # characters more on either side of a block, where it overlaps its neighbours
TOGETHER = 64  # blocks in one call of the tokenizer
CODES = 0x110000


def codes(text: str) -> np.ndarray:
    """The code points of a text, (L,)."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


class Encoder:
    """Gives the token ids of texts, and counts the tokens and characters that the vocabulary lacks.

    With `characters` each character is a token, so that the tokenizer sees each different character only once.
    """

    def __init__(self, text_model: TextModel, *, characters: bool):
        self.text_model, self.characters = text_model, characters
        self.total = self.unknown = 0  # tokens
        self.seen = self.lost = 0  # characters except white space, and those of them that no token stands for
        size = text_model.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        known = torch.zeros(max(size, len(text_model.tokenizer)), dtype=torch.bool)
        known[text_model.content.cpu()] = True
        self.known = known.numpy()
        self.known[text_model.mask_id] = True
        self.of_code = np.full(CODES, -1, dtype=np.int64) if characters else np.empty(0, dtype=np.int64)

    def share_unknown(self) -> float:
        """The share of the text that the vocabulary lacks: that of tokens or that of characters, whichever is larger."""
        return max(self.unknown / max(self.total, 1), self.lost / max(self.seen, 1))

    def rows(self, texts: list[str]) -> np.ndarray:
        """The ids (N, L) of texts with equal numbers of tokens."""
        if self.characters:
            return self._counted(self._of_codes(codes("".join(texts)))).reshape(len(texts), -1)
        return self._counted(self.text_model.encode(texts).cpu().numpy())

    def stream(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of a text that comes in pieces, as arrays (k,)."""
        if self.characters:
            for piece in pieces:
                yield self._counted(self._of_codes(codes(piece)))
            return
        for ids in self._joined(pieces):
            if self.text_model.unk_id is not None:
                ids = np.where(self.known[ids], ids, self.text_model.unk_id)
            yield self._counted(ids)

    def _counted(self, ids: np.ndarray) -> np.ndarray:
        self.total += ids.size
        self.unknown += int(ids.size - self.known[ids].sum())
        return ids

    def _of_codes(self, points: np.ndarray) -> np.ndarray:
        ids: np.ndarray = self.of_code[points]
        if len(ids) and ids.min() < 0:
            new = np.unique(points[ids < 0])
            self.of_code[new] = self.text_model.encode([chr(code) for code in new.tolist()])[:, 0].cpu().numpy()
            ids = self.of_code[points]
        return ids

    def _joined(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of blocks that overlap; two blocks are joined at a place where the same token begins in both."""
        tokenizer = self.text_model.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        tokenizer("a", add_special_tokens=False)  # switches off a truncation or padding that was saved with it
        if backend is None:  # it does not tell the places of its tokens, so we cut between lines
            for text in _lines(pieces):
                yield np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
            return
        waiting: tuple[np.ndarray, np.ndarray] | None = None  # starts, ids of the last block, from its first token on
        for blocks in batched(_blocks(pieces), TOGETHER):
            encoded = backend.encode_batch([text for _, text in blocks], add_special_tokens=False)
            for (at, text), encoding in zip(blocks, encoded, strict=True):
                spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
                self._cover(text, spans)
                here = spans[:, 0] + at, np.array(encoding.ids, dtype=np.int64)
                if waiting is not None:
                    cut = _meeting(waiting, here, at)
                    yield waiting[1][waiting[0] < cut]
                    here = here[0][here[0] >= cut], here[1][here[0] >= cut]
                waiting = here
        if waiting is not None:
            yield waiting[1]

    def _cover(self, text: str, spans: np.ndarray) -> None:
        """Count the characters that no token stands for, among the first million characters."""
        if self.seen > 1 << 20:
            return
        inside = np.zeros(len(text) + 1, dtype=np.int64)
        np.add.at(inside, spans[:, 0], 1)
        np.add.at(inside, spans[:, 1], -1)
        shown = np.array([not character.isspace() for character in text], dtype=bool)
        self.seen += int(shown.sum())
        self.lost += int((shown & (inside.cumsum()[:-1] == 0)).sum())


def batched(items: Iterable[Any], n: int) -> Iterator[list[Any]]:
    """Lists of n items each; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, n)):
        yield batch


def _blocks(pieces: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Pairs of a place and the block that begins there, which has CONTEXT characters more on either side."""
    text, at = "", 0
    for piece in itertools.chain(pieces, [None]):
        text += piece or ""
        while len(text) >= BLOCK + 2 * CONTEXT or (piece is None and text):
            last = piece is None and len(text) <= BLOCK + 2 * CONTEXT
            yield at, text if last else text[: BLOCK + 2 * CONTEXT]
            if last:
                return
            text, at = text[BLOCK:], at + BLOCK


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """Whole lines, about a block at a time."""
    text = ""
    for piece in pieces:
        text += piece
        cut = text.rfind("\n") + 1
        if cut >= BLOCK:
            yield text[:cut]
            text = text[cut:]
    if text:
        yield text


def _meeting(left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray], at: int) -> int:
    """Where to go from one block to the next, which begins at `at`: near the middle of the text that both have."""
    middle = at + CONTEXT
    near = [set(zip(starts.tolist(), ids.tolist(), strict=True)) for starts, ids in (_part(left, at), _part(right, at))]
    return min((start for start, _ in near[0] & near[1]), key=lambda start: abs(start - middle), default=middle)


def _part(tokens: tuple[np.ndarray, np.ndarray], at: int) -> tuple[np.ndarray, np.ndarray]:
    there = (tokens[0] > at) & (tokens[0] < at + 2 * CONTEXT)
    return tokens[0][there], tokens[1][there]
