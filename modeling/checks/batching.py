"""Refuses models whose layers transformers' paged cache cannot hold, before continuous batching begins."""

from copy import copy
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig, GenerationMixin

from .paged_serving import check_paged


# In place of all of the memory, which transformers would take: 64 pages of 256 tokens, of which a pass reads 256.
CPU_CACHE = {"num_blocks": 64, "max_batch_tokens": 256}


class BatchingGenerationMixin(GenerationMixin):  # transformers knows by the name that a model can generate
    """Checks of the model before a manager of continuous batching is made."""

    def init_continuous_batching(
        self,
        generation_config: GenerationConfig | None = None,
        continuous_batching_config: ContinuousBatchingConfig | None = None,
        **kwargs,
    ) -> Any:
        """Makes transformers' manager of continuous batching, for `generate_batch` and `transformers serve`.

        On a CPU, sizes of the paged cache that `continuous_batching_config` leaves open are those of `CPU_CACHE`.
        """
        model: Any = self
        check_paged(model.config, "continuous batching")
        if model.device.type == "cpu":
            continuous_batching_config = copy(continuous_batching_config or ContinuousBatchingConfig())
            for name, value in CPU_CACHE.items():
                if getattr(continuous_batching_config, name) is None:
                    setattr(continuous_batching_config, name, value)
        return super().init_continuous_batching(generation_config, continuous_batching_config, **kwargs)


def check_continuous_batching(config: Any) -> None:
    """Raises a `ValueError` for a model that cannot be served with a paged cache."""
    check_paged(config, "continuous batching")
