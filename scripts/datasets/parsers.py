"""Records of data sets from the files of public packages. Nothing here uses the network.

A parser yields (group, record): records of one group are so alike that they must be in the same split.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser


Record = Mapping[str, object]

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_PLACEHOLDER = re.compile(r"%[\w(]|[{}$\\@=<>|]|\(\)|--|/|_")  # and code, paths and addresses
_SENTENCE_ENDS = frozenset("。！？")
# Sections that say what a package is about, not how it is made ("perl", "libs", "doc").
TOPICS = (
    *("admin", "net", "science", "games", "x11", "text", "sound"),
    *("graphics", "fonts", "web", "math", "mail", "database", "electronics"),
)
_ENTITIES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}  # tags of the People's Daily corpus


def parse_stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a Debian control file; a value keeps its line ends, without the space that continues it."""
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith(" ") and name:
                fields[name] += "\n" + line[1:]
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def parse_descriptions(packages: Iterable[str], translations: Iterable[str]) -> Iterator[tuple[str, Record]]:
    """Package descriptions from the texts of Debian's `Packages` and `Translation-en` files.

    A description whose short or long text has been seen is left out. A group is what was built from one source,
    whatever its version is ("gcc-11" and "gcc-12").
    """
    texts = {
        stanza["Description-md5"]: stanza["Description-en"]
        for translation in translations
        for stanza in parse_stanzas(translation)
        if "Description-en" in stanza and "Description-md5" in stanza
    }
    seen: set[str] = set()
    for stanza in (stanza for package in packages for stanza in parse_stanzas(package)):
        short, _, body = texts.get(stanza.get("Description-md5", ""), "").partition("\n")
        # A line that holds a point alone separates paragraphs.
        paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"(?m)^\s*\.\s*$", body))
        long = "\n".join(filter(None, paragraphs))
        if not short or not long or {short, long} & seen:
            continue
        seen |= {short, long}
        source = stanza.get("Source", stanza["Package"]).split(" ")[0]
        section = stanza.get("Section", "").rpartition("/")[2]
        record = {"package": stanza["Package"], "source": source, "section": section, "short": short, "long": long}
        yield re.sub(r"[\d.\-+]+$", "", source) or source, record


def select_topics(rows: Iterable[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
    """The one-line summaries of `parse_descriptions` whose section is one of `TOPICS`, with it as label."""
    for group, row in rows:
        if row["section"] in TOPICS:
            yield group, {"text": row["short"], "label": row["section"]}


def parse_gettext(data: bytes) -> Iterator[tuple[str, str]]:
    """(original, translation) pairs of a gettext .mo file; of plural forms, the first of each.

    Raises:
        ValueError: it is no .mo file.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(data[:4])
    if order is None:
        raise ValueError(f"A file that begins with {data[:4]!r} is not a .mo file.")
    count, originals, translations = struct.unpack_from(f"{order}3I", data, 8)
    for number in range(count):
        texts = []
        for table in (originals, translations):
            length, start = struct.unpack_from(f"{order}2I", data, table + 8 * number)
            texts.append(data[start : start + length].decode("utf-8").split("\0")[0])
        yield texts[0].rpartition("\x04")[2], texts[1]  # without the context that tells equal originals apart


class _HelpPage(HTMLParser):
    """Collects the text of the paragraphs and headings whose identifiers the translations share."""

    blocks = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6"})

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] | None = None
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.blocks:
            identifier = dict(attrs).get("id") or ""
            self._open = None
            if identifier.startswith(("par_", "hd_")) and identifier not in self.texts:
                self._open = self.texts[identifier] = []
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.blocks:
            self._open = None
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if self._open is not None and not self._hidden:
            self._open.append(data)


def parse_help_page(page: str) -> dict[str, str]:
    """The paragraphs and headings of a page of LibreOffice's help by their identifier, white space collapsed."""
    parser = _HelpPage()
    parser.feed(page)
    parser.close()
    return {identifier: " ".join("".join(texts).split()) for identifier, texts in parser.texts.items()}


def select_pairs(pairs: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, Record]]:
    """Sentence pairs fit for training, from (English, Chinese, source) texts; each sentence of either side once.

    Kept are pairs of 3 to 30 English words without placeholders, markup or code, whose Chinese side is mostly
    Chinese and of a likely length. A group is an English sentence but for case, digits and punctuation.
    """
    seen: set[str] = set()
    for english, chinese, source in pairs:
        english, chinese = (_without_colours(text) for text in (english, chinese))
        if _is_pair(english, chinese) and not {english.lower(), chinese} & seen:
            seen |= {english.lower(), chinese}
            yield " ".join(re.findall(r"[^\W\d]+", english.lower())), {"en": english, "zh": chinese, "source": source}


def _without_colours(text: str) -> str:
    return " ".join(re.sub(r"</?(?:bad|bold|color|good|header|info|neutral|stat)(?:_\w+)?>", "", text).split())


def _is_pair(english: str, chinese: str) -> bool:
    words, han = len(english.split()), len(_HAN.findall(chinese))
    if not 3 <= words <= 30 or _PLACEHOLDER.search(english) or han < 3 or "<" in chinese:
        return False
    return han >= 0.5 * len(chinese.replace(" ", "")) and 0.3 < words / han < 3.75


def parse_tagged_news(text: str) -> Iterator[tuple[str, Record]]:
    """Sentences with a BIO tag per character from lines of `word/tag`; a sentence is kept once.

    People are PER, places LOC and organisations ORG. A surname and the given name after it are one person. A group
    is 100 lines, since neighbouring lines are often of one article.
    """
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines()):
        for sentence in _sentences(line):
            tokens, tags = list("".join(word for word, _ in sentence)), _bio_tags(sentence)
            if len(tokens) > 1 and "".join(tokens) not in seen:
                seen.add("".join(tokens))
                yield str(number // 100), {"tokens": tokens, "tags": tags}


def _sentences(line: str) -> Iterator[list[tuple[str, str]]]:
    sentence: list[tuple[str, str]] = []
    for item in line.split():
        word, _, tag = item.rpartition("/")
        sentence.append((word, tag))
        if word in _SENTENCE_ENDS:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _bio_tags(sentence: list[tuple[str, str]]) -> list[str]:
    tags: list[str] = []
    previous = ""
    for word, tag in sentence:
        entity = _ENTITIES.get(tag)
        begins = "I" if tag == previous == "nr" else "B"
        tags += [f"{begins if position == 0 else 'I'}-{entity}" if entity else "O" for position in range(len(word))]
        previous = tag
    return tags


def parse_reviews(positive: str, negative: str) -> Iterator[tuple[str, Record]]:
    """Reviews, one a line, with label 1 (positive) or 0; a text once, and none that stands in both classes.

    Texts are compared without white space and punctuation; those of fewer than five characters are left out.
    """
    classes = []
    for text in (negative, positive):
        lines = (line.strip() for line in text.splitlines())
        classes.append({re.sub(r"[\W_]+", "", line): line for line in lines if len(line) > 4})
    for label, texts in enumerate(classes):
        for key, line in texts.items():
            if key and key not in classes[1 - label]:
                yield key, {"text": line, "label": label}
