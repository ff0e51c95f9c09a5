"""Makes training data from a collection of Chinese texts: `textdiff data prepare` as a library.

The steps, whose counts stand in `stats.json`:

    1  split at punctuation; keep texts with the shape of a form
    2  drop poems with missing-character marks or anything else that is not a Chinese character
    3  turn traditional characters into simplified ones (OpenCC), and odd graphs into their usual form
    4  drop exact repeats, then near repeats (`repeats`); the first one in the order of the source stays
    5  assign each poem to train, validation or test by a hash of its text alone
    6  drop the validation and test poems that share half of their lines or more with train

The output depends on the source and the arguments alone: on no clock and no random draw.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from textdiff.core.errors import AskedError
from textdiff.data.decoding import fault_of, guarded
from textdiff.data.records import records
from textdiff.data.repeats import near_repeats
from textdiff.data.tables import is_folder
from textdiff.verse import forms as verse
from textdiff.verse import sounds

PARTS = ("train", "validation", "test")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3007\U00020000-\U000323af]+")

# Graphs that OpenCC leaves as they are, and the graphs that print uses for them today.
_VARIANTS = str.maketrans(
    "鴈隠劒窻碁戯徃恠疎踈襍鼔冐凢囬囘壷姧㑹廻逥纎凴冦尙埜崕簔聫聮蠏煕熈冨冺抺肻壌滛卭陁韮徤扄爼倂幈尅砲虵鵞靣"
    "靑髙舩葢栢桒栁畧畆畒甞飡飜騐験懐帰関辺択沢浄焼竜歳歴変児処両単厳営図囯塩売実対専岀巻広応悪惣揺暁楽様権気"
    "渇満猟畳疉発窓粛経絵継縁縦繊聡聴薫薬蔵覚観読譲豊転軽遅郷鉄銭陥険隣霊頼駅騒髄鬪黒黙齢舎挿斎毎渉瀬犠獣稲穂"
    "穏簷嵓嵒娯戸勅𠡠歩徳揔搃揷撡斈旾昬朙槩槪欎鬰欵氷㵎磵灋炤燄牕牎犂猨玅瑇甎塼皷盌椀矴碪秌穐穉穤𥩟筯箎粧緜罇"
    "羗翆耡耼胷膓臯皐艶荅葅蕋蘂蘃虗蜋蠧衂袵襃覩覔觧諠賔賛躭軰輙辤迯邉邨酧醻醕釡鉏鎻鏁陗隂隟隄韈頋顋頺飇駈驩騣"
    "鬂鬭鼈鴬鸎鷰麤麄麐麞鼃",
    "雁隐剑窗棋戏往怪疏疏杂鼓冒凡回回壶奸会回回纤凭寇尚野崖蓑联联蟹熙熙富泯抹肯壤淫邛陀韭健扃俎并屏克炮蛇鹅面"
    "青高船盖柏桑柳略亩亩尝餐翻验验怀归关边择泽净烧龙岁历变儿处两单严营图国盐卖实对专出卷广应恶总摇晓乐样权气"
    "渴满猎叠叠发窗肃经绘继缘纵纤聪听薰药藏觉观读让丰转轻迟乡铁钱陷险邻灵赖驿骚髓斗黑默龄舍插斋每涉濑牺兽稻穗"
    "稳檐岩岩娱户敕敕步德总总插操学春昏明概概郁郁款冰涧涧法照焰窗窗犁猿妙玳砖砖鼓碗碗碇砧秋秋稚糯伫箸篪妆绵樽"
    "羌翠锄聃胸肠皋皋艳答菹蕊蕊蕊虚螂蠹衄衽褒睹觅解喧宾赞耽辈辄辞逃边村酬酬醇釜锄锁锁峭阴隙堤袜顾腮颓飚驱欢鬃"
    "鬓斗鳖莺莺燕粗粗麟獐蛙",
)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Poem:
    """A poem of a known form; `text` is its lines joined by line breaks."""

    form: str
    text: str
    author: str = ""
    title: str = ""
    dynasty: str = ""  # tang or song where the source says so

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    @property
    def digest(self) -> bytes:
        """A hash of the text alone; it decides the part and the order of the rows."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).digest()


@dataclass(frozen=True)
class Report:
    """The numbers of texts that `prepare` read, rejected and wrote, and of different characters in train."""

    records: int
    rejected: dict[str, int]
    parts: dict[str, dict[str, int]]
    kinds: int
    out_dir: Path = field(compare=False)

    @property
    def kept(self) -> int:
        return sum(part["all"] for part in self.parts.values())

    def stats(self) -> dict[str, Any]:
        """The content of stats.json."""
        counts = {"records": self.records, "kept": self.kept, "kinds_in_train": self.kinds}
        return {**counts, "rejected": self.rejected, "parts": self.parts}


