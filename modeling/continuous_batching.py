"""Which models continuous batching serves: those whose layers the library's paged cache can hold."""

from copy import copy
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from ..configuration.kinds import ATTENTION_KINDS, POSITION_KINDS


# In place of all of the memory, which the library would take: 64 pages of 256 tokens, of which a pass reads 256.
CPU_CACHE = {"num_blocks": 64, "max_batch_tokens": 256}
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")  # whose frequencies follow the longest sequence of a batch


class CheckedContinuousBatching:
    """Stands before the library's `GenerationMixin` among the bases of a class: checks before a manager is made."""

    def init_continuous_batching(
        self,
        generation_config: GenerationConfig | None = None,
        continuous_batching_config: ContinuousBatchingConfig | None = None,
        **kwargs,
    ) -> Any:
        """The library's manager of continuous batching, behind `generate_batch` and `transformers serve`.

        What `continuous_batching_config` does not say of the size of the paged cache is `CPU_CACHE` on a CPU.
        """
        model: Any = self
        check_continuous_batching(model.config)
        if model.device.type == "cpu":
            continuous_batching_config = copy(continuous_batching_config or ContinuousBatchingConfig())
            for name, value in CPU_CACHE.items():
                if getattr(continuous_batching_config, name) is None:
                    setattr(continuous_batching_config, name, value)
        return super().init_continuous_batching(generation_config, continuous_batching_config, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] the mixin's


def check_continuous_batching(config: Any) -> None:
    """Refuses a model that continuous batching would not serve, or not with the outputs of `generate`.

    Raises:
        ValueError: The model is not a decoder by itself, or one of its kinds does not fit, with what does.
    """
    if config.is_encoder_decoder or config.add_cross_attention:
        raise ValueError(
            "Continuous batching serves decoders without cross-attention, but "
            f"model_type='{config.model_type}' has is_encoder_decoder={config.is_encoder_decoder}, "
            f"add_cross_attention={getattr(config, 'add_cross_attention', None)}; use generate."
        )
    layers = [kind for kind, row in ATTENTION_KINDS.items() if row.paged]
    for index, kind in enumerate(config.attention_types):
        if kind not in layers:
            raise ValueError(
                f"attention_types[{index}]='{kind}' is not one of {layers}, which continuous batching serves; "
                "use generate."
            )
    positions = [kind for kind, row in POSITION_KINDS.items() if row.paged]
    if config.position_type not in positions:
        raise ValueError(
            f"position_type='{config.position_type}' is not one of {positions}, which continuous batching serves; "
            "use generate."
        )
    for layer_type in config.layer_types:
        rope_type = config.rope_parameters_of(layer_type).get("rope_type")
        if rope_type in LENGTH_DEPENDENT_ROPE:
            raise ValueError(
                f"rope_parameters['rope_type']='{rope_type}' is one of {list(LENGTH_DEPENDENT_ROPE)}: its frequencies "
                "follow the longest sequence, so that requests served together would change each other; use generate."
            )
