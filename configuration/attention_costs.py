"""Functions that the rows of attention kinds name: how far a token sees, what a kind equals, how many operations."""

from math import inf

from .patterns import check_choice


Span = tuple[float, float]  # tokens to the left and to the right of a token, itself not counted
# A backward pass computes two products where the forward pass computes one.
PASSES = 3


def window_span(size: int, is_causal: bool) -> tuple[int, int]:
    """The span of a window of `size` tokens: up to the token itself, or centred on it (even sizes lean left)."""
    return (size - 1, 0) if is_causal else (size // 2, (size - 1) // 2)


def full_span(config) -> Span:
    """The span of full attention: all tokens before, and in an encoder all after."""
    return inf, 0 if config.is_causal else inf


def sliding_span(config) -> Span:
    """The span of sliding attention: `sliding_window` tokens, in a decoder with itself, in an encoder to each side."""
    return (config.sliding_window - 1, 0) if config.is_causal else (config.sliding_window, config.sliding_window)


def simplicial_span(config) -> Span:
    """The span of the first keys of 2-simplicial attention; the second keys have a narrower window."""
    return window_span(config.simplicial_window, config.is_causal)


def check_warm_start(config) -> None:
    """Raises a `ValueError` unless second keys begin as a constant that makes the logit a dot product."""
    from .kinds import TRILINEAR_KINDS  # whose rows name functions of this module

    forms = [form for form, row in TRILINEAR_KINDS.items() if row.has_unit]
    check_choice("simplicial_form", config.simplicial_form, forms)
    if not config.simplicial_warm_start:
        raise ValueError("simplicial_warm_start=False: second keys say something from the beginning.")


def seen_tokens(length: int, reach: Span) -> list[int]:
    """Counts the tokens that each of `length` tokens sees within a span."""
    left, right = reach
    return [int(min(place, left) + 1 + min(length - 1 - place, right)) for place in range(length)]


def common_length(one: Span, other: Span) -> float:
    """The longest text in which each token sees the same within two spans, in tokens; infinite without a limit."""
    pairs = zip(one, other, strict=True)
    return min((min(left, right) + 1 for left, right in pairs if left != right), default=inf)


def full_pairs(config, length: int) -> int:
    """Pairs of a query and a key in full attention."""
    return sum(seen_tokens(length, full_span(config)))


def sliding_pairs(config, length: int) -> int:
    """Pairs of a query and a key in sliding attention."""
    return sum(seen_tokens(length, sliding_span(config)))


def chunked_pairs(config, length: int) -> int:
    """Pairs of a query and a key in chunked attention, chunk by chunk."""
    size = config.attention_chunk_size
    return sum(full_pairs(config, min(size, length - start)) for start in range(0, length, size))


def simplicial_pairs(config, length: int) -> int:
    """Triples of 2-simplicial attention: each second key makes another query, which meets each first key."""
    first, second = (
        seen_tokens(length, window_span(size, config.is_causal))
        for size in (config.simplicial_window, config.simplicial_second_window)
    )
    return sum(one * other for one, other in zip(first, second, strict=True))


def bigbird_pairs(config, length: int) -> float:
    """Pairs of a query and a key in BigBird, averaged over the random blocks.

    The last block may be shorter; half of the pairs of a decoder's own block are seen.
    """
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


def lsh_pairs(config, length: int) -> int:
    """Upper bound of the pairs of a query and a key in LSH attention: buckets may hold fewer tokens than chunks do."""
    sides = 1 if config.is_causal else 2
    keys = (1 + sides * config.lsh_num_adjacent_chunks) * config.lsh_chunk_length
    return config.lsh_num_hashes * sum(min(keys, seen) for seen in seen_tokens(length, full_span(config)))


def state_products(config, num_features: int) -> int:
    """Operations per token of linear attention.

    A key adds its features times values to the state of its group; a query reads the state and a sum of features.
    """
    reads = config.num_attention_heads * num_features * (config.head_dim + 1)
    return 2 * (reads + config.num_key_value_heads * num_features * config.head_dim)


def performer_products(config) -> float:
    """Operations per token of a Performer layer: those of linear attention, and the products with random directions.

    No gradient is computed for the directions.
    """
    heads = config.num_attention_heads + config.num_key_value_heads
    directions = 2 * heads * config.head_dim * config.performer_num_features
    return directions * (PASSES - 1) / PASSES + state_products(config, config.performer_num_features)
