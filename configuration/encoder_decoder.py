"""The parts of an encoder-decoder that other libraries look for: fields of T5 in its config, and its encoder alone.

The fields are the decoder's. The encoder comes without the decoder where sentence-transformers loads it.
"""

import sys
from typing import Any


MODULE, TABLE = "sentence_transformers.base.modules.transformer", "_ENCODER_ONLY_MODELS"
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")


class DecoderSize:
    """A field whose value is the decoder's field of the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        return self if config is None else getattr(config.decoder, self.name)


class DecoderFieldsMixin:
    """Base of the config of an encoder-decoder, in which `encoder` and `decoder` are complete configs.

    `to_dict` has the sizes too, as PEFT's prompts and prefixes take theirs from there; a file has them once.
    """

    encoder: Any
    decoder: Any
    hidden_size = DecoderSize()
    num_hidden_layers = DecoderSize()
    num_attention_heads = DecoderSize()
    num_key_value_heads = DecoderSize()
    head_dim = DecoderSize()

    @property
    def use_cache(self) -> bool:
        """Whether a forward pass returns a cache by default. `Trainer` sets it here."""
        return self.decoder.use_cache

    @use_cache.setter
    def use_cache(self, value: bool) -> None:
        self.decoder.use_cache = value

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, with the decoder's sizes beside them."""
        sizes = {name: getattr(self, name) for name in SIZES}
        if self.encoder.hidden_size != self.decoder.hidden_size:
            del sizes["hidden_size"]  # prompts of the encoder and prefixes of the decoder differ: PEFT asks for it
        return {**sizes, **super().to_dict()}  # pyright: ignore[reportAttributeAccessIssue] the next base has it

    def to_diff_dict(self) -> dict[str, Any]:
        """Returns the fields for a file, without the decoder's sizes."""
        return without_sizes(super().to_diff_dict(), self.decoder)  # pyright: ignore[reportAttributeAccessIssue] as above


def without_sizes(given: dict[str, Any], decoder: Any) -> dict[str, Any]:
    """Leaves out the sizes that `decoder`, a config or its fields, already has."""
    fields = decoder if isinstance(decoder, dict) else getattr(decoder, "__dict__", {})
    return {key: value for key, value in given.items() if key not in SIZES or fields.get(key) != value}


class EncoderAlone:
    """The loader that the table of sentence-transformers names."""

    @classmethod
    def from_pretrained(cls, name: str, **kwargs) -> Any:
        """Loads the model that `AutoModel` loads, without its decoder."""
        from transformers import AutoModel

        return AutoModel.from_pretrained(name, **{"add_decoder": False, **kwargs})


def register_encoder(config_class: type) -> None:
    """Adds a row to the table of sentence-transformers, where somebody has imported it.

    A row is a class of configs, and module and name of what loads their encoders. Without it the decoder is loaded,
    too, and nothing uses it.
    """
    table = vars(sys.modules.get(MODULE, object)).get(TABLE)
    if isinstance(table, list) and all(row[0] is not config_class for row in table):
        table.append((config_class, __name__, EncoderAlone.__name__))
