"""Checks the files of a model folder, by name and, where it matters, by content."""

import json
import re
import zlib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from trine.conversion.inside import check_links


# How what is often meant to stay secret begins; the rest of it is as long as those who issue it make it.
SECRETS = {
    "a token of the Hub": rb"\bhf_[A-Za-z0-9]{30,}",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a key of AWS": rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a token of GitHub": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60})",
    "a key of OpenAI or Anthropic": rb"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{40,}",
    "a key of Google": rb"\bAIza[A-Za-z0-9_-]{35}\b",
    "a token of Slack": rb"\bxox[abprs]-[A-Za-z0-9-]{20,}",
}
# Names of what holds keys; whatever it holds, no repository of a model should have it.
KEYS = (
    *(
        "id_rsa*",
        "id_dsa*",
        "id_ecdsa*",
        "id_ed25519*",
        "*.pem",
        "*.key",
        "*.p12",
        "*.pfx",
        "*.ppk",
        "*.kdbx",
        "*.jks",
    ),
    *(
        "*credential*",
        "*secret*",
        "*password*",
        "*token.txt",
        "token",
        ".env*",
        "*.env",
        ".netrc",
        ".npmrc",
        ".pypirc",
    ),
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.th", "*.pkl", "*.pickle", "*.dill", "*.ckpt", "*.joblib", "*.pt2")
IMAGES = {
    "*.png": (b"\x89PNG",),
    "*.jpg": (b"\xff\xd8\xff",),
    "*.jpeg": (b"\xff\xd8\xff",),
    "*.gif": (b"GIF8",),
    "*.webp": (b"RIFF",),
    "*.svg": (b"<",),
}


def is_text(path: Path) -> str | None:
    """A reason if a file is no text, else None."""
    try:
        path.read_bytes().decode()
    except ValueError:
        return "is no text"
    return None


def is_json(path: Path) -> str | None:
    """A reason if a file is no JSON, else None."""
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return "is no JSON"
    return None


def is_safetensors(path: Path) -> str | None:
    """A reason if a file is no safetensors, else None."""
    try:
        with safe_open(path, framework="pt"):
            return None
    except SafetensorError:
        return "is no file of safetensors"


def begins_with(*beginnings: bytes) -> Callable[[Path], str | None]:
    """A check that gives a reason if a file begins with none of these bytes."""

    def check(path: Path) -> str | None:
        with path.open("rb") as file:
            return None if file.read(8).startswith(beginnings) else "is not what its name says"

    return check


# Names, with the test of their content: None, or what is wrong.
ALLOWED: dict[str, Callable[[Path], str | None]] = {
    "*.safetensors": is_safetensors,
    "*.safetensors.index.json": is_json,
    **dict.fromkeys(("config.json", "generation_config.json", "adapter_config.json", "quantize_config.json"), is_json),
    **dict.fromkeys(("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"), is_json),
    **dict.fromkeys(("added_tokens.json", "preprocessor_config.json", "processor_config.json"), is_json),
    **dict.fromkeys(("chat_template.json", "modules.json", "sentence_*_config.json"), is_json),
    **dict.fromkeys(("config_sentence_transformers.json", "metrics.json", "*_results.json"), is_json),
    **dict.fromkeys(("README.md", "LICENSE*", "NOTICE*", "CITATION.cff", "vocab.txt", "merges.txt"), is_text),
    "*.jinja": is_text,
    **dict.fromkeys(("tokenizer*.model", "spiece.model", "sentencepiece*.model", "*.spm"), begins_with(b"\n")),
    "*.onnx": begins_with(b"\x08", b"\x0a", b"\x12"),
    "*.gguf": begins_with(b"GGUF"),
}


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle by its name or its content, compressed ones too."""
    if matches_any(path.name.lower(), PICKLES):
        return True
    with path.open("rb") as file:
        content = file.read(4096)
    if content.startswith(b"\x1f\x8b"):
        try:
            content = zlib.decompressobj(31).decompress(content)
        except zlib.error:
            return True
    is_archive = content.startswith(b"PK\x03\x04") and b".pkl" in content
    return is_archive or re.match(rb"\x80[\x02-\x05]", content) is not None


def find_secret(path: Path) -> str | None:
    """Names a secret that a file seems to hold, or None; of weights, only the beginning is read."""
    with path.open("rb") as file:
        content = file.read(1_000_000 if path.name.endswith((".safetensors", ".gguf", ".onnx")) else -1)
    return next((what for what, pattern in SECRETS.items() if re.search(pattern, content)), None)


def matches_any(name: str, patterns) -> bool:
    """Whether a name matches one of the patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


class ModelFolder:
    """The files of a folder, and the reasons for and against each."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.paths = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        self.code = find_code_files(folder)
        card = folder / "README.md"
        self.card = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""

    def why_not_of_a_model(self, path: str) -> str | None:
        """The reason why a file is left out; None if a model may have it."""
        name = PurePosixPath(path).name
        if matches_any(name.lower(), KEYS):
            return "by its name it holds keys"
        if matches_any(name.lower(), PICKLES):
            return None  # perhaps the only weights that there are: it is refused instead
        if name.endswith(".py"):
            return None if path in self.code else "code that no auto_map names"
        if matches_any(name.lower(), IMAGES):
            return None if path in self.card else "an image that README.md does not show"
        if name.endswith((".onnx.data", ".onnx_data")):
            return None if path.rpartition(".onnx")[0] + ".onnx" in self.paths else "of no graph"
        return None if matches_any(name, ALLOWED) else "no file of a model"

    def why_refused(self, path: str, is_named: bool) -> str | None:
        """The reason why a chosen file must not be uploaded; `is_named` is whether its whole name was given."""
        full, name = self.folder / path, PurePosixPath(path).name
        try:
            check_links(self.folder, full)
        except OSError:
            return "is a link that leads out of the folder"
        if matches_any(name.lower(), KEYS):
            return "holds keys, by its name"
        tests = [check for pattern, check in ALLOWED.items() if fnmatch(name, pattern)]
        tests += [begins_with(*starts) for pattern, starts in IMAGES.items() if fnmatch(name.lower(), pattern)]
        size = full.stat().st_size
        if wrong := next((wrong for check in tests if size and (wrong := check(full))), None):
            return wrong
        if not is_named and is_pickle(full):
            return (
                "is a pickle, which can run code when it is loaded: save safetensors, leave it out with --leave_out, "
                "or name it with --include"
            )
        secret = find_secret(full)
        return secret and f"holds {secret}: remove it, and withdraw it where it was issued"


def find_code_files(folder: Path) -> set[str]:
    """The modules that `auto_map` names, and those that they import from beside them."""
    names = [name for config in ("config.json", "tokenizer_config.json") for name in named_code(folder / config)]
    found: set[str] = set()
    while names:
        name = names.pop()
        if name in found or not (folder / name).is_file():
            continue
        found.add(name)
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        names += [f"{module}.py" for module in re.findall(r"^\s*from\s+\.(\w+)\s+import", text, re.MULTILINE)]
    return found


def named_code(config: Path) -> set[str]:
    """The files that `auto_map` names; what begins with another repository's name and `--` lies there."""
    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    auto_map = fields.get("auto_map") if isinstance(fields, dict) else None
    entries = auto_map.values() if isinstance(auto_map, dict) else []
    values = [value for entry in entries for value in (entry if isinstance(entry, list) else [entry])]
    return {f"{value.split('.')[0]}.py" for value in values if isinstance(value, str) and value and "--" not in value}
