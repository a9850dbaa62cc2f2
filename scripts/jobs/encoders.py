"""Loads models that embed texts, or score pairs of them, with all of their weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModel
from transformers.utils import logging

import trine  # noqa: F401 - registers the models of this package with the Auto classes
from trine.retrieval.computing import AUTO, compute_in
from trine.retrieval.reranking import cut_documents
from trine.training.new_heads import without_load_report


def load_encoder(
    name: str, device: str | None = None, trust_remote_code: bool = False, dtype: str = AUTO
) -> SentenceTransformer:
    """Loads a model of sentence-transformers, or an encoder or decoder with its tokenizer.

    Raises:
        OSError: It cannot be read.
        ValueError: The checkpoint lacks weights, or cannot compute in this type.
    """
    code: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        with quiet_loading(name):  # `check_weights` says what matters
            model = SentenceTransformer(name, device=device, **code)
    except OSError as error:
        raise OSError(f"model='{name}' cannot be read: {error}") from error
    if model.transformers_model is not None:
        with quiet_loading(name):
            check_weights(name, model.transformers_model, code)
    return compute_in(model, dtype)


@contextmanager
def quiet_loading(name: str) -> Iterator[None]:
    """Holds back transformers' report of weights, and the bars where nothing is downloaded."""
    hide = Path(name).is_dir() and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()
    try:
        with without_load_report():
            yield
    finally:
        if hide:
            logging.enable_progress_bar()


def load_cross_encoder(
    name: str, device: str | None = None, trust_remote_code: bool = False, dtype: str = AUTO
) -> CrossEncoder:
    """Loads a model that gives a pair of texts one score.

    Raises:
        OSError: It cannot be read.
        ValueError: The checkpoint lacks weights, or gives several scores.
    """
    code: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        with quiet_loading(name):
            model = CrossEncoder(name, device=device, **code)
    except OSError as error:
        raise OSError(f"rerank_model='{name}' cannot be read: {error}") from error
    if model.transformers_model is not None:
        with quiet_loading(name):
            check_weights(name, model.transformers_model, code, type(model.transformers_model))
    if model.num_labels != 1:
        raise ValueError(f"rerank_model='{name}' has num_labels={model.num_labels}; to rank, a pair needs one score.")
    return compute_in(cut_documents(model), dtype)


def check_weights(name: str, model: Any, code: Mapping[str, bool], loader: Any = AutoModel) -> None:
    """Raises a ValueError where the checkpoint lacks weights.

    sentence-transformers would make them at random, with a log line.

    A pooler may be missing: embeddings do not pass through it.
    """
    with without_load_report():
        _, loading = loader.from_pretrained(model.name_or_path, output_loading_info=True, device_map="meta", **code)
    lacking = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    lacking = sorted(key for key in lacking if not key.startswith("pooler."))
    if lacking:
        raise ValueError(
            f"model='{name}' lacks {len(lacking)} of the weights of {type(model).__name__}, such as {lacking[:3]}, "
            "which would be random. Do the names in the checkpoint begin with a prefix that the model does not know?"
        )
