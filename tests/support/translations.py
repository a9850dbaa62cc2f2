"""What a translated page has to share with the English one, section by section."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import zip_longest


BLOCK = re.compile(r"^( *)```.*?^\1```$", flags=re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#+) (.*)$", flags=re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
COMMENT = re.compile(r"(?:(?<=\s)|^)# .*$", flags=re.MULTILINE)
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
# Large numbers are counted in millions, and in ten thousands and hundred millions.
SCALES = {"million": 10**6, "billion": 10**9, "万": 10**4, "亿": 10**8}
SCALED = re.compile(rf"(\d+(?:\.\d+)?)\s+({'|'.join(SCALES)})")
# The language of a page stands in the names of pages that are read as they are.
LANGUAGE = re.compile(r"(?:\.zh(?:-CN)?)(?=\.md)")


def drift(english: str, translated: str) -> list[str]:
    """What a translated page has and the English one lacks, or the other way round, each with its heading.

    Headings and their levels, blocks of code up to their comments, links, code within lines, figures, comments of
    HTML, and the rows of tables with the figures of each are compared.
    """
    ours, theirs = [*sections(english)], [*sections(translated)]
    levels = [[level for level, _, _ in each] for each in (ours, theirs)]
    if levels[0] != levels[1]:
        for (level, name, _), (other, title, _) in zip_longest(ours, theirs, fillvalue=(0, "no heading", "")):
            if level != other:
                return [f"{'#' * level} {name}: the translation has {'#' * other} {title} there".replace("  ", " ")]
    found = []
    for (_, name, our), (_, title, their) in zip(ours, theirs, strict=True):
        for what, parts in PARTS.items():
            missing, more = parts(our) - parts(their), parts(their) - parts(our)
            if missing or more:
                found.append(f"{name} ({title}): {what}: lacks {[*missing]}, has besides {[*more]}")
    return found


def sections(text: str) -> Iterator[tuple[int, str, str]]:
    """Level, heading and text of each part of a page; headings within blocks of code are none."""
    hidden = BLOCK.sub(lambda match: re.sub(r"^( *)#", r"\1\0", match[0], flags=re.MULTILINE), text)
    parts = HEADING.split(hidden)
    yield from (
        (len(marks), name, body.replace("\0", "#")) for marks, name, body in zip(*[iter(parts[1:])] * 3, strict=True)
    )


def blocks(text: str) -> Counter[str]:
    """Blocks of code without the words of their comments."""
    return Counter(
        re.sub(r"\s+$", "", COMMENT.sub("", match[0]), flags=re.MULTILINE) for match in BLOCK.finditer(text)
    )


def comments(text: str) -> Counter[str]:
    """Figures and code in the comments of blocks."""
    said = " ".join(comment for match in BLOCK.finditer(text) for comment in COMMENT.findall(match[0]))
    return Counter({*FIGURE.findall(said), *re.findall(r"torch\.Size\(.*?\)|\bTrue\b|\bFalse\b", said)})


def prose(text: str) -> str:
    """The text without blocks, targets of links, code and comments of HTML."""
    for pattern in (BLOCK, LINK, CODE, re.compile("<!-- .*? -->")):
        text = pattern.sub(" ", text)
    return SCALED.sub(lambda match: f"{round(float(match[1]) * SCALES[match[2]])}", text)


def rows(text: str) -> Counter[str]:
    """The rows of tables: the number, and the figures of each."""
    lines = [line for line in prose(text).splitlines() if line.startswith("|")]
    return Counter(f"row {number}: {' '.join(sorted(FIGURE.findall(line)))}" for number, line in enumerate(lines))


PARTS: dict[str, Callable[[str], Counter[str]]] = {
    "blocks": blocks,
    "comments of blocks": comments,
    "links": lambda text: Counter(LANGUAGE.sub("", link) for link in LINK.findall(BLOCK.sub("", text))),
    "code": lambda text: Counter({re.sub(r"\s+", " ", name) for name in CODE.findall(BLOCK.sub("", text))}),
    "figures": lambda text: Counter({*FIGURE.findall(prose(text))}),
    "rows of tables": rows,
    "comments of HTML": lambda text: Counter(re.findall("<!-- .*? -->", BLOCK.sub("", text))),
}
