"""Finds the store that an address names."""

from typing import Any
from urllib.parse import urlsplit

from .base import Store
from .passwords import without_password


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
