"""Finds faults of a checkpoint for which transformers would only warn, and fill weights with random values."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from safetensors import safe_open


INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WITHOUT_DECODER = "TrineSeq2SeqForTokenClassification"


def check_json(folder: Path) -> None:
    """Reads the configs and the index of a local checkpoint, since transformers does not name the damaged file.

    Without a readable generation config transformers would generate with other settings, and not say so.

    Raises:
        OSError: One of them is no JSON object. The message names it.
    """
    for path in [folder / "config.json", folder / "generation_config.json", *sorted(folder.glob("*.index.json"))]:
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (ValueError, RecursionError) as error:
            raise OSError(f"'{path}' is damaged or incomplete ({error}). Copy or download it again.") from error
        if not isinstance(content, dict):
            raise OSError(f"'{path}' holds a {type(content).__name__}, but must hold a JSON object.")


def check_shards(model: Any, files: Sequence[str] | None, load_config: Any) -> None:
    """Compares what an index promises with what its files hold, and the kinds of numbers with those of the model.

    Raises:
        OSError: A file is missing, lies outside of the checkpoint, lacks a tensor, has one that the index places in
            another file, as after a mixture of two checkpoints, or integers in place of floating-point numbers. The
            message names file and tensor.
    """
    if load_config.hf_quantizer is not None:
        return
    floating = {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    places = (load_config.sharded_metadata or {}).get("weight_map")
    for place in {} if places is None else places.values():
        if not is_inside(place):
            raise OSError(f"{INDEX} names the file '{place}', which lies outside of the checkpoint.")
    for file in files or []:
        if not file.endswith(".safetensors"):
            continue
        if not Path(file).is_file():
            raise OSError(f"{file} is missing, which {INDEX} names.")
        with safe_open(file, framework="pt") as shard:
            for name in shard.keys() if places is None else check_names(file, set(shard.keys()), places):
                kind = shard.get_slice(name).get_dtype()
                if kind in INTEGERS and not floating.isdisjoint(spellings(name, model.base_model_prefix)):
                    raise OSError(f"{file} is damaged: the tensor '{name}' has the type {kind}, which are integers.")


def check_names(file: str, names: Collection[str], places: dict[str, str]) -> Collection[str]:
    """The names of the tensors in one file of several, if the index agrees."""
    own = Path(file).name
    for name, place in places.items():
        if (Path(place).name == own) != (name in names):
            found = "lacks" if Path(place).name == own else "has"
            raise OSError(f"{file} {found} the tensor '{name}', which {INDEX} places in {place}.")
    return names


def is_inside(name: Any) -> bool:
    """Whether a path from a file stays below the folder of that file, judged by its text."""
    if not isinstance(name, str) or not name:
        return False
    return not any(path.is_absolute() or path.drive or ".." in path.parts for path in each_system(name))


def each_system(name: str) -> tuple[PurePosixPath, PureWindowsPath]:
    """The path as POSIX and as Windows read it."""
    return PurePosixPath(name), PureWindowsPath(name)


def spellings(name: str, prefix: str) -> tuple[str, ...]:
    """A tensor's name in the trunk alone, and in a model with a head."""
    return name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")


def describe_loss(model: Any, load_config: Any, missing: Collection[str]) -> str | None:
    """A message about the tensors that a Trine checkpoint should have but lacks, or None.

    A new head is no loss, and neither is a pooler or a decoder, which only some classes have.
    `ignore_mismatched_sizes=True` lets everything pass.
    """
    quantizer, source = load_config.hf_quantizer, load_config.pretrained_model_name_or_path
    if load_config.ignore_mismatched_sizes or source is None or getattr(quantizer, "pre_quantized", False):
        return None
    lost = sorted(lost_tensors(model, missing))
    if not lost:
        return None
    places = (load_config.sharded_metadata or {}).get("weight_map")
    file = WEIGHTS if places is None else places.get(lost[0], INDEX)
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    written = model.config.architectures[0]
    return (
        f"{source}: {file} lacks the tensor '{lost[0]}'{more}, which the {written} that was saved there has. Copy "
        "or download the checkpoint again. If the config was changed on purpose, so that parts are new, "
        "ignore_mismatched_sizes=True starts them with random values."
    )


def lost_tensors(model: Any, missing: Collection[str]) -> Collection[str]:
    """The missing tensors that the Trine class which wrote the checkpoint has."""
    written = next(iter(model.config.architectures or []), "")
    if not written.startswith("Trine"):
        return []
    if written == type(model).__name__:
        return missing
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    absent = {"pooler", "decoder"} if written == WITHOUT_DECODER else {"pooler"}
    return [name for name in missing if name.startswith(prefix) and absent.isdisjoint(name.split("."))]
