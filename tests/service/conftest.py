"""Services in processes of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from commands import Command, begin
from tiny import poem_model, saved

Start = Callable[..., tuple[Command, tuple[str, int]]]


@pytest.fixture(scope="module")
def poems(tmp_path_factory) -> str:
    return saved(poem_model(form="wuyan-jueju"), tmp_path_factory.mktemp("models") / "poems")


@pytest.fixture
def start(tmp_path, poems) -> Iterator[Start]:
    """Begins a service: the command, and where it listens."""
    commands: list[Command] = []

    def call(*words: object, verb: str = "serve") -> tuple[Command, tuple[str, int]]:
        command = begin(tmp_path, verb, "--model", poems, "--port", 0, *words)
        commands.append(command)
        command.wait_for(lambda: "stops it" in command.said())
        found = re.search(r" at http://([\d.]+):(\d+)", command.said())
        assert found is not None, command.said()
        return command, (found[1], int(found[2]))

    yield call
    for command in commands:
        if command.process.is_alive():
            command.process.kill()
            command.process.join()
