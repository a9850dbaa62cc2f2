"""An encoder gets a decoder."""

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ...configuration.configuration_trine import TrineConfig
from ...configuration.configuration_trine_seq2seq import SPECIAL_TOKENS, TrineSeq2SeqConfig
from ...configuration.patterns import check_choice
from ...modeling.heads.causal_lm import TrineForCausalLM
from ...modeling.heads.seq2seq import TrineForConditionalGeneration
from ...modeling.modeling_trine import TrineModel
from ...tokenization.loading import TARGET_TOKENIZER
from ...tokenization.text_ends import find_ends
from ..companions import copy_companions, find_source, has_tokenizer
from .base import Lift
from .checks import check_model
from .layers import choose_layers, take_layers
from .weights import build, copy_tensors


CROSS_ATTENTIONS = ("self", "zero")
COPIED = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")


@dataclass
class EncoderDecoderLift(Lift):
    """Puts a warm-started decoder behind an encoder, whose states stay the same.

    The decoder has layers of the encoder and its embeddings, with a causal mask, or is a given one. With
    `encoder_layers` the encoder keeps its first layers alone, and their states.
    Source: Rothe et al. 2020, arXiv 1907.12461, sections 2 and 3; fewer layers: Shleifer and Rush 2020, arXiv
    2010.13002, section 3.
    """

    kind = "encoder_decoder"
    becomes = "an encoder gets a decoder of its own layers, or a given one"
    stays = "the encoder's states; a given decoder's logits"
    source = "Rothe et al. 2020, arXiv 1907.12461"

    decoder: PreTrainedModel | str | None = field(
        default=None, metadata={"help": "A Trine decoder, or its folder. Default: made of the encoder's own layers."}
    )
    decoder_layers: int | None = field(
        default=None,
        metadata={"help": "Layers of a decoder that is made of the encoder's, which are spread evenly. Default: all."},
    )
    decoder_layers_from: list[int] | None = field(
        default=None, metadata={"help": "Or the indices, from 0, of the encoder's layers that it is made of: 0 5."}
    )
    encoder_layers: int | None = field(
        default=None, metadata={"help": "Layers that the encoder keeps, the first ones. Default: all."}
    )
    share_embeddings: bool | None = field(
        default=None,
        metadata={"help": "Whether both stacks have one table of tokens. Default: yes, if their tables are equal."},
    )
    tie_word_embeddings: bool | None = field(
        default=None,
        metadata={
            "help": "Whether the head is the decoder's table of tokens. False gives it weights of its own, at first "
            "equal, which learn where the table is frozen. Default: yes, or as a given decoder has it."
        },
    )
    cross_attention: str | None = field(
        default=None,
        metadata={
            "help": "How cross-attention begins: self copies each layer's self-attention (default without a decoder), "
            "zero has a zero output projection, with which a given decoder keeps its logits (default with one)."
        },
    )
    tokenizer: PreTrainedTokenizerBase | str | None = field(
        default=None,
        metadata={
            "help": "Tokenizer, or its folder, of what is written, whose special tokens are meant by the ids that are "
            "not given. Default for a folder: that of the given decoder, else of the source."
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
            ValueError: The model is no encoder, an option does not fit, or the decoder does not fit the encoder.
        """
        encoder, given = self.keeps(model), self.load_decoder(model.dtype)
        decoder = self.own_layers(model) if given is None else only_stack(given, is_causal=True, role="decoder")
        beginning = self.cross_attention or ("self" if given is None else "zero")
        check_choice("cross_attention", beginning, CROSS_ATTENTIONS)
        if beginning == "self":
            check_copies(encoder.config, decoder)
        elif given is not None and decoder.config.norm_position != "pre":
            raise ValueError(
                f"norm_position={decoder.config.norm_position!r} of the decoder normalises what cross-attention "
                "passes on, so that no zero keeps its logits; use cross_attention='self'."
            )
        config = self.make_config(encoder, decoder, given)
        lifted = build(TrineForConditionalGeneration, config, model)
        copy_tensors(encoder, lifted.model.encoder)
        copy_tensors(decoder, lifted.model.decoder)
        if isinstance(given, TrineForCausalLM) and not given.config.tie_word_embeddings:
            copy_tensors(given.lm_head, lifted.lm_head)
        elif not config.tie_word_embeddings:
            copy_tensors(decoder.embed_tokens, lifted.lm_head)
        begin_decoder(encoder, lifted.model.decoder, beginning, is_own=given is None)
        return lifted

    def keeps(self, model: Any) -> TrineModel:
        """The encoder, whose states stay: the first layers of the model."""
        stack = only_stack(model, is_causal=False, role="model")
        chosen = choose_layers("encoder_layers", self.encoder_layers, None, len(stack.layers))
        return take_layers(stack, range(len(chosen)))

    def own_layers(self, model: Any) -> TrineModel:
        """The layers of the model that its own decoder is made of."""
        stack = only_stack(model, is_causal=False, role="model")
        numbers = self.decoder_layers, self.decoder_layers_from
        return take_layers(stack, choose_layers("decoder_layers", *numbers, len(stack.layers)))

    def load_decoder(self, dtype: torch.dtype) -> PreTrainedModel | None:
        """The given decoder, loaded where it is a folder; None if the encoder's own layers will do."""
        if self.decoder is None:
            return None
        for name in ("decoder_layers", "decoder_layers_from"):
            if getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)}, but a given decoder keeps its layers. Leave it out.")
        if isinstance(self.decoder, str):
            given = TrineForCausalLM.from_pretrained(self.decoder, dtype=dtype)
        else:
            given = self.decoder
        if given.dtype != dtype:
            raise ValueError(f"decoder has dtype={given.dtype}, but the model {dtype}; convert one of them.")
        check_model(given, "decoder")
        return given

    def make_config(
        self, encoder: TrineModel, decoder: TrineModel, given: PreTrainedModel | None
    ) -> TrineSeq2SeqConfig:
        """The config of both stacks, which run with the encoder's kernels.

        Raises:
            ValueError: No token begins or ends a text, or the tables of tokens differ that are to be shared.
        """
        stacks = {"encoder": deepcopy(encoder.config), "decoder": deepcopy(decoder.config)}
        for stack in stacks.values():
            stack.add_pooling_layer, stack.retrieval_outputs, stack.unscored_token_ids = False, None, None
        if given is None and encoder.config.position_type == "relative":
            stacks["decoder"].relative_attention_num_buckets //= 2  # a decoder has none for keys after the query
        config = TrineSeq2SeqConfig(
            **stacks,
            **self.special_ids(),
            decoder_start_token_id=self.decoder_start_token_id,
            share_embeddings=self.shares(encoder, decoder),
            tie_word_embeddings=self.ties(given),
        )
        for name in SPECIAL_TOKENS:  # of the decoder, too, where transformers looks for those of a text
            if getattr(config.decoder, name) is None:
                setattr(config.decoder, name, getattr(config, name))
        config._attn_implementation = encoder.config._attn_implementation
        config._experts_implementation = encoder.config._experts_implementation
        for name in ("decoder_start_token_id", "eos_token_id"):
            if getattr(config, name) is None:
                raise ValueError(
                    f"{name}=None: neither config nor tokenizer names such a token, which generation needs."
                )
        return config

    def special_ids(self) -> dict[str, Any]:
        """The ids of special tokens: the options, else those of the tokenizer; None for the config's own."""
        tokenizer: Any = self.tokenizer
        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        ids: dict[str, Any] = {}
        if tokenizer is not None:
            found = find_ends(tokenizer).items()
            ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in found if token}
        given = {name: getattr(self, name) for name in SPECIAL_TOKENS}
        return {name: ids.get(name) if given[name] is None else given[name] for name in SPECIAL_TOKENS}

    def shares(self, encoder: TrineModel, decoder: TrineModel) -> bool:
        """Whether both stacks have one table of tokens; a `ValueError` if that would change the decoder's."""
        tables = [stack.embed_tokens.weight for stack in (encoder, decoder)]
        are_equal = tables[0].shape == tables[1].shape and torch.equal(*tables)
        if self.share_embeddings and not are_equal:
            raise ValueError(
                f"share_embeddings=True, but the given decoder has another table of tokens, {tuple(tables[1].shape)}, "
                f"than the encoder, {tuple(tables[0].shape)}: as one they would change its logits. Leave it out."
            )
        return are_equal if self.share_embeddings is None else self.share_embeddings

    def ties(self, given: PreTrainedModel | None) -> bool:
        """Whether head and table are one; a `ValueError` if that would change a given decoder's head."""
        are_one = given is None or given.config.tie_word_embeddings
        if self.tie_word_embeddings and not are_one:
            raise ValueError(
                "tie_word_embeddings=True, but the given decoder has a head of its own, whose logits would change. "
                "Leave it out."
            )
        return are_one if self.tie_word_embeddings is None else self.tie_word_embeddings

    def read_companions(self, folder: Path) -> None:
        """Takes the tokenizer of what is written from the decoder's folder, or the source's."""
        folder = find_source(self.decoder) if isinstance(self.decoder, str) else folder
        if self.tokenizer is None and has_tokenizer(folder):
            self.tokenizer = str(folder)

    def write_companions(self, source: Path, target: Path) -> None:
        """Copies the source's files without those of a sentence encoder, and another tokenizer of a given decoder."""
        copy_companions(source, target, generates=False, embeds=False)
        if isinstance(self.decoder, str) and isinstance(self.tokenizer, str):
            tokenizer: Any = AutoTokenizer.from_pretrained(self.tokenizer)
            if not has_tokenizer(target) or tokenizer.get_vocab() != AutoTokenizer.from_pretrained(target).get_vocab():
                tokenizer.save_pretrained(target / TARGET_TOKENIZER)


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
