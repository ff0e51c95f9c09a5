"""The walk of `generate` that CONTRIBUTING.md lists, held against a profile of the real command."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tiny import poem_model, saved

import textdiff
from textdiff import cli

PACKAGE = Path(textdiff.__file__).parent
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"


def walk(verb: str) -> list[tuple[str, str]]:
    """The files of a walk and the function that is entered in each, in the order of CONTRIBUTING.md."""
    section = CONTRIBUTING.read_text(encoding="utf-8").split("## The walks\n")[1].split("\n## ")[0]
    (about,) = [part for part in re.split(r"\n(?=\*\*)", section) if part.startswith(f"**{verb}**")]
    return re.findall(r"`([\w/]+)\.py` `([\w.]+)`", about)


def file_of(frame: FrameType) -> str | None:
    """The file of the package that a frame is of, "cli/draw"; None for any other, and for what a module does on import."""
    path = Path(frame.f_code.co_filename)
    if frame.f_code.co_name == "<module>" or not path.is_relative_to(PACKAGE):
        return None
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def callers(frame: FrameType) -> Iterator[str]:
    """The files of the package that called a frame, the nearest first."""
    while (before := frame.f_back) is not None:
        frame = before
        file = file_of(frame)
        if file is not None:
            yield file


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> list[tuple[str, str, str | None, bool]]:
    """Every call in the package while a poem is written: its file and function, the file that called, whether it is a method."""
    folder = saved(poem_model(form="wuyan-jueju"), tmp_path_factory.mktemp("models") / "poems")
    seen: dict[tuple[str, str, str | None, bool], None] = {}

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (file := file_of(frame)) is not None:
            method = frame.f_code.co_varnames[:1] == ("self",)
            seen[file, frame.f_code.co_qualname, next(callers(frame), None), method] = None

    sys.setprofile(profile)
    try:
        assert cli.main(["generate", "--model", folder, "--seed", "3", "--steps", "2", "--quiet"]) == 0
    finally:
        sys.setprofile(None)
    return list(seen)


def test_the_walk_of_generate_has_at_most_nine_files():
    assert 5 < len(walk("generate")) <= 9


def test_generate_enters_the_files_of_its_walk_in_that_order(calls):
    met = [(file, name.split(".")[-1]) for file, name, _, _ in calls]
    places = [met.index(step) for step in walk("generate")]
    assert places == sorted(places)


def test_no_file_of_the_walk_is_called_by_a_later_one(calls):
    """The values that are handed on (the model, the plan) may be asked what they are: their methods are no steps."""
    files = [file for file, _ in walk("generate")]
    back = [
        f"{caller} calls {name} of {file}"
        for file, name, caller, method in calls
        if file in files and caller in files and files.index(caller) > files.index(file) and not method
    ]
    assert back == []


@pytest.mark.parametrize(
    "verb", ["fill", "refine", "augment", "jobs", "train", "score", "choose", "restore", "check", "an image"]
)
def test_the_functions_of_every_walk_exist(verb):
    steps = walk(verb)
    assert steps
    for file, name in steps:
        last = name.split(".")[-1]
        assert re.search(rf"\bdef {last}\(", (PACKAGE / f"{file}.py").read_text(encoding="utf-8")), (file, name)
