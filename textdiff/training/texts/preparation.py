"""The files of ids that the texts of a recipe become, without ever holding more of the texts than a piece.

Text is read as often as it takes (to count its characters, to make a tokenizer, to tokenise it), and never held in memory as a whole.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textdiff.core.errors import AskedError, RecipeError
from textdiff.data.decoding import Note
from textdiff.data.records import pieces
from textdiff.data.rows import kind_of
from textdiff.data.tokens import CODES, Encoder, batched, codes
from textdiff.networks.folder import TextModel
from textdiff.networks.tokenization import train_sentencepiece
from textdiff.training.packaged import data as located
from textdiff.training.sections import Recipe
from textdiff.training.texts.network import network, specials_of, tokenizer_of
from textdiff.training.texts.poems import Text, place_of, poems
from textdiff.training.trainer import Log

PIECE = 1 << 20  # characters, or so
ROWS = 4096  # poems handled at a time
QUIET = 2.0  # seconds between two signs of life
EQUALLY_MANY = (
    "the poems of a form need equally many tokens, which a tokenizer of characters gives: write tokenizer: {kind: characters}, "
    "or data.kind=windows"
)
SAMPLE = 10_000_000  # characters that a sentencepiece model is trained on at most


@dataclass
class Writer:
    """Files that rows are appended to, by the name of their group."""

    folder: Path
    kind: str
    part: str
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, form: str, ids: np.ndarray, condition: np.ndarray | None = None) -> None:
        """(N, L) ids of a form, and their prefixes where they differ."""
        name = f"{self.part}-{form}" if form else self.part
        about = self.tables.setdefault(
            form, {"form": form or None, "ids": f"{name}.ids", "kind": self.kind, "rows": 0, "length": ids.shape[1]}
        )
        if ids.shape[1] != about["length"]:
            raise RecipeError(f"poems of form {form} have {about['length']} and {ids.shape[1]} tokens; {EQUALLY_MANY}")
        about["rows"] += len(ids)
        for ending, table in (("ids", ids), ("prefixes", condition)):
            if table is not None:
                about[ending] = f"{name}.{ending}"
                with (self.folder / about[ending]).open("ab") as file:
                    file.write(table.astype(self.kind).tobytes())

    def groups(self) -> list[dict[str, Any]]:
        return [table for _, table in sorted(self.tables.items())]


@dataclass
class Progress:
    """Says how far the work has come, first after a while, and then now and again."""

    log: Log
    what: str
    total: int = 0  # characters; 0: not known yet
    done: int = 0
    next: float = field(default_factory=lambda: time.monotonic() + QUIET)

    def through(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts, counted by their characters as they go through."""
        for text in texts:
            self.done += len(text)
            if time.monotonic() > self.next:
                of = f" of {self.total / 1e6:.0f}" if self.total else ""
                self.log(f"{self.what}: {self.done / 1e6:.0f}{of} million characters")
                self.next = time.monotonic() + QUIET
            yield text


