"""Heat maps, read back: what they show is what was scored."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import rich.console
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import QUATRAIN, poem_model, saved, sentence_model

from textdiff import cli
from textdiff.pipeline.text import Pipeline
from textdiff.show import heat, pictures
from textdiff.show.watching import many_colours

SVG = "{http://www.w3.org/2000/svg}"


@dataclasses.dataclass(frozen=True)
class Detail:
    """What is read of a detailed score."""

    text: str
    characters: tuple[str, ...]
    nats: tuple[float, ...]
    best: tuple[str, ...]
    form: str | None = None


def detail(text: str, characters, form: str | None = None) -> Detail:
    nats = tuple(k * 0.5 for k in range(len(characters)))
    return Detail(text, tuple(characters), nats, tuple(reversed(characters)), form)


POEM = detail(QUATRAIN, [c for c in QUATRAIN if c not in "，。\n"], "wuyan-jueju")
UGLY = "a <b>&\"'\n</script><!--"
LATIN = detail(UGLY, UGLY)
PIECES = detail("The cats ran.", ("the", "cat", "##s", "ran", "."))
LOST = detail("a strange thing", ("[UNK]", "thing"))

# -- nats -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [POEM, LATIN, PIECES], ids=["poem", "latin", "pieces"])
def test_pieces_are_the_text_cut_at_its_characters(one):
    cut = heat.pieces(one)
    assert "".join(piece.text for piece in cut) == one.text
    told = [piece for piece in cut if piece.nats is not None]
    assert [piece.nats for piece in told] == list(one.nats) and [piece.best for piece in told] == list(one.best)
    for piece, name in zip(told, one.characters, strict=True):
        assert piece.text.lower() == name.removeprefix("##")


def test_tokens_that_are_not_in_the_text_are_listed_themselves():
    assert [(p.text, p.nats) for p in heat.pieces(LOST)] == [("[UNK]", 0), (" ", None), ("thing", 0.5)]
    unknown = dataclasses.replace(POEM, characters=("[UNK]", *POEM.characters[1:]))  # a poem shows what was written
    assert "".join(piece.text for piece in heat.pieces(unknown)) == QUATRAIN


@given(st.floats(0, 30), st.floats(0, 30))
def test_more_nats_are_darker_and_can_be_read(one, other):
    light = [sum(int(heat.colour(nats)[k : k + 2], 16) for k in (1, 3, 5)) for nats in sorted((one, other))]
    assert light[0] >= light[1] and heat.colour(heat.TOP + one) == heat.colour(heat.TOP)
    assert heat.ink(0) == "#000000" and heat.ink(heat.TOP) == "#ffffff"


def test_a_table_has_a_row_for_each_character_and_counts_as_the_form_does():
    head, *rows = heat.table(POEM)
    assert len(rows) == 20 and head.split() == ["line", "place", "nats", "character", "likeliest"]
    assert rows[6].split() == ["2", "2", "3.00", "是", POEM.best[6]]
    assert [row.split()[:2] for row in list(heat.table(LATIN))[1:]][7:11] == [
        ["1", "8"],
        ["1", "9"],
        ["2", "1"],
        ["2", "2"],
    ]
    assert "\\n" in list(heat.table(LATIN))[9] and "␣" in list(heat.table(LATIN))[2]


# -- heat maps ------------------------------------------------------------------------------------------------------------


def drawn_texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_a_heat_map_shows_every_character_on_its_colour():
    svg = pictures.svg(pictures.heat_map([POEM, LATIN]))
    root = ElementTree.fromstring(svg)
    said = [box for box in root.iter(f"{SVG}rect") if box.find(f"{SVG}title") is not None]
    assert [box.get("fill") for box in said] == [heat.colour(n) for n in (*POEM.nats, *LATIN.nats)]
    assert said[1].findtext(f"{SVG}title") == f"前: 0.50 nats; likeliest: {POEM.best[1]}"
    shown = "".join(text for text in drawn_texts(svg) if not re.fullmatch(r"[\d.+]+|mean .*|nats .*", text))
    assert shown == QUATRAIN.replace("\n", "") + UGLY.replace("\n", "¶").replace(" ", "")
    size = float(root.get("width")), float(root.get("height"))
    for box in said:
        assert 0 <= float(box.get("x")) <= size[0] - float(box.get("width"))
        assert 0 <= float(box.get("y")) <= size[1] - float(box.get("height"))


def test_lines_and_punctuation_stand_as_the_form_has_them():
    root = ElementTree.fromstring(pictures.svg(pictures.heat_map([POEM])))
    at = {}
    for element in root.iter(f"{SVG}text"):
        at.setdefault(element.text, []).append((float(element.get("x")), float(element.get("y"))))
    assert at["，"][0][0] == at["，"][1][0] and at["，"][0][1] < at["，"][1][1]
    assert at["床"][0][1] == at["，"][0][1] == at["霜"][0][1] and at["床"][0][0] < at["，"][0][0] < at["霜"][0][0]


def test_no_two_pieces_stand_in_one_place():
    for text in ("明月x" * 40, "a\n\nb" * 9, "x" * 200):
        places = [(row, k) for row, column, wide in pictures.grid(text) for k in range(column, column + wide)]
        assert len(places) == len(set(places)) and max(k for _, k in places) < pictures.WRAP


def no_fonts(monkeypatch) -> None:
    monkeypatch.setattr(pictures, "_system_fonts", lambda wide: iter(()))


def has_chinese_font() -> bool:
    try:
        pictures.find_font("床前明月光")
    except ValueError:
        return False
    return True


def test_pixels_in_latin_need_no_font_of_the_system(monkeypatch):
    no_fonts(monkeypatch)
    image = Image.open(io.BytesIO(pictures.png(pictures.heat_map([PIECES]))))
    assert image.format == "PNG" and len(image.convert("RGB").getcolors(2**20)) > 10


@pytest.mark.skipif(not has_chinese_font(), reason="no font with Chinese characters on this system")
def test_pixels_in_chinese():
    face = pictures.find_font(QUATRAIN)
    pixels = [pictures.Fonts(face)(30).getmask(c) for c in "床前明"]
    assert len({bytes(mask) for mask in pixels}) == 3 and all(mask.getbbox() for mask in pixels)
    image = Image.open(io.BytesIO(pictures.png(pictures.heat_map([POEM]), face.path)))
    assert image.size[0] > 600


def test_without_a_font_both_ways_out_are_named(monkeypatch, tmp_path):
    no_fonts(monkeypatch)
    with pytest.raises(ValueError, match=r"床.*apt install fonts-noto-cjk.*--font FILE"):
        pictures.png(pictures.heat_map([POEM]))
    (tmp_path / "font.ttf").write_text("no font")
    with pytest.raises(ValueError, match=r"cannot be read.*\.ttf"):
        pictures.find_font("a", str(tmp_path / "font.ttf"))
    with pytest.raises(ValueError, match="cannot be read"):
        pictures.find_font("a", str(tmp_path / "none.ttf"))


def test_a_font_that_lacks_the_characters_is_refused():
    font = next(Path("/usr/share/fonts").rglob("DejaVuSans.ttf"), None)
    if font is None:
        pytest.skip("needs DejaVu Sans")
    with pytest.raises(ValueError, match=r"lacks 5 of the 5 characters .*--font FILE"):
        pictures.find_font("床前明月光", str(font))
    assert pictures.find_font("moon", str(font)) == pictures.Face(str(font))


def test_without_pillow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    pictures._font.cache_clear()
    with pytest.raises(ValueError, match=r"textdiff\[plot\]"):
        pictures.png(pictures.heat_map([PIECES]))


# -- the verb --------------------------------------------------------------------------------------------------------------

POEMS = Pipeline(poem_model(form="wuyan-jueju"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_detailed_score_in_every_style(tmp_path, capsys, monkeypatch):
    model = saved(poem_model(form="wuyan-jueju"), tmp_path / "poems")
    words = ["score", QUATRAIN, "--model", model, "--levels", "1"]
    (scored,) = POEMS.detail(QUATRAIN)
    svg = tmp_path / "x.svg"
    assert cli.main([*words, "--json", "--detail", "--svg", str(svg)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["detail"]["nats"] == pytest.approx(scored.nats, abs=1e-4) and record["characters"] == 20
    assert record["detail"]["best"] == list(scored.best)
    assert "床" in drawn_texts(svg.read_text(encoding="utf-8"))
    assert cli.main([*words, "--detail"]) == 0
    first, *table = capsys.readouterr().out.splitlines()
    assert "nats/char" in first and table[:21] == list(heat.table(scored))
    assert cli.main(words) == 0
    assert capsys.readouterr().out == first + "\n"

    def shown(**environment: str) -> str:
        with monkeypatch.context() as patch:
            patch.delenv("NO_COLOR", raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdout", Terminal())
            assert cli.main([*words, "--detail"]) == 0
            return sys.stdout.getvalue()

    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown(TERM="xterm"))
    assert QUATRAIN in plain and "10+" in plain
    assert "48;5;" in shown(TERM="xterm", COLORTERM="")  # 256 colours, although xterm promises 16
    assert "\x1b" not in shown(TERM="xterm", NO_COLOR="1") and "\x1b" not in shown(TERM="dumb")


@pytest.mark.parametrize(("claims", "system"), [("", "256"), ("truecolor", "truecolor")])
def test_a_terminal_gets_all_colours_that_it_has_and_never_less_than_256(monkeypatch, claims, system):
    """What is written is rich's: it keeps the code of a colour of the terminal that it was first written to."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLORTERM", claims)
    monkeypatch.setattr(
        rich.console.Console, "_environ", os.environ
    )  # `Dataset.map` of some processes puts another one there
    assert many_colours(Terminal()).color_system == system


def test_the_likelihood_of_words_is_read_off_the_pipeline():
    (scored,) = Pipeline(sentence_model()).detail("the cats ran.")
    assert [p.text for p in heat.pieces(scored) if p.nats is not None] == ["the", "cat", "s", "ran", "."]
