"""What each attention, position, feed-forward and router kind supports: the single source of truth.

A kind is a row here, a class in the table of its folder under `modeling/`, and a loop in the tests' reference. The
tests, the tables of README and documentation and the benchmarks loop over these rows.
"""

from dataclasses import dataclass

from .choices import Choices


@dataclass(frozen=True)
class AttentionKind:
    """One way in which a layer mixes tokens."""

    layer_type: str  # the library's name, which keys its cache layers and mask functions
    window_field: str | None  # the config field that holds the window, in tokens
    cost: str  # arithmetic cost of one layer at sequence length n
    flash: bool  # whether the library's flash attention functions serve it, or it needs none
    has_pair_scores: bool  # whether it scores each pair of tokens, so that a position bias and dropout can act on that
    paged: bool  # whether continuous batching serves it: the library's paged cache holds its layers
    sees: str  # what a token attends to
    cache: str  # what generation keeps of the past
    source: str


@dataclass(frozen=True)
class TrilinearKind:
    """One form of the logits of 2-simplicial attention."""

    parts: int  # groups of features that it mixes: the head size is a multiple of it
    rotary_factor: float | None  # the `partial_rotary_factor` with which it reads relative positions; None: with none
    has_unit: bool  # whether a second key makes it the dot product
    logit: str  # of a query q, a first key k and a second key k', over features
    positions: str  # position kinds that it may have
    source: str


@dataclass(frozen=True)
class FeatureMapKind:
    """One feature map of linear attention."""

    expansion: int  # features, in units of the head size
    source: str


@dataclass(frozen=True)
class PositionKind:
    """One way in which a layer knows where its tokens are."""

    flash: bool
    paged: bool  # whether it needs no more than the position of each token, so that requests can share one row
    description: str
    beyond: str  # what happens beyond the trained length
    source: str


@dataclass(frozen=True)
class FeedForwardKind:
    """One kind of feed-forward layer."""

    description: str
    source: str


@dataclass(frozen=True)
class RouterKind:
    """One way in which a token chooses its experts."""

    weights: str  # of the chosen experts
    balance: str  # what keeps the load of the experts even
    source: str


ATTENTION_KINDS = Choices(
    "attention_types",
    {
        "full": AttentionKind(
            "full_attention",
            None,
            "O(n²)",
            flash=True,
            has_pair_scores=True,
            paged=True,
            sees="all tokens up to itself",
            cache="all tokens",
            source="Vaswani et al. 2017, arXiv 1706.03762",
        ),
        "sliding": AttentionKind(
            "sliding_attention",
            "sliding_window",
            "O(n · window)",
            flash=True,
            has_pair_scores=True,
            paged=True,
            sees="the last `sliding_window` tokens",
            cache="`sliding_window` tokens",
            source="Beltagy et al. 2020, arXiv 2004.05150",
        ),
        "chunked": AttentionKind(
            "chunked_attention",
            "attention_chunk_size",
            "O(n · chunk)",
            flash=False,
            has_pair_scores=True,
            paged=False,
            sees="its chunk of `attention_chunk_size` tokens, up to itself",
            cache="one chunk",
            source="Llama 4 (Meta 2025), block-local attention",
        ),
        "simplicial": AttentionKind(
            "simplicial_attention",
            "simplicial_window",
            "O(n · window · second window)",
            flash=True,
            has_pair_scores=False,
            paged=False,
            sees="pairs of tokens: one of the last `simplicial_window`, one of the last `simplicial_second_window`",
            cache="both windows",
            source="Clift et al. 2019, arXiv 1909.00668; windows: Roy et al. 2025, arXiv 2507.02754",
        ),
        "linear": AttentionKind(
            "kernelized_attention",
            None,
            "O(n)",
            flash=True,
            has_pair_scores=False,
            paged=False,
            sees="all tokens, through a state of constant size",
            cache="one state",
            source="Katharopoulos et al. 2020, arXiv 2006.16236",
        ),
        "performer": AttentionKind(
            "kernelized_attention",
            None,
            "O(n · features)",
            flash=True,
            has_pair_scores=False,
            paged=False,
            sees="all tokens, through random features of softmax attention",
            cache="one state",
            source="Choromanski et al. 2020, arXiv 2009.14794",
        ),
        "bigbird": AttentionKind(
            "bigbird_attention",
            None,
            "O(n · blocks · block size)",
            flash=True,
            has_pair_scores=False,
            paged=False,
            sees="blocks: global ones, a window, random ones",
            cache="all tokens",
            source="Zaheer et al. 2020, arXiv 2007.14062",
        ),
        "lsh": AttentionKind(
            "lsh_attention",
            None,
            "O(n · hashes · chunk)",
            flash=True,
            has_pair_scores=False,
            paged=False,
            sees="tokens that fall into its buckets",
            cache="all tokens",
            source="Kitaev et al. 2020, Reformer, arXiv 2001.04451",
        ),
    },
)

