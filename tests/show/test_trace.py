"""States as texts: on file, handed on while a run goes, and at a terminal."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from tiny import QUATRAIN, poem_model, saved, sentence_model, window_model

from textdiff import cli
from textdiff.pipeline import canvas
from textdiff.pipeline.text import Pipeline
from textdiff.show import trace
from textdiff.show.trace import Shot, Trace
from textdiff.show.watching import columns, side_by_side, watching

POEMS = Pipeline(poem_model(form="wuyan-jueju"))
WINDOWS = Pipeline(window_model())
WORDS = Pipeline(sentence_model())
HOLED = [
    QUATRAIN.replace("光", "_"),
    QUATRAIN.replace("月", "□"),
    QUATRAIN.replace("霜", "_"),
    QUATRAIN.replace("光", "_"),
]
KINDS = [("mask", "improved"), ("replacement", "edit"), ("uniform", "improved"), ("mask", "gibbs")]


def told_to(shots: list[Shot]):
    """What is called with every frame of a run, and keeps its shot."""
    follow = trace.follower()
    return lambda frame: shots.append(follow(frame))


def last(shots: list[Shot]) -> dict[int, str]:
    """The last text of each row."""
    return {row: text for shot in shots for row, text in zip(shot.rows, shot.texts, strict=True)}


# -- what is handed on ----------------------------------------------------------------------------------------------------


@given(st.text("ab□\n", max_size=8), st.text("ab□\n", max_size=8))
def test_what_is_not_changed_stands_in_both(before, after):
    new = trace.changed(before, after)
    assert list(new) == sorted(set(new)) and all(0 <= k < len(after) for k in new)
    kept = iter(before)
    assert all(c in kept for k, c in enumerate(after) if k not in new)  # a subsequence
    assert new == () if before == after else new or len(before) > len(after)
    if len(before) == len(after):
        assert new == tuple(k for k in range(len(after)) if before[k] != after[k])


@pytest.mark.parametrize(("process", "sampler"), KINDS)
def test_stream_ends_with_what_generate_gives(process, sampler):
    settings = {"n": 3, "seed": 7, "process": process, "sampler": sampler, "steps": 4}
    shots = list(trace.shots(POEMS.stream(**settings)))
    assert last(shots) == dict(enumerate(output.text for output in POEMS.generate(**settings)))
    assert shots[0].level == 1 and shots[-1].level == 0
    for before, after in itertools.pairwise(shots):
        for row in range(3):
            assert after.changed[row] == trace.changed(before.texts[row], after.texts[row])


def test_a_mask_process_writes_every_character_once():
    shots = list(trace.shots(POEMS.stream(n=2, process="mask", sampler="improved", steps=6)))
    for row in range(2):
        assert sorted(k for shot in shots for k in shot.changed[row]) == [
            k for k, c in enumerate(shots[0].texts[row]) if c == canvas.HOLE
        ]


@pytest.mark.parametrize(("process", "sampler"), KINDS)
def test_who_watches_generate_sees_what_stream_gives(process, sampler):
    settings = {"n": 5, "seed": 3, "process": process, "sampler": sampler, "steps": 3}
    told: list[Shot] = []
    outputs = POEMS.generate(**settings, batch_size=2, watch=told_to(told))
    assert last(told) == dict(enumerate(output.text for output in outputs))
    assert outputs == POEMS.generate(**settings, batch_size=2)
    whole = Trace({}, tuple(told)).films()
    assert [course for course in whole.values()] == list(
        Trace({}, tuple(trace.shots(POEMS.stream(**settings)))).films().values()
    )


def test_running_text_and_an_unchanged_pipeline_without_onlookers():
    told: list[Shot] = []
    (output,) = WINDOWS.generate(length=12, watch=told_to(told))
    assert last(told) == {0: output.text} and len(told) == 13
    assert WINDOWS.generate(length=12) == [output]


@pytest.mark.parametrize("size", [1, 64])
def test_who_watches_fill_sees_whose_text_it_is(size):
    told: list[Shot] = []
    outputs = POEMS.fill(HOLED, seed=4, batch_size=size, watch=told_to(told))
    assert last(told) == dict(enumerate(output.text for output in outputs))
    assert sorted(row for shot in told if shot.level == 1 for row in shot.rows) == [0, 1, 2, 3]


def test_what_was_given_and_every_candidate_are_told():
    told: list[Shot] = []
    settings = {"form": "wuyan-jueju", "acrostic": "春_花_", "steps": 3}
    outputs = POEMS.generate(n=2, best_of=2, watch=told_to(told), **settings)
    assert sorted(last(told)) == [0, 1, 2, 3]
    assert all(shot.texts[0][0] == "春" for shot in told)
    for k, output in enumerate(outputs):
        assert output.text in (last(told)[2 * k], last(told)[2 * k + 1])


def test_candidates_and_keywords_of_filled_texts_are_told():
    told: list[Shot] = []
    texts = [HOLED[0].replace("霜", "_").replace("头", "_"), "□" * 20, HOLED[0]]
    outputs = POEMS.fill(texts, best_of=2, watch=told_to(told))
    for k, output in enumerate(outputs):
        assert output.text in (last(told)[2 * k], last(told)[2 * k + 1])
    told.clear()
    texts = [poem + "□" * 15 for poem in ("床前明月光", "举头望明月", "白日依山尽")]
    outputs = POEMS.fill(texts, keyword="鸟", watch=told_to(told))
    assert last(told) == dict(enumerate(output.text for output in outputs))


def test_sentences_are_told_letter_by_letter():
    told: list[Shot] = []
    texts = ["The cat _ on the mat.", "two _ _"]
    outputs = WORDS.fill(texts, watch=told_to(told))
    assert last(told) == dict(enumerate(output.text for output in outputs))


# -- on file --------------------------------------------------------------------------------------------------------------

HEADER = {"model": "tiny", "seeds": [0, 1], "settings": {"steps": None}}
SHOTS = (
    Shot((0, 1), ("□月\n", 'a "b" <c>&\u2028'), 1.0, (0, 0), ((), ())),
    Shot(
        (0, 1), ("明月\n", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")), 0.0, (1, 2), ((0,), (0,))
    ),
)


def write(path, header=HEADER, shots=SHOTS) -> str:
    with trace.recording(path, header) as record:
        for shot in shots:
            record(shot)
    return str(path)


def test_a_trace_comes_back_as_it_was_written(tmp_path):
    read = trace.read(write(tmp_path / "t.jsonl"))
    assert read.shots == SHOTS and read.header == {"trace": trace.FORMAT} | HEADER
    assert read.films() == {
        0: [("□月\n", (), 1.0, 0), ("明月\n", (0,), 0.0, 1)],
        1: [(SHOTS[0].texts[1], (), 1.0, 0), (SHOTS[1].texts[1], (0,), 0.0, 2)],
    }


def test_every_shot_is_on_file_before_the_next_one_is_drawn(tmp_path):
    path = tmp_path / "t.jsonl"
    with trace.recording(path, HEADER) as record:
        for k, shot in enumerate(SHOTS):
            assert trace.read(path).shots == SHOTS[:k] and path.read_text(encoding="utf-8").endswith("\n")
            record(shot)


def test_a_trace_cut_anywhere_behind_its_header_can_be_read(tmp_path):
    path = tmp_path / "t.jsonl"
    data = (write(path), path.read_bytes())[1]
    lines = data.splitlines(keepends=True)
    assert len(lines) == 3
    for stop in range(len(lines[0]), len(data) + 1):
        path.write_bytes(data[:stop])
        whole = data[:stop].count(b"\n") - 1
        assert trace.read(path).shots in (SHOTS[:whole], SHOTS[: whole + 1])


LINE = json.dumps({"rows": [0], "texts": ["ab"], "level": 0.5, "forwards": [1], "changed": [[0]]})


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "no JSON object"),
        ("[]", "no JSON object"),
        (LINE.replace('"rows"', '"row"'), "no 'rows'"),
        (LINE.replace('"ab"', "7"), "7 is no text"),
        (LINE.replace('"ab"', '"\\ud800"'), "no state of texts"),
        (LINE.replace("0.5", "2"), "level 2.0, expected 0 to 1"),
        (LINE.replace("0.5", "NaN"), "level nan"),
        (LINE.replace("[[0]]", "[[2]]"), "outside their text"),
        (LINE.replace("[[0]]", "[[-1]]"), "-1 is no count"),
        (LINE.replace("[[0]]", "[]"), "for each text"),
        (LINE.replace('"rows": [0]', '"rows": [0.5]'), "0.5 is no count"),
        ('{"rows": [], "texts": [], "level": 0, "forwards": [], "changed": []}', "for each text"),
    ],
)
def test_a_broken_line_is_named(line, what):
    head = json.dumps({"trace": 1})
    with pytest.raises(ValueError, match=r"line 3 .*" + re.escape(what)):
        trace.parse("\n".join([head, LINE, line, LINE, ""]))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty"),
        ("{", "empty"),
        ("poem\n", "line 1 is no JSON object"),
        ("{}\n", "without 'trace'"),
        ('{"trace": 9}\n', "format 9"),
    ],
)
def test_a_file_that_is_no_trace_is_told_so(text, what):
    with pytest.raises(ValueError, match=what):
        trace.parse(text)


def test_a_file_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        trace.read(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b'{"trace": 1}\n\xff\n')
    with pytest.raises(ValueError, match="line 2 is not UTF-8"):
        trace.read(tmp_path / "latin")
    with pytest.raises(OSError, match="cannot write the trace"), trace.recording(tmp_path, {}):
        pass


def test_a_hole_is_a_hole_everywhere():
    assert trace.HOLE == canvas.HOLE


# -- at a terminal --------------------------------------------------------------------------------------------------------


def lines(shot: Shot, width: int = 80, height: int = 24) -> list[str]:
    """What a terminal of that size shows."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(side_by_side(shot, width, height))
    return re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()


