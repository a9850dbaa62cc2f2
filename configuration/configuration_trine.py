"""The configuration of one Trine stack: an encoder or a decoder whose every part can be chosen."""

from math import log
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .adapter_targets import AdapterTargetsMixin
from .choices import Choices
from .hub_export import HubExportMixin
from .input_kinds import INPUT_HEADS
from .keywords import StrictKeywordsMixin
from .kinds import ATTENTION_KINDS, FEED_FORWARD_KINDS
from .layer_fields import PLUGIN_FIELDS, PREFIX_RULES, LayerFieldsMixin
from .patterns import expand_pattern
from .sharding_plans import EXPERT_PLANS, tensor_parallel_plan
from .validation import ATTENTION_RULES, FEED_FORWARD_RULES, PAIR_RULES, RULES, check_loss_chunks


# Fields that are None only until `__post_init__` derives them. The strict dataclass checks annotations at run time.
if TYPE_CHECKING:
    DerivedInt = int
    DerivedFloat = float
    DerivedString = str
    DerivedDict = dict[str, Any]
else:
    DerivedInt = int | None
    DerivedFloat = float | int | None
    DerivedString = str | None
    DerivedDict = dict[str, Any] | None
DERIVED: Any = None
EXPERT_DEFAULTS = Choices(
    "mlp_layer_types", {"sparse": {"num_experts": 8, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.01}}
)


