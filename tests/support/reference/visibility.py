"""Which keys a query sees, for the kinds that differ in that alone, and for both windows of simplicial attention."""


def sees_full(config, query: int, key: int) -> bool:
    """Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3."""
    return key <= query or not config.is_causal


def sees_sliding(config, query: int, key: int) -> bool:
    """Beltagy et al. 2020, arXiv 2004.05150: a decoder's window ends at the query, an encoder's is centred on it."""
    if config.is_causal:
        return 0 <= query - key < config.sliding_window
    return abs(query - key) <= config.sliding_window


def sees_chunked(config, query: int, key: int) -> bool:
    """Llama 4 (Meta 2025): the query's own chunk."""
    same_chunk = query // config.attention_chunk_size == key // config.attention_chunk_size
    return same_chunk and sees_full(config, query, key)


def sees_within(config, window: int, query: int, key: int) -> bool:
    """A window of `window` tokens: up to the query, or in an encoder centred on it, an even one leaning left."""
    if config.is_causal:
        return 0 <= query - key < window
    return -((window - 1) // 2) <= query - key <= window // 2


def sees_simplicial(config, query: int, key: int) -> bool:
    """Roy et al. 2025, arXiv 2507.02754: the window of the first keys."""
    return sees_within(config, config.simplicial_window, query, key)


def sees_second(config, query: int, key: int) -> bool:
    """The window of the second keys."""
    return sees_within(config, config.simplicial_second_window, query, key)


SEES = {"full": sees_full, "sliding": sees_sliding, "chunked": sees_chunked, "simplicial": sees_simplicial}
