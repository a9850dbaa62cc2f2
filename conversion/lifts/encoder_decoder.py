"""An encoder gets a decoder."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from ...configuration.configuration_trine import TrineConfig
from ...configuration.configuration_trine_seq2seq import SPECIAL_TOKENS, TrineSeq2SeqConfig
from ...configuration.patterns import check_choice
from ...modeling.heads.causal_lm import TrineForCausalLM
from ...modeling.heads.seq2seq import TrineForConditionalGeneration
from ...modeling.modeling_trine import TrineModel
from .base import Lift
from .checks import check_model
from .weights import build, copy_tensors


CROSS_ATTENTIONS = ("self", "zero")
COPIED = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")


@dataclass
class EncoderDecoderLift(Lift):
    """Puts a warm-started decoder behind an encoder, whose states stay the same.

    The decoder has the encoder's own layers and embeddings, with a causal mask, or is a given one.
    Source: Rothe et al. 2020, arXiv 1907.12461, sections 2 and 3.
    """

    kind = "encoder_decoder"
    becomes = "an encoder gets a decoder of its own layers, or a given one"
    stays = "the encoder's states; a given decoder's logits"
    source = "Rothe et al. 2020, arXiv 1907.12461"

    decoder: PreTrainedModel | str | None = field(
        default=None, metadata={"help": "A Trine decoder, or its folder. Default: made of the encoder's own layers."}
    )
    cross_attention: str | None = field(
        default=None,
        metadata={
            "help": "How cross-attention begins: self copies each layer's self-attention (default without a decoder), "
            "zero has a zero output projection, with which a given decoder keeps its logits (default with one)."
        },
    )
    pad_token_id: int | None = field(default=None, metadata={"help": "Id of the padding token."})
    bos_token_id: int | None = field(default=None, metadata={"help": "Id of the token that begins a text."})
    eos_token_id: int | None = field(default=None, metadata={"help": "Id of the token that ends a text."})
    decoder_start_token_id: int | None = field(
        default=None, metadata={"help": "Id that the decoder begins with. Default: bos_token_id, else pad_token_id."}
    )

    def apply(self, model: Any) -> Any:
        """Makes the encoder-decoder of an encoder and its decoder.

        Raises:
            ValueError: The model is no encoder, or the decoder does not fit it.
        """
        encoder = only_stack(model, is_causal=False, role="model")
        given = self.load_decoder(model.dtype)
        if given is not None:
            check_model(given, "decoder")
        decoder = encoder if given is None else only_stack(given, is_causal=True, role="decoder")
        beginning = self.cross_attention or ("self" if given is None else "zero")
        check_choice("cross_attention", beginning, CROSS_ATTENTIONS)
        if beginning == "self":
            check_copies(encoder.config, decoder)
        elif given is not None and decoder.config.norm_position != "pre":
            raise ValueError(
                f"norm_position={decoder.config.norm_position!r} of the decoder normalises what cross-attention "
                "passes on, so that no zero keeps its logits; use cross_attention='self'."
            )
        lifted = build(TrineForConditionalGeneration, self.make_config(encoder, given), model)
        copy_tensors(encoder, lifted.model.encoder)
        copy_tensors(decoder, lifted.model.decoder)
        if isinstance(given, TrineForCausalLM) and not given.config.tie_word_embeddings:
            copy_tensors(given.lm_head, lifted.lm_head)
        begin_decoder(encoder, lifted.model.decoder, beginning, is_own=given is None)
        return lifted

    def load_decoder(self, dtype: torch.dtype) -> PreTrainedModel | None:
        """The given decoder, loaded where it is a folder; None if the encoder's own layers will do."""
        if isinstance(self.decoder, str):
            return TrineForCausalLM.from_pretrained(self.decoder, dtype=dtype)
        if self.decoder is not None and self.decoder.dtype != dtype:
            raise ValueError(f"decoder has dtype={self.decoder.dtype}, but the model {dtype}; convert one of them.")
        return self.decoder

    def make_config(self, encoder: TrineModel, given: PreTrainedModel | None) -> TrineSeq2SeqConfig:
        """The config of both stacks, which run with the encoder's kernels.

        Raises:
            ValueError: No token begins or ends a text.
        """
        stacks = {"encoder": deepcopy(encoder.config), "decoder": deepcopy((given or encoder).config)}
        for stack in stacks.values():
            stack.add_pooling_layer = False
        if given is None and encoder.config.position_type == "relative":
            stacks["decoder"].relative_attention_num_buckets //= 2  # a decoder has none for keys after the query
        tokens = {name: getattr(self, name) for name in SPECIAL_TOKENS}
        config = TrineSeq2SeqConfig(
            **stacks,
            **tokens,
            decoder_start_token_id=self.decoder_start_token_id,
            share_embeddings=given is None,
            tie_word_embeddings=given is None or given.config.tie_word_embeddings,
        )
        config._attn_implementation = encoder.config._attn_implementation
        config._experts_implementation = encoder.config._experts_implementation
        for name in ("decoder_start_token_id", "eos_token_id"):
            if getattr(config, name) is None:
                raise ValueError(f"{name}=None: the config names no such token, so that generation needs the option.")
        return config


