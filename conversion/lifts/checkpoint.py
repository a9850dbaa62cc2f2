"""Lifts checkpoints: from a Trine folder to another."""

from pathlib import Path
from typing import Any

from ..companions import find_source
from ..inside import read_fields
from ..plan import CLASSES, CONFIGS
from ..stream import all_or_nothing
from .base import Lift
from .checks import check_model


def load_checkpoint(source: str | Path) -> tuple[Path, Any]:
    """The folder of a Trine checkpoint, and its model, of the class that its config names.

    Raises:
        ValueError: It is not Trine's, or of a class that cannot be lifted.
        OSError: There is none, or its files are damaged.
    """
    folder = find_source(source)
    config = read_fields(folder / "config.json")
    model_type = config.get("model_type")
    if model_type not in CONFIGS:
        raise ValueError(
            f"model_type={model_type!r} of {folder} is not one of {[*CONFIGS]}: make a Trine checkpoint first: "
            f"`trine convert {source} TARGET`."
        )
    name = next(iter(config.get("architectures") or []), None)
    if name not in CLASSES:
        raise ValueError(f"architectures={config.get('architectures')} of {folder} names none of {[*CLASSES]}.")
    return folder, CLASSES[name].from_pretrained(folder)


def lift_checkpoint(
    source: str | Path, target: str | Path, made: Lift, max_shard_size: str = "5GB"
) -> tuple[Any, Any]:
    """Writes the lift of a checkpoint, with tokenizer and other companions; after an error there is nothing.

    Args:
        source: A folder, or a name on the Hub.
        target: A folder that is not there yet.

    Returns:
        The model and its lift.
    """
    with all_or_nothing(Path(target)) as folder:
        source_folder, model = load_checkpoint(source)
        check_model(model)
        made.read_companions(source_folder)
        lifted = made.apply(model)
        made.write_companions(source_folder, folder)
        made.finish(lifted, folder)
        lifted.save_pretrained(folder, max_shard_size=max_shard_size)
    return model, lifted
