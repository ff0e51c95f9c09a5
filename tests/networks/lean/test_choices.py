"""Choices by timing are kept for later processes, and a damaged file is never believed."""

from __future__ import annotations

import json

import pytest
import torch

from textdiff.networks.lean import choices


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Forgets what this process has chosen, as a new process would."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def forget() -> None:
        monkeypatch.setattr(choices, "_made", {})

    forget()
    return forget


def counted(answer: bool):
    calls: list[bool] = []

    def looked() -> bool:
        calls.append(answer)
        return answer

    return choices.by_timing(looked), calls


@pytest.mark.parametrize("answer", [True, False])
def test_a_later_process_reads_the_choice_and_looks_at_nothing(fresh, answer):
    choice, calls = counted(answer)
    assert choice() is choice() is answer
    fresh()
    assert choice() is answer and len(calls) == 1


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"choices": {"looked": false}}', '{"machine": {}, "choices": {"looked": false}}'],
)
def test_a_damaged_file_counts_as_none_and_is_written_anew(fresh, content):
    choice, calls = counted(True)
    choice()
    choices.file().write_text(content)
    fresh()
    assert choice() is True and len(calls) == 2
    fresh()
    assert choice() is True and len(calls) == 2


def test_without_a_home_a_choice_is_made_and_not_kept(fresh, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", str)  # as where neither HOME nor the system's list of users says one
    monkeypatch.chdir(tmp_path)
    choice, calls = counted(True)
    assert choice() is True and calls == [True] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [0, "yes", None, [True]])
def test_a_choice_that_is_neither_true_nor_false_is_not_believed(fresh, wrong):
    choice, calls = counted(True)
    choice()
    kept = json.loads(choices.file().read_text())
    choices.file().write_text(json.dumps(kept | {"choices": {"looked": wrong}}))
    fresh()
    assert choice() is True and len(calls) == 2


def test_other_numbers_of_threads_have_choices_of_their_own(fresh, monkeypatch):
    choice, calls = counted(True)
    choice()
    fresh()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert choice() and len(calls) == 2


def test_a_process_that_can_write_nothing_chooses_for_itself(fresh, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    choice, calls = counted(False)
    assert choice() is False
    fresh()
    assert choice() is False and len(calls) == 2


def test_choices_that_were_made_for_a_process_are_not_kept_for_others(fresh):
    choice, calls = counted(True)
    choices.make({"looked": False})
    assert choice() is False and not choices.file().exists() and not calls
