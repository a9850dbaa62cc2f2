"""Attention masks and position ids: made once a forward pass, for each attention type that the model has."""

# Shapes: B batch, Q queries, K keys.

from collections.abc import Callable, Collection
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.masking_utils import (
    and_masks,
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    create_causal_mask,
    create_chunked_causal_mask,
    create_sliding_window_causal_mask,
    find_packed_sequence_indices,
)
from transformers.utils.import_utils import is_tracing

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from ...configuration.kinds import ATTENTION_KINDS, POSITION_KINDS
from ..checks.caches import has_fixed_length, reads_empty_places
from .bands import BANDED_MASKS, CHUNK_NUMBERS
from .visibility import EVERYTHING, Visibility


def make_position_ids(
    inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None, past_key_values: Cache | None
) -> torch.Tensor:
    """Counts the real tokens of each sequence from 0, so that padding on the left shifts nothing.

    Args:
        inputs_embeds: (B, Q, hidden).
        attention_mask: (B, K) with 1 for a token, 0 for padding. Any other form says nothing about padding.
        past_key_values: The cache, which knows how many tokens came before.

    Returns:
        (B, Q), or (1, Q) if there is no padding mask.
    """
    length = inputs_embeds.shape[1]
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
        return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -length:].to(inputs_embeds.device)
    past = past_key_values.get_seq_length() if past_key_values is not None else 0
    return (torch.arange(length, device=inputs_embeds.device) + past)[None]


def same_group(groups: torch.Tensor) -> Callable:
    """Mask function that lets a token see the tokens of its own group; `groups` is (B, K)."""

    def inner_mask(batch_idx, head_idx, q_idx, kv_idx):
        return groups[batch_idx, q_idx] == groups[batch_idx, kv_idx]

    return inner_mask


def tell_sequences_apart(
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    position_ids: torch.Tensor | None,
    lengths: list[int] | None,
) -> Visibility:
    """Finds padding or packed sequences in a batch: `is_token` or `segments`, or neither where all belong together.

    Args:
        inputs_embeds: (B, Q, hidden).
        attention_mask: (B, K) with 1 for a token, 0 for padding.
        past_key_values: The cache, or None if it is empty.
        position_ids: (B, Q), or None if they were not given. Without a mask and a cache, positions that start again
            begin another segment.
        lengths: What `packed_lengths` found.

    Raises:
        ValueError: For a ready mask, which may hide what neither field can say.
    """
    device = inputs_embeds.device
    if attention_mask is not None:
        if attention_mask.ndim != 2:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, but layers of the kinds "
                f"{list(kinds_by_tokens())} read a padding mask (batch, length): they make no table of all pairs of "
                "tokens that a mask (batch, 1, queries, keys) could act on."
            )
        length = inputs_embeds.shape[1] + (past_key_values.get_seq_length() if past_key_values is not None else 0)
        is_token = attention_mask[:, :length] != 0
        if not is_tracing(is_token) and bool(is_token.all()):
            return EVERYTHING
        return Visibility(is_token=is_token.to(device))
    if lengths is not None:
        numbers = torch.arange(1, len(lengths) + 1, device=device, dtype=torch.int32)
        return Visibility(segments=numbers.repeat_interleave(torch.tensor(lengths, device=device))[None])
    packed = None
    if position_ids is not None and past_key_values is None:
        packed = find_packed_sequence_indices(position_ids)
    return EVERYTHING if packed is None else Visibility(segments=(packed + 1).to(torch.int32))


