"""Texts that are tokenised once: a folder of files of ids, which later starts with the same data take again.

<cache>/<key>/prepared.json   what the files hold, with the size and the checksum of each; written last
<cache>/<key>/*.ids           token ids, row after row
<cache>/<key>/*.told          the prefixes of the rows, where they differ

The cache is $XDG_CACHE_HOME/textdiff/prepared (~/.cache without that variable), and nothing is lost if it is removed.  The
key is a hash of the contents of the data, of the settings that touch them, and of the tokenizer.  A folder appears whole
(it is renamed when all is written), and what is damaged is made again.  Of little data nothing is
kept, and what no start has used for 30 days is removed.
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

FORMAT = 2
NAME = "prepared.json"
KEPT = 1 << 22  # bytes of data from which on the cache is worth its place
NEW = ".textdiff-new-"  # how the names of unfinished folders begin
STALE = 24 * 3600  # seconds after which an unfinished folder has no owner any more
UNUSED = 30 * 24 * 3600  # seconds after which a folder that no start has used is removed


@dataclass(frozen=True, eq=False)
class Prepared:
    """The files of a prepared folder, open, and what they hold."""

    about: dict[str, Any]
    files: dict[str, Stored]


def cache() -> Path:
    """Where prepared texts are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "textdiff" / "prepared"


def key_of(*parts: Any) -> str:
    """The name of a folder: a hash of whatever decides its files."""
    told = json.dumps([FORMAT, *parts], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def get(
    key: str, make: Callable[[Path], dict[str, Any]], *, keep: bool, log: Callable[[str], object] = lambda line: None
) -> Prepared:
    """What `make` writes into the folder it is given, or what an earlier start has kept of it under this key."""
    home = _home() if keep else None
    if home is not None:
        _sweep(home)
        found = _opened(home / key)
        if found is not None:
            os.utime(home / key)  # used again
            log(f"the texts are tokenised already ({_size(home / key)} in {home / key})")
            return found
    else:
        _sweep(Path(tempfile.gettempdir()))
    new = Path(tempfile.mkdtemp(prefix=NEW, dir=home))
    try:
        sealed.seal(new, NAME, {"format": FORMAT, "about": make(new)})
        if home is not None:
            _rename(new, home / key)
            log(f"the tokenised texts are kept for the next start ({_size(home / key)} in {home / key})")
        found = _opened(home / key if home is not None and not new.exists() else new)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise AskedError(
                f"the tokenised texts do not fit into {str(new.parent)!r} ({error.strerror}); make room there, or name "
                f"another place with {'XDG_CACHE_HOME' if home else 'TMPDIR'}"
            ) from error
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)  # what is open stays readable until it is closed
    if found is None:
        raise OSError(f"the prepared texts under {str(new.parent)!r} changed while they were written; start again")
    return found


def _home() -> Path | None:
    """The cache, made if need be; None where nothing can be written there."""
    folder = cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _size(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.0f} MB"


def _sweep(home: Path) -> None:
    """Remove what starts that were killed have left unfinished, and what no start has used for long."""
    for pattern, seconds in ((f"{NEW}*", STALE), ("[0-9a-f]" * 32, UNUSED)):
        for folder in home.glob(pattern):
            with contextlib.suppress(OSError):
                if time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > seconds:
                    shutil.rmtree(folder, ignore_errors=True)


def _rename(new: Path, folder: Path) -> None:
    """Put `new` where `folder` shall be; where another start was faster, its folder stays and `new` is used by us alone."""
    with contextlib.suppress(OSError):
        os.rename(new, folder)
        sealed.sync(folder.parent)


def _opened(folder: Path) -> Prepared | None:
    """The files of a folder; None where there is none, or a damaged one, which is removed."""
    if not folder.is_dir():
        return None
    try:
        found = sealed.about(folder, NAME)
        files = {name: Stored(folder / Path(name).name) for name in found["files"]}
        if sealed.damage(folder, NAME) is None:
            return Prepared(found["about"], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return None
