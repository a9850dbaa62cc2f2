"""The trunk of every Trine model: embeddings, positions, layers."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Unpack

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import logging
from transformers.utils.generic import TransformersKwargs, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs, maybe_install_capturing_hooks

from ..configuration.choices import Choices, in_package
from ..configuration.configuration_trine import TrineConfig
from ..configuration.kinds import ATTENTION_KINDS, POSITION_KINDS
from ..configuration.lazy_choices import LazyChoices, later
from .attention.softmax import SoftmaxAttention, TwoKeyAttention
from .block import LAYERS, TrineLayer
from .checkpoints import CHECKPOINTED
from .checks.caches import CACHE_CHECKS, compiles
from .checks.ids import REQUEST_CHECKS, can_look, check_ids
from .checks.paged_serving import check_vllm
from .feed_forward.routers import TrineRouter
from .feed_forward.table import EXPERT_CHOICES
from .inputs.reading import OTHER_INPUTS, READERS
from .lean import leanly
from .loading import CheckedLoading
from .masks.masks import make_masks, make_position_ids, packed_lengths
from .masks.visibility import Visibility
from .norms import make_norm
from .outputs import TrineModelOutput
from .pooling import POOLERS
from .positions.table import POSITIONS


logger = logging.get_logger(__name__)


# What some mechanisms record.
RECORDED_BY_MIXERS = Choices(
    "attention_types", {"simplicial": ("second_attentions", OutputRecorder(TwoKeyAttention, index=2))}
)
RECORDED_BY_CROSS = Choices(
    "add_cross_attention",
    {True: ("cross_attentions", OutputRecorder(SoftmaxAttention, index=1, layer_name="cross_attn"))},
)
RECORDED_BY_MLPS = Choices("mlp_layer_types", {"sparse": ("router_logits", OutputRecorder(TrineRouter, index=0))})


class TrinePreTrainedModel(*CHECKPOINTED, CheckedLoading):  # pyright: ignore[reportGeneralTypeIssues] one or none
    """The base of all Trine models: initialisation, support of transformers' features, recorded outputs."""

    config_class = TrineConfig
    config: TrineConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TrineLayer", "TrinePostNormLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Transformers decides both by searching the source of this file for names that stand in the mechanisms' own files.
    _can_set_attn_implementation_cached_value = True
    _can_set_experts_implementation_cached_value = True
    _can_record_outputs = {
        "hidden_states": TrineLayer,
        "attentions": OutputRecorder(SoftmaxAttention, index=1, layer_name="self_attn"),
        **dict(RECORDED_BY_MIXERS.values()),
        **dict(RECORDED_BY_CROSS.values()),
        **dict(RECORDED_BY_MLPS.values()),
    }

    def __init__(self, config: Any, *args, **kwargs):
        if "cache" in TrineModelOutput.__dataclass_fields__:  # past_key_values until then
            raise ImportError("transformers 5.24 gives caches another name, and text would be wrong: install 5.23.")
        config.check()  # once more: it may have changed since it was made
        check_vllm(config)
        super().__init__(config, *args, **kwargs)

    @property
    def _supports_flash_attn(self) -> bool:
        return supports_flash(self.config)

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """The implementation of the experts, where there are some: see `choose_kernel`."""
        for kind in EXPERT_CHOICES:
            if kind in getattr(self.config, "mlp_layer_types", ()):
                requested_experts = EXPERT_CHOICES[kind](self.config, requested_experts)
        return super().get_correct_experts_implementation(requested_experts)

    @property
    def _can_compile_fullgraph(self) -> bool:
        """Whether `generate` can compile its steps with a static cache, and without breaks."""
        return compiles(self.config.layer_types)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """Hands every module to `_init_weights`, also those without tensors of their own.

        For classes outside transformers, it passes over modules whose own tensors are all loaded, which guards against
        code that overwrites loaded weights. A module that only fills its children's weights has no own tensors, so it
        would never be asked; and the functions of `initialization.py` leave loaded weights alone by themselves.
        """
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        initialize = getattr(module, "initialize", None)
        if callable(initialize):
            initialize()


