"""The report of an image model end to end, on tiny random networks: what it holds, that it adds up, and what it refuses."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")

from textdiff import cli
from textdiff.core.rng import Rng
from textdiff.data.image_data import Images, read_images
from textdiff.measure import image_report, image_view
from textdiff.measure.images import Ground
from textdiff.networks.images import Diffusion, ImageModel, unet

CONFIG: dict[str, Any] = {
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}
SETTINGS = image_report.Settings(n=20, steps=(2, 3), evaluations=4000, repeats=2, batch=20, epochs=4)


@pytest.fixture(scope="module")
def digits() -> Images:
    return read_images("digits", limit=300)


def model_of(digits: Images, process: str = "gaussian", **diffusion: Any) -> ImageModel:
    torch.manual_seed(0)
    names = digits.names
    return ImageModel(
        model=unet((1, 8, 8), len(names), False, CONFIG).eval(),
        processes=(process,),
        shape=(1, 8, 8),
        classes=names,
        bins=digits.bins,
        diffusion=Diffusion(**diffusion),
        defaults={"steps": 2},
    )


@pytest.fixture(scope="module")
def ground(digits) -> Ground:
    return Ground.of(digits, epochs=4)


@pytest.fixture(scope="module")
def gaussian(digits, ground, tmp_path_factory) -> tuple[dict[str, Any], Any]:
    """The figures of a random network, and where its images were kept."""
    model, folder, lines = model_of(digits), tmp_path_factory.mktemp("kept"), []
    return image_report.report(model, digits, SETTINGS, keep=folder, log=lines.append), folder


def test_every_figure_is_there_and_goes_through_json(gaussian):
    found = json.loads(json.dumps(gaussian[0]))
    assert [(row["sampler"], row["steps"]) for row in found["ladder"]] == [
        (name, steps) for steps in (2, 3) for name in ("ddim", "ddpm", "analytic")
    ]
    assert [row["steps"] for row in found["bounds"]] == [2, 3, 1000]
    for row in (*found["ladder"], found["conditional"]):
        assert {"fidelity", "coverage", "frechet", "frechet_real", "energy", "energy_real", "copying"} <= set(row)
        assert row["energy"]["low"] <= row["energy"]["value"] <= row["energy"]["high"]
        assert row["frechet_ratio"] > 1.5  # a random network does not draw digits
        assert row["energy"]["p"] < 0.02 < row["energy_real"]["p"]
    assert "fidelity" not in found["unconditional"]
    assert found["classifier"]["value"] > 0.7


def test_samplers_with_different_names_draw_differently(gaussian):
    rows = {row["sampler"]: row["energy"]["value"] for row in gaussian[0]["ladder"] if row["steps"] == 3}
    assert len(set(rows.values())) == 3


def test_the_gain_is_the_difference_of_the_bounds(gaussian):
    for row in gaussian[0]["bounds"]:
        assert row["gain_analytic"]["value"] == pytest.approx(row["ddpm"]["value"] - row["analytic"]["value"])
        assert row["gain_analytic"]["low"] < row["gain_analytic"]["value"] < row["gain_analytic"]["high"]


def test_a_bound_remembers_no_more_predictions_than_it_may(digits, ground, monkeypatch):
    """It remembers those of one block of images, however many images there are, and the size of the blocks changes no figure."""
    alive, most = [0], [0]
    made = ImageModel.predictor

    def change(by):
        alive[0] += by
        most[0] = max(most[0], alive[0])

    def counted(model, name):
        predictor = made(model, name)

        def predict(query):
            prediction = predictor(query)
            change(len(query.x_t))
            weakref.finalize(prediction, change, -len(query.x_t))
            return prediction

        return predict

    monkeypatch.setattr(ImageModel, "predictor", counted)
    model = model_of(digits)
    table = image_report.NoisePower((0.1, 0.5, 0.9), (0.1, 0.5, 0.9), (0.1, 0.5, 0.9), 0.5)
    shelf = image_report.Shelf.of(None, model)
    bounds = []
    for memory in (40, 10_000):
        monkeypatch.setattr(image_report, "MEMORY", memory)
        most[0] = 0
        bounds.append(image_report._bounds(model, ground, SETTINGS, shelf, lambda line: None, table, 4))
        assert most[0] <= memory and len(ground.held_out.x) * 4 > 40
    assert bounds[0]["ddpm"]["value"] == pytest.approx(bounds[1]["ddpm"]["value"], rel=1e-5)


def test_images_in_the_folder_are_not_drawn_again(digits, gaussian, monkeypatch):
    found, folder = gaussian
    monkeypatch.setattr(image_report.ImagePipeline, "generate", lambda *a, **k: pytest.fail("drawn again"))
    again = image_report.report(model_of(digits), digits, SETTINGS, keep=folder)
    assert again["ladder"] == found["ladder"] and again["bounds"] == found["bounds"]
    other = model_of(digits)
    with torch.no_grad():
        next(other.model.parameters()).add_(0.1)
    with pytest.raises(pytest.fail.Exception):
        image_report.report(other, digits, SETTINGS, keep=folder)


def test_real_images_pass_for_real_ones_and_spoilt_ones_do_not(ground):
    half = Rng([7]).uniform(300)[0].argsort()[:150]
    real, labels = ground.everything.x[half], ground.everything.labels[half]
    good = ground.judge(real, labels, 3)
    bad = ground.judge(real + 1.5 * Rng(range(len(real))).normal(1, 8, 8).float(), labels, 3)
    assert good["fidelity"]["value"] > 0.9 > bad["fidelity"]["value"]
    assert good["frechet_ratio"] < 1.5 < bad["frechet_ratio"]
    assert good["energy"]["p"] > 0.01 > bad["energy"]["p"]
    assert bad["copying"]["generated"] > 2 * good["copying"]["held_out"]


def test_training_images_are_called_copies(ground):
    assert ground.judge(ground.train.x[:40], None, 2)["copying"]["near"]["value"] == 1


def test_the_table_names_samplers_and_bounds(gaussian):
    text = image_view.table(gaussian[0])
    for word in ("classifier", "conditional", "real to real", "ddim", "analytic", "bound of", "nearest train"):
        assert word in text
    assert max(map(len, text.splitlines())) < 140


def test_the_picture_is_a_small_png(gaussian, tmp_path):
    pytest.importorskip("matplotlib")
    image_view.plot(gaussian[0], tmp_path / "ladder.png")
    written = (tmp_path / "ladder.png").read_bytes()
    assert written.startswith(b"\x89PNG") and len(written) < 100_000


@pytest.mark.slow
def test_cold_models_are_restored_both_ways(digits, tmp_path):
    model = model_of(digits, "cold", output="data", degradation={"name": "fade", "edge": None}, power=1)
    model = replace(model, defaults={"steps": 2})
    few = image_report.report(model, digits, replace(SETTINGS, n=8, steps=(2,)), keep=None)
    rows = {(row["level"], row["way"], row["steps"]): row["error"]["value"] for row in few["restoring"]}
    assert rows[0.5, "degraded", 0] < rows[1.0, "degraded", 0]
    assert rows[1.0, "naive", 1] == pytest.approx(rows[1.0, "improved", 1], rel=0.5)
    for level in image_report.FROM:
        # fade everywhere at once is linear in x0: in one step both ways give x̂0 but for the residual of the draft
        assert {way for at, way, _ in rows if at == level} == {"degraded", "naive", "improved"}
    assert "improved" in image_view.table(few)
    image_view.plot(few, tmp_path / "cold.png")


def test_a_perfect_restorer_has_no_error(digits, ground):
    held = ground.held_out
    found = image_report._restored(ground, held.x, held.x, held.labels)
    assert found["error"]["value"] == 0 and abs(found["frechet"]["value"]) < 1e-6


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"n": 1}, "at least 2"),
        ({"steps": ()}, "at least 1"),
        ({"steps": (5, 0)}, "at least 1"),
        ({"samplers": ("dddim",)}, "ddim"),
        ({"evaluations": 0}, "evaluations"),
    ],
)
def test_settings_that_cannot_be_are_refused(told, said):
    with pytest.raises(ValueError, match=said):
        image_report.Settings(**told)


def test_quick_is_smaller():
    quick = image_report.settings_of(None, (), (), True)
    assert quick.n == 100 and quick.steps == (5, 10, 20)
    assert image_report.settings_of(50, (1000,), ("heun",), True).steps == (10,)


def test_data_that_do_not_fit_the_model_are_refused(digits):
    model = model_of(digits)
    with pytest.raises(ValueError, match="trained on"):
        image_report.report(model, replace(digits, x=digits.x[:, :, :4]), SETTINGS)
    with pytest.raises(ValueError, match="classes"):
        image_report.report(model, replace(digits, names=("a", "b")), SETTINGS)


@pytest.mark.slow
def test_the_command_prints_json_and_a_table(digits, tmp_path, capsys):
    model_of(digits).save_pretrained(tmp_path / "model")
    how = ["evaluate", "--model", str(tmp_path / "model"), "--n", "10", "--steps", "2", "--samplers", "ddim", "--quick"]
    how += ["--limit", "120", "--keep", str(tmp_path / "kept")]
    assert cli.main([*how, "--json", "--out", str(tmp_path / "ladder.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["sampler"] for row in found["ladder"]] == ["ddim"]
    assert "ddim" in image_view.table(found) and (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*how, "--samplers", "nosuch"]) == 2
    assert "nosuch" in capsys.readouterr().err
