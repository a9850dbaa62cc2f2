"""WordPiece as BERT has it: words and parts of words, Chinese characters one by one."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, WordPiece
from transformers import TokenizersBackend

from .parts import check_min_frequency, check_texts, check_vocab_size, wrap_tokenizer
from .special_tokens import collect_special_tokens


_CONTINUES = "##"
# Stands before each word in training. BERT's normaliser removes it from texts.
_WORD_START = "\ufffd"
# Written without spaces around them: Chinese characters and full-width signs.
_UNSPACED = r"[\p{Han}\u3000-\u303f\uff00-\uffef]"


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pad_token: str = "[PAD]",
    unk_token: str = "[UNK]",
    cls_token: str = "[CLS]",
    sep_token: str = "[SEP]",
    mask_token: str = "[MASK]",
    lowercase: bool = True,
    extra_special_tokens: Iterable[str] = (),
    language_tags: Iterable[str] = (),
    min_frequency: int = 2,
    model_max_length: int | None = None,
    show_progress: bool = True,
    chat_template: str | None = None,
) -> TokenizersBackend:
    """Train a WordPiece tokenizer on an iterable of texts, which is read once.

    Encoding is BERT's: `[CLS] a [SEP]`, and `[CLS] a [SEP] b [SEP]` with segment ids 0 and 1 (`token_type_ids`) for a
    pair. Text is cleaned of control characters, its white space is not kept, and Chinese characters and punctuation
    are words of their own. ASCII and every character that occurs in `texts`, however rare, is in the vocabulary, both
    as the start of a word and within one: it never becomes `unk_token`. A word with a character that does not occur,
    or of more than 100 characters, is one `unk_token`.

    The vocabulary is chosen by merging the most frequent pair first (BPE), as tokenizers' own trainer does, not
    by likelihood; words are cut by the longest match first. The same texts always give the same tokenizer.

    Args:
        vocab_size: number of tokens, the characters and the special tokens included.
        lowercase: lower-case the text and strip its accents. Names are told by their case: False for entities.
        min_frequency: how often a pair must occur to be merged.
        extra_special_tokens, language_tags, model_max_length, chat_template: as for `train_byte_level_bpe`.

    Raises:
        TypeError: `texts` is one string, or holds something that is not a string.
        ValueError: duplicate or empty special tokens, no text at all, or a vocabulary that does not hold the special
            tokens and the characters of the texts.

    Source: Devlin et al. 2019, arXiv 1810.04805, section 3; Wu et al. 2016, arXiv 1609.08144, section 4.1.
    """
    texts = check_texts(texts)
    named = {
        "pad_token": pad_token,
        "unk_token": unk_token,
        "cls_token": cls_token,
        "sep_token": sep_token,
        "mask_token": mask_token,
    }
    special = collect_special_tokens(named, extra_special_tokens, language_tags, chat_template)
    check_vocab_size(vocab_size, {"special tokens": len(special.tokens)})
    check_min_frequency(min_frequency)

    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    characters, merged = _merge_words(tokenizer, texts, vocab_size, min_frequency, show_progress)
    required = list(dict.fromkeys([*special.tokens, *characters]))
    check_vocab_size(
        vocab_size, {"special tokens": len(special.tokens), "characters": len(required) - len(special.tokens)}
    )
    vocabulary = list(dict.fromkeys([*required, *merged]))[:vocab_size]
    tokenizer.model = WordPiece(
        {token: number for number, token in enumerate(vocabulary)},
        unk_token=unk_token,
        continuing_subword_prefix=_CONTINUES,
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix=_CONTINUES),
            decoders.Fuse(),
            decoders.Replace(Regex(f"(?<={_UNSPACED}) (?={_UNSPACED})"), ""),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls_token} $A {sep_token}",
        pair=f"{cls_token} $A {sep_token} $B:1 {sep_token}:1",
        special_tokens=[(token, vocabulary.index(token)) for token in (cls_token, sep_token)],
    )
    names = ("input_ids", "token_type_ids", "attention_mask")
    return wrap_tokenizer(tokenizer, special, vocab_size, model_max_length, names)


def _merge_words(
    tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int, min_frequency: int, show_progress: bool
) -> tuple[list[str], list[str]]:
    """ASCII, the characters of the texts, and what is merged from them by frequency, all as WordPiece writes them.

    Tokenizers' trainer numbers the characters within words in an order that changes from run to run, and the
    numbers decide between equally frequent pairs. Here words are merged with a mark before them instead of one inside.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=2 * vocab_size,  # up to `vocab_size` merges join the mark to a character and give nothing new
        min_frequency=min_frequency,
        initial_alphabet=list(tokenizer.normalizer.normalize_str("".join(map(chr, range(0x21, 0x7F))))),
        show_progress=show_progress,
    )
    words = tokenizer.pre_tokenizer
    marked = pre_tokenizers.Metaspace(replacement=_WORD_START, prepend_scheme="always", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, marked])
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.pre_tokenizer = words
    numbers = tokenizer.get_vocab()
    tokens = sorted(numbers.keys() - {_WORD_START}, key=numbers.__getitem__)
    characters = [token for token in tokens if len(token) == 1]
    # A character that is always a word of its own, such as a Chinese one, cannot continue a word.
    within = [
        character
        for character in characters
        if len(words.pre_tokenize_str(tokenizer.normalizer.normalize_str(f"a{character}a"))) == 1
    ]
    merged = [token[1:] if token.startswith(_WORD_START) else _CONTINUES + token for token in tokens if len(token) > 1]
    return characters + [_CONTINUES + character for character in within], merged
