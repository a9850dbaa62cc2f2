"""Small dual encoders, their batches, and a processor for them."""

import torch
from support.pictures import IMAGE, random_images
from support.tiny import SIZES, random_ids
from transformers import CLIPProcessor, ViTImageProcessorPil

from trine import TrineDualEncoder, TrineDualEncoderConfig, train_wordpiece


TEXTS = ["a red square on white", "a blue circle", "the green and small triangle", "two red circles"]
TEXT = {**SIZES, "is_causal": False, "pad_token_id": 0, "eos_token_id": 2}
VISION = {**SIZES, **IMAGE, "hidden_size": 48, "num_channels": 3}


def dual_config(text: dict | None = None, vision: dict | None = None, **fields) -> TrineDualEncoderConfig:
    stacks = {"text_config": {**TEXT, **(text or {})}, "vision_config": {**VISION, **(vision or {})}}
    return TrineDualEncoderConfig(**{"projection_dim": 16, **stacks, **fields})


def dual_encoder(text: dict | None = None, vision: dict | None = None, dtype=torch.float64, **fields):
    """An evaluation-mode model in which every parameter is random; the scale of its logits stays small."""
    torch.manual_seed(0)
    model = TrineDualEncoder(dual_config(text, vision, **fields)).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("logit_"):
                parameter.mul_(4.0).add_(torch.randn_like(parameter), alpha=0.1)
    return model


def batch(pairs: int = 3, length: int = 7, dtype=torch.float64) -> dict[str, torch.Tensor]:
    """Texts that end with the id 2, and as many images."""
    ids = random_ids(pairs, length)
    ids[:, -1] = 2
    return {"input_ids": ids, "pixel_values": random_images(pairs, 3, 12, 12, dtype=dtype)}


def processor(vocab_size: int = 120) -> CLIPProcessor:
    tokenizer = train_wordpiece(TEXTS * 5, vocab_size, show_progress=False, model_max_length=64)
    return CLIPProcessor(ViTImageProcessorPil(size={"height": 12, "width": 12}, do_convert_rgb=True), tokenizer)
