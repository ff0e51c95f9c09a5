"""From a source to training data."""

import gzip
import hashlib
import json
import random
import sys
from collections import Counter

import pytest

from textdiff import cli
from textdiff.core.errors import AskedError
from textdiff.data import corpus
from textdiff.verse import forms as verse
from textdiff.verse import sounds

ALPHABET = list(sounds._table())[:3000]


def poem(seed: int, form: str = "qiyan-jueju", alphabet: list[str] = ALPHABET) -> str:
    shape = verse.get_form(form)
    draw = random.Random(f"{form} {seed}")
    return "\n".join("".join(draw.choices(alphabet, k=shape.width)) for _ in range(shape.lines))


def jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


def rows(folder, part):
    with gzip.open(folder / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def texts(folder):
    return {row["text"] for part in corpus.PARTS for row in rows(folder, part)}


def grams(lines):
    return {line[i : i + 4] for line in lines for i in range(len(line) - 3)}


def near(a, b):
    """The definition, pair by pair."""
    if len(grams(a) & grams(b)) >= 0.4 * min(len(grams(a)), len(grams(b))) - 1e-9:
        return True
    x, y = "".join(a), "".join(b)
    same_form = [len(line) for line in a] == [len(line) for line in b]
    return same_form and sum(c == d for c, d in zip(x, y, strict=True)) >= 0.6 * len(x) - 1e-9


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A small clone of chinese-poetry: traditional characters, punctuation, and every kind of misfit."""
    pytest.importorskip("opencc")
    folder = tmp_path_factory.mktemp("clone") / "全唐诗"
    folder.mkdir()
    good = ["遠上寒山石徑斜，白雲生處有人家。", "停車坐愛楓林晚，霜葉紅於二月花。"]
    tang = [
        {"author": "杜牧", "title": "山行", "paragraphs": good},
        {"author": "無名氏", "title": "再錄", "paragraphs": [good[0].replace("生處", "深處"), good[1]]},
        {"author": "無名氏", "title": "缺字", "paragraphs": [good[0].replace("人", "□"), good[1]]},
        {"author": "無名氏", "title": "有注", "paragraphs": [good[0] + "（一作深處）", good[1]]},
        {"author": "無名氏", "title": "四言", "paragraphs": ["關關雎鳩，在河之洲。", "窈窕淑女，君子好逑。"]},
    ]
    song = [
        {"author": "王安石", "title": "梅花", "paragraphs": ["牆角數枝梅，凌寒獨自開。", "遙知不是雪，爲有暗香來。"]}
    ]
    song += [{"author": "無名氏", "title": "重出", "paragraphs": good}]
    (folder / "poet.tang.0.json").write_text(json.dumps(tang), encoding="utf-8")
    (folder / "poet.song.0.json").write_text(json.dumps(song), encoding="utf-8")
    (folder / "authors.tang.json").write_text("[]", encoding="utf-8")
    return folder.parent


def test_a_clone_becomes_simplified_poems_and_every_misfit_is_counted(clone, tmp_path):
    report = corpus.prepare(clone, tmp_path / "out")
    assert texts(tmp_path / "out") == {
        "远上寒山石径斜\n白云生处有人家\n停车坐爱枫林晚\n霜叶红于二月花",
        "墙角数枝梅\n凌寒独自开\n遥知不是雪\n为有暗香来",
    }
    assert report.records == 7 and report.kept == 2
    assert {reason: n for reason, n in report.rejected.items() if n} == {
        "shape": 2, "not_chinese": 1, "exact_repeats": 1, "near_repeats": 1
    }  # fmt: skip
    titles = {row["title"]: row["dynasty"] for part in corpus.PARTS for row in rows(tmp_path / "out", part)}
    assert titles == {"山行": "tang", "梅花": "song"}


def test_every_record_is_kept_or_rejected_for_one_reason(tmp_path):
    source = jsonl(
        tmp_path / "in.jsonl", [poem(i % 90, form) for i in range(120) for form in verse.FORMS] + ["天", "□" * 20]
    )
    report = corpus.prepare(source, tmp_path / "out")
    assert report.records == report.kept + sum(report.rejected.values()) == 482
    assert report.rejected["exact_repeats"] == 120
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert stats == report.stats()


def test_the_output_is_the_same_bytes_every_time_and_in_any_order(tmp_path):
    poems = [poem(i) for i in range(100)]
    for name, order in (("a", poems), ("b", poems), ("c", poems[::-1])):
        corpus.prepare(jsonl(tmp_path / f"{name}.jsonl", order), tmp_path / name)
    digests = {
        name: {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted((tmp_path / name).iterdir())}
        for name in "abc"
    }
    assert digests["a"] == digests["b"] == digests["c"]
    assert set(digests["a"]) == {"train.jsonl.gz", "validation.jsonl.gz", "test.jsonl.gz", "vocab.tsv", "stats.json"}


def test_a_text_keeps_its_part_whatever_stands_beside_it(tmp_path):
    few, many = [poem(i) for i in range(60)], [poem(i) for i in range(300)]
    corpus.prepare(jsonl(tmp_path / "few.jsonl", few), tmp_path / "few")
    corpus.prepare(jsonl(tmp_path / "many.jsonl", many), tmp_path / "many")
    for part in corpus.PARTS:
        assert {row["text"] for row in rows(tmp_path / "few", part)} <= {
            row["text"] for row in rows(tmp_path / "many", part)
        }


def test_the_shares_are_met(tmp_path):
    n = 2000
    report = corpus.prepare(jsonl(tmp_path / "in.jsonl", [poem(i) for i in range(n)]), tmp_path / "out", test=0.2)
    for part, share in (("train", 0.75), ("validation", 0.05), ("test", 0.2)):
        assert abs(report.parts[part]["all"] - share * n) < 5 * (share * (1 - share) * n) ** 0.5  # five standard errors


def test_the_vocabulary_counts_train_alone(tmp_path):
    corpus.prepare(jsonl(tmp_path / "in.jsonl", [poem(i) for i in range(200)]), tmp_path / "out")
    counts = Counter(c for row in rows(tmp_path / "out", "train") for c in row["text"] if c != "\n")
    table = [line.split("\t") for line in (tmp_path / "out" / "vocab.tsv").read_text(encoding="utf-8").splitlines()]
    assert {c: int(n) for c, n in table} == counts
    assert [int(n) for _, n in table] == sorted(counts.values(), reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_near_repeats_are_those_of_the_definition(seed):
    draw = random.Random(seed)
    poems = [poem(1000 * seed + i, draw.choice(list(verse.FORMS)), ALPHABET[:60]).split("\n") for i in range(60)]
    for _ in range(120):  # relatives at every distance: changed characters, borrowed lines
        lines = list(draw.choice(poems))
        for _ in range(draw.randrange(1, 20)):
            k, i = draw.randrange(len(lines)), draw.randrange(len(lines[0]))
            lines[k] = lines[k][:i] + draw.choice(ALPHABET[:60]) + lines[k][i + 1 :]
        donor = draw.choice(poems)
        for k in draw.sample(range(4), draw.randrange(3)):
            if len(donor[0]) == len(lines[0]):
                lines[k] = donor[k]
        poems.insert(draw.randrange(len(poems) + 1), lines)
    expected = []
    for i, lines in enumerate(poems):
        expected.append(any(near(lines, poems[j]) for j in range(i) if not expected[j]))
    assert 20 < sum(expected) < len(poems) - 20
    assert corpus.near_repeats(poems).tolist() == expected


def test_a_held_out_poem_of_borrowed_lines_is_dropped(tmp_path):
    poems = [poem(i, "wuyan-lushi") for i in range(300)]
    train = corpus.split([corpus.Poem("", text) for text in poems], 0.3, 0.3)["train"]
    collages = ["\n".join(train[8 * i + k].lines[k] for k in range(8)) for i in range(len(train) // 8)]
    report = corpus.prepare(jsonl(tmp_path / "in.jsonl", poems + collages), tmp_path / "out", validation=0.3, test=0.3)
    assert report.rejected["validation_in_train"] + report.rejected["test_in_train"] > 0
    in_train = {line for row in rows(tmp_path / "out", "train") for line in row["text"].split("\n")}
    for part in ("validation", "test"):
        for row in rows(tmp_path / "out", part):
            assert 2 * sum(line in in_train for line in row["text"].split("\n")) < 8


@pytest.mark.parametrize("separator", ["\n", "\n\n", "\n \n"])
def test_text_files_hold_one_text_a_line_or_blocks(tmp_path, separator):
    form = verse.get_form("七绝")
    poems = [form.split(poem(i)) for i in range(5)]
    written = ["".join(lines) if separator == "\n" else form.layout(lines) for lines in poems]
    path = tmp_path / "in.txt"
    path.write_text(separator.join(written) + "\n", encoding="utf-8")
    assert [corpus.regular(record).lines for record in corpus.read(path)] == poems


def test_compressed_lines_read_like_plain_ones(tmp_path):
    plain = jsonl(tmp_path / "in.jsonl", [poem(1), poem(2)])
    with gzip.open(tmp_path / "in.jsonl.gz", "wb") as file:
        file.write(plain.read_bytes())
    assert list(corpus.read(plain)) == list(corpus.read(tmp_path / "in.jsonl.gz"))


def test_only_the_wanted_forms_are_kept(tmp_path):
    source = jsonl(tmp_path / "in.jsonl", [poem(i, form) for i in range(20) for form in verse.FORMS])
    report = corpus.prepare(source, tmp_path / "out", forms=["五绝", "qiyan-lushi"])
    assert report.rejected["form_not_wanted"] == 40
    assert {row["form"] for part in corpus.PARTS for row in rows(tmp_path / "out", part)} == {
        "wuyan-jueju",
        "qiyan-lushi",
    }


def test_simplified_text_passes_without_opencc_and_traditional_text_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opencc", None)  # as if not installed
    corpus._converter.cache_clear()
    try:
        report = corpus.prepare(jsonl(tmp_path / "in.jsonl", [poem(i) for i in range(20)]), tmp_path / "out")
        assert report.kept == 20
        traditional = jsonl(tmp_path / "trad.jsonl", ["牆角數枝梅，凌寒獨自開。遙知不是雪，爲有暗香來。"])
        with pytest.raises(ImportError, match=r"pip install textdiff\[zh\]"):
            corpus.prepare(traditional, tmp_path / "trad")
        assert corpus.prepare(traditional, tmp_path / "trad", simplify=False).kept == 1
    finally:
        corpus._converter.cache_clear()


def test_nothing_is_written_when_something_is_wrong(tmp_path):
    out = tmp_path / "out"
    source = jsonl(tmp_path / "in.jsonl", [poem(1)])
    bad = tmp_path / "bad.jsonl"
    bad.write_text(source.read_text(encoding="utf-8") + '{"txt": "天"}\n', encoding="utf-8")
    for path, error, message in (
        (tmp_path / "absent.jsonl", AskedError, "absent"),
        (tmp_path, AskedError, "chinese-poetry"),
        (bad, ValueError, r"bad\.jsonl' line 2.*'text'"),
        (jsonl(tmp_path / "none.jsonl", ["天地"]), ValueError, "none is a poem of the form"),
    ):
        with pytest.raises(error, match=message):
            corpus.prepare(path, out)
    for validation, test in ((0.6, 0.5), (-0.1, 0.5), (0.05, float("nan")), (float("nan"), 0.05)):
        with pytest.raises(ValueError, match="leave nothing for train"):
            corpus.prepare(source, out, validation=validation, test=test)
    with pytest.raises(ValueError, match="did you mean"):
        corpus.prepare(source, out, forms=["七言诀句"])
    assert not out.exists()


GOOD = {"author": "王安石", "title": "梅花", "paragraphs": ["墙角数枝梅，凌寒独自开。", "遥知不是雪，为有暗香来。"]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"null", "is no list of poems"),
        (b'{"paragraphs": []}', "is no list of poems"),
        (b"[null]", "poem 1 is no object"),
        (json.dumps([GOOD, {"paragraphs": [3]}]).encode(), "poem 2 is no object"),
        (json.dumps([GOOD | {"paragraphs": "天"}]).encode(), "poem 1 is no object"),
        (json.dumps([GOOD | {"author": 7}]).encode(), "poem 1 is no object"),
        (json.dumps([GOOD | {"title": "\ud800"}]).encode(), "poem 1 is no object"),
        (json.dumps([GOOD | {"paragraphs": ["天\0地"]}]).encode(), "poem 1 is no object"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[{", "is not JSON"),
        (b"", "is not JSON"),
        (b"[" + b"9" * 5000 + b"]", "is not JSON"),
        (b"\xff\xfe[", "cannot be read"),
    ],
)
def test_a_damaged_file_of_a_clone_is_named_in_one_line(content, says, tmp_path, capsys):
    (tmp_path / "poet.tang.0.json").write_bytes(content)
    assert cli.main(["data", "prepare", str(tmp_path), str(tmp_path / "out"), "--quiet"]) == 2
    err = capsys.readouterr().err
    assert "poet.tang.0.json'" in err and says in err and err.count("\n") == 1 and "Error" not in err


def test_what_is_called_gz_and_is_not_is_read_for_what_it_is(tmp_path):
    plain = jsonl(tmp_path / "in.jsonl", [poem(1), poem(2)])
    (tmp_path / "false.jsonl.gz").write_bytes(plain.read_bytes())
    assert list(corpus.read(tmp_path / "false.jsonl.gz")) == list(corpus.read(plain))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes())[:-20])
    with pytest.raises(AskedError, match=r"cut\.jsonl\.gz' cannot be read"):
        list(corpus.read(tmp_path / "cut.jsonl.gz"))


def test_a_source_is_never_replaced_by_the_output(tmp_path):
    source = tmp_path / "train.jsonl.gz"
    with gzip.open(source, "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": poem(1)}))
    with pytest.raises(ValueError, match="would replace its source"):
        corpus.prepare(source, tmp_path)


def test_progress_is_told_to_the_caller_and_nothing_is_printed(tmp_path, capsys):
    told = []
    source = jsonl(tmp_path / "in.jsonl", [poem(i) for i in range(20)])
    corpus.prepare(source, tmp_path / "out", progress=lambda *event: told.append(event))
    assert {stage for stage, _, _ in told} == {"comparing", "writing"} and told[-1] == ("writing", 5, 5)
    assert capsys.readouterr() == ("", "")
