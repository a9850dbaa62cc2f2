"""Which models continuous batching serves: those whose layers transformers' paged cache can hold."""

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
        """Transformers' manager of continuous batching, behind `generate_batch` and `transformers serve`.

        What `continuous_batching_config` does not say of the size of the paged cache is `CPU_CACHE` on a CPU.
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
    """Refuses what `check_paged` refuses."""
    check_paged(config, "continuous batching")
