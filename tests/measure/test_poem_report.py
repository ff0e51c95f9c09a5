"""Generated poems beside real ones: what a comparison holds, through `evaluate` and the command line, too."""

from __future__ import annotations

import io
import json
import math
import socket
import sys
from pathlib import Path

import pytest

from textdiff import cli
from textdiff.measure import intervals
from textdiff.measure import poem_report as report
from textdiff.measure import poems as metrics

FILE = Path(__file__).parents[2] / "data/poems.jsonl"
RECORDS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
POEMS = {
    form: [tuple(r["text"].split("\n")) for r in RECORDS if r["form"] == form]
    for form in ("wuyan-jueju", "qiyan-lushi")
}
QUATRAINS, OCTAVES = POEMS.values()


def ending(*words: str) -> tuple[str, ...]:
    """A poem whose even lines end in the words."""
    return tuple(line for word in words for line in ("山水花鸟雪", "风云竹松" + word))


# -- side by side ---------------------------------------------------------------------------------------------------------


def sorted_poems(**poems) -> report.Poems:
    return report.Poems({name.replace("_", "-"): found for name, found in poems.items()}, {})


@pytest.fixture(scope="module")
def known() -> report.Background:
    return report.Background.of(
        QUATRAINS[:10] + OCTAVES[:6], {"wuyan-jueju": QUATRAINS[10:20], "qiyan-lushi": OCTAVES[6:]}
    )


@pytest.mark.parametrize("form", POEMS)
def test_the_order_of_the_poems_does_not_matter(form, known):
    poems, others = POEMS[form], known.validation[form]
    one, other = (report.measure(some, known, others) for some in (poems, poems[::-1]))
    assert (
        set(one)
        == set(other)
        == {row.name for row in report.ROWS} - ({"parallel_accuracy"} if form == "wuyan-jueju" else set())
    )
    for name in one:
        assert one[name].value == pytest.approx(other[name].value), name


def test_a_file_beside_itself_is_the_same(known):
    poems = sorted_poems(wuyan_jueju=QUATRAINS[10:], qiyan_lushi=OCTAVES[6:])
    found = report.compare(poems, poems, known)
    assert [one.form for one in found] == ["wuyan-jueju", "qiyan-lushi"]
    for one in found:
        assert one.generated == one.real and not one.alarms()


def test_intervals_hold_their_values(known):
    for name, one in report.measure(QUATRAINS, known, QUATRAINS[10:20]).items():
        assert one.n == len(QUATRAINS)
        assert one.low is None or one.low - 1e-12 <= one.value <= one.high + 1e-12, name


def test_the_interval_of_a_mean_is_the_textbook_one():
    found = report.measure([ending("东", "同")] * 30 + [ending("东", "阳")] * 70, report.Background(), [])[
        "rhyme_share"
    ]
    error = 1.96 * math.sqrt(0.3 * 0.7 / 99) / 2  # of values 1 and ½
    assert (found.value, found.low, found.high) == pytest.approx((0.65, 0.65 - error, 0.65 + error), abs=1e-4)


def test_a_number_of_the_whole_list_has_the_jackknifes_interval():
    poems = (QUATRAINS * 2)[:45]
    found = report.measure(poems, report.Background(), [])["distinct_1"]
    values = [metrics.distinct([p for i, p in enumerate(poems) if i % 20 != k], 1) for k in range(20)]
    assert (found.value, found.low, found.high) == intervals.jackknife(metrics.distinct(poems, 1), values)


def test_copies_of_train_raise_an_alarm(known):
    (one,) = report.compare(sorted_poems(wuyan_jueju=QUATRAINS[:10]), sorted_poems(wuyan_jueju=QUATRAINS[20:]), known)
    assert one.generated["exact"].value == one.generated["near_copies"].value == 1
    alarms = " ".join(one.alarms())
    assert (
        "copied_lines is 1.000" in alarms and "copied_4grams is 1.000" in alarms and "10 of 10 poems are near" in alarms
    )


def test_malformed_poems_count_in_format_alone():
    text = "\n".join(QUATRAINS[0])
    broken = ["", text[:-1], text.replace("\n", "x"), None, text[:-1] + "\n"]
    records = [{"text": text, "form": "wuyan-jueju"}, *({"text": t, "form": "五绝"} for t in broken)]
    found = report.Poems.sort(records)
    assert found.whole == {"wuyan-jueju": [QUATRAINS[0]]} and found.malformed == {"wuyan-jueju": len(broken)}
    (one,) = report.compare(found, sorted_poems(wuyan_jueju=QUATRAINS), report.Background())
    assert one.generated["format"].value == 1 / (1 + len(broken)) and one.generated["rhyme_level"].n == 1


def test_a_text_of_no_form_is_malformed_where_the_form_is_clear_and_counted_apart_where_not():
    one, other = ({"text": "\n".join(poem)} for poem in (QUATRAINS[0], OCTAVES[0]))
    strange = {"text": "明月"}
    assert report.Poems.sort([one, strange]).malformed == {"wuyan-jueju": 1}
    mixed = report.Poems.sort([one, other, strange])
    assert (mixed.malformed, mixed.formless) == ({}, 1)
    assert "1 samples have the shape of no form" in report.alarms([], mixed)[0]


