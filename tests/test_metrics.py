"""The metrics of poems: cases worked out by hand, laws, and generated beside real."""

from __future__ import annotations

import io
import json
import math
import socket
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from textdiff import cli
from textdiff.measure import metrics, report
from textdiff.measure.metrics import Association, Train
from textdiff.verse import forms as verse

FILE = Path(__file__).parents[1] / "data/poems.jsonl"
RECORDS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
POEMS = {
    form: [tuple(r["text"].split("\n")) for r in RECORDS if r["form"] == form]
    for form in ("wuyan-jueju", "qiyan-lushi")
}
QUATRAINS, OCTAVES = POEMS.values()
FIVES = verse.FORMS["wuyan-jueju"]


def ending(*words: str) -> tuple[str, ...]:
    """A poem whose even lines end in the words."""
    return tuple(line for word in words for line in ("山水花鸟雪", "风云竹松" + word))


def toned(opening: str, licensed: bool = False) -> tuple[str, ...]:
    """Five-character lines of these types, of 天 (level) and 月 (oblique)."""
    types = dict(verse.TYPES, **({"b": verse.LICENSED_B} if licensed else {}))
    return tuple("".join("月" if mark == "z" else "天" for mark in types[kind]) for kind in opening)


# -- poem by poem ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("poem", "vocabulary", "whole"),
    [
        (ending("天", "年"), None, 1),
        (ending("天", "年")[:3], None, 0),
        ((*ending("天", "年")[:3], "风云竹松"), None, 0),
        (ending("天", "a"), None, 0),
        (ending("天", "□"), None, 0),
        (ending("天", "𠮷"), None, 1),
        (ending("天", "年"), "山水花鸟雪风云竹松天年", 1),
        (ending("天", "年"), "山水花鸟雪风云竹松天", 0),
    ],
)
def test_format_is_lines_and_widths_and_chinese_characters(poem, vocabulary, whole):
    assert metrics.well_formed([poem], FIVES, vocabulary) == [whole]


@pytest.mark.parametrize(
    ("words", "level", "loose", "either", "share"),
    [
        ("东同", 1, 1, 1, 1),  # one group, 东
        ("东农", 0, 1, 0, 0.5),  # 东 and 冬 are neighbours
        ("东阳", 0, 0, 0, 0.5),
        ("月发", 0, 0, 1, 0),  # one oblique group
        ("东月", 0, 0, 0, 0.5),
        ("东同农月", 0, 0, 0, 0.5),
        ("园山", 0, 1, 0, 0.5),  # 元 goes with 寒删先
        ("园门", 1, 1, 1, 1),  # both 元
        ("园人", 0, 1, 0, 0.5),  # and with 真文
        ("东a", 0, 0, 0, 0.5),  # no reading, no rhyme
    ],
)
def test_rhyme(words, level, loose, either, share):
    poem = ending(*words)
    assert metrics.rhyme_level([poem]) == [level]
    assert metrics.rhyme_loose([poem]) == [loose]
    assert metrics.rhyme_all([poem]) == [either]
    assert metrics.rhyme_share([poem]) == [share]


def test_every_level_group_has_a_class_of_neighbours():
    assert len(metrics.NEIGHBOURS) == 14 and len(set("".join(metrics.NEIGHBOURS))) == 30


def test_rhyme_words_may_stand_once():
    assert metrics.rhyme_distinct([ending("东", "同"), ending("东", "东")]).tolist() == [1, 0]


def test_tones_of_a_perfect_a_licensed_and_a_broken_poem():
    broken = list(toned("aBbA"))
    broken[0] = "天天天天天"  # one position off A, ·z·pp, which comes nearer than a, ·z·pz
    poems = [toned("aBbA"), toned("aBbA", licensed=True), tuple(broken)]
    # 平平仄平仄 for ·p·zz: its fourth position is wrong
    assert metrics.tone_position(poems) == pytest.approx([1, 11 / 12, 11 / 12])
    assert metrics.tone_line(poems).tolist() == [1, 3 / 4, 3 / 4]
    assert metrics.tone_poem(poems).tolist() == [1, 0, 0]
    assert metrics.tone_line(poems, licensed=True).tolist() == [1, 1, 3 / 4]
    assert metrics.tone_poem(poems, licensed=True).tolist() == [1, 1, 0]


