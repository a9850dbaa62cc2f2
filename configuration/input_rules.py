"""The rules of the fields that say what a model reads."""

from typing import Any

from .choices import Choices
from .input_kinds import INPUT_KINDS


def check_inputs(config: Any) -> None:
    """Raises a `ValueError` for a field of another input, and for fields that do not go together with patches."""
    own = dict(INPUT_KINDS[config.input_type].fields)
    for kind, row in INPUT_KINDS.items():
        for name, _ in row.fields:
            if name not in own and name in vars(config):
                raise ValueError(
                    f"{name}={getattr(config, name)!r} is read with input_type={kind!r} only, but "
                    f"input_type={config.input_type!r}."
                )
    if config.input_type == "tokens":
        return
    for name, neutral, reason in NEUTRAL:
        if getattr(config, name) != neutral:
            raise ValueError(
                f"{name}={getattr(config, name)!r} {reason}, but input_type={config.input_type!r}: it must be "
                f"{neutral!r}."
            )
    for kind, rule in PATCH_RULES.items():
        if kind == config.input_type:
            rule(config)


# What a model of patches has no use for: field, the value that says so, and what it is about.
NEUTRAL = (
    ("type_vocab_size", 0, "is a number of segments of texts"),
    ("prefix_lm", False, "is about prefixes of texts"),
    ("add_cross_attention", False, "makes a decoder that looks at another stack"),
    ("retrieval_outputs", None, "are vectors of texts"),
)


def check_grid_rotation(config: Any) -> None:
    """Raises a `ValueError` where two coordinates cannot share the rotation of a head."""
    size = int(config.head_dim * (config.rope_parameters or {}).get("partial_rotary_factor", 1.0))
    if config.has_layered_rope or (config.rope_parameters or {}).get("rope_type", "default") != "default":
        raise ValueError(
            f"rope_parameters={config.rope_parameters} scale positions of texts, but input_type={config.input_type!r} "
            "rotates by rows and columns: leave out all but 'rope_theta' and 'partial_rotary_factor'."
        )
    if size % 4 or size == 0:
        raise ValueError(
            f"head_dim={config.head_dim} rotates {size} features, but with input_type={config.input_type!r} rows and "
            "columns share them in pairs: it must be a multiple of 4."
        )


def check_image(config: Any) -> None:
    """Raises a `ValueError` for sizes of images and patches that do not fit."""
    check_whole_patches("image_size", config.image_size, "patch_size", config.patch_size)
    check_grid(config)


def check_audio(config: Any) -> None:
    """Raises a `ValueError` for sizes of spectrograms and patches that do not fit."""
    for name in ("num_mel_bins", "num_frames"):
        check_whole_patches(name, getattr(config, name), "patch_size", config.patch_size)
    check_grid(config)


def check_series(config: Any) -> None:
    """Raises a `ValueError` for lengths of windows and patches that do not fit, and for a pooler or no median."""
    if config.patch_length > config.context_length:
        raise ValueError(f"patch_length={config.patch_length} is above context_length={config.context_length}.")
    if config.add_pooling_layer:
        raise ValueError("add_pooling_layer=True reads a first token, but with input_type='series' there is none.")
    if config.num_quantiles % 2 == 0:
        raise ValueError(f"num_quantiles={config.num_quantiles} must be odd: the middle one is the median.")
    patches = (config.context_length - config.patch_length) // config.patch_stride + 1
    if config.position_type == "learned" and config.max_position_embeddings < patches:
        raise ValueError(
            f"max_position_embeddings={config.max_position_embeddings} is below the {patches} patches of a window."
        )


def check_grid(config: Any) -> None:
    """Raises a `ValueError` where positions of two coordinates do not fit, or a pooler has nothing to read."""
    if config.position_type == "rope":
        check_grid_rotation(config)
    if config.position_type == "sinusoidal" and config.hidden_size % 4:
        raise ValueError(
            f"hidden_size={config.hidden_size} must be a multiple of 4: with position_type='sinusoidal' rows and "
            "columns have half of the features each, a sine and a cosine for each wave."
        )
    if not config.use_cls_token and config.add_pooling_layer:
        raise ValueError("add_pooling_layer=True reads the class token, but use_cls_token=False.")


def check_whole_patches(name: str, size: int, patch_name: str, patch: int) -> None:
    """Raises a `ValueError` unless a size is a multiple of that of a patch."""
    if size % patch:
        raise ValueError(
            f"{name}={size} is not a multiple of {patch_name}={patch}. The nearest that are: "
            f"{[near for near in (size - size % patch, size - size % patch + patch) if near]}."
        )


PATCH_RULES = Choices("input_type", {"image": check_image, "audio": check_audio, "series": check_series})
