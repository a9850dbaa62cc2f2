"""Model FLOPs: what a training step of one stack must compute, however it is computed."""

# Shapes: L tokens of a sequence.

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ...configuration.configuration_trine import TrineConfig
from ...configuration.kinds import LINEAR_FEATURE_MAPS
from ...modeling.kernels.simplicial.forms import Reach, window_reach


# A backward pass computes two products where the forward pass computes one.
PASSES = 3


def flops_per_token(model: PreTrainedModel, length: int) -> float:
    """Floating-point operations for one token of a training step, forward and backward, averaged over a sequence.

    Counted are matrix products with weights (experts by the share that a token visits; embeddings that are only looked
    up not at all) and the products of attention with the tokens that a token sees. Recomputation is not counted, nor
    are norms, activations and softmax; the head counts for all tokens.

    Args:
        length: L, tokens of a sequence.

    Source: Chowdhery et al. 2022, PaLM, arXiv 2204.02311, appendix B.
    """
    config: Any = model.config
    products = sum(attention_products(kind, config, length) for kind in config.attention_types)
    return PASSES * (2 * active_parameters(model) + products)


def attention_products(kind: str, config: TrineConfig, length: int) -> float:
    """Operations of a forward pass that mix tokens in one layer, for one of `length` tokens."""
    if kind in STATES:
        return STATES[kind](config)
    # A pair takes a multiplication and an addition a feature in the logits, and as much in the weighted sum.
    return 4 * config.num_attention_heads * config.head_dim * PAIRS[kind](config, length) / length


def active_parameters(model: PreTrainedModel) -> float:
    """The parameters of matrix products that a token meets, on average."""
    config, embeddings, total = model.config, model.get_input_embeddings(), 0.0
    head: Any = model.get_output_embeddings()
    is_tied = head is not None and head.weight is embeddings.weight
    for name, module in model.named_modules():
        # A tied head is counted once, as the head; other embeddings are only looked up.
        if isinstance(module, nn.Embedding) and not (module is embeddings and is_tied):
            continue
        if module is head and is_tied:
            continue
        weights = [
            weight.numel()
            for part, weight in module.named_parameters(recurse=False)
            if weight.dim() > 1 and not part.endswith("_proj_bias")  # those of experts are stacked
        ]
        share = config.num_experts_per_tok / config.num_experts if name.endswith(".experts") else 1.0
        total += share * sum(weights)
    return total


def seen_tokens(length: int, reach: Reach) -> list[int]:
    """How many tokens each of `length` tokens sees in a window."""
    return [min(place, reach.left) + 1 + min(length - 1 - place, reach.right) for place in range(length)]


def reach_of(config: TrineConfig, left: int) -> Reach:
    """A window that reaches as far to the right as to the left, but never into the future of a decoder."""
    return Reach(left, 0 if config.is_causal else left)


def full_pairs(config: TrineConfig, length: int) -> int:
    return sum(seen_tokens(length, reach_of(config, length)))


def sliding_pairs(config: TrineConfig, length: int) -> int:
    # An encoder sees `sliding_window` tokens to either side, a decoder as many with itself.
    return sum(seen_tokens(length, reach_of(config, config.sliding_window - config.is_causal)))


def chunked_pairs(config: TrineConfig, length: int) -> int:
    size = config.attention_chunk_size
    return sum(full_pairs(config, min(size, length - start)) for start in range(0, length, size))


def simplicial_pairs(config: TrineConfig, length: int) -> int:
    """Each second key makes another query, which meets each first key."""
    first, second = (
        seen_tokens(length, window_reach(size, config.is_causal))
        for size in (config.simplicial_window, config.simplicial_second_window)
    )
    return sum(one * other for one, other in zip(first, second, strict=True))


def bigbird_pairs(config: TrineConfig, length: int) -> float:
    """On average over random blocks, the last of which may be shorter; a decoder's own block is seen by halves."""
    size, causal = config.bigbird_block_size, config.is_causal
    sizes = [min(size, length - start) for start in range(0, length, size)]
    count, width, total = len(sizes), config.bigbird_num_window_blocks, 0.0
    head = config.bigbird_num_global_blocks if causal else -(-config.bigbird_num_global_blocks // 2)
    tail = config.bigbird_num_global_blocks - head
    for own, queries in enumerate(sizes):
        limit = own + 1 if causal else count
        is_whole = not causal and not head <= own < count - tail
        left = own - (width - 1 if causal else width // 2)
        seen = {*range(head), *range(limit - tail, limit), *range(left, left + width)}
        seen = set(range(limit)) if is_whole else seen & set(range(limit))
        keys, others = sum(sizes[block] for block in seen), limit - len(seen)
        if others:
            keys += (sum(sizes[:limit]) - keys) * min(1.0, config.bigbird_num_random_blocks / others)
        total += queries * keys - (queries * (queries - 1) / 2 if causal else 0)
    return total


def lsh_pairs(config: TrineConfig, length: int) -> int:
    """What chunks allow in each hash; the tokens of a bucket may be fewer."""
    sides = 1 if config.is_causal else 2
    keys = (1 + sides * config.lsh_num_adjacent_chunks) * config.lsh_chunk_length
    return config.lsh_num_hashes * sum(min(keys, seen) for seen in seen_tokens(length, reach_of(config, length)))


def state_products(config: TrineConfig, num_features: int) -> int:
    """A key adds its features times values to the state of its group; a query reads that, and a sum of features."""
    reads = config.num_attention_heads * num_features * (config.head_dim + 1)
    return 2 * (reads + config.num_key_value_heads * num_features * config.head_dim)


def linear_products(config: TrineConfig) -> int:
    return state_products(config, config.head_dim * LINEAR_FEATURE_MAPS[config.linear_feature_map].expansion)


def performer_products(config: TrineConfig) -> float:
    """Queries and keys are also multiplied with the random directions, for which no gradient is computed."""
    heads = config.num_attention_heads + config.num_key_value_heads
    directions = 2 * heads * config.head_dim * config.performer_num_features
    return directions * (PASSES - 1) / PASSES + state_products(config, config.performer_num_features)


# Operations for a token of layers that carry a state along.
STATES = {"linear": linear_products, "performer": performer_products}
# Pairs of a query and what it sees, in a sequence.
PAIRS = {
    "full": full_pairs,
    "sliding": sliding_pairs,
    "chunked": chunked_pairs,
    "simplicial": simplicial_pairs,
    "bigbird": bigbird_pairs,
    "lsh": lsh_pairs,
}
