"""Captioners to train: a saved one, or a new one, perhaps on a trained decoder."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, AutoProcessor, AutoTokenizer, LlavaProcessor, ViTImageProcessorPil

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForImageTextToText,
    TrineImageTextConfig,
    train_byte_level_bpe,
)
from trine.scripts.jobs.dual_models import SMALL, split_overrides


IMAGE_TOKEN = "<image>"  # transformers' processor of LLaVA looks for it


def load_captioner(name: str) -> tuple[TrineForImageTextToText, Any]:
    """A saved captioner of Trine, in float32, with its processor.

    Raises:
        OSError: It cannot be read.
        ValueError: It is a model of another kind.
    """
    config = AutoConfig.from_pretrained(name)
    if config.model_type != TrineImageTextConfig.model_type:
        raise ValueError(
            f"model='{name}' is of model_type='{config.model_type}', but must be a captioner of Trine: "
            f"model_type='{TrineImageTextConfig.model_type}'."
        )
    model = TrineForImageTextToText.from_pretrained(name, dtype="float32")
    return model, AutoProcessor.from_pretrained(name)


def make_captioner(
    captions: Sequence[str],
    sizes: Mapping[str, int],
    overrides: Mapping[str, Any],
    text_model: str | None,
    vocab_size: int,
) -> tuple[TrineForImageTextToText, LlavaProcessor]:
    """A new model with its processor.

    Args:
        captions: What a tokenizer is trained on, where no decoder is named.
        sizes: `image_size` and `patch_size`.
        overrides: Fields of the config, as of `split_overrides`.
        text_model: Folder or Hub id of a trained decoder of Trine with its tokenizer.
        vocab_size: Tokens of a new tokenizer.

    Raises:
        OSError: The decoder cannot be read.
        ValueError: It is none of Trine, its tokenizer cannot end a text, or fields do not fit.
    """
    parts, trunk = split_overrides(overrides), None
    if text_model is None:
        tokenizer = train_byte_level_bpe(captions, vocab_size, show_progress=False, extra_special_tokens=[IMAGE_TOKEN])
        ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        text: Any = {**SMALL["text"], **parts["text"], "vocab_size": len(tokenizer), **ids}
    else:
        trunk, tokenizer = load_decoder(text_model, parts["text"])
        text = trunk.config
    vision = {**SMALL["vision"], **sizes, **parts["vision"]}
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    config = TrineImageTextConfig(
        **{"text_config": text, "vision_config": vision, "image_token_id": image, **parts[""]}
    )
    model = TrineForImageTextToText(config)
    if trunk is not None:
        model.language_model.load_state_dict(trunk.state_dict())
    size: Any = config.vision_config.image_size  # pyright: ignore[reportAttributeAccessIssue] of models of images
    image_processor = ViTImageProcessorPil(size={"height": size, "width": size}, do_convert_rgb=True)
    patch: Any = config.vision_config.patch_size  # pyright: ignore[reportAttributeAccessIssue] likewise
    options: Any = {"patch_size": patch, "vision_feature_select_strategy": "full"}
    return model, LlavaProcessor(image_processor, tokenizer, **options)


def load_decoder(name: str, overrides: Mapping[str, Any]) -> tuple[TrineForCausalLM, Any]:
    """A trained decoder and its tokenizer, both with a token for patches of pictures.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none of Trine, or its tokenizer has no token that ends a text.
    """
    config = AutoConfig.from_pretrained(name)
    if config.model_type != TrineConfig.model_type or not config.is_causal:
        raise ValueError(
            f"text_model='{name}' is of model_type='{config.model_type}' with "
            f"is_causal={getattr(config, 'is_causal', None)}, but must be a Trine decoder: trine pretrain trains one."
        )
    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"text_model='{name}': eos_token=None, but a caption needs a token that ends it.")
    trunk = TrineForCausalLM.from_pretrained(name, dtype="float32", **overrides)
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    if len(tokenizer) > trunk.config.vocab_size:
        trunk.resize_token_embeddings(len(tokenizer))
    trunk.config.eos_token_id = tokenizer.eos_token_id
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    trunk.config.pad_token_id = tokenizer.pad_token_id
    return trunk, tokenizer
