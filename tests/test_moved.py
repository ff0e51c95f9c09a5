"""What could be imported in version 0.1 can still be, for one version, and says where it is now."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from textdiff.core.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_warns_and_is_the_new_module(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old]) and module.__spec__.name == MOVED[old]


@pytest.mark.parametrize(
    ("module", "name"),
    [("pipeline", "Pipeline"), ("pipeline", "Output"), ("verse", "get_form"), ("verse", "FORMS"), ("verify", "verify")],
)
def test_names_of_modules_that_became_folders_can_still_be_imported(module, name):
    assert getattr(importlib.import_module(f"textdiff.{module}"), name) is not None


def test_the_old_names_cost_nothing_at_start():
    code = "import sys, textdiff; sys.exit('torch' in sys.modules or 'textdiff.pipeline' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