def test_regulated_is_tones_and_rhyme_and_no_rhyme_word_twice():
    good = list(toned("aBbA"))
    good[3] = good[3][:4] + "年"  # rhymes with 天
    twice = toned("aBbA")
    apart = [*good[:3], good[3][:4] + "东"]
    crooked = ["天天天天天", *good[1:]]
    assert metrics.regulated([tuple(p) for p in (good, twice, apart, crooked)]).tolist() == [1, 0, 0, 0]


def test_repetition_within_a_poem():
    poems = [("一二三四", "五六七八"), ("一一三四", "五六七三"), ("一二", "一二")]
    assert metrics.repeat_rate(poems).tolist() == [0, 1 / 4, 1 / 2]
    assert metrics.all_distinct(poems).tolist() == [1, 0, 0]
    assert metrics.same_line(poems).tolist() == [0, 0, 1]


# -- parallel lines -------------------------------------------------------------------------------------------------------

PAIRED = tuple(character * 5 for character in "甲乙山水花鸟甲乙")
FOREIGN = tuple(character * 5 for character in "甲乙云石木火甲乙")
OTHER = (*FOREIGN[:7], "丙丙丙丙丙")


def codes(text: str):
    return np.array([ord(c) for c in text], dtype=np.uint32)


def test_association_is_smoothed_pointwise_mutual_information():
    association = Association.learn([PAIRED] * 10 + [FOREIGN] * 30)  # 400 pairs, 50 of them 山 over 水
    got = association(codes("山云山山甲"), codes("水石石花水"))
    want = [60 / (50 * 50 / 400 + 10), 160 / (150 * 150 / 400 + 10), 10 / (50 * 150 / 400 + 10), 1, 1]
    assert got == pytest.approx(np.log(want))  # 花 stands only above, 甲 only in other couplets


def test_true_lower_lines_win_where_they_belong_together_and_lose_where_not():
    association = Association.learn([PAIRED] * 10 + [FOREIGN] * 10)
    assert metrics.parallel_accuracy([PAIRED], association, [FOREIGN, OTHER]) == [1]
    crossed = (*PAIRED[:3], FOREIGN[3], *PAIRED[4:])  # couplet 2 has a line of the foils: a tie
    assert metrics.parallel_accuracy([crossed], association, [FOREIGN, OTHER]) == [0.75]
    assert metrics.parallel_accuracy([PAIRED], association, [FOREIGN, OTHER], couplets=[0]) == [0.5]


def test_a_poem_is_not_its_own_foil():
    association = Association.learn([PAIRED] * 10 + [FOREIGN] * 10)
    assert metrics.parallel_accuracy([PAIRED, FOREIGN], association, [PAIRED, FOREIGN]).tolist() == [1, 1]


@pytest.mark.parametrize("poems", [[PAIRED, QUATRAINS[0]], QUATRAINS[:3], [PAIRED]])
def test_parallel_lines_want_octaves_and_others(poems):
    with pytest.raises(ValueError, match="one octave form"):
        metrics.parallel_accuracy(poems, Association.learn([PAIRED]), poems)


# -- copying --------------------------------------------------------------------------------------------------------------