def test_only_malformed_samples_are_still_a_comparison():
    bad = report.Poems({}, {"wuyan-jueju": 3})
    (one,) = report.compare(bad, sorted_poems(wuyan_jueju=QUATRAINS), report.Background())
    assert one.generated["format"].value == 0 and set(one.generated) == {"format"} and " - " in report.table(one)


def test_lists_are_compared_at_equal_length(known):
    (one,) = report.compare(sorted_poems(wuyan_jueju=QUATRAINS[:15]), sorted_poems(wuyan_jueju=QUATRAINS), known)
    assert one.first == one.generated["distinct_2"].n == one.real["distinct_2"].n == one.real["entropy"].n == 15
    assert one.real["rhyme_level"].n == len(QUATRAINS)


# -- through `evaluate`, and the command line -----------------------------------------------------------------------------


def test_the_metric_class_gives_the_same_without_a_network(known, monkeypatch, tmp_path):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection"))
    from textdiff.measure.hf_metrics import PoemMetrics

    ours, theirs = QUATRAINS[:12], QUATRAINS[12:24]
    texts = [["\n".join(poem) for poem in side] for side in (ours, theirs)]
    metric = PoemMetrics(cache_dir=str(tmp_path))
    got = metric.compute(predictions=texts[0], references=texts[1], background=known)
    (one,) = report.compare(sorted_poems(wuyan_jueju=ours), sorted_poems(wuyan_jueju=theirs), known)
    assert got == {f"wuyan-jueju/{name}": m.value for name, m in one.generated.items()} | {
        f"wuyan-jueju/real/{name}": m.value for name, m in one.real.items()
    }
    assert metric.compute(predictions=texts[0], references=texts[1])["wuyan-jueju/rhyme_level"] >= 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def write(name, poems):
        Path(name).write_text(
            "".join(json.dumps({"text": "\n".join(poem)}, ensure_ascii=False) + "\n" for poem in poems),
            encoding="utf-8",
        )

    write("ours", QUATRAINS[:10] + OCTAVES[:4])
    write("real", QUATRAINS[10:] + OCTAVES[4:])
    write("fives", QUATRAINS)

    def call(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = cli.main(["evaluate", *words])
        return code, *capsys.readouterr()

    return call


def test_the_verb_prints_generated_beside_real(run):
    code, out, err = run("--samples", "ours", "--reference", "real")
    assert (code, err) == (0, "")
    blocks = out.split("\n\n")
    assert [block.split(":")[0] for block in blocks] == ["wuyan-jueju", "qiyan-lushi"]
    assert "10 generated" in blocks[0] and "first 10 of each" in blocks[0] and "regulated" in blocks[0]
    assert "copied" not in out and "js_unigram" not in out and "fluency" not in out  # nothing to hold them against


def test_the_verb_takes_train_and_validation_and_warns_of_copies(run):
    words = ("--samples", "ours", "--reference", "real", "--train", "ours", "--validation", "real", "--json")
    code, out, err = run(*words)
    assert code == 0 and err.count("textdiff: warning: ") == len(json.loads(out)["alarms"]) == 6
    rows = json.loads(out)["forms"]["qiyan-lushi"]["metrics"]
    assert rows["exact"]["generated"]["value"] == 1 and rows["exact"]["real"]["value"] == 0
    assert set(rows) == {"format", *(row.name for row in report.ROWS)}
    assert run(*words, "--out", "report.json")[:2] == (0, "") and Path("report.json").read_text() == out


def test_plain_text_and_stdin_are_read_too(run):
    text = "\n\n".join("\n".join(poem) for poem in QUATRAINS[:10])
    plain = run("--samples", "-", "--reference", "fives", "--json", stdin=text)
    assert plain[0] == 0 and json.loads(plain[1])["forms"]["wuyan-jueju"]["first"] == 10


def test_the_comparison_is_plotted(run):
    assert run("--samples", "ours", "--reference", "real", "--plot", "one.png")[0] == 0
    assert Path("one.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "pass FILE, or both --samples"),
        (["--samples", "ours"], "both --samples FILE and --reference"),
        (["--train", "ours"], "both --samples FILE and --reference"),
        (["ours", "--samples", "ours", "--reference", "real"], "beside --samples"),
        (["--samples", "absent", "--reference", "real"], "'absent' cannot be read"),
        (["--samples", "ours", "--reference", "real", "--plot", "x.gif"], "ending in"),
        (["--samples", "ours", "--reference", "real", "--plot", "no/x.png"], "in a folder that is there"),
        (["--samples", "ours", "--reference", "real", "--validation", "fives"], "no poems of qiyan-lushi"),
    ],
)
def test_what_was_asked_wrongly_exits_2_with_one_line(run, words, says):
    code, out, err = run(*words)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1


def test_forms_that_meet_nowhere_are_an_error(run):
    Path("octaves").write_text("\n".join("".join(poem) for poem in OCTAVES), encoding="utf-8")
    code, _, err = run("--samples", "fives", "--reference", "octaves")
    assert code == 2 and "pass poems of the same form" in err


def test_a_plot_without_matplotlib_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    code, _, err = run("--samples", "ours", "--reference", "real", "--plot", "one.png")
    assert code == 2 and "pip install 'textdiff[plot]'" in err and not Path("one.png").exists()
