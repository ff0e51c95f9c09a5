"""Images as data: the digits, folders, data sets, single files and masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from small_images import digits, folder_of

from textdiff.core.errors import AskedError
from textdiff.data.image_data import PARTS, image_of, mask_of, part_of, read_images
from textdiff.show import mosaic

pytestmark = pytest.mark.usefixtures("one_thread")


# -- data -----------------------------------------------------------------------------------------------------------------


def test_the_digits_are_parted_for_good_and_stand_in_their_bins() -> None:
    found = read_images("digits")
    assert found.x.shape == (1797, 1, 8, 8) and found.x.min() == -1 and found.x.max() == 1
    assert torch.equal(found.x * 8, (found.x * 8).round())
    counts = [len(found.of(part).x) for part in PARTS]
    assert counts == [1459, 149, 189]  # a change here makes every figure of the digits another one
    assert (
        read_images("digits", limit=100).part.tolist() == found.part[:100].tolist() == [part_of(k) for k in range(100)]
    )


def test_folders_of_images_have_classes_sizes_and_colours(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f")
    found = read_images(str(folder))
    assert found.x.shape == (24, 1, 8, 8) and found.names == ("class-0", "class-1")
    assert found.labels is not None and found.labels.tolist() == [0] * 12 + [1] * 12
    assert torch.allclose(found.x[0, 0, 1], torch.tensor(250 / 127.5 - 1), atol=1e-6)
    assert read_images(str(folder), size=4, channels=3, limit=5).x.shape == (5, 3, 4, 4)
    flat = read_images(str(folder / "class-0"))
    assert flat.labels is None and flat.names == ()


def test_data_sets_on_disk_are_read_by_their_columns(tmp_path: Path) -> None:
    import datasets

    found = read_images(str(folder_of(tmp_path / "f")))
    pictures = [Image.fromarray(one[0].numpy()) for one in ((found.x + 1) * 127.5).round().byte()]
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"picture": pictures, "kind": [0, 1] * 12}, features=features)
    datasets.DatasetDict({"train": rows, "test": rows.select(range(4))}).save_to_disk(tmp_path / "d")
    read = read_images(str(tmp_path / "d"), image="picture", label="kind")
    assert read.names == ("no", "yes") and len(read.of("test").x) == 4 and len(read.x) == 28
    torch.testing.assert_close(read.x[:24], found.x)
    with pytest.raises(ValueError, match="no column 'image'"):
        read_images(str(tmp_path / "d"))


def test_data_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AskedError, match="there are no images"):
        read_images("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        read_images(str(tmp_path / "empty"))
    (tmp_path / "empty" / "x.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no image that can be read"):
        read_images(str(tmp_path / "empty"))
    mixed = folder_of(tmp_path / "mixed")
    (mixed / "class-0" / "0.png").rename(mixed / "0.png")
    with pytest.raises(ValueError, match="both beside and inside"):
        read_images(str(mixed))
    with pytest.raises(ValueError, match="gray and 8 by 8"):
        read_images("digits", size=16)
    with pytest.raises(ValueError, match="channels is 2"):
        read_images("digits", channels=2)


def test_single_images_and_masks(tmp_path: Path) -> None:
    assert torch.equal(image_of("digits:3", (1, 8, 8)), digits(4)[3])
    path = tmp_path / "one.png"
    path.write_bytes(mosaic.png(digits(1), zoom=1))
    assert image_of(str(path), (1, 8, 8)).shape == (1, 8, 8)
    for source in ("digits:1000", "digits:x"):
        with pytest.raises(ValueError, match="no digit of the test part"):
            image_of(source, (1, 8, 8))
    mask = Image.new("L", (8, 8))
    mask.putpixel((2, 1), 255)
    mask.save(tmp_path / "mask.png")
    known = mask_of(str(tmp_path / "mask.png"), (1, 8, 8))
    assert not known[1, 2] and known.sum() == 63
    assert mask_of("left", (1, 8, 8))[:, 4:].all() and mask_of("top", (1, 8, 8))[4:].all()
    with pytest.raises(AskedError, match="there is no mask"):
        mask_of("middle", (1, 8, 8))
