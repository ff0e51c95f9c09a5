"""Texts that are tokenised once: taken again by later starts, made again where they are damaged, and never half a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, recipe_file

from textdiff.data import prepared, sealed
from textdiff.training import run
from textdiff.training.recipe import Recipe, load
from textdiff.training.texts.reading import read

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, which keeps the smallest texts, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "WORTHWHILE", 0)
    return prepared.cache("prepared")


def prose(folder: Path, text: str, **data: Any) -> Recipe:
    (folder / "prose.txt").write_text(text, encoding="utf-8")
    settings = {"train": str(folder / "prose.txt"), "kind": "windows", "length": 16, "limit": None} | data
    return load(recipe_file(folder, data=settings))


TEXT = "the quick brown fox jumps over the lazy dog, and over the lazy cat.\n" * 30


def rows(recipe: Recipe, said: list[str] | None = None) -> list[list[int]]:
    log: Callable[[str], object] = (lambda line: None) if said is None else said.append
    (group,) = read(recipe, log).train  # type: ignore[arg-type]
    found: list[list[int]] = group.ids[:].tolist()
    return found


def test_a_second_start_takes_the_tokenised_texts_again(tmp_path: Path, cache: Path) -> None:
    recipe = prose(tmp_path, TEXT)
    said: list[str] = []
    first = rows(recipe, said)
    (folder,) = cache.iterdir()
    assert "kept for the next run" in said[-1] and str(folder) in said[-1]
    when = (folder / "train.ids").stat().st_mtime_ns
    said.clear()
    assert rows(recipe, said) == first
    assert "tokenised already" in said[0]
    assert (folder / "train.ids").stat().st_mtime_ns == when
    assert list(cache.iterdir()) == [folder]


def test_other_contents_settings_or_tokenizers_are_other_texts(tmp_path: Path, cache: Path) -> None:
    rows(prose(tmp_path, TEXT))
    rows(prose(tmp_path, TEXT.replace("dog", "god")))
    rows(prose(tmp_path, TEXT, length=8))
    rows(load(tmp_path / "tiny.yaml", ["tokenizer.min_count=2"]))
    rows(load(tmp_path / "tiny.yaml", ["data.holdout=0.2"]))
    assert len(list(cache.iterdir())) == 5
    rows(load(tmp_path / "tiny.yaml", ["run.steps=77", "optimizer.lr=1e-4", "data.unknown=1"]))
    assert len(list(cache.iterdir())) == 5  # what has nothing to do with the texts


@pytest.mark.parametrize("names", [("mask", "ascending"), ("ascending", "mask")])
def test_a_process_with_tokens_of_its_own_does_not_take_the_ids_of_one_without(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for name in names:
        data = prose(tmp_path, TEXT).data
        recipe = load(recipe_file(tmp_path, data=vars(data), processes={name: 1.0}))
        examples = read(recipe)
        (group,) = examples.train
        text = examples.model.tokenizer.decode(group.ids[:1][0].tolist())
        assert text.replace(" ", "") == TEXT[:16].replace(" ", ""), name


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, path.stat().st_size // 2), Path.unlink])
def test_tokenised_texts_that_are_damaged_are_made_again(
    damage: Callable[[Path], object], tmp_path: Path, cache: Path
) -> None:
    recipe = prose(tmp_path, TEXT)
    whole = rows(recipe)
    (folder,) = cache.iterdir()
    for name in sorted(path.name for path in folder.iterdir()):
        damage(folder / name)
        assert rows(recipe) == whole, name
        assert sealed.damage(folder, prepared.NAME) is None


def test_a_kill_while_texts_are_tokenised_leaves_nothing_that_is_taken_for_whole(tmp_path: Path, cache: Path) -> None:
    recipe = prose(tmp_path, TEXT)

    def killed(folder: Path) -> dict[str, Any]:
        (folder / "train.ids").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    key = "0" * 32
    child = os.fork()
    if child == 0:
        prepared.get(key, killed, keep=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = cache.iterdir()
    assert left.name.startswith(prepared.NEW) and not (cache / key).exists()
    rows(recipe)
    assert left.exists()  # its owner may be at work still
    long_ago = time.time() - prepared.STALE - 60
    for path in (*left.iterdir(), left):
        os.utime(path, (long_ago, long_ago))
    rows(recipe)
    assert not left.exists()


def test_what_no_start_has_used_for_long_is_removed_and_what_is_used_stays(tmp_path: Path, cache: Path) -> None:
    recipe = prose(tmp_path, TEXT)
    rows(recipe)
    (used,) = cache.iterdir()
    rows(prose(tmp_path, TEXT * 2))
    (unused,) = (path for path in cache.iterdir() if path != used)
    long_ago = time.time() - prepared.UNUSED - 60
    for path in (*used.iterdir(), *unused.iterdir(), unused):
        os.utime(path, (long_ago, long_ago))
    rows(prose(tmp_path, TEXT))
    assert used.exists() and not unused.exists()


def test_a_start_marks_the_texts_that_it_uses(cache: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "train.ids").write_bytes(b"ids")
        return {}

    key = prepared.key_of("texts")
    prepared.get(key, make, keep=True)
    before = time.time() - prepared.UNUSED / 2
    for path in (*(cache / key).iterdir(), cache / key):
        os.utime(path, (before, before))
    prepared.get(key, make, keep=True)
    assert (cache / key).stat().st_mtime > before + prepared.UNUSED / 4


def test_texts_of_another_format_are_other_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = prepared.key_of("texts")
    monkeypatch.setattr(prepared, "FORMAT", prepared.FORMAT + 1)
    assert prepared.key_of("texts") != now


def test_the_memory_of_preparation_does_not_grow_with_the_text(tmp_path: Path) -> None:
    def peak(megabytes: int) -> int:
        recipe = prose(tmp_path, TEXT * (megabytes * 500))
        tracemalloc.start()
        try:
            read(recipe)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(2), peak(4)
    assert large < 1.1 * small + (1 << 20)


@pytest.mark.slow
def test_memory_grows_by_a_fifth_of_a_byte_for_each_byte_of_text_at_most(tmp_path: Path) -> None:
    """The order in which an epoch shows the windows takes 4 bytes for each of them."""
    code = (
        "import sys; from textdiff.cli import main; code = main(sys.argv[1:]); "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr); sys.exit(code)"
    )  # not `getrusage`, whose peak of a new process begins with that of the process that started it, and this one holds the texts
    peaks, sizes = [], []
    for megabytes in (80, 240):  # both with pieces of full size, so that what grows is seen alone
        prose(tmp_path, TEXT * (megabytes * 490), length=64)
        done = subprocess.run(
            [sys.executable, "-c", code, "train", str(tmp_path / "tiny.yaml"), f"out={tmp_path / str(megabytes)}"],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=3600,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stderr.splitlines()[-1]) * 1024)
        sizes.append((tmp_path / "prose.txt").stat().st_size)
    assert peaks[1] - peaks[0] < 0.2 * (sizes[1] - sizes[0]), peaks


def test_a_dry_run_counts_the_memory_of_the_data(tmp_path: Path) -> None:
    recipe = prose(tmp_path, TEXT * 100)
    report = run.dry_run(recipe)
    assert 0 <= report["data_mb"] <= 1  # the rows stay in their file


def test_a_dry_run_counts_the_process_itself(tmp_path: Path) -> None:
    report = run.dry_run(prose(tmp_path, TEXT * 100))
    assert report["process_mb"] > 100  # Python with torch and transformers
    assert report["memory_mb"] >= report["process_mb"] + report["parameters"] * 16 / 2**20 - 1
