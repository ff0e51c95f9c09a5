"""Jobs of a file: what becomes of one depends on it alone, and work that was ended goes on without a job lost or done twice."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import resource
import signal
from pathlib import Path

import pytest
from commands import begin
from tiny import QUATRAIN, RHYMES, poem_model, saved

from textdiff import cli
from textdiff.networks.fast_float32 import chosen
from textdiff.networks.lean import choices
from textdiff.networks.lean.products import bf16_pays, packing_serves
from textdiff.pipeline.jobs import verbs
from textdiff.pipeline.jobs.verbs import seed_of
from textdiff.pipeline.text import Pipeline

ONELINE = QUATRAIN.replace("\n", "")
HOLED = ONELINE.replace("光", "_")
WAYS = (chosen, packing_serves, bf16_pays)
LINE = "春眠不觉晓"


@pytest.fixture(scope="module")
def poems(tmp_path_factory) -> str:
    return saved(poem_model("夏秋冬" + RHYMES, form="wuyan-jueju"), tmp_path_factory.mktemp("models") / "poems")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path, poems):
    """Does jobs in this process: (exit code, stderr); the folder it runs in is empty at first."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str]:
        code = cli.main([*map(str, words), "--model", poems, "--quiet"])
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    return call


def written(name: str, *jobs: object) -> str:
    Path(name).write_text("".join(json.dumps(job, ensure_ascii=False) + "\n" for job in jobs), encoding="utf-8")
    return name


def lines(name: str) -> list[str]:
    """The lines of a file of results, sorted."""
    return sorted(Path(name).read_text(encoding="utf-8").splitlines())


def results(name: str) -> list[dict]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


FILL = [
    {"id": "a", "text": HOLED, "temperature": 0.8, "tag": 1},
    {"id": 2, "text": HOLED, "title": "静夜思", "dynasty": "tang"},
    {"id": 3, "text": HOLED[1:]},
    {"id": "d", "text": "床_" + LINE[2:], "seed": 5},
    {"id": "e", "text": HOLED, "sampler": "margin", "prosody": "prefer"},
    {"id": "f", "text": HOLED, "steps": 1},
    {"id": "g", "text": HOLED, "temperature": 1.5},
]
JOBS = {
    "generate": [
        {"id": "a", "temperature": 0.5},
        {"id": "b", "n": 3, "steps": 1},
        {"id": "c", "form": "七绝", "acrostic": "春夏秋冬"},
        {"id": "d", "form": "couplet:5", "seed": 9},
        {"id": "e", "prosody": "strict", "sampler": "margin", "best_of": 2},
        {"id": "f", "text": HOLED},
    ],
    "fill": FILL,
    "refine": [
        {"id": "a", "text": ONELINE, "k": 2, "keep": [1]},
        {"id": "b", "text": ONELINE, "variations": 2, "level": 0.5},
        {"id": "c", "text": ONELINE, "freeze": ["1:1"], "title": "月"},
        {"id": "d", "text": "床前"},
        {"id": "e", "text": ONELINE, "process": "replacement"},
    ],
    "augment": [
        {"id": "a", "text": ONELINE, "n": 2, "keep": ["月", [0, 1]]},
        {"id": "b", "text": ONELINE, "keep_pattern": "[低头]"},
        {"id": "c", "text": ONELINE, "keep": [[0, 99]]},
        {"id": "d", "text": ONELINE, "strength": 0.5, "title": "月"},
        {"id": "e", "text": ONELINE, "keep": "低头", "process": "replacement"},
    ],
    "score": [
        {"id": "a", "text": ONELINE, "detail": True},
        {"id": "b", "text": ONELINE, "seed": 4},
        {"id": "c", "text": ONELINE, "order": "margin"},
        {"id": "d", "text": HOLED},
        {"id": "e", "text": ONELINE, "repeats": 1, "title": "月", "levels": 3},
    ],
}
FLAGS = {
    "generate": ["--steps", 2],
    "fill": ["--steps", 2],
    "refine": ["--rounds", 1],
    "augment": ["-n", 1, "--levels", 2],
    "score": ["--levels", 2, "--repeats", 2],
}


