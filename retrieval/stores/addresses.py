"""Finds the store that an address names, and keeps passwords out of what is printed."""

import re
from typing import Any
from urllib.parse import urlsplit

from .base import Store


def without_password(address: str) -> str:
    """An address with `***` in place of its password."""
    hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", address)
    return re.sub(r"(password\s*=\s*)('[^']*'|[^\s&]+)", r"\1***", hidden)


def hide_password(text: str, address: str, token: str = "") -> str:
    """A text of another library without the password of an address, or of a token `user:password`."""
    found = [*re.findall(r"://[^:/@]*:(.*)@", address), *re.findall(r"password\s*=\s*'?([^'\s&]+)", address)]
    for secret in [*found, token.partition(":")[2] or token]:
        text = text.replace(secret, "***") if secret else text
    return text


def open_store(address: str, name: str = "documents", **options: Any) -> Store:
    """Opens the store at an address.

    Args:
        address: `postgresql://user@host/database` of PostgreSQL; `http://host:19530`, or a file that ends with `.db`,
            of Milvus.
        name: Of its table or collection.
        options: As for `PostgresStore` or `MilvusStore`.

    Raises:
        ValueError: The address names neither; or what the store raises.
        ImportError: The package for it is not installed.
        ConnectionError: It cannot be reached.
    """
    scheme = urlsplit(address).scheme
    if scheme in ("postgresql", "postgres"):
        from .postgres import PostgresStore

        return PostgresStore(address, name, **options)
    if scheme in ("http", "https") or address.endswith(".db"):
        from .milvus import MilvusStore

        return MilvusStore(address, name, **options)
    raise ValueError(
        f"store={without_password(address)!r} is not postgresql://USER@HOST/DATABASE, http://HOST:19530 of Milvus, or "
        "a file of milvus-lite, whose name ends with .db."
    )
