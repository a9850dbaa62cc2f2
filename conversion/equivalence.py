"""Checks that two checkpoints compute the same, on random tokens or images."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel


# What is compared: outputs with a value for every token, and those with one for a sequence.
TOKEN_OUTPUTS = ("logits", "prediction_logits", "start_logits", "end_logits", "last_hidden_state")
TOKEN_OUTPUTS += ("token_weights", "embeddings")  # of `TrineForRetrieval`, and so `dense`
SEQUENCE_OUTPUTS = ("logits", "seq_relationship_logits", "pooler_output", "dense", "reconstruction")
SEQUENCE_OUTPUTS += ("logits_per_image", "text_embeds", "image_embeds")
TOLERANCE = 1e-5  # of the largest output, or of 1 where all are smaller


def random_inputs(config: Any, class_name: str, length: int | None = None, batch: int = 2) -> dict[str, torch.Tensor]:
    """Random ids and masks (batch, length) of texts, all but the first of which are padded on the right.

    Both sides understand them.

    Args:
        config: Of the source.
        class_name: Of the source.
        length: Tokens of a text. Default: 24, or half of its positions where they are fewer.
        batch: Number of texts.
    """
    generator = torch.Generator().manual_seed(0)
    if hasattr(config, "image_size"):
        return random_images(config, class_name, batch, generator)
    if hasattr(config, "vision_config"):
        images = random_images(config.vision_config, class_name, batch, generator)
        return {**random_texts(config.text_config, batch, generator), **images}
    special = {config.pad_token_id, *(getattr(config, name, None) for name in ("bos_token_id", "eos_token_id"))}
    # Not the last rows of a table of positions, which begin after the padding id in some families.
    length = int(length or min(24, max(2, getattr(config, "max_position_embeddings", None) or 48) // 2))
    tokens = torch.tensor([token for token in range(min(config.vocab_size, 100_000)) if token not in special])
    shape = (batch, 2, length) if class_name.endswith("MultipleChoice") else (batch, length)
    ids = tokens[torch.randint(len(tokens), shape, generator=generator)]
    mask = torch.ones_like(ids)
    if config.pad_token_id is not None:
        mask[1:, ..., length - length // 3 :] = 0
        ids = ids.masked_fill(mask == 0, config.pad_token_id)
    elif class_name.endswith("SequenceClassification") and not class_name.startswith("Trine"):
        ids, mask = ids[:1], mask[:1]  # without a padding token transformers takes one text at a time
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.randint(config.type_vocab_size, shape, generator=generator)
    if config.is_encoder_decoder and "Encoder" not in class_name:
        inputs["decoder_input_ids"] = tokens[torch.randint(len(tokens), (batch, length), generator=generator)]
    return inputs


def random_texts(config: Any, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random ids (batch, positions) of texts that end with the id of their end, as those of a dual encoder."""
    length = config.max_position_embeddings
    ids = torch.randint(min(config.vocab_size, 100_000), (batch, length), generator=generator)
    if isinstance(config.eos_token_id, int) and config.eos_token_id < config.vocab_size:
        ids[:, -1] = config.eos_token_id
    return {"input_ids": ids}


def random_images(config: Any, class_name: str, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random images (batch, channels, height, width) of a source, with hidden patches for one that paints them."""
    size, patch = (value if isinstance(value, int) else value[0] for value in (config.image_size, config.patch_size))
    inputs = {"pixel_values": torch.randn((batch, config.num_channels, size, size), generator=generator)}
    if "Masked" in class_name:
        inputs["bool_masked_pos"] = torch.rand((batch, (size // patch) ** 2), generator=generator) < 0.5
    return inputs


@torch.no_grad()
def largest_difference(source: PreTrainedModel, trine: PreTrainedModel, class_name: str) -> tuple[float, float]:
    """The largest difference between all outputs of real tokens, and the largest output."""
    inputs = random_inputs(source.config, class_name)
    return compare_outputs(source.eval()(**inputs), trine.eval()(**inputs), inputs)


def compare_outputs(expected: Any, actual: Any, inputs: dict[str, torch.Tensor]) -> tuple[float, float]:
    """The largest difference between what two models returned for real tokens of `inputs`, and the largest output."""
    mask = inputs["attention_mask"] == 1 if "attention_mask" in inputs else torch.ones((0, 0))
    differences, sizes = [], []
    for name in {*TOKEN_OUTPUTS, *SEQUENCE_OUTPUTS}:
        theirs, ours = expected.get(name), actual.get(name)
        if theirs is None or ours is None:
            continue
        if name in TOKEN_OUTPUTS and theirs.shape[: mask.ndim] == mask.shape and "decoder_input_ids" not in inputs:
            theirs, ours = theirs[mask], ours[mask]
        differences.append((theirs - ours).abs().max())
        sizes.append(theirs.abs().max())
    # Python's own `max` would lose a NaN.
    return torch.stack(differences).max().item(), torch.stack(sizes).max().item()


def check_equivalence(source: Path, source_class: Any, trine: Path, trine_class: Any) -> float:
    """Loads both in float32 and returns their largest difference.

    Raises:
        ValueError: It is above `TOLERANCE`.
    """
    options = {"dtype": torch.float32}
    models = source_class.from_pretrained(source, **options), trine_class.from_pretrained(trine, **options)
    difference, size = largest_difference(*models, source_class.__name__)
    if not difference <= TOLERANCE * max(1.0, size):
        raise ValueError(
            f"The outputs of {source_class.__name__} and {trine_class.__name__} differ by up to {difference:.3g}, "
            f"where the largest is {size:.3g}; {TOLERANCE} of that is allowed."
        )
    return difference
