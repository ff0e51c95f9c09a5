"""What is public: `textdiff.__all__`, and nothing else that the first page of the README needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_images import model as image_model
from tiny import poem_model, saved

import textdiff
from textdiff.verify import walk

PUBLIC = [
    *("load", "TextPipeline", "Pipeline", "ImagePipeline", "Options", "Output", "Score", "Detail", "Refined", "Frame"),
    *("Chosen", "Restoration", "Variant", "Mapper", "TextDiffusionPipeline", "register_pipeline", "check", "FORMS"),
    *("train", "Recipe", "verify", "sample", "weighted_nll", "nelbo", "Rng", "State", "Query", "Process"),
    *("Prediction", "Predictor", "Step", "Model", "PROCESSES", "SAMPLERS"),
    *("TextdiffError", "ModelError", "RecipeError", "AskedError", "__version__"),
]


def test_the_public_names_are_exactly_these():
    assert sorted(textdiff.__all__) == sorted(PUBLIC) and set(PUBLIC) <= set(dir(textdiff))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_loads_and_says_what_it_is(name):
    found = getattr(textdiff, name)
    assert (found is not None and found.__doc__) or name == "Predictor"  # a type of functions
    assert name in vars(textdiff), "the API reference shows what stands in the module"


def test_an_unknown_name_is_refused_with_those_that_there_are():
    with pytest.raises(AttributeError, match=r"has no attribute 'Pipelin'; it has .*TextPipeline"):
        textdiff.Pipelin  # noqa: B018


def test_verify_is_a_package_that_can_be_called():
    (row,) = textdiff.verify(process="replacement", sampler="edit-count")
    assert [row] == list(walk.verify(process="replacement", sampler="edit-count"))


def test_load_gives_the_pipeline_of_what_the_folder_holds(tmp_path):
    poems, images = saved(poem_model(), tmp_path / "poems"), tmp_path / "images"
    image_model(defaults={"steps": 2}).save_pretrained(images)
    assert isinstance(textdiff.load(poems), textdiff.TextPipeline)
    assert isinstance(textdiff.load(images), textdiff.ImagePipeline)
    assert textdiff.load().model.name == "poems-zh"
    with pytest.raises(textdiff.ModelError, match="there is no folder"):
        textdiff.load(tmp_path / "none")


def test_the_readme_imports_from_the_package_alone():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S))
    inner = re.findall(r"^\s*(?:from|import) (textdiff\.[\w.]+)", code, flags=re.M)
    assert not inner, inner
    assert set(re.findall(r"textdiff\.(\w+)", code)) <= {*PUBLIC}