@dataclass
class Preparation:
    """Writes the files of ids of a recipe, and says what they hold."""

    recipe: Recipe
    start: TextModel | None  # the model that the recipe starts from
    log: Log

    def make(self, folder: Path) -> dict[str, Any]:
        """{"tokenizer": what is made for it, "unknown": a share of the tokens, "train", "validation": [a group of rows]}."""
        return self._poems(folder) if self.recipe.kind.formed else self._windows(folder)

    def _text_model(self, tokenizer: Any) -> TextModel:
        return network(self.recipe, tokenizer_of(self.recipe, self.start, tokenizer), self.start)

    def _encoder(self, text_model: TextModel) -> Encoder:
        return Encoder(text_model, characters=self.recipe.tokenizer.kind == "characters")

    def _tokenizer(self, folder: Path, texts: Callable[[], Iterable[str]], length: int) -> Any:
        """What the tokenizer needs of the texts: the characters in their order, or a sentencepiece model."""
        section = self.recipe.tokenizer
        if section.kind == "characters":
            counts = np.zeros(CODES, dtype=np.int64)
            for text in Progress(self.log, "counting characters", length).through(texts()):
                seen = np.bincount(codes(text))
                counts[: len(seen)] += seen
            kept = np.flatnonzero(counts >= section.min_count)
            return [chr(code) for code in sorted(kept.tolist(), key=lambda code: (-counts[code], code))]
        if section.kind == "sentencepiece" and not section.path:
            path = folder / "sample.txt"
            every = -(-length // SAMPLE)
            with path.open("w", encoding="utf-8") as file:
                file.writelines(itertools.islice(texts(), 0, None, every))
                file.write("\n")
            self.log("training the sentencepiece model")
            try:
                proto = train_sentencepiece([path], vocab_size=section.size, specials=specials_of(self.recipe))
            except (RuntimeError, OSError) as error:  # what sentencepiece says of sizes that cannot be
                reason = re.sub(r"^.*\]", "", str(error).strip().split("\n")[0]).strip(" .")
                raise RecipeError(
                    f"tokenizer.size is {section.size}, and sentencepiece cannot make so many entries of these texts"
                    + (f" ({reason})" if reason else f", {len(specials_of(self.recipe))} of them special tokens")
                    + "; choose another size"
                ) from error
            path.unlink()
            return proto.hex()
        return None

    # -- windows: a text that is cut ------------------------------------------------------------------------------------

    def _windows(self, folder: Path) -> dict[str, Any]:
        data = self.recipe.data
        sources = {"train": data.train, "validation": data.validation or data.train}
        limits = {"train": data.limit, "validation": None if data.validation else data.limit}

        def all_of(part: str, note: Note | None = None) -> Iterator[str]:
            return _together(pieces(located(sources[part]), limits[part], note, data.column))

        total = sum(map(len, Progress(self.log, "reading the texts").through(all_of("train", self.log))))
        cut = total if data.validation else int(total * (1 - data.holdout))
        spans = {"train": (0, cut), "validation": (0 if data.validation else cut, None)}

        def text_of(part: str) -> Iterator[str]:
            return _between(all_of(part), *spans[part])

        tokenizer = self._tokenizer(folder, lambda: text_of("train"), cut)
        text_model = self._text_model(tokenizer)
        about: dict[str, Any] = {"tokenizer": tokenizer}
        for part in ("train", "validation"):
            size = cut if part == "train" else total - cut
            texts = Progress(self.log, f"tokenising ({part})", size).through(text_of(part))
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
            if not writer.tables:
                raise AskedError(
                    f"the texts for {'training' if part == 'train' else part} hold {encoder.total} tokens, less than one "
                    f"window of {data.length}; lower data.length, or give more text"
                )
            about[part] = writer.groups()
            about.setdefault("unknown", encoder.share_unknown())
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

        tokenizer = self._tokenizer(folder, lambda: ("".join(t.text for t in texts) for texts in of("train")), 0)
        text_model = self._text_model(tokenizer)
        about: dict[str, Any] = {"tokenizer": tokenizer}
        for part in ("train", "validation"):
            writer, encoder = Writer(folder, kind_of(len(text_model.tokenizer)), part), self._encoder(text_model)
            for texts in of(part):
                for form in {t.form: None for t in texts}:
                    rows = [t for t in texts if t.form == form]
                    try:
                        ids = encoder.rows([t.text for t in rows])
                    except AskedError as error:
                        raise RecipeError(
                            f"poems of form {form} differ in their number of tokens; {EQUALLY_MANY}"
                        ) from error
                    writer.write(form or "", ids, self._conditions(text_model, form, rows))
            about[part] = writer.groups()
            about.setdefault("unknown", encoder.share_unknown())
        for path in {stage.path for stage in staged.values()}:
            path.unlink()
        return about

    def _staged(self, path: Path, source: str, limit: int | None) -> _Staged:
        """The poems of a file, written to `path`, so that they are taken apart once."""
        low, high = 1.0, 0.0
        with path.open("w", encoding="utf-8") as file:
            for text in poems(located(source), limit, self.recipe.conditioned, self.recipe.data.column, self.log):
                place = place_of(text.text)
                low, high = min(low, place), max(high, place)
                json.dump([place, text.text, text.form, text.title, text.dynasty], file, ensure_ascii=False)
                file.write("\n")
        return _Staged(path, (low, high))

    def _conditions(self, text_model: TextModel, form: str | None, rows: list[Text]) -> np.ndarray | None:
        """The prefixes of poems; None where they are all alike."""
        if not self.recipe.conditioned:
            return None
        slots: Any = {name: [getattr(t, name) for t in rows] for name in self.recipe.conditioned}
        if "form" in text_model.prefix:
            slots["form"] = form
        return text_model.condition(len(rows), **slots).cpu().numpy()


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
