"""Token ids of texts in a folder of files, so that later runs with the same data do not tokenise the texts again.

<cache>/<key>/prepared.json   a description of the files, with the size and the checksum of each; written last
<cache>/<key>/*.ids           token ids, row after row
<cache>/<key>/*.prefixes      the prefixes of the rows, where they differ

The cache is $XDG_CACHE_HOME/textdiff/prepared (~/.cache without that variable), and nothing is lost if it is removed.  The
key is a hash of the contents of the data, of the settings that touch them, and of the tokenizer.  A folder gets its name only
when all its files are written, and a damaged folder is made again.  Small data do not use the cache, and a folder that no run
has used for 30 days is removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.data import sealed
from textdiff.data.rows import Stored
from textdiff.networks.files import cache

FORMAT = 3
NAME = "prepared.json"
WORTHWHILE = 1 << 22  # bytes of data from which on the cache is worth its space
NEW = ".textdiff-new-"  # the names of unfinished folders begin with it
STALE = 24 * 3600  # seconds after which no run is still writing an unfinished folder
UNUSED = 30 * 24 * 3600  # seconds after which a folder that no run has used is removed


@dataclass(frozen=True, eq=False)
class Prepared:
    """The open files of a prepared folder, and their description."""

    about: dict[str, Any]
    files: dict[str, Stored]


def key_of(*parts: Any) -> str:
    """The name of a folder: a hash of everything that decides its files."""
    content = json.dumps([FORMAT, *parts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def get(
    key: str, make: Callable[[Path], dict[str, Any]], *, keep: bool, log: Callable[[str], object] = lambda line: None
) -> Prepared:
    """The files that an earlier run stored under this key, or those that `make` writes into a new folder."""
    home = _home() if keep else None
    if home is not None:
        _sweep(home)
        prepared = _opened(home / key)
        if prepared is not None:
            os.utime(home / key)  # the time of the last use
            log(f"the texts are tokenised already ({_size(home / key)} in {home / key})")
            return prepared
    else:
        _sweep(Path(tempfile.gettempdir()))
    new = Path(tempfile.mkdtemp(prefix=NEW, dir=home))
    try:
        sealed.seal(new, NAME, {"format": FORMAT, "about": make(new)})
        if home is not None:
            _rename(new, home / key)
            log(f"the tokenised texts are kept for the next run ({_size(home / key)} in {home / key})")
        prepared = _opened(home / key if home is not None and not new.exists() else new)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise AskedError(
                f"the tokenised texts do not fit into {str(new.parent)!r} ({error.strerror}); make room there, or name "
                f"another place with {'XDG_CACHE_HOME' if home else 'TMPDIR'}"
            ) from error
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)  # open files can be read until they are closed
    if prepared is None:
        raise OSError(f"the prepared texts under {str(new.parent)!r} changed while they were written; start again")
    return prepared


def _home() -> Path | None:
    """The folder of the cache, which is made if it is missing; None if nothing can be written there."""
    try:
        folder = cache("prepared")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _size(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.0f} MB"


def _sweep(home: Path) -> None:
    """Remove the unfinished folders of runs that were killed, and the folders that no run has used for long."""
    for pattern, seconds in ((f"{NEW}*", STALE), ("[0-9a-f]" * 32, UNUSED)):
        for folder in home.glob(pattern):
            with contextlib.suppress(OSError):
                if time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > seconds:
                    shutil.rmtree(folder, ignore_errors=True)


def _rename(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; if another run was faster, its folder stays, and only this run uses `new`."""
    with contextlib.suppress(OSError):
        os.rename(new, folder)
        sealed.sync(folder.parent)


def _opened(folder: Path) -> Prepared | None:
    """The files of a folder; None if it is missing, or damaged, in which case it is removed."""
    if not folder.is_dir():
        return None
    try:
        description = sealed.about(folder, NAME)
        files = {name: Stored(folder / Path(name).name) for name in description["files"]}
        if sealed.damage(folder, NAME) is None:
            return Prepared(description["about"], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return None
