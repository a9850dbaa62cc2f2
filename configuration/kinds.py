"""The rows of all attention, position, feed-forward and router kinds: the single source of truth about them.

A kind is a row here, a class in the table of its folder under `modeling/`, and a loop in the tests' reference. What
else has to know of a kind reads its row: rules, model cards, documentation, lifts, exports, counts of operations,
tests, benchmarks. With a checkpoint goes what its model reads; `about` stays in the package.
"""

from .attention_costs import (
    bigbird_pairs,
    check_warm_start,
    chunked_pairs,
    full_pairs,
    full_span,
    lsh_pairs,
    performer_products,
    simplicial_pairs,
    simplicial_span,
    sliding_pairs,
    sliding_span,
    state_products,
)
from .choices import Choices
from .kind_rows import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    ZERO_OR_MORE,
    About,
    AboutAttention,
    AboutFeedForward,
    AboutForm,
    AboutPosition,
    AboutRouter,
    AttentionKind,
    FeatureMapKind,
    FeedForwardKind,
    PositionKind,
    RouterKind,
    TrilinearKind,
)


ATTENTION_KINDS = Choices(
    "attention_types",
    {
        "full": AttentionKind(
            layer_type="full_attention",
            flash=True,
            has_pair_scores=True,
            paged=True,
            about=AboutAttention(
                cost="O(n²)",
                sees="all tokens up to itself",
                cache="all tokens",
                pairs=full_pairs,
                span=full_span,
                cached_exports=("onnx",),
                source="Vaswani et al. 2017, arXiv 1706.03762",
            ),
        ),
        "sliding": AttentionKind(
            layer_type="sliding_attention",
            window_field="sliding_window",
            flash=True,
            has_pair_scores=True,
            paged=True,
            sees_by="band",
            card=("sliding window", "{0.sliding_window} tokens"),
            about=AboutAttention(
                cost="O(n · window)",
                sees="the last `sliding_window` tokens",
                cache="`sliding_window` tokens",
                fields={"sliding_window": AT_LEAST_ONE},
                pairs=sliding_pairs,
                span=sliding_span,
                equals={"full": None},
                cached_exports=("onnx",),
                source="Beltagy et al. 2020, arXiv 2004.05150",
            ),
        ),
        "chunked": AttentionKind(
            layer_type="chunked_attention",
            window_field="attention_chunk_size",
            flash=False,
            has_pair_scores=True,
            paged=False,
            sees_by="band",
            card=("attention chunk", "{0.attention_chunk_size} tokens"),
            about=AboutAttention(
                cost="O(n · chunk)",
                sees="its chunk of `attention_chunk_size` tokens, up to itself",
                cache="one chunk",
                fields={"attention_chunk_size": AT_LEAST_ONE},
                pairs=chunked_pairs,
                cached_exports=("onnx",),
                source="Llama 4 (Meta 2025), block-local attention",
            ),
        ),
        "simplicial": AttentionKind(
            layer_type="simplicial_attention",
            window_field="simplicial_window",
            flash=True,
            has_pair_scores=False,
            paged=False,
            sees_by="tokens",
            about=AboutAttention(
                cost="O(n · window · second window)",
                sees="pairs of tokens: one of the last `simplicial_window`, "
                "one of the last `simplicial_second_window`",
                cache="both windows",
                fields={
                    "simplicial_window": AT_LEAST_ONE,
                    "simplicial_second_window": AT_LEAST_ONE,
                    "simplicial_form": None,
                    "simplicial_offset_bias": None,
                    "simplicial_warm_start": None,
                    "simplicial_backend": None,
                },
                pairs=simplicial_pairs,
                span=simplicial_span,
                equals={"full": check_warm_start, "sliding": check_warm_start},
                weights=("num_attention_heads", "simplicial_second_window"),
                source="Clift et al. 2019, arXiv 1909.00668; windows: Roy et al. 2025, arXiv 2507.02754",
            ),
        ),
        "linear": AttentionKind(
            layer_type="kernelized_attention",
            flash=True,
            has_pair_scores=False,
            paged=False,
            sees_by="tokens",
            card=("linear features", "{0.linear_feature_map}"),
            about=AboutAttention(
                cost="O(n)",
                sees="all tokens, through a state of constant size",
                cache="one state",
                fields={"linear_feature_map": None},
                products=lambda config: state_products(
                    config, config.head_dim * LINEAR_FEATURE_MAPS[config.linear_feature_map].expansion
                ),
                cached_exports=("onnx",),
                source="Katharopoulos et al. 2020, arXiv 2006.16236",
            ),
        ),
        "performer": AttentionKind(
            layer_type="kernelized_attention",
            flash=True,
            has_pair_scores=False,
            paged=False,
            sees_by="tokens",
            card=("random features", "{0.performer_num_features} a layer"),
            about=AboutAttention(
                cost="O(n · features)",
                sees="all tokens, through random features of softmax attention",
                cache="one state",
                fields={"performer_num_features": AT_LEAST_ONE, "performer_redraw_interval": ZERO_OR_MORE},
                products=performer_products,
                weights=("performer_num_features", "head_dim"),
                source="Choromanski et al. 2020, arXiv 2009.14794",
            ),
        ),
        "bigbird": AttentionKind(
            layer_type="bigbird_attention",
            flash=True,
            has_pair_scores=False,
            paged=False,
            sees_by="tokens",
            card=(
                "blocks",
                "of {0.bigbird_block_size} tokens: {0.bigbird_num_global_blocks} global, "
                "{0.bigbird_num_window_blocks} around a token's own, {0.bigbird_num_random_blocks} random",
            ),
            about=AboutAttention(
                cost="O(n · blocks · block size)",
                sees="blocks: global ones, a window, random ones",
                cache="all tokens",
                fields={
                    "bigbird_block_size": AT_LEAST_ONE,
                    "bigbird_num_global_blocks": ZERO_OR_MORE,
                    "bigbird_num_window_blocks": AT_LEAST_ONE,
                    "bigbird_num_random_blocks": ZERO_OR_MORE,
                },
                pairs=bigbird_pairs,
                source="Zaheer et al. 2020, arXiv 2007.14062",
            ),
        ),
        "lsh": AttentionKind(
            layer_type="lsh_attention",
            flash=True,
            has_pair_scores=False,
            paged=False,
            sees_by="tokens",
            card=(
                "hashes",
                "{0.lsh_num_hashes}, {0.lsh_num_buckets} buckets each, chunks of {0.lsh_chunk_length} tokens",
            ),
            about=AboutAttention(
                cost="O(n · hashes · chunk)",
                sees="tokens that fall into its buckets",
                cache="all tokens",
                fields={
                    "lsh_chunk_length": AT_LEAST_ONE,
                    "lsh_num_adjacent_chunks": ZERO_OR_MORE,
                    "lsh_num_buckets": AT_LEAST_ONE,
                    "lsh_num_hashes": AT_LEAST_ONE,
                },
                pairs=lsh_pairs,
                weights=("lsh_num_hashes", "lsh_num_buckets", "head_dim"),
                source="Kitaev et al. 2020, Reformer, arXiv 2001.04451",
            ),
        ),
    },
)

