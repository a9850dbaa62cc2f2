"""Conversations about packages and words, from what describes them. Nothing here uses the network.

What is said is drawn by a text's name: always alike. Of every text only some are talked about, so that a model of a
few million weights reads all of it in minutes. A group is that of the text, as in the parsers.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

from trine.scripts.datasets.parsers import Record


Turn = tuple[str, str]  # what the user says, what the assistant answers

UNKNOWN = "I do not know a package of that name."
SECTION = "It belongs to the section {}."
_SYSTEM = "You are an assistant that knows packages and words."
_HELLO = ("Hello.", "Hi!", "Good morning."), "Hello. Ask me about a package or a word."
_THANKS = ("Thank you.", "Thanks!", "Good, that is all."), "You are welcome."
_SUMMARISE = ("Summarise: {}", "Summarise this description: {}", "{}\nWhat is this, in one line?")
_PACKAGE = ("What does the package {} do?", "What is the package {} for?", "Tell me about the package {}.")
_SECTION_OF = ("Which section does the package {} belong to?", "In which section is {}?")
_ITS_SECTION = ("Which section does it belong to?", "In which section is it?", "And its section?")
_MEANING = ("What does the word {} mean?", "What does {} mean?", "Define {}.")
_EXAMPLE = ("Give me an example.", "How is it used?")
_TERM = ("What is {} in computing?", "What does {} mean in computing?", "Explain the term {}.")
# Of 100 packages, how many are talked about in which way; the others are not. With eight times as many invented names
# a small model refused most real ones, too.
_SHARES = {"summary": 12, "section": 5, "package": 5, "unknown": 0.5}
_WORDS, _TERMS = 0.04, 0.3
_WORDS_SAID, _WORDS_READ, _CHARACTERS_READ = range(3, 31), range(15, 91), 560


def chat_about_packages(rows: Sequence[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
    """Conversations from the rows of `parse_descriptions`.

    Their kinds: `summary` gives the long description, `package` and `section` the name alone, and `unknown` a name
    that no package has, of the letters of one that there is. The section is asked for after some other answers.
    """
    names = {row["package"] for _, row in rows}
    for group, row in rows:
        name, short, section = str(row["package"]), str(row["short"]), str(row["section"])
        draw = Random(f"package {name}")
        (kind,) = draw.choices([*_SHARES, ""], [*_SHARES.values(), 100 - sum(_SHARES.values())])
        long, invented = _beginning(str(row["long"])), _anagram(name, draw)
        first = {
            "summary": long and (draw.choice(_SUMMARISE).format(long), short),
            "package": (draw.choice(_PACKAGE).format(name), short),
            "section": (draw.choice(_SECTION_OF).format(name), SECTION.format(section)),
            "unknown": invented not in names and (draw.choice(_PACKAGE).format(invented), UNKNOWN),
        }.get(kind)
        if first and section and len(short.split()) in _WORDS_SAID:
            goes_on = kind in ("summary", "package") and draw.random() < 0.4
            its_section = (draw.choice(_ITS_SECTION), SECTION.format(section))
            yield group, _conversation(kind, [first, its_section] if goes_on else [first], draw)


def _beginning(text: str) -> str:
    """The text, or as much of its first paragraph as can be read at a time; nothing if that is too short or long."""
    paragraphs = [text.replace("\n", " "), text.partition("\n")[0]]
    return next((part for part in paragraphs if _can_be_read(part)), "")


def _can_be_read(text: str) -> bool:
    return len(text) <= _CHARACTERS_READ and len(text.split()) in _WORDS_READ


def _anagram(name: str, draw: Random) -> str:
    """The name with its letters and digits in another order; other characters keep their places."""
    letters = [letter for letter in name if letter.isalnum()]
    draw.shuffle(letters)
    return "".join(letters.pop() if letter.isalnum() else letter for letter in name)


def chat_about_words(glosses: Iterable[str]) -> Iterator[tuple[str, Record]]:
    """Conversations (kind `word`) from lines of `parse_glosses`; some ask for an example, which is the gloss's."""
    for line in glosses:
        draw = Random(f"word {line}")
        words, _, gloss = line.partition(": ")
        meaning, *rest = (part.strip(" ;") for part in gloss.split('"'))
        if draw.random() < _WORDS and len(meaning.split()) in _WORDS_SAID:
            turns = [(draw.choice(_MEANING).format(words.split(", ")[0]), meaning)]
            if rest and rest[0] and draw.random() < 0.5:
                turns.append((draw.choice(_EXAMPLE), rest[0]))
            yield words, _conversation("word", turns, draw)


def chat_about_terms(entries: Iterable[str]) -> Iterator[tuple[str, Record]]:
    """Conversations (kind `term`) from entries of a dictionary of computing, of which the first sentence is said."""
    for entry in entries:
        term, _, article = entry.partition(": ")
        draw = Random(f"term {term}")
        # Without subjects and other spellings: <web> (Or "spam-dex") ...
        article = re.sub(r"^(?:<[^>]*>\s*|\([^)]*\)\s*)+", "", article.partition("\n")[0])
        sentence = re.split(r"(?<=[\w)]{4}\.)\s+(?=[A-Z])", article)[0]
        if draw.random() < _TERMS and len(sentence.split()) in _WORDS_SAID and sentence.endswith("."):
            yield term, _conversation("term", [(draw.choice(_TERM).format(term), sentence)], draw)


def _conversation(kind: str, turns: Sequence[Turn], draw: Random) -> Record:
    """The record of these turns, which begins with a system message or a greeting and ends with thanks at times."""
    before = [(draw.choice(_HELLO[0]), _HELLO[1])] if draw.random() < 0.08 else []
    after = [(draw.choice(_THANKS[0]), _THANKS[1])] if draw.random() < 0.08 else []
    messages: list[dict[str, Any]] = [{"role": "system", "content": _SYSTEM}] if draw.random() < 0.1 else []
    for asked, answer in (*before, *turns, *after):
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "kind": kind}