@strict
class TrineConfig(HubExportMixin, AdapterTargetsMixin, LayerFieldsMixin, StrictKeywordsMixin, PreTrainedConfig):
    """Configuration of a `TrineModel` and of every head on it.

    Sizes are in units (features, layers, heads), windows and lengths in tokens. Unknown keywords are errors.
    `from_pretrained` takes fields, too, in place of those of the checkpoint; with fewer `num_hidden_layers`, the first
    layers stay.

    Args:
        input_type: What is read: `tokens`, or in patches `image`, `audio` or `series`. Each but `tokens` has fields of
            its own, which the pages on images, sounds and series list.
        vocab_size: Number of token ids.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of a dense feed-forward. Default: 8/3 of `hidden_size` rounded up to a multiple of 64
            if gated, else 4 times `hidden_size`.
        num_hidden_layers: Number of layers.
        num_attention_heads: Number of query heads.
        num_key_value_heads: Number of key-value heads: fewer than query heads is grouped-query attention, 1 is
            multi-query. Default: `num_attention_heads`.
        head_dim: Size of a head. Default: `hidden_size / num_attention_heads`.
        attention_types: Attention kind of each layer: a name, a pattern such as `"sliding*3, full"` that is repeated
            over the layers, or a list with one name per layer. Kinds: those of
            `ATTENTION_KINDS` in `kinds.py`, which `trine list kinds` prints.
        mlp_layer_types: Feed-forward kind of each layer, written likewise. Kinds: `dense`, `sparse` (experts).
        position_type: `rope`, `sinusoidal`, `learned`, `relative` (T5 buckets) or `none`.
        rope_parameters: Transformers' rotary parameters: `rope_type`, `rope_theta`, scaling `factor`, ...; or such for
            each of the `layer_types` that the model has, as in ModernBERT: `{"full_attention": {...}, ...}`.
        relative_attention_num_buckets: Number of learned distances of `relative`.
        relative_attention_max_distance: Distance from which `relative` tells no distances apart.
        max_position_embeddings: Longest sequence the model is meant for. `learned` has no positions beyond it.
        sliding_window: Tokens that a token of a `sliding` decoder layer sees, itself included. An encoder sees this
            many to each side. Default: 256. It is None wherever no layer is `sliding`, whatever was given: who reads
            it takes a number for a window.
        attention_chunk_size: Tokens in a chunk of a `chunked` layer; a token sees its own chunk only.
        simplicial_window: First keys and values that a token of a `simplicial` layer sees, itself included; in an
            encoder the window is centred.
        simplicial_second_window: Second keys and values that it sees, likewise.
        simplicial_form: What its logits are: `hadamard`, `complex` or `determinant`.
        simplicial_offset_bias: Whether it has a learned bias for each head and distance of the second key.
        simplicial_warm_start: Whether it begins as sliding-window attention: zero second projections, of which only
            the biases remain.
        simplicial_backend: What computes it: `auto` (`eager` if `attn_implementation` says so, else `triton` where
            that runs, else `chunked`), `eager`, `chunked`, `flex` or `triton`. None gives way to another.
        linear_feature_map: What a `linear` layer makes of queries and keys: `elu`, `relu`, `softmax` or `dpfp`.
        performer_num_features: Random features of a `performer` layer, the same for all heads. Default:
            `head_dim * ln(head_dim)`, rounded down.
        performer_redraw_interval: Optimizer steps after which training draws new random features; 0 keeps the first.
        bigbird_block_size: Tokens in a block of a `bigbird` layer.
        bigbird_num_global_blocks: Blocks that all tokens see. In an encoder, half of them (rounded up) begin the text,
            the others end it, and their tokens see everything; in a decoder all begin it.
        bigbird_num_window_blocks: Blocks around a token's own that it sees, itself included: centred in an encoder,
            which takes an odd number, and up to its own in a decoder.
        bigbird_num_random_blocks: Other blocks that a token's block sees, drawn once for each head.
        lsh_chunk_length: Tokens in a chunk of an `lsh` layer; chunks are counted within a bucket.
        lsh_num_adjacent_chunks: Chunks of its bucket that a token sees beside its own: before it, and in an encoder
            after it, too.
        lsh_num_buckets: Buckets that a hash spreads tokens over, an even number. Default: twice as many as chunks in
            `max_position_embeddings`, but at most 128.
        lsh_num_hashes: Independent hashes, whose results are merged.
        require_shift_invariance: Whether combinations of form and rotary positions that depend on absolute positions
            are errors.
        norm_type: `rmsnorm` or `layernorm`.
        norm_position: `pre` (before each sub-layer, and once at the end) or `post` (after each residual sum).
        norm_eps: Added to the variance in a norm.
        norm_bias: Whether a `layernorm` has a bias; an `rmsnorm` never has.
        first_attention_norm: Whether a `pre` stack normalises what its first attention reads. ModernBERT, whose
            embeddings are normalised already, does not.
        hidden_act: Activation of the feed-forwards, any name in transformers' `ACT2FN`.
        gated_mlp: Whether feed-forwards multiply the activation with a second projection (GLU variants).
        attention_bias: Whether the four attention projections have biases.
        mlp_bias: Whether feed-forwards and experts have biases.
        qk_norm: Whether queries and keys are normalised per head.
        attention_scale: Factor on the scores of `full`, `sliding` and `chunked` layers and of cross-attention.
            Default: `1 / sqrt(head_dim)`; T5 has 1.
        is_causal: True for a decoder, False for an encoder.
        prefix_lm: Whether a decoder reads prefixes both ways: `prefix_length` of a forward pass, and the prompt of
            `generate`, unless it is told another. Layers: `full`, `sliding`, `chunked` or registered over pairs.
        add_cross_attention: Whether each layer also attends to the states of an encoder. `TrineSeq2SeqConfig` sets it.
        cross_attention_hidden_size: Width of those states. Default: `hidden_size`.
        type_vocab_size: Number of segments that tokens can belong to (`token_type_ids`), 0 for none.
        embedding_norm: Whether the sum of the embeddings is normalised.
        add_pooling_layer: Whether `AutoModel` has a pooler: a dense layer with tanh on the first token.
        scale_embedding: Whether token embeddings are multiplied with `sqrt(hidden_size)`.
        attention_dropout: Dropout of attention weights.
        hidden_dropout: Dropout of the embeddings and of each sub-layer's output.
        classifier_dropout: Dropout before a classifier. Default: `hidden_dropout`.
        classifier_pooling: What a sequence classifier sees of each sequence: `cls` (the first token, through the
            pooler where there is one), `mean` or `last`. Default: `last` for a decoder, `cls` for an encoder.
        classifier_transform: Whether classifiers read `norm(act(W x + b))` of the states, pooled or of a token, as the
            masked-token head does.
        masked_lm_head: How masked tokens are predicted: `transform` (from `norm(act(W x + b))` of their own state) or
            `next_token` (from the state before them, as a decoder's head does).
        retrieval_outputs: What `TrineForRetrieval` makes: some of `dense`, `sparse` and `multi_vector`. Else None.
        multi_vector_dim: Size of each of the vectors of `multi_vector`.
        unscored_token_ids: Ids of the tokens that `sparse` and `multi_vector` leave out, `[CLS]` and such.
        initializer: `normal` (standard deviation `initializer_range`), `xavier` or `kaiming`. Projections into the
            residual stream are divided by the square root of the number of sub-layers.
        initializer_range: Standard deviation of `normal` and of embeddings.
        tie_word_embeddings: Whether the head shares the token embeddings.
        use_cache: Whether a forward pass returns a cache by default.
        pad_token_id: Id of the padding token.
        bos_token_id: Id of the token that begins a text.
        eos_token_id: Id, or ids, of the token that ends a text.
        loss_chunk_size: Tokens whose logits exist at a time while a training loss is computed, or None for ordinary
            logits. With chunks, the logits of a training forward pass with labels are computed when they are read.
        num_experts: Number of routed experts of a sparse layer. Default: 8; always None without sparse layers.
        num_experts_per_tok: Experts that a token visits. Equal to `num_experts` is dense soft gating. Default: 2;
            always None without sparse layers.
        moe_intermediate_size: Width of an expert. Default: `intermediate_size`.
        num_shared_experts: Experts that every token visits, computed as one feed-forward of their joint width.
        router_type: `softmax`, or `sigmoid` with a balancing bias.
        norm_topk_prob: Whether the weights of the chosen experts are scaled to sum to 1.
        routed_scaling_factor: Factor on the weights of the chosen experts.
        router_aux_loss_coef: Weight of the load-balancing loss. Default: 0.01; always 0 without sparse layers.
        router_aux_loss_reduction: How the sparse layers make one load-balancing loss: `mean` (each layer is balanced
            by itself; the mean of their losses) or `pooled` (the loss of all layers' choices together, as in
            transformers' Mixtral, where the loads of layers can make up for each other).
        router_z_loss_coef: Weight of the router's z-loss.
        router_bias_update_rate: Step of the balancing bias per optimizer step.
        output_router_logits: Whether router logits are returned. The loss does not depend on it: in training with
            labels, router losses are always added, times their coefficients; in evaluation never.
        export_code: Whether saving writes the model's code beside the weights.

    Raises:
        ValueError: For an unknown keyword, or a value that a rule in `validation.py` forbids.

    Example:
        >>> TrineConfig(num_hidden_layers=4, attention_types="sliding*3, full").attention_types
        ['sliding', 'sliding', 'sliding', 'full']
    """

    model_type = "trine"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_local_experts": "num_experts"}
    hub_auto_map = {
        "AutoModel": "TrineModel",
        "AutoModelForCausalLM": "TrineForCausalLM",
        "AutoModelForMaskedLM": "TrineForMaskedLM",
        "AutoModelForPreTraining": "TrineForPreTraining",
        "AutoModelForNextSentencePrediction": "TrineForNextSentencePrediction",
        "AutoModelForTextEncoding": "TrineModel",
        "AutoModelForSequenceClassification": "TrineForSequenceClassification",
        "AutoModelForTokenClassification": "TrineForTokenClassification",
        "AutoModelForQuestionAnswering": "TrineForQuestionAnswering",
        "AutoModelForMultipleChoice": "TrineForMultipleChoice",
    }
    hub_optional = {
        "retrieval_outputs": {"AutoModel": "TrineForRetrieval"},
        **dict(INPUT_HEADS.values()),
    }
    hub_roles = {
        True: {"TrineForCausalLM"},
        False: {"TrineForMaskedLM", "TrineForPreTraining", "TrineForNextSentencePrediction"},
    }
    hub_entry_modules = ("trine.configuration.configuration_trine", "trine.modeling.heads.table")
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "visibility"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    input_type: str = "tokens"
    vocab_size: int = 32000
    hidden_size: int = 512
    intermediate_size: DerivedInt = DERIVED
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: DerivedInt = DERIVED
    head_dim: DerivedInt = DERIVED
    attention_types: list[str] | str = "full"
    mlp_layer_types: list[str] | str = "dense"
    position_type: str = "rope"
    rope_parameters: DerivedDict = DERIVED
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    max_position_embeddings: int = 2048
    sliding_window: DerivedInt = DERIVED
    attention_chunk_size: int = 256
    simplicial_window: int = 512
    simplicial_second_window: int = 32
    simplicial_form: str = "complex"
    simplicial_offset_bias: bool = True
    simplicial_warm_start: bool = False
    simplicial_backend: str = "auto"
    linear_feature_map: str = "elu"
    performer_num_features: DerivedInt = DERIVED
    performer_redraw_interval: int = 1000
    bigbird_block_size: int = 64
    bigbird_num_global_blocks: int = 2
    bigbird_num_window_blocks: int = 3
    bigbird_num_random_blocks: int = 3
    lsh_chunk_length: int = 64
    lsh_num_adjacent_chunks: int = 1
    lsh_num_buckets: DerivedInt = DERIVED
    lsh_num_hashes: int = 4
    require_shift_invariance: bool = True
    norm_type: str = "rmsnorm"
    norm_position: str = "pre"
    norm_eps: float | int = 1e-6
    norm_bias: bool = True
    first_attention_norm: bool = True
    hidden_act: str = "silu"
    gated_mlp: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    attention_scale: float | int | None = None
    is_causal: bool = True
    prefix_lm: bool = False
    add_cross_attention: bool = False
    cross_attention_hidden_size: DerivedInt = DERIVED
    type_vocab_size: int = 0
    embedding_norm: bool = False
    add_pooling_layer: bool = False
    scale_embedding: bool = False
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    classifier_dropout: DerivedFloat = DERIVED
    classifier_pooling: DerivedString = DERIVED
    classifier_transform: bool = False
    masked_lm_head: str = "transform"
    retrieval_outputs: list[str] | None = None
    multi_vector_dim: int = 128
    unscored_token_ids: list[int] | None = None
    initializer: str = "normal"
    initializer_range: float | int = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    loss_chunk_size: int | None = 1024
    num_experts: DerivedInt = DERIVED
    num_experts_per_tok: DerivedInt = DERIVED
    moe_intermediate_size: DerivedInt = DERIVED
    num_shared_experts: int = 0
    router_type: str = "softmax"
    norm_topk_prob: bool = True
    routed_scaling_factor: float | int = 1.0
    router_aux_loss_coef: DerivedFloat = DERIVED
    router_aux_loss_reduction: str = "mean"
    router_z_loss_coef: float | int = 0.0
    router_bias_update_rate: float | int = 0.001
    output_router_logits: bool = False
    export_code: bool = True

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "TrineConfig":
        """Builds the config of a named size, with any field overridden.

        Raises:
            ValueError: When there is no such preset; the message lists them.
        """
        from .presets import stack_preset

        return cls(**{**stack_preset(name), **overrides})

    def __post_init__(self, **kwargs):
        self.check_given(kwargs)
        layers = self.num_hidden_layers
        self.attention_types = expand_pattern("attention_types", self.attention_types, layers, ATTENTION_KINDS)
        self.mlp_layer_types = expand_pattern("mlp_layer_types", self.mlp_layer_types, layers, FEED_FORWARD_KINDS)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size={self.hidden_size} is not a multiple of "
                    f"num_attention_heads={self.num_attention_heads}; change one of them, or set head_dim."
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.intermediate_size is None:
            self.intermediate_size = 64 * -(-self.hidden_size // 24) if self.gated_mlp else 4 * self.hidden_size
        if self.moe_intermediate_size is None:
            self.moe_intermediate_size = self.intermediate_size
        self.derive_experts()
        self.settle_window()
        for mixin in PLUGIN_FIELDS.values():
            mixin.take_plugin_fields(self, kwargs)
        if self.performer_num_features is None:
            self.performer_num_features = int(self.head_dim * log(self.head_dim)) if self.head_dim > 2 else 2
        if self.lsh_num_buckets is None:
            self.lsh_num_buckets = 2 * max(1, min(64, self.max_position_embeddings // max(1, self.lsh_chunk_length)))
        if self.cross_attention_hidden_size is None:
            self.cross_attention_hidden_size = self.hidden_size
        if self.classifier_dropout is None:
            self.classifier_dropout = self.hidden_dropout
        if self.classifier_pooling is None:
            self.classifier_pooling = "last" if self.is_causal else "cls"
        has_rotary_parameters = self.rope_parameters or any(key.startswith("rope_") for key in kwargs)
        super().__post_init__(**kwargs)
        if self.position_type != "rope" and not has_rotary_parameters:
            self.rope_parameters = DERIVED  # the base class fills it for every model that has the field
        # Transformers, too, sets the plan on the instance, where it depends on the config.
        self.base_model_tp_plan = tensor_parallel_plan(self)  # pyright: ignore[reportAttributeAccessIssue]
        self.check()

    def derive_experts(self) -> None:
        """Fills what sparse layers need. Without them nothing makes the config look like one of experts.

        Trainers (TRL) and servers (vLLM) tell a mixture of experts by these fields, and then ask the model for its
        load. A number that no config may have stays, for `check` to refuse.
        """
        for kind, defaults in EXPERT_DEFAULTS.items():
            if kind in self.mlp_layer_types:
                for name in (name for name in defaults if getattr(self, name) is None):
                    setattr(self, name, defaults[name])
                return
        for name in ("num_experts", "num_experts_per_tok"):
            if (getattr(self, name) or 0) > 0:
                setattr(self, name, DERIVED)
        if self.router_aux_loss_coef is None or self.router_aux_loss_coef > 0:
            self.router_aux_loss_coef = 0.0

    def settle_window(self) -> None:
        """Makes `sliding_window` None where no layer is `sliding`, and a number where one is."""
        if self.sliding_window is None or self.sliding_window >= 1:  # any other is for `check` to refuse
            self.sliding_window = (self.sliding_window or 256) if "sliding" in self.attention_types else DERIVED

    def check(self) -> None:
        """Applies every rule of `validation.py`; raises a `ValueError` at the first that fails."""
        for rule in RULES:
            rule(self)
        check_loss_chunks(self)
        for has_pair_scores, rule in PAIR_RULES.items():
            if has_pair_scores == self.has_pair_scores:
                rule(self)
        for reads_prefixes, rule in PREFIX_RULES.items():
            if reads_prefixes == self.prefix_lm:
                rule(self)
        for kind, rule in ATTENTION_RULES.items():
            if kind in self.attention_types:
                rule(self)
        for kind, rule in FEED_FORWARD_RULES.items():
            if kind in self.mlp_layer_types:
                rule(self)

    def validate_architecture(self) -> None:
        self.check()

    def validate_layer_type(self) -> None:
        """Replaced by the rule `check_layers`: transformers' closed list does not hold our kinds."""

    @property
    def base_model_ep_plan(self) -> dict[str, str] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Module pattern to style for spreading experts, or None where there are none."""
        for kind, plan in EXPERT_PLANS.items():
            if kind in self.mlp_layer_types:
                return plan(self)
        return None


__all__ = ["TrineConfig"]
