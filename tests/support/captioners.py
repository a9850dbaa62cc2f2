"""Small decoders that read pictures, and their batches."""

import torch
from support.pictures import IMAGE, random_images
from support.tiny import SIZES, random_ids

from trine import TrineForImageTextToText, TrineImageTextConfig


IMAGE_TOKEN = 60
TEXT = {**SIZES, "pad_token_id": 0, "eos_token_id": 2}
VISION = {**SIZES, **IMAGE, "hidden_size": 48, "num_channels": 3}


def caption_config(text: dict | None = None, vision: dict | None = None, **fields) -> TrineImageTextConfig:
    stacks = {"text_config": {**TEXT, **(text or {})}, "vision_config": {**VISION, **(vision or {})}}
    return TrineImageTextConfig(**stacks, **fields)


def captioner(text: dict | None = None, vision: dict | None = None, dtype=torch.float64, **fields):
    """An evaluation-mode model in which every parameter is random."""
    torch.manual_seed(0)
    model = TrineForImageTextToText(caption_config(text, vision, **fields)).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0).add_(torch.randn_like(parameter), alpha=0.1)
    return model


def batch(dtype=torch.float64) -> dict:
    """A row with one image of nine patches after padding, one with two images, and one with none."""
    ids = random_ids(3, 24, vocab_size=IMAGE_TOKEN)
    ids[0, :8], ids[0, 10:19] = 0, IMAGE_TOKEN
    ids[1, 1:10] = ids[1, 13:22] = IMAGE_TOKEN
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "pixel_values": random_images(3, 3, 12, 12, dtype=dtype),
    }
