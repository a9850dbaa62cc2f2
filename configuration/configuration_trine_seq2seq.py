"""The configuration of an encoder-decoder: two Trine stacks, and what they share."""

from copy import deepcopy
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .adapter_targets import AdapterTargetsMixin
from .bounds import check_fields
from .configuration_trine import DERIVED, DerivedFloat, DerivedInt, TrineConfig
from .encoder_decoder import DecoderFieldsMixin, register_encoder, without_sizes
from .hub_export import HubExportMixin
from .keywords import LAYER_KEYWORDS, LIBRARY_KEYWORDS, StrictKeywordsMixin
from .validation import check_dropout, check_pointer, check_start_token, check_token_ids


# None only until `__post_init__` derives it. The strict dataclass checks annotations at run time.
if TYPE_CHECKING:
    Stack = TrineConfig
else:
    Stack = PreTrainedConfig | dict[str, Any] | None
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
SHARED = ("vocab_size", *SPECIAL_TOKENS)  # which the whole has as well as each stack
SIDES = ("encoder", "decoder")


@strict
class TrineSeq2SeqConfig(
    HubExportMixin, AdapterTargetsMixin, DecoderFieldsMixin, StrictKeywordsMixin, PreTrainedConfig
):
    """Configuration of a `TrineSeq2SeqModel` and of the heads on it.

    Encoder and decoder are complete configurations, so that they may differ in every part; what makes them an encoder
    and a decoder with cross-attention is set here. `from_pretrained` takes fields in place of those of the checkpoint:
    those of `TrineConfig` for both stacks, or `encoder={...}` and `decoder={...}` for one.

    Args:
        encoder: A `TrineConfig`, or its fields.
        decoder: A `TrineConfig`, or its fields.
        share_embeddings: Whether encoder and decoder have the same token embeddings.
        tie_word_embeddings: Whether the head shares the token embeddings of the decoder.
        logit_scale: Factor on the states that the head reads. T5's first version has `1 / sqrt(hidden_size)`.
        pointer_size: Features of the queries and keys of a pointer-generator head, which copies tokens of the source
            (See et al. 2017, arXiv 1704.04368). `logits` are then log-probabilities. Default: None, no such head.
        coverage_loss_coef: Factor of the loss on copying from where it copied before, which training adds.
        decoder_is_causal: Whether a target token sees only those before it. False is for mask-predict, which writes
            all tokens at once and again: `generate(custom_generate=MaskPredict())`.
        vocab_size: Number of target tokens, and of source tokens where the encoder names no number. Default: that of
            the decoder.
        pad_token_id: Id of the padding token. Default: that of the decoder, as for the next two.
        bos_token_id: Id of the token that begins a text.
        eos_token_id: Id, or ids, of the token that ends a text.
        decoder_start_token_id: Id that the decoder begins with. Default: `bos_token_id`, else `pad_token_id`.
        classifier_dropout: Dropout before a classifier. Default: that of the decoder.
        output_router_logits: Whether router logits are returned. The loss does not depend on it.
        export_code: Whether saving writes the model's code beside the weights.

    Raises:
        ValueError: For an unknown keyword, sizes that do not fit together, or what `TrineConfig` raises.

    Example:
        >>> config = TrineSeq2SeqConfig.from_preset("transformer-base", vocab_size=8000, hidden_size=256)
        >>> config.encoder.hidden_size, config.decoder.add_cross_attention
        (256, True)
    """

    model_type = "trine_seq2seq"
    keys_to_ignore_at_inference = ["past_key_values"]
    sub_configs_defaults = {"encoder": TrineConfig, "decoder": TrineConfig}  # pyright: ignore[reportAssignmentType] as in transformers
    hub_auto_map = {
        "AutoModel": "TrineSeq2SeqModel",
        "AutoModelForTextEncoding": "TrineSeq2SeqModel",
        "AutoModelForSeq2SeqLM": "TrineForConditionalGeneration",
        "AutoModelForSequenceClassification": "TrineSeq2SeqForSequenceClassification",
        "AutoModelForTokenClassification": "TrineSeq2SeqForTokenClassification",
        "AutoModelForQuestionAnswering": "TrineSeq2SeqForQuestionAnswering",
    }
    hub_entry_modules = ("trine.configuration.configuration_trine_seq2seq", "trine.modeling.heads.table")

    encoder: Stack = DERIVED
    decoder: Stack = DERIVED
    share_embeddings: bool = True
    tie_word_embeddings: bool = True
    logit_scale: float | int = 1.0
    pointer_size: int | None = None
    coverage_loss_coef: float | int = 0.0
    decoder_is_causal: bool = True
    vocab_size: DerivedInt = DERIVED
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    classifier_dropout: DerivedFloat = DERIVED
    is_encoder_decoder: bool = True
    output_router_logits: bool = False
    export_code: bool = True

    @classmethod
    def from_preset(cls, name: str, encoder: dict | None = None, decoder: dict | None = None, **overrides):
        """Builds the config of a named size.

        Args:
            name: A name in `SEQ2SEQ_PRESETS`.
            encoder: Fields of the encoder to override.
            decoder: Fields of the decoder to override.
            overrides: Fields of this config, or of both stacks at once.

        Raises:
            ValueError: When there is no such preset; the message lists them.
        """
        from .presets import PRESETS, SEQ2SEQ_PRESETS, check_preset

        check_preset(name, SEQ2SEQ_PRESETS, "TrineConfig", PRESETS)
        preset = SEQ2SEQ_PRESETS[name]
        return cls(**cls.override(preset, {**overrides, "encoder": encoder or {}, "decoder": decoder or {}}))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Builds the config of a `config.json`. Unknown keys of a stack are kept in that stack, with a warning."""
        config_dict = without_sizes(config_dict, config_dict.get("decoder"))
        stacks = {side: config_dict[side] for side in SIDES if isinstance(config_dict.get(side), dict)}
        split = {side: TrineConfig.without_notes(stack) for side, stack in stacks.items()}
        result = super().from_dict({**config_dict, **{side: known for side, (known, _) in split.items()}}, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        for side, (_, notes) in split.items():
            getattr(config, side).keep_notes(notes)
        return result

    @classmethod
    def takes(cls, keyword: str) -> bool:
        """Whether `from_pretrained` builds the config again with a keyword: a field of this config or of a stack."""
        return super().takes(keyword) or TrineConfig.takes(keyword)

    @classmethod
    def override(cls, saved: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        """Overrides fields of a saved config. Fields that both stacks have change in both; `encoder={...}` sets one.

        The decoder's vocabulary is that of the model, and of an encoder that shares it.
        """
        own = {field.name for field in fields(cls)} | LIBRARY_KEYWORDS - LAYER_KEYWORDS
        both = {key: value for key, value in changes.items() if key not in own or key in SHARED}
        merged = {**saved, **{key: value for key, value in changes.items() if key in own}}
        decoder = changes.get("decoder")
        if isinstance(decoder, dict) and "vocab_size" in decoder and "vocab_size" not in changes:
            merged["vocab_size"] = decoder["vocab_size"]
            if merged.get("share_embeddings", True):
                both["vocab_size"] = decoder["vocab_size"]
        for side in SIDES:
            change = changes.get(side)
            if change is None or isinstance(change, dict):
                merged[side] = TrineConfig.override(saved.get(side) or {}, {**both, **(change or {})})
        return merged

    def __post_init__(self, **kwargs):
        kwargs = without_sizes(kwargs, self.decoder)
        self.check_given(kwargs)
        size = {} if self.vocab_size is None else {"vocab_size": self.vocab_size}
        self.encoder = as_stack("encoder", self.encoder, size, is_causal=False, use_cache=False)
        self.decoder = as_stack(
            "decoder",
            self.decoder,
            size,
            is_causal=self.decoder_is_causal,
            add_cross_attention=True,
            cross_attention_hidden_size=self.encoder.hidden_size,
            **({} if self.decoder_is_causal else {"use_cache": False}),
        )
        if self.vocab_size is None:
            object.__setattr__(self, "vocab_size", self.decoder.vocab_size)
        for name in SPECIAL_TOKENS:
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.decoder, name))
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id if self.bos_token_id is None else self.bos_token_id
        if self.classifier_dropout is None:
            self.classifier_dropout = self.decoder.classifier_dropout
        super().__post_init__(**kwargs)
        self.check()
        register_encoder(type(self))

    def __setattr__(self, name: str, value: Any) -> None:
        """Changes a field. A vocabulary is changed in the decoder, and in the encoder that shares it, as well."""
        super().__setattr__(name, value)
        if name == "vocab_size" and "export_code" in vars(self):  # the last field: both stacks are made
            for stack in (self.encoder, self.decoder) if self.share_embeddings else (self.decoder,):
                stack.vocab_size = value

    @property
    def has_pointer(self) -> bool:
        """Whether there is a pointer-generator head."""
        return self.pointer_size is not None

    def settle_vocabulary(self) -> None:
        """Copies the decoder's vocabulary size to the model's, where transformers or a user changed it there."""
        if self.vocab_size != self.decoder.vocab_size:
            self.vocab_size = self.decoder.vocab_size

    def check(self) -> None:
        """Applies the rules of both stacks, and those between them; raises a `ValueError` at the first that fails."""
        for side in SIDES:
            check_family(side, getattr(self, side))
            getattr(self, side).check()
        if self.vocab_size != self.decoder.vocab_size:
            raise ValueError(
                f"vocab_size={self.vocab_size} is the decoder's, but decoder.vocab_size={self.decoder.vocab_size}."
            )
        if not self.is_encoder_decoder:
            raise ValueError("is_encoder_decoder=False: use TrineConfig for one stack.")
        check_fields(self)
        check_dropout(self, "classifier_dropout")
        if self.logit_scale <= 0:
            raise ValueError(f"logit_scale={self.logit_scale} must be above 0.")
        check_pointer(self)
        if self.share_embeddings:
            for field in ("vocab_size", "hidden_size"):
                source, target = getattr(self.encoder, field), getattr(self.decoder, field)
                if source != target:
                    raise ValueError(
                        f"share_embeddings=True needs equal sizes, but encoder.{field}={source} and "
                        f"decoder.{field}={target}."
                    )
        check_token_ids(self)
        check_start_token(self)

    def validate_architecture(self) -> None:
        self.check()


def check_family(side: str, stack: object) -> None:
    """Raises a `ValueError` for what is no `TrineConfig`. Remote code may have several classes of that name."""
    if getattr(stack, "model_type", None) != TrineConfig.model_type:
        raise ValueError(f"{side} is a {type(stack).__name__}, but must be a TrineConfig.")


def as_stack(side: str, stack: TrineConfig | dict | None, defaults: dict[str, Any], **role) -> TrineConfig:
    """The config of one side, from a config or its fields, with the fields that its role sets.

    Missing fields are taken from `defaults`.

    Raises:
        ValueError: For what `TrineConfig` refuses, after the name of the side, or a config of another family.
    """
    if stack is None or isinstance(stack, dict):
        try:
            return TrineConfig(**{**defaults, **(stack or {}), **role})
        except (ValueError, StrictDataclassError) as error:
            raise ValueError(f"{side}: {error}") from error
    check_family(side, stack)
    stack = deepcopy(stack)  # it may serve the other side, too
    for field, value in role.items():
        setattr(stack, field, value)
    return stack


__all__ = ["TrineSeq2SeqConfig"]
