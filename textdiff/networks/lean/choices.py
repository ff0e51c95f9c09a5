"""Choices between ways to compute the same, by what an example costs on this machine.

Ways differ in rounding.  A choice is made once in a process; work that another process has begun can be told what that one chose, so
that it goes on to the same bits.

What was chosen is kept in $XDG_CACHE_HOME/textdiff/choices (~/.cache without that variable), in a file for each processor, version of
torch and number of threads, and later processes read it.  Nothing is lost if the folder is removed; a file that is damaged, or of
another machine, counts as none, and where none can be written each process chooses for itself.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from textdiff.networks.files import cache

_made: dict[str, bool] = {}  # by the names of the choices


def by_timing(find: Callable[[], bool]) -> Callable[[], bool]:
    """The choice that `find` makes when it is first needed, unless it has been made already, in this process or before."""
    name = find.__name__

    @functools.wraps(find)
    def choice() -> bool:
        if name not in _made:
            kept = read()
            _made[name] = kept[name] if name in kept else find()
            if name not in kept:
                _write({**kept, name: _made[name]})
        return _made[name]

    return choice


def make(choices: Mapping[str, bool]) -> None:
    """Make these choices without a look at the machine; before a model is opened."""
    _made.update(choices)


def machine() -> dict[str, str]:
    """What the choices hang on."""
    names = [line.partition(":")[2].strip() for line in _cpu_info() if line.startswith(("model name", "CPU part"))]
    return {
        "processor": names[0] if names else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }


def file() -> Path:
    """Where the choices of this machine are kept."""
    key = hashlib.sha256(json.dumps(machine()).encode()).hexdigest()[:32]
    return cache("choices") / f"{key}.json"


def read() -> dict[str, bool]:
    """The choices that are kept; none where the file is missing or not what `_write` writes."""
    try:
        kept = json.loads(file().read_text(encoding="utf-8"))
        choices = kept["choices"]
        sound = kept["machine"] == machine() and all(type(value) is bool for value in choices.values())
        return dict(choices) if sound else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(choices: Mapping[str, bool]) -> None:
    """Keep the choices; the file is whole at every moment."""
    content = json.dumps({"machine": machine(), "choices": dict(choices)}, indent=1)
    with contextlib.suppress(OSError):
        file().parent.mkdir(parents=True, exist_ok=True)
        handle, new = tempfile.mkstemp(dir=file().parent, suffix=".new")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(content)
            os.replace(new, file())
        finally:
            Path(new).unlink(missing_ok=True)


def _cpu_info() -> list[str]:
    """The beginning of what Linux says of its processors."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return lines.read(4096).splitlines()
    except OSError:
        return []
