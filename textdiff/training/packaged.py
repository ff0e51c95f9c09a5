"""The recipes that travel with the package, and the small data that they learn from, by name and from any folder."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from textdiff.core.errors import RecipeError


def home() -> Path:
    """The folder of the recipes: beside this file where the package is installed, else that of the repository."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def names() -> list[str]:
    return sorted(path.stem for path in home().glob("*.yaml"))


def summary(name: str) -> str:
    """The first sentence of what a recipe says that it gives."""
    text = (home() / f"{name}.yaml").read_text(encoding="utf-8")
    match = re.match(r"# What:(.*\n(?:#  .*\n)*)", text)
    sentences = " ".join(match[1].replace("\n#", " ").split()) if match else ""
    return re.split(r"[.;](?= |$)", sentences)[0]


def find(recipe: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that travels with the package."""
    path, known = Path(recipe), names()
    if path.exists():
        return path
    if str(recipe) in known:
        return home() / f"{recipe}.yaml"
    near = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the recipes of the package are {', '.join(known)}"
    raise RecipeError(f"there is no recipe {str(recipe)!r}, neither a file nor one of the package; {hint}")


def data(path: str) -> Path:
    """The file or folder of a recipe's data: as it is named, or else the sample of that name that travels with the package."""
    here = Path(os.path.expanduser(path))
    if here.exists() or here.is_absolute():
        return here
    for sample in (home() / path, home().parent / path):
        if here.parts[:1] == ("data",) and sample.is_file():
            return sample
    return here
