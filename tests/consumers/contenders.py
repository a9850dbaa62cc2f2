"""The models that stand beside each other: transformers' own, and Trine's of the same role.

`folders.py` writes one folder for each. Nothing here imports trine: as remote code it must not be importable.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer


FOLDERS = "TRINE_CONSUMERS_FOLDERS"  # the environment variable that names the folder of folders
WAY = "TRINE_CONSUMERS_WAY"  # and the one that says how Trine is loaded
WAYS = {"package": "with the package", "remote": "as remote code"}
KINDS = ("sliding", "chunked", "simplicial", "linear", "performer", "bigbird", "lsh")


@dataclass(frozen=True)
class Contender:
    """A tiny random model in a folder, with its tokenizer. Its `peer` plays the same role; a peer has none."""

    name: str
    peer: str | None = None

    @property
    def is_trine(self) -> bool:
        return self.peer is not None

    @property
    def folder(self) -> str:
        return str(Path(os.environ[FOLDERS]) / self.name.replace(" ", "-"))

    @property
    def trust(self) -> dict[str, bool]:
        """The keyword that lets a library run the code in the folder, where that is the way."""
        return {"trust_remote_code": True} if self.is_trine and os.environ[WAY] == "remote" else {}

    def load(self, auto_class, folder=None, **kwargs):
        return auto_class.from_pretrained(str(folder or self.folder), **self.trust, **kwargs)

    @cached_property
    def config(self):
        return self.load(AutoConfig)

    @property
    def tokenizer(self):
        return AutoTokenizer.from_pretrained(self.folder)

    def __str__(self) -> str:
        return self.name


PEERS = {name: Contender(name) for name in ("Llama", "Mixtral", "BERT", "T5")}
TRINE = {
    "dense": Contender("dense", "Llama"),
    "sparse": Contender("sparse", "Mixtral"),
    **{kind: Contender(kind, "Llama") for kind in KINDS},
    "encoder": Contender("encoder", "BERT"),
    "encoder without segments": Contender("encoder without segments", "BERT"),
    "sparse encoder": Contender("sparse encoder", "BERT"),
    "encoder-decoder": Contender("encoder-decoder", "T5"),
    "sparse encoder-decoder": Contender("sparse encoder-decoder", "T5"),
}
CONTENDERS = PEERS | TRINE
DECODERS = ("Llama", "Mixtral", "dense", "sparse")
ALL_DECODERS = (*DECODERS, *KINDS)
ENCODERS = ("BERT", "encoder", "encoder without segments", "sparse encoder")
ENCODER_DECODERS = ("T5", "encoder-decoder", "sparse encoder-decoder")