def encoder_overlay(
    config: TrineConfig,
    layer_type: str,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
) -> Callable | None:
    """A mask function that hides other chunks and other packed sequences from an encoder's tokens, or None.

    Transformers looks for packed sequences in causal masks only.
    """
    overlays = []
    packed = None
    if attention_mask is None and position_ids is not None:
        packed = find_packed_sequence_indices(position_ids.expand(len(inputs_embeds), -1))
    if packed is not None:
        overlays.append(same_group(packed))
    if layer_type in CHUNK_NUMBERS:
        is_token = attention_mask != 0 if attention_mask is not None and attention_mask.ndim == 2 else None
        positions = make_position_ids(inputs_embeds, attention_mask, None) if position_ids is None else position_ids
        numbers = CHUNK_NUMBERS[layer_type](config, positions, Visibility(is_token=is_token))
        overlays.append(same_group(numbers.expand(len(inputs_embeds), -1)))
    return and_masks(*overlays) if overlays else None


def encoder_masks(
    first_layers: dict[str, int],
    position_ids: torch.Tensor | None,
    *,
    config: TrineConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
) -> dict[str, Any]:
    """The mask of each type of layer of an encoder. Arguments are those of `decoder_masks`."""
    return {
        layer_type: ENCODER_MASKS[layer_type](
            config=config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            and_mask_function=encoder_overlay(config, layer_type, inputs_embeds, attention_mask, position_ids),
        )
        for layer_type in first_layers
    }


def decoder_masks(
    first_layers: dict[str, int],
    position_ids: torch.Tensor | None,
    *,
    inputs_embeds: torch.Tensor,
    past_key_values: Cache | None,
    **arguments,
) -> dict[str, Any]:
    """The mask of each type of layer.

    Args:
        first_layers: Each type that needs one, and its first layer.
        position_ids: (B or 1, Q), where they may pack sequences: looking for these reads them on the host.
        arguments: What transformers' functions read, as `inputs_embeds` and `past_key_values`.
    """
    length = inputs_embeds.shape[1]
    return {
        layer_type: DECODER_MASKS[layer_type](
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            position_ids=position_ids,
            layer_idx=index,
            allow_is_causal_skip=not reads_empty_places(past_key_values, index, length),
            **arguments,
        )
        for layer_type, index in first_layers.items()
    }


class BooleanMasks:
    """A config as transformers' mask functions read it, of which they make booleans, whatever computes attention."""

    _attn_implementation = "sdpa"

    def __init__(self, config: TrineConfig):
        self.is_causal = config.is_causal


def see_pairs(
    config: TrineConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    position_ids: torch.Tensor | None = None,
    layer_idx: int | None = None,
    and_mask_function: Callable | None = None,
    **kwargs,
) -> torch.Tensor | None:
    """Booleans (B, 1, Q, K) that say which keys a query of a `PairwiseAttention` sees, None if it is all of them."""
    is_one_token = config.is_causal and inputs_embeds.shape[1] == 1
    if is_one_token and attention_mask is None and not reads_empty_places(past_key_values, layer_idx or 0, 1):
        return None
    mask = create_causal_mask(
        config=BooleanMasks(config),  # pyright: ignore[reportArgumentType] as much of a config as is read
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        past_key_values=past_key_values,
        position_ids=position_ids,
        layer_idx=layer_idx,
        and_mask_function=and_mask_function,
        allow_is_causal_skip=not config.is_causal,
    )
    if mask is None or mask.dtype == torch.bool:
        return mask
    return mask > torch.finfo(mask.dtype).min / 2  # a ready mask, which was to be added to scores


DECODER_MASKS = Choices(
    "layer_types",
    {
        "full_attention": create_causal_mask,
        "sliding_attention": create_sliding_window_causal_mask,
        "chunked_attention": create_chunked_causal_mask,
        "pairwise_attention": see_pairs,
    },
)
ENCODER_MASKS = Choices(
    "layer_types",
    {
        "full_attention": create_bidirectional_mask,
        "sliding_attention": create_bidirectional_sliding_window_mask,
        "chunked_attention": create_bidirectional_mask,
        "pairwise_attention": see_pairs,
    },
)
# Of the types whose caches give the last keys alone, how many those are.
WINDOWS = Choices("layer_types", {"sliding_attention": lambda config: config.sliding_window})
PAIR_MASKS = Choices("is_causal", {True: decoder_masks, False: encoder_masks})


