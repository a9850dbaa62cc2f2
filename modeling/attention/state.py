"""The short way to a mixer of one's own with a state: what a token brings, and how the state reads it."""

# Shapes: B batch, H query heads, G key-value heads, N tokens, D head size.

from functools import partial

import torch
from transformers.cache_utils import Cache

from ..caches.scanned import ScannedCacheLayer
from ..masks.visibility import EVERYTHING, Visibility
from .softmax import SoftmaxAttention


class StateAttention(SoftmaxAttention):
    """A layer that reads a text from left to right, through a state whose size no text changes.

    A subclass says what a token brings (`inputs`), how a state reads tokens (`scan`), and with which inputs a token
    changes nothing (`without_padding`). It keeps projections, heads, query-key norm, rotary positions, packed texts,
    and the cache in every way of decoding. Grouped heads are repeated. Decoders only.
    """

    cache_layer_class = ScannedCacheLayer
    causal_only = True

    def inputs(
        self, hidden_states: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The inputs of `scan` for each token, tensors (B, H, N, ...). By default queries, keys and values.

        Args:
            hidden_states: (B, N, hidden), for what depends on nothing else, such as a gate.
            query: (B, H, N, D), rotated if positions rotate; so are `key` and `value`.
        """
        return query, key, value

    def without_padding(self, inputs: tuple[torch.Tensor, ...], is_token: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The inputs, but such that a place where `is_token` (B, 1, N) is False leaves the state as it is.

        By default 0 for all of them, which is right where a token adds something to the state, and nothing else.
        """
        return tuple(part * is_token.view(*is_token.shape, *[1] * (part.dim() - 3)) for part in inputs)

    def scan(
        self, state: tuple[torch.Tensor, ...] | None, *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Reads tokens one after the other.

        Args:
            state: Tensors whose first axis is the batch, and whose sizes do not depend on the text; None before the
                first token.
            inputs: What `inputs` returned, perhaps of some of the tokens.

        Returns:
            The outputs (B, H, N, D), and the state after these tokens.
        """
        raise NotImplementedError

    def forward(
        self,
        hidden_states: torch.Tensor,
        visibility: Visibility = EVERYTHING,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, None]:
        """Mixes the tokens of `hidden_states` (B, N, hidden); returns the same shape, and no weights."""
        query, key, value = self.project(hidden_states, position_embeddings)
        if self.num_key_value_groups > 1:
            key, value = (states.repeat_interleave(self.num_key_value_groups, dim=1) for states in (key, value))
        inputs = self.inputs(hidden_states, query, key, value)
        if visibility.is_token is not None:
            inputs = self.without_padding(inputs, visibility.is_token[:, None, -query.shape[2] :])
        scan = self.scan
        if visibility.segments is not None:
            scan = partial(self.scan_apart, visibility.segments)
        if past_key_values is not None:
            output, _ = past_key_values.update(key, value, self.layer_idx, inputs=inputs, scan=scan)
        else:
            output, _ = scan(None, *inputs)
        return self.o_proj(output.to(value.dtype).transpose(1, 2).flatten(2)), None

    def scan_apart(
        self, segments: torch.Tensor, state: None, *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """As `scan`, where each row packs sequences, whose tokens have one number in `segments` (B, N).

        The state is that of the last sequence.
        """
        outputs, states = [], []
        for row, numbers in enumerate(segments):
            lengths = numbers.unique_consecutive(return_counts=True)[1].tolist()
            parts = zip(*(part[row : row + 1].split(lengths, dim=2) for part in inputs), strict=True)
            read = [self.scan(state, *part) for part in parts]
            outputs.append(torch.cat([output for output, _ in read], dim=2))
            states.append(read[-1][1])
        return torch.cat(outputs), tuple(torch.cat(tensors) for tensors in zip(*states, strict=True))