def poems(n: int) -> list[Shot]:
    return list(trace.shots(POEMS.stream(n=n, steps=5)))


def test_wide_characters_take_two_columns():
    assert columns("明月") == 4 and columns("moon") == 4 and columns("明a\n月") == 3 and columns("") == 0
    assert columns("□月") == 4  # a hole is as wide as its neighbours
    assert columns("□ oon") == 5


def test_a_poem_does_not_move_while_it_is_written():
    for shot in (shots := poems(3)):
        for line, first in zip(lines(shot)[:2], lines(shots[0])[:2], strict=True):
            assert cell_len(line) == cell_len(first) == 80
            at = [k for k, c in enumerate(first) if c in "，。"]
            assert [k for k, c in enumerate(line) if c in "，。"] == at and len(at) == 6


@pytest.mark.parametrize("width", [10, 24, 52, 80, 200])
@pytest.mark.parametrize("height", [3, 8, 40])
def test_as_many_poems_stand_side_by_side_as_fit(width, height):
    shot = poems(7)[-1]
    rows = lines(shot, width, height)
    assert all(cell_len(row) <= width for row in rows)
    if width >= 24:
        abreast = min(7, (width + 4) // 28)
        shown = min(7, abreast * max(1, (height - 1) // 3))
        text = " ".join(rows)
        assert [f"{7 - shown} more" in text] == [shown < 7]
        assert text.count("。") == 2 * shown and len(rows) <= height
        halves = [half for poem in shot.texts[:shown] for half in poem.split("\n")]
        assert all(half in text for half in halves)


def test_new_characters_are_marked_and_holes_are_dim():
    console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system="256")
    console.print(side_by_side(Shot((0,), ("明□[b]光",), 0.5, (1,), ((0, 5),)), 40, 10))
    shown = console.file.getvalue()
    marked, dim = re.findall(r"\x1b\[1;30;43m(.*?)\x1b\[0m", shown), re.findall(r"\x1b\[2m(.*?)\x1b\[0m", shown)
    assert marked == ["明", "光"] and dim[0] == "・" and "[b]" in shown


def test_a_live_display_shows_every_shot_and_leaves_nothing_behind():
    stream, shots = io.StringIO(), poems(2)
    console = Console(file=stream, force_terminal=True, width=80, height=24)
    with watching(stream, console=console) as look:
        for shot in shots:
            look(shot)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    for shot in shots:
        for half in shot.texts[1].replace("□", "・").split("\n"):
            assert half in shown
    assert shown.endswith("\x1b[2K") and sys.stdout is not stream
    with pytest.raises(ValueError, match="delay is -1"), watching(stream, -1):
        pass


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return saved(poem_model(form="wuyan-jueju"), tmp_path_factory.mktemp("models") / "poems")


@pytest.mark.parametrize("verb", [["generate", "-n", "5"], ["fill", *HOLED]])
@pytest.mark.parametrize("terminal", [True, False])
def test_watching_and_tracing_change_no_text(verb, terminal, model, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TERM", "xterm")
    words = [*verb, "--model", model, "--steps", "2", "--seed", "9", "--json"]
    assert cli.main(words) == 0
    expected = capsys.readouterr().out
    stream = Terminal() if terminal else io.StringIO()
    with contextlib.redirect_stderr(stream):
        assert cli.main([*words, "--watch", "--trace", str(tmp_path / "t.jsonl")]) == 0
    assert capsys.readouterr().out == expected
    texts = [json.loads(line)["text"] for line in expected.splitlines()]
    told = trace.read(tmp_path / "t.jsonl")
    assert last(list(told.shots)) == dict(enumerate(texts))
    assert told.header["seeds"] == [json.loads(line)["seed"] for line in expected.splitlines()]
    assert (told.header["process"], told.header["sampler"], told.header["settings"]["steps"]) == ("mask", "improved", 2)
    if terminal:
        assert "100%, 2 forwards" in stream.getvalue() and "\x1b[2K" in stream.getvalue()
    else:
        assert stream.getvalue() == "textdiff: --watch needs a terminal at stderr; going on without\n"


def test_the_bar_counts_poems_and_not_their_candidates(model, monkeypatch):
    class Bar(contextlib.nullcontext):
        done = 0

        def update(self, n: int = 1) -> None:
            self.done += n

        def __enter__(self) -> Bar:
            return self

    bars = []
    monkeypatch.setattr(
        "textdiff.cli.draw.progress_bar", lambda a, total, unit: bars.append((total, Bar())) or bars[-1][1]
    )
    assert cli.main(["generate", "-n", "3", "--best-of", "2", "--steps", "1", "--model", model]) == 0
    assert [(total, bar.done) for total, bar in bars] == [(3, 3)]


def test_a_trace_that_cannot_be_written_is_a_failure(model, capsys, tmp_path):
    assert cli.main(["generate", "--model", model, "--trace", str(tmp_path)]) == 1
    assert "cannot write the trace" in capsys.readouterr().err


def test_an_interrupted_run_leaves_its_states(model, capsys, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    kept = trace.shot
    calls = itertools.count()
    monkeypatch.setattr("textdiff.show.trace.shot", lambda *a, **k: stop() if next(calls) == 3 else kept(*a, **k))
    path = tmp_path / "t.jsonl"
    assert cli.main(["generate", "--model", model, "--steps", "5", "--trace", str(path)]) == 130
    assert len(trace.read(path).shots) == 3
