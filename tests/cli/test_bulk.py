"""Many texts through one verb: in order, as they are done, with their own keys; what is wrong is named, or skipped."""

from __future__ import annotations

import io
import json
import os
import signal
import sys

import pytest
from commands import begin
from tiny import QUATRAIN, poem_model, saved, sentence_model

from textdiff import cli
from textdiff.cli import bulk
from textdiff.cli.common import check_writable
from textdiff.data.records import Record
from textdiff.pipeline.text import Pipeline

ONELINE = QUATRAIN.replace("\n", "")


@pytest.fixture(scope="module")
def poems(tmp_path_factory) -> str:
    return saved(poem_model(form="wuyan-jueju"), tmp_path_factory.mktemp("models") / "poems")


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    return saved(sentence_model(), tmp_path_factory.mktemp("models") / "words")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command in this process: (exit code, stdout, stderr); the folder it runs in is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bulk, "CHUNKS", (2, 3))

    def call(*words: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


def lines(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def judge(verb: str, poems: str) -> list[str]:
    return (
        [verb, "--json"] if verb == "check" else [verb, "--json", "--model", poems, "--levels", "1", "--repeats", "1"]
    )


VERBS = ["score", "check"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_record_keeps_its_keys_and_its_place(run, poems, verb):
    records = [{"id": k, "text": QUATRAIN, "tags": ["a"], "model": "mine"} for k in range(8)]
    code, out, err = run(*judge(verb, poems), stdin=lines(*records))
    found = [json.loads(line) for line in out.splitlines()]
    assert code in (0, 3) and err == ""
    assert [one["id"] for one in found] == list(range(8)) and all(one["tags"] == ["a"] for one in found)
    if verb == "score":
        assert found[0]["model"] == poems and found[0]["input"] == {"model": "mine"}, (
            "nothing is lost where both have a key"
        )


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_verb_has_written_it_reads_again_without_finding_its_own_values_strange(run, poems, verb):
    _, out, _ = run(*judge(verb, poems), stdin=lines({"id": 7, "text": QUATRAIN}))
    _, again, _ = run(*judge(verb, poems), stdin=out)
    assert json.loads(again) == json.loads(out)


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_record_ends_the_work_after_those_before_it(run, poems, verb, tmp_path):
    records = [{"text": QUATRAIN}] * 4 + [{"text": QUATRAIN, "form": "七绝"}] + [{"text": QUATRAIN}] * 3
    (tmp_path / "in.jsonl").write_text(lines(*records), encoding="utf-8")
    code, out, err = run(*judge(verb, poems), "--file", "in.jsonl")
    assert code == 2 and len(out.splitlines()) == 4
    assert (
        err.startswith("textdiff: 'in.jsonl' line 5: text has 20 characters, but form 'qiyan-jueju'")
        and err.count("\n") == 1
    )
    code, out, err = run(*judge(verb, poems), "--file", "in.jsonl", "--out", "out.jsonl")
    assert (code, out) == (2, "") and "what was finished is in" in err and "out.jsonl.partial" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.partial"]
    assert len((tmp_path / "out.jsonl.partial").read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_record_is_skipped_where_that_is_asked_for(run, poems, verb, tmp_path):
    text = lines({"text": QUATRAIN}, {"text": 5, "id": 1}) + "nonsense\n"
    text += lines(
        {"text": QUATRAIN, "form": "七绝", "id": 3}, {"text": QUATRAIN, "seed": "x"}, {"text": QUATRAIN, "id": 5}
    )
    code, out, err = run(*judge(verb, poems), "--on-error", "skip", stdin=text)
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (1, "textdiff: 4 of 6 records were skipped, as they are wrong\n")
    assert ["error" in one for one in found] == [False, True, True, True, True, False]
    assert found[1]["id"] == 1 and found[1]["error"].startswith("stdin line 2 has as text 5")
    assert found[3]["id"] == 3 and found[3]["error"].startswith("stdin line 4: text has 20 characters")
    assert found[5]["id"] == 5
    code, out, err = run(*judge(verb, poems), "--on-error", "skip", "--rejects", "bad", stdin=text)
    assert code == 1 and len(out.splitlines()) == 2 and err.count("\n") == 1 and "they are in 'bad'" in err
    bad = [json.loads(line) for line in (tmp_path / "bad").read_text(encoding="utf-8").splitlines()]
    assert [one["text"] for one in bad] == [5, "nonsense", QUATRAIN, QUATRAIN]
    code, out, err = run(*judge(verb, poems), "--rejects", "bad2", stdin=text)
    assert (code, out) == (2, "") and "pass --on-error skip" in err and not (tmp_path / "bad2").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--out", "in.jsonl"], "--out is 'in.jsonl', which is the file that is read"),
        (["--rejects", "./in.jsonl"], "--rejects is './in.jsonl', which is the file that is read"),
        (["--rejects", "new", "--out", "new"], "--rejects and --out are both 'new'; name two files"),
    ],
)
def test_no_file_is_written_over_that_is_read_or_has_other_results(run, poems, tmp_path, flags, says):
    text = lines({"text": ONELINE}, {"text": 5})
    (tmp_path / "in.jsonl").write_text(text, encoding="utf-8")
    for verb in (["check", "--file", "in.jsonl"], ["evaluate", "in.jsonl", "--model", poems]):
        code, out, err = run(*verb, "--on-error", "skip", *flags)
        assert (code, out) == (2, "") and says in err
    assert (tmp_path / "in.jsonl").read_text(encoding="utf-8") == text and len(list(tmp_path.iterdir())) == 1
    jobs = ["score", "--model", poems, "--input", "in.jsonl", "--out", "in.jsonl"]
    assert run(*jobs)[0] == 2 and (tmp_path / "in.jsonl").read_text(encoding="utf-8") == text


def test_titles_forms_and_seeds_of_records_are_used(run, poems):
    pipe = Pipeline.from_pretrained(poems)
    records = [{"text": QUATRAIN, "title": "静夜思", "dynasty": "唐代", "seed": 5}, {"text": QUATRAIN, "form": "五绝"}]
    _, out, _ = run(*judge("score", poems), stdin=lines(*records))
    first, second = [json.loads(line)["nats_per_char"] for line in out.splitlines()]
    wanted = pipe.score(QUATRAIN, title="静夜思", dynasty="tang", seed=5, levels=1, repeats=1)[0].nats_per_char
    assert first == pytest.approx(wanted) and first != pytest.approx(second)
    _, out, _ = run(*judge("score", poems), "--seed", 0, stdin=lines(*records))
    assert json.loads(out.splitlines()[1])["nats_per_char"] == pytest.approx(second), "a flag stands above records"


def test_a_model_that_takes_no_titles_says_so_once(run, words):
    records = [{"text": "the cat sat", "title": "静夜思"}] * 5
    code, out, err = run("score", "--model", words, "--repeats", 1, stdin=lines(*records))
    assert code == 0 and len(out.splitlines()) == 5 and err.count("\n") == 1 and "cannot be told a title" in err


def test_tokens_are_called_tokens_where_they_are_no_characters(run, words, poems):
    _, out, _ = run("score", "--model", words, "the cats sat on the mat")
    assert "nats/token  7 tokens" in out
    _, out, _ = run("score", "--model", poems, ONELINE, "--levels", 1)
    assert "nats/char  20 characters" in out


def test_check_prints_nothing_where_a_reading_is_wrong(run):
    for words, says in (
        ([":=:"], "--reading ':=:' names no character; write it like 3:5=平"),
        (["看=长"], "is no reading"),
        (["1:1=平"], "more than one text"),
    ):
        code, out, err = run("check", "--reading", *words, stdin=f"{ONELINE}\n{ONELINE}\n")
        assert (code, out) == (2, "") and says in err and err.count("\n") == 1
    code, out, err = run("check", "--reading", "看=平", stdin=f"{ONELINE}\n{ONELINE}\n")
    assert code == 2 and "names no character of any text" in err


def test_a_million_records_pass_through_without_being_held():
    def work(chunk):
        return [record.text for record in chunk]

    alive = 0

    def endless():
        nonlocal alive
        for k in range(100_000):
            alive = k
            yield Record({"text": str(k)}, f"line {k}")

    found = bulk.results(endless(), work, skip=False)
    for k, (_, result) in zip(range(1000), found, strict=False):
        assert result == str(k) and alive - k < bulk.CHUNKS[-1]


STOPS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
STOPPED = {
    "check": ["check", "--json"],
    "score": ["score", "--json", "--levels", "1", "--repeats", "1"],
    "fill": ["fill", "--json", "--steps", "1"],
    "refine": ["refine", "--json", "--rounds", "1"],
}


@pytest.mark.parametrize(
    ("verb", "number"),
    [
        ("check", signal.SIGINT),
        ("check", signal.SIGTERM),
        ("score", signal.SIGTERM),
        ("fill", signal.SIGINT),
        ("refine", signal.SIGTERM),
    ],
)
def test_what_is_finished_survives_a_stop(tmp_path, tmp_path_factory, monkeypatch, poems, verb, number):
    code, says = STOPS[number]
    words = [*STOPPED[verb], "--file", "in", "--out", "out"]
    words += [] if verb == "check" else ["--model", poems]
    line = ONELINE.replace("光", "_") if verb == "fill" else ONELINE
    (tmp_path / "in").write_text(f"{line}\n" * 1_000_000, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    command = begin(tmp_path_factory.mktemp("streams"), *words)
    command.wait_for(lambda: [path for path in tmp_path.glob(".out*") if path.stat().st_size])
    command.send(number)
    found, _, err = command.ended()
    assert found == code and err.startswith(f"textdiff: {says}") and err.count("\n") == 1 and "out.partial" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.partial"]
    written = [json.loads(line) for line in (tmp_path / "out.partial").read_text(encoding="utf-8").splitlines()]
    assert written and all(one["form"] == "wuyan-jueju" for one in written)


def test_an_output_that_cannot_be_written_is_said_before_the_work(run, tmp_path):
    (tmp_path / "folder").mkdir()
    for flag in ("--out", "--svg", "--png"):
        for path, says in (("no/such/file", "No such file"), ("folder", "is a folder")):
            code, out, err = run("score", "--model", "absent-model", ONELINE, flag, path)
            assert (code, out) == (1, "") and "cannot write" in err and says in err
    if os.getuid():
        (tmp_path / "folder").chmod(0o500)
        assert "Permission denied" in run("check", ONELINE, "--out", "folder/x")[2]


HOLED = ONELINE.replace("光", "_")
DRAW = {"fill": ["fill", "--json", "--steps", "2"], "refine": ["refine", "--json", "--rounds", "1"]}


@pytest.mark.parametrize("verb", DRAW)
def test_what_is_drawn_keeps_its_keys_and_its_place(run, poems, verb):
    records = [{"id": k, "text": HOLED if verb == "fill" else ONELINE} for k in range(4)]
    records[1:1] = [{"id": 9, "text": ONELINE[1:]}, {"id": 10, "text": 5}]
    words = [*DRAW[verb], "--model", poems]
    code, out, err = run(*words, "--on-error", "skip", stdin=lines(*records))
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (1, "textdiff: 2 of 6 records were skipped, as they are wrong\n")
    assert [one["id"] for one in found] == [0, 9, 10, 1, 2, 3] and ["error" in one for one in found[:4]] == [0, 1, 1, 0]
    assert found[1]["error"].startswith("stdin line 2: text '") and found[2]["error"].startswith(
        "stdin line 3 has as text 5"
    )
    if verb == "fill":
        assert [one["seed"] for one in found if "seed" in one] == [0, 3, 4, 5]
        assert found[0]["input"] == {"text": HOLED}
    code, out, err = run(*words, stdin=lines(*records))
    assert code == 2 and len(out.splitlines()) == 1 and err.startswith("textdiff: stdin line 2: text ")


def test_fill_goes_by_what_each_record_says(run, poems):
    pipe = Pipeline.from_pretrained(poems)
    records = [{"text": HOLED, "title": "静夜思", "dynasty": "唐朝", "seed": 7}, {"text": "□" * 20, "form": "五言絕句"}]
    _, out, _ = run(*DRAW["fill"], "--model", poems, stdin=lines(*records))
    first, second = map(json.loads, out.splitlines())
    wanted = pipe.fill(HOLED, seed=7, title="静夜思", dynasty="tang", steps=2)[0]
    assert (first["text"], first["dynasty"], second["form"]) == (wanted.text, "tang", "wuyan-jueju")
    assert second["text"] == pipe.fill("□" * 20, seed=1, steps=2)[0].text
    _, out, _ = run(*DRAW["fill"], "--model", poems, "--seed", 3, stdin=lines(*records))
    assert json.loads(out.splitlines()[0])["seed"] == 3, "a flag stands above records"


def test_texts_of_one_line_follow_each_other_without_a_gap(run, poems):
    _, out, _ = run("fill", "--model", poems, "--steps", 1, stdin="床前□□光\n" * 130)
    assert [len(line) for line in out.splitlines()] == [5] * 130
    _, out, _ = run("generate", "--model", poems, "--form", "couplet:7", "-n", 66, "--steps", 1)
    assert [len(line) for line in out.splitlines()] == [16] * 66


def test_the_bound_names_the_record_that_cannot_be_read(run, poems, tmp_path):
    (tmp_path / "in.jsonl").write_text(lines({"text": QUATRAIN}, {"text": QUATRAIN, "form": "七绝"}), encoding="utf-8")
    words = ["evaluate", "in.jsonl", "--model", poems, "--levels", 1]
    code, out, err = run(*words)
    assert (code, out) == (2, "") and err.startswith("textdiff: 'in.jsonl' line 2: text has 20 characters")
    code, out, err = run(*words, "--on-error", "skip", "--json")
    assert code == 1 and json.loads(out)["all"]["texts"] == 1 and "'in.jsonl' line 2" in err and "1 of 2 records" in err


class Enough(io.StringIO):
    """A stream whose reader interrupts the command after the first poem."""

    def write(self, text: str) -> int:
        if self.getvalue():
            raise KeyboardInterrupt
        return io.StringIO.write(self, text)


def test_any_number_of_poems_begins_with_the_first(poems, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Enough())
    assert cli.main(["generate", "--model", poems, "--steps", "1", "-n", str(10**20)]) == 130
    assert sys.stdout.getvalue()


def test_an_output_in_a_folder_that_was_removed_is_said_to_be_there(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OSError, match="cannot write 'x': the folder that we are in was removed; go to another one"):
        check_writable("x")
