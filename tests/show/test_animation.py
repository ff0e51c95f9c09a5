"""Animations, read back: what they show is what was recorded, and no broken trace is shown."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import random
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops
from tiny import poem_model, window_model

from textdiff import cli
from textdiff.pipeline.text import Pipeline
from textdiff.show import animation, films, pictures, trace
from textdiff.show.trace import Shot, Trace

SVG = "{http://www.w3.org/2000/svg}"


def no_fonts(monkeypatch) -> None:
    monkeypatch.setattr(pictures, "_system_fonts", lambda wide: iter(()))


def has_chinese_font() -> bool:
    try:
        pictures.find_font("床前明月光")
    except ValueError:
        return False
    return True


UGLY = "a <b>&\"'\n</script><!--"

# -- animations -----------------------------------------------------------------------------------------------------------

POEMS = Pipeline(poem_model(form="wuyan-jueju"))
RUN = Trace({"trace": 1, "seeds": [0, 1, 2]}, tuple(trace.shots(POEMS.stream(n=3, steps=4))))
BATCHES = Trace(
    {"trace": 1, "model": "</script>"},
    (
        Shot((0, 2), ("□b\nc", UGLY), 1.0, (0, 0), ((), ())),
        Shot((0, 2), ("ab\nc", UGLY), 0.0, (1, 1), ((0,), ())),
        Shot((1,), ("□□ longer",), 1.0, (0,), ((),)),
        Shot((1,), ("x□ longer",), 0.5, (1,), ((0,),)),
        Shot((1,), ("xyz longer",), 0.0, (2,), ((1, 2),)),
    ),
)
WINDOWS = Pipeline(window_model())
RUNNING = Trace(
    {"trace": 1}, tuple(trace.shots(WINDOWS.stream(n=2, length=70, process="uniform", sampler="improved", steps=5)))
)
TRACES = pytest.mark.parametrize("whole", [RUN, BATCHES, RUNNING], ids=["poems", "batches", "running"])


class Data(HTMLParser):
    """The elements of a page, and what stands in those with an id."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.inside = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or ""

    def handle_data(self, data):
        self.texts[self.inside] = self.texts.get(self.inside, "") + data

    def handle_endtag(self, tag):
        self.inside = ""


@TRACES
def test_a_page_holds_the_trace_and_needs_nothing_else(whole):
    page = animation.html(whole, 0.5)
    read = Data()
    read.feed(page)
    lines = json.loads(read.texts["trace"])
    assert trace.parse("".join(json.dumps(line) + "\n" for line in lines)) == whole
    assert json.loads(read.texts["settings"]) == {"delay": 0.5, "rest": films.REST, "hole": "□"}
    assert [tag for tag, _ in read.tags].count("script") == page.count("<script") == page.count("</script") == 3
    assert not [a for _, attrs in read.tags for a in attrs if a in ("src", "href", "data") or a.startswith("on")]
    assert "http" not in page and "url(" not in page and "@import" not in page and "innerHTML" not in page


def seen(root: ElementTree.Element, share: float) -> list[tuple[float, float, str]]:
    """The labels (x, y, text) that can be seen at a share of the time, read as SVG says."""
    found = []
    for element in root.iter(f"{SVG}text"):
        state = element.get("visibility", "visible")
        move = element.find(f"{SVG}animate")
        if move is not None:
            values, times = move.get("values").split(";"), [float(t) for t in move.get("keyTimes").split(";")]
            assert len(values) == len(times) and times[0] == 0 and times == sorted(times) and times[-1] < 1
            assert move.get("calcMode") == "discrete" and move.get("repeatCount") == "indefinite"
            state = [value for value, t in zip(values, times, strict=True) if t <= share][-1]
        if state == "visible":
            text = "".join(element.itertext())
            found.append((float(element.get("y")), float(element.get("x")), text))
    return sorted(found)


@TRACES
@pytest.mark.parametrize("delay", [0.1, 1.0])
def test_at_every_time_the_svg_shows_the_texts_of_that_time(whole, delay):
    root = ElementTree.fromstring(animation.svg(whole, delay))
    courses = whole.films().values()
    length = max(map(len, courses))
    assert len(set(animation.svg(whole, delay).split("dur=")[1:2])) == 1
    clock = films.Clock(length + 1, delay)
    for time in range(length + 1):
        share = clock.share(time) + 0.5 * delay / clock.seconds
        shown = [text for _, _, text in seen(root, share)]
        texts = [film[min(time, len(film) - 1)] for film in courses]
        expected = "".join(text for text, *_ in texts)
        glyphs = sorted(c for text in shown if not text.endswith("forwards") for c in text)
        assert glyphs == sorted(c for c in expected if c.strip() and c != "□")
        assert sorted(text for text in shown if text.endswith("forwards")) == sorted(f"{t[3]} forwards" for t in texts)


