"""ONNX graphs of integers, made by ONNX Runtime of exported models."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..programs.export import export
from ..programs.noise import without_export_noise
from .schemes import SCHEMES
from .weights import Weight, find_weights


SUFFIX = "_quantized"
OPERATORS = ("MatMul", "Gemm", "Attention", "LSTM", "Gather", "EmbedLayerNormalization", "Conv")


def quantize_graph(folder: Path, made: Path, model_class: Any, embeddings: bool, bar: Any) -> list[Weight]:
    """Exports a checkpoint, and has ONNX Runtime write its graph with weights of 8 bits and activations as they come.

    Args:
        folder: Of the checkpoint.
        made: A folder that is empty.
        model_class: Of the checkpoint.
        embeddings: Whether tables of embeddings are quantised, too.
        bar: Moved on three times.

    Returns:
        The weights of the model, and where they are stored.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    program = made / "program"
    export(folder, program)
    for path in program.iterdir():
        if not path.name.startswith("model.onnx"):
            path.replace(made / path.name)
    bar.update()
    graph = program / "model.onnx"
    names = [name for name in OPERATORS if embeddings or name != "Gather"]
    with quiet():
        forget_shapes(graph)
        options = {"op_types_to_quantize": names, "weight_type": QuantType.QInt8, "use_external_data_format": True}
        quantize_dynamic(graph, made / "model.onnx", **options)
    bar.update()
    before, after = onnx.load(graph).graph.initializer, onnx.load(made / "model.onnx").graph.initializer
    for path in program.iterdir():
        path.unlink()
    program.rmdir()
    bar.update()
    return match(model_class.from_pretrained(folder), before, {item.name: len(item.raw_data) for item in after})


def forget_shapes(path: Path) -> None:
    """Removes from a graph the shapes between its nodes, some of which the quantiser's own inference contradicts."""
    import onnx

    graph = onnx.load(path, load_external_data=False)
    del graph.graph.value_info[:]
    for function in graph.functions:
        del function.value_info[:]
    onnx.save(graph, path)


@contextmanager
def quiet() -> Iterator[None]:
    """Without advice of ONNX Runtime to prepare the graph, which export has done."""
    logger, level = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)
    try:
        with without_export_noise():
            yield
    finally:
        logger.setLevel(level)


def match(model: Any, before: Any, after: dict[str, int]) -> list[Weight]:
    """The weights of a model, found in a graph by what they hold: many are transposed and renamed there."""
    from onnx.numpy_helper import to_array

    stored: dict[Any, str] = {}
    for item in before:
        array = to_array(item)
        if array.ndim:
            stored[key_of(array)] = item.name
    weights = find_weights(model.float(), SCHEMES["onnx-int8"])
    tensors = model.state_dict()
    for weight in weights:
        array = tensors[weight.name].numpy()
        name = stored.get(key_of(array)) or stored.get(key_of(array.T))
        weight.stored, weight.after, weight.why = describe(name, after, weight)
    return weights


def describe(name: str | None, after: dict[str, int], weight: Weight) -> tuple[str, int, str]:
    """Says how a weight is stored in the quantised graph, in how many bytes, and why so."""
    if name is None:
        return weight.stored, 0, "not in the graph by itself: another tensor holds it, or the graph needs none"
    if f"{name}{SUFFIX}" in after:
        return "int8", after[f"{name}{SUFFIX}"], ""
    if weight.kind == "embedding":
        return weight.stored, after.get(name, 0), "embeddings: --embeddings"
    return weight.stored, after.get(name, 0), weight.why or "no product with it that ONNX Runtime quantises"


def key_of(array: Any) -> tuple[Any, ...]:
    """A key that equal arrays share."""
    return array.shape, hash(array.tobytes())
