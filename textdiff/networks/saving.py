"""A model's folder, replaced so that a stop at any instant leaves the old model or the new one under its name.

The new folder is written beside the old one, brought to the disk, and the two change places in one operation of the file
system (`renameat2` on Linux).  Where the system has none, the old folder is renamed away first: a stop between the two
renames leaves it beside the name, where `interrupted` finds it.  Files that no save writes move along into the new folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from textdiff.core.errors import AskedError

# What saves write, and may remove.  Every other file of a folder belongs to somebody else.
OURS = (
    "textdiff.json",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "diffusion_pytorch_model*.safetensors",
    "*.safetensors.index.json",
    "terminal.safetensors",
    "model.onnx*",
    "model.int8.onnx*",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_AT_FDCWD, _EXCHANGE = -100, 2  # of Linux's renameat2


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `target` if the block ends well, and vanishes if not.

    An existing `target` must be a model's folder or empty.  Its files that no save writes are in the new folder afterwards.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    check_replaceable(target)
    new = target.parent / f".{target.name}-new-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    new.mkdir()
    try:
        yield new
        _settle(new)
        if target.exists():
            _keep_others(target, new)
            _exchange(new, target)
        else:
            new.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_replaceable(target: Path, weights: bool = True) -> None:
    """AskedError where a new folder must not take the place of what stands there: it is no model's folder and not empty.

    weights: whether it may be one with weights.
    """
    if not weights and target.is_dir() and any(target.glob("*.safetensors")):
        raise AskedError(f"{target} holds a model, which an export must not replace; name a folder of its own")
    if target.exists() and not _is_model(target):
        raise AskedError(
            f"{target} exists and is no model's folder; save under another name, or move its contents away"
        )


def interrupted(target: Path) -> Path | None:
    """The model that a save had just moved away from the name `target` when it was stopped, if there is one."""
    if os.path.exists(target) or not os.path.isdir(target.parent):
        return None
    left = [path for path, kind, _ in _leftovers(target) if kind == "old" and _is_model(path)]
    return left[0] if left else None


def _is_model(folder: Path) -> bool:
    names = {p.name for p in folder.iterdir()} if folder.is_dir() else {"a file"}
    return not names or bool(names & {"config.json", "textdiff.json"})


def _leftovers(target: Path) -> list[tuple[Path, str, int]]:
    """What saves of `target` have left beside it: the folder, "new" or "old", and the process that wrote it."""
    pattern = re.compile(re.escape(f".{target.name}-") + r"(new|old)-(\d+)-[0-9a-f]{8}")
    matches = [(path, pattern.fullmatch(path.name)) for path in sorted(target.parent.iterdir())]
    return [(path, match[1], int(match[2])) for path, match in matches if match]


def _sweep(target: Path) -> None:
    """Put back what a killed save had moved away, and remove what it left."""
    left = interrupted(target)
    if left is not None:
        left.rename(target)
    for path, _, process in _leftovers(target):
        if process != os.getpid() and not _alive(process):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    if sys.platform == "win32":
        return True  # there, asking would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _settle(folder: Path) -> None:
    """Every file with the rights that the caller's umask gives to new ones, and on the disk."""
    mode = folder.stat().st_mode & 0o666
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            path.chmod(mode)
        _sync(path)


def _sync(path: Path) -> None:
    if sys.platform == "win32":
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_others(old: Path, new: Path) -> None:
    """Links to the files of `old` that no save writes, in `new`."""
    for path in old.iterdir():
        if (new / path.name).exists() or any(fnmatch.fnmatchcase(path.name, name) for name in OURS):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, copy_function=_linked)
        else:
            _linked(str(path), str(new / path.name))


def _linked(source: str, to: str) -> str:
    try:
        os.link(source, to, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, to, follow_symlinks=False)
    return to


def _exchange(new: Path, target: Path) -> None:
    """`new` under the name `target`; what stood there is under the name `new`, or gone."""
    if _exchanged(new, target):
        return
    old = target.parent / new.name.replace("-new-", "-old-")
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(a: Path, b: Path) -> bool:
    """Whether the system has exchanged two names in one operation."""
    if not sys.platform.startswith("linux"):
        return False
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    return bool(function(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _EXCHANGE) == 0)