def test_a_viewer_that_does_not_move_shows_the_end_in_order():
    root = ElementTree.fromstring(animation.svg(animation.first(RUN, 1)))
    still = sorted(
        (float(e.get("y")), float(e.get("x")), "".join(e.itertext()))
        for e in root.iter(f"{SVG}text")
        if e.get("visibility") != "hidden"
    )
    assert "".join(text for *_, text in still) == RUN.shots[-1].texts[0].replace("\n", "") + "4 forwards"


def test_new_characters_are_marked_for_one_state():
    root = ElementTree.fromstring(animation.svg(BATCHES, 1.0))
    marks = [box for box in root.iter(f"{SVG}rect") if box.get("fill") == animation.HOT]
    assert len(marks) == sum(len(places) for shot in BATCHES.shots for places in shot.changed) == 4
    for mark in marks:
        values, times = (mark.find(f"{SVG}animate").get(name).split(";") for name in ("values", "keyTimes"))
        assert values[-2:] == ["visible", "hidden"] and mark.get("visibility") == "hidden"
        assert float(times[-1]) - float(times[-2]) == pytest.approx(1 / (3 + films.REST), abs=1e-4)


def test_a_gif_has_a_frame_for_each_state_and_one_for_the_end(monkeypatch):
    no_fonts(monkeypatch)
    gif = Image.open(io.BytesIO(animation.gif(RUNNING, 0.1)))
    assert gif.n_frames == len(RUNNING.shots) + 1 and gif.info["loop"] == 0
    frames, times = [], []
    for k in range(gif.n_frames):
        gif.seek(k)
        frames.append(gif.convert("RGB"))
        times.append(gif.info["duration"])
    assert times == [100] * len(RUNNING.shots) + [2000]
    for before, after in itertools.pairwise(frames):
        assert len(after.getcolors(2**20)) > 3 and ImageChops.difference(before, after).getbbox()


def test_a_gif_marks_what_is_new(monkeypatch):
    no_fonts(monkeypatch)
    gif = Image.open(io.BytesIO(animation.gif(BATCHES)))
    hot = tuple(int(animation.HOT[k : k + 2], 16) for k in (1, 3, 5))
    marked = []
    for k in range(gif.n_frames):
        gif.seek(k)
        near = [
            n
            for n, c in gif.convert("RGB").getcolors(2**20)
            if all(abs(a - b) < 9 for a, b in zip(c, hot, strict=True))
        ]
        marked.append(sum(near) > 100)
    assert marked == [False, True, True, False]


@pytest.mark.skipif(not has_chinese_font(), reason="no font with Chinese characters on this system")
def test_a_gif_of_poems():
    gif = Image.open(io.BytesIO(animation.gif(RUN)))
    assert gif.n_frames == len(RUN.shots) + 1


def test_the_first_texts_of_a_trace():
    assert animation.first(BATCHES, 3) == BATCHES
    assert animation.first(BATCHES, 1).films() == {0: BATCHES.films()[0]}
    with pytest.raises(ValueError, match="n is 0"):
        animation.first(BATCHES, 0)


@pytest.mark.parametrize("make", [animation.html, animation.svg, animation.gif])
def test_what_cannot_be_shown_is_told(make):
    with pytest.raises(ValueError, match="no states to show"):
        make(Trace({}, ()))
    for delay in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="delay is"):
            make(BATCHES, delay)


# -- the verbs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "t.jsonl"
    with trace.recording(path, BATCHES.header) as record:
        for shot in BATCHES.shots:
            record(shot)
    return str(path)


def test_animate_writes_what_the_name_asks_for(file, capsys, tmp_path, monkeypatch):
    no_fonts(monkeypatch)
    for kind, begin in (("html", b"<!DOCTYPE html>"), ("svg", b"<svg"), ("GIF", b"GIF89a")):
        out = tmp_path / f"x.{kind}"
        assert cli.main(["animate", file, "--out", str(out), "-n", "2"]) == 0
        assert out.read_bytes().startswith(begin)
    assert cli.main(["animate", file, "--out", "x.mp4"]) == 2
    assert ".html, .svg or .gif" in capsys.readouterr().err


def test_animate_names_the_line_that_is_broken(file, capsys, tmp_path):
    with Path(file).open("a") as stream:
        stream.write("{}\n")
    assert cli.main(["animate", file, "--out", str(tmp_path / "x.svg")]) == 2
    assert "line 7 has no 'rows'" in capsys.readouterr().err and not (tmp_path / "x.svg").exists()