@pytest.mark.parametrize("verb", JOBS)
def test_what_becomes_of_a_job_depends_on_the_job_alone(run, verb, monkeypatch):
    jobs = [*JOBS[verb], *({**job, "id": f"{job['id']}, again"} for job in JOBS[verb][1:])]
    flags = ["--input", written("jobs", *jobs), "--out"]
    code, err = run(verb, *FLAGS[verb], *flags, "whole")
    failed = [one["error"] for one in results("whole") if "error" in one]
    assert code == 1 and len(failed) == 2, failed
    assert err == f"textdiff: 2 of {len(jobs)} records were skipped, as they are wrong\n"
    whole = lines("whole")
    assert len(whole) == len(jobs)
    for k in (1, 2):
        run(verb, *FLAGS[verb], *flags, f"shard{k}", "--shard", f"{k}/2")
    assert {one["id"] for one in results("shard1")} == {job["id"] for job in jobs[::2]}
    assert sorted(lines("shard1") + lines("shard2")) == whole
    Path("cut").write_text("".join(f"{line}\n" for line in whole[::3]) + whole[1][:20], encoding="utf-8")
    Path("cut.job").write_text(Path("whole.job").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(verbs, "WINDOW", 3)
    assert run(verb, *FLAGS[verb], *flags, "cut")[0] == 1 and lines("cut") == whole
    before = Path("cut").read_bytes()
    assert run(verb, *FLAGS[verb], *flags, "cut")[0] == 1 and Path("cut").read_bytes() == before, "all is done"


def test_a_job_is_done_as_the_library_does_it(run, poems):
    pipe = Pipeline.from_pretrained(poems)
    run("fill", "--steps", 2, "--seed", 3, "--input", written("jobs", *FILL), "--out", "out")
    found = {one["id"]: one for one in results("out")}
    assert found["a"]["text"] == pipe.fill(HOLED, seed=seed_of("a", 3), steps=2, temperature=0.8)[0].text
    assert found[2]["text"] == pipe.fill(HOLED, seed=seed_of(2, 3), steps=2, title="静夜思", dynasty="tang")[0].text
    assert (found["d"]["seed"], found["f"]["steps"], found["g"]["temperature"], found["a"]["tag"]) == (5, 1, 1.5, 1)
    assert found["a"]["input"] == {"text": HOLED} and found[3]["error"].startswith("line 3: text '")
    run("generate", "--steps", 2, "--input", written("new", {"n": 2, "seed": 7}, {}), "--out", "two")
    several, one = sorted(results("two"), key=lambda one: one["id"])
    texts = [output.text for output in pipe.generate(n=2, seed=7, steps=2)]
    assert [output["text"] for output in several["results"]] == texts and (several["id"], one["id"]) == (1, 2)
    assert one["text"] == pipe.generate(seed=seed_of(2), steps=2)[0].text
    run("score", "--levels", 2, "--input", written("old", {"text": ONELINE}), "--out", "scores")
    assert results("scores")[0]["nats_per_char"] == pipe.score(ONELINE, levels=2)[0].nats_per_char


def test_the_seed_of_an_id_is_the_beginning_of_a_known_digest():
    assert seed_of("a") == 2750778941568518 and seed_of("7") != seed_of(7) != seed_of(7, 1)


def test_a_line_that_is_no_job_becomes_an_error_with_its_number(run):
    jobs = json.dumps({"id": 1, "text": HOLED}) + "\nnonsense\n" + json.dumps({"id": [2], "text": HOLED})
    Path("jobs").write_text(
        jobs + "\n\n" + json.dumps({"text": 5}) + "\n" + json.dumps({"text": HOLED, "error": "old"})
    )
    words = ["fill", "--steps", 1, "--input", "jobs", "--out", "out"]
    code, err = run(*words)
    assert code == 1 and err == "textdiff: 3 of 5 records were skipped, as they are wrong\n"
    wrong = {one["line"]: one["error"] for one in results("out") if "error" in one}
    assert wrong[2].startswith("line 2 is not JSON") and wrong[3] == (
        "line 3 has as id [2]; expected text or a whole number"
    )
    assert wrong[5].startswith("line 5 has as text 5")
    assert sorted(one["id"] for one in results("out") if "error" not in one) == [1, 6]
    before = lines("out")
    Path("out").write_text(before[0] + "\n", encoding="utf-8")
    code, err = run(*words)
    assert lines("out") == before and err.splitlines()[-1] == "textdiff: 3 of 5 records were skipped, as they are wrong"


@pytest.mark.parametrize("strange", ["c", "cg", "abcdefgh"])
def test_a_fault_of_ours_is_the_error_of_one_job_unless_it_is_that_of_all(run, monkeypatch, strange):
    fill, jobs = verbs.VERBS["fill"], [{"id": name, "text": HOLED} for name in "abcdefgh"]
    run("fill", "--steps", 1, "--input", written("jobs", *jobs), "--out", "whole")

    def faulty(pipe, some, options, watch):
        for k, result in fill.work(pipe, some, options, watch):
            if some[k]["id"] in strange:
                raise KeyError(some[k]["id"])
            yield k, result

    monkeypatch.setitem(verbs.VERBS, "fill", dataclasses.replace(fill, work=faulty))
    words = ["fill", "--steps", 1, "--input", "jobs", "--out", "out"]
    code, err = run(*words)
    if strange == "abcdefgh":
        assert (
            code == 1 and err == "textdiff: KeyError: 'a' (--debug shows where); the same command goes on from here\n"
        )
        assert not lines("out")
        return
    assert code == 1 and "textdiff: line 3: KeyError: 'c' (--debug shows where)\n" in err
    failed = {one["id"]: one["error"] for one in results("out") if "error" in one}
    assert failed == {name: f"line {'abcdefgh'.index(name) + 1}: KeyError: '{name}'" for name in strange}
    assert set(lines("whole")) - set(lines("out")) == {
        one for one in lines("whole") if json.loads(one)["id"] in strange
    }
    assert run(*words)[0] == 1 and len(lines("out")) == 8, "all is done"


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), RuntimeError("can't allocate memory")])
def test_what_concerns_the_machine_ends_the_work(run, monkeypatch, error):
    def broken(pipe, some, options, watch):
        raise error
        yield

    monkeypatch.setitem(verbs.VERBS, "fill", dataclasses.replace(verbs.VERBS["fill"], work=broken))
    code, err = run("fill", "--input", written("jobs", {"text": HOLED}), "--out", "out")
    assert code in (1, 130) and "goes on from here" in err and not lines("out")


