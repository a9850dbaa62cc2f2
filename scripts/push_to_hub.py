"""Upload a checkpoint folder to the Hugging Face Hub; without --yes, show only what would go."""

import glob
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] of whichever client it has
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from trine.configuration.atomic_saving import pointed
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.jobs.model_folder import PICKLES, ModelFolder, named_code


# What training leaves beside a model, and what is hidden. Patterns match a path or a part of it. What is neither this
# nor of a model (`model_folder.py`) stays as well.
LEFT_OUT = (
    *("checkpoint-*", "global_step*", "optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*", "trainer_state.json"),
    *("training_args.bin", "events.out.tfevents*", "runs", "logs", "*.log", "wandb", "trackio", "emissions.csv"),
    *(".*", "__pycache__", "*.pyc", "*.tmp", "*.lock"),
)
# What the Hub's first .gitattributes of a model sends to large file storage, apart from files above LFS_SIZE.
LFS = (
    *("*.safetensors", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.model", "*.npy", "*.npz", "*.parquet", "*.arrow"),
    *("*.zip", "*.gz", "*.xz", "*.zst", "*.tar", "*.tgz", "*.7z", "*.pb", "*.tflite", "*.wasm", "*.ot", *PICKLES),
)
LFS_SIZE = 10_000_000
# https://huggingface.co/docs/hub/storage-limits
LARGEST_FILE = 50_000_000_000
MOST_FILES = 100_000
MOST_ENTRIES = 10_000


@dataclass
class PushArguments:
    """Options of `trine push-to-hub`."""

    folder: str = field(metadata={"help": "Folder with a model or adapters, its tokenizer, code and card."})
    repository: str = field(metadata={"help": "Name on the Hub: USER/NAME or ORGANISATION/NAME."})
    yes: bool = field(default=False, metadata={"help": "Upload. Without it nothing is sent, and nothing is asked."})
    public: bool = field(default=False, metadata={"help": "Let everybody see a repository that is made now."})
    leave_out: list[str] = field(
        default_factory=list, metadata={"help": "Patterns to leave out, besides what is of no model or of training."}
    )
    include: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Patterns of what goes although it would be left out. Pickles go if named in full, keys never."
        },
    )
    message: str = field(default="Upload a Trine checkpoint", metadata={"help": "Message of the commit."})


