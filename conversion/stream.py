"""Reads and writes safetensors checkpoints a few tensors at a time, so that memory does not grow with their size."""

import glob
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import prod
from pathlib import Path
from uuid import uuid4

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open

from ..configuration.atomic_saving import locked
from .inside import check_links, follow, read_fields


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# The format's names of types: https://github.com/huggingface/safetensors#format
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class CheckpointReader:
    """The tensors of a folder, by name; nothing but names, shapes and types is read until it is asked for.

    Args:
        folder: Holds `model.safetensors`, or shards with an index.

    Raises:
        OSError: There are no such files, one is missing, or one is damaged; the message names it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.places: dict[str, tuple[Path, str]] = {}  # file, and name there, by name
        self.metas: dict[str, torch.Tensor] = {}  # tensors without content
        for file, expected in self.list_files().items():
            self.open_file(file, expected)

    def list_files(self) -> dict[str, set[str] | None]:
        """The files with weights, and which tensors the index promises in each."""
        config = self.folder / "config.json"
        weights = read_fields(config).get("transformers_weights") if config.is_file() else None
        if weights is not None:  # saving was killed, and these are the current ones
            path = follow(self.folder, weights, config.name)
            return self.read_index(path) if path.name.endswith(".index.json") else {weights: None}
        if (self.folder / INDEX).is_file():
            return self.read_index(check_links(self.folder, self.folder / INDEX))
        if (self.folder / WEIGHTS).is_file():
            return {WEIGHTS: None}
        if any((self.folder / name).exists() for name in PICKLES):
            raise OSError(
                f"{self.folder} has pickled weights only, which can run code when they are loaded. Save them as "
                "safetensors first: transformers' `save_pretrained` does."
            )
        raise OSError(f"{self.folder} has neither {WEIGHTS} nor {INDEX}.")

    def read_index(self, index: Path) -> dict[str, set[str] | None]:
        """The files that an index names, each with its tensors; an `OSError` if it is damaged or leads elsewhere."""
        weight_map = read_fields(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise OSError(f"{index} is damaged: it has no weight_map.")
        for file in weight_map.values():
            follow(self.folder, file, INDEX)
        return {file: {name for name in weight_map if weight_map[name] == file} for file in weight_map.values()}

    def open_file(self, file: str, expected: set[str] | None) -> None:
        """Reads the names, shapes and types of a file's tensors.

        Raises:
            OSError: The file or a promised tensor is missing, or the file is damaged.
            ValueError: A tensor has a type that cannot be converted.
        """
        path = follow(self.folder, file, INDEX)
        if not path.is_file():
            raise OSError(f"{self.folder / INDEX} names {file}, which is not there.")
        with open_shard(path) as shard:
            names = set(shard.keys())
            if expected is not None and expected - names:
                raise OSError(f"{path} lacks the tensor '{min(expected - names)}', which {INDEX} promises there.")
            for name in shard.keys() if expected is None else sorted(expected):
                part = shard.get_slice(name)
                if part.get_dtype() not in DTYPES:
                    raise ValueError(f"{path}: the tensor '{name}' has the type {part.get_dtype()}, not {[*DTYPES]}.")
                self.places[name] = (path, name)
                self.metas[name] = torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")

    def rename(self, new_name: Callable[[str], str | None]) -> None:
        """Renames every tensor, or forgets it where `new_name` returns None.

        Raises:
            ValueError: Two tensors would have the same name.
        """
        places, metas = self.places, self.metas
        self.places, self.metas = {}, {}
        for name, place in places.items():
            new = new_name(name)
            if new in self.places:
                raise ValueError(f"{place[0]}: '{place[1]}' and '{self.places[new][1]}' are the same tensor, '{new}'.")
            if new is not None:
                self.places[new], self.metas[new] = place, metas[name]

    def describe(self, name: str) -> str:
        """The name and file of a tensor, for messages."""
        path, stored = self.places[name]
        return f"'{stored}' in {path.name}"

    def read(self, *names: str) -> list[torch.Tensor]:
        """Reads some tensors. Files are closed again, so that the memory of their pages is freed."""
        with ExitStack() as stack:
            files: dict[Path, safe_open] = {}
            tensors = []
            for name in names:
                path, stored = self.places[name]
                if path not in files:
                    files[path] = stack.enter_context(open_shard(path))
                tensors.append(files[path].get_tensor(stored))
            return tensors


@contextmanager
def open_shard(path: Path) -> Iterator[safe_open]:
    """Opens a file of tensors; faults of it are an `OSError` that names it."""
    try:
        with safe_open(path, framework="pt") as shard:
            yield shard
    except SafetensorError as error:
        raise OSError(f"{path} is damaged or incomplete ({error}). Copy or download it again.") from error


class CheckpointWriter:
    """Files of tensors whose shapes are known beforehand: the headers are written first, then any tensor at its place.

    Args:
        folder: Is there, and empty of weights.
        metas: Tensors without content, by name.
        max_shard_size: Bytes in a file, or a text such as "5GB"; a larger tensor has a file of its own.
    """

    def __init__(self, folder: Path, metas: dict[str, torch.Tensor], max_shard_size: int | str = "5GB"):
        self.places: dict[str, tuple[Path, int]] = {}  # file and offset in bytes, by name
        self.metas = metas
        split = split_torch_state_dict_into_shards(
            metas, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
        )
        for file, names in split.filename_to_tensors.items():
            self.lay_out(folder / file, names)
        if split.is_sharded:
            metadata = {"total_parameters": sum(meta.numel() for meta in metas.values()), **split.metadata}
            index = {"metadata": metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def lay_out(self, path: Path, names: list[str]) -> None:
        """Writes the header of a file, and makes it as long as it will be."""
        header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        offsets, end = {}, 0
        for name in sorted(names, key=lambda name: (-self.metas[name].itemsize, name)):  # so that all are aligned
            meta = self.metas[name]
            offsets[name], end = end, end + prod(meta.shape) * meta.itemsize
            shape = list(meta.shape)
            header[name] = {"dtype": DTYPE_NAMES[meta.dtype], "shape": shape, "data_offsets": [offsets[name], end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            start = file.tell()
            file.truncate(start + end)
        self.places |= {name: (path, start + offset) for name, offset in offsets.items()}

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Writes a tensor at its place."""
        path, offset = self.places[name]
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))  # pyright: ignore[reportArgumentType] an array is a buffer


@contextmanager
def all_or_nothing(target: Path) -> Iterator[Path]:
    """Yields a folder that becomes `target` at the end; after an error or Ctrl-C nothing remains.

    Remains of a killed process for the same `target` are removed.

    Raises:
        FileExistsError: Something with that name is there already, other than an empty folder.
    """
    check_free(target)
    new_parents = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_killed(target)
    folder = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    made = folder / target.name  # not what is locked: saving into it takes a lock of its own
    made.mkdir(parents=True)
    try:
        with locked(folder) as lock:
            lock.take()
            yield made
            made.replace(target)
        folder.rmdir()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in new_parents:  # the innermost first, as far as nobody else has put something there
            with suppress(OSError):
                parent.rmdir()
        raise


def check_free(target: Path) -> None:
    """Raises a FileExistsError if something with that name is there already, other than an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"target='{target}' is there already. Name another folder, or remove it.")


def remove_killed(target: Path) -> None:
    """Removes the folders of earlier attempts whose processes were killed; those that live hold a lock."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}"):
        with locked(folder) as lock:
            is_dead = folder.is_dir() and lock.take()
        if is_dead:
            shutil.rmtree(folder, ignore_errors=True)