TRILINEAR_KINDS = Choices(
    "simplicial_form",
    {
        "hadamard": TrilinearKind(
            parts=1,
            rotary_factor=None,
            has_unit=True,
            about=AboutForm(
                logit="Σ q k k'",
                positions="any but `rope`",
                source="Roy et al. 2025, arXiv 2507.02754, equation 5",
            ),
        ),
        "complex": TrilinearKind(
            parts=2,
            rotary_factor=1.0,
            has_unit=True,
            about=AboutForm(
                logit="Re Σ q conj(k') conj(k) of complex numbers, k' without positions",
                positions="any; `rope` composes exactly",
                source="Trine: equation 5 of Roy et al. 2025 on complex numbers, the second key without positions",
            ),
        ),
        "determinant": TrilinearKind(
            parts=3,
            rotary_factor=2 / 3,
            has_unit=False,
            about=AboutForm(
                logit="Σ det(q, k, k') of triples",
                positions="any; `rope` with `partial_rotary_factor` 2/3",
                source="Roy et al. 2025, arXiv 2507.02754, equation 9",
            ),
        ),
    },
)

LINEAR_FEATURE_MAPS = Choices(
    "linear_feature_map",
    {
        "elu": FeatureMapKind(
            expansion=1,
            about=About(source="elu(x) + 1: Katharopoulos et al. 2020, arXiv 2006.16236, equation 7"),
        ),
        "relu": FeatureMapKind(
            expansion=1,
            about=About(source="max(x, 0): Kasai et al. 2021, arXiv 2103.13076, without its learned projection"),
        ),
        "softmax": FeatureMapKind(
            expansion=2,
            about=About(source="softmax of x and of -x: Zhang et al. 2024, Hedgehog, arXiv 2402.04347, likewise"),
        ),
        "dpfp": FeatureMapKind(
            expansion=2,
            about=About(source="DPFP with nu = 1: Schlag et al. 2021, arXiv 2102.11174, equation 37"),
        ),
    },
)

