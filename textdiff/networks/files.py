"""Where a model's folder is, and its `textdiff.json`: one reader and one writer for models of texts and of images."""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import safe_open

from textdiff.core.errors import AskedError, ModelError
from textdiff.networks.saving import interrupted

FORMAT = 1
# The models that come with the package: the default, which serves the mask and the replacement process, and the one that
# writes the better new poems (docs/poems.md), from left to right alone.
PACKAGED = MASKED, WRITER = "poems-zh", "poems-zh-writer"
DESCRIPTION = "textdiff.json"
CARD = "README.md"
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")  # owner/name; the oldest models of the hub have no owner
FEW = 100  # layers that any network may have


def cache(name: str) -> Path:
    """The folder of this name among what textdiff keeps for later; FileNotFoundError where the user has no home."""
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if home.startswith("~"):
        raise FileNotFoundError("there is no home folder to keep anything in")
    return Path(home) / "textdiff" / name


def packaged(name: str) -> Path:
    """The folder of a packaged model."""
    return Path(str(resources.files("textdiff.networks"))) / name


def for_new_texts(model: str | None, named: Mapping[str, Any]) -> str | None:
    """What new texts are drawn with: the packaged writer, where neither a model nor, by options, a process or a sampler is named."""
    usual = model is None and named.get("process") is None and named.get("sampler") is None
    return WRITER if usual else model


def locate(path_or_id: str | os.PathLike[str] | None, **hub: Any) -> tuple[Path, str]:
    """The folder of a model, and what to call it; `hub` is for `snapshot_download`, such as a revision.

    A folder goes before a packaged model of the same name, and that before one of the hub.
    """
    if path_or_id is not None and not isinstance(path_or_id, (str, os.PathLike)):
        raise AskedError(
            f"model is {reprlib.repr(path_or_id)}; pass a model folder or the id of a model on the hub, or leave it out"
        )
    name = MASKED if path_or_id is None else os.fspath(path_or_id)
    folder = Path(os.path.expanduser(name))
    if path_or_id is not None and name and os.path.isdir(folder):
        return folder, name
    if name in PACKAGED:
        if not packaged(name).is_dir():
            raise ModelError(f"this installation holds no {name} model; install textdiff again, or name a model folder")
        return packaged(name), name
    if name and os.path.exists(folder):
        raise ModelError(f"{name} is a file; pass the model's folder")
    left = interrupted(folder)
    if left is not None:
        return left, name
    if not _HUB_ID.fullmatch(name):
        raise ModelError(f"there is no folder {name}; pass a model folder or the id of a model on the hub (owner/name)")
    return _from_hub(name, **hub), name


def digest(path_or_id: str | os.PathLike[str] | None) -> str:
    """SHA-256 over the files of a model that say what it draws."""
    folder, _ = locate(path_or_id)
    whole = hashlib.sha256()
    for path in sorted(path for pattern in _HUB_FILES for path in folder.glob(pattern)):
        with path.open("rb") as file:
            whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def _from_hub(name: str, **hub: Any) -> Path:
    """The model's files in the hub's ordinary cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*_HUB_FILES, CARD], **hub))
    except Exception as error:
        reason = re.sub(r"^(Got: )?(\w+Error: )?", "", first_line(error).split(". ")[0])
        raise ModelError(
            f"{name} is no folder here and could not be fetched from the hub ({reason}); "
            f"check the name and the connection, or pass a model folder"
        ) from error


def read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (path.parent / "model" / path.name).exists():  # the folder of a training
            raise ModelError(f"{name} holds no model, but a folder of one; pass {Path(name) / 'model'}") from None
        raise ModelError(
            f"{name}: {path.name} is missing; a model folder holds config.json, model.safetensors and a tokenizer"
        ) from None
    except ValueError as error:  # bytes that are no UTF-8, and numbers of thousands of digits, too
        raise ModelError(f"{name}: {path.name} is not JSON ({error}); copy or save the model again") from error
    except RecursionError:
        raise ModelError(f"{name}: {path.name} is nested too deeply; copy or save the model again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{name}: {path.name} holds no JSON object; copy or save the model again")
    return value


def describes_images(description: Mapping[str, Any]) -> bool:
    """Whether a `textdiff.json` is that of a model of images."""
    return isinstance(description.get("data"), dict)


def holds_images(path_or_id: str | os.PathLike[str] | None) -> bool:
    """Whether a model, a folder or an id of the hub, is one of images; ModelError where there is no model."""
    folder, name = locate(path_or_id)
    path = folder / DESCRIPTION
    return path.exists() and describes_images(read_json(path, name))


def describe(folder: Path, description: Mapping[str, Any]) -> None:
    """Write `textdiff.json`."""
    text = json.dumps({"format": FORMAT} | dict(description), ensure_ascii=False, indent=2)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def check_format(description: Mapping[str, Any], name: str) -> None:
    """ModelError for a format that this textdiff does not read: it reads all up to its own."""
    number = description.get("format")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ModelError(
            f"{name}: textdiff.json has format {number!r}, not a number from 1 to {FORMAT}; copy or save the model again"
        )
    if number > FORMAT:
        raise ModelError(
            f"{name}: textdiff.json has format {number}, which a later textdiff wrote, and this one reads up to {FORMAT}; "
            f"update textdiff"
        )


def first_line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")


def not_finite(name: str) -> ModelError:
    """The error for a network whose answer is no number."""
    return ModelError(
        f"{name}: the network's answer is no number; its weights are damaged, or it was trained too fast: "
        f"take an earlier checkpoint, or train again at a lower rate"
    )


def check_layers(folder: Path, config: Mapping[str, Any], name: str) -> None:
    """ModelError where config.json says of more layers than there are weights; to make such a network could take forever."""
    weights = 0
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                weights += len(list(file.keys()))
    except Exception as error:
        raise ModelError(
            f"{name}: the weights cannot be read ({first_line(error)}); copy or save the model again"
        ) from error
    for key, value in config.items():
        counts = ("layer" in key or "group" in key) and isinstance(value, (int, float))
        if counts and value > max(weights, FEW):
            raise ModelError(
                f"{name}: config.json has {key} {str(value)[:30]}, and there are {weights} weights; "
                f"these files belong to different models, copy or save the model again"
            )