def only_stack(model: Any, is_causal: bool, role: str) -> TrineModel:
    """The trunk of a model with one stack; a `ValueError` for two, or for the wrong direction."""
    trunks = [module for module in model.modules() if isinstance(module, TrineModel)]
    if len(trunks) != 1:
        raise ValueError(
            f"{role} is a {type(model).__name__}, but must be one stack of Trine: an encoder or a decoder."
        )
    config = trunks[0].config
    for name, value in {"is_causal": is_causal, "add_cross_attention": False}.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{role} has {name}={getattr(config, name)}, but the lift 'encoder_decoder' needs {value}."
            )
    return trunks[0]


def check_copies(encoder: TrineConfig, decoder: TrineModel) -> None:
    """Raises a `ValueError` unless the decoder's self-attention can read the encoder's states."""
    if encoder.hidden_size != decoder.config.hidden_size:
        raise ValueError(
            f"hidden_size={decoder.config.hidden_size} of the decoder is not that of the encoder, "
            f"{encoder.hidden_size}, whose states its self-attention cannot read; use cross_attention='zero'."
        )
    if "lsh" in decoder.config.attention_types:
        raise ValueError(
            f"attention_types={decoder.config.attention_types} has 'lsh', whose keys are its queries, so that "
            "cross-attention cannot be a copy; use cross_attention='zero'."
        )
    for index, layer in enumerate(decoder.layers):
        missing = [name for name in COPIED if not hasattr(layer.self_attn, name)]
        if missing:
            raise ValueError(
                f"layers.{index}.self_attn is a {type(layer.self_attn).__name__}, which has no {missing[0]}, so that "
                "cross-attention cannot be a copy; use cross_attention='zero'."
            )


@torch.no_grad()
def begin_decoder(encoder: Any, decoder: Any, beginning: str, is_own: bool) -> None:
    """Fills cross-attention, and the buckets of relative positions, half of the encoder's, if it is its copy."""
    for layer in decoder.layers:
        if beginning == "self":
            for name in COPIED:
                copy_tensors(getattr(layer.self_attn, name), getattr(layer.cross_attn, name))
            if layer.input_layernorm is not None:
                copy_tensors(layer.input_layernorm, layer.cross_attention_layernorm)
        else:
            for parameter in layer.cross_attn.o_proj.parameters():
                parameter.zero_()
    if is_own and encoder.config.position_type == "relative":
        table = decoder.positions.relative_attention_bias.weight
        table.copy_(encoder.positions.relative_attention_bias.weight[: len(table)])  # those of keys up to the query
