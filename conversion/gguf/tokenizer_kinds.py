"""The kinds of tokenizers that llama.cpp has: byte-level BPE, SentencePiece's BPE, and Unigram."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers.utils import logging

from .pre_tokenizers import find_pre_tokenizer


logger = logging.get_logger(__name__)

SPACE = "▁"  # as SentencePiece writes a space
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
UNSCORED = -1e4  # of tokens that no text is cut into


@dataclass
class Vocabulary:
    """A tokenizer as llama.cpp is told of it.

    Attributes:
        model: Its name of the kind.
        tokens: By id.
        types: Of each token, a name in `gguf.TokenType`.
        scores: Of each token, where the kind has them.
        merges: Pairs, the most frequent first, where the kind has them.
        flags: Further fields, by the names of the writer's methods.
        ids: Of special tokens, by their names there.
        chat_template: Text, or texts by name.
    """

    model: str
    tokens: list[str]
    types: list[str]
    scores: list[float] | None = None
    merges: list[str] | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    chat_template: str | dict[str, str] | None = None

    def add_fields(self, writer: Any) -> None:
        """Writes all of it with a `gguf.GGUFWriter`."""
        from gguf import TokenType

        writer.add_tokenizer_model(self.model)
        writer.add_token_list(self.tokens)
        writer.add_token_types([TokenType[name] for name in self.types])
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        for name, value in self.flags.items():
            getattr(writer, f"add_{name}")(value)
        for name, number in self.ids.items():
            getattr(writer, f"add_{name}_token_id")(number)
        texts = self.chat_template
        if isinstance(texts, dict):
            texts = [{"name": name, "template": text} for name, text in texts.items()]
        if texts is not None:
            writer.add_chat_template(texts)


def lay_out(model: str, vocab: Mapping[str, int], fields: Mapping[str, Any], size: int) -> Vocabulary:
    """All tokens by id, the added ones too, and placeholders for ids that no text has.

    Args:
        model: Llama.cpp's name of the kind.
        vocab: Ids by token.
        fields: Of `tokenizer.json`.
        size: Number of ids of the model.

    Raises:
        ValueError: A token has a NUL.
    """
    tokens, types = [f"[PAD{number}]" for number in range(size)], ["UNUSED"] * size
    for token, number in vocab.items():
        tokens[number], types[number] = token, "NORMAL"
    for token in vocab:
        if "\0" in token:
            raise ValueError(f"The tokenizer has the token {token!r}, but llama.cpp ends tokens at '\\x00'.")
    for added in fields["added_tokens"]:
        number = added["id"]
        tokens[number], types[number] = added["content"], ("USER_DEFINED", "CONTROL")[added["special"]]
    return Vocabulary(model, tokens, types)


def read_bpe(fields: Mapping[str, Any], size: int) -> Vocabulary:
    """Reads BPE: over bytes that are written as characters, or over characters, with unknown ones as bytes.

    Raises:
        ValueError: A setting is none of llama.cpp's.
    """
    model = fields["model"]
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ValueError(f"model.{name}={model[name]!r} of the tokenizer is none of llama.cpp's: None only.")
    return (read_sentencepiece if model["byte_fallback"] else read_byte_level)(fields, size)


def read_byte_level(fields: Mapping[str, Any], size: int) -> Vocabulary:
    """Reads byte-level BPE, as GPT-2, Llama 3 and Qwen have it."""
    check_normalizer(fields["normalizer"])
    vocabulary = lay_out("gpt2", fields["model"]["vocab"], fields, size)
    vocabulary.flags["tokenizer_pre"] = find_pre_tokenizer(fields)
    vocabulary.merges = [" ".join(pair) for pair in fields["model"]["merges"]]
    return vocabulary


def check_normalizer(part: Mapping[str, Any] | None) -> None:
    """Warns of a normalisation that llama.cpp leaves out, as its own conversion of Qwen's does.

    Raises:
        ValueError: It is another one than NFC.
    """
    name = None if part is None else part["type"]
    if name == "NFC":
        logger.warning(
            "normalizer='NFC' of the tokenizer: llama.cpp does not normalise, so that it cuts texts with combining "
            "marks in place of composed letters otherwise. All other texts are cut alike."
        )
    elif name is not None:
        raise ValueError(f"normalizer={name!r} of the tokenizer is not one of [None, 'NFC'], as byte-level BPE needs.")


def read_sentencepiece(fields: Mapping[str, Any], size: int) -> Vocabulary:
    """Reads the BPE of SentencePiece, as Llama 2 and Mistral have it.

    Llama.cpp merges the two neighbours that make the token with the highest score.

    Raises:
        ValueError: The merges follow from no scores of tokens, or bytes are missing.
    """
    model = fields["model"]
    has_prefix = read_spaces(fields)
    vocabulary = lay_out("llama", model["vocab"], fields, size)
    if missing := [byte for byte in BYTES if byte not in model["vocab"]]:
        raise ValueError(f"The tokenizer lacks {len(missing)} of 256 bytes, {missing[0]} first, as llama.cpp needs.")
    check_merges(model["merges"], model["vocab"])
    ranks = {first + second: -float(rank) for rank, (first, second) in reversed([*enumerate(model["merges"])])}
    vocabulary.scores = [ranks.get(token, UNSCORED) for token in vocabulary.tokens]
    mark_unknown(vocabulary, model["unk_token"])
    for byte in BYTES:
        vocabulary.types[model["vocab"][byte]] = "BYTE"
    vocabulary.flags |= {"tokenizer_pre": "default", "add_space_prefix": has_prefix}
    return vocabulary


def check_merges(merges: list[list[str]], vocab: Mapping[str, int]) -> None:
    """Raises a `ValueError` unless the order of merges is that of scores of the tokens that they make."""
    ranks = {(first, second): rank for rank, (first, second) in enumerate(merges)}
    made = [first + second for first, second in merges]
    firsts = {token: rank for rank, token in reversed([*enumerate(made)])}
    for rank, token in enumerate(made):
        if rank > firsts[token] and made[rank - 1] != token:
            raise ValueError(f"The tokenizer merges to {token!r} before and after other merges: no SentencePiece BPE.")
    for token in firsts:
        for end in range(1, len(token)):
            pair = (token[:end], token[end:])
            if pair not in ranks and pair[0] in vocab and pair[1] in vocab:
                raise ValueError(
                    f"The tokenizer does not merge {pair[0]!r} and {pair[1]!r} to {token!r}, as SentencePiece's BPE "
                    "with byte_fallback=True, which llama.cpp has, would."
                )


def mark_unknown(vocabulary: Vocabulary, token: str | None) -> None:
    """Marks the token of what is not in the vocabulary."""
    if token is not None:
        vocabulary.types[vocabulary.tokens.index(token)] = "UNKNOWN"


PREFIX = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def read_spaces(fields: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text, by a normaliser or by `Metaspace`.

    Raises:
        ValueError: Spaces are written in another way, or texts are cut in words.
    """
    normalizer, pre_tokenizer = fields["normalizer"], fields["pre_tokenizer"]
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    if pre_tokenizer is None and steps in ([PREFIX, REPLACE], [REPLACE]):
        return PREFIX in steps
    if not steps and pre_tokenizer is not None and pre_tokenizer["type"] == "Metaspace" and not pre_tokenizer["split"]:
        scheme = pre_tokenizer["prepend_scheme"]
        if scheme != "never":
            warn_of_prefix(scheme)
        return scheme != "never"
    raise ValueError(
        f"normalizer={normalizer} with pre_tokenizer={pre_tokenizer} of the tokenizer is none of llama.cpp's for "
        f"SentencePiece: [{PREFIX}, {REPLACE}] or [{REPLACE}] with None, or None with a Metaspace that does not split."
    )


