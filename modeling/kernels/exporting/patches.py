"""Lets transformers' own exporter to ONNX trace Trine's operators, of which the format knows none."""

from collections.abc import Callable


try:  # transformers 5.23 and later
    from transformers.exporters.utils import register_patch
except ImportError:
    register_patch = None

# Module, name of an operator in it, and what computes the same by what ONNX knows.
ONNX_REPLACEMENTS: list[tuple[str, str, Callable]] = []


def replace_for_onnx(caller: Callable, name: str, plain: Callable) -> None:
    """Replaces an operator by the function `plain` while transformers' exporter to ONNX runs, where there is one.

    The exporter may meet a model that was loaded as remote code, so each module with an operator calls this.

    Args:
        caller: A function of the same module, which calls the operator.
        name: The operator's name in that module.
        plain: Computes the same.
    """
    ONNX_REPLACEMENTS.append((caller.__module__, name, plain))
    if register_patch is not None:
        register_patch("onnx", f"{caller.__module__}.{name}")(lambda original: plain)
