"""Models of images: folders, data, drawing, filling, restoring, and the command line."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_images import COLD, TINY, digits, model
from torch import Tensor

from textdiff.cli import main
from textdiff.core.contracts import Query
from textdiff.core.rng import Rng
from textdiff.data.image_data import mask_of, read_images
from textdiff.networks.folder import ModelError
from textdiff.networks.images import Diffusion, ImageModel, gaussian, unet
from textdiff.pipeline.images import ImagePipeline
from textdiff.show import mosaic, trace

pytestmark = pytest.mark.usefixtures("one_thread")


# -- folders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("process", "diffusion"), [("gaussian", Diffusion()), ("gaussian", Diffusion(holes=0.5)), ("cold", COLD)]
)
def test_a_saved_model_is_the_same_model(process: str, diffusion: Diffusion, tmp_path: Path) -> None:
    x = digits(12)
    before = model(diffusion, process, defaults={"steps": 3}).fitted(x, torch.arange(12) % 3)
    before.save_pretrained(tmp_path / "m")
    after = ImageModel.from_pretrained(tmp_path / "m")
    for name in ("processes", "shape", "classes", "bins", "diffusion", "defaults", "analytic", "prefix", "told"):
        assert getattr(before, name) == getattr(after, name), name
    drawn = [ImagePipeline(m).generate(3, label=["a", None, "c"], seed=5).images for m in (before, after)]
    assert torch.equal(*drawn)
    assert drawn[0].shape == (3, 1, 8, 8)


def test_diffusers_opens_the_folder_alone(tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    ours = model()
    ours.save_pretrained(tmp_path / "m")
    assert {p.name for p in (tmp_path / "m").iterdir()} >= {"config.json", "diffusion_pytorch_model.safetensors"}
    network = UNet2DModel.from_pretrained(tmp_path / "m", use_safetensors=True).eval()
    x, level, label = digits(2), torch.full((2,), 0.25), torch.tensor([0, 3])
    with torch.no_grad():
        v = network(x, level * 1000, class_labels=label).sample
        t = level.double().view(-1, 1, 1, 1)
        found = ours.predictor("gaussian")(Query(x, t, condition=label[:, None])).mean
    alpha, beta = (rate.float().view(-1, 1, 1, 1) for rate in ours.schedule(level))
    torch.testing.assert_close(found, alpha * x - beta * v, rtol=0, atol=1e-5)


def test_the_noise_power_is_kept_with_the_model(tmp_path: Path) -> None:
    measured = model().measured(digits(8), model().condition(8, "b"), levels=4)
    measured.save_pretrained(tmp_path / "m")
    again = ImageModel.from_pretrained(tmp_path / "m")
    assert again.analytic == measured.analytic and again.analytic is not None
    pipe = ImagePipeline(again)
    plain, wide = (pipe.generate(2, steps=4, analytic=a).images for a in (False, True))
    assert not torch.equal(plain, wide)
    with pytest.raises(ModelError, match="no noise power"):
        ImagePipeline(model()).generate(1, analytic=True)


def test_a_degradation_of_ones_own_is_passed_in_again(tmp_path: Path) -> None:
    def darker(x0: Tensor, t: Tensor) -> Tensor:
        return x0 - t.to(x0.dtype)

    own = model(Diffusion(output="data", power=1), "cold", degrade=darker)
    x = digits(2)
    torch.testing.assert_close(ImagePipeline(own).degrade(x, 0.5), x - 0.5)
    own.save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="needs a degradation"):
        ImageModel.from_pretrained(tmp_path / "m")
    again = ImageModel.from_pretrained(tmp_path / "m", degrade=darker)
    pipes = [ImagePipeline(m).restore(x, level=0.5, steps=2).images for m in (own, again)]
    assert torch.equal(*pipes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 9}, "format 9, which a later textdiff wrote"),
        ({"data": {"shape": [1, 8, 8]}}, "cannot be read"),
        ({"diffusion": {"sigmma": 1}}, "cannot be read"),
        ({"processes": ["mask"]}, "; expected one of gaussian, cold"),
        ({"processes": []}, "'processes' in textdiff.json"),
        ({"data": {"shape": [1, 8], "bins": None, "classes": []}}, "'shape' in textdiff.json"),
        ({"data": {"shape": [1, 8, 10**30], "bins": None, "classes": []}}, "'shape' in textdiff.json"),
        ({"data": {"shape": [3, 8, 8], "bins": None, "classes": ["a", "b", "c"]}}, "cannot be used"),
        ({"data": {"shape": [1, 8, 8], "bins": None, "classes": list("abcde")}}, "cannot be used"),
        ({"data": {"shape": [1, 8, 8], "bins": None, "classes": [None] * 3}}, "'classes' in textdiff.json"),
        ({"data": {"shape": [1, 8, 8], "bins": [-1, "x", 1], "classes": ["a", "b", "c"]}}, "'bins' in textdiff.json"),
        ({"diffusion": {"factor": {}}}, "cannot be used"),
        ({"diffusion": {"holes": 0.5}}, "cannot be used"),
        ({"defaults": [1]}, "'defaults' in textdiff.json"),
    ],
)
def test_a_folder_that_is_described_wrongly_is_an_error(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert_refused(tmp_path / "m", "textdiff.json", change, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm_eps": "x"}, "cannot be used"),
        ({"norm_num_groups": -1}, "the network"),
        ({"mid_block_scale_factor": {}}, "cannot be used"),
        ({"add_attention": True}, r"the weights lack \d+ that config.json asks for, mid_block.attentions"),
    ],
)
def test_a_network_of_another_configuration_is_refused_when_it_is_read(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert_refused(tmp_path / "m", "config.json", change, said)


def assert_refused(folder: Path, file: str, change: dict[str, Any], said: str) -> None:
    model().save_pretrained(folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(ModelError, match=said) as caught:
        ImageModel.from_pretrained(folder)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "config", "said"),
    [
        ((1, 8, 8), {"block_out_chanels": [8]}, "did you mean 'block_out_channels'"),
        ((1, 6, 6), TINY | {"block_out_channels": [8, 8, 8]}, "does not make"),
        ((1, 7, 7), TINY, "halved 1 times"),
    ],
)
def test_a_network_that_cannot_be_is_an_error(shape: tuple[int, ...], config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        unet(shape, 0, False, config)


def test_labels_are_names_or_numbers_and_the_last_says_nothing() -> None:
    one = model()
    assert one.condition(4, ["a", None, "c", "b"])[:, 0].tolist() == [0, 3, 2, 1]
    assert one.untold(one.condition(2, "a"))[:, 0].tolist() == [3, 3] == one.condition(2)[:, 0].tolist()
    with pytest.raises(ValueError, match="unknown label 'd'"):
        one.condition(1, "d")
    with pytest.raises(ValueError, match="2 values for 3 images"):
        one.condition(3, ["a", "b"])
    bare = model(classes=0)
    assert bare.condition(2).shape == (2, 0) and bare.prefix == ()
    with pytest.raises(ValueError, match="without labels"):
        bare.condition(1, "a")


# -- drawing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddpm", "improved", "baseline", "refresh"])
def test_an_image_does_not_depend_on_its_batch(sampler: str) -> None:
    pipe = ImagePipeline(model())
    labels = ["a", "b", "c", None, "a"]
    whole = pipe.generate(5, label=labels, seed=3, steps=4, sampler=sampler)
    pieces = pipe.generate(5, label=labels, seed=3, steps=4, sampler=sampler, batch_size=2)
    torch.testing.assert_close(whole.images, pieces.images, rtol=0, atol=1e-4)
    for k, label in enumerate(labels):
        alone = pipe.generate(1, label=label, seed=3 + k, steps=4, sampler=sampler).images
        torch.testing.assert_close(whole.images[k : k + 1], alone, rtol=0, atol=1e-4)
    assert torch.equal(whole.images, pipe.generate(5, label=labels, seed=3, steps=4, sampler=sampler).images)
    assert whole.forwards.tolist() == [4] * 5


@pytest.mark.parametrize("holes", [0.0, 0.5])
@pytest.mark.parametrize("sampler", ["ddpm", "improved", "baseline"])
def test_known_places_come_out_bit_for_bit(holes: float, sampler: str) -> None:
    pipe, x = ImagePipeline(model(Diffusion(holes=holes))), digits()
    known = mask_of("right", (1, 8, 8))
    filled = pipe.fill(x, known, steps=5, sampler=sampler).images
    assert torch.equal(filled[:, :, :, :4], x[:, :, :, :4])
    assert not torch.equal(filled[:, :, :, 4:], x[:, :, :, 4:])
    other = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    filled = pipe.fill(x, other, steps=3, sampler=sampler, batch_size=3).images
    assert torch.equal(filled[other], x[other])


def test_replacement_noises_what_is_known_and_a_model_with_holes_sees_it() -> None:
    x, known = digits(2), mask_of("right", (1, 8, 8))
    for holes, seen in ((0.0, False), (0.5, True)):
        pipe = ImagePipeline(model(Diffusion(holes=holes)))
        states = list(pipe.stream(2, images=x, known=known, steps=4))
        assert all(torch.equal(state.x[:, :, :, :4], x[:, :, :, :4]) == seen for state in states[1:-1])


def test_guidance_is_what_its_formula_says() -> None:
    pipe = ImagePipeline(model())
    drawn = {scale: pipe.generate(2, label="a", steps=1, guidance=scale).images for scale in (0.0, 1.0, 2.0)}
    torch.testing.assert_close(drawn[2.0], 2 * drawn[1.0] - drawn[0.0], rtol=0, atol=1e-5)
    torch.testing.assert_close(drawn[0.0], pipe.generate(2, steps=1).images, rtol=0, atol=1e-5)


def test_other_sizes_go_through_the_same_network() -> None:
    assert ImagePipeline(model()).generate(2, steps=2, size=(16, 8)).images.shape == (2, 1, 16, 8)


@pytest.mark.parametrize("told", [{"name": "blur"}, {"name": "fade"}, {"name": "pixelate", "largest": 4}])
def test_cold_models_restore_from_any_level_and_generate_from_the_law_of_the_last(told: dict[str, Any]) -> None:
    x = read_images("digits").of("train").x[:60]
    cold = model(Diffusion(output="data", power=1, degradation=told), "cold").fitted(x, torch.arange(60) % 3)
    pipe = ImagePipeline(cold)
    few = x[:3]
    torch.testing.assert_close(
        pipe.restore(pipe.degrade(few, 1e-9), level=1e-9, steps=1).images, few, rtol=0, atol=1e-4
    )
    halfway = pipe.degrade(few, 0.5)
    states = list(pipe.stream(3, images=halfway, level=0.5, steps=2))
    assert torch.equal(states[0].x, halfway) and [s.t.max().item() for s in states] == [0.5, 0.25, 0.0]
    first = next(iter(pipe.stream(200, label="b")))
    ends = pipe.degrade(x[1::3], 1.0)
    torch.testing.assert_close(first.x.mean(), ends.mean(), rtol=0, atol=0.05)
    torch.testing.assert_close(first.x.std(), ends.std(), rtol=0, atol=0.05)


def test_the_law_of_the_ends_has_the_mean_and_covariance_of_the_ends() -> None:
    values = Rng(range(50)).normal(6) @ torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double()
    mean, basis = gaussian(values)
    torch.testing.assert_close(mean, values.mean(0))
    torch.testing.assert_close(basis.T @ basis, values.T.cov())


def test_where_noise_stays_in_x_the_last_draft_is_the_image() -> None:
    pipe = ImagePipeline(model(COLD, "cold"))
    last = list(pipe.stream(2, steps=3))[-1]
    assert torch.equal(pipe.finished(last), last.x0) and not torch.equal(last.x, last.x0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampler": "edit"}, "sampler 'edit' serves mask, replacement, but model model only gaussian"),
        ({"sampler": "ddpmm"}, "unknown sampler 'ddpmm'.*did you mean 'ddpm'"),
        (
            {"sampler": "ddpm", "sampler_options": {"share": 1.0}},
            "sampler 'ddpm' has no option 'share'; it takes eta, last",
        ),
        ({"sampler": "ddpm", "sampler_options": {"eta": "much"}}, "expected a number"),
        ({"sampler": "ddpm", "sampler_options": {"last": 1.0}}, "expected a word"),
        ({"sampler": "ddpm", "sampler_options": {"last": "simpel"}}, "expected posterior, simple or none"),
        ({"steps": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"label": ["a"]}, "1 values for 2 images"),
    ],
)
def test_settings_that_do_not_fit_are_errors(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ImagePipeline(model()).generate(2, **settings)


def test_images_and_masks_that_do_not_fit_are_errors() -> None:
    pipe = ImagePipeline(model())
    with pytest.raises(ValueError, match=r"expected \(N, 1, 8, 8\)"):
        pipe.fill(torch.zeros(2, 3, 8, 8), torch.ones(8, 8))
    with pytest.raises(ValueError, match="the mask is"):
        pipe.fill(torch.zeros(2, 1, 8, 8), torch.ones(4, 4))


# -- pictures and the command line ----------------------------------------------------------------------------------------


def test_a_mosaic_shows_every_image_in_its_place() -> None:
    x = digits(5)
    picture = mosaic.mosaic(x, columns=3, zoom=1)
    assert picture.size == (3 * 10 + 2, 2 * 10 + 2)
    cut = picture.crop((12, 12, 20, 20))  # row 1, column 1: image 4
    assert torch.equal(torch.tensor(list(cut.tobytes())).view(8, 8), mosaic.pixels(x)[4, :, :, 0].long())
    torch.testing.assert_close(mosaic.decoded(mosaic.encoded(x)), x, rtol=0, atol=1 / 254)
    with pytest.raises(ValueError, match="expected"):
        mosaic.mosaic(x[:, :, 0])
    with pytest.raises(ValueError, match="no PNG image"):
        mosaic.decoded(["bm8="])


def test_the_command_line_draws_traces_and_animates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(defaults={"steps": 3}).save_pretrained(tmp_path / "m")
    shared = ["--model", str(tmp_path / "m"), "--quiet"]
    drawing = ["generate", *shared, "--n", "3", "--label", "b", "--guidance", "1.5", "--sampler", "ddpm"]
    more = ["--option", "last=simple", "--option", "eta=0.5", "--seed", "7"]
    out, path = tmp_path / "grid.png", tmp_path / "t.jsonl"
    assert main([*drawing, *more, "--out", str(out), "--trace", str(path)]) == 0
    drawn = ImagePipeline.from_pretrained(tmp_path / "m").generate(
        3, label="b", guidance=1.5, sampler="ddpm", sampler_options={"last": "simple", "eta": 0.5}, seed=7
    )
    assert out.read_bytes() == mosaic.png(drawn.images)
    whole = trace.read(path)
    assert whole.header["images"] and whole.header["seeds"] == [7, 8, 9]
    assert [shot.level for shot in whole.shots] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    torch.testing.assert_close(mosaic.decoded(whole.shots[-1].texts), drawn.images.clamp(-1, 1), rtol=0, atol=1 / 254)
    for kind in ("gif", "svg", "html"):
        moving = tmp_path / f"t.{kind}"
        assert main(["animate", str(path), "--out", str(moving), "-n", "2"]) == 0
        assert moving.stat().st_size > 500
    with Image.open(tmp_path / "t.gif") as gif:
        assert gif.n_frames == 4 and gif.size == mosaic.mosaic(drawn.images[:2]).size
    links = (tmp_path / "t.svg").read_text(encoding="utf-8").count("data:image/png;base64,")
    assert links == 4
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    header, first, *_ = json.loads(page.split('id="trace">')[1].split("</script>")[0])
    assert header["images"] and len(first["texts"]) == 2
    Image.open(io.BytesIO(base64.b64decode(first["texts"][0]))).verify()
    capsys.readouterr()


def test_the_command_line_fills_and_restores(tmp_path: Path) -> None:
    model(Diffusion(holes=0.5), defaults={"steps": 2}).save_pretrained(tmp_path / "m")
    out = tmp_path / "filled.png"
    assert (
        main(["fill", "digits:0", "digits:1", "--mask", "right", "--model", str(tmp_path / "m"), "--out", str(out)])
        == 0
    )
    with Image.open(out) as picture:
        assert picture.size == mosaic.mosaic(torch.zeros(6, 1, 8, 8), columns=2).size
    model(COLD, "cold", defaults={"steps": 2}).save_pretrained(tmp_path / "c")
    assert main(["fill", "digits:0", "--level", "0.5", "--model", str(tmp_path / "c"), "--out", str(out)]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "--form", "wuyan-jueju"], "form is for texts"),
        (["generate", "--title", "月"], "title is for texts"),
        (["generate", "--label", "z"], "unknown label 'z'"),
        (["generate", "--option", "eta=much"], "expected a number"),
        (["generate", "-n", "0"], "n is 0"),
        (["fill"], "there is no image"),
        (["fill", "nowhere.png"], "there is no image 'nowhere.png'"),
        (["fill", "digits:0", "--mask", "inside"], "there is no mask"),
    ],
)
def test_mistakes_are_said_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model().save_pretrained(tmp_path / "m")
    assert main([*words, "--model", str(tmp_path / "m"), "--out", str(tmp_path / "x.png")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "--label", "3"], "label is for images, and poems-zh-writer is a model of texts"),
        (["fill", "明□", "--mask", "right"], "--mask is for images"),
        (["generate", "--sampler", "refresh", "--option", "share=much"], "expected a number"),
        (["generate", "--option", "share=much"], "has no option 'share'"),
    ],
)
def test_flags_of_images_are_not_for_texts(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_a_picture_is_not_written_to_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model().save_pretrained(tmp_path / "m")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["generate", "--model", str(tmp_path / "m")]) == 2
    assert "pass --out FILE.png" in capsys.readouterr().err