def supports_flash(config: TrineConfig) -> bool:
    """Whether flash kernels serve a stack: they take neither a bias on the scores nor chunks nor prefixes."""
    kinds = [ATTENTION_KINDS[kind] for kind in config.attention_types]
    return all(kind.flash for kind in [*kinds, POSITION_KINDS[config.position_type]]) and not config.prefix_lm


def ask_for_second_attentions(forward: Callable) -> Callable:
    """Lets `output_attentions` ask for the weights of both keys of simplicial layers.

    transformers records only outputs that are asked for by their own name, except for cross-attention.
    """

    @wraps(forward)
    def wrapper(self, *args, **kwargs):
        if "simplicial" in self.config.attention_types:
            kwargs["output_second_attentions"] = kwargs.get("output_attentions", self.config.output_attentions)
        return forward(self, *args, **kwargs)

    return wrapper


REQUESTS = Choices("attention_types", {"simplicial": ask_for_second_attentions})


def ask_for_all_weights(forward: Callable) -> Callable:
    """Applies what the mechanisms need so that `output_attentions` speaks for all of their weights."""
    for request in REQUESTS.values():
        forward = request(forward)
    return forward


def make_causal_masks(prefix_length: int | torch.Tensor | None, *arguments: Any) -> dict[str, Visibility]:
    """Makes the masks of a model without prefixes, as `make_masks`; a `ValueError` if one is given."""
    if prefix_length is not None:
        raise ValueError(
            f"prefix_length={prefix_length} is given, but prefix_lm=False: load the model with "
            "from_pretrained(..., prefix_lm=True), or leave it out."
        )
    return make_masks(*arguments)


# By whether the model reads prefixes.
MASKS = LazyChoices(
    "prefix_lm",
    {False: make_causal_masks, True: later(".masks.prefix", "make_prefix_masks")},
    package=__package__,
)
# Training reads router logits. Left to the first forward pass, this takes a lock, which does not compile.
RECORDED_IN_TRAINING = Choices("mlp_layer_types", {"sparse": maybe_install_capturing_hooks})
EMBEDDING_SCALES = Choices("scale_embedding", {True: lambda embeddings: embeddings * embeddings.shape[-1] ** 0.5})
CROSS_MASKS = Choices("add_cross_attention", {True: create_bidirectional_mask})
LEAN = in_package((leanly,))


def evaluate_leanly(forward: Callable) -> Callable:
    """Applies `leanly`. A checkpoint's own code is short rather than fast."""
    for wrap in LEAN:
        forward = wrap(forward)
    return forward


def make_token_inputs(config: TrineConfig) -> tuple[nn.Module, nn.Module]:
    """The embeddings of tokens, and their positions."""
    embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
    return embeddings, POSITIONS[config.position_type](config)


INPUTS = LazyChoices(
    "input_type",
    {
        "tokens": make_token_inputs,
        "image": later(".inputs.images", "make_image_inputs"),
        "audio": later(".inputs.sounds", "make_audio_inputs"),
        "series": later(".inputs.series", "make_series_inputs"),
    },
    package=__package__,
)


