"""How much a server takes on, and what it refuses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        batch_requests: Most requests that are answered together.
        batch_tokens: Most tokens in a batch, padding included, when another request joins it.
        batch_wait: Seconds that texts to embed or pairs to rank wait for others.
        max_queue: Most requests that wait for a place in a batch.
        max_tokens: Most tokens of a request, its prompt and its answer; None for as many as the model has positions.
        timeout: Seconds for an answer; None for any.
    """

    batch_requests: int = 16
    batch_tokens: int = 32_768
    batch_wait: float = 0.005
    max_queue: int = 1024
    max_tokens: int | None = None
    timeout: float | None = None