def kinds_by_tokens() -> dict[str, str]:
    """The kinds that make no table of pairs, each with its layer type."""
    return {kind: row.layer_type for kind, row in ATTENTION_KINDS.items() if row.sees_by == "tokens"}


def banded_types(config: TrineConfig, attention_mask: torch.Tensor | None, past_key_values: Cache | None) -> set[str]:
    """The types whose masks may be bands: where PyTorch's own kernel is asked for, which has no windows.

    Not where the mask is a ready one, a bias is added to the scores, or cached tokens come first, few of which are
    visible then; and an exported program serves texts of all lengths.
    """
    is_padding = attention_mask is None or attention_mask.ndim == 2
    adds_bias = POSITION_KINDS[config.position_type].adds_bias
    hinders = adds_bias or torch.compiler.is_exporting() or past_key_values is not None
    if hinders or not is_padding or config._attn_implementation != "sdpa":
        return set()
    return set(BANDED_MASKS)


def see_without_masks(
    config: TrineConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    position_ids: torch.Tensor | None,
    lengths: list[int] | None,
) -> dict[str, Visibility]:
    """Makes what the layers see that need no table of pairs, by type. Arguments are those of `make_masks`."""
    by_tokens, banded = set(kinds_by_tokens().values()), banded_types(config, attention_mask, past_key_values)
    if not by_tokens.union(banded).intersection(config.layer_types):
        return {}
    given_positions = None if position_ids is None else position_ids.expand(inputs_embeds.shape[0], -1)
    sequences = tell_sequences_apart(inputs_embeds, attention_mask, past_key_values, given_positions, lengths)
    visible = {layer_type: sequences for layer_type in config.layer_types if layer_type in by_tokens}
    positions = make_position_ids(inputs_embeds, attention_mask, None) if position_ids is None else position_ids
    for layer_type in banded.intersection(config.layer_types):
        band = BANDED_MASKS[layer_type](config, layer_type, positions, sequences, position_ids is None)
        if band is not None:
            visible[layer_type] = Visibility(band=band)
    return visible


SEQUENCES = Choices("tells_sequences_apart", {True: (see_without_masks, tell_sequences_apart)})


