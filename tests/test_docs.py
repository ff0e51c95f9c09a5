"""The commands that the README and the pages in docs/ show: each is understood by the command line, and the pages hang together."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from textdiff.cli import parser

ROOT = Path(__file__).parent.parent
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8"))
    assert not [target for target in targets if "://" not in target and not (page.parent / target).exists()]
