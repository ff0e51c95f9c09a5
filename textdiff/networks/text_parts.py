"""The parts of a folder of a text model, read and checked: description, tokenizer, weights."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from textdiff.core.errors import ModelError
from textdiff.core.schedules import SCHEDULES
from textdiff.networks.files import DESCRIPTION, check_format, check_layers, first_line, read_json
from textdiff.networks.lean.network import read_encoder
from textdiff.networks.lean.tokenizer import read_tokenizer
from textdiff.networks.masked_lm import HEADS
from textdiff.processes import of_data

SLOTS = ("form", "process", "level", "dynasty", "title")
USUALLY_TOLD = SLOTS[:3]
SCHEDULE = "sqrt"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def read_folder(folder: Path, name: str, dtype: torch.dtype, lean: bool) -> tuple[nn.Module, Any, dict[str, Any]]:
    kind, described = read_description(folder, name)
    tokenizer = _tried(lambda: read_tokenizer(folder, kind)) if lean else None
    if tokenizer is None:
        tokenizer = read_tokenizer_of(folder, name)
    described = fitting(described, tokenizer, name)
    network = _tried(lambda: read_encoder(folder, dtype)) if lean else None
    return read_weights(folder, name, dtype) if network is None else network, tokenizer, described


def read_description(folder: Path, name: str) -> tuple[str, dict[str, Any]]:
    """The kind of network in a folder, and what textdiff.json says of it; without one nothing.  The weights are there."""
    config = read_json(folder / "config.json", name)
    kind = config.get("model_type")
    if kind not in HEADS:
        raise ModelError(
            f"{name}: model type {kind!r} has no known masked-LM head; known are {', '.join(sorted(HEADS))}"
        )
    described = described_by(folder, config, name)
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{name}: model.safetensors is missing; save the model with safetensors (pickles are not read)"
        )
    _check_files(folder, name)
    check_layers(folder, config, name)
    return kind, described


def _check_files(folder: Path, name: str) -> None:
    """ModelError where the weights are said to lie in files of another folder."""
    if not (index := folder / "model.safetensors.index.json").exists():
        return
    files = read_json(index, name).get("weight_map")
    for file in files.values() if isinstance(files, dict) else [files]:
        if not isinstance(file, str) or Path(file).name != file or "\\" in file:
            raise ModelError(
                f"{name}: {index.name} names {file!r}, which is no file of the folder; copy or save the model again"
            )


def described_by(folder: Path, config: dict[str, Any], name: str) -> dict[str, Any]:
    """What textdiff.json says of the network of a `config`; without one nothing."""
    if not (folder / DESCRIPTION).exists():
        return {}
    return _description(read_json(folder / DESCRIPTION, name), config.get("vocab_size"), name)


def fitting(described: dict[str, Any], tokenizer: Any, name: str) -> dict[str, Any]:
    """What is said of a model, without its number of tokens; ModelError where that is not the tokenizer's."""
    _try_out(tokenizer, name)
    tokens = described.get("tokens")
    if tokens not in (None, len(tokenizer)):
        raise ModelError(
            f"{name}: textdiff.json says {tokens} tokens, the tokenizer has {len(tokenizer)}; "
            f"these files belong to different models, copy or save the model again"
        )
    return {key: value for key, value in described.items() if key != "tokens"}


def _tried(read: Callable[[], Any]) -> Any:
    """What is read, or None where anything is wrong with the files: transformers then says what."""
    try:
        return read()
    except Exception:
        return None


def _description(value: dict[str, Any], vocab_size: Any, name: str) -> dict[str, Any]:
    """Processes, prefix and defaults of textdiff.json, checked."""
    check_format(value, name)
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
    for key, part in described.items():
        expected = dict if key == "defaults" else list
        if not isinstance(part, expected) or (key == "processes" and not part):
            what = "an object" if expected is dict else "a list of names"
            raise ModelError(f"{name}: {key!r} in textdiff.json is {part!r}, not {what}; save the model again")
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


def read_tokenizer_of(folder: Path, name: str) -> Any:
    """The tokenizer of transformers."""
    from transformers import AutoTokenizer

    if not any((folder / file).exists() for file in _TOKENIZER_FILES):
        raise ModelError(f"{name}: tokenizer.json is missing; save the tokenizer into the model's folder")
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelError(f"{name}: the tokenizer cannot be read ({first_line(error)}); save it again") from error


def _try_out(tokenizer: Any, name: str) -> None:
    """ModelError for a tokenizer with a setting that cannot be, which shows in use only; the second character is in no vocabulary."""
    try:
        with quiet():
            tokenizer("a\U000f8fff", add_special_tokens=False)
    except Exception as error:
        raise ModelError(f"{name}: the tokenizer cannot be used ({first_line(error)}); save it again") from error


def read_weights(folder: Path, name: str, dtype: torch.dtype, **more: Any) -> nn.Module:
    """The network of transformers; `more` is for its `from_pretrained`."""
    from transformers import AutoModelForMaskedLM

    try:
        with quiet():
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **more,
            )
    except Exception as error:
        reason = "their shapes are not those of config.json" if "mismatched" in str(error) else first_line(error)
        raise ModelError(f"{name}: the weights cannot be read ({reason}); copy or save the model again") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{name}: model.safetensors lacks {len(missing)} weights, {missing[0]} among them; "
            f"pass a model that was saved with its masked-LM head"
        )
    network: nn.Module = model
    return network


def check_parts(model: nn.Module, tokenizer: Any, processes: Sequence[str], prefix: Sequence[str], name: str) -> None:
    """Raise ModelError where network, tokenizer and description do not fit together."""
    rows = embedding_rows(model)
    if len(tokenizer) > rows:
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, the embedding {rows}; "
            f"these files belong to different models, copy or save the model again"
        )
    if tokenizer.unk_token is not None and tokenizer.unk_token not in tokenizer.get_vocab():
        raise ModelError(
            f"{name}: the unknown token, {tokenizer.unk_token!r}, is not in the vocabulary; name another, or save the model again"
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


def embedding_rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and loading reports, which would mix with the caller's output.

    Where transformers is not imported there is nothing to silence, and importing it would take seconds.
    """
    if "transformers" not in sys.modules:
        yield
        return
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)  # type: ignore[attr-defined]
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
