"""Dual encoders to train: a saved one, or a new one, perhaps on a trained stack that reads texts."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer, CLIPProcessor, ViTImageProcessorPil

from trine import TrineConfig, TrineDualEncoder, TrineDualEncoderConfig, TrineModel, train_wordpiece
from trine.tokenization.loading import fit_inputs
from trine.training.new_heads import without_load_report


# A small model, unless `config_overrides` says otherwise.
STACK: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4}
SMALL: dict[str, dict[str, Any]] = {
    "text": {**STACK, "num_hidden_layers": 2},
    "vision": {**STACK, "num_hidden_layers": 4, "position_type": "learned", "use_cls_token": False},
}


def split_overrides(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Fields of the whole under `""`, and those of stacks, which are given as `text.hidden_size`, by their names.

    Raises:
        ValueError: There is no such stack.
    """
    parts: dict[str, dict[str, Any]] = {"": {}, "text": {}, "vision": {}}
    for name, value in given.items():
        stack, _, field = name.rpartition(".")
        if stack not in parts:
            raise ValueError(
                f"config_overrides has {name!r}; fields of a stack begin with 'text.' or 'vision.', others with none."
            )
        parts[stack][field] = value
    return parts


def load_dual(name: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """A saved dual encoder of Trine or transformers, in float32, with its processor.

    Raises:
        OSError: It cannot be read.
        ValueError: It is a model of another kind.
    """
    options = {"trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(name, **options)
    if not hasattr(config, "vision_config") or not hasattr(config, "text_config"):
        raise ValueError(f"model='{name}' is of model_type='{config.model_type}', which is no dual encoder.")
    model = AutoModel.from_pretrained(name, dtype="float32", **options)
    return model, AutoProcessor.from_pretrained(name, **options)


def make_dual(
    captions: Sequence[str],
    sizes: Mapping[str, int],
    overrides: Mapping[str, Any],
    text_model: str | None,
    vocab_size: int,
    max_length: int,
) -> tuple[TrineDualEncoder, CLIPProcessor]:
    """A new model with its processor.

    Args:
        captions: What a tokenizer is trained on, where no stack that reads texts is named.
        sizes: `image_size` and `patch_size`.
        overrides: Fields of the config, as of `split_overrides`.
        text_model: Folder or Hub id of a trained encoder of Trine with its tokenizer.
        vocab_size: Tokens of a new tokenizer.
        max_length: Tokens of a caption.

    Raises:
        OSError: The stack cannot be read.
        ValueError: It is not Trine's, or fields that do not fit.
    """
    parts, trunk = split_overrides(overrides), None
    if text_model is None:
        tokenizer = train_wordpiece(captions, vocab_size, show_progress=False, model_max_length=max_length)
        text = {**SMALL["text"], "max_position_embeddings": max_length, **parts["text"]}
        text |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    else:
        config = AutoConfig.from_pretrained(text_model)
        if config.model_type != TrineConfig.model_type:
            raise ValueError(
                f"text_model='{text_model}' is of model_type='{config.model_type}', but must be a Trine encoder: "
                "trine convert makes one of a BERT."
            )
        tokenizer = AutoTokenizer.from_pretrained(text_model)
        with without_load_report():
            trunk = TrineModel.from_pretrained(text_model, dtype="float32", add_pooling_layer=False, **parts["text"])
        text = trunk.config
    vision = {**SMALL["vision"], **sizes, **parts["vision"]}
    own = {"projection_dim": STACK["hidden_size"], **parts[""]}
    config = TrineDualEncoderConfig(text_config=text, vision_config=vision, **own)
    fit_inputs(tokenizer, config.text_config)
    model = TrineDualEncoder(config)
    if trunk is not None:
        model.text_model.load_state_dict(trunk.state_dict())
    size = config.vision_config.image_size  # pyright: ignore[reportAttributeAccessIssue] of models of images
    image_processor = ViTImageProcessorPil(size={"height": size, "width": size}, do_convert_rgb=True)
    return model, CLIPProcessor(image_processor, tokenizer)


def side_of(processor: Any) -> int:
    """Height and width that the processor gives to pictures.

    Raises:
        ValueError: It makes no squares.
    """
    size: Any = processor.image_processor.size
    crop: Any = getattr(processor.image_processor, "crop_size", None)
    for found in (dict(each) for each in (crop, size) if each):
        if found.get("height") is not None and found["height"] == found.get("width"):
            return int(found["height"])
    raise ValueError(f"The image processor makes pictures of size={dict(size)}, but must make squares.")
