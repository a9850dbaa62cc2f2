"""Byte-level BPE: every text can be written, and comes back as it was. The usual tokenizer of decoders."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import TokenizersBackend

from .parts import check_min_frequency, check_texts, check_vocab_size, wrap_tokenizer
from .special_tokens import collect_special_tokens
from .word_pattern import pre_tokenizer as make_pre_tokenizer


def train_byte_level_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    bos_token: str = "<|endoftext|>",
    eos_token: str = "<|endoftext|>",
    pad_token: str = "<|pad|>",
    extra_special_tokens: Iterable[str] = (),
    language_tags: Iterable[str] = (),
    min_frequency: int = 2,
    model_max_length: int | None = None,
    show_progress: bool = True,
    chat_template: str | None = None,
    pre_tokenizer: str = "trine",
) -> TokenizersBackend:
    """Train a byte-level BPE tokenizer on an iterable of texts, which is read once.

    The 256 bytes are always in the vocabulary and nothing is normalised: there is no unknown token, and
    `decode(encode(text)) == text` for every string of Unicode scalar values (lone surrogates are not text).
    `eos_token` ends a document; by default it also opens one, as in GPT-2. Encoding adds no special token.
    The special tokens take the first ids. `min_frequency` is how often a pair must occur to be merged, so a small
    corpus can give fewer tokens than `vocab_size` (a warning says so): size models by `len(tokenizer)`.

    A token has at most `word_pattern.LONGEST_UNSPACED` Chinese or Japanese characters.

    Args:
        vocab_size: number of tokens, the 256 bytes and the special tokens included.
        extra_special_tokens: more tokens that are never split.
        language_tags: languages, such as "zh", each of which gets a token: see `special_tokens.language_tag`.
        model_max_length: number of tokens above which encoding warns or, on request, truncates; None is no limit.
        chat_template: for `apply_chat_template`, a name of `CHAT_TEMPLATES`, whose role marks become special tokens,
            or Jinja text.
        pre_tokenizer: how texts are cut into words, a name of `word_pattern.PRE_TOKENIZERS`: "trine", or as "gpt-2",
            "llama-3", "qwen2" or "qwen3.5" do, which other programs know, too.

    Raises:
        TypeError: `texts` is one string, or holds something that is not a string.
        ValueError: duplicate or empty special tokens, a vocabulary below 256 + special tokens, no text at all, or no
            such pre-tokenizer.

    Source: Sennrich et al. 2016, arXiv 1508.07909; bytes as the alphabet: Radford et al. 2019 (GPT-2), section 2.2.
    """
    texts = check_texts(texts)
    named = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
    special = collect_special_tokens(
        named, extra_special_tokens, language_tags, chat_template, may_be_equal=("bos_token", "eos_token")
    )
    check_vocab_size(vocab_size, {"bytes": 256, "special tokens": len(special.tokens)})
    check_min_frequency(min_frequency)

    tokenizer = Tokenizer(BPE())
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([make_pre_tokenizer(pre_tokenizer, learns=True), as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(
        add_prefix_space=False, trim_offsets=False, use_regex=False
    )  # adds no token; with trimming, offsets would leave out the space of each word
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special.tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([make_pre_tokenizer(pre_tokenizer), as_bytes])
    return wrap_tokenizer(tokenizer, special, vocab_size, model_max_length)
