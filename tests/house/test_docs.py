"""The commands that the README and the pages in docs/ show: each is understood by the command line, and the pages hang together."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from textdiff.cli import parser
from textdiff.training.sections import KINDS, Recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `textdiff` command in the shell blocks of a page, without pipes and redirections."""
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split, lexer.commenters = True, "#"
            words: list[str] = []
            skip = False
            for word in [*lexer, ";"]:
                if set(word) <= set("|&;"):
                    words = words[1:] if words[:1] == ["do"] else words
                    if words[:1] == ["textdiff"]:
                        yield words[1:]
                    words = []
                elif set(word) <= set("<>"):
                    skip = True
                elif skip:
                    skip = False
                else:
                    words.append(word)


COMMANDS = [(page.relative_to(ROOT).as_posix(), words) for page in PAGES for words in commands(page.read_text("utf-8"))]


def test_the_pages_have_commands():
    assert len(COMMANDS) > 40
    assert ["generate", "-n", "4", "--trace", "run.jsonl"] in [words for _, words in COMMANDS]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS])
def test_every_command_of_the_pages_is_understood(page, words):
    arguments, rest = parser().parse_known_args(words)
    assert not [word for word in rest if word.startswith("-")]
    assert callable(arguments.run)


def test_the_page_on_training_has_every_key_of_a_recipe_with_its_default():
    def keys(section: type, path: str = "") -> Iterator[tuple[str, str]]:
        hints = typing.get_type_hints(section)
        for field in dataclasses.fields(section):
            if dataclasses.is_dataclass(hints[field.name]):
                yield from keys(hints[field.name], f"{field.name}.")
            elif field.default_factory is not dataclasses.MISSING:
                yield path + field.name, json.dumps(field.default_factory())
            else:
                required = field.default is dataclasses.MISSING
                yield path + field.name, "required" if required else json.dumps(field.default)

    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| .+ \|$", page.partition("## Every key")[2], flags=re.M)
    assert len(rows) == len(dict(rows)) and dict(rows) == dict(keys(Recipe))


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_on_training_has_every_kind_of_data(kind):
    assert re.search(rf"^\| `{kind}` \| ", (ROOT / "docs" / "training.md").read_text("utf-8"), flags=re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8"))
    assert not [target for target in targets if "://" not in target and not (page.parent / target).exists()]
