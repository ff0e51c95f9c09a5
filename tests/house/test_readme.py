"""The lines of docs/frame.md are run one by one, and they name every method of its table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "frame.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## ", 1)[0]
SETTING, BODY = re.findall(r"```python\n(.*?)```", SECTION, flags=re.S)
LINES = [line for line in BODY.splitlines() if line.strip()]
SEEDED = 7


@pytest.fixture(scope="module")
def setting() -> dict[str, Any]:
    names: dict[str, Any] = {}
    torch.manual_seed(SEEDED)
    exec(SETTING, names)
    return names


@pytest.mark.parametrize("line", LINES, ids=[line.split("#")[1].strip() for line in LINES])
def test_every_line_of_the_frame_runs(line, setting):
    with torch.inference_mode():
        found = eval(line, setting)
    begins = line.removeprefix("run(*")
    if begins.startswith(("mask", "edit", "uniform", "vectors")):
        text = setting["text"]
        assert found.shape == setting["poem"].shape
        assert torch.isin(found, torch.cat([text.content, torch.tensor([text.unk_id])])).all()
    else:
        assert found.shape == setting["image"].shape and found.isfinite().all() and found.std() > 0


def test_every_method_of_the_table_has_its_line():
    rows = [row.strip("|").split("|") for row in SECTION.splitlines() if row.startswith("| ")][2:]
    named = [name.strip() for row in rows for cell in row[1:] for name in re.split(r"[;]", cell) if name.strip()]
    said = [line.split("#")[1] for line in LINES]
    assert len(named) > 20
    for name in named:
        short = re.sub(r"\(.*\)", "", name).strip()
        assert any(short in one for one in said), name


def test_different_noise_gives_different_results(setting):
    drawn = [setting["run"](*setting["noise"], step).flatten() for step in (setting[n]() for n in ("improved", "ddpm"))]
    assert not torch.allclose(*drawn)