@dataclass
class Plan:
    """The plan of an upload: sizes in bytes by path, files that stay with the reason, errors, and warnings."""

    files: dict[str, int]
    left_out: Counter[tuple[str, str]]  # by file or folder, and reason
    refused: list[str]
    warnings: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine push-to-hub` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([PushArguments], argv, command="push-to-hub", description=__doc__)
    try:
        validate_repo_id(arguments.repository)
        plan = make_plan(Path(arguments.folder), arguments.leave_out, arguments.include)
    except INPUT_ERRORS as error:
        sys.exit(f"trine: {error}")
    print(describe(arguments, plan))
    if not arguments.yes:
        print("\nNothing was sent. Add --yes to upload.")
        return 1 if plan.refused else 0
    if plan.refused:
        sys.exit("trine: refused, as said above; nothing was sent.")
    if get_token() is None:
        sys.exit("trine: there is no login: run `hf auth login`, or set HF_TOKEN. Nothing was sent.")
    try:
        url = upload(arguments, plan)
    except HfHubHTTPError as error:
        sys.exit(f"trine: the Hub at {constants.ENDPOINT} refuses: {error}")
    except (HTTPError, OSError) as error:
        sys.exit(f"trine: the Hub at {constants.ENDPOINT} cannot be reached: {error}")
    except ValueError as error:
        sys.exit(f"trine: {error}")
    print(f"\nUploaded: {url}")
    return 0


def make_plan(folder: Path, leave_out: Iterable[str] = (), include: Iterable[str] = ()) -> Plan:
    """Plans the upload of a folder. Reads files, sends nothing.

    Raises:
        NotADirectoryError: There is no such folder.
        ValueError: Nothing is left to upload.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"folder='{folder}' is no folder.")
    holds, unwanted, chosen, left_out = ModelFolder(folder), [*LEFT_OUT, *leave_out], [], Counter()
    for path in holds.paths:
        if matches(path, include):
            chosen.append(path)
        elif matches(path, unwanted):
            left_out[outermost(path, unwanted), ""] += 1
        elif reason := holds.why_not_of_a_model(path):
            left_out[path, reason] += 1
        else:
            chosen.append(path)
    if not chosen:
        raise ValueError(f"folder='{folder}' holds nothing to upload.")
    files = {path: (folder / path).stat().st_size for path in chosen}
    refused = [f"{path} {why}." for path in chosen if (why := holds.why_refused(path, is_named=path in include))]
    refused += [
        f"{path} has {show_size(size)}; the Hub takes at most {show_size(LARGEST_FILE)} a file."
        for path, size in files.items()
        if size > LARGEST_FILE
    ]
    if killed := pointed(folder):
        refused.append(f"config.json names weights in {killed}: saving was killed. Load the model and save it again.")
    return Plan(files, left_out, refused, [*find_faults(folder, files)])


def outermost(path: str, patterns: Sequence[str]) -> str:
    """The folder, or else the file, on the way to `path` that one of the patterns matches."""
    way = [*reversed(PurePosixPath(path).parents), PurePosixPath(path)][1:]
    return next(str(part) for part in way if matches(str(part), patterns))


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path or one of its parts matches one of the patterns."""
    return any(fnmatch(part, pattern) for pattern in patterns for part in (path, *PurePosixPath(path).parts))


def find_faults(folder: Path, files: dict[str, int]) -> Iterator[str]:
    """Yields a sentence for each missing or unusual file."""
    if "README.md" not in files:
        yield "There is no model card (README.md)."
    if not {"config.json", "adapter_config.json"} & files.keys():
        yield "There is neither a config.json nor an adapter_config.json: nothing could load this as a model."
    for name in ("config.json", "tokenizer_config.json"):
        missing = sorted(named_code(folder / name) - files.keys()) if name in files else []
        if missing:
            yield f"auto_map in {name} names code that does not go: {', '.join(missing)}."
    for name in (name for name in files if name.endswith(".safetensors.index.json")):
        if missing := sorted(named_shards(folder / name) - files.keys()):
            yield f"{name} names weights that do not go: {', '.join(missing)}."
    if empty := [name for name, size in files.items() if size == 0 and name.endswith((".safetensors", ".json"))]:
        yield f"Empty files: {', '.join(empty)}."
    if len(files) > MOST_FILES:
        yield f"{len(files):,} files; the Hub recommends fewer than {MOST_FILES:,}."
    parents = Counter(str(PurePosixPath(name).parent) for name in files)
    for parent, count in parents.items():
        if count > MOST_ENTRIES:
            yield f"{count:,} files in the folder '{parent}'; the Hub allows {MOST_ENTRIES:,}."


def named_shards(index: Path) -> set[str]:
    """The files that an index names, beside it; none if it is damaged, which is refused elsewhere."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(file) for file in weight_map.values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def is_large(path: str, size: int) -> bool:
    """Whether the Hub keeps a file in large file storage, by its rule for new repositories."""
    return size > LFS_SIZE or matches(path, LFS)


def describe(arguments: PushArguments, plan: Plan) -> str:
    """The plan as text: repository, files with sizes, what stays, and what is wrong."""
    visibility = "public" if arguments.public else "private"
    width = max(map(len, plan.files))
    lines = [f"{arguments.folder} -> {constants.ENDPOINT}/{arguments.repository} ({visibility})", ""]
    lines += [
        f"  {path:{width}}  {show_size(size):>9}  {'LFS' if is_large(path, size) else ''}".rstrip()
        for path, size in plan.files.items()
    ]
    lines.append(f"\n{len(plan.files)} files, {show_size(sum(plan.files.values()))} in all")
    if plan.left_out:
        lines.append("\nLeft out (--include names what should go nevertheless):")
        lines += [
            f"  {path}{f', {count} files' if count > 1 else ''}{f': {reason}' if reason else ''}"
            for (path, reason), count in plan.left_out.items()
        ]
    lines += [f"\nWarning: {warning}" for warning in plan.warnings]
    lines += [f"\nRefused: {reason}" for reason in plan.refused]
    return "\n".join(lines)


def show_size(size: int) -> str:
    """Bytes in the decimal units of the Hub."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"


def upload(arguments: PushArguments, plan: Plan) -> str:
    """Makes the repository where there is none, and sends exactly the files of the plan; returns the address.

    Raises:
        ValueError: The repository is there and public, and `public` does not say so.
    """
    api = HfApi()
    try:
        private = api.repo_info(arguments.repository).private
        if not private and not arguments.public:
            raise ValueError(f"repository='{arguments.repository}' is public: add --public. Nothing was sent.")
        if private and arguments.public:
            print("The repository is private and stays so; its settings on the Hub change that.")
    except RepositoryNotFoundError:
        api.create_repo(arguments.repository, private=not arguments.public)
    api.upload_folder(
        repo_id=arguments.repository,
        folder_path=arguments.folder,
        allow_patterns=[glob.escape(path) for path in plan.files],
        commit_message=arguments.message,
    )
    return f"{api.endpoint}/{arguments.repository}"


if __name__ == "__main__":
    sys.exit(main())
