"""The two stacks of the recurrent baseline: an encoder that reads the source, a decoder that reads the target."""

# Shapes: B batch, S tokens of the source, T tokens of the target, L layers, H hidden size.

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.generic import TransformersKwargs, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...configuration.configuration_trine_recurrent import TrineRecurrentConfig
from ..caches.recurrent import TrineRecurrentCache
from ..checkpoints import CHECKPOINTED
from ..checks.ids import check_ids
from ..loading import CheckedLoading
from .layers import CONTEXTS, DotProductAttention, TrineRecurrentLayer, find_tokens, initialize_lstm


@dataclass
class TrineRecurrentEncoderOutput(BaseModelOutput):
    """The encoder's states, and the state that each of its layers ends in: `final_hidden`, `final_cell` (B, L, H)."""

    final_hidden: torch.Tensor | None = None
    final_cell: torch.Tensor | None = None


class TrineRecurrentPreTrainedModel(*CHECKPOINTED, CheckedLoading):  # pyright: ignore[reportGeneralTypeIssues] one or none
    """The base of the recurrent models."""

    config_class = TrineRecurrentConfig
    config: TrineRecurrentConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TrineRecurrentLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _can_record_outputs = {
        "hidden_states": TrineRecurrentLayer,
        "cross_attentions": OutputRecorder(DotProductAttention, index=1),
    }

    def __init__(self, config: TrineRecurrentConfig, *args, **kwargs):
        if "cache" in BaseModelOutputWithPastAndCrossAttentions.__dataclass_fields__:  # past_key_values until then
            raise ImportError("transformers 5.24 gives caches another name, and text would be wrong: install 5.23.")
        config.check()  # once more: it may have changed since it was made
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM):
            initialize_lstm(module)
        else:
            super()._init_weights(module)


