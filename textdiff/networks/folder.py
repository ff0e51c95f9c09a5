"""A saved model: an ordinary Hugging Face folder, and `textdiff.json` beside it.

    config.json  model.safetensors  tokenizer.json  tokenizer_config.json       open with transformers alone
    textdiff.json   {"format": 1, "vocabulary": V, "tokens": of the tokenizer, "processes": [names], "prefix": [slots],
                     "told": [slots], "defaults": {…}, "schedule": name, "factor": number,
                     "self_conditioning": share}

The prefix is what the network is told beside x_t: tokens in front of the text, a fixed number of slots P, each "form",
"process", "level", "dynasty" or "title" (one character a slot).  A slot where nothing is said holds [PAD] and is masked
out of attention; text character i has position P + i whatever the slots hold.  "told" are the slots that training spoke
in (form, process and level where nothing is said): the others are reserved, and what stood there would mean nothing.
"schedule" is that of the embedding process, its signal times "factor" (`noise_schedule`), and "self_conditioning" the share of
its examples that training told a first guess; these may be missing.

A folder without `textdiff.json` is framed by its tokenizer's own specials ([CLS] text [SEP]), has no prefix, and serves
the mask process as it is.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from textdiff.core.contracts import Predictor, Process
from textdiff.core.errors import AskedError, ModelError
from textdiff.core.resolve import attribute
from textdiff.core.schedules import SCHEDULES, Schedule, get_schedule
from textdiff.networks.lean.network import Encoder, read_encoder
from textdiff.networks.lean.tokenizer import LeanTokenizer, read_tokenizer
from textdiff.networks.masked_lm import HEADS, masked_lm
from textdiff.networks.tokenization import SLOT_WORDS, content_ids, title_characters
from textdiff.processes import PROCESSES, of_data

FORMAT = 1
SLOTS = ("form", "process", "level", "dynasty", "title")
USUALLY_TOLD = SLOTS[:3]
SCHEDULE = "sqrt"
# factor · √D where no factor is told.  By its D coordinates together a token is recognised where ᾱ²D/β̄² is some ten, so the
# signal of each is made as faint: then the cross-entropy of the draft rises over the whole range of levels.
RECOGNISED = 3.6
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


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
    self_conditioning: float  # share of its training examples that were told a guess; above 0 it is told its last draft

    @classmethod
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
        _check_parts(model, tokenizer, processes, prefix, name)
        rows = _embedding_rows(model)
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
        folder, name = _locate(path_or_id)
        model, tokenizer, described = _read_folder(folder, name, dtype, lean)
        return cls.from_parts(model.to(device).eval(), tokenizer, name=name, **described)

    def with_transformers(self) -> TextModel:
        """The same model with the network and the tokenizer of transformers, for training and for other libraries."""
        if not isinstance(self.model, Encoder) and not isinstance(self.tokenizer, LeanTokenizer):
            return self
        from textdiff.networks.lean import whole

        model: Any = whole.network(self.model) if isinstance(self.model, Encoder) else self.model
        tokenizer = whole.tokenizer(self.tokenizer) if isinstance(self.tokenizer, LeanTokenizer) else self.tokenizer
        return replace(self, model=model, tokenizer=tokenizer)

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write the folder, whole or not at all; an old one of that name is replaced.  `dtype` converts the weights."""
        target = Path(folder)
        description = {
            "format": FORMAT,
            "vocabulary": _embedding_rows(self.model),
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
        whole = self.with_transformers()
        model: Any = whole.model if dtype is None else copy.deepcopy(whole.model).to(dtype)
        with _replacing(target) as new, _quiet():
            model.save_pretrained(new)
            whole.tokenizer.save_pretrained(new)
            text = json.dumps(description, ensure_ascii=False, indent=2)
            (new / "textdiff.json").write_text(text + "\n", encoding="utf-8")

    # -- text and ids -------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.content.device

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id

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

        The level slot stays [PAD]: the predictor fills it.  Of a title `title_characters` are told.  A process without
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
            told = [title_characters(said) for said in titles.values()]
            if not all(told):
                raise AskedError(
                    f"title {list(titles.values())[told.index('')]!r} has no Chinese character to go by; "
                    f"write a title in Chinese, or leave it out"
                )
            width = self.prefix.count("title")
            rows = self.tokenizer(told, add_special_tokens=False)["input_ids"]
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

    def predictor(self, process: str) -> Predictor:
        """The network as the predictor of `process`, told its name where the condition does not."""
        return masked_lm(self, self._served(process))

    def process(self, name: str, vocabulary: Tensor | None = None) -> Process:
        """The process `name` over this vocabulary, or a part of it."""
        entry, model = PROCESSES[self._served(name)], cast(Any, self.model)
        parts = {
            "mask_id": self.mask_id,
            "vocabulary": self.content if vocabulary is None else vocabulary,
            "table": model.get_input_embeddings().weight,  # itself, so that it is trained
            "schedule": self.noise_schedule(),
        }
        return attribute(entry.path)(**{key: parts[key] for key in entry.needs})

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
        return vocabulary[f"[{word}]"]

    def _specials(self) -> Tensor:
        ids = set(self.tokenizer.all_special_ids)
        ids |= {k for k, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return torch.tensor(sorted(ids), device=self.device)


# -- loading --------------------------------------------------------------------------------------------------------------


def holds_images(path_or_id: str | os.PathLike[str] | None) -> bool:
    """Whether a model, a folder or an id of the hub, is one of images; ModelError where there is no model."""
    folder, name = _locate(path_or_id)
    described = _read_json(folder / "textdiff.json", name) if (folder / "textdiff.json").exists() else {}
    return isinstance(described.get("data"), dict)


def _locate(path_or_id: str | os.PathLike[str] | None) -> tuple[Path, str]:
    """The folder of a model, and what to call it."""
    if path_or_id is None:
        packaged = Path(str(resources.files("textdiff.networks"))) / "poems-zh"
        if not packaged.is_dir():
            raise ModelError(
                "this installation holds no poems-zh model; install textdiff again, or name a model folder"
            )
        return packaged, "poems-zh"
    name = os.fspath(path_or_id)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, name
    if folder.exists():
        raise ModelError(f"{name} is a file; pass the model's folder")
    if os.path.isabs(folder) or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(f"there is no folder {name}; pass a model folder or the id of a model on the hub (owner/name)")
    return _from_hub(name), name


def _from_hub(name: str) -> Path:
    """The model's files in the hub's ordinary cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:
        raise ModelError(
            f"{name} is no folder here and could not be fetched from the hub ({_first_line(error).split('. ')[0]}); "
            f"check the name and the connection, or pass a model folder"
        ) from error


def _read_folder(folder: Path, name: str, dtype: torch.dtype, lean: bool) -> tuple[nn.Module, Any, dict[str, Any]]:
    config = _read_json(folder / "config.json", name)
    kind = config.get("model_type")
    if kind not in HEADS:
        raise ModelError(
            f"{name}: model type {kind!r} has no known masked-LM head; known are {', '.join(sorted(HEADS))}"
        )
    described: dict[str, Any] = {}
    if (folder / "textdiff.json").exists():
        described = _description(_read_json(folder / "textdiff.json", name), config.get("vocab_size"), name)
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{name}: model.safetensors is missing; save the model with safetensors (pickles are not read)"
        )
    tokenizer = _tried(lambda: read_tokenizer(folder, kind)) if lean else None
    if tokenizer is None:
        tokenizer = _read_tokenizer(folder, name)
    tokens = described.pop("tokens", None)
    if tokens not in (None, len(tokenizer)):
        raise ModelError(
            f"{name}: textdiff.json says {tokens} tokens, the tokenizer has {len(tokenizer)}; "
            f"these files belong to different models, copy or save the model again"
        )
    network = _tried(lambda: read_encoder(folder, dtype)) if lean else None
    return _read_weights(folder, name, dtype) if network is None else network, tokenizer, described


def _tried(read: Callable[[], Any]) -> Any:
    """What is read, or None where anything is wrong with the files: transformers then says what."""
    try:
        return read()
    except Exception:
        return None


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{name}: {path.name} is missing; a model folder holds config.json, model.safetensors and a tokenizer"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{name}: {path.name} is not JSON ({error}); copy or save the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{name}: {path.name} holds no JSON object; copy or save the model again")
    return value


def _description(value: dict[str, Any], vocab_size: Any, name: str) -> dict[str, Any]:
    """Processes, prefix and defaults of textdiff.json, checked."""
    if value.get("format") != FORMAT:
        raise ModelError(
            f"{name}: textdiff.json has format {value.get('format')!r}, this textdiff reads {FORMAT}; update textdiff"
        )
    if value.get("vocabulary", vocab_size) != vocab_size:
        raise ModelError(
            f"{name}: textdiff.json says {value['vocabulary']} tokens, config.json {vocab_size}; "
            f"these files belong to different models, copy or save the model again"
        )
    described = {
        "processes": value.get("processes", ["mask"]),
        "prefix": value.get("prefix", []),
        "told": value.get("told", list(USUALLY_TOLD)),
        "defaults": value.get("defaults", {}),
    }
    for key, found in described.items():
        expected = dict if key == "defaults" else list
        if not isinstance(found, expected) or (key == "processes" and not found):
            what = "an object" if expected is dict else "a list of names"
            raise ModelError(f"{name}: {key!r} in textdiff.json is {found!r}, not {what}; save the model again")
    schedule, factor = value.get("schedule", SCHEDULE), value.get("factor")
    if schedule not in SCHEDULES or not (
        factor is None or (isinstance(factor, (int, float)) and 0 < factor < math.inf)
    ):
        raise ModelError(
            f"{name}: textdiff.json has schedule {schedule!r} and factor {factor!r}; expected one of "
            f"{', '.join(SCHEDULES)} and a positive number, save the model again"
        )
    guessed = value.get("self_conditioning", 0.0)
    if not (isinstance(guessed, (int, float)) and 0 <= guessed <= 1):
        raise ModelError(
            f"{name}: textdiff.json has self_conditioning {guessed!r}, not a share from 0 to 1; save the model again"
        )
    more = {"schedule": schedule, "factor": factor, "self_conditioning": float(guessed)}
    return described | {"tokens": value.get("tokens")} | more


def _read_tokenizer(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / file).exists() for file in _TOKENIZER_FILES):
        raise ModelError(f"{name}: tokenizer.json is missing; save the tokenizer into the model's folder")
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            tokenizer("a", add_special_tokens=False)  # a setting that cannot be shows in use
            return tokenizer
    except Exception as error:
        raise ModelError(f"{name}: the tokenizer cannot be read ({_first_line(error)}); save it again") from error


def _read_weights(folder: Path, name: str, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoModelForMaskedLM

    try:
        with _quiet():
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:
        reason = "their shapes are not those of config.json" if "mismatched" in str(error) else _first_line(error)
        raise ModelError(f"{name}: the weights cannot be read ({reason}); copy or save the model again") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{name}: model.safetensors lacks {len(missing)} weights, {missing[0]} among them; "
            f"pass a model that was saved with its masked-LM head"
        )
    return model


def _check_parts(model: nn.Module, tokenizer: Any, processes: Sequence[str], prefix: Sequence[str], name: str) -> None:
    """Raise ModelError where network, tokenizer and description do not fit together."""
    rows = _embedding_rows(model)
    if len(tokenizer) > rows:
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, the embedding {rows}; "
            f"these files belong to different models, copy or save the model again"
        )
    if tokenizer.mask_token_id is None:
        raise ModelError(f"{name}: the tokenizer has no mask token; pass a masked language model")
    others = ("pad", "cls", "sep", "bos", "eos", "unk")
    for other in others:
        if getattr(tokenizer, f"{other}_token_id") == tokenizer.mask_token_id:
            raise ModelError(
                f"{name}: mask and {other} are the same token, {tokenizer.mask_token!r}; give [MASK] its own"
            )
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{name}: the tokenizer has no padding token; set tokenizer.pad_token and save it again")
    for process in processes:
        known = of_data("tokens", "vectors")
        if process not in known:
            raise ModelError(f"{name}: unknown process {process!r}; this textdiff knows {', '.join(known)}")
    for slot in prefix:
        if slot not in SLOTS:
            raise ModelError(f"{name}: unknown prefix slot {slot!r}; this textdiff knows {', '.join(SLOTS)}")
    if "level" in prefix and "[level-1]" not in tokenizer.get_vocab():
        raise ModelError(f"{name}: the prefix has a level slot, but the tokenizer no [level-…] tokens; save it again")


# -- small parts ----------------------------------------------------------------------------------------------------------


def _embedding_rows(model: Any) -> int:
    return model.get_input_embeddings().weight.shape[0]


def _embedding_width(model: Any) -> int:
    return model.get_input_embeddings().weight.shape[1]


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


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its place if the block ends well, and vanishes if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield new
        new.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            target.rename(old / "model")
            new.rename(target)
            shutil.rmtree(old)
        else:
            new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its progress bars and loading reports, which would mix with the caller's output."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
