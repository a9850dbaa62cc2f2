"""Models that give weights to the tokens of a text: SPLADE, or `TrineForRetrieval` with `sparse`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from .encoder_identity import PROBE, SIMILARITIES, hash_weights, name_of


class SparseModel:
    """Weights of texts, (texts, vocabulary), from a `SparseEncoder`.

    Raises:
        ValueError: Its head was never trained, or it compares by something else than cosine or dot product.
    """

    def __init__(self, model: SparseEncoder):
        check_trained(model)
        self.model = model

    def identify(self) -> dict[str, Any]:
        """Name, size, similarity, weights (as SHA-256) and the largest numbers for a fixed text, as JSON."""
        probe = self.documents([PROBE]).toarray()[0]
        largest = np.sort(np.argsort(-probe, kind="stable")[:20])
        return {
            "name": name_of(self.model),
            "dimension": len(probe),
            "similarity": str(self.model.similarity_fn_name),
            "weights": hash_weights(self.model),
            "probe": [round(float(probe[place]), 6) for place in largest],
        }

    def documents(self, texts: Sequence[str], batch_size: int = 32) -> csr_matrix:
        """The weights of documents."""
        return self._encode(self.model.encode_document, texts, batch_size)

    def queries(self, texts: Sequence[str], batch_size: int = 32) -> csr_matrix:
        """The weights of queries."""
        return self._encode(self.model.encode_query, texts, batch_size)

    def _encode(self, encode: Any, texts: Sequence[str], batch_size: int) -> csr_matrix:
        found = encode([*texts], batch_size=batch_size, show_progress_bar=False, save_to_cpu=True).coalesce()
        (row, token), weights, size = found.indices().numpy(), found.values().float().numpy(), tuple(found.shape)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(
                f"sparse_model={name_of(self.model)!r} gives weights that are negative or not finite numbers."
            )
        if self.model.similarity_fn_name == "cosine":
            norms = np.sqrt(np.bincount(row, weights.astype(np.float64) ** 2, size[0])).astype(np.float32)
            weights = weights / norms[row]
        return csr_matrix((weights, (row, token)), shape=size)


def check_trained(model: SparseEncoder) -> None:
    """Raises a ValueError for a head that sentence-transformers has just made, or for scores of another kind.

    Of a checkpoint without a head for masked tokens it makes a `SparseAutoEncoder` with random weights, and says so in
    a log line that nobody sees. Its two biases begin at 0, where training never leaves them.
    """
    for module in model:
        if isinstance(module, SparseAutoEncoder) and not (module.pre_bias.any() or module.latent_bias.any()):
            raise ValueError(
                f"sparse_model={name_of(model)!r}: {type(model.transformers_model).__name__} has no head for masked "
                f"tokens, so sentence-transformers made a SparseAutoEncoder of {module.hidden_dim:,} random "
                "directions. Train it, or take a SPLADE model (TrineForMaskedLM) or TrineForRetrieval with sparse."
            )
    if model.similarity_fn_name not in SIMILARITIES:
        raise ValueError(f"sparse_model: similarity_fn_name={model.similarity_fn_name!r} is not in {[*SIMILARITIES]}.")


def find_sparse_model(
    given: SparseEncoder | Callable[[str], SparseEncoder] | None,
    model: SentenceTransformer,
    made_by: Mapping[str, Any] | None,
) -> SparseModel:
    """The model that gives weights of tokens.

    Args:
        given: Itself, or what loads it by its name.
        model: That of the dense vectors; a folder of `TrineForRetrieval` with `sparse` holds that of the weights, too.
        made_by: The models that made the index; None for a new one.

    Raises:
        ValueError: There is none.
    """
    if isinstance(given, SparseEncoder):
        return SparseModel(given)
    config = getattr(model.transformers_model, "config", None)
    own = name_of(model) if "sparse" in (getattr(config, "retrieval_outputs", None) or ()) else ""
    name = own
    if made_by is not None and not (own and made_by["sparse"]["name"] == made_by["name"]):
        name = made_by["sparse"]["name"]
    if not name:
        raise ValueError(
            f"lexical='sparse': model={name_of(model)!r} has no weights of tokens. Name a sparse_model, such as a "
            "SparseEncoder, or train one with `trine train-embeddings --outputs dense,sparse`."
        )
    return SparseModel(given(name) if given else SparseEncoder(name, device=str(model.device)))