def make_masks(
    config: TrineConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | dict | None,
    past_key_values: Cache | None,
    position_ids: torch.Tensor | None,
    lengths: list[int] | None = None,
) -> dict[str, Visibility]:
    """Makes what the layers of every attention type in the model may see.

    Args:
        inputs_embeds: (B, Q, hidden).
        attention_mask: Padding mask (B, K), a ready mask (B, 1, Q, K), or, as `generate` hands over with a static
            cache, one for each type, as `make_ready_masks` makes them.
        past_key_values: The cache.
        position_ids: (B or 1, Q), or None to count tokens. Positions that start again mark packed sequences, which do
            not see each other.
        lengths: What `packed_lengths` found. Masks are then those of the longest sequence.

    Returns:
        For transformers' name of each type what its layers read. All types have one, and none a field without need.
    """
    if isinstance(attention_mask, dict):
        check_types(attention_mask, config.layer_types)
        return {layer_type: read_ready_mask(layer_type, mask) for layer_type, mask in attention_mask.items()}
    if past_key_values is not None and not has_fixed_length(past_key_values) and not past_key_values.get_seq_length():
        past_key_values = None  # an empty cache changes no mask, but with one transformers does not look for packing
    if sees_all(config, inputs_embeds, attention_mask, past_key_values):
        return dict.fromkeys(config.layer_types, EVERYTHING)
    visible = {}
    for see, _ in SEQUENCES.values():
        visible = see(config, inputs_embeds, attention_mask, past_key_values, position_ids, lengths)
    if lengths is not None:
        inputs_embeds = inputs_embeds[:, : max(lengths)]
        position_ids = None
    elif position_ids is None and is_tracing(inputs_embeds):
        position_ids = make_position_ids(inputs_embeds, attention_mask, past_key_values)
    arguments = {"config": config, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
    first_layers = {layer_type: index for index, layer_type in reversed(list(enumerate(config.layer_types)))}
    first_layers = {layer_type: index for layer_type, index in first_layers.items() if layer_type not in visible}
    masks = PAIR_MASKS[config.is_causal](first_layers, position_ids, past_key_values=past_key_values, **arguments)
    return visible | {layer_type: Visibility(mask, lengths) for layer_type, mask in masks.items()}


def sees_all(
    config: TrineConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
) -> bool:
    """Whether each text has one new token, which sees all that the cache gives in every layer: no mask is needed.

    Arguments are those of `make_masks`.
    """
    if past_key_values is None or inputs_embeds.shape[1] > 1 or not config.is_causal:
        return False
    if has_fixed_length(past_key_values) or torch.compiler.is_compiling():
        return False
    if attention_mask is not None and (attention_mask.ndim != 2 or is_tracing(attention_mask)):
        return False
    if attention_mask is not None and not attention_mask.all():
        return False
    for index, kind in enumerate(config.attention_types[: config.num_hidden_layers]):
        if ATTENTION_KINDS[kind].sees_by == "band":
            window = WINDOWS.get(ATTENTION_KINDS[kind].layer_type, lambda config: 0)(config)
            if past_key_values.get_mask_sizes(1, index)[0] > window:
                return False
    return True


def make_ready_masks(*arguments) -> dict[str, Any]:
    """Makes the masks of a static cache as tensors or None, which is all that `generate` hands on."""
    made = make_masks(*arguments)
    return {key: seen.is_token if seen.mask is None else seen.mask for key, seen in made.items()}


def check_types(masks: dict[str, Any], layer_types: Collection[str]) -> None:
    """Raises a `ValueError` unless a dict given as `attention_mask` has each of the types. It may have others."""
    missing = [layer_type for layer_type in dict.fromkeys(layer_types) if layer_type not in masks]
    if missing:
        needed = list(dict.fromkeys(layer_types))
        raise ValueError(f"attention_mask has the keys {list(masks)}, but needs {needed}: {missing[0]!r} is missing.")


def read_ready_mask(layer_type: str, mask: Any) -> Visibility:
    """Turns one value of a dict given as `attention_mask`, which `make_ready_masks` made, into a `Visibility`.

    Raises:
        ValueError: For a mask of pairs, where the type makes no table of pairs.
    """
    for _, tell_apart in SEQUENCES.values():
        if mask is not None and layer_type in kinds_by_tokens().values():
            return tell_apart(mask, mask, None, None, None)  # it is as long as what it tells of
    return Visibility(mask)


def packed_lengths(
    attention_mask: torch.Tensor | dict | None, past_key_values: Cache | None, position_ids: torch.Tensor | None
) -> list[int] | None:
    """Lengths of the sequences that a batch of one row packs one after the other, or None for any other batch.

    Each begins at position 0. Reading the positions costs a synchronisation with an accelerator.

    Args:
        attention_mask: What the forward pass was given; packing is recognised without one, as in transformers.
        past_key_values: The cache, which must be empty.
        position_ids: (B or 1, Q), or None if they were not given.
    """
    if attention_mask is not None or position_ids is None or position_ids.shape[0] != 1 or is_tracing(position_ids):
        return None
    if past_key_values is not None and (has_fixed_length(past_key_values) or past_key_values.get_seq_length()):
        return None
    starts = (position_ids[0] == 0).nonzero()[:, 0].tolist()
    if len(starts) < 2 or starts[0] != 0:
        return None
    lengths = [end - start for start, end in zip(starts, [*starts[1:], position_ids.shape[1]], strict=True)]
    expected = torch.cat([torch.arange(length) for length in lengths]).to(position_ids.device)
    return lengths if torch.equal(position_ids[0], expected) else None
