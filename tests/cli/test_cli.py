"""The command line: what goes where, exit codes, and that it is the library."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import begin
from tiny import QUATRAIN, poem_model, saved, sentence_model

from textdiff import __version__, cli
from textdiff.pipeline.text import Pipeline

HOLED = QUATRAIN.replace("光", "_")


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
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")

    def call(*words: object, stdin: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin or ""))
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


def as_json(results) -> list[dict]:
    return [json.loads(json.dumps(dataclasses.asdict(result))) for result in results]


# -- the verbs are the library --------------------------------------------------------------------------------------------


def test_generate_needs_no_more_than_a_model(run, poems):
    code, out, err = run("generate", "--model", poems)
    assert (code, err) == (0, "")
    (poem,) = Pipeline.from_pretrained(poems).generate()
    assert out == poem.text + "\n" and out.count("，") == out.count("。") == 2


def test_generate_gives_what_the_library_gives(run, poems, monkeypatch):
    settings = {
        "form": "七绝",
        "sampler": "edit",
        "process": "replacement",
        "steps": 6,
        "temperature": 0.8,
        "top_p": 0.9,
    }
    settings |= {"dynasty": "song", "title": "明月"}
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    expected = Pipeline.from_pretrained(poems).generate(n=5, seed=3, **settings)
    for wanted in (["--json"], ["--format", "jsonl"]):
        code, out, err = run("generate", "--model", poems, "-n", 5, "--seed", 3, *flags, *wanted)
        assert (code, err) == (0, "")
        assert [json.loads(line) for line in out.splitlines()] == as_json(expected)
    code, out, _ = run("generate", "--model", poems, "-n", 5, "--seed", 3, *flags)
    assert out == "\n\n".join(poem.text for poem in expected) + "\n", "poems are apart by an empty line"


@pytest.mark.parametrize(
    ("words", "model"),
    [([], "poems-zh-writer"), (["--process", "mask"], "poems-zh"), (["--sampler", "confidence"], "poems-zh")],
)
def test_generate_takes_the_writer_unless_a_process_or_a_sampler_is_named(run, words, model):
    code, out, _ = run("generate", "--form", "五绝", "--steps", 1, "--json", *words)
    assert code == 0 and json.loads(out)["model"] == model


def test_a_samplers_own_options_are_passed_on(run, poems):
    _, out, _ = run("generate", "--model", poems, "--sampler", "gibbs", "--option", "sweeps=0.5", "--json")
    assert json.loads(out)["forwards"] == 30


def test_fill_takes_arguments_a_file_or_stdin(run, poems, tmp_path):
    expected = as_json(Pipeline.from_pretrained(poems).fill([HOLED, "床前□□光"], seed=4))
    oneline = HOLED.replace("\n", "")
    path = tmp_path / "texts.txt"
    path.write_text(f"{oneline}\n床前□□光\n", encoding="utf-8")
    flags = ("--model", poems, "--seed", 4, "--json")
    for words, stdin in (
        ([oneline, "床前□□光"], None),
        (["--file", path], None),
        ([], path.read_text(encoding="utf-8")),
        (["--file", "-"], f"{HOLED}\n\n床前□□光"),
        ([], "".join(json.dumps({"text": text}) + "\n" for text in (HOLED, "床前□□光"))),
    ):
        code, out, err = run("fill", *words, *flags, stdin=stdin)
        assert (code, err) == (0, "") and [json.loads(line) for line in out.splitlines()] == expected
    code, out, _ = run("fill", "床前□□光", "白日依山_", "--model", poems)
    assert code == 0 and [len(line) for line in out.splitlines()] == [5, 5]


def test_given_characters_are_flags_of_generate(run, poems, tmp_path):
    pipe = Pipeline.from_pretrained(poems)
    ends = ("--acrostic", "春_风_", "--acrostic-end", "_夜_声", "--acrostic-diagonal", "__日_")
    expected = pipe.generate(n=3, seed=2, acrostic="春_风_", acrostic_end="_夜_声", acrostic_diagonal="__日_")
    code, out, err = run("generate", "--model", poems, "-n", 3, "--seed", 2, *ends, "--json")
    assert (code, err) == (0, "") and [json.loads(line) for line in out.splitlines()] == as_json(expected)
    path = tmp_path / "template.txt"
    path.write_text(HOLED + "\n", encoding="utf-8")
    for file, stdin in ((path, None), ("-", HOLED)):
        code, out, _ = run("generate", "--model", poems, "-n", 2, "--template", file, "--json", stdin=stdin)
        assert code == 0 and [json.loads(line) for line in out.splitlines()] == as_json(pipe.fill([HOLED] * 2))


def test_an_upper_line_asks_for_a_couplet(run, poems):
    wanted = as_json(Pipeline.from_pretrained(poems).fill("白日依山尽", form="couplet:5"))
    for words_ in (
        ["generate", "--upper", "白日依山尽"],
        ["generate", "--upper", "白日依山尽，", "--form", "couplet:5"],
        ["fill", "--form", "couplet:5", "白日依山尽"],
    ):
        code, out, err = run(*words_, "--model", poems, "--json")
        assert (code, err) == (0, "") and [json.loads(out)] == wanted
    _, out, _ = run("generate", "--model", poems, "--form", "couplet:7")
    assert len(out.strip()) == 16 and out[7] == "，" and out.endswith("。\n")


def test_poems_are_printed_in_the_script_that_is_asked_for(run, poems):
    pytest.importorskip("opencc")
    pipe = Pipeline.from_pretrained(poems)
    _, out, _ = run("generate", "--model", poems, "--script", "traditional", "--acrostic", "头頭风風")
    assert out == pipe.generate(acrostic="头頭风風", script="traditional")[0].text + "\n"
    assert [line[0] for line in "".join(out.split()).replace("。", "，").split("，")[:4]] == list("头頭风風")
    _, out, _ = run("fill", "--model", poems, "--script", "traditional", HOLED)
    assert out == pipe.fill(HOLED, script="traditional")[0].text + "\n" and out.startswith("床前明月")


def test_fill_serves_any_masked_language_model(run, words):
    code, out, err = run("fill", "The [MASK] sat on the _.", "--model", words)
    assert (code, err) == (0, "") and out.startswith("The") and "[" not in out and "_" not in out


def test_what_generate_writes_score_reads(run, poems):
    _, written, _ = run("generate", "--model", poems, "-n", 2, "--json")
    drawn = [json.loads(line) for line in written.splitlines()]
    pipe = Pipeline.from_pretrained(poems)
    expected = [as_json(pipe.score(record["text"], seed=record["seed"]))[0] for record in drawn]
    _, out, _ = run("score", "--model", poems, "--json", stdin=written)
    for line, wanted, record in zip(out.splitlines(), expected, drawn, strict=True):
        assert json.loads(line) == record | wanted, "what the record says besides is passed on"
    _, plain, _ = run("generate", "--model", poems, "-n", 2)
    code, out, err = run("score", "--model", poems, stdin=plain)
    assert (code, err) == (0, "") and len(out.splitlines()) == 2
    assert out.startswith(
        f"{expected[0]['nats_per_char']:.4f} ± {expected[0]['standard_error']:.4f} nats/char  20 characters"
    )
    _, out, _ = run("score", "--model", poems, "--levels", 2, QUATRAIN.replace("霜", "龘"))
    assert "20 characters, 1 unknown" in out


def test_evaluate_reports_over_all_and_by_form(run, poems, tmp_path):
    path = tmp_path / "test.jsonl"
    records = [{"text": QUATRAIN, "form": "wuyan-jueju"}, {"text": "白" * 28}, {"text": "月" * 28}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    code, out, err = run("evaluate", path, "--model", poems, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == Pipeline.from_pretrained(poems).evaluate(records)
    assert {name: row["texts"] for name, row in json.loads(out).items()} == {
        "all": 3,
        "qiyan-jueju": 2,
        "wuyan-jueju": 1,
    }
    _, table, _ = run("evaluate", path, "--model", poems)
    assert [line.split()[0] for line in table.splitlines()] == ["all", "qiyan-jueju", "wuyan-jueju"]


def test_listings(run):
    _, out, _ = run("forms")
    assert "qiyan-jueju" in out and "七言绝句" in out
    _, out, _ = run("samplers", "--json")
    assert {"name", "processes", "exact", "cost"} <= set(json.loads(out.splitlines()[0]))
    assert run("samplers")[0] == 0
    assert run("--version")[1] == f"textdiff {__version__}\n"
    _, out, _ = run("env", "--json")
    facts = json.loads(out)  # builds may be named once only
    assert facts["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert facts["precision"] == "float32", "as all tests compute where they say nothing else"
    assert run("--help")[0] == run("data", "prepare", "--help")[0] == 0


def test_verify_checks_one_pair_and_a_pair_of_ones_own(run, monkeypatch, tmp_path):
    code, out, err = run("verify", "--process", "mask", "--sampler", "margin", "--json")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows and all(row["ok"] and row["sampler"] == "margin" for row in rows)
    (tmp_path / "mine.py").write_text(
        "from textdiff.samplers.ancestral import baseline as exact\n"
        "def lazy():\n"
        "    from dataclasses import replace\n"
        "    return lambda state, s, *, predictor, process, rng: replace(state, t=s)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = ("verify", "--process", "mask", "--sampler")
    code, out, err = run(*mine, "mine:exact")
    assert (code, err) == (0, "") and "approximate" in out and "astray" in out
    code, out, err = run(*mine, "mine:exact", "--claim", "exact")
    assert code == 1 and "BROKEN" in out and err.count("\n") == 1
    code, out, err = run(*mine, "mine:lazy")
    assert code == 1 and "BROKEN" in out and "1 of 1 rows" in err
    for words, says in (
        (["--sampler", "nowhere:nothing"], "names no object"),
        (["--sampler", "improve"], "did you mean 'improved'"),
        (["--process", "masc"], "did you mean 'mask'"),
        (["--process", "uniform", "--sampler", "edit"], "does not serve process 'uniform'"),
    ):
        code, out, err = run("verify", *words)
        assert (code, out) == (2, "") and err.count("\n") == 1 and says in err


def test_texts_and_overrides_may_stand_behind_flags(run, poems, tmp_path):
    code, out, _ = run("fill", "床前□□光", "--model", poems, "白日依山_")
    assert code == 0 and len(out.splitlines()) == 2
    code, _, err = run("train", "absent.yaml", "--dry-run", "run.steps=3")
    assert code == 2 and "there is no recipe 'absent.yaml'" in err
    code, _, err = run("train", "absent.yaml", "--dry", "run.steps=3")
    assert (code, err) == (2, "textdiff: unrecognized arguments: --dry; see 'textdiff train --help'\n")


def test_bench_times_samplers_against_the_plain_loop(run):
    sizes = {"batch": 2, "length": 8, "steps": 2, "rounds": 1, "vocabulary": 50, "layers": 1, "width": 64}
    code, out, err = run("bench", "sample", "--json", *(word for k, v in sizes.items() for word in (f"--{k}", v)))
    assert (code, err) == (0, "") and all(json.loads(line)["ratio"] > 0 for line in out.splitlines()[:-1])


# -- mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "the following arguments are required: VERB"),
        (["generat"], "invalid choice: 'generat'"),
        (["generate", "--sede", "1"], "unrecognized arguments: --sede"),
        (["generate", "-n", "many"], "invalid int value: 'many'"),
        (["generate", "--form", "qiyan-juejv"], "did you mean 'qiyan-jueju'"),
        (["generate", "--form", ""], "unknown form ''; known are"),
        (["generate", "--sampler", "entropy-bounded", "--steps", "3"], "as many as its bound asks; leave steps out"),
        (["generate", "--sampler", "gibbs", "--option", "sweeps=nan"], "sweeps is nan"),
        (["generate", "--sampler", "gibbs", "--option", "sweeps=inf"], "sweeps is inf"),
        (["generate", "--sampler", "entropy-bounded", "--option", "gamma=nan"], "gamma is nan"),
        (["generate", "--sampler", "improve"], "did you mean 'improved'"),
        (["generate", "--process", "masc"], "did you mean 'mask'"),
        (["generate", "-n", "0"], "n is 0; it must be at least 1"),
        (["generate", "--steps", "0"], "steps is 0"),
        (["generate", "--temperature", "-1"], "temperature is -1.0"),
        (["generate", "--top-p", "2"], "top_p is 2.0"),
        (["generate", "--option", "share"], "argument --option"),
        (["generate", "--format", "xml"], "invalid choice: 'xml'"),
        (["generate", "--device", "abacus"], "device 'abacus' cannot be used here"),
        (["fill", "--form", "五绝", "床前□□光"], "text has 5 characters, but form 'wuyan-jueju' has 20"),
        (["generate", "--acrostic", "春夏"], "acrostic has 2 characters, but form 'wuyan-jueju' has 4 lines"),
        (["generate", "--acrostic", "春夏秋冬"], "'夏' (line 2, character 1) is outside the model's vocabulary"),
        (["generate", "--template", "absent.txt"], "template 'absent.txt' cannot be read (No such file or directory)"),
        (["generate", "--upper", "白日", "--form", "五绝"], "--upper has 2 characters, but the form is '五绝'"),
        (["generate", "--upper", ""], "--upper is '', which has no character; pass the upper line"),
        (["generate", "--upper", "白日", "--template", "-"], "both --upper and --template"),
        (["generate", "--trace", "same.jsonl", "--out", "same.jsonl"], "--trace and --out are both 'same.jsonl'"),
        (["generate", "--form", "couplet:15"], "form 'couplet:15' is none that model"),
        (["generate", "--script", "runes"], "argument --script: invalid choice"),
        (["fill", QUATRAIN], "has no hole"),
        (["fill", "床龘□□光"], "'龘' (line 1, character 2) is outside the model's vocabulary"),
        (["fill", ""], "text is empty"),
        (["fill"], "stdin is empty"),
        (["fill", HOLED, "--file", "x"], "both TEXT and --file"),
        (["score", "--file", "absent.txt"], "'absent.txt' cannot be read (No such file or directory)"),
        (["evaluate", "absent.jsonl"], "'absent.jsonl' cannot be read"),
        (["evaluate", os.devnull], "is empty; pass at least one text"),
        (["train", "absent.yaml"], "there is no recipe 'absent.yaml'"),
        (["export", "onnx", "no/model", os.sep], "exists and is no model's folder; save under another name"),
        (["serve", "--host", "300.1.1.1"], "host is '300.1.1.1', which is no address; pass another --host"),
        (["serve", "--host", "192.0.2.1"], "(Cannot assign requested address); pass another --host"),
    ],
)
def test_what_was_asked_wrongly_exits_2_with_one_line(run, poems, words, says):
    model = ["--model", poems] if words and words[0] in ("generate", "fill", "score", "evaluate") else []
    code, out, err = run(*words, *model)
    assert (code, out) == (2, "")
    assert err.startswith("textdiff: ") and err.count("\n") == 1 and says in err and "Traceback" not in err


def test_a_broken_model_exits_1_with_one_line_and_leaves_no_file(run, poems, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(poems, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for model in (broken, tmp_path / "absent"):
        code, out, err = run("generate", "--model", model, "--out", "poem.txt")
        assert (code, out) == (1, "") and err.startswith("textdiff: ") and err.count("\n") == 1
        assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def test_out_is_whole_or_absent(run, poems, tmp_path):
    path = tmp_path / "poems.jsonl"
    path.write_text("old")
    code, out, _ = run("generate", "--model", poems, "--json", "--out", path, "--form", "nonsense")
    assert code == 2 and path.read_text() == "old"
    path.chmod(0o640)
    code, out, err = run("generate", "--model", poems, "-n", 2, "--json", "--out", path)
    assert (code, out, err) == (0, "", "")
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    assert path.stat().st_mode & 0o777 == 0o640 and list(tmp_path.iterdir()) == [path]


def test_an_output_that_cannot_be_written_is_found_before_the_model_is_read(run, tmp_path):
    for path, says in ((tmp_path / "no" / "such" / "file", "No such file"), (tmp_path, "is a folder")):
        code, out, err = run("generate", "--model", tmp_path / "absent-model", "--out", path)
        assert (code, out) == (1, "") and err.count("\n") == 1 and "cannot write" in err and says in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_a_full_disk_exits_1_with_one_line():
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        told = dict(stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=buffered)
        done = subprocess.run([*COMMAND, "forms"], **told)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cannot be written (No space left on device)" in done.stderr


def test_data_that_cannot_be_written_exits_1_with_one_line(run, tmp_path):
    (tmp_path / "poems.txt").write_text(QUATRAIN.replace("\n", "") + "\n", encoding="utf-8")
    code, out, err = run("data", "prepare", "poems.txt", "poems.txt/inside", "--validation", "0", "--test", "0")
    assert (code, out) == (1, "") and err.count("\n") == 1 and "cannot write to poems.txt/inside" in err


def test_a_failure_while_running_exits_1_and_debug_shows_where(run, poems, monkeypatch, tmp_path):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nluck")

    monkeypatch.setattr("textdiff.pipeline.run.sample", fail)
    code, _, err = run("generate", "--model", poems, "--out", "x")
    assert (code, err) == (1, "textdiff: RuntimeError: out of luck (--debug shows where)\n")
    assert not list(tmp_path.iterdir())
    assert "Traceback" in run("generate", "--model", poems, "--debug")[2]
    monkeypatch.setenv("TEXTDIFF_DEBUG", "1")
    assert "Traceback" in run("generate", "--model", poems)[2]


# -- real processes -------------------------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "textdiff.cli"]


def test_a_real_process_writes_data_to_stdout_and_nothing_to_stderr(poems):
    words = ["generate", "--model", poems, "--seed", "2", "--steps", "3", "--precision", "float32", "--json"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONWARN", "TRANSFORMERS", "HF_"))}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*COMMAND, *words], capture_output=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    (poem,) = Pipeline.from_pretrained(poems, precision="float32").generate(seed=2, steps=3)
    assert [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()] == as_json([poem])


def test_a_closed_pipe_is_silent(tmp_path):
    (tmp_path / "in").write_text((QUATRAIN.replace("\n", "") + "\n") * 1000, encoding="utf-8")
    command = [*COMMAND, "check", "--json", "--file", tmp_path / "in"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(120) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_process_leaves_what_it_has_written_under_another_name(
    poems, tmp_path: Path, tmp_path_factory, number, code
):
    words = ["generate", "--model", poems, "-n", 1_000_000, "--steps", 1, "--out", tmp_path / "poems"]
    command = begin(tmp_path_factory.mktemp("streams"), *words)
    command.wait_for(lambda: [path for path in tmp_path.iterdir() if path.stat().st_size])  # a temporary file
    command.send(number)
    found, _, err = command.ended()
    assert found == code and err.count("\n") == 1 and "what was finished is in" in err
    assert [path.name for path in tmp_path.iterdir()] == ["poems.partial"]
