"""The metrics of poems: cases worked out by hand, laws, and generated beside real."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from textdiff.measure import poems as metrics
from textdiff.measure.grams import SYMBOLS, alphabet_of
from textdiff.measure.poems import Association, Train
from textdiff.verse import forms as verse
from textdiff.verse import sounds
from textdiff.verse.checker import check

FILE = Path(__file__).parents[2] / "data/poems.jsonl"
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


@pytest.mark.parametrize(("words", "neighbours"), [("杯飞", True), ("东农", True), ("东阳", False)])
def test_rhymes_are_neighbours_to_the_metric_and_to_the_checker_alike(words, neighbours):
    poem = ending(*words)
    assert metrics.rhyme_loose([poem]) == [neighbours]
    assert check("".join(poem)).rhyme.neighbours is neighbours


def test_every_level_group_has_a_class_of_neighbours():
    assert len(sounds.NEIGHBOURS) == 14 and len(set("".join(sounds.NEIGHBOURS))) == 30


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
        ("一二三四", "五龘龘龘"),  # two of five, which is as much as a near copy needs
    ]
    assert metrics.copied_lines(poems, train).tolist() == [0.5, 0, 1, 0, 0.5]
    assert metrics.copied_4grams(poems, train).tolist() == [0.5, 0, 1, 0, 0.5]
    assert metrics.nearest_overlap(poems, train) == pytest.approx([1 / 5, 4 / 5, 1, 0, 2 / 5])
    assert metrics.near_copies(poems, train).tolist() == [0, 1, 1, 0, 1]
    assert metrics.exact(poems, train).tolist() == [0, 0, 1, 0, 0]


def test_train_poems_are_found_in_train_and_others_are_not():
    train = Train.index(QUATRAINS[:20] + OCTAVES)
    for metric in (metrics.copied_lines, metrics.copied_4grams, metrics.nearest_overlap, metrics.exact):
        assert (metric(QUATRAINS[:20], train) == 1).all() and (metric(OCTAVES, train) == 1).all()
    assert not metrics.exact(QUATRAINS[20:], train).any()


def test_more_characters_than_fit_are_refused():
    every = "".join(map(chr, range(0x20000, 0x20000 + SYMBOLS)))
    assert alphabet_of([(every[1:],)]).max() == SYMBOLS - 1
    with pytest.raises(ValueError, match="65536 different characters"):
        alphabet_of([(every,)])


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
