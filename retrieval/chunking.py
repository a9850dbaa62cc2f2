"""Where a document is cut: by sentences, by numbers of tokens, or at given places."""

import re
from collections.abc import Sequence


Span = tuple[int, int]  # first character, and the one after the last

# An end: a full stop and so on before white space, unless a small letter goes on; its Chinese forms anywhere; a line's
# end. Closing quotes and brackets and the white space that follows belong to the sentence.
CLOSING = "[\"')\\]\u201d\u2019\u300d\u300f\uff09\u3011\u300b]*"
ENDS = re.compile(rf"[.!?\u2026]+{CLOSING}\s+(?![a-z])|[\u3002\uff01\uff1f\uff1b]+{CLOSING}\s*|\s*\n\s*")


def sentence_spans(text: str) -> list[Span]:
    """Returns the spans of characters of a text's sentences, which partition it.

    A sentence ends after `.`, `!`, `?` or `…` before white space, unless a small letter follows; after `。`, `！`,
    `？` or `；`; and at the end of a line. An abbreviation before a capital letter (`Dr. Who`) is cut in two.

    Args:
        text: Any text. The white space after a sentence belongs to it, that before the first one to the first.
    """
    ends = [found.end() for found in ENDS.finditer(text) if text[: found.end()].strip()]
    return spans_between([end for end in ends if end < len(text)], len(text))


def spans_between(starts: Sequence[int], length: int) -> list[Span]:
    """Returns the spans that partition `length` characters and begin at 0 and at each of the sorted `starts`."""
    edges = [0, *starts, length]
    return [*zip(edges, edges[1:], strict=False)]


def check_spans(spans: Sequence[Span], length: int) -> list[Span]:
    """Returns given spans as pairs of integers; they may leave out parts of the text.

    Args:
        spans: First character and the one after the last of each.
        length: The number of characters of the text.

    Raises:
        ValueError: There is none, one is empty or outside of the text, or they overlap or are not sorted.
    """
    if not spans:
        raise ValueError("chunks=[] has no span: give at least one, or None for one per sentence.")
    checked: list[Span] = []
    for number, span in enumerate(spans):
        try:
            start, end = (int(place) for place in span)
        except (TypeError, ValueError):
            raise ValueError(f"chunks[{number}]={span!r} is not a pair (start, end) of characters.") from None
        if not 0 <= start < end <= length:
            raise ValueError(f"chunks[{number}]={(start, end)} is not within 0 <= start < end <= {length}, the text.")
        if checked and start < checked[-1][1]:
            raise ValueError(
                f"chunks[{number}]={(start, end)} begins before chunks[{number - 1}]={checked[-1]} ends; spans have "
                "to be sorted and must not overlap."
            )
        checked.append((start, end))
    return checked
