"""The encoder-decoder: two Trine trunks, and the heads on them."""

from typing import Any, Unpack

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput, TransformersKwargs, can_return_tuple

from ..configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from .checks.caches import compiles
from .modeling_trine import TrineModel, TrinePreTrainedModel, supports_flash
from .outputs import TrineSeq2SeqModelOutput


class TrineSeq2SeqPreTrainedModel(TrinePreTrainedModel):
    """The base of all encoder-decoders. Each stack records its own hidden states, attentions and router logits."""

    config_class = TrineSeq2SeqConfig
    config: TrineSeq2SeqConfig  # pyright: ignore[reportIncompatibleVariableOverride] another family of configs
    _can_record_outputs = None

    def __init__(self, config: TrineSeq2SeqConfig, *args, **kwargs):
        config.settle_vocabulary()
        super().__init__(config, *args, **kwargs)

    @property
    def _supports_flash_attn(self) -> bool:
        return supports_flash(self.config.encoder) and supports_flash(self.config.decoder)

    @property
    def _can_compile_fullgraph(self) -> bool:
        return compiles(self.config.decoder.layer_types)

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict:
        """The tied weights of all modules. `tie_word_embeddings` is about the head alone, unlike in transformers."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        return dict(self.ties())

    def ties(self) -> dict[str, str]:
        """Weights of this module that are the same tensor as another one."""
        return {}

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Gives both stacks and the head `new_num_tokens` rows; transformers would resize the encoder's alone."""
        arguments = (new_num_tokens, pad_to_multiple_of, mean_resizing)
        decoder = self.get_decoder()
        if not self.config.share_embeddings and isinstance(decoder, TrineModel):
            decoder.resize_token_embeddings(*arguments)
        embeddings = super().resize_token_embeddings(*arguments)
        if new_num_tokens is not None or pad_to_multiple_of is not None:
            for config in (self.config.encoder, self.config.decoder, self.config):
                config.vocab_size = embeddings.weight.shape[0]  # pyright: ignore[reportAttributeAccessIssue] a tensor
        return embeddings


class TrineSeq2SeqModel(TrineSeq2SeqPreTrainedModel):
    """An encoder, and a decoder that attends to it, without a head.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.

    Args:
        config: Both stacks.
        add_decoder: Whether there is a decoder. Without one, only the embeddings that it shares are left of it,
            because a checkpoint has them under its name.
    """

    # The source is a pattern, which PEFT passes over: it is to adapt the encoder's table alone, which both texts pass.
    _tied_weights_keys = {"encoder.embed_tokens.weight": r"decoder\.embed_tokens\.weight"}

    def __init__(self, config: TrineSeq2SeqConfig, add_decoder: bool = True):
        super().__init__(config)
        self.encoder = TrineModel(config.encoder)
        self.decoder = TrineModel(config.decoder) if add_decoder else shared_embeddings(config)
        if not add_decoder:  # the checkpoint may have one
            self._keys_to_ignore_on_load_unexpected = {r"decoder\."}
        self.post_init()

    def ties(self) -> dict[str, str]:
        return {"encoder.embed_tokens.weight": "decoder.embed_tokens.weight"} if self.config.share_embeddings else {}

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.embed_tokens = value
        if self.config.share_embeddings:
            self.decoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues] as in transformers
    ) -> TrineSeq2SeqModelOutput:
        """Computes the decoder's hidden states. Each argument is that of `TrineModel`, for one of the two.

        Args:
            input_ids: Source tokens, (batch, source length).
            attention_mask: 1 for a source token, 0 for padding.
            decoder_input_ids: Target tokens, (batch, target length). Without them, and without embeddings, nothing is
                decoded: this is how sentence-transformers and `AutoModelForTextEncoding` use an encoder.
            encoder_outputs: What the encoder returned for the source before, a `ModelOutput` or a tuple, in place of
                computing it.

        Returns:
            `last_hidden_state` (batch, target length, hidden), or that of the encoder (batch, source length, hidden)
            where nothing is decoded; and what both trunks record, under transformers' names.

        Raises:
            ValueError: A dict of masks for the source, decoder inputs without a decoder, or what the stacks raise.
        """
        if isinstance(attention_mask, dict):
            raise ValueError(
                f"attention_mask has the keys {list(attention_mask)}, but must be a tensor (batch, source length): "
                "cross-attention reads it, too. decoder_attention_mask may be a dict."
            )
        for name in ("output_hidden_states", "output_attentions"):  # the stacks ask their own configs
            if getattr(self.config, name):
                kwargs.setdefault(name, True)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                **kwargs,  # pyright: ignore[reportCallIssue] an overlap of the typed keywords
            )
        elif not isinstance(encoder_outputs, ModelOutput):
            names = ("last_hidden_state", "hidden_states", "attentions")
            encoder_outputs = ModelOutput(zip(names, encoder_outputs, strict=False))
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            return TrineSeq2SeqModelOutput(
                last_hidden_state=encoder_outputs["last_hidden_state"], **encoder_record(encoder_outputs)
            )
        if not isinstance(self.decoder, TrineModel):
            raise ValueError("There is no decoder: decoder_input_ids and decoder_inputs_embeds cannot be given.")
        if self.config.share_embeddings:  # by one module, so that what is put in its place acts on both sides
            decoder_inputs_embeds = self.encoder.embed(decoder_input_ids, decoder_inputs_embeds)
            decoder_input_ids = None
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            encoder_hidden_states=encoder_outputs["last_hidden_state"],
            encoder_attention_mask=attention_mask,
            **kwargs,  # pyright: ignore[reportCallIssue] an overlap of the typed keywords
        )
        return TrineSeq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            decoder_router_logits=outputs.router_logits,
            decoder_second_attentions=outputs.second_attentions,
            **encoder_record(encoder_outputs),
        )


def shared_embeddings(config: TrineSeq2SeqConfig) -> nn.ModuleDict:
    """The token embeddings of an absent decoder, if they are shared: `ties` makes them one with the encoder's."""
    table = nn.Embedding(config.decoder.vocab_size, config.decoder.hidden_size, config.decoder.pad_token_id)
    return nn.ModuleDict({"embed_tokens": table} if config.share_embeddings else {})


def encoder_record(outputs: Any) -> dict[str, Any]:
    """The encoder's outputs, under the names that an encoder-decoder's output has for them."""
    names = ("last_hidden_state", "hidden_states", "attentions", "router_logits", "second_attentions")
    return {f"encoder_{name}": outputs.get(name) for name in names}


__all__ = ["TrineSeq2SeqModel", "TrineSeq2SeqPreTrainedModel"]