def warn_of_prefix(scheme: str) -> None:
    """Warns of texts that llama.cpp puts another space before."""
    logger.warning(
        f"prepend_scheme={scheme!r} of the tokenizer: llama.cpp puts a space before a text that begins with one, too, "
        "and after each special token. All other texts are cut alike."
    )


def read_unigram(fields: Mapping[str, Any], size: int) -> Vocabulary:
    """Reads Unigram, as T5 has it, without unknown characters as bytes.

    Raises:
        ValueError: A setting is none of llama.cpp's.
    """
    model = fields["model"]
    pre_tokenizer: Mapping[str, Any] = fields["pre_tokenizer"] or {"type": None}
    if model["byte_fallback"]:
        raise ValueError(
            "model.byte_fallback=True of a Unigram tokenizer: llama.cpp writes unknown characters as unk_token, not "
            "as bytes: False only. Byte-level BPE has all characters (--kind byte-level-bpe --pre_tokenizer qwen2)."
        )
    normalizer = fields["normalizer"]
    if normalizer is not None and normalizer["type"] != "Precompiled":
        raise ValueError(f"normalizer={normalizer} of the tokenizer is not one of [None, 'Precompiled'].")
    if pre_tokenizer["type"] != "Metaspace":
        raise ValueError(f"pre_tokenizer={fields['pre_tokenizer']} of the tokenizer is not 'Metaspace'.")
    if pre_tokenizer["split"] and (inner := [piece for piece, _ in model["vocab"] if SPACE in piece[1:]]):
        raise ValueError(
            f"split=True of the tokenizer's Metaspace, but {inner[0]!r} reaches over a space, and llama.cpp does not "
            "split: split=False only."
        )
    vocab = {token: number for number, (token, _) in enumerate(model["vocab"])}
    vocabulary = lay_out("t5", vocab, fields, size)
    scores = dict(map(tuple, model["vocab"]))
    vocabulary.scores = [float(scores.get(token, UNSCORED)) for token in vocabulary.tokens]
    mark_unknown(vocabulary, None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0])
    has_prefix = pre_tokenizer["prepend_scheme"] != "never"
    if has_prefix:
        warn_of_prefix(pre_tokenizer["prepend_scheme"])
    vocabulary.flags |= {"add_space_prefix": has_prefix, "remove_extra_whitespaces": False}
    if normalizer is not None:
        vocabulary.flags["precompiled_charsmap"] = base64.b64decode(normalizer["precompiled_charsmap"])
    return vocabulary


READERS: dict[str, Callable[[Mapping[str, Any], int], Vocabulary]] = {"BPE": read_bpe, "Unigram": read_unigram}
