"""Band masks of sliding and chunked attention, whose size is linear in the length."""

# Shapes: B batch, N tokens; T blocks of C tokens, W keys around a block.

import math

import torch

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from ..kernels.blocks.banded import BandedMask
from .visibility import Visibility


SMALLEST_BLOCK, LARGEST_BLOCK = 16, 128


def band_of_window(config: TrineConfig) -> tuple[int, int, int]:
    """Tokens in a block, and numbers of blocks before and after its own that a token's window can touch."""
    block = 2 ** round(math.log2(max(1, config.sliding_window / 4)))  # smaller ones see less in vain, but are more
    block = min(max(block, SMALLEST_BLOCK), LARGEST_BLOCK)
    if config.is_causal:
        return block, -(-(config.sliding_window - 1) // block), 0
    reach = -(-config.sliding_window // block)
    return block, reach, reach


def band_of_chunks(config: TrineConfig) -> tuple[int, int, int]:
    """Tokens in a block, and numbers of blocks before and after its own that a token's chunk can touch.

    Chunks may begin within a block: there may be padding on the left.
    """
    return config.attention_chunk_size, 1, 0 if config.is_causal else 1


def see_sliding(config: TrineConfig, distance: torch.Tensor) -> torch.Tensor:
    """Whether a key at `distance` tokens before the query is in the window, for each distance (...)."""
    if config.is_causal:
        return (distance >= 0) & (distance < config.sliding_window)
    return distance.abs() <= config.sliding_window


def see_chunked(config: TrineConfig, distance: torch.Tensor) -> torch.Tensor:
    """Whether a key of the same chunk at `distance` tokens before the query is visible, for each distance (...)."""
    return distance >= 0 if config.is_causal else torch.ones_like(distance, dtype=torch.bool)


def number_chunks(config: TrineConfig, positions: torch.Tensor, visibility: Visibility) -> torch.Tensor:
    """Numbers (B or 1, N) that are equal for tokens of one chunk of one sequence.

    With padding they are counted from the first token that is none, as transformers does; else an encoder counts
    positions.
    """
    is_token, segments = visibility.is_token, visibility.segments
    if segments is None and (config.is_causal or is_token is not None):
        positions = torch.arange(positions.shape[1], device=positions.device)[None]
        if is_token is not None:
            positions = positions - is_token.int().argmax(dim=1, keepdim=True)
    chunks = torch.div(positions, config.attention_chunk_size, rounding_mode="floor")
    return chunks if segments is None else chunks + segments.long() * positions.shape[1]


def number_sequences(config: TrineConfig, positions: torch.Tensor, visibility: Visibility) -> torch.Tensor | None:
    """Numbers (B, N) that are equal for tokens of one sequence, or None if no row packs several."""
    return visibility.segments


BANDS = Choices(
    "layer_types",
    {
        "sliding_attention": (band_of_window, see_sliding, number_sequences),
        "chunked_attention": (band_of_chunks, see_chunked, number_chunks),
    },
)


def make_banded_mask(
    config: TrineConfig,
    layer_type: str,
    positions: torch.Tensor,
    visibility: Visibility,
    counts_from_zero: bool,
) -> BandedMask | None:
    """The mask of a whole text, or None where a band would be as wide as the text.

    Args:
        positions: (B or 1, N).
        visibility: The padding or the packed sequences of the batch.
        counts_from_zero: Whether positions are those of the tokens in a row.
    """
    find_band, see, number = BANDS[layer_type]
    block, back, ahead = find_band(config)
    belong_together = visibility.is_token is None and visibility.segments is None
    if layer_type == "chunked_attention" and belong_together and (counts_from_zero or config.is_causal):
        back = ahead = 0  # chunks are blocks
    length, device = positions.shape[1], positions.device
    if (back + 1 + ahead) * block >= length:
        return None
    num_blocks = -(-length // block)
    queries = torch.arange(num_blocks * block, device=device).view(num_blocks, block, 1)
    keys = torch.arange(-back * block, (1 + ahead) * block, device=device) + queries[:, :1]
    visible = (see(config, queries - keys) & (keys >= 0) & (keys < length))[None]
    numbers = number(config, positions, visibility)
    rows, columns = queries.clamp(max=length - 1), keys.clamp(0, length - 1)
    if numbers is not None:
        visible = visible & (numbers[:, rows] == numbers[:, columns])
    if visibility.is_token is not None:
        visible = visible & visibility.is_token[:, columns]
    # PyTorch gives zeros to padding that sees no token, as it does with transformers' masks, which cached texts have.
    return BandedMask(visible, back, ahead)


# What `masks.py` looks up, so that other models need none of this.
BANDED_MASKS = Choices("layer_types", {"sliding_attention": make_banded_mask, "chunked_attention": make_banded_mask})
CHUNK_NUMBERS = Choices("layer_types", {"chunked_attention": number_chunks})
