"""How byte-level BPE cuts texts into words: tokenizers' settings, and llama.cpp's names of what computes the same."""

from collections.abc import Mapping
from typing import Any

from ...tokenization.word_pattern import GPT2, LLAMA3, OTHERS, QWEN2, QWEN35


DIGIT = r"\p{N}"
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
)
# By the patterns, in their order, and whether a word that is a token is taken whole (`ignore_merges`). Llama.cpp's
# gpt-4o and tekken are none of them: they cut combining marks otherwise than the patterns of these models.
NAMES: Mapping[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((DIGIT, GPT2), False): "starcoder",
    ((LLAMA3,), True): "llama-bpe",
    ((LLAMA3,), False): "smaug-bpe",
    ((QWEN2,), False): "qwen2",
    ((QWEN35,), False): "qwen35",
    (DEEPSEEK3, False): "deepseek-v3",
}


def find_pre_tokenizer(fields: Mapping[str, Any]) -> str:
    """Llama.cpp's name of a byte-level BPE's pre-tokenizer.

    Args:
        fields: Of `tokenizer.json`.

    Raises:
        ValueError: Llama.cpp has none that cuts so.
    """
    patterns = tuple(read_patterns(fields["pre_tokenizer"]))
    ignores_merges = bool(fields["model"].get("ignore_merges"))
    if (patterns, ignores_merges) not in NAMES:
        raise ValueError(
            f"The tokenizer's pre_tokenizer cuts by {list(patterns)} with ignore_merges={ignores_merges}, which is "
            f"none of llama.cpp's that are known to cut alike: {sorted(NAMES.values())}. A tokenizer that is trained "
            f"with --pre_tokenizer, one of {[*OTHERS]}, has one of them."
        )
    return NAMES[patterns, ignores_merges]


def read_patterns(part: Mapping[str, Any] | None) -> list[str]:
    """The patterns of a pre-tokenizer, in order; what is known by no pattern stands as its own text."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [pattern for inner in part["pretokenizers"] for pattern in read_patterns(inner)]
    if part["type"] == "ByteLevel" and not part["add_prefix_space"]:
        return [GPT2] if part["use_regex"] else []
    if part["type"] == "Digits" and part["individual_digits"]:
        return [DIGIT]
    if part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
        return [part["pattern"].get("Regex", str(part["pattern"]))]
    return [str(part)]
