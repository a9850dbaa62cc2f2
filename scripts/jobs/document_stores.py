"""Databases that `trine index` fills and `trine search` asks, and the models that give weights of tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sentence_transformers import SparseEncoder

from trine.retrieval.computing import AUTO, compute_in
from trine.retrieval.sparse_models import check_trained
from trine.retrieval.stores.addresses import open_store
from trine.retrieval.stores.base import Store
from trine.retrieval.stores.passwords import without_password
from trine.scripts.jobs.encoders import quiet_loading


STORE_HELP = (
    "a database: postgresql://USER@HOST/DATABASE, or Milvus, http://HOST:19530 or a file like documents.db. Passwords "
    "may stand in the environment: PGPASSWORD; MILVUS_TOKEN as USER:PASSWORD."
)
STORE_NAME_HELP = "Name of the table or collection in the store."


@contextmanager
def opened_store(address: str, name: str, **options: Any) -> Iterator[Store]:
    """Opens a database and closes it; what it reports is a `ConnectionError` in one line, without a password."""
    errors = database_errors()
    try:
        store = open_store(address, name, **options)
        try:
            yield store
        finally:
            store.close()
    except errors as error:
        reason = " ".join(str(error).split())
        raise ConnectionError(f"store='{without_password(address)}': {reason}") from error


def database_errors() -> tuple[type[Exception], ...]:
    """The errors of the installed packages of stores."""
    found: list[type[Exception]] = []
    try:
        import psycopg

        found.append(psycopg.Error)
    except ImportError:
        pass
    try:
        import pymilvus

        found.append(pymilvus.MilvusException)
    except ImportError:
        pass
    return tuple(found)


def load_sparse_encoder(
    name: str, device: str | None = None, trust_remote_code: bool = False, dtype: str = AUTO
) -> SparseEncoder:
    """Loads a model that gives weights of tokens.

    Raises:
        OSError: It cannot be read.
        ValueError: Its head was never trained, or it cannot compute in this type.
    """
    try:
        with quiet_loading(name):
            model = SparseEncoder(name, device=device, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise OSError(f"sparse_model='{name}' cannot be read: {error}") from error
    check_trained(model)
    return compute_in(model, dtype)
