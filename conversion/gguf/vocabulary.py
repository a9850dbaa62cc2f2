"""A tokenizer as the fields of a GGUF file."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ...configuration.patterns import check_choice
from ..companions import GENERATION
from .tokenizer_kinds import READERS, Vocabulary


NAMED = ("bos", "eos", "unk", "sep", "pad", "mask")
STOPS = ("eos", "eot", "eom")  # llama.cpp's names of tokens that end an answer
UNSUPPORTED = ("single_word", "lstrip", "rstrip")  # of added tokens


def read_vocabulary(folder: Path, config: Any) -> Vocabulary:
    """Reads the tokenizer of a checkpoint.

    Raises:
        ValueError: There is none, or llama.cpp has none that gives the same tokens; the message names what differs.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        fields = json.loads(tokenizer.backend_tokenizer.to_str())
    except (AttributeError, KeyError, OSError, ValueError) as error:
        raise ValueError(
            f"{folder} has no tokenizer.json that can be loaded, as a GGUF file needs: {error}"
        ) from error
    check_choice("model.type of the tokenizer of a GGUF file", fields["model"]["type"], READERS)
    check_added(fields["added_tokens"])
    if len(tokenizer) > config.vocab_size:
        raise ValueError(f"vocab_size={config.vocab_size} is smaller than the tokenizer, which has {len(tokenizer)}.")
    vocabulary = READERS[fields["model"]["type"]](fields, config.vocab_size)
    vocabulary.flags |= read_ends(tokenizer)
    vocabulary.ids = read_ids(tokenizer, folder, config)
    vocabulary.chat_template = tokenizer.chat_template
    return vocabulary


def check_added(tokens: list[dict[str, Any]]) -> None:
    """Raises a `ValueError` for an added token that takes spaces with it, or stands between words only."""
    for token in tokens:
        for name in UNSUPPORTED:
            if token[name]:
                raise ValueError(
                    f"The added token {token['content']!r} has {name}=True, which llama.cpp does not read: False only."
                )


def read_ends(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """Whether a tokenizer puts its first token before a text, and its last token after it.

    Raises:
        ValueError: It adds other tokens.
    """
    text = "a"
    inner, ids = (tokenizer(text, add_special_tokens=added)["input_ids"] for added in (False, True))
    for starts in (False, True):
        for ends in (False, True):
            before, after = [tokenizer.bos_token_id] * starts, [tokenizer.eos_token_id] * ends
            if ids == [*before, *inner, *after]:
                return {"add_bos_token": starts, "add_eos_token": ends}
    raise ValueError(
        f"The tokenizer writes {text!r} as {tokenizer.convert_ids_to_tokens(ids)}, but llama.cpp adds bos_token="
        f"{tokenizer.bos_token!r} before and eos_token={tokenizer.eos_token!r} after a text at most."
    )


def read_ids(tokenizer: PreTrainedTokenizerBase, folder: Path, config: Any) -> dict[str, int]:
    """The ids of special tokens, by llama.cpp's names. What has no id has one there, so two are always written.

    Without a token that begins a text, which is then none that is added, the one that ends it stands for it.

    Raises:
        ValueError: Nothing ends a text, or more tokens do than llama.cpp has fields for.
    """
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in NAMED}
    path = folder / GENERATION
    generation = GenerationConfig.from_pretrained(folder).eos_token_id if path.is_file() else None
    given = generation if generation is not None else config.eos_token_id
    stops = [ids["eos"], *(given if isinstance(given, list) else [given])]
    stops = list(dict.fromkeys(stop for stop in stops if stop is not None))
    if not stops:
        raise ValueError("eos_token=None of the tokenizer, eos_token_id=None of the config: a GGUF file needs one.")
    if len(stops) > len(STOPS):
        raise ValueError(f"eos_token_id={stops} are more than a GGUF file has fields for: {[*STOPS]}.")
    ids |= dict(zip(STOPS, stops, strict=False))
    if ids["bos"] is None:
        ids["bos"] = ids["eos"]
    return {name: number for name, number in ids.items() if number is not None}
