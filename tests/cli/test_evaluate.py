"""`textdiff evaluate`: which flags go together, and where its results go."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from tiny import QUATRAIN, poem_model, saved

from textdiff import cli

POEMS = [json.loads(line) for line in (Path(__file__).parents[2] / "data" / "poems.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def poems(tmp_path_factory) -> str:
    return saved(poem_model(form="wuyan-jueju"), tmp_path_factory.mktemp("models") / "poems")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    fives = [poem for poem in POEMS if poem["form"] == "wuyan-jueju"]
    for name, some in (("a.jsonl", fives[:12]), ("b.jsonl", fives[12:]), ("train.jsonl", fives)):
        Path(name).write_text("".join(json.dumps(poem) + "\n" for poem in some), encoding="utf-8")

    def call(*words: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = cli.main(["evaluate", *map(str, words)])
        return code, *capsys.readouterr()

    return call


BESIDE = ("--samples", "a.jsonl", "--reference", "b.jsonl")


def test_a_comparison_goes_where_it_is_sent_and_takes_the_first_of_each_file(run):
    whole = run(*BESIDE, "--json")[1]
    code, out, _ = run(*BESIDE, "--json", "--out", "all.json")
    assert (code, out) == (0, "") and Path("all.json").read_text() == whole
    few = run(*BESIDE, "--json", "--limit", 4)[1]
    for name in ("a", "b"):
        Path(f"{name}.jsonl").write_text("".join(Path(f"{name}.jsonl").read_text().splitlines(keepends=True)[:4]))
    assert run(*BESIDE, "--json")[1] == few != whole


def test_titles_found_by_counts_go_where_they_are_sent(run):
    words = (*BESIDE, "--train", "train.jsonl", "--titles", 3)
    code, out, _ = run(*words)
    assert code == 0 and out.startswith("samples")
    code, printed, _ = run(*words, "--out", "titles.txt")
    assert (code, printed) == (0, "") and Path("titles.txt").read_text() == out
    assert "of 4 poems" in run(*words, "--limit", 4)[1]
    code, _, err = run(*words, "--plot", "x.png")
    assert code == 2 and "--plot is for the comparison itself" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("a.jsonl", "--quick"), "--quick is for a model of images, and not for the bound on a file"),
        (("a.jsonl", "--plot", "x.png"), "--plot is for the comparison of --samples or a model of images"),
        ((*BESIDE, "--keep", "x"), "--keep is for a model of images"),
        ((*BESIDE, "--told", "title"), "--told is for the bound on a file"),
        ((*BESIDE, "a.jsonl"), "FILE 'a.jsonl' is given beside --samples"),
        (("--samples", "a.jsonl"), "pass FILE, or both"),
        ((), "pass FILE, or both"),
        (("a.jsonl", "--titles", 3, "--told", "title"), "--told is for the bound itself"),
        (("a.jsonl", "--limit", 0), "--limit is 0"),
        ((*BESIDE, "--limit", -1), "--limit is -1"),
    ],
)
def test_a_flag_of_another_kind_is_an_error(run, words, says):
    code, out, err = run(*words)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1


def test_the_bound_leaves_out_wrong_records_where_that_is_asked_for(run, poems):
    lines = [json.dumps({"text": QUATRAIN}), "nonsense", json.dumps({"text": QUATRAIN, "form": 5})]
    flags = ("--model", poems, "--levels", 1, "--json", "-")
    code, out, err = run(*flags, stdin="\n".join(lines))
    assert (code, out) == (2, "") and "stdin line 2 is not JSON" in err
    code, out, err = run(*flags, "--on-error", "skip", "--rejects", "bad", stdin="\n".join(lines))
    assert code == 1 and json.loads(out)["all"]["texts"] == 1
    assert err == "textdiff: 2 of 3 records were skipped, as they are wrong; they are in 'bad'\n"
    assert [json.loads(line)["text"] for line in Path("bad").read_text().splitlines()] == ["nonsense", QUATRAIN]


def test_the_bound_by_titles_is_a_line_or_an_object(run, poems):
    code, out, _ = run("a.jsonl", "--model", poems, "--levels", 1, "--titles", 2, "--limit", 5)
    assert code == 0 and "of 5 poems are likeliest under their own title among 2" in out
    assert "top1" in json.loads(
        run("a.jsonl", "--model", poems, "--levels", 1, "--titles", 2, "--limit", 5, "--json")[1]
    )