class TrineRecurrentEncoder(TrineRecurrentPreTrainedModel):
    """Reads the source. It owns the token embeddings, which the decoder shares.

    Args:
        config: The architecture.
    """

    def __init__(self, config: TrineRecurrentConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            [
                TrineRecurrentLayer(config, config.hidden_size, config.bidirectional_encoder)
                for _ in range(config.num_hidden_layers)
            ]
        )
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> TrineRecurrentEncoderOutput:
        """Computes the states after each token of the source, and the final ones.

        Args:
            input_ids: Token ids, (B, S).
            attention_mask: (B, S), 0 for padding, on either side. It never enters a state.
            inputs_embeds: (B, S, H), in place of `input_ids`.
            kwargs: `output_hidden_states`.

        Returns:
            `last_hidden_state` (B, S, H), 0 at padding, and the final states.

        Raises:
            ValueError: If ids lie outside the vocabulary, not exactly one of ids and embeddings is given, or the mask
                does not fit them.
        """
        hidden_states = self.embed(input_ids, inputs_embeds)
        tokens = find_tokens(attention_mask, hidden_states.shape[:2], "attention_mask")
        finals = []
        for layer in self.layers:
            hidden_states, *final = layer(hidden_states, None, None, tokens)
            finals.append(final)
        final_hidden, final_cell = (torch.stack(states, dim=1) for states in zip(*finals, strict=True))
        return TrineRecurrentEncoderOutput(hidden_states, final_hidden=final_hidden, final_cell=final_cell)

    def embed(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, prefix: str = ""
    ) -> torch.Tensor:
        """Embeds ids (B, S), or passes embeddings (B, S, H) on; `prefix` is that of their names in messages."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(f"Exactly one of {prefix}input_ids and {prefix}inputs_embeds must be given.")
        if input_ids is None:
            return inputs_embeds  # pyright: ignore[reportReturnType] it is given
        check_ids(input_ids, self.config.vocab_size, f"{prefix}input_ids", "vocab_size")
        return self.embed_tokens(input_ids)


class TrineRecurrentDecoder(TrineRecurrentPreTrainedModel):
    """Reads the target token by token, beginning in the encoder's final state, and looks at the source.

    The state begins as in Sutskever et al. 2014. Its output is that of Luong et al. 2015, equation 5,
    `tanh(W [context; state])`, with the context that `config.attention` names.

    Args:
        config: The architecture.
    """

    def __init__(self, config: TrineRecurrentConfig):
        super().__init__(config)
        self.context = CONTEXTS[config.attention]()
        width = config.hidden_size
        self.layers = nn.ModuleList(
            [
                TrineRecurrentLayer(config, 2 * width if index == 0 and self.context.feeds_decoder else width)
                for index in range(config.num_hidden_layers)
            ]
        )
        self.combine = nn.Linear(2 * width, width, bias=False)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        inputs_embeds: torch.Tensor,
        encoder_outputs: TrineRecurrentEncoderOutput,
        attention_mask: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Computes what is predicted from after each token of the target.

        Args:
            inputs_embeds: Of the target, (B, T, H).
            encoder_outputs: What the encoder returned.
            attention_mask: (B, T, or the cached tokens more), 0 for padding.
            encoder_attention_mask: (B, S), 0 for padding.
            past_key_values: The state after earlier tokens, as an earlier call returned it.
            use_cache: Whether the state is returned.
            kwargs: `output_hidden_states`, `output_attentions`.

        Returns:
            `last_hidden_state` (B, T, H), the cache, and what was asked for: hidden states, and for `attention="dot"`
            one tensor of weights in `cross_attentions`, (B, 1, T, S).

        Raises:
            ValueError: For a cache of another kind, encoder outputs without final states, or a mask that does not fit.
        """
        final_hidden, final_cell = final_states(encoder_outputs)
        cache = self.check_cache(past_key_values, use_cache)
        length = inputs_embeds.shape[1]
        if attention_mask is not None:
            attention_mask = attention_mask[:, -length:]
        tokens = find_tokens(attention_mask, inputs_embeds.shape[:2], "decoder_attention_mask")
        hidden_states, summary = inputs_embeds, final_hidden[:, -1]
        for index, layer in enumerate(self.layers):
            state = None if cache is None else cache.get_state(index)
            hidden, cell = (final_hidden[:, index], final_cell[:, index]) if state is None else state
            fed = summary if index == 0 and self.context.feeds_decoder else None
            hidden_states, hidden, cell = layer(hidden_states, hidden, cell, tokens, fed)
            if cache is not None:
                cache.update(hidden, cell, index, length)
        context, _ = self.context(hidden_states, encoder_outputs.last_hidden_state, summary, encoder_attention_mask)
        output = self.dropout(torch.tanh(self.combine(torch.cat([context, hidden_states], dim=-1))))
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=output, past_key_values=cache)

    def check_cache(self, cache: Cache | None, use_cache: bool | None) -> TrineRecurrentCache | None:
        """The given cache, if it is one for states; without one, a new one if it is wanted."""
        if cache is None:
            return TrineRecurrentCache(len(self.layers)) if use_cache else None
        if not hasattr(cache, "get_state"):
            raise ValueError(
                f"past_key_values is a {type(cache).__name__}, but must be the TrineRecurrentCache of an earlier call."
            )
        return cache  # pyright: ignore[reportReturnType] code on the Hub may hold a second copy of the class


def final_states(encoder_outputs: TrineRecurrentEncoderOutput) -> tuple[torch.Tensor, torch.Tensor]:
    """The state in which the decoder begins, (B, L, H) twice."""
    hidden, cell = (getattr(encoder_outputs, name, None) for name in ("final_hidden", "final_cell"))
    if hidden is None or cell is None:
        raise ValueError(
            f"encoder_outputs is a {type(encoder_outputs).__name__} without final_hidden and final_cell, but must be "
            "what get_encoder() returns with return_dict=True."
        )
    return hidden, cell


__all__ = ["TrineRecurrentDecoder", "TrineRecurrentEncoder", "TrineRecurrentPreTrainedModel"]
