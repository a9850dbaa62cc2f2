"""Tells one embedding model from another, so that vectors of two are never compared."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base import BaseModel


SIMILARITIES = ("cosine", "dot")
PROBE = "Two birds in a tree, 3 o'clock; 两只鸟。"  # whose vector shows pooling, prompt and tokenizer
LEAST_COSINE = 0.999  # of vectors of the same model on two devices


def identify(model: SentenceTransformer) -> dict[str, Any]:
    """The name, size, similarity, weights (as SHA-256) of a model and its vector of a fixed text, as JSON.

    Raises:
        ValueError: Its texts are compared by something else than cosine or dot product.
    """
    if model.similarity_fn_name not in SIMILARITIES:
        raise ValueError(
            f"The model's similarity_fn_name={model.similarity_fn_name!r} is not one of {[*SIMILARITIES]}."
        )
    probe: Any = model.encode_document([PROBE], show_progress_bar=False)
    return {
        "name": name_of(model),
        "dimension": int(probe.shape[1]),
        "similarity": str(model.similarity_fn_name),
        "weights": hash_weights(model),
        "probe": [round(float(value), 6) for value in probe[0]],
    }


def name_of(model: BaseModel) -> str:
    """Where a model came from: a whole path, or a name on the Hub; "" for one that was made in this process."""
    config = getattr(model.transformers_model, "config", None)
    name = str(getattr(config, "_name_or_path", "") or "")
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


def hash_weights(model: torch.nn.Module) -> str:
    """SHA-256 over name, type, shape and content of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_same(found: Mapping[str, Any], expected: Mapping[str, Any], role: str = "model") -> None:
    """Checks that an index with the vectors of one model is used with this model.

    Args:
        found: What `identify` says of the model.
        expected: What it said of the one that made the index.
        role: The name of the option.

    Raises:
        ValueError: They are not the same.
    """
    reason = None
    for field in ("dimension", "similarity", "weights"):
        if found[field] != expected[field]:
            reason = f"{field} {found[field]!r} instead of {expected[field]!r}"
            break
    else:
        ours, theirs = np.array(found["probe"]), np.array(expected["probe"])
        norms = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
        if not float(ours @ theirs) >= LEAST_COSINE * norms:
            reason = "the same weights, but other vectors: pooling, prompts or tokenizer are others"
    if reason is not None:
        raise ValueError(
            f"The index was made by {role}={expected['name']!r}. That is not {role}={found['name']!r}, which has "
            f"{reason}. Search it with the model that made it, or make a new index."
        )