def test_copying_by_hand():
    train = Train.index([("一二三四", "五六七八"), ("春夏秋冬", "一二三四"), ("东西南北", "四五六七")])
    poems = [
        ("一二三四", "龘龘龘龘"),  # a line of two poems
        ("四春夏秋", "冬一二三"),  # four 4-grams of one train poem, but over its own line's end
        ("春夏秋冬", "一二三四"),
        ("冬秋夏春", "八七六五"),
    ]
    assert metrics.copied_lines(poems, train).tolist() == [0.5, 0, 1, 0]
    assert metrics.copied_4grams(poems, train).tolist() == [0.5, 0, 1, 0]
    assert metrics.nearest_overlap(poems, train) == pytest.approx([1 / 5, 4 / 5, 1, 0])
    assert metrics.near_copies(poems, train).tolist() == [0, 1, 1, 0]
    assert metrics.exact(poems, train).tolist() == [0, 0, 1, 0]


def test_train_poems_are_found_in_train_and_others_are_not():
    train = Train.index(QUATRAINS[:20] + OCTAVES)
    for metric in (metrics.copied_lines, metrics.copied_4grams, metrics.nearest_overlap, metrics.exact):
        assert (metric(QUATRAINS[:20], train) == 1).all() and (metric(OCTAVES, train) == 1).all()
    assert not metrics.exact(QUATRAINS[20:], train).any()


# -- diversity ------------------------------------------------------------------------------------------------------------


def test_distinct_by_hand():
    poems = [("一二一二一",), ("一二", "三一")]
    assert metrics.distinct(poems, 1) == 3 / 9
    assert metrics.distinct(poems, 2) == 3 / 6  # 一二 thrice, 二一 twice, 三一; none over the line's end
    with pytest.raises(ValueError, match="no line has 6"):
        metrics.distinct(poems, 6)


def slow_self_bleu(poems, n):
    texts, scores = ["".join(poem) for poem in poems], []
    for k in range(len(texts)):
        logs = []
        for order in range(1, n + 1):
            grams = [Counter(t[i : i + order] for i in range(len(t) - order + 1)) for t in texts]
            clip = {g: max(o[g] for j, o in enumerate(grams) if j != k) for g in grams[k]}
            hits, total = sum(min(c, clip[g]) for g, c in grams[k].items()), sum(grams[k].values())
            logs.append(math.log((hits + (order > 1)) / (total + (order > 1))) if hits or order > 1 else -math.inf)
        scores.append(math.exp(sum(logs) / n))
    return scores


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_self_bleu_is_the_slow_one(n):
    poems = [*QUATRAINS[:12], QUATRAINS[0], ("山山山山山",) * 4, ("山山山山水",) * 4]
    assert metrics.self_bleu(poems, n) == pytest.approx(slow_self_bleu(poems, n))


def test_self_bleu_of_equal_and_of_strange_poems():
    assert metrics.self_bleu([QUATRAINS[0]] * 2, 4).tolist() == [1, 1]
    assert metrics.self_bleu([("一二",), ("三四",)], 2).tolist() == [0, 0]
    with pytest.raises(ValueError, match="two or more"):
        metrics.self_bleu(QUATRAINS[:1], 2)


def test_entropy_and_divergence_by_hand():
    assert metrics.entropy([("一二", "三四")]) == pytest.approx(math.log(4))
    assert metrics.entropy([("一一", "一一")]) == 0
    assert metrics.js_unigram([("一二",)], [("三四",)]) == pytest.approx(math.log(2))
    assert metrics.js_unigram([("一二",)], [("二一", "一二")]) == 0
    third = metrics.js_unigram([("一一",)], [("一二",)])  # m = (3/4, 1/4)
    assert third == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25) - math.log(2) / 2)
    with pytest.raises(ValueError, match="no poem"):
        metrics.entropy([])


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


def test_the_jackknife_of_a_mean_is_its_standard_error():
    poems = [(chr(0x4E00 + k) * (k % 7 + 1),) for k in range(400)]
    found = report._jackknife(lambda some: np.array([len(poem[0]) for poem in some]), poems)
    groups = np.array([[len(poem[0]) for poem in poems[k::20]] for k in range(20)]).mean(1)
    error = 2.093 * groups.std(ddof=1) / math.sqrt(20)
    assert (found.low, found.high) == pytest.approx((found.value - error, found.value + error))


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
