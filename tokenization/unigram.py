"""Unigram: the likeliest cut of a text into pieces, rare characters as bytes. The usual tokenizer of T5 and XLM-R."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import Unigram
from transformers import TokenizersBackend

from .parts import check_texts, check_vocab_size, wrap_tokenizer
from .special_tokens import collect_special_tokens
from .word_pattern import split_words


_SPACE = "▁"  # as SentencePiece writes a space
# Stands for the sign that stands for a space. Unicode keeps this code point out of texts.
_SPACE_SIGN = "\ufdd0"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# Always pieces, so that "<0x41>" and the special tokens, where they are to be plain text, are read as characters.
_ASCII = [chr(code) for code in range(0x21, 0x7F)]
_DIGITS_OF_SCORES = 6  # what the order of the training's sums cannot change


def train_unigram(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pad_token: str = "<pad>",
    eos_token: str = "</s>",
    unk_token: str = "<unk>",
    bos_token: str = "<s>",
    mask_token: str = "<mask>",
    nfkc: bool = False,
    character_coverage: float = 0.9995,
    extra_special_tokens: Iterable[str] = (),
    language_tags: Iterable[str] = (),
    model_max_length: int | None = None,
    show_progress: bool = True,
    chat_template: str | None = None,
) -> TokenizersBackend:
    """Train a Unigram tokenizer on an iterable of texts, which is read once and held in memory.

    Encoding appends `eos_token`, to each text of a pair. A space is written as "▁" in the piece that follows it; no
    space is put before a text. Characters that are not in the vocabulary are written as bytes, so `unk_token` is never
    used. Nothing is normalised unless `nfkc` is set: without it and the special tokens, `decode(encode(text)) == text`
    for every string of Unicode scalar values but those with U+FDD0, which no text has. The same texts always give the
    same tokenizer.

    Args:
        vocab_size: number of tokens; the 256 bytes, the ASCII signs and the special tokens included.
        nfkc: write compatible characters alike (full-width letters, ligatures): they do not come back.
        character_coverage: the part of the text whose characters are all in the vocabulary.
        extra_special_tokens, language_tags, model_max_length, chat_template: as for `train_byte_level_bpe`.

    Raises:
        TypeError: `texts` is one string, or holds something that is not a string.
        ValueError: duplicate or empty special tokens, no text at all, or a vocabulary that does not hold what it must.

    Source: Kudo 2018, arXiv 1804.10959; Kudo and Richardson 2018 (SentencePiece), arXiv 1808.06226.
    """
    texts = check_texts(texts)
    named = {
        "pad_token": pad_token,
        "eos_token": eos_token,
        "unk_token": unk_token,
        "bos_token": bos_token,
        "mask_token": mask_token,
    }
    special = collect_special_tokens(named, extra_special_tokens, language_tags, chat_template)
    if not 0 < character_coverage <= 1:
        raise ValueError(f"character_coverage={character_coverage} must be above 0 and at most 1.")
    reserved = [*special.tokens, *_BYTES]
    needed = {"special tokens": len(special.tokens), "bytes": len(_BYTES)}

    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [*([normalizers.NFKC()] if nfkc else []), normalizers.Replace(_SPACE, _SPACE_SIGN)]
    )
    spaces = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="never", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split_words(learns=True), spaces])
    normalized = [tokenizer.normalizer.normalize_str(text) for text in texts]
    frequent, rare = _split_characters(normalized, character_coverage)
    alphabet = sorted({*_ASCII, *"".join(special.tokens), *frequent} - {" "} | {_SPACE})
    check_vocab_size(vocab_size, {**needed, "characters": len(alphabet)})
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - len(reserved), initial_alphabet=alphabet, show_progress=show_progress
    )
    tokenizer.train_from_iterator(_without(normalized, rare), trainer=trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split_words(), spaces])
    pieces = _settle(json.loads(tokenizer.to_str())["model"]["vocab"])
    # So unlikely that text which happens to look like a reserved piece is still read character by character.
    least = min(score for _, score in pieces) * (1 + max(map(len, reserved)))
    tokenizer.model = Unigram(
        [(token, least) for token in reserved] + [piece for piece in pieces if piece[0] not in reserved],
        unk_id=reserved.index(unk_token),
        byte_fallback=True,
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace(_SPACE, " "),
            decoders.Replace(_SPACE_SIGN, _SPACE),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos_token}",
        pair=f"$A {eos_token} $B {eos_token}",
        special_tokens=[(eos_token, reserved.index(eos_token))],
    )
    return wrap_tokenizer(tokenizer, special, vocab_size, model_max_length)


def _split_characters(texts: list[str], coverage: float) -> tuple[list[str], list[str]]:
    """The most frequent characters, which make up the part `coverage` of the texts, and the others."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    characters = sorted(counts, key=lambda character: (-counts[character], character))
    sums = accumulate((counts[character] for character in characters), initial=0)
    number = sum(before < coverage * counts.total() for before in sums)
    return characters[:number], characters[number:]


def _without(texts: list[str], characters: list[str]) -> Iterator[str]:
    """The texts, cut where one of the characters stands."""
    if not characters:
        return iter(texts)
    cut = re.compile(f"[{re.escape(''.join(characters))}]+")
    return (part for text in texts for part in cut.split(text))


def _settle(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The pieces in the order of their scores, without what changes from run to run.

    Tokenizers' trainer gives the characters that it found no use for the least score and a little more each, in
    an order that varies, and sums the others in an order that varies.
    """
    least = min(score for _, score in pieces)
    unused = least + 1e-4 * sum(len(piece) == 1 for piece, _ in pieces)
    settled = [
        (piece, round(least if len(piece) == 1 and score <= unused else score, _DIGITS_OF_SCORES))
        for piece, score in pieces
    ]
    return sorted(settled, key=lambda item: (-item[1], item[0]))
