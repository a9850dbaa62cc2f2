"""Exports models: as ONNX graphs or what `torch.export` makes, which transformers' own exporters trace, or as GGUF."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import __version__ as library_version

from ...configuration.kinds import ATTENTION_KINDS
from ...modeling.kernels.exporting.patches import ONNX_REPLACEMENTS
from ...modeling.modeling_trine_recurrent import RECURRENT_HEADS, TrineRecurrentModel
from ..companions import copy_companions, find_source
from ..equivalence import random_inputs
from ..gguf.export import export_gguf
from ..inside import read_fields
from ..plan import CLASSES
from ..stream import all_or_nothing
from .check import check_generation, check_program
from .noise import without_export_noise


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        name: What transformers calls it.
        packages: What it takes beside transformers.
        cached: Attention kinds whose caches are inputs and outputs of its graphs.
        replaced: Operators of Trine that it does not know: module, name, and what computes the same.
        extra: What installs the packages.
        checked: The number that `export` returns.
    """

    name: str
    packages: tuple[str, ...]
    cached: tuple[str, ...] = ()
    replaced: Sequence[tuple[str, str, Any]] = ()  # filled as operators are loaded
    extra: str = "export"
    checked: str = "Largest difference of outputs, in float32 on random tokens of other sizes"


FORMATS = {
    "onnx": Format(
        "onnx",
        ("onnx", "onnxruntime", "onnxscript"),
        tuple(kind for kind, row in ATTENTION_KINDS.items() if "onnx" in row.about.cached_exports),
        ONNX_REPLACEMENTS,
    ),
    "torch": Format("dynamo", ()),  # a file with a cache among its inputs is not loaded again
    "gguf": Format("gguf", ("gguf",), extra="gguf", checked="Largest difference of a weight, read back from the file"),
}
MODELS: dict[str, Any] = CLASSES | {
    model.__name__: model for model in (TrineRecurrentModel, *RECURRENT_HEADS.values())
}


def export(
    source: str | Path,
    target: str | Path,
    *,
    format: str = "onnx",
    cache: bool = False,
    dtype: str | None = None,
    show_progress: bool = False,
) -> float:
    """Writes a checkpoint of Trine as a program for all numbers and lengths of texts, or as GGUF, and checks it.

    The program is `model.onnx` or `model.pt2`, in float32. Config and tokenizer come along. `target` appears when the
    program's outputs, on random tokens of other numbers and lengths than it was traced with, are those of the model;
    after an error there is nothing. `model.gguf`, for llama.cpp, is made by `conversion.gguf.export.export_gguf`.

    Transformers' `ExportedModel.from_pretrained(target)` runs it, and ONNX Runtime runs `model.onnx` by itself. In
    `model.pt2` 2-simplicial, BigBird and LSH layers and LSTMs stay operators of Trine, which `import trine` registers;
    in `model.onnx` they are written out, with all scores in memory at once.

    Args:
        source: A folder with a checkpoint of Trine, or a name on the Hub.
        target: A folder that is not there yet.
        format: "onnx", "torch" or "gguf".
        cache: Whether a decoder becomes two ONNX graphs, `prefill` and `decode`, which pass a cache on.
        dtype: Of a GGUF file: "f32", "f16", "bf16" or "q8_0"; default: that of the weights.
        show_progress: Whether to show a bar.

    Returns:
        The largest difference between the outputs, or of GGUF, between the weights.

    Raises:
        ValueError: The model or a layer cannot be exported so, a package is missing, or outputs differ.
        OSError: Files are missing or damaged, or `target` is there already.

    Example:
        >>> export("minilm-trine", "minilm-onnx")  # doctest: +SKIP
        6.6e-07
    """
    check_format(format)
    if format != "gguf":
        return export_program(source, target, format, cache, dtype, show_progress)
    if cache:
        raise ValueError("cache=True is for format='onnx'; llama.cpp keeps a cache by itself.")
    return export_gguf(source, target, dtype=dtype, show_progress=show_progress)


def export_program(
    source: str | Path, target: str | Path, format: str, cache: bool, dtype: str | None, show_progress: bool
) -> float:
    """Writes and checks the programs of `export`, which says what its arguments are."""
    if dtype is not None:
        raise ValueError(f"dtype={dtype!r} is for format='gguf'; a program is in float32.")
    if find_spec("transformers.exporters") is None or find_spec("transformers.exporters.metadata") is None:
        raise ValueError(f"Exports need transformers 5.23, not {library_version}: pip install 'trine[export]'.")
    folder, target = find_source(source), Path(target)
    model_class = find_class(folder)
    config = model_class.config_class.from_pretrained(folder)
    if getattr(config, "prefix_lm", False):
        raise ValueError("prefix_lm=True reads a prompt both ways, which no exported program does: none is written.")
    if cache:
        check_cache(config, model_class, format)
    bar = tqdm(total=4, disable=not show_progress)
    with all_or_nothing(target) as made, bar, without_export_noise():
        bar.set_description("load")
        options = {"attn_implementation": "sdpa"} if model_class._supports_sdpa else {}
        options |= {"dtype": torch.float32, "experts_implementation": "eager"}
        model = model_class.from_pretrained(folder, **options).eval()
        bar.update()
        bar.set_description("trace")
        with plain_operators(model, format):
            exported = trace_generation(model, format) if cache else trace(model, format)
        bar.update()
        bar.set_description("write")
        if format == "onnx":
            strip_origins(exported)
        exported.config = None  # with a config transformers writes the model's code, too
        exported.save_pretrained(made)
        write_config(folder, made)
        copy_companions(folder, made, generates=model_class.can_generate())
        bar.update()
        bar.set_description("check")
        del exported
        difference = (check_generation if cache else check_program)(made, model)
        bar.update()
    return difference


