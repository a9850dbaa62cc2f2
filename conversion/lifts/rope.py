"""Rotary parameters of each layer type, where layers change their type."""

from collections.abc import Sequence

from ...configuration.configuration_trine import TrineConfig


def carry_rope(config: TrineConfig, old_types: Sequence[str]) -> None:
    """Gives every layer type the rotary parameters that its layers had before.

    Args:
        config: With the new layer types, and parameters for the old ones or for all.
        old_types: Of each layer.

    Raises:
        ValueError: Layers of one type now would have had different ones.
    """
    if not config.has_layered_rope:
        return
    parameters = {}
    for index, (old, new) in enumerate(zip(old_types, config.layer_types, strict=True)):
        waves = config.rope_parameters[old]
        if parameters.setdefault(new, waves) != waves:
            raise ValueError(
                f"rope_parameters[{old!r}]={waves} of layer {index} are not those of the other layers that are to be "
                f"{new!r}, {parameters[new]}: choose layers of one type."
            )
    config.rope_parameters = parameters
