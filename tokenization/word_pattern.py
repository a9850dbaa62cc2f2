"""The pre-tokenizer: cuts text into parts, each of which may become one token."""

from tokenizers import Regex
from tokenizers.pre_tokenizers import PreTokenizer, Sequence, Split

from ..configuration.patterns import check_choice


# Scripts that are written without spaces between words. A run of them is cut by what is learnt from the text.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー"
_LETTERS = rf"[[\p{{L}}\p{{M}}]&&[^{_UNSPACED}]]"

# Characters of them that become one token at most. A corpus of some sentences would make a token of each sentence.
LONGEST_UNSPACED = 4

_WORDS = "|".join(
    (
        r"(?<=\p{L})'(?i:s|t|re|ve|m|ll|d)(?!\p{L})",  # the end of "it's", but not the start of 'string'
        rf" ?[{_UNSPACED}]LONGEST",  # Chinese and Japanese, apart from the punctuation and the Latin words around it
        rf"[^\r\n\p{{L}}\p{{M}}\p{{N}}]?{_LETTERS}+",  # a word with its marks and the space or sign before it
        r"\p{N}",  # each digit alone: numbers of any length are written alike
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",  # signs, with the line end after them
        r"\s*[\r\n]+",  # line ends
        r"\s+(?!\S)",  # indentation, but for the space that belongs to the next word
        r"\s+",
    )
)

# Those of other models, which other programs, such as llama.cpp, know by name.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")  # each digit alone
QWEN35 = QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(
    r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+"
)  # marks go with letters
OTHERS = {"gpt-2": GPT2, "llama-3": LLAMA3, "qwen2": QWEN2, "qwen3.5": QWEN35}
PRE_TOKENIZERS = ("trine", *OTHERS)


def pre_tokenizer(name: str, *, learns: bool = False) -> PreTokenizer:
    """The pre-tokenizer of a name of `PRE_TOKENIZERS`, which loses nothing: `split_words`, or that of another model.

    While a tokenizer `learns`, runs of Chinese and Japanese are cut as in `split_words`.

    Raises:
        ValueError: There is no such name.
    """
    check_choice("pre_tokenizer", name, PRE_TOKENIZERS)
    if name not in OTHERS:
        return split_words(learns=learns)
    words = Split(Regex(OTHERS[name]), behavior="isolated")
    runs = Split(Regex(f"[^{_UNSPACED}]*[{_UNSPACED}]{{1,{LONGEST_UNSPACED}}}"), behavior="isolated")
    return Sequence([words, runs]) if learns else words


def split_words(*, learns: bool = False) -> Split:
    """The pre-tokenizer that cuts text into words, digits, signs and white space, and loses nothing.

    While a tokenizer `learns`, Chinese and Japanese are cut after every `LONGEST_UNSPACED` characters, too: no longer
    token comes to be. Texts are encoded without these cuts, so that it does not matter where a sentence begins.
    """
    longest = f"{{1,{LONGEST_UNSPACED}}}" if learns else "+"
    return Split(Regex(_WORDS.replace("LONGEST", longest)), behavior="isolated")