def prepare(
    source: str | Path,
    out_dir: str | Path,
    *,
    forms: Iterable[str] | None = None,
    simplify: bool = True,
    validation: float = 0.05,
    test: float = 0.05,
    progress: Progress | None = None,
) -> Report:
    """Write train, validation and test (`.jsonl.gz`), `vocab.tsv` and `stats.json`, and report what became of the texts.

    `source` is a clone of the repository chinese-poetry, or texts of any kind that the verbs read (see `read`).  `forms` names
    the forms to keep, all by default.  `simplify` needs OpenCC if the source is traditional.  `validation` and `test` are shares.
    `progress(stage, done, total)` is called now and then; total is 0 where it is unknown.  Files in `out_dir` are replaced, but
    only after all steps have succeeded.
    """
    source, out_dir = Path(source), Path(out_dir)
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise AskedError(f"validation={validation} and test={test} leave nothing for train; pass shares such as 0.05")
    wanted = set(verse.FORMS) if forms is None else {verse.get_form(name).name for name in forms}
    targets = {name: out_dir / name for name in (*(f"{part}.jsonl.gz" for part in PARTS), "vocab.tsv", "stats.json")}
    if source.resolve() in {target.resolve() for target in targets.values()}:
        raise AskedError(f"the output would replace its source {source}; choose another folder than {out_dir}")
    tell = progress or (lambda stage, done, total: None)

    rejected = dict.fromkeys(
        (
            "shape",
            "form_not_wanted",
            "not_chinese",
            "exact_repeats",
            "near_repeats",
            "validation_in_train",
            "test_in_train",
        ),
        0,
    )
    seen: set[str] = set()
    poems: list[Poem] = []
    records = 0
    for records, record in enumerate(read(source), start=1):
        if records % 5000 == 0:
            tell("reading", records, 0)
        poem = regular(record)
        if poem is None:
            rejected["shape"] += 1
        elif poem.form not in wanted:
            rejected["form_not_wanted"] += 1
        elif not _HAN.fullmatch(poem.text.replace("\n", "")):
            rejected["not_chinese"] += 1
        else:
            poem = simplified(poem) if simplify else poem
            if poem.text in seen:
                rejected["exact_repeats"] += 1
            else:
                seen.add(poem.text)
                poems.append(poem)
    if not poems:
        raise AskedError(
            f"{source} has {records} texts, but none is a poem of the form {' or '.join(sorted(wanted))}; "
            f"rejected: {rejected}"
        )

    tell("comparing", 0, len(poems))
    repeats = near_repeats([poem.lines for poem in poems], lambda done, total: tell("comparing", done, total))
    rejected["near_repeats"] = int(repeats.sum())
    parts = split([poem for poem, repeat in zip(poems, repeats, strict=True) if not repeat], validation, test)
    in_train = {line for poem in parts["train"] for line in poem.lines}
    for part in ("validation", "test"):
        fresh = [poem for poem in parts[part] if 2 * sum(line in in_train for line in poem.lines) < len(poem.lines)]
        rejected[f"{part}_in_train"] = len(parts[part]) - len(fresh)
        parts[part] = fresh

    tell("writing", 0, len(targets))
    counts = Counter(c for poem in parts["train"] for line in poem.lines for c in line)
    report = Report(
        records=records,
        rejected=rejected,
        parts={
            part: {
                "all": len(chosen),
                **{form: sum(p.form == form for p in chosen) for form in verse.FORMS if form in wanted},
            }
            for part, chosen in parts.items()
        },
        kinds=len(counts),
        out_dir=out_dir,
    )
    content = {f"{part}.jsonl.gz": _packed(chosen) for part, chosen in parts.items()}
    content["vocab.tsv"] = "".join(
        f"{c}\t{n}\n" for c, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ).encode()
    content["stats.json"] = (json.dumps(report.stats(), indent=1) + "\n").encode()
    _write(out_dir, content)
    tell("writing", len(targets), len(targets))
    return report


# Reading.


def read(source: str | Path) -> Iterator[Poem]:
    """The texts of a source, unchanged; their `form` is still empty.

    A folder is a clone of chinese-poetry, of which we read 全唐诗/poet.tang.*.json and then poet.song.*.json.  Any other source
    is read by the reader of all verbs (records.py), with its `author`, `title` and `dynasty`.
    """
    source = Path(source)
    if source.is_dir() and not is_folder(source):
        yield from _read_clone(source)
        return
    for record in records(source, longest=None):
        yield Poem("", record.text, *(str(record.get(key) or "") for key in ("author", "title", "dynasty")))