TRILINEAR_KINDS = Choices(
    "simplicial_form",
    {
        "hadamard": TrilinearKind(
            1, None, True, "Σ q k k'", "any but `rope`", "Roy et al. 2025, arXiv 2507.02754, equation 5"
        ),
        "complex": TrilinearKind(
            2,
            1.0,
            True,
            "Re Σ q conj(k') conj(k) of complex numbers, k' without positions",
            "any; `rope` composes exactly",
            "Trine: equation 5 of Roy et al. 2025 on complex numbers, the second key without positions",
        ),
        "determinant": TrilinearKind(
            3,
            2 / 3,
            False,
            "Σ det(q, k, k') of triples",
            "any; `rope` with `partial_rotary_factor` 2/3",
            "Roy et al. 2025, arXiv 2507.02754, equation 9",
        ),
    },
)

LINEAR_FEATURE_MAPS = Choices(
    "linear_feature_map",
    {
        "elu": FeatureMapKind(1, "elu(x) + 1: Katharopoulos et al. 2020, arXiv 2006.16236, equation 7"),
        "relu": FeatureMapKind(1, "max(x, 0): Kasai et al. 2021, arXiv 2103.13076, without its learned projection"),
        "softmax": FeatureMapKind(
            2, "softmax of x and of -x: Zhang et al. 2024, Hedgehog, arXiv 2402.04347, likewise"
        ),
        "dpfp": FeatureMapKind(2, "DPFP with nu = 1: Schlag et al. 2021, arXiv 2102.11174, equation 37"),
    },
)

POSITION_KINDS = Choices(
    "position_type",
    {
        "sinusoidal": PositionKind(
            True,
            True,
            "adds fixed waves to the embeddings",
            "runs",
            "Vaswani et al. 2017, arXiv 1706.03762, section 3.5",
        ),
        "learned": PositionKind(
            True, True, "adds a learned vector per position", "an error", "Devlin et al. 2018, arXiv 1810.04805"
        ),
        "rope": PositionKind(
            True,
            True,
            "rotates queries and keys, with any scaling of transformers in `rope_parameters`",
            "runs well with scaling",
            "Su et al. 2021, arXiv 2104.09864",
        ),
        "relative": PositionKind(
            False,
            False,
            "adds a learned bias per bucket of distances; no flash kernels, no tensor parallelism",
            "runs",
            "Raffel et al. 2019, T5, arXiv 1910.10683",
        ),
        "none": PositionKind(
            True, True, "adds nothing: the causal mask is all there is", "runs", "Haviv et al. 2022, arXiv 2203.16634"
        ),
    },
)

FEED_FORWARD_KINDS = Choices(
    "mlp_layer_types",
    {
        "dense": FeedForwardKind(
            "an MLP, gated or not", "Vaswani et al. 2017, arXiv 1706.03762; gated: Shazeer 2020, arXiv 2002.05202"
        ),
        "sparse": FeedForwardKind(
            "a mixture of experts, of which each token visits a few",
            "Shazeer et al. 2017, arXiv 1701.06538; Fedus et al. 2021, arXiv 2101.03961",
        ),
    },
)

ROUTER_KINDS = Choices(
    "router_type",
    {
        "softmax": RouterKind(
            "softmax over the experts",
            "the loss `router_aux_loss_coef`",
            "Jiang et al. 2024, Mixtral, arXiv 2401.04088",
        ),
        "sigmoid": RouterKind(
            "independent sigmoids",
            "a bias on the choice, moved between steps by `ExpertLoadCallback`, and the loss unless its coefficient "
            "is 0",
            "DeepSeek-AI 2024, DeepSeek-V3, arXiv 2412.19437, section 2.1.2",
        ),
    },
)

NORM_TYPES = ("rmsnorm", "layernorm")
NORM_POSITIONS = ("pre", "post")
INITIALIZERS = ("normal", "xavier", "kaiming")
POOLINGS = ("cls", "mean", "last")
SIMPLICIAL_BACKENDS = ("auto", "eager", "chunked", "flex", "triton")
BALANCING_REDUCTIONS = ("mean", "pooled")
