"""Small models of images, and pictures of every sort."""

import torch
from PIL import Image
from support.tiny import tiny_config, tiny_model

from trine import TrineModel


IMAGE = {"input_type": "image", "is_causal": False, "image_size": 12, "patch_size": 4, "num_channels": 2}


def image_config(**fields):
    return tiny_config(**{**IMAGE, **fields})


def image_model(model_class=TrineModel, **fields):
    """An evaluation-mode model of images with random parameters, in float64 unless told otherwise."""
    return tiny_model(model_class, **{**IMAGE, **fields})


def random_images(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def odd_pictures() -> dict[str, Image.Image]:
    """Pictures of every mode that a file may have, and the smallest one."""
    colours = Image.radial_gradient("L").resize((20, 9))
    return {mode: colours.convert(mode) for mode in ("RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16", "F")} | {
        "one pixel": Image.new("RGB", (1, 1), "red")
    }
