"""The files of ids that the texts of a recipe become, without ever holding more of the texts than a piece.

Text is read as often as it takes (to count its characters, to make a tokenizer, to tokenise it), rather than held.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textdiff.core.errors import AskedError, RecipeError
from textdiff.data.records import pieces
from textdiff.data.rows import kind_of
from textdiff.data.tokens import CODES, Encoder, batched, codes
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import train_sentencepiece
from textdiff.training.data import Text, place_of, poems
from textdiff.training.recipe import Recipe
from textdiff.training.texts.network import network, specials_of, tokenizer_of

PIECE = 1 << 20  # characters, or so
ROWS = 4096  # poems handled at a time
SAMPLE = 10_000_000  # characters that a sentencepiece model is trained on at most


@dataclass
class Writer:
    """Files that rows are appended to, by the name of their group."""

    folder: Path
    kind: str
    part: str
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, form: str, ids: np.ndarray, condition: np.ndarray | None = None) -> None:
        """(N, L) ids of a form, and their prefixes where they differ."""
        name = f"{self.part}-{form}" if form else self.part
        about = self.told.setdefault(
            form, {"form": form or None, "ids": f"{name}.ids", "kind": self.kind, "rows": 0, "length": ids.shape[1]}
        )
        if ids.shape[1] != about["length"]:
            raise RecipeError(
                f"poems of form {form} have {about['length']} and {ids.shape[1]} tokens; texts of a form need equally many, "
                f"which a tokenizer of characters gives: write tokenizer: {{kind: characters}}"
            )
        about["rows"] += len(ids)
        for ending, table in (("ids", ids), ("told", condition)):
            if table is not None:
                about[ending] = f"{name}.{ending}"
                with (self.folder / about[ending]).open("ab") as file:
                    file.write(table.astype(self.kind).tobytes())

    def groups(self) -> list[dict[str, Any]]:
        return [told for _, told in sorted(self.told.items())]


@dataclass
class Preparation:
    """Writes the files of ids of a recipe, and says what they hold."""

    recipe: Recipe
    found: TextModel | None

    def make(self, folder: Path) -> dict[str, Any]:
        """{"tokenizer": what is made for it, "train", "validation": [a group of rows]}."""
        return self._poems(folder) if self.recipe.data.kind == "poems" else self._windows(folder)

    def _speech(self, told: Any) -> TextModel:
        return network(self.recipe, tokenizer_of(self.recipe, self.found, told), self.found)

    def _encoder(self, text_model: TextModel) -> Encoder:
        return Encoder(text_model, characters=self.recipe.tokenizer.kind == "characters")

    def _made(self, folder: Path, texts: Callable[[], Iterable[str]], length: int) -> Any:
        """What the tokenizer needs of the texts: the characters in their order, or a sentencepiece model."""
        told = self.recipe.tokenizer
        if told.kind == "characters":
            counts = np.zeros(CODES, dtype=np.int64)
            for text in texts():
                counts += np.bincount(codes(text), minlength=CODES)
            kept = np.flatnonzero(counts >= told.min_count)
            return [chr(code) for code in sorted(kept.tolist(), key=lambda code: (-counts[code], code))]
        if told.kind == "sentencepiece" and not told.path:
            path = folder / "sample.txt"
            every = -(-length // SAMPLE)
            with path.open("w", encoding="utf-8") as file:
                file.writelines(itertools.islice(texts(), 0, None, every))
                file.write("\n")
            proto = train_sentencepiece([path], vocab_size=told.size, specials=specials_of(self.recipe))
            path.unlink()
            return proto.hex()
        return None

    # -- windows: a text that is cut ------------------------------------------------------------------------------------

    def _windows(self, folder: Path) -> dict[str, Any]:
        data = self.recipe.data
        sources = {"train": data.train, "validation": data.validation or data.train}
        limits = {"train": data.limit, "validation": None if data.validation else data.limit}

        def all_of(part: str) -> Iterator[str]:
            return _together(pieces(sources[part], limits[part]))

        total = sum(map(len, all_of("train")))
        cut = total if data.validation else int(total * (1 - data.holdout))
        spans = {"train": (0, cut), "validation": (0 if data.validation else cut, None)}

        def text_of(part: str) -> Iterator[str]:
            return _between(all_of(part), *spans[part])

        made = self._made(folder, lambda: text_of("train"), cut)
        text_model = self._speech(made)
        about: dict[str, Any] = {"tokenizer": made}
        for part in ("train", "validation"):
            texts = text_of(part)
            if self.recipe.tokenizer.kind == "sentencepiece":
                texts = (text.replace("\n", " ") for text in texts)  # its pieces hold no line breaks
            writer = Writer(folder, kind_of(len(text_model.tokenizer)), part)
            encoder = self._encoder(text_model)
            rest = np.empty(0, dtype=np.int64)
            for ids in encoder.stream(texts):
                rest = np.concatenate([rest, ids])
                whole = len(rest) // data.length * data.length
                if whole >= min(PIECE, data.length * ROWS):
                    writer.write("", rest[:whole].reshape(-1, data.length))
                    rest = rest[whole:]
            if whole := len(rest) // data.length * data.length:
                writer.write("", rest[:whole].reshape(-1, data.length))
            if not writer.told:
                raise AskedError(
                    f"the texts for {'training' if part == 'train' else part} hold {encoder.total} tokens, less than one "
                    f"window of {data.length}; lower data.length, or give more text"
                )
            about[part] = writer.groups()
        return about

    # -- poems: each a text of its form ---------------------------------------------------------------------------------

    def _poems(self, folder: Path) -> dict[str, Any]:
        data = self.recipe.data
        staged = {"train": self._staged(folder / "train.poems", data.train, data.limit)}
        staged["validation"] = staged["train"]
        if data.validation:
            staged["validation"] = self._staged(folder / "validation.poems", data.validation, None)
        low, high = staged["train"].places
        alone = high < data.holdout or low == high  # every text would be held out: then each is on either side

        def of(part: str) -> Iterator[list[Text]]:
            with staged[part].path.open("rb") as file:
                for rows in batched(file, ROWS):
                    texts = []
                    for place, *text in map(json.loads, rows):
                        is_held = place < data.holdout or place == low
                        if data.validation or (alone and part == "train") or is_held == (part == "validation"):
                            texts.append(Text(*text))
                    yield texts

        made = self._made(folder, lambda: ("".join(t.text for t in texts) for texts in of("train")), 0)
        text_model = self._speech(made)
        about: dict[str, Any] = {"tokenizer": made}
        for part in ("train", "validation"):
            writer, encoder = Writer(folder, kind_of(len(text_model.tokenizer)), part), self._encoder(text_model)
            for texts in of(part):
                for form in {t.form: None for t in texts}:
                    rows = [t for t in texts if t.form == form]
                    writer.write(form or "", encoder.rows([t.text for t in rows]), self._told(text_model, form, rows))
            about[part] = writer.groups()
        for path in {stage.path for stage in staged.values()}:
            path.unlink()
        return about

    def _staged(self, path: Path, source: str, limit: int | None) -> _Staged:
        """The poems of a file, written to `path`, so that they are taken apart once."""
        low, high = 1.0, 0.0
        with path.open("w", encoding="utf-8") as file:
            for text in poems(source, limit, self.recipe.told):
                place = place_of(text.text)
                low, high = min(low, place), max(high, place)
                json.dump([place, text.text, text.form, text.title, text.dynasty], file, ensure_ascii=False)
                file.write("\n")
        return _Staged(path, (low, high))

    def _told(self, text_model: TextModel, form: str | None, rows: list[Text]) -> np.ndarray | None:
        """The prefixes of poems; None where they are all alike."""
        if not self.recipe.told:
            return None
        said: Any = {name: [getattr(t, name) for t in rows] for name in self.recipe.told}
        if "form" in text_model.prefix:
            said["form"] = form
        return text_model.condition(len(rows), **said).cpu().numpy()


@dataclass(frozen=True)
class _Staged:
    path: Path
    places: tuple[float, float]  # the least and the greatest


def _together(texts: Iterable[str]) -> Iterator[str]:
    """The same text in pieces of about PIECE characters."""
    waiting, size = [], 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= PIECE:
            yield "".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield "".join(waiting)


def _between(texts: Iterable[str], first: int, last: int | None) -> Iterator[str]:
    """The characters first … last − 1 of a text in pieces."""
    at = 0
    for text in texts:
        part = text[max(first - at, 0) : None if last is None else max(last - at, 0)]
        at += len(text)
        if part:
            yield part
        if last is not None and at >= last:
            return
