"""Pictures for training: decoded with Pillow, changed a little with NumPy, normalised as an image processor does."""

# Shapes: B batch, Y height and X width in pixels, C channels.

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset


PictureSource = str | Path | Mapping[str, Any] | Any  # a file, {"bytes": ..., "path": ...} of `datasets`, or a picture
BILINEAR = 2  # Pillow's number of it, which is what transformers' image processors take by default
LARGEST_CACHE = 2 * 2**30  # bytes of decoded pictures that are kept


def decode_picture(source: PictureSource, height: int, width: int) -> np.ndarray:
    """A picture of any mode as (Y, X, 3) values from 0 to 255, resized bilinearly.

    Palettes, grey and RGBA become RGB as in transformers' pipelines: what is transparent keeps the colour below it.

    Raises:
        ValueError: It is no picture, or is truncated; the message names the file.
    """
    from PIL import Image, UnidentifiedImageError

    opened: Any = source
    name = source if isinstance(source, str | Path) else "a picture"
    try:
        if isinstance(source, Mapping):
            data, name = source.get("bytes"), source.get("path") or name
            opened = name if data is None else io.BytesIO(data)
        picture = opened if isinstance(opened, Image.Image) else Image.open(opened)
        picture = picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"'{name}' cannot be read as a picture: {error}") from error
    if picture.size != (width, height):
        picture = picture.resize((width, height), BILINEAR)
    return np.asarray(picture)


class Pictures(Dataset):
    """Pictures of one size with their targets: `picture` (Y, X, 3) in uint8, and `labels`.

    They are decoded when they are first asked for, and kept if all of them take less than two gigabytes.

    Args:
        sources: Files, records of `datasets` or pictures.
        targets: What a model is to say of each.
        size: Height and width.
    """

    def __init__(self, sources: Sequence[PictureSource], targets: Sequence[Any], size: int):
        self.sources, self.targets, self.size = [*sources], [*targets], size
        self.keeps = len(self.sources) * size * size * 3 <= LARGEST_CACHE
        self.decoded: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture = self.decoded.get(index)
        if picture is None:
            picture = decode_picture(self.sources[index], self.size, self.size)
            if self.keeps:
                self.decoded[index] = picture
        return {"picture": picture, "labels": self.targets[index]}


class PictureCollator:
    """Makes `pixel_values` (B, 3, Y, X) and `labels` of examples of `Pictures`.

    Args:
        mean: Mean of each channel, of values from 0 to 1.
        std: Standard deviation of each channel, likewise.
        augment: Changes a batch (B, Y, X, 3) in uint8, or None.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], augment: "Augmentation | None" = None):
        self.factor = torch.tensor([1 / (255 * each) for each in std], dtype=torch.float32)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32)
        self.augment = augment

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        pictures = np.stack([example["picture"] for example in examples])
        if self.augment is not None:
            pictures = self.augment(pictures)
        values = torch.from_numpy(pictures).float() * self.factor + self.shift
        labels = torch.tensor([example["labels"] for example in examples])
        return {"pixel_values": values.permute(0, 3, 1, 2).contiguous(), "labels": labels}


class Augmentation:
    """Light changes of training pictures: mirrored left to right, moved a little, a square of them hidden.

    Each picture is mirrored with probability `flip`, moved by up to `shift` of its size to each side, with its border
    repeated, and a square of up to `erase` of its area gets its mean colour with probability 1/2.
    Source: Zhong et al. 2017, Random erasing, arXiv 1708.04896; He et al. 2015, arXiv 1512.03385, section 4.2.

    Args:
        flip: Probability of a mirrored picture; 0 for writing, whose mirror image means something else.
        shift: Share of height and width.
        erase: Share of the area.
        seed: Of the random numbers.
    """

    def __init__(self, flip: float = 0.5, shift: float = 0.1, erase: float = 0.0, seed: int = 0):
        for name, share in (("flip", flip), ("shift", shift), ("erase", erase)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share} must be from 0 to 1.")
        self.flip, self.shift, self.erase = flip, shift, erase
        self.random = np.random.default_rng(seed)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Changes a batch (B, Y, X, C), which is left as it is, and returns the same shape."""
        draw, (count, height, width, _) = self.random, pictures.shape
        mirrored = draw.random(count) < self.flip
        columns = np.where(mirrored[:, None], np.arange(width)[::-1], np.arange(width))
        most = round(self.shift * height), round(self.shift * width)
        down, right = (draw.integers(-each, each + 1, (count, 1)) for each in most)
        rows = (np.arange(height) + down).clip(0, height - 1)
        columns = np.take_along_axis(columns, (np.arange(width) + right).clip(0, width - 1), axis=1)
        changed = pictures[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        for number in np.flatnonzero(draw.random(count) < 0.5) if self.erase else ():
            picture = changed[number]
            side = int(draw.random() * (self.erase * height * width) ** 0.5)
            top, left = (int(draw.integers(0, length - min(side, length) + 1)) for length in (height, width))
            picture[top : top + side, left : left + side] = picture.mean((0, 1))
        return changed
