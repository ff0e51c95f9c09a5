"""A model's folder is replaced whole, whenever the save is stopped, and nobody's own files are lost."""

from __future__ import annotations

import copy
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_images import model as image_model
from tiny import poem_model

from textdiff.core.errors import AskedError, ModelError
from textdiff.networks import saving
from textdiff.networks.files import PACKAGED, holds_images, locate, read_json
from textdiff.networks.folder import TextModel
from textdiff.networks.saving import interrupted, replacing
from textdiff.pipeline.text import Pipeline

FILES = ("config.json", "model.safetensors", "textdiff.json")
STRIDE = 5  # operations between two stops of a save that has many
OPERATIONS = ("open", "os.", "shutil.", "pathlib.")  # the audit events of operations on files


def save(target: Path, text: str) -> None:
    with replacing(target) as new:
        for name in FILES:
            (new / name).write_text(text)


def read(target: Path) -> set[str]:
    folder = interrupted(target) or target
    return {(folder / name).read_text() for name in FILES}


def stopped_at(k: int, target: Path, act: Callable[[], object]) -> bool:
    """A save in a process of its own that dies before its k-th operation on files; whether it got so far."""
    process = os.fork()
    if process == 0:
        left = k

        def hook(event, arguments):
            nonlocal left
            if event.startswith(OPERATIONS) and str(target.parent) in str(arguments):
                left -= 1
                if left < 0:
                    os._exit(17)

        sys.addaudithook(hook)
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 17


@pytest.mark.parametrize(("atomic", "stride"), [(True, 1), (False, 3), pytest.param(False, 1, marks=pytest.mark.slow)])
def test_a_stop_at_any_instant_leaves_the_old_model_or_the_new_one(tmp_path, monkeypatch, atomic, stride):
    if not atomic:
        monkeypatch.setattr(saving, "_exchanged", lambda *_: False)
    target, k = tmp_path / "model", 0
    save(target, "old")
    (target / "notes.txt").write_text("mine")
    seen = set()
    while stopped_at(k, target, lambda: save(target, "new")):
        found = read(target)
        assert found in ({"old"}, {"new"})
        assert not atomic or target.is_dir()
        seen |= found
        save(target, "old")
        assert (target / "notes.txt").read_text() == "mine"
        assert [p.name for p in tmp_path.iterdir()] == ["model"]  # what the killed save left is gone
        k += stride
    assert k > 15 and seen == {"old", "new"} and read(target) == {"new"}


def marked(model: Any, number: int) -> Any:
    """The model with this number in its defaults and in its weights."""
    network = copy.deepcopy(model.model)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(number)
    return replace(model.with_network(network), defaults={"steps": number})


def marks(model: Any) -> set[float]:
    return {model.defaults["steps"], *(weight.flatten()[0].item() for weight in model.model.parameters())}


@pytest.mark.parametrize("kind", ["texts", pytest.param("images", marks=pytest.mark.slow)])
def test_a_stopped_save_of_a_whole_model_leaves_a_model_that_opens_and_is_all_old_or_all_new(tmp_path, kind):
    model = poem_model() if kind == "texts" else image_model()
    lean = {"lean": True} if kind == "texts" else {}
    target, seen, k = tmp_path / "model", set(), 0
    old, new = marked(model, 1), marked(model, 2)
    old.save_pretrained(target)
    while stopped_at(k, target, lambda: new.save_pretrained(target)):
        left = marks(type(model).from_pretrained(target, **lean))
        assert left in ({1}, {2})
        seen |= left
        if left == {2}:
            old.save_pretrained(target)
        k += STRIDE
    assert k > 4 * STRIDE and seen == {1, 2} and marks(type(model).from_pretrained(target, **lean)) == {2}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_model_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    done, rename = [], Path.rename
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.fstat(file).st_ino))
    monkeypatch.setattr(Path, "rename", lambda self, to: done.append("rename") or rename(self, to))
    save(tmp_path / "model", "new")
    at = done.index("rename")
    assert {path.stat().st_ino for path in (*(tmp_path / "model").iterdir(), tmp_path / "model")} <= {*done[:at]}
    assert tmp_path.stat().st_ino in done[at:]


def test_what_another_process_is_writing_is_left(tmp_path):
    theirs = tmp_path / f".model-new-{os.getppid()}-0123abcd"
    theirs.mkdir()
    save(tmp_path / "model", "new")
    assert theirs.exists()