def check_format(format: str) -> None:
    """Raises a `ValueError` for an unknown format, or one whose packages are not installed."""
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is not one of {[*FORMATS]}.")
    missing = [name for name in FORMATS[format].packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"format={format!r} needs {', '.join(missing)}: pip install 'trine[{FORMATS[format].extra}]'."
        )


def find_class(folder: Path, models: dict[str, Any] = MODELS) -> Any:
    """The class that a checkpoint names.

    Args:
        folder: Of the checkpoint.
        models: The classes that may be named.

    Raises:
        ValueError: It is none of these.
    """
    fields = read_fields(folder / "config.json")
    name = next(iter(fields.get("architectures") or []), None)
    if name not in models:
        advice = "" if str(fields.get("model_type")).startswith("trine") else " `trine convert` makes one of others."
        raise ValueError(f"architectures={fields.get('architectures')} of {folder} is not one of {[*models]}.{advice}")
    return models[name]


def strip_origins(exported: Any) -> None:
    """Removes from each node where in the code it comes from: most of a small file, and paths of this machine."""
    for component in exported.components.values():
        for graph in (component.program.graph, *component.program.functions.values()):
            for node in graph.all_nodes():
                node.metadata_props.clear()


def write_config(source: Path, target: Path) -> None:
    """Copies a config, without what it says about code beside it."""
    fields = read_fields(source / "config.json")
    fields.pop("auto_map", None)
    (target / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def check_cache(config: Any, model_class: Any, format: str) -> None:
    """Refuses `cache` where a graph cannot pass it on, before the long work.

    Raises:
        ValueError: The message names layer and kind, or the class.
    """
    if not model_class.can_generate() or config.is_encoder_decoder:
        raise ValueError(f"cache=True is for a TrineForCausalLM, not a {model_class.__name__}; export it without.")
    for index, kind in enumerate(config.attention_types):
        if kind not in FORMATS[format].cached:
            able = [name for name in FORMATS if kind in FORMATS[name].cached]
            other = f", or format={able[0]!r}" if able else ""
            raise ValueError(
                f"cache=True cannot be exported with attention_types[{index}]={kind!r} as format={format!r}, which "
                f"takes {[*FORMATS[format].cached]}. Choose cache=False{other}."
            )


@contextmanager
def plain_operators(model: Any, format: str) -> Iterator[None]:
    """Computes what a format does not know by what it knows, while a model is traced."""
    from transformers.exporters.utils import patch_attributes

    patches: list[Any] = [
        (sys.modules[module], name, lambda _, plain=plain: plain) for module, name, plain in FORMATS[format].replaced
    ]
    if hasattr(model.config, "simplicial_backend"):  # another way to compute the same
        patches.append((model.config, "simplicial_backend", lambda _: "auto"))
    with patch_attributes(patches):
        yield


def make_exporter(format: str, **options) -> tuple[Any, Any]:
    """Makes transformers' exporter of a format, and its config."""
    from transformers.exporters.auto import AutoExportConfig, AutoHfExporter

    config = AutoExportConfig.from_dict({"export_format": FORMATS[format].name, "dynamic": True, **options})
    return AutoHfExporter.from_config(config), config


def trace(model: Any, format: str) -> Any:
    """Traces the whole forward pass as one graph."""
    inputs = random_inputs(model.config, type(model).__name__)
    shapes = {name: dict.fromkeys(range(ids.ndim), torch.export.Dim.DYNAMIC) for name, ids in inputs.items()}
    exporter, config = make_exporter(format, dynamic_shapes=shapes)
    return exporter.export(model, {**inputs, "use_cache": False}, config)


def trace_generation(model: Any, format: str) -> Any:
    """Traces the first pass of `generate`, and the passes after it, as two graphs."""
    inputs = random_inputs(model.config, type(model).__name__)
    prompts = {name: ids.flip(1) for name, ids in inputs.items()}  # padded on the left
    exporter, config = make_exporter(format)
    return exporter.export_for_generation(model, prompts, config, multi_token_decode=True)
