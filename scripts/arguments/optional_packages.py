"""The optional packages that commands import, and the extras that install them."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any


# The extra that brings a module. tests/scripts/test_optional_packages.py compares this with pyproject.toml.
EXTRAS = {
    "PIL": "images",
    "bm25s": "retrieval",
    "codecarbon": "energy",
    "datasets": "scripts",
    "faiss": "retrieval",
    "fastapi": "serving",
    "gensim": "words",
    "gguf": "gguf",
    "ir_measures": "retrieval",
    "jieba": "chinese",
    "matplotlib": "scripts",
    "onnx": "export",
    "onnxruntime": "export",
    "openai": "serving",
    "prometheus_client": "serving",
    "pyarrow": "scripts",
    "reasoning_gym": "study",
    "sacrebleu": "study",
    "seqeval": "study",
    "shtab": "scripts",
    "torchao": "quantization",
    "uvicorn": "serving",
    "xgrammar": "constrained",
}

# What a command imports in any case.
NEEDS: dict[str, tuple[str, ...]] = {
    "answer": ("bm25s",),
    "benchmark attention": ("matplotlib",),
    "benchmark data": ("datasets",),
    "benchmark images": ("PIL",),
    "benchmark energy": ("codecarbon",),
    "completion": ("shtab",),
    "demo": ("matplotlib",),
    "distill": ("matplotlib",),
    "evaluate-retrieval": ("bm25s", "ir_measures"),
    "finetune-classifier": ("matplotlib",),
    "finetune-lora": ("matplotlib",),
    "finetune-tagger": ("matplotlib",),
    "index": ("bm25s",),
    "inspect": ("matplotlib",),
    "pretrain": ("matplotlib",),
    "serve": ("fastapi", "openai", "prometheus_client", "uvicorn"),
    "study parts": ("matplotlib",),
    "study recall": ("matplotlib",),
    "train-images": ("PIL", "matplotlib"),
    "train-embeddings": ("datasets", "matplotlib"),
    "train-reranker": ("datasets", "matplotlib"),
    "train-summarizer": ("matplotlib",),
    "train-translation": ("matplotlib",),
    "words": ("gensim",),
}


def _files(values: Mapping[str, Any]) -> list[str]:
    named = [name for option in ("files", "validation_files") for name in values.get(option) or ()]
    return named + [values["sample_file"]] if values.get("sample_file") else named


def _has_parquet(name: str) -> bool:
    path = Path(name)
    return path.suffix == ".parquet" or (path.is_dir() and next(path.rglob("*.parquet"), None) is not None)


def _is_data_set(name: str) -> bool:
    """Whether a name is a data set of the Hub, or a folder of `Dataset.save_to_disk`."""
    return name.startswith("hf:") or (Path(name) / "state.json").is_file()


# What a command imports if its arguments, by their names, ask for it.
IF_ASKED: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "PIL": lambda values: {"fashion-mnist", "digits"} & {*(values.get("sets") or ())},
    "bm25s": lambda values: values.get("bm25") or (values.get("hard_negatives") and not values.get("miner")),
    "codecarbon": lambda values: values.get("energy_country"),
    "datasets": lambda values: any(map(_is_data_set, _files(values))),
    "gguf": lambda values: values.get("format") == "gguf",
    **dict.fromkeys(("onnx", "onnxruntime"), lambda values: values.get("scheme") == "onnx-int8"),
    "jieba": lambda values: "jieba" in (values.get("whole_words"), values.get("chinese")),
    "matplotlib": lambda values: values.get("map_dir"),
    "pyarrow": lambda values: any(map(_has_parquet, _files(values))),
    "reasoning_gym": lambda values: "word-problems" in (values.get("experiments") or ()),
    "sacrebleu": lambda values: "translation" in (values.get("experiments") or ()),
    "seqeval": lambda values: "tagging" in (values.get("experiments") or ()),
    "torchao": lambda values: values.get("scheme") in ("int8", "int8-weights", "int4", "int2"),
    "xgrammar": lambda values: any(values.get(name) for name in ("json_schema", "grammar", "regex")),
}


def require(command: str, modules: Iterable[str]) -> None:
    """Ends the process with status 2 and one line if any of the modules cannot be imported."""
    missing = [module for module in modules if not _can_import(module)]
    if missing:
        extras = ",".join(dict.fromkeys(EXTRAS[module] for module in missing))
        print(f"trine {command} needs {', '.join(missing)}: pip install 'trine[{extras}]'", file=sys.stderr)
        sys.exit(2)


def require_for(command: str, values: Mapping[str, Any]) -> None:
    """Calls `require` for the packages that these arguments, by their names, need."""
    require(command, [module for module, is_asked in IF_ASKED.items() if is_asked(values)])


def _can_import(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None  # None stands for a module that is hidden
    return find_spec(module) is not None