class TrineModel(TrinePreTrainedModel):
    """A stack of layers without a head: a decoder if `config.is_causal`, else an encoder.

    Args:
        config: The architecture.
        add_pooling_layer: Whether there is a pooler, in place of what `config.add_pooling_layer` says.
    """

    def __init__(self, config: TrineConfig, add_pooling_layer: bool | None = None):
        super().__init__(config)
        self.embed_tokens, positions = INPUTS[config.input_type](config)
        self.token_type_embeddings = None
        if config.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.positions = positions
        self.embedding_norm = make_norm(config, config.hidden_size) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout)
        layer_class = LAYERS[config.norm_position]
        self.layers = nn.ModuleList([layer_class(config, index) for index in range(config.num_hidden_layers)])
        self.norm = make_norm(config, config.hidden_size) if config.norm_position == "pre" else nn.Identity()
        has_pooler = config.add_pooling_layer if add_pooling_layer is None else add_pooling_layer
        self.pooler = POOLERS[config.is_causal](config) if has_pooler else None
        self.gradient_checkpointing = False
        self.post_init()
        for kind, prepare in RECORDED_IN_TRAINING.items():
            if kind in config.mlp_layer_types:
                prepare(self)

    @evaluate_leanly
    @merge_with_config_defaults
    @ask_for_all_weights
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        token_type_ids: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        prefix_length: int | torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> TrineModelOutput:
        """Computes the hidden states of a batch.

        Args:
            input_ids: Token ids, (batch, length).
            attention_mask: 1 for a token and 0 for padding, (batch, length with cached tokens); or a ready mask of
                four dimensions.
            position_ids: (batch, length). Default: real tokens are counted, so padding on the left shifts nothing.
                Positions that start again, without a mask, mark packed sequences.
            past_key_values: The cache of earlier tokens.
            inputs_embeds: (batch, length, hidden), in place of `input_ids`.
            use_cache: Whether a decoder returns a cache.
            token_type_ids: Segment of each token, (batch, length), below `config.type_vocab_size`. Default: 0. They
                are ignored, with a warning, where that is 0.
            encoder_hidden_states: What the cross-attention of a decoder looks at, (batch, source length, encoder's
                hidden). Needed exactly if `config.add_cross_attention`.
            encoder_attention_mask: 1 for a token of the source and 0 for padding, (batch, source length).
            prefix_length: With `config.prefix_lm`, the number of first tokens that see each other, for all texts, or
                (batch,), or (sequences,) of a packed row: those at positions below it. Default: none.
            kwargs: With another `config.input_type`, what is read in place of ids: `pixel_values`, images (batch,
                channels, height, width), or a list of images of any sizes, which becomes one packed row, and
                `bool_masked_pos`, True for hidden patches, (batch, patches); or `input_values`, also called
                `input_features`, spectrograms (batch, frames, mel bands), or a list of such; or `past_values`,
                windows (batch, steps, channels), with `past_observed_mask`, each channel of which is a row of its own
                in what is returned (batch * channels, patches, hidden). Else
                `output_hidden_states`, `output_attentions` (with `attn_implementation="eager"`),
                `output_router_logits`, and what the attention functions of transformers read.

        Returns:
            `last_hidden_state` (batch, length, hidden), the cache, `pooler_output` (sequences, hidden) if there is a
            pooler, and what was asked for: hidden states, one for the embeddings and one a layer; attention weights
            (batch, heads, queries, keys) for each layer that has them, those of cross-attention by themselves; for
            simplicial layers these are summed over the second keys, and `second_attentions` are (batch, heads,
            queries, second keys), summed over the first; router logits (batch * length, experts) a sparse layer.

        Raises:
            ValueError: If ids lie outside the vocabulary, not exactly one of ids and embeddings is given, encoder
                states are given to a model without a use for them, or missing, or router logits are asked of a decoder
                without experts.
        """
        for check in REQUEST_CHECKS:
            check(self.config, kwargs.get("output_router_logits"))
        for check in OTHER_INPUTS:
            check(self.config, kwargs)
        for kind, read in READERS.items():
            if kind == self.config.input_type:
                inputs_embeds, position_ids = read(self, input_ids, inputs_embeds, position_ids, kwargs)
                input_ids = None
        inputs_embeds = self.embed(input_ids, inputs_embeds)
        if self.config.add_cross_attention != (encoder_hidden_states is not None):
            raise ValueError(
                f"encoder_hidden_states are {'missing' if self.config.add_cross_attention else 'given'}, but "
                f"add_cross_attention={self.config.add_cross_attention}."
            )
        if use_cache and past_key_values is None and self.config.is_causal:
            past_key_values = self.make_cache()
        self_cache = past_key_values
        if isinstance(past_key_values, EncoderDecoderCache):
            self_cache = past_key_values.self_attention_cache
        if past_key_values is not None:
            CACHE_CHECKS[self.config.is_causal](past_key_values, self.config)
        given_positions = position_ids
        if position_ids is None:
            position_ids = make_position_ids(inputs_embeds, attention_mask, self_cache)
        is_apart = self.config._attn_implementation == "sdpa" and prefix_length is None
        lengths = packed_lengths(attention_mask, self_cache, given_positions) if is_apart else None
        given = (self.config, inputs_embeds, attention_mask, self_cache, given_positions, lengths)
        visibility = MASKS[self.config.prefix_lm](prefix_length, *given)
        # The masks and biases of the longest sequence begin with those of the others.
        length = max(lengths) if lengths else inputs_embeds.shape[1]
        layer_types = self.config.layer_types
        biases = self.positions.biases(length, inputs_embeds.device, self_cache, layer_types)
        for crosses, make in CROSS_MASKS.items():
            if crosses == self.config.add_cross_attention:
                encoder_attention_mask = make(
                    self.config, inputs_embeds, encoder_attention_mask, encoder_hidden_states
                )
        for scales, scale in EMBEDDING_SCALES.items():
            if scales == self.config.scale_embedding:
                inputs_embeds = scale(inputs_embeds)
        hidden_states = self.positions.add_to(inputs_embeds, position_ids)
        hidden_states = self.add_segments(hidden_states, token_type_ids)
        hidden_states = self.dropout(self.embedding_norm(hidden_states))
        rotations = self.positions.rotations(hidden_states, kwargs.pop("coordinates", position_ids), layer_types)
        for layer, layer_type in zip(self.layers, layer_types, strict=False):
            hidden_states = layer(
                hidden_states,
                biases[layer_type],
                encoder_hidden_states,
                visibility=visibility[layer_type],
                encoder_attention_mask=encoder_attention_mask,
                position_ids=position_ids,
                position_embeddings=rotations[layer_type],
                past_key_values=past_key_values,
                **kwargs,  # pyright: ignore[reportCallIssue] an overlap of the typed keywords
            )
        hidden_states = self.norm(hidden_states)
        pooled = self.pooler(hidden_states, attention_mask, given_positions) if self.pooler is not None else None
        return TrineModelOutput(last_hidden_state=hidden_states, pooler_output=pooled, past_key_values=past_key_values)

    def make_cache(self) -> Cache:
        """Makes an empty cache. That of cross-attention never has windows, whatever the layers have."""
        cache = DynamicCache(config=self.config)
        return EncoderDecoderCache(cache, DynamicCache()) if self.config.add_cross_attention else cache

    def add_segments(self, hidden_states: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
        """Adds the embeddings of segments (batch, length) to (batch, length, hidden), if the model has any."""
        if self.token_type_embeddings is None:
            # Tokenizers send zeros for a single text, which say nothing.
            if token_type_ids is not None and can_look(token_type_ids) and token_type_ids.any():
                logger.warning_once(
                    "token_type_ids name several segments, and are ignored: type_vocab_size=0, the model has none."
                )
            return hidden_states
        if token_type_ids is None:
            return hidden_states + self.token_type_embeddings.weight[0]
        check_ids(token_type_ids, self.config.type_vocab_size, "token_type_ids", "type_vocab_size")
        return hidden_states + self.token_type_embeddings(token_type_ids)

    def embed(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Embeds ids (batch, length), or passes embeddings (batch, length, hidden) on; exactly one must be given."""
        if input_ids is not None and inputs_embeds is None:
            try:
                return self.embed_tokens(input_ids)
            except IndexError:
                check_ids(input_ids, self.config.vocab_size, "input_ids", "vocab_size")
                raise
        if inputs_embeds is not None and input_ids is None:
            return inputs_embeds
        raise ValueError("Exactly one of input_ids and inputs_embeds must be given.")


__all__ = ["TrineModel", "TrinePreTrainedModel"]
