"""What stands beside the weights: tokenizer, chat template, generation config, the parts of a sentence encoder."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, GenerationConfig


GENERATION = "generation_config.json"
COPIED = (
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model", "*.spm"),
    *("chat_template*", "additional_chat_templates", "preprocessor_config.json", GENERATION, "LICENSE*"),
    # sentence-transformers reads its own files beside the model's, and a folder for each further module.
    *("modules.json", "sentence_*_config.json", "config_sentence_transformers.json"),
)


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


def copy_companions(source: Path, target: Path, generates: bool) -> None:
    """Copies the files beside the weights, and writes those that the source's `model_type` stood for.

    Args:
        generates: Whether the model has `generate`, which has its settings from a file of its own.
    """
    for path in companions(source):
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, target / path.name)
    if generates and not (target / GENERATION).exists():  # older sources keep the settings in config.json
        GenerationConfig.from_pretrained(source, config_file_name="config.json").save_pretrained(target)
    tokenizer = target / "tokenizer_config.json"
    names_class = tokenizer.is_file() and "tokenizer_class" in json.loads(tokenizer.read_text(encoding="utf-8"))
    if not names_class and any(path.name.startswith(("tokenizer", "vocab")) for path in target.iterdir()):
        AutoTokenizer.from_pretrained(source).save_pretrained(target)


def companions(source: Path) -> Iterator[Path]:
    """Files and folders to copy."""
    for pattern in COPIED:
        yield from sorted(source.glob(pattern))
    modules = source / "modules.json"
    if modules.is_file():
        for module in json.loads(modules.read_text(encoding="utf-8")):
            if module["path"] and (source / module["path"]).is_dir():
                yield source / module["path"]
