"""Silences messages of torch and transformers that every export prints, and that would hide an error."""

import importlib
import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


# Of each module that logs: what its messages hold.
LOGGED = {
    # Whether the program is right is checked: it runs beside the model.
    "transformers.exporters.utils": ("Version drift detected",),
    # The caches of a decoder have no other way.
    "transformers.exporters.exporter_dynamo": ("`dynamic=True` with no explicit `dynamic_shapes`",),
    # Of operators that no model of Trine has, and of the types of others, which transformers registers.
    "torch.onnx._internal.exporter._registration": (
        "torchvision is not installed",
        "Failed to infer the signature for function",
    ),
}
# Regular expressions of the warnings: torch's about its own and transformers' use of it.
WARNED = (r"`isinstance\(treespec, LeafSpec\)` is deprecated", r"`treespec\.children_specs` is deprecated")


# How the lines begin in which torch prints its steps.
PRINTED = "[torch.onnx]"


@contextmanager
def without_export_noise() -> Iterator[None]:
    """Holds back the messages that the tables name; other output goes to standard error at the end."""
    filters = []
    for module, texts in LOGGED.items():
        try:
            logger = importlib.import_module(module).logger  # transformers names some by the path of the file
        except ImportError:  # without the packages of ONNX, torch's part for it cannot be imported, and says nothing
            continue
        filters.append((logger, lambda record, texts=texts: not any(text in record.getMessage() for text in texts)))
    for logger, is_other in filters:
        logger.addFilter(is_other)
    printed = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(printed):
            for message in WARNED:
                warnings.filterwarnings("ignore", message, FutureWarning)
            yield
    finally:
        for logger, is_other in filters:
            logger.removeFilter(is_other)
        for line in printed.getvalue().splitlines():
            if not line.startswith(PRINTED):
                print(line, file=sys.stderr)