def test_no_two_jobs_have_one_id(run):
    for jobs, says in (
        ([{"id": 7}, {"id": "7"}, {"id": "x"}, {"id": 7}, {"id": "x"}], "line 4 has the id of line 1, 7;"),
        ([{"id": 2}, {}], "line 2 has the id of line 1, 2;"),
    ):
        code, err = run("generate", "--input", written("jobs", *jobs), "--out", "out")
        assert code == 2 and says in err and not Path("out").exists()


def test_what_is_begun_with_something_else_is_refused_with_the_way_out(run, poems):
    jobs = written("jobs", {}, {})
    words = ["generate", "--steps", 1, "--input", jobs]
    assert run(*words, "--out", "out") == (0, "")
    whole = Path("out").read_bytes()
    for more, says in (
        (["--steps", 2], "steps was 1 and is 2"),
        (["--seed", 1], "seed was 0 and is 1"),
        (["--shard", "1/2"], 'shard was "1/1" and is "1/2"'),
        (["--keyword", "月"], 'keyword was not given and is "月"'),
    ):
        code, err = run(*words, *more, "--out", "out")
        assert code == 2 and f"{says}; give the same, name another file, or remove 'out' and 'out.job'" in err
    written("jobs", {}, {}, {})
    code, err = run(*words, "--out", "out")
    assert code == 2 and "another input" in err and Path("out").read_bytes() == whole
    Path("mine").write_text("a text\n", encoding="utf-8")
    code, err = run(*words, "--out", "mine")
    assert (
        code == 2 and "no jobs have been begun in it" in err and Path("mine").read_text(encoding="utf-8") == "a text\n"
    )
    written("jobs", {}, {})
    for more, says in (
        (b"half a line\n", "line 3 is no result"),
        (b'{"id": 9}\n', "line 3 is the result of no job"),
        (whole.splitlines(keepends=True)[0], "two results of one job"),
    ):
        Path("out").write_bytes(whole + more)
        code, err = run(*words, "--out", "out")
        assert code == 2 and says in err and Path("out").read_bytes() == whole + more


def test_a_second_start_computes_as_the_first_did(run, monkeypatch):
    words = ["generate", "--steps", 1, "--input", written("jobs", {}, {}), "--out", "out"]
    run(*words)
    about = json.loads(Path("out.job").read_text(encoding="utf-8"))
    assert about["computing"] == {way.__name__: way() for way in WAYS}
    monkeypatch.setattr(choices, "_made", {})
    about["computing"] = {name: not way for name, way in about["computing"].items()}
    Path("out.job").write_text(json.dumps(about), encoding="utf-8")
    assert run(*words)[0] == 0
    assert {way.__name__: way() for way in WAYS} == about["computing"]


def test_one_process_writes_the_results_at_a_time(run):
    fcntl = pytest.importorskip("fcntl")
    words = ["fill", "--input", written("j", *FILL[:2]), "--out", "r"]
    assert run(*words)[0] == 0
    before = lines("r")
    with Path("r").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, err = run(*words)
        assert code == 2 and "another process writes 'r' now" in err and lines("r") == before
    assert run(*words)[0] == 0