def test_animate_loads_no_torch(file, tmp_path):
    code = (
        "import sys; from textdiff import cli;"
        f"assert cli.main(['animate', {file!r}, '--out', {str(tmp_path / 'x.html')!r}]) == 0;"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- broken traces --------------------------------------------------------------------------------------------------------


HEAD, LINE = (
    json.dumps(value)
    for value in ({"trace": 1}, {"rows": [0], "texts": ["ab"], "level": 0.5, "forwards": [1], "changed": [[0]]})
)
IMAGES = json.dumps({"trace": 1, "images": True})
HUGE = "iVBORw0KGgoAAAANSUhEUgABhqAAAYagCAAAAAD/////"  # the head of a PNG of 100,000 by 100,000 pixels
HOSTILE = {
    "nothing": "",
    "a NUL": "\0",
    "a NUL in a text": LINE.replace("ab", "a\0b"),
    "deep lists": "[" * 50_000,
    "deep objects": '{"a":' * 50_000,
    "a level that is too large for a float": LINE.replace("0.5", "1" + "0" * 400),
    "a level that is a word": LINE.replace("0.5", '"0.5"'),
    "a number of 10,000 digits": LINE.replace("[1]", "[" + "9" * 10_000 + "]"),
    "texts that are one text": LINE.replace('["ab"]', '"a"'),
    "no texts": LINE.replace('["ab"]', "null"),
    "a long wrong value": LINE.replace('["ab"]', json.dumps([{"x": "y" * 100_000}])),
    "half a pair": LINE.replace("ab", "\\ud800"),
}


def animate(tmp_path, capsys, data: bytes, kind: str) -> tuple[int, str]:
    (tmp_path / "t.jsonl").write_bytes(data)
    code = cli.main(["animate", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / f"x.{kind}")])
    err = capsys.readouterr().err
    assert code in (0, 2) and err.count("\n") == (code == 2) and "Error" not in err and len(err) < 600, err[:600]
    assert (tmp_path / f"x.{kind}").exists() == (code == 0) and not list(tmp_path.glob(".*"))
    (tmp_path / f"x.{kind}").unlink(missing_ok=True)
    return code, err


@pytest.mark.parametrize("head", [HEAD, IMAGES], ids=["texts", "images"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_trace_is_refused_in_one_line_or_shown(name, head, tmp_path, capsys, monkeypatch):
    no_fonts(monkeypatch)
    for kind in films.KINDS:
        code, _ = animate(tmp_path, capsys, f"{head}\n{LINE}\n{HOSTILE[name]}\n".encode(), kind)
        if head == IMAGES or (name not in ("nothing", "a NUL in a text") and "too" not in name):
            assert code == 2


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ('{"trace": 1, "x": "\\ud800"}', "surrogate"),
        ('{"trace": 1, "x": NaN}', "JSON"),
        ('{"trace": 1, "x": ' + "[" * 900 + "]" * 900 + "}", ""),
    ],
)
def test_a_header_that_no_page_can_hold_is_refused(header, says, tmp_path, capsys):
    code, err = animate(tmp_path, capsys, f"{header}\n{LINE}\n".encode(), "html")
    assert (code == 2 and says in err) or not says


def test_images_of_any_size_are_not_unpacked(tmp_path, capsys):
    line = LINE.replace("ab", HUGE).replace("[[0]]", "[[]]")
    code, err = animate(tmp_path, capsys, f"{IMAGES}\n{line}\n".encode(), "svg")
    assert code == 2 and "no PNG image" in err


def test_what_is_too_large_for_a_gif_is_refused_before_it_is_drawn(tmp_path, capsys, monkeypatch):
    no_fonts(monkeypatch)
    long = LINE.replace("ab", "a" + "\\n" * 2000 + "b")
    code, err = animate(tmp_path, capsys, f"{HEAD}\n{long}\n".encode(), "gif")
    assert code == 2 and "too much for a GIF" in err and "-n" in err


@pytest.mark.parametrize("images", [False, True])
def test_damaged_bytes_never_show_an_exception(images, tmp_path, capsys):
    draw = random.Random(7)
    header: dict[str, object] = {"trace": 1}
    shots = BATCHES.shots
    if images:
        mosaic = pytest.importorskip("textdiff.show.mosaic")
        header["images"] = True
        shots = [mosaic.shot(torch.zeros(2, 1, 4, 4), [0, 1], 1 - k / 2, [k, k]) for k in range(3)]
    lines = [header, *map(dataclasses.asdict, shots)]
    whole = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    assert animate(tmp_path, capsys, whole, "svg")[0] == 0
    for k in range(30):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            begin = draw.randrange(len(data))
            data[begin : begin + draw.choice([0, 1, 1, 30])] = draw.randbytes(draw.choice([0, 1, 1, 8]))
        animate(tmp_path, capsys, bytes(data), ("svg", "html")[k % 2])
