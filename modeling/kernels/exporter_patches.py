"""Lets transformers' own exporter to ONNX trace Trine's operators, of which the format knows none."""

from functools import cache

from .listed_blocks import listed_blocks
from .plain_operators import plain_listed_blocks, plain_simplicial
from .simplicial_chunked import simplicial_chunked
from .traced_lstm import onnx_lstm, traced_lstm


try:  # transformers 5.23 and later
    from transformers.exporters.utils import register_patch
except ImportError:
    register_patch = None

# Module, name of an operator in it, and what computes the same by what ONNX knows.
ONNX_REPLACEMENTS = (
    (listed_blocks.__module__, "listed_operator", plain_listed_blocks),
    (simplicial_chunked.__module__, "chunked_operator", plain_simplicial),
    (traced_lstm.__module__, "lstm_operator", onnx_lstm),
)


@cache
def register_onnx_patches() -> None:
    """Registers the replacements, which act while the exporter runs, once; nothing where transformers has none."""
    if register_patch is not None:
        for module, name, plain in ONNX_REPLACEMENTS:
            register_patch("onnx", f"{module}.{name}")(lambda original, plain=plain: plain)
