"""The configuration of the recurrent baseline: an LSTM encoder and an LSTM decoder, with or without attention."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .adapter_targets import AdapterTargetsMixin
from .bounds import check_fields, check_weights
from .hub_export import HubExportMixin
from .keywords import StrictKeywordsMixin
from .patterns import check_choice
from .validation import check_dropout, check_loss_chunks, check_start_token, check_token_ids


# How the decoder looks at the source, each with the paper that it follows. `modeling/recurrent/layers.py` has a class
# for each.
RECURRENT_ATTENTIONS = {
    "none": "Cho et al. 2014, arXiv 1406.1078, section 2.2: one context vector, fed to every step",
    "dot": "Luong et al. 2015, arXiv 1508.04025, section 3.1: global attention with dot-product scores",
}


@strict
class TrineRecurrentConfig(HubExportMixin, AdapterTargetsMixin, StrictKeywordsMixin, PreTrainedConfig):
    """Configuration of a `TrineRecurrentModel` and of the head on it.

    Encoder and decoder share one vocabulary and its embeddings, and have the same number of layers, because the
    decoder's state begins as the encoder's final state, layer by layer. Unknown keywords are errors.

    Args:
        vocab_size: Number of token ids.
        hidden_size: Width of the embeddings and of every layer's output, in features. The two directions of a
            bidirectional encoder have half of it each.
        num_hidden_layers: Number of layers of the encoder, and of the decoder.
        bidirectional_encoder: Whether the encoder reads in both directions (Bahdanau et al. 2015, arXiv 1409.0473,
            section 3.2). Then an attended state knows what follows it, and the final state keeps the beginning of a
            source as well as its end, for which Sutskever et al. 2014 reversed the source.
        attention: How the decoder looks at the source: `none` (one fixed context vector) or `dot` (dot-product
            attention over the encoder's states).
        hidden_dropout: Dropout of what enters a layer and the head, never of a state's way through time (Zaremba et
            al. 2014, arXiv 1409.2329).
        initializer_range: Standard deviation of the first embeddings and projections. LSTM weights do not read it.
        tie_word_embeddings: Whether the head shares the token embeddings.
        is_encoder_decoder: Always True.
        use_cache: Whether a forward pass returns the decoder's state by default.
        pad_token_id: Id of the padding token.
        bos_token_id: Id of the token that begins a text.
        eos_token_id: Id, or ids, of the token that ends a text.
        decoder_start_token_id: Id of the token that the decoder begins with. Default: `bos_token_id`, or
            without one `pad_token_id`.
        loss_chunk_size: Tokens whose logits exist at a time while a training loss is computed, or None for ordinary
            logits. With chunks, the logits of a training forward pass with labels are computed when they are read.
        export_code: Whether saving writes the model's code beside the weights.

    Raises:
        ValueError: For an unknown keyword, or a value that a rule forbids.

    Example:
        >>> TrineRecurrentConfig(attention="none", bos_token_id=1).decoder_start_token_id
        1
    """

    model_type = "trine_recurrent"
    adapter_targets = ("combine",)
    keys_to_ignore_at_inference = ["past_key_values"]
    hub_auto_map = {
        "AutoModel": "TrineRecurrentModel",
        "AutoModelForSeq2SeqLM": "TrineRecurrentForConditionalGeneration",
    }
    hub_entry_modules = (
        "trine.configuration.configuration_trine_recurrent",
        "trine.modeling.modeling_trine_recurrent",
    )

    vocab_size: int = 32000
    hidden_size: int = 512
    num_hidden_layers: int = 2
    bidirectional_encoder: bool = True
    attention: str = "dot"
    hidden_dropout: float | int = 0.0
    initializer_range: float | int = 0.05
    tie_word_embeddings: bool = True
    is_encoder_decoder: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    loss_chunk_size: int | None = 1024
    export_code: bool = True

    def __post_init__(self, **kwargs):
        self.check_given(kwargs)
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id if self.bos_token_id is None else self.bos_token_id
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Applies every rule; raises a `ValueError` at the first that fails."""
        for rule in RULES:
            rule(self)

    def validate_architecture(self) -> None:
        self.check()


def check_sizes(config: TrineRecurrentConfig) -> None:
    """Raises a `ValueError` unless sizes are at least 1, and `hidden_size` is even for a bidirectional encoder."""
    for field in ("vocab_size", "hidden_size", "num_hidden_layers"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field}={getattr(config, field)} must be at least 1.")
    if config.bidirectional_encoder and config.hidden_size % 2:
        raise ValueError(
            f"hidden_size={config.hidden_size} must be even for bidirectional_encoder=True, which gives each "
            "direction half of it."
        )


def check_numbers(config: TrineRecurrentConfig) -> None:
    """Raises a `ValueError` for a dropout, a standard deviation or a chunk size out of range."""
    check_dropout(config, "hidden_dropout")
    if config.initializer_range <= 0:
        raise ValueError(f"initializer_range={config.initializer_range} must be above 0.")


def check_shape(config: TrineRecurrentConfig) -> None:
    """Raises a `ValueError` for an unknown attention, or a model without encoder or decoder."""
    check_choice("attention", config.attention, RECURRENT_ATTENTIONS)
    if not config.is_encoder_decoder:
        raise ValueError("is_encoder_decoder=False: a recurrent model always has an encoder and a decoder.")


def check_size(config: TrineRecurrentConfig) -> None:
    """Raises a `ValueError` for more weights than any computer could hold."""
    parts = {("vocab_size", "hidden_size"): 1, ("hidden_size", "hidden_size"): 16 * config.num_hidden_layers}
    check_weights(parts, config)


RULES = (
    check_fields,
    check_sizes,
    check_size,
    check_numbers,
    check_loss_chunks,
    check_shape,
    check_token_ids,
    check_start_token,
)

__all__ = ["TrineRecurrentConfig"]
