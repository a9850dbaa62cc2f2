"""Rules that mend decoded text: spacing, width of characters, punctuation and casing."""

import re
import unicodedata
from collections.abc import Callable


Rule = Callable[[str], str]

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WIDE_MARKS = "，。！？；：、"
_CLOSING = "」』”’）》】〉"
# Half-width marks as Chinese writes them. A full stop is one only at the end: within a text it may be a decimal point.
_WIDE = {",": "，", ";": "；", ":": "：", "?": "？", "!": "！"}
_NARROW = {"。": ".", "、": ",", "\u3000": " "}


def collapse_spaces(text: str) -> str:
    """One space for any white space, none at the ends; characters and their accents are composed (NFC)."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def narrow_letters(text: str) -> str:
    """Full-width letters and digits as ASCII: ＡＢＣ１ → ABC1."""
    return re.sub("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]", lambda found: chr(ord(found[0]) - 0xFEE0), text)


def narrow_marks(text: str) -> str:
    """Full-width marks as ASCII, as alphabets have them, with a space where a word follows: 好，a → 好, a."""
    text = re.sub("[\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff5e]", lambda found: _narrow(found[0]), text)
    return re.sub("[。、\u3000]", lambda found: _narrow(found[0]), text)


def space_english(text: str) -> str:
    """No space before `, ; : ! ?` and a final full stop, nor inside of brackets; one after `, ; ! ?` between words."""
    text = re.sub(r"(?<=\w) +(?=[,;:!?](?:\s|$))", "", text)
    text = re.sub(r"(?<=[\w)\"'\]]) +(?=\.$)", "", text)
    text = re.sub(r"(?<=[(\[]) +(?=\w)|(?<=\w) +(?=[)\]])", "", text)
    return re.sub(r"(?<=[A-Za-z])([,;!?])(?=[A-Za-z])", r"\1 ", text)


def case_english(text: str) -> str:
    """The pronoun I as a capital, and, in what ends as a sentence, a capital at the beginning of each."""
    text = re.sub(
        r"(?<![\w.'-])i(?=['’](?:m|ll|ve|d)\b| (?:am|was|have|had|will|would|can|could|do|did)\b)", "I", text
    )
    if not re.search(r"[.!?][\"'”’)]*$", text):
        return text
    return re.sub(r"(?:^|(?<=[a-z]{3}[.!?] ))[\"'“‘(]*[a-z](?=[a-z' ])", lambda found: found[0].upper(), text)


def widen_marks(text: str) -> str:
    """Marks after Chinese characters in full width, each written once: 好, → 好，; 好... → 好……; 好。。 → 好。"""
    text = re.sub(rf"(?<=[{_HAN}{_CLOSING}])(?:\.{{3,}}|。{{3,}}|…(?!…))", "……", text)
    text = re.sub(
        rf"(?<=[{_HAN}{_CLOSING}]) *[,;:?!](?=\s|[{_HAN}「『“‘（《【〈?!]|$)", lambda m: _WIDE[m[0].strip()], text
    )
    text = re.sub(rf"(?<=[{_HAN}{_CLOSING}]) *\.$", "。", text)
    return re.sub(r"([，。；：、])\1+", r"\1", text)


def space_chinese(text: str) -> str:
    """No space between Chinese characters, nor beside full-width marks; those beside letters and digits stay."""
    return re.sub(
        rf"(?<=[{_HAN}{_WIDE_MARKS}]) +(?=[{_HAN}{_WIDE_MARKS}])|(?<=[{_WIDE_MARKS}]) +| +(?=[{_WIDE_MARKS}])",
        "",
        text,
    )


# The rules of each language, in their order.
RULES: dict[str, tuple[Rule, ...]] = {
    "en": (narrow_letters, narrow_marks, collapse_spaces, space_english, case_english),
    "zh": (narrow_letters, collapse_spaces, widen_marks, space_chinese),
}


def post_process(text: str, language: str | None = None) -> str:
    """The text by the rules of its language; without one, white space alone is put right.

    The rules are those that hold nearly everywhere; applied twice they change nothing more.

    Raises:
        ValueError: There are no rules for the language.
    """
    check_language(language)
    for rule in (collapse_spaces,) if language is None else RULES[language]:
        text = rule(text)
    return text


def check_language(language: str | None) -> None:
    """Raises a ValueError if there are no rules for the language."""
    if language is not None and language not in RULES:
        raise ValueError(f"language={language!r} is not one of {list(RULES)}, nor None for no rules of a language.")


def _narrow(mark: str) -> str:
    return _NARROW.get(mark) or chr(ord(mark) - 0xFEE0)
