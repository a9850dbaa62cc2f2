"""The type in which a model of sentence-transformers computes, beside that of its weights."""

from functools import wraps
from typing import Any

import torch

from ..configuration.patterns import check_choice


AUTO = "auto"
BFLOAT16 = "bfloat16"
DTYPES = (AUTO, "float32", BFLOAT16)
DTYPE_HELP = (
    "In which type models compute, one of auto (that of the weights), float32 and bfloat16: this is 2 to 3 times as "
    "fast on a CPU with instructions for it, and rounds. Weights and indexes stay as they are."
)


def compute_in(model: Any, dtype: str) -> Any:
    """Lets the transformer of a model compute in this type, and returns the model.

    In bfloat16 its products are computed so by autocast, and the weights stay as they are: an index knows the model
    as before. Scores and vectors leave it in float32.

    Args:
        model: A `SentenceTransformer`, `SparseEncoder` or `CrossEncoder`.
        dtype: One of `DTYPES`.

    Raises:
        ValueError: There is no such type, or the model has no transformer that could compute in bfloat16.
    """
    check_choice("dtype", dtype, DTYPES)
    if dtype == AUTO:
        return model
    if dtype != BFLOAT16:
        return model.float()
    transformer = model.transformers_model
    if transformer is None:
        raise ValueError(
            f"dtype={dtype!r} is for a model with a transformer; {type(model).__name__} has {type(model[0]).__name__}."
        )
    forward = transformer.forward

    @wraps(forward)  # sentence-transformers reads the names of its arguments
    def compute(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(transformer.device.type, torch.bfloat16):
            outputs = forward(*args, **kwargs)
        for name, value in [*outputs.items()]:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                outputs[name] = value.float()
        return outputs

    transformer.forward = compute
    return model
