"""The pre-tokenizer: cuts text into parts, each of which may become one token."""

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split


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


def split_words(*, learns: bool = False) -> Split:
    """The pre-tokenizer that cuts text into words, digits, signs and white space, and loses nothing.

    While a tokenizer `learns`, Chinese and Japanese are cut after every `LONGEST_UNSPACED` characters, too: no longer
    token comes to be. Texts are encoded without these cuts, so that it does not matter where a sentence begins.
    """
    longest = f"{{1,{LONGEST_UNSPACED}}}" if learns else "+"
    return Split(Regex(_WORDS.replace("LONGEST", longest)), behavior="isolated")
