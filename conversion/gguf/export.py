"""Writes a decoder as one GGUF file, with its tokenizer, and reads the file back."""

import shutil
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..companions import find_source
from ..inside import check_links, read_fields
from ..plan import CONFIGS, Plan, plan_export
from ..stream import all_or_nothing
from .architectures import Architecture, add_fields, check_rope, find_architecture
from .tensors import DTYPES, Written, choose_dtype, encode, tensors
from .vocabulary import read_vocabulary


FILE = "model.gguf"


def export_gguf(
    source: str | Path, target: str | Path, *, dtype: str | None = None, show_progress: bool = False
) -> float:
    """Writes a decoder of Trine as `model.gguf`, for llama.cpp.

    It can be what equals a Llama, a Qwen3 or a Mixtral of transformers with full attention: see
    `docs/how-to/export.md`. Weights pass one tensor at a time. Tokenizer, chat template, special tokens, context
    length, name and licence are in the file. `target` appears when every tensor was read back from the file; after an
    error there is nothing.

    Args:
        source: A folder with a checkpoint of Trine, or a name on the Hub.
        target: A folder that is not there yet.
        dtype: Of matrices: "f32", "f16", "bf16" or "q8_0" (8 bits, a scale for 32 numbers); vectors and routers are
            in float32. Default: that of the checkpoint.
        show_progress: Whether to show a bar.

    Returns:
        The largest difference between a weight of the file and of the checkpoint.

    Raises:
        ValueError: The model or its tokenizer is none of llama.cpp's, or the file differs by more than its type.
        OSError: Files are missing or damaged, or `target` is there already.
    """
    folder, target = find_source(source), Path(target)
    if target.suffix == ".gguf":
        raise ValueError(f"target='{target}' is a folder, which gets {FILE}: name it without .gguf.")
    plan, architecture = plan_gguf(folder)
    dtype = choose_dtype(dtype, plan)
    vocabulary = read_vocabulary(folder, plan.model.config)
    with (
        all_or_nothing(target) as made,
        tqdm(total=2 * len(plan.ours), unit="tensor", disable=not show_progress) as bar,
    ):
        writer = make_writer(made / FILE, plan, architecture, dtype)
        add_description(writer, source, folder)
        vocabulary.add_fields(writer)
        write_tensors(writer, plan, architecture, dtype, bar)
        for path in sorted(folder.glob("LICENSE*")):
            shutil.copyfile(check_links(folder, path), made / path.name)
        difference = check_file(made / FILE, plan, architecture, dtype, bar)
    return difference


def plan_gguf(folder: Path) -> tuple[Plan, Architecture]:
    """Checks that a checkpoint is one of llama.cpp's architectures, before any tensor is read.

    Raises:
        ValueError: It is none; the message names the field, its value and what llama.cpp has.
        OSError: Its files are damaged.
    """
    fields = read_fields(folder / "config.json")
    model_type, names = fields.get("model_type", ""), fields.get("architectures") or []
    if model_type != "trine" or names != ["TrineForCausalLM"]:
        others = "" if model_type in CONFIGS else " `trine convert` makes one of other families."
        raise ValueError(
            f"architectures={names} of {folder} is not ['TrineForCausalLM'], as a GGUF file needs.{others}"
        )
    config = CONFIGS[model_type].from_pretrained(folder)
    architecture = find_architecture(config)
    plan = plan_export(folder, model_type, architecture.family, None)
    check_rope(config, architecture)
    return plan, architecture


def make_writer(path: Path, plan: Plan, architecture: Architecture, dtype: str) -> Any:
    """Opens a file and writes what kind of model it holds."""
    from gguf import GGML_QUANT_VERSION, GGUFWriter, LlamaFileType

    writer = GGUFWriter(path, architecture.name)
    writer.add_type("model")
    writer.add_file_type(LlamaFileType[DTYPES[dtype].file])
    if DTYPES[dtype].block > 1:
        writer.add_quantization_version(GGML_QUANT_VERSION)
    add_fields(writer, plan.model.config, architecture)
    return writer


def add_description(writer: Any, source: str | Path, folder: Path) -> None:
    """Writes the model's name and, where its card tells them, licence, languages and tags."""
    from huggingface_hub import ModelCardData, metadata_load

    writer.add_name(Path(source).name or str(source))
    card = folder / "README.md"
    data = ModelCardData(**(metadata_load(card) or {})) if card.is_file() else ModelCardData()
    if data.license:
        writer.add_license(data.license)
    if data.language:
        writer.add_languages([data.language] if isinstance(data.language, str) else data.language)
    if data.tags:
        writer.add_tags(data.tags)


def write_tensors(writer: Any, plan: Plan, architecture: Architecture, dtype: str, bar: tqdm) -> None:
    """Writes all tensors: first their names and sizes, then one after the other."""
    sizes = {}
    for name, values, stored in tensors(plan, architecture, dtype):
        numbers, kind = encode(Written(name, values[:1] if values.ndim > 1 else values, stored))
        rows = len(values) if values.ndim > 1 else 1
        shape = (rows, *numbers.shape[1:]) if values.ndim > 1 else numbers.shape
        writer.add_tensor_info(name, shape, numbers.dtype, numbers.nbytes * rows, kind)
        sizes[name] = shape
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for written in tensors(plan, architecture, dtype):
        writer.write_tensor_data(encode(written)[0])
        bar.update()
    writer.close()


def check_file(path: Path, plan: Plan, architecture: Architecture, dtype: str, bar: tqdm) -> float:
    """Reads every tensor back, and compares it with the checkpoint.

    Returns:
        The largest difference.

    Raises:
        ValueError: It is larger than the file's type explains.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    largest = 0.0
    for name, values, kind in tensors(plan, architecture, dtype):
        again = torch.from_numpy(dequantize(stored[name].data, stored[name].tensor_type).copy())
        difference = (again.reshape(values.shape) - values).abs().max().item()
        allowed = DTYPES[kind].error * values.abs().max().item()
        if not difference <= allowed:
            raise ValueError(
                f"The tensor '{name}' read back from {path.name} differs by {difference:.3g}, where dtype='{kind}' "
                f"allows {allowed:.3g}."
            )
        largest = max(largest, difference)
        bar.update()
    return largest
