"""Managers of generation for the handlers of transformers: requests together, or continuous batching with pages."""

import asyncio
from typing import Any

from transformers import ContinuousBatchingConfig
from transformers.cli.serving.utils import CBGenerateManager, GenerationState

from trine.generation.prefixes.prefix_cache import PrefixCache
from trine.scripts.serving.asked import Asked, current
from trine.scripts.serving.batcher import Batcher
from trine.scripts.serving.errors import queue_is_full
from trine.scripts.serving.limits import Limits
from trine.scripts.serving.metrics import Metrics


class Together(CBGenerateManager):
    """Continuous batching in which a request that is abandoned leaves the batch, and too many are refused."""

    def __init__(self, config: ContinuousBatchingConfig | None, limits: Limits, metrics: Metrics):
        super().__init__(config)
        self.limits, self.metrics = limits, metrics
        metrics.watch_queue("generation", self.count_waiting)

    def count_waiting(self) -> int:
        """The number of requests without a place in the batch."""
        return len(self.scheduler.waiting_requests) if self._cb is not None and self._cb.batch_processor else 0

    def check_room(self) -> None:
        """Raises an Unavailable where too many requests wait."""
        if self.count_waiting() >= self.limits.max_queue:
            raise queue_is_full(self.limits.max_queue)

    def generate_streaming(self, model, processor, inputs, gen_config, request_id, response_parser=None):
        """Streams an answer."""
        self.check_room()
        asked = current()
        asked.prompt_tokens = len(inputs["input_ids"])
        queue, streamer = super().generate_streaming(model, processor, inputs, gen_config, request_id, response_parser)
        put, end = streamer.put, streamer.end

        def put_timed(output: Any) -> None:
            if not streamer.total_tokens and output.generated_tokens:
                self.metrics.first_token(asked)
            put(output)

        def end_counted() -> None:
            end()
            self.count(asked, streamer.total_tokens)

        streamer.put, streamer.end = put_timed, end_counted
        return queue, streamer

    async def generate_non_streaming(self, model, processor, inputs, gen_config, request_id):
        """Generates an answer; an abandoned request leaves the batch."""
        self.check_room()
        asked = current()
        asked.prompt_tokens = len(inputs["input_ids"])
        try:
            made = await super().generate_non_streaming(model, processor, inputs, gen_config, request_id)
        except asyncio.CancelledError:
            if self._cb is not None:
                self._cb.cancel_request(request_id)
            raise
        self.count(asked, len(made[2]))
        return made

    def count(self, asked: Asked, new_tokens: int) -> None:
        """Notes what was generated for a request."""
        asked.new_tokens = new_tokens
        self.metrics.generated(asked, has_prefix_cache=False)


class OneModel(GenerationState):
    """transformers' state of generation, with one manager for the one model.

    Args:
        continuous_batching: Whether caches are paged, which only some layers allow.
        options: Sizes of those caches.
        limits: Of batches and queue.
        metrics: Counts.
        prefix_cache: Keeps what was read, without continuous batching.
        default_seed: Of requests without a seed.
    """

    def __init__(
        self,
        continuous_batching: bool = False,
        options: dict[str, Any] | None = None,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        prefix_cache: PrefixCache | None = None,
        default_seed: int | None = None,
    ):
        config = ContinuousBatchingConfig(**options) if options else None
        super().__init__(continuous_batching, cb_config=config)
        self.limits, self.metrics, self.prefix_cache = limits or Limits(), metrics or Metrics(), prefix_cache
        self.manager: Together | Batcher
        if continuous_batching:
            self._cb_manager = self.manager = Together(config, self.limits, self.metrics)  # /health looks at it
        else:
            self.manager = Batcher(self.limits, self.metrics, prefix_cache, default_seed)

    def get_manager(self, model_id: str, use_cb: bool = False) -> Any:
        """Returns the one manager, whatever model is named."""
        return self.manager

    def is_alive(self) -> bool:
        """Whether what generates still runs."""
        return self.manager.is_alive()

    def shutdown(self) -> None:
        """Ends what is being generated."""
        self.manager.stop()
