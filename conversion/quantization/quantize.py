"""Writes checkpoints with weights of fewer bits, which the Auto classes of transformers load."""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ...modeling.heads.table import OTHER_HEADS
from ...modeling.quantized import is_packed
from ..companions import copy_companions, find_source
from ..equivalence import random_inputs
from ..inside import read_fields
from ..plan import empty_model
from ..programs.export import MODELS, find_class
from ..stream import all_or_nothing
from .report import HEADING, Report
from .schemes import GROUP_SIZE, Scheme, check_scheme
from .weights import Weight, check_groups, find_weights, make_settings, stored_bytes


CARD = "README.md"
QUANTIZED = MODELS | {model.__name__: model for model in OTHER_HEADS}


def quantize(
    source: str | Path,
    target: str | Path,
    *,
    scheme: str = "int8",
    embeddings: bool = False,
    group_size: int = GROUP_SIZE,
    show_progress: bool = False,
) -> Report:
    """Writes a checkpoint of Trine with weights of fewer bits, and checks that it loads as it was made.

    With a scheme of torchao the target loads by `from_pretrained` of the Auto classes, with and without trine; torchao
    has to be installed there. What is not quantised keeps its type. `onnx-int8` writes an ONNX graph in place of
    weights, as `trine export` does, which ONNX Runtime runs. Tokenizer and other files come along. After an error
    there is nothing.

    Args:
        source: A folder with a checkpoint of Trine, or a name on the Hub.
        target: A folder that is not there yet.
        scheme: Of `SCHEMES`.
        embeddings: Whether the embeddings of tokens and the head over the vocabulary are quantised, too.
        group_size: Inputs that share a scale, for `int4` and `int2`.
        show_progress: Whether to show a bar.

    Returns:
        What became of each weight, with sizes.

    Raises:
        ValueError: The scheme is unknown, a package is missing, the source is quantised already, or a width is no
            multiple of the group size.
        OSError: Files are missing or damaged, or `target` is there already.

    Example:
        >>> print(quantize("my-model", "my-model-int8", embeddings=True).table())  # doctest: +SKIP
    """
    chosen = check_scheme(scheme)
    folder, target = find_source(source), Path(target)
    model_class = check_source(folder, QUANTIZED if chosen.rules else MODELS)
    bar = tqdm(total=3, disable=not show_progress, desc="quantise")
    with all_or_nothing(target) as made, bar:
        write = write_quantized if chosen.rules else write_graph
        weights = write(folder, made, model_class, chosen, embeddings, group_size, bar)
        after = sum(path.stat().st_size for path in weight_files(made))
        before = sum(path.stat().st_size for path in weight_files(folder))
        report = Report(str(source), str(target), scheme, weights, before, after)
        write_card(made, report)
    return report


def check_source(folder: Path, models: dict[str, Any]) -> Any:
    """The class of a checkpoint that can be quantised, one of `models`.

    Raises:
        ValueError: It is none of Trine's, or quantised already.
        OSError: It has no weights.
    """
    found = read_fields(folder / "config.json").get("quantization_config")
    if found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else found
        raise ValueError(
            f"source='{folder}' is quantised already (quant_method={method!r}). Give the model before that."
        )
    model_class = find_class(folder, models)
    if not weight_files(folder):
        raise OSError(f"source='{folder}' has no weights (*.safetensors).")
    return model_class


def weight_files(folder: Path) -> list[Path]:
    """The files with weights in a folder."""
    return [path for pattern in ("*.safetensors", "*.onnx", "*.onnx.data") for path in sorted(folder.glob(pattern))]


def write_quantized(
    folder: Path, made: Path, model_class: Any, scheme: Scheme, embeddings: bool, group_size: int, bar: Any
) -> list[Weight]:
    """Loads a checkpoint with a config of torchao, saves it, and compares it with what is loaded from there."""
    config = model_class.config_class.from_pretrained(folder)
    weights = find_weights(empty_model(model_class, config), scheme, embeddings)
    if scheme.is_grouped:
        check_groups(weights, group_size)
    settings = make_settings(weights, scheme, group_size)
    dtype = torch.float32 if config.dtype == torch.float64 else "auto"  # which torchao does not know
    model = model_class.from_pretrained(folder, quantization_config=settings, dtype=dtype).eval()
    bar.update()
    model.save_pretrained(made)
    copy_companions(folder, made, generates=model_class.can_generate())
    bar.update()
    check_reload(made, model)
    sizes = stored_bytes(tensor_bytes(made))
    for weight in weights:
        weight.after = sum(sizes.get(name, 0) for name in weight.names)
    bar.update()
    return weights


def write_graph(
    folder: Path, made: Path, model_class: Any, scheme: Scheme, embeddings: bool, *rest: Any
) -> list[Weight]:
    """Writes an ONNX graph of integers."""
    from .graph import quantize_graph

    return quantize_graph(folder, made, model_class, embeddings, rest[-1])


def check_reload(folder: Path, model: Any) -> None:
    """Loads a quantised checkpoint, compares its tensors with those of the model that was saved, and runs it.

    Raises:
        ValueError: They are not equal, or outputs are not numbers.
    """
    again = type(model).from_pretrained(folder).eval()
    expected = parts(model)
    for name, tensor in parts(again).items():
        if not torch.equal(tensor, expected[name]):
            raise ValueError(f"The quantised model does not load as it was saved: '{name}' differs.")
    with torch.no_grad():
        outputs = again(**random_inputs(model.config, type(model).__name__))
    for name, output in outputs.items():
        if isinstance(output, torch.Tensor) and not output.isfinite().all():
            raise ValueError(f"The quantised model computes infinite or undefined {name}.")


def parts(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model, of quantised ones their integers and scales."""
    names = ("qdata", "scale", "zero_point")
    return {
        f"{key} {name}".rstrip(): part
        for key, tensor in model.state_dict().items()
        for name in (names if is_packed(tensor) else ("",))
        if (part := getattr(tensor, name, None) if name else tensor) is not None
    }


def tensor_bytes(folder: Path) -> dict[str, int]:
    """Bytes of each tensor in the files of a folder, from their headers."""
    sizes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        sizes |= {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in header.items()}
    return sizes


def write_card(folder: Path, report: Report) -> None:
    """Adds a section about the quantisation to the model card, in place of an earlier one; or begins a card."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {Path(report.source).name}, {report.scheme}\n"
    before = text.partition(f"\n{HEADING}\n")[0].rstrip("\n")
    card.write_text(f"{before}\n\n{report.card()}", encoding="utf-8")
