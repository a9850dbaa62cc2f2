"""Lets sentence-transformers load the encoder of an encoder-decoder without the decoder, as it does for T5."""

import sys
from typing import Any


MODULE, TABLE = "sentence_transformers.base.modules.transformer", "_ENCODER_ONLY_MODELS"


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
