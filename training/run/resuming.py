"""Finds complete checkpoints to resume from, and keeps them when the disk is full."""

import json
import os
import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


STATE = "trainer_state.json"
# Of models and adapters, of FSDP, and of DeepSpeed.
WEIGHTS = ("*.safetensors", "pytorch_model*", "adapter_model.bin", "**/*.distcp", "global_step*")


def check_writable(folder: Path) -> None:
    """Raises an OSError that names the folder if no file can be written there, or it cannot be made.

    It is not made yet: a run that something else stops before its first step leaves nothing behind.
    """
    try:
        nearest = next(place for place in (folder, *folder.parents) if is_there(place))
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        reason = "it is a file, not a folder" if os.path.isfile(folder) else error.strerror
        raise OSError(f"output_dir='{folder}' cannot be written: {reason}.") from error


def is_there(path: Path) -> bool:
    """Whether a file, a folder or a link has this name; an OSError for a name that is not possible."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def list_checkpoints(folder: Path) -> list[Path]:
    """Lists the checkpoints in a folder, by their steps."""
    names = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted((path for path in names if path.is_dir()), key=lambda path: int(path.name.rpartition("-")[2]))


def is_finished(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the trainer writes its state last."""
    try:
        return isinstance(json.loads((checkpoint / STATE).read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def damage(checkpoint: Path) -> str | None:
    """The reason why training cannot resume from this checkpoint, a missing or cut-off file; None if it is whole."""
    if not (checkpoint / STATE).exists():
        return f"'{STATE}' is missing, so that saving was not finished"
    if not any(path for pattern in WEIGHTS for path in checkpoint.glob(pattern)):
        return "its weights are missing, as where deleting it was not finished"
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".safetensors":
                safe_open(file, framework="pt").__enter__()  # compares the lengths in the header with that of the file
            elif file.suffix in (".pt", ".pth", ".bin"):
                zipfile.ZipFile(file).close()  # its directory stands at the end
        except (ValueError, OSError, SafetensorError, zipfile.BadZipFile) as error:
            return f"'{file.relative_to(checkpoint)}' is damaged: {error}"
    return None


def what_is_missing(checkpoint: Path) -> str | None:
    """The reason why training cannot resume exactly from this checkpoint; None if it can."""
    if reason := damage(checkpoint):
        return reason
    if not any(checkpoint.glob("rng_state*.pth")):
        return "it holds the weights alone, as --save_only_model leaves them"
    return None


def find_checkpoint(training: TrainingArguments) -> str | None:
    """Finds the checkpoint to resume from; None for a new run, which must not mix with an older one in its folder.

    `resume_from_checkpoint="last"` is the last whole one; damaged ones are named in a warning. Where nothing was saved
    yet, or saving the first checkpoint was not finished, the run begins anew, with or without "last": so the same
    command can be given again, whenever the run was killed.

    Raises:
        ValueError: The folder holds a run that should not be resumed, or no whole checkpoint to resume from.
        FileNotFoundError: The checkpoint does not exist.
    """
    wanted, found = training.resume_from_checkpoint, list_checkpoints(Path(str(training.output_dir)))
    begun = any(map(is_finished, found))
    if wanted is None and begun:
        raise ValueError(
            f"output_dir='{training.output_dir}' holds checkpoints of an earlier run: go on with "
            "--resume_from_checkpoint last, or choose another folder."
        )
    if wanted is not None and wanted.lower() not in ("last", "true"):
        return check_named(wanted, found)
    for checkpoint in reversed(found):
        if (reason := what_is_missing(checkpoint)) is None:
            return str(checkpoint)
        warnings.warn(f"The checkpoint '{checkpoint}' is left out: {reason}.", stacklevel=2)
    if begun:
        raise ValueError(f"output_dir='{training.output_dir}' holds no whole checkpoint to go on from.")
    if wanted is not None:
        print(f"output_dir='{training.output_dir}' holds no checkpoint yet: training starts from the beginning.")
    return None


def check_named(wanted: str, others: list[Path]) -> str:
    """The checkpoint that was asked for by name, if training can resume from it."""
    if not Path(wanted).is_dir():
        raise FileNotFoundError(f"resume_from_checkpoint='{wanted}' is neither a folder nor 'last'.")
    if reason := what_is_missing(Path(wanted)):
        whole = [str(path) for path in others if path != Path(wanted) and what_is_missing(path) is None]
        raise ValueError(f"resume_from_checkpoint='{wanted}' cannot be used: {reason}. Whole checkpoints: {whole}.")
    return wanted


def train(trainer: Trainer, checkpoint: str | None) -> None:
    """Trains, from the checkpoint on if there is one.

    Raises:
        OSError: A checkpoint could not be written (a full disk, say). Its remains are removed, and the message names
            the last whole one.
    """
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (OSError, RuntimeError, SafetensorError) as error:
        folder = Path(str(trainer.args.output_dir))
        part = folder / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
        if not part.is_dir() or damage(part) is None:
            raise
        if trainer.is_world_process_zero():
            shutil.rmtree(part, ignore_errors=True)
        whole = [path for path in list_checkpoints(folder) if damage(path) is None]
        rest = f"Go on from '{whole[-1]}' with --resume_from_checkpoint last." if whole else "There is no earlier one."
        raise OSError(f"The checkpoint '{part}' could not be written: {error}. It was removed. {rest}") from error
