"""Sealed folders: what is sealed is on the disk, and a file that is not as it was sealed is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from textdiff.data import sealed

NAME = "seal.json"


def folder_of(path: Path) -> Path:
    (path / "a.ids").write_bytes(b"abcdef")
    (path / "b.ids").write_bytes(b"bcd")
    return path


def test_files_are_on_the_disk_before_their_description_and_names_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the files that the system is asked to write out: each is whole by then."""
    synced: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, os.fstat(file).st_size)))
    sealed.seal(folder_of(tmp_path), NAME, {"step": 3})
    found = {path.name: (path.stat().st_ino, path.stat().st_size) for path in (*tmp_path.iterdir(), tmp_path)}
    assert {*synced[:-2]} == {found["a.ids"], found["b.ids"]}
    assert synced[-2:] == [found[NAME], found[tmp_path.name]]
    assert sealed.about(tmp_path, NAME)["step"] == 3


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: os.truncate(path, 4), "a.ids has 4 of its 6 bytes"),
    "emptied": (lambda path: os.truncate(path, 0), "a.ids has 0 of its 6 bytes"),
    "grown": (lambda path: path.write_bytes(b"abcdefg"), "a.ids has 7 of its 6 bytes"),
    "changed": (lambda path: path.write_bytes(b"abcdeg"), "a.ids was changed after it was written"),
    "lost": (Path.unlink, "a.ids is missing"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_file_that_is_not_as_it_was_sealed_is_named_with_what_is_wrong(kind: str, tmp_path: Path) -> None:
    damage, said = DAMAGE[kind]
    sealed.seal(folder_of(tmp_path), NAME, {})
    assert sealed.damage(tmp_path, NAME) is None
    damage(tmp_path / "a.ids")
    assert sealed.damage(tmp_path, NAME) == said


def test_files_of_folders_inside_are_sealed_too(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    sealed.seal(folder_of(tmp_path / "shards").parent, NAME, {})
    assert sealed.damage(tmp_path, NAME) is None
    os.truncate(tmp_path / "shards" / "a.ids", 4)
    assert sealed.damage(tmp_path, NAME) == "shards/a.ids has 4 of its 6 bytes"