def test_flags_that_are_not_for_jobs_are_refused(run):
    jobs = written("jobs", {"text": HOLED})
    for words, says in (
        (["--input", jobs], "pass --out FILE"),
        (["--input", jobs, "--out", "out", HOLED], "TEXT is for texts"),
        (["--input", jobs, "--out", "out", "--rejects", "bad", "--on-error", "skip"], "--on-error is for texts"),
        (["--input", "absent", "--out", "out"], "'absent' does not exist"),
        (["--input", written("poems", "春眠"), "--out", "out"], "does not begin with an object of JSON"),
        (["--file", jobs, "--shard", "1/2"], "pass both"),
        (["--input", jobs, "--out", "out", "--shard", "0/2"], "is not K/N"),
        (["--input", jobs, "--out", "out", "--sampler", "nope"], "unknown sampler"),
        (["--input", jobs, "--out", "/dev/null"], "is no regular file"),
    ):
        code, err = run("fill", *words)
        assert code == 2 and says in err and err.count("\n") == 1 and not Path("out").exists()


def test_a_full_disk_ends_the_work_and_with_room_it_goes_on(run):
    words = ["generate", "--steps", 1, "--input", written("jobs", *({"form": "couplet:5"} for _ in range(40))), "--out"]
    run(*words, "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        code, err = run(*words, "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1 and "the output cannot be written" in err and err.endswith("goes on from here\n")
    assert Path("out").stat().st_size == 3000 and run(*words, "out")[0] == 0
    assert lines("out") == lines("whole")


def killed(folder: Path, streams: Path, words: list[object], moments: list[float]) -> int:
    """Start a command again and again, each time killed when so many more bytes of its results are there; how often it was."""
    out, kills = folder / "out", 0
    for moment in moments:
        before = out.stat().st_size if out.exists() else 0
        command = begin(streams, *words)
        command.wait_for(lambda goal=before + moment: out.exists() and out.stat().st_size >= goal)
        if command.process.is_alive():
            command.send(signal.SIGKILL)
            kills += 1
        command.ended()
    return kills


def with_and_without_kills(
    folder: Path, streams: Path, poems: str, jobs: int, moments: list[float]
) -> tuple[list[str], list[str]]:
    """The sorted results of the same jobs, of a command that was killed at these moments and begun again, and of one that was not."""
    forms = itertools.cycle(
        [{"form": "couplet:5"}, {"form": "五绝", "temperature": 0.7}, {"form": "couplet:7"}, {"n": 0}]
    )
    with (folder / "jobs").open("w", encoding="utf-8") as file:
        for k, job in zip(range(jobs), forms, strict=False):
            print(json.dumps({"id": f"job {k}"} | job), file=file)
    words: list[object] = ["generate", "--steps", 1, "--model", poems, "--input", "jobs", "--out"]
    assert begin(streams, *words, "whole").ended()[0] == 1
    kills = killed(folder, streams, [*words, "out"], moments)
    assert kills >= len(moments) - 1 and len(lines(str(folder / "out"))) < jobs
    assert begin(streams, *words, "out").ended()[0] == 1
    return lines(str(folder / "out")), lines(str(folder / "whole"))


def test_after_kills_no_job_is_lost_and_none_is_done_twice(tmp_path, tmp_path_factory, monkeypatch, poems):
    monkeypatch.chdir(tmp_path)
    found, whole = with_and_without_kills(tmp_path, tmp_path_factory.mktemp("streams"), poems, 600, [1, 60_000])
    assert found == whole
    assert {json.loads(line)["id"] for line in found} == {f"job {k}" for k in range(600)} and len(found) == 600


@pytest.mark.slow
def test_after_twenty_kills_ten_thousand_jobs_are_as_they_would_have_been(
    tmp_path, tmp_path_factory, monkeypatch, poems
):
    monkeypatch.chdir(tmp_path)
    moments = [random.Random(k).uniform(1, 250_000) for k in range(20)]
    found, whole = with_and_without_kills(tmp_path, tmp_path_factory.mktemp("streams"), poems, 10_000, moments)
    assert found == whole and len(found) == 10_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_says_how_to_go_on(tmp_path, tmp_path_factory, monkeypatch, poems, number):
    monkeypatch.chdir(tmp_path)
    written("jobs", *({"form": "couplet:5"} for _ in range(2000)))
    command = begin(
        tmp_path_factory.mktemp("streams"),
        *["generate", "--steps", 1, "--model", poems, "--input", "jobs", "--out", "out"],
    )
    command.wait_for(lambda: Path("out").exists() and Path("out").stat().st_size)
    command.send(number)
    code, _, err = command.ended()
    assert code == 128 + number and err.endswith("the same command goes on from here\n") and err.count("\n") == 1
    assert all(json.loads(line)["form"] == "couplet:5" for line in lines("out"))
