"""Byte-level BPE tokenizers, trained here and loaded anywhere by `AutoTokenizer` without code."""

from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import TokenizersBackend
from transformers.utils import logging


logger = logging.get_logger(__name__)

# What may become one token. Merges never cross these borders.
_WORDS = "|".join(
    (
        r"(?<=\p{L})'(?i:s|t|re|ve|m|ll|d)(?!\p{L})",  # the end of "it's", but not the start of 'string'
        r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+",  # a word with its combining marks and the space or sign before it
        r"\p{N}",  # each digit alone: numbers of any length are written alike
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",  # signs, with the line end after them
        r"\s*[\r\n]+",  # line ends
        r"\s+(?!\S)",  # indentation, but for the space that belongs to the next word
        r"\s+",
    )
)


def train_byte_level_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    bos_token: str = "<|endoftext|>",
    eos_token: str = "<|endoftext|>",
    pad_token: str = "<|pad|>",
    extra_special_tokens: Iterable[str] = (),
    min_frequency: int = 2,
    model_max_length: int | None = None,
    show_progress: bool = True,
    chat_template: str | None = None,
) -> TokenizersBackend:
    """Train a byte-level BPE tokenizer on an iterable of texts, which is read once.

    The 256 bytes are always in the vocabulary and nothing is normalised: there is no unknown token, and
    `decode(encode(text)) == text` for every string of Unicode scalar values (lone surrogates are not text).
    `eos_token` ends a document; by default it also opens one, as in GPT-2. Encoding adds no special token.
    The special tokens take the first ids. `min_frequency` is how often a pair must occur to be merged, so a small
    corpus can give fewer tokens than `vocab_size` (a warning says so): size models by `len(tokenizer)`.

    Args:
        vocab_size: number of tokens, the 256 bytes and the special tokens included.
        extra_special_tokens: more tokens that are never split, such as the role marks of a chat template.
        model_max_length: number of tokens above which encoding warns or, on request, truncates; None is no limit.
        chat_template: Jinja template for `apply_chat_template`.

    Raises:
        TypeError: `texts` is one string, or holds something that is not a string.
        ValueError: duplicate or empty special tokens, a vocabulary below 256 + special tokens, or no text at all.

    Source: Sennrich et al. 2016, arXiv 1508.07909; bytes as the alphabet: Radford et al. 2019 (GPT-2), section 2.2.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError(
            f"texts={texts[:20]!r}... is one {type(texts).__name__}; pass an iterable of strings, as [text]."
        )
    extra_special_tokens = list(extra_special_tokens)
    special_tokens = _special_tokens(bos_token, eos_token, pad_token, extra_special_tokens)
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size={vocab_size} is below {smallest}, the 256 bytes and {len(special_tokens)} special tokens."
        )
    if min_frequency < 1:
        raise ValueError(f"min_frequency={min_frequency} must be at least 1.")

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(
        add_prefix_space=False, trim_offsets=False, use_regex=False
    )  # adds no token; with trimming, offsets would leave out the space of each word
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(_checked(texts), trainer=trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        logger.warning(
            f"The text has {tokenizer.get_vocab_size()} tokens at min_frequency={min_frequency}, fewer than "
            f"vocab_size={vocab_size}."
        )
    options = {} if chat_template is None else {"chat_template": chat_template}
    return TokenizersBackend(
        tokenizer_object=tokenizer,
        bos_token=bos_token,
        eos_token=eos_token,
        pad_token=pad_token,
        extra_special_tokens=extra_special_tokens,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **options,
    )


def _special_tokens(bos_token: str, eos_token: str, pad_token: str, extra: list[str]) -> list[str]:
    """The distinct special tokens in the order of their ids; only bos and eos may be the same token."""
    tokens = list(dict.fromkeys((bos_token, eos_token))) + [pad_token, *extra]
    duplicates = sorted({token for token in tokens if tokens.count(token) > 1})
    if duplicates:
        raise ValueError(
            f"Special tokens {duplicates} are given twice; only bos_token and eos_token may be the same token "
            f"(got bos_token={bos_token!r}, eos_token={eos_token!r}, pad_token={pad_token!r}, "
            f"extra_special_tokens={extra})."
        )
    if "" in tokens:
        raise ValueError(f"A special token is empty: {tokens}.")
    return tokens


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts as they are; raises on what is not a string, and at the end if there was no text."""
    empty = True
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{number}] is of type {type(text).__name__}, not a string.")
        empty = empty and not text
        yield text
    if empty:
        raise ValueError("texts holds no text: there is nothing to train the tokenizer on.")