def test_an_error_while_a_model_is_written_leaves_the_old_one_and_nothing_else(tmp_path):
    save(tmp_path / "model", "old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "model") as new:
        (new / "config.json").write_text("new")
        raise KeyboardInterrupt
    assert read(tmp_path / "model") == {"old"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_files_that_no_save_writes_are_kept_and_files_of_the_old_model_are_not(tmp_path):
    target = tmp_path / "model"
    save(target, "old")
    (target / "logs").mkdir()
    (target / "logs" / "one.txt").write_text("mine")
    (target / "thesis.txt").write_text("mine")
    (target / "terminal.safetensors").write_text("of the old model")
    save(target, "new")
    assert read(target) == {"new"}
    assert (target / "logs" / "one.txt").read_text() == (target / "thesis.txt").read_text() == "mine"
    assert not (target / "terminal.safetensors").exists()


def test_a_folder_that_is_no_model_is_refused_and_left_as_it_is(tmp_path):
    target = tmp_path / "documents"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(AskedError, match="no model's folder"):
        save(target, "new")
    assert [p.name for p in target.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("umask, folder, file", [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0o002, 0o775, 0o664)])
def test_rights_are_those_that_the_umask_gives(tmp_path, umask, folder, file):
    before = os.umask(umask)
    try:
        save(tmp_path / "model", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == folder
    assert {stat.S_IMODE((tmp_path / "model" / name).stat().st_mode) for name in FILES} == {file}


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    save(tmp_path / "model", "old")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    save(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and read(tmp_path / "link") == {"new"}


def test_models_of_texts_and_images_keep_somebodys_files_and_open_after_a_stopped_save(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "_exchanged", lambda *_: False)
    model = poem_model()
    model.save_pretrained(tmp_path / "poems")
    (tmp_path / "poems" / "thesis.txt").write_text("mine")
    model.save_pretrained(tmp_path / "poems")
    assert (tmp_path / "poems" / "thesis.txt").read_text() == "mine"
    (tmp_path / "poems").rename(tmp_path / ".poems-old-1-0123abcd")  # as a save leaves it between its two renames
    assert TextModel.from_pretrained(tmp_path / "poems").processes == model.processes


@pytest.mark.parametrize("text", ['{"a":' * 3000, "[]", "{", "\udcff"])
def test_a_description_that_cannot_be_read_is_an_error_of_the_model(tmp_path, text):
    (tmp_path / "textdiff.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ModelError, match=r"textdiff\.json"):
        read_json(tmp_path / "textdiff.json", "model")


@pytest.mark.parametrize("name", ["bert-base-uncased", "owner/name"])
def test_a_name_that_is_no_folder_is_one_of_the_hub(monkeypatch, name):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: asked.append(repo) or "/somewhere")
    assert locate(name) == (Path("/somewhere"), name) and asked == [name]


def test_a_packaged_model_has_a_name_and_a_folder_of_that_name_goes_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in PACKAGED:
        folder, called = locate(name)
        assert called == name and (folder / "model.safetensors").is_file()
        (tmp_path / name).mkdir()
        assert locate(name) == (Path(name), name)
    assert locate(None) != locate(PACKAGED[0])


def test_what_the_hub_says_comes_without_the_names_of_its_errors(monkeypatch):
    def fails(repo, **_):
        raise ConnectionError("Got: ConnectError: [Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(ModelError, match=r"from the hub \(\[Errno -2\] Name or service not known\); check"):
        locate("owner/model")


@pytest.mark.parametrize("name", ["./model", "/no/model", "a/b/c", "~/model", ""])
def test_a_path_that_is_no_folder_is_not_asked_of_the_hub(name):
    with pytest.raises(ModelError, match="there is no folder"):
        locate(name)


@pytest.mark.parametrize("device", ["meta", "privateuseone", "nonsense"])
def test_a_device_that_cannot_compute_is_refused(device):
    with pytest.raises(AskedError, match="cannot be used here"):
        Pipeline.from_pretrained(None, device=device)


def test_the_kind_of_a_model_of_the_hub_is_read_from_its_description(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: str(tmp_path))
    (tmp_path / "textdiff.json").write_text('{"format": 1, "data": {"shape": [1, 8, 8]}}')
    assert holds_images("owner/digits") and not holds_images(None)
