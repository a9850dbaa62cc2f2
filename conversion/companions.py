"""The files beside the weights: tokenizer, chat template, generation config, the parts of a sentence encoder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, GenerationConfig

from ..tokenization.loading import TARGET_TOKENIZER
from .inside import check_links, follow, read_fields, read_json


GENERATION, TOKENIZER, MODULES = "generation_config.json", "tokenizer_config.json", "modules.json"
TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.spm",
)
COPIED = (
    *TOKENIZER_FILES,
    TARGET_TOKENIZER,
    *(
        "chat_template*",
        "additional_chat_templates",
        "preprocessor_config.json",
        "processor_config.json",
        GENERATION,
        "LICENSE*",
    ),
)
# sentence-transformers reads its own files beside the model's, and a folder for each further module.
SENTENCE_ENCODER = (MODULES, "sentence_*_config.json", "config_sentence_transformers.json")


def find_source(source: str | Path) -> Path:
    """The folder of a checkpoint; one of the Hub is downloaded, without pickles and code.

    Raises:
        OSError: There is no such folder or repository.
    """
    folder = Path(source)
    if not folder.is_dir():
        allowed = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja", "LICENSE*"]
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=allowed, ignore_patterns=["onnx/*"]))
        except (OSError, ValueError) as error:
            raise OSError(f"source='{source}' is no folder, and cannot be had from the Hub: {error}") from error
    if not (folder / "config.json").is_file():
        raise OSError(f"source='{source}' has no config.json.")
    return folder


def copy_companions(source: Path, target: Path, generates: bool, embeds: bool = True) -> None:
    """Copies the files beside the weights, and writes those that the source's `model_type` implies.

    Args:
        generates: Whether the model has `generate`, whose settings are in a file of their own.
        embeds: Whether the target is a sentence encoder if the source is one.
    """
    for path in companions(source, embeds):
        copy = target / path.relative_to(source)
        if path.is_dir():
            shutil.copytree(path, copy, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, copy)
    if generates and not (target / GENERATION).exists():  # older sources keep the settings in config.json
        GenerationConfig.from_pretrained(source, config_file_name="config.json").save_pretrained(target)
    names_class = (target / TOKENIZER).is_file() and "tokenizer_class" in read_fields(target / TOKENIZER)
    if not names_class and has_tokenizer(target):
        check_named_files(source)
        AutoTokenizer.from_pretrained(source).save_pretrained(target)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any(path.name.startswith(("tokenizer", "vocab")) for path in folder.iterdir())


def companions(source: Path, embeds: bool = True) -> Iterator[Path]:
    """Files and folders to copy, those of a sentence encoder only if `embeds`.

    Raises:
        OSError: `modules.json` is damaged or names a folder elsewhere, or something is a link that leads elsewhere.
    """
    for pattern in COPIED + (SENTENCE_ENCODER if embeds else ()):
        for path in sorted(source.glob(pattern)):
            yield check_links(source, path)
    modules = read_json(source / MODULES) if embeds and (source / MODULES).is_file() else []
    if not isinstance(modules, list):
        raise OSError(f"{source / MODULES} is damaged: it holds {type(modules).__name__}, not a list of modules.")
    for module in modules:
        if not isinstance(module, dict) or not isinstance(module.get("path"), str):
            raise OSError(f"{source / MODULES} is damaged: {module!r} is no module with a path.")
        if module["path"] in ("", "."):  # the model itself
            continue
        path = follow(source, module["path"], MODULES)
        if path.is_dir() and path.resolve() != source.resolve():
            yield path


def check_named_files(source: Path) -> None:
    """Refuses files elsewhere that `tokenizer_config.json` names, which a tokenizer would read and save with it."""
    fields = read_fields(source / TOKENIZER) if (source / TOKENIZER).is_file() else {}
    for field, name in fields.items():
        if field.endswith("_file") and isinstance(name, str) and (source / name).is_file():
            follow(source, name, TOKENIZER)
