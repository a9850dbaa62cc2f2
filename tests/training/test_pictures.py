"""Pictures are decoded and normalised as an image processor does, and changed as told."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.pictures import odd_pictures
from transformers import ViTImageProcessorPil

from trine.training.data import pictures
from trine.training.data.pictures import Augmentation, PictureCollator, Pictures, decode_picture


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def random_batch(count=6, height=5, width=7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", odd_pictures())
def test_values_are_those_of_an_image_processor(mode):
    picture, statistics = odd_pictures()[mode], {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.3]}
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, **statistics)
    expected = processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
    batch = PictureCollator(*statistics.values())([Pictures([picture], [3], 8)[0]])
    torch.testing.assert_close(batch["pixel_values"], expected, rtol=0, atol=1e-5)
    assert batch["labels"].tolist() == [3]


def test_files_bytes_and_pictures_are_one(tmp_path):
    picture = odd_pictures()["P"].convert("RGB")
    picture.save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", {"bytes": png(picture), "path": None}, {"path": str(tmp_path / "a.png")}, picture]
    first, *others = (decode_picture(source, 6, 4) for source in sources)
    assert first.shape == (6, 4, 3) and all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("limit", [0, 10**9])
def test_pictures_are_kept_where_there_is_room(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(pictures, "LARGEST_CACHE", limit)
    odd_pictures()["RGB"].save(tmp_path / "a.png")
    data = Pictures([tmp_path / "a.png"], [0], 4)
    before = data[0]["picture"]
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert np.array_equal(before, data[0]["picture"]) == bool(limit) and len(data) == 1


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(png(Image.radial_gradient("L"))[:200])
    for name, message in (("text.png", "cannot identify"), ("cut.png", "truncated"), ("none.png", "No such file")):
        with pytest.raises(ValueError, match=f"{name}' cannot be read as a picture: .*{message}"):
            decode_picture(tmp_path / name, 4, 4)


def test_a_mirrored_picture_is_mirrored():
    batch = random_batch()
    assert np.array_equal(Augmentation(flip=1.0, shift=0.0)(batch), batch[:, :, ::-1])
    assert np.array_equal(Augmentation(flip=0.0, shift=0.0)(batch), batch)
    drawn = Augmentation(flip=0.5, shift=0.0)(np.repeat(batch[:1], 200, axis=0))
    share = sum(np.array_equal(picture, batch[0, :, ::-1]) for picture in drawn) / 200
    assert 0.35 < share < 0.65


def test_a_moved_picture_repeats_its_border():
    batch = random_batch(1, 6, 8)
    moved = Augmentation(flip=0.0, shift=0.25, seed=1)(np.repeat(batch, 60, axis=0))
    allowed = []
    for down in range(-2, 3):
        for right in range(-2, 3):
            pixels = np.empty_like(batch[0])
            for y in range(6):
                for x in range(8):
                    pixels[y, x] = batch[0, min(max(y + down, 0), 5), min(max(x + right, 0), 7)]
            allowed.append(pixels.tobytes())
    found = {picture.tobytes() for picture in moved}
    assert found <= {*allowed} and len(found) > 10


def test_a_hidden_square_has_the_mean_colour_and_the_rest_stays():
    batch = random_batch(40, 10, 10)
    changed = Augmentation(flip=0.0, shift=0.0, erase=0.5)(batch)
    differs = (changed != batch).any(-1)
    touched = differs.any((1, 2))
    assert 5 < touched.sum() < 35
    for before, after, where in zip(batch[touched], changed[touched], differs[touched], strict=True):
        ys, xs = np.nonzero(where)
        side = max(ys.max() - ys.min(), xs.max() - xs.min()) + 1
        assert side**2 <= 50 and np.array_equal(after[ys[0], xs[0]], before.mean((0, 1)).astype(np.uint8))
        assert np.array_equal(after[~where], before[~where])


def test_equal_seeds_change_alike():
    batch = random_batch()
    one, two, other = (Augmentation(erase=0.2, seed=seed)(batch) for seed in (3, 3, 4))
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    assert np.array_equal(batch, random_batch())


@pytest.mark.parametrize("name", ["flip", "shift", "erase"])
def test_shares_are_checked(name):
    with pytest.raises(ValueError, match=f"{name}=1.5 must be from 0 to 1"):
        Augmentation(**{name: 1.5})
