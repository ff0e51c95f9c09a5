"""What could be imported in version 0.1 can still be, for one version, and says where it is now."""

from __future__ import annotations

import importlib
import operator
import subprocess
import sys

import pytest

from textdiff.core.moved import DIVIDED, MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_warns_and_is_the_new_module(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old]) and module.__spec__.name == MOVED[old]


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("constraints", "law", "law:Law.of"),
        ("constraints", "Law", "law:Law"),
        ("constraints", "constrained", "constrained:constrained"),
        ("constraints", "Restricted", "constrained:RestrictedPrediction"),
        ("constraints", "partitions", "rhymes:partitions"),
        ("verse.constraints", "P", "law:P"),
        ("prosody", "kept_to", "pattern:kept_to"),
        ("prosody", "Prosody", "prosody:Prosody"),
    ],
)
def test_a_module_that_was_divided_still_gives_its_names_and_warns(old, name, new):
    sys.modules.pop(f"textdiff.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"textdiff.{old} is now {DIVIDED[f'textdiff.{old}'][0]}"):
        module = importlib.import_module(f"textdiff.{old}")
    file, _, path = new.partition(":")
    assert getattr(module, name) == operator.attrgetter(path)(importlib.import_module(f"textdiff.verse.{file}"))
    with pytest.raises(AttributeError, match="stands in none of"):
        module.nothing_of_that_name  # noqa: B018


@pytest.mark.parametrize(
    ("module", "name"),
    [("verse", "get_form"), ("verse", "FORMS"), ("verify", "verify")],
)
def test_names_of_modules_that_became_folders_can_still_be_imported(module, name):
    assert getattr(importlib.import_module(f"textdiff.{module}"), name) is not None


@pytest.mark.parametrize(
    ("name", "file"),
    [("Pipeline", "text"), ("Output", "outputs"), ("Detail", "score.scorer"), ("QUALITIES", "options")],
)
def test_the_names_of_the_module_that_pipeline_was_warn_and_say_where_they_are(name, file):
    with pytest.warns(DeprecationWarning, match=f"textdiff.pipeline.{name} is now textdiff.pipeline.{file}.{name}"):
        found = getattr(importlib.import_module("textdiff.pipeline"), name)
    assert found is getattr(importlib.import_module(f"textdiff.pipeline.{file}"), name)


def test_the_old_names_cost_nothing_at_start():
    code = "import sys, textdiff; sys.exit('torch' in sys.modules or 'textdiff.pipeline' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