def _read_clone(folder: Path) -> Iterator[Poem]:
    inner = folder / "全唐诗" if (folder / "全唐诗").is_dir() else folder
    is_clone = False
    for dynasty in ("tang", "song"):
        for path in sorted(inner.glob(f"poet.{dynasty}.*.json"), key=lambda path: (len(path.name), path.name)):
            is_clone = True
            yield from guarded(repr(str(path)), _poems_of(path, dynasty))
    if not is_clone:
        raise AskedError(
            f"{folder} has no 全唐诗/poet.tang.*.json or poet.song.*.json; pass the root of a clone of chinese-poetry"
        )


def _poems_of(path: Path, dynasty: str) -> Iterator[Poem]:
    """The poems of one file of a clone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise  # `guarded` turns it into a message
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise AskedError(f"{str(path)!r} is not JSON ({reason}); mend or remove it") from None
    if not isinstance(content, list):
        raise AskedError(f"{str(path)!r} is no list of poems; mend or remove the file")
    for number, record in enumerate(content, start=1):
        poem = _poem_of(record, dynasty)
        if poem is None or fault_of("".join((poem.text, poem.author, poem.title))) is not None:
            raise AskedError(
                f"{str(path)!r} poem {number} is no object with 'paragraphs', a list of lines, and texts as 'author' and 'title'; "
                f"mend or remove it"
            )
        yield poem


def _poem_of(record: Any, dynasty: str) -> Poem | None:
    """The poem in a record of a clone; None if there is none."""
    if not isinstance(record, dict) or not isinstance(record.get("paragraphs"), list):
        return None
    lines, author, title = record["paragraphs"], record.get("author") or "", record.get("title") or ""
    if not all(isinstance(word, str) for word in (*lines, author, title)):
        return None
    return Poem("", "\n".join(lines), author, title, dynasty)


# Form and characters.


def regular(record: Poem) -> Poem | None:
    """The record as a poem of the form whose shape it has; None if it has the shape of no form."""
    form = verse.guess_form(record.text)
    return replace(record, form=form.name, text="\n".join(form.split(record.text))) if form else None


def simplified(poem: Poem) -> Poem:
    """The poem in simplified characters.

    Our table of readings has simplified characters; a poem all of whose characters are in it is returned unchanged.
    """
    words = (poem.text, poem.author, poem.title)
    if all(map(sounds.readings, "".join(_HAN.findall("".join(words))))):
        return poem
    convert = _converter()
    if convert is None:
        strange = [c for c in poem.text if c != "\n" and not sounds.readings(c)]
        if len(strange) * 20 >= len(poem.text):
            raise ImportError(
                f"the source has traditional characters ({''.join(strange)} in {poem.lines[0]!r}), and OpenCC, which makes them "
                "simplified, is not installed; pip install textdiff[zh], or pass simplify=False to keep them"
            )
        return poem
    text, author, title = (convert(word) for word in words)
    return replace(poem, text=text, author=author, title=title)


@cache
def _converter() -> Callable[[str], str] | None:
    try:
        from opencc import OpenCC
    except ImportError:
        return None
    convert = OpenCC("t2s").convert
    return lambda text: convert(text).translate(_VARIANTS)


# Parts and files.


def split(poems: list[Poem], validation: float, test: float) -> dict[str, list[Poem]]:
    """Train, validation and test by the hash of each text, sorted by this hash, so that any prefix is a random sample."""
    parts: dict[str, list[Poem]] = {part: [] for part in PARTS}
    for digest, poem in sorted(((poem.digest, poem) for poem in poems), key=lambda pair: (pair[0], pair[1].text)):
        place = int.from_bytes(digest, "big") / 2**64
        part = "test" if place >= 1 - test else "validation" if place >= 1 - test - validation else "train"
        parts[part].append(poem)
    return parts


def _packed(poems: list[Poem]) -> bytes:
    """The poems as JSON Lines packed with gzip, without a time stamp."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
        for poem in poems:
            file.write((json.dumps(asdict(poem), ensure_ascii=False, separators=(",", ":")) + "\n").encode())
    return buffer.getvalue()


def _write(folder: Path, content: dict[str, bytes]) -> None:
    """Write all files or none: each under a temporary name first, and then all are renamed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a FileNotFoundError would sound as if the source were missing
        raise OSError(f"cannot write to {folder} ({error.strerror}); name a folder that can be written") from error
    temporary = {folder / name: folder / f".{name}.{os.getpid()}.part" for name in content}
    try:
        for part, data in zip(temporary.values(), content.values(), strict=True):
            part.write_bytes(data)
        for target, part in temporary.items():
            os.replace(part, target)
    finally:
        for part in temporary.values():
            part.unlink(missing_ok=True)
