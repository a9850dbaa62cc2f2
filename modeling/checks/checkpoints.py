"""Finds faults of weight files with which transformers would load other weights, and say nothing."""

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from safetensors import safe_open

from ..loading import INDEX


INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


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
