"""Checks of what a search is given: numbers, texts, documents."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..configuration.patterns import named_type


def check_count(name: str, value: Any) -> None:
    """Raises a ValueError unless a value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1.")


def check_text(name: str, value: Any) -> None:
    """Raises a TypeError for what is no text, and a ValueError for one that is empty or has half a character."""
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r} is {named_type(value)}, not a text.")
    if not value.strip():
        raise ValueError(f"{name}={value!r} is an empty text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}={value!r} holds one half of a character, which is no text.") from error


def check_documents(documents: Any) -> None:
    """Raises a TypeError or ValueError that names the first document that cannot be used."""
    if not isinstance(documents, Mapping):
        raise TypeError(f"documents is {named_type(documents)}; pass a mapping from ids to texts.")
    for id_, text in documents.items():
        check_text("id", id_)
        check_text(f"documents[{id_!r}]", text)
