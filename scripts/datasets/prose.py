"""English documents from the files of public packages, for pretraining. Nothing here uses the network."""

import gzip
import re
from collections.abc import Iterable, Iterator, Mapping


_ENTRY = re.compile(r"\n(?=\S)")
_HEADINGS_OF_CODE = frozenset({"SYNOPSIS", "SEE ALSO", "LIBRARY", "COLOPHON"})
_CHARACTERS = {
    **{"\\-": "-", "\\e": "\\", "\\(aq": "'", "\\(dq": '"', "\\(em": "--", "\\(en": "-", "\\(bu": "*", "\\~": " "},
    **{"\\(lq": '"', "\\(rq": '"', "\\(oq": "'", "\\(cq": "'", "\\(ha": "^", "\\(ti": "~", "\\(co": "(C)", "\\ ": " "},
    **{"\\(rs": "\\", "\\'": "'", "\\`": "`", "\\*(lq": '"', "\\*(rq": '"', "\\(mu": "x", "\\(+-": "+/-"},
}
_ESCAPE = re.compile(r"\\(?:f\[\w*\]|f\(..|f.|\(..|\[\w*\]|\*\(..|\*.|s[-+]?\d+|[hv]'[^']*'|.)")
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')
# Blocks that hold no sentences, by the macro that begins them: programs, tables, definitions.
_BLOCKS = {"nf": "fi", "EX": "EE", "TS": "TE", "EQ": "EN", "de": "."}


def detagged(text: str) -> str:
    """Prose from the Brown corpus's `word/tag`, a paragraph a line; its doubled marks and spaced quotes are mended."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(item.rpartition("/")[0] for item in paragraph.split())
        words = re.sub(r"([;?!]) \1", r"\1", words)
        words = re.sub(r" ?''", '"', re.sub(r"`` ?", '"', words))
        words = re.sub(r" ([,.;:?!)\]])", r"\1", re.sub(r"([(\[]) ", r"\1", words))
        paragraphs.append(words)
    return "\n".join(filter(None, paragraphs))


def parse_glosses(text: str) -> Iterator[str]:
    """A line for each set of synonyms in a data file of WordNet: its words, and what they mean, with examples."""
    for line in text.splitlines():
        head, separator, gloss = line.partition(" | ")
        if separator and not line.startswith(" "):
            fields = head.split()
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            names = ", ".join(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words)
            yield f"{names}: {gloss.strip()}"


def parse_dictionary(data: bytes) -> Iterator[str]:
    """The entries of a dictd dictionary (.dict.dz), with lines joined to paragraphs and links without braces."""
    text = gzip.decompress(data).decode("utf-8", errors="replace").replace("\r", "")
    for entry in _ENTRY.split(text):
        head, _, body = entry.partition("\n")
        if body.strip():
            paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", body))
            joined = "\n".join(part for part in paragraphs if part and not re.fullmatch(r"\([\d-]+\)", part))
            yield re.sub(r"[{}]", "", f"{head.strip()}: {joined}")


def parse_manual(page: str) -> str:
    """The sentences of a manual page in roff: headings and paragraphs a line each, without programs and tables."""
    paragraphs: list[list[str]] = [[]]
    end, left_out = "", False
    for line in page.replace("\\\n", "").splitlines():
        macro, _, rest = line[1:].strip().partition(" ") if line[:1] in (".", "'") else ("", "", line)
        if end:
            end = "" if macro == end else end
        elif macro in _BLOCKS:
            end = _BLOCKS[macro]
        elif macro in ("SH", "SS"):
            title = _unescaped(" ".join(_arguments(rest)))
            left_out = title in _HEADINGS_OF_CODE or (left_out and macro == "SS")
            paragraphs += [[title], []] if title != "NAME" and not left_out else [[]]
        elif macro in ("PP", "P", "LP", "TP", "IP", "TQ", "br", "sp"):
            paragraphs.append([])
        elif left_out or line.startswith(('.\\"', "'\\\"")):
            continue
        elif macro in ("B", "I", "SM"):
            paragraphs[-1].append(_unescaped(" ".join(_arguments(rest))))
        elif macro in ("BR", "RB", "IR", "RI", "BI", "IB"):
            paragraphs[-1].append(_unescaped("".join(_arguments(rest))))
        elif not macro:
            paragraphs[-1].append(_unescaped(line))
    return "\n".join(filter(None, (" ".join(" ".join(lines).split()) for lines in paragraphs)))


def _arguments(text: str) -> list[str]:
    """The arguments of a macro: words, or texts in quotes."""
    return [quoted.replace('""', '"') or word for quoted, word in _ARGUMENT.findall(text)]


def _unescaped(text: str) -> str:
    """Text without what changes the font, and with the characters that stand for others."""
    return _ESCAPE.sub(lambda found: _CHARACTERS.get(found[0], ""), text.partition('\\"')[0])


def select_documents(
    documents: Iterable[tuple[str, str, str]], shortest: int = 40
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Records from (group, source, text), without texts below `shortest` characters and without what has been seen."""
    seen: set[int] = set()
    for group, source, text in documents:
        if len(text) >= shortest and (key := hash(text)) not in seen:
            seen.add(key)
            yield group, {"text": text, "source": source}
