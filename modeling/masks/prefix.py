"""Prefix masks: the first tokens of a text see each other, and those after them what came before."""

# Shapes: B batch, Q queries, K keys.

from collections.abc import Callable

import torch
from torch.nn.functional import pad
from transformers.cache_utils import Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, and_masks, find_packed_sequence_indices
from transformers.utils.import_utils import is_tracing

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from .bands import CHUNK_NUMBERS
from .masks import make_masks, make_position_ids, same_group
from .visibility import Visibility


IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention")  # those whose masks say which pairs of tokens are visible


def make_prefix_masks(
    prefix_length: int | torch.Tensor | None,
    config: TrineConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | dict | None,
    past_key_values: Cache | None,
    position_ids: torch.Tensor | None,
    lengths: list[int] | None,
) -> dict[str, Visibility]:
    """Makes what the layers may see, where the first `prefix_length` tokens of each text see each other.

    They do within the windows and chunks of the layers. Other arguments, and what is returned, as of `make_masks`.
    Source: Raffel et al. 2019, arXiv 1910.10683, section 3.2.1.

    Raises:
        ValueError: The prefix has another shape than the batch, is given beside a ready mask, was cut by a cache, or
            is asked of attention that takes no masks of pairs.
    """
    arguments = (config, inputs_embeds, attention_mask, past_key_values, position_ids)
    if prefix_length is None:
        return make_masks(*arguments, lengths)
    if config._attn_implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attn_implementation={config._attn_implementation!r} is not one of {list(IMPLEMENTATIONS)}, which take "
            "the mask of a prefix."
        )
    if attention_mask is not None and (isinstance(attention_mask, dict) or attention_mask.ndim != 2):
        raise ValueError("prefix_length is given beside a ready attention_mask: give one of padding, (batch, length).")
    positions = make_position_ids(inputs_embeds, attention_mask, past_key_values)
    positions = (positions if position_ids is None else position_ids).expand(len(inputs_embeds), -1)
    is_new = past_key_values is None or not past_key_values.get_seq_length()
    packed = find_packed_sequence_indices(positions) if is_new and attention_mask is None else None
    in_prefix = positions < spread(prefix_length, packed, positions)
    if not is_new:
        if not in_prefix.any():
            return make_masks(*arguments)
        raise ValueError(
            f"prefix_length={prefix_length} is more than the {past_key_values.get_seq_length()} tokens in the cache, "  # pyright: ignore[reportOptionalMemberAccess] it is not new
            "which have not seen the rest of the prefix: read all of a prefix at once (prefill_chunk_size=None)."
        )
    sequences = Visibility(is_token=None if attention_mask is None else attention_mask != 0, segments=packed)
    visible = {}
    for index, layer_type in enumerate(config.layer_types):
        if layer_type in visible:
            continue
        length = num_keys = positions.shape[1]
        if past_key_values is not None:
            num_keys = past_key_values.get_mask_sizes(length, index)[0]
        see = [see_prefix(pad(in_prefix, (0, num_keys - length)))]
        if packed is not None:
            see.append(same_group(packed))
        if layer_type in OVERLAYS:
            see.append(OVERLAYS[layer_type](config, positions, sequences, num_keys))
        is_flex = config._attn_implementation == "flex_attention" and layer_type != "pairwise_attention"
        mask = ALL_MASK_ATTENTION_FUNCTIONS["flex_attention" if is_flex else "sdpa"](
            batch_size=len(positions),
            q_length=length,
            kv_length=num_keys,
            mask_function=and_masks(*see),
            attention_mask=sequences.is_token,
            allow_is_causal_skip=False,
            device=positions.device,
        )
        visible[layer_type] = Visibility(mask)
    return visible


def spread(
    prefix_length: int | torch.Tensor, packed: torch.Tensor | None, positions: torch.Tensor
) -> torch.Tensor | int:
    """The length of the prefix of each token, in a shape that compares with `positions` (B, Q).

    Args:
        prefix_length: One for all, one for each text (B,), or one for each of the sequences of one row.
        packed: (B, Q) numbers of packed sequences, or None.
    """
    if not isinstance(prefix_length, torch.Tensor) or prefix_length.ndim == 0:
        if prefix_length < 0:
            raise ValueError(f"prefix_length={prefix_length} must be 0 or more.")
        return prefix_length
    rows = packed if len(positions) == 1 else None
    texts = len(positions) if rows is None or is_tracing(rows) else int(rows[0, -1]) + 1
    if not is_tracing(positions) and prefix_length.shape != (texts,):
        raise ValueError(
            f"prefix_length has shape {tuple(prefix_length.shape)}, but must be one number, or ({texts},): one for "
            "each text of the batch, or for each sequence of a packed row."
        )
    lengths = prefix_length.to(positions.device)
    return lengths[:, None] if rows is None else lengths[rows]


def see_prefix(in_prefix: torch.Tensor) -> Callable:
    """Mask function that shows what came before, and to tokens of a prefix, True in `in_prefix` (B, K), each other."""

    def inner_mask(batch_idx, head_idx, q_idx, kv_idx):
        return (kv_idx <= q_idx) | (in_prefix[batch_idx, q_idx] & in_prefix[batch_idx, kv_idx])

    return inner_mask


def stay_in_window(config: TrineConfig, positions: torch.Tensor, sequences: Visibility, num_keys: int) -> Callable:
    """Mask function of a sliding layer, whose window reaches as far ahead, within the prefix, as back."""
    return lambda batch_idx, head_idx, q_idx, kv_idx: (q_idx - kv_idx).abs() < config.sliding_window


def stay_in_chunk(config: TrineConfig, positions: torch.Tensor, sequences: Visibility, num_keys: int) -> Callable:
    """Mask function of a chunked layer."""
    numbers = CHUNK_NUMBERS["chunked_attention"](config, positions, sequences)
    return same_group(pad(numbers, (0, num_keys - numbers.shape[1])).expand(len(positions), -1))


OVERLAYS = Choices("layer_types", {"sliding_attention": stay_in_window, "chunked_attention": stay_in_chunk})
