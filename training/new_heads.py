"""Loads a model with a new head, with one line about it in place of transformers' report of missing weights."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_load_report() -> Iterator[None]:
    """Holds back transformers' LOAD REPORT, and nothing else, while a model is loaded."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def describe_new_weights(model: Any, info: Mapping[str, Any]) -> str | None:
    """A line that names the weights that were not in the checkpoint: the head, or more; None if all were there.

    Args:
        info: As `from_pretrained(..., output_loading_info=True)` returns it beside the model.
    """
    names = {*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])}
    if not names:
        return None
    trunk = sorted(name for name in names if name.startswith(f"{model.base_model_prefix}."))
    if trunk:
        return f"These weights of the trunk are not in the checkpoint, and random: {', '.join(trunk)}."
    return f"The head is new: {', '.join(sorted(names))}."


def check_shapes(info: Mapping[str, Any], name: str) -> None:
    """Checks that all tensors of a checkpoint fit into the model, loaded with `ignore_mismatched_sizes`.

    Args:
        info: As for `describe_new_weights`.
        name: The checkpoint, for the message.

    Raises:
        ValueError: One has another shape than the model's config, with what overrides it, asks for.
    """
    for key, saved, asked in sorted(info["mismatched_keys"]):
        raise ValueError(
            f"config_overrides do not fit the weights of model='{name}': its '{key}' has the shape {tuple(saved)}, "
            f"where the config now asks for {tuple(asked)}."
        )
