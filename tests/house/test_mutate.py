"""The list of wrong changes stays true, and the script that makes them tells a caught one from one that nobody notices."""

from __future__ import annotations

import json
from pathlib import Path

import mutate
import pytest

SUM = "def total(values):\n    return sum(values)\n\n\ndef last(values):\n    return values[-1]\n"
TEST = "from source import last, total\n\n\ndef test_total():\n    assert total([1, 2]) == 3 and last([1])\n"
CHANGES = [
    {"file": "source.py", "old": "sum(values)", "new": "sum(values) + 1", "about": "one too many"},
    {"file": "source.py", "old": "values[-1]", "new": "values[0]", "about": "the first for the last"},
    {"file": "source.py", "old": "prod(values)", "new": "sum(values)", "about": "of another version"},
    {
        "file": "source.py",
        "old": "return sum",
        "new": "__import__('time').sleep(99)\n    return sum",
        "about": "never ends",
    },
]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of one source file, one test and a list of changes, where pytest has no plugin to load but the one it needs."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "xdist.plugin")
    (tmp_path / "tests").mkdir()
    (tmp_path / "source.py").write_text(SUM)
    (tmp_path / "tests/test_source.py").write_text(TEST)
    listed = [change | {"tests": ["tests/test_source.py::test_total"]} for change in CHANGES]
    (tmp_path / mutate.LIST).write_text(json.dumps(listed))
    return tmp_path


def test_a_change_is_caught_or_not_or_out_of_date(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--root",
        str(toy),
        "--json",
        "--jobs",
        "2",
        "--only",
        "one|first|another",
        "--results",
        str(toy / "results"),
    ]
    assert mutate.main(words) == 1
    printed = capsys.readouterr()
    results = json.loads(printed.out)
    assert [result["outcome"] for result in results] == ["caught", "not caught", "does not apply"]
    assert results[0]["said"] == "tests/test_source.py::test_total"
    assert (toy / "source.py").read_text() == SUM, "the tree itself is never changed"
    with (toy / "results").open("a") as file:
        file.write('{"outcome": "cau')  # where a run was killed
    (toy / "tests/test_source.py").unlink()
    assert mutate.main(words) == 1, "nothing is made again"
    assert json.loads(capsys.readouterr().out) == results and printed.err.count("\n") == 4


def test_tests_that_do_not_end_in_time_are_late(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mutate.main(["--root", str(toy), "--only", "never ends", "--limit", "1"]) == 1
    assert "1 changes: 1 late" in capsys.readouterr().out


def test_all_caught_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    caught, missed = (mutate.Result(outcome, "a.py", "wrong", 0.0, "") for outcome in (mutate.CAUGHT, mutate.MISSED))
    assert mutate.report([caught, caught], False) == 0
    assert "2 changes: 2 caught" in capsys.readouterr().out
    assert mutate.report([caught, missed], False) == 1


def test_tests_that_fail_without_a_change_prove_nothing(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "source.py").write_text(SUM.replace("sum(values)", "sum(values) + 2"))
    assert mutate.main(["--root", str(toy), "--only", "first for the last"]) == 2
    assert "fail without a change" in capsys.readouterr().err


def test_every_listed_change_applies_to_the_source() -> None:
    """Where this fails, change `old` (and `new`) of the entry to the source as it is now, or leave the entry out."""
    changes = mutate.read_changes(mutate.ROOT / mutate.LIST)
    stale = {f"{change.file}: {change.about}": said for change in changes if (said := change.lacks(mutate.ROOT))}
    assert not stale, "\n".join(f"{name}\n    {said}" for name, said in stale.items())
    assert len({(change.file, change.old, change.new) for change in changes}) == len(changes)
