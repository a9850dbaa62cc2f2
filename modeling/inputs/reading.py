"""Reading of what is not tokens: the step of a trunk's forward pass that makes patches of it."""

from typing import Any

import torch

from ...configuration.choices import Choices, in_package
from ...configuration.input_kinds import INPUT_KINDS


def read_patches(
    model: Any,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    kwargs: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embeds what the model reads, which it takes out of `kwargs`; coordinates for rotations are put there.

    Returns:
        Embeddings (batch, length, hidden), and positions: those given, or such as begin again with each item of a
        list, or None.

    Raises:
        ValueError: Ids, embeddings or segments are given, or nothing is.
    """
    config, patches = model.config, model.embed_tokens
    name, *options = INPUT_KINDS[config.input_type].reads
    given_values = [kwargs.pop(each, None) for each in (name, *INPUT_KINDS[config.input_type].aliases)]
    values = next((each for each in given_values if each is not None), None)
    given = {option: kwargs.pop(option) for option in options if option in kwargs}
    if values is None or input_ids is not None or inputs_embeds is not None:
        wrong = [
            key for key, value in (("input_ids", input_ids), ("inputs_embeds", inputs_embeds)) if value is not None
        ]
        raise ValueError(
            f"input_type={config.input_type!r} reads {name}, which is {'missing' if values is None else 'given'}"
            + (f", and not {wrong[0]}, which is given." if wrong else ".")
        )
    if getattr(model.positions, "reads_coordinates", False):
        kwargs["coordinates"] = patches.coordinates(values)
    if position_ids is None:
        position_ids = patches.packed_positions(values)
    return patches(values, **given), position_ids


def check_other_inputs(config: Any, kwargs: dict[str, Any]) -> None:
    """Raises a `ValueError` for what models of another input read."""
    own = (*INPUT_KINDS[config.input_type].reads, *INPUT_KINDS[config.input_type].aliases)
    for kind, row in INPUT_KINDS.items():
        for name in (*row.reads, *row.aliases):
            if name not in own and kwargs.get(name) is not None:
                raise ValueError(
                    f"{name} is read with input_type={kind!r}, but this model has input_type={config.input_type!r} "
                    f"and reads {own[0]}."
                )


READERS = Choices("input_type", {"image": read_patches, "audio": read_patches, "series": read_patches})
OTHER_INPUTS = in_package((check_other_inputs,))