POSITION_KINDS = Choices(
    "position_type",
    {
        "sinusoidal": PositionKind(
            flash=True,
            paged=True,
            about=AboutPosition(
                description="adds fixed waves to the embeddings",
                beyond="runs",
                fields={"max_position_embeddings": None},
                source="Vaswani et al. 2017, arXiv 1706.03762, section 3.5",
            ),
        ),
        "learned": PositionKind(
            flash=True,
            paged=True,
            about=AboutPosition(
                description="adds a learned vector per position",
                beyond="an error",
                fields={"max_position_embeddings": None},
                source="Devlin et al. 2018, arXiv 1810.04805",
            ),
        ),
        "rope": PositionKind(
            flash=True,
            paged=True,
            about=AboutPosition(
                description="rotates queries and keys, with any scaling of transformers in `rope_parameters`",
                beyond="runs well with scaling",
                fields={"rope_parameters": None, "max_position_embeddings": None},
                source="Su et al. 2021, arXiv 2104.09864",
            ),
        ),
        "relative": PositionKind(
            flash=False,
            paged=False,
            adds_bias=True,
            about=AboutPosition(
                description="adds a learned bias per bucket of distances; no flash kernels, no tensor parallelism",
                beyond="runs",
                fields={"relative_attention_num_buckets": None, "relative_attention_max_distance": None},
                source="Raffel et al. 2019, T5, arXiv 1910.10683",
            ),
        ),
        "none": PositionKind(
            flash=True,
            paged=True,
            about=AboutPosition(
                description="adds nothing: the causal mask is all there is",
                beyond="runs",
                fields={"max_position_embeddings": None},
                source="Haviv et al. 2022, arXiv 2203.16634",
            ),
        ),
    },
)

FEED_FORWARD_KINDS = Choices(
    "mlp_layer_types",
    {
        "dense": FeedForwardKind(
            about=AboutFeedForward(
                description="an MLP, gated or not",
                fields={"intermediate_size": None},
                source="Vaswani et al. 2017, arXiv 1706.03762; gated: Shazeer 2020, arXiv 2002.05202",
            ),
        ),
        "sparse": FeedForwardKind(
            card=(
                "experts",
                "{0.num_experts} of width {0.moe_intermediate_size}, {0.num_experts_per_tok} a token, "
                "{0.num_shared_experts} shared, {0.router_type} router",
            ),
            about=AboutFeedForward(
                description="a mixture of experts, of which each token visits a few",
                fields={
                    "num_experts": AT_LEAST_ONE,
                    "num_experts_per_tok": AT_LEAST_ONE,
                    "moe_intermediate_size": AT_LEAST_ONE,
                    "num_shared_experts": ZERO_OR_MORE,
                    "router_type": None,
                    "norm_topk_prob": None,
                    "routed_scaling_factor": ABOVE_ZERO,
                    "router_aux_loss_coef": ZERO_OR_MORE,
                    "router_aux_loss_reduction": None,
                    "router_z_loss_coef": ZERO_OR_MORE,
                    "router_bias_update_rate": ZERO_OR_MORE,
                    "output_router_logits": None,
                },
                source="Shazeer et al. 2017, arXiv 1701.06538; Fedus et al. 2021, arXiv 2101.03961",
            ),
        ),
    },
)

ROUTER_KINDS = Choices(
    "router_type",
    {
        "softmax": RouterKind(
            about=AboutRouter(
                weights="softmax over the experts",
                balance="the loss `router_aux_loss_coef`",
                source="Jiang et al. 2024, Mixtral, arXiv 2401.04088",
            ),
        ),
        "sigmoid": RouterKind(
            about=AboutRouter(
                weights="independent sigmoids",
                balance="a bias on the choice, moved between steps by `ExpertLoadCallback`, and the loss unless its "
                "coefficient is 0",
                source="DeepSeek-AI 2024, DeepSeek-V3, arXiv 2412.19437, section 2.1.2",
            ),
        ),
    },
)

KIND_TABLES = {
    "attention_types": ATTENTION_KINDS,
    "mlp_layer_types": FEED_FORWARD_KINDS,
    "position_type": POSITION_KINDS,
    "router_type": ROUTER_KINDS,
}

NORM_TYPES = ("rmsnorm", "layernorm")
NORM_POSITIONS = ("pre", "post")
INITIALIZERS = ("normal", "xavier", "kaiming")
POOLINGS = ("cls", "mean", "last")
SIMPLICIAL_BACKENDS = ("auto", "eager", "chunked", "flex", "triton")
BALANCING_REDUCTIONS = ("mean", "pooled")
