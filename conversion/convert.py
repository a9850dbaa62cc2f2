"""Converts checkpoints between transformers' well-known architectures and Trine, both ways and exactly."""

from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm
from transformers.utils import logging

from ..configuration.patterns import shorten
from .companions import copy_companions, find_source
from .equivalence import check_equivalence
from .inside import read_fields
from .plan import CONFIGS, Plan, plan_export, plan_import
from .stream import CheckpointWriter, all_or_nothing


logger = logging.get_logger(__name__)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str | None = None,
    head: str | None = None,
    leave_out: Sequence[str] = (),
    check: bool = False,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
) -> float | None:
    """Writes a checkpoint that computes the same: of Trine from transformers', or transformers' from one of Trine.

    Weights pass a few tensors at a time. Tokenizer and generation config come along. `target` appears when all is
    done; after an error there is nothing.

    Args:
        source: A folder with safetensors, or a name on the Hub.
        target: A folder that is not there yet.
        to: The `model_type` to make of a Trine checkpoint. A checkpoint of transformers always becomes Trine's.
        head: The class to read the source as. Default: what its `architectures` name.
        leave_out: Patterns of tensors of transformers' that are not wanted, such as "roberta.pooler.*": a checkpoint
            may have more heads than any class. `check` compares what is left.
        check: Whether to load both and compare their outputs on random tokens in float32.
        max_shard_size: Bytes in a weight file, or a text such as "5GB".
        show_progress: Whether to show a bar.

    Returns:
        The largest difference between the outputs if `check`, else None.

    Raises:
        ValueError: Something cannot be represented, tensors do not fit the config, or outputs differ.
        OSError: Files are missing or damaged, or `target` is there already.

    Example:
        >>> convert("all-MiniLM-L6-v2", "minilm-trine", check=True)  # doctest: +SKIP
        9.5e-07
        >>> convert("minilm-trine", "minilm-again", to="bert")  # doctest: +SKIP
    """
    folder, target = find_source(source), Path(target)
    model_type = read_fields(folder / "config.json").get("model_type", "")
    if model_type not in CONFIGS and to not in (None, *CONFIGS):
        raise ValueError(f"to={to!r}, but the source has model_type={model_type!r}, which can become Trine's only.")
    with all_or_nothing(target) as made:
        if model_type in CONFIGS:
            plan = plan_export(folder, model_type, to, head)
        else:
            plan = plan_import(folder, model_type, head, leave_out)
            tell_ignored(plan)
        write_weights(plan, made, max_shard_size, show_progress)
        plan.config.save_pretrained(made)
        target_class = type(plan.model) if plan.to_trine else plan.source_class
        copy_companions(folder, made, generates=target_class.can_generate())
        if plan.to_trine:
            (made / "README.md").write_text(plan.model.render_card(), encoding="utf-8")
        if not check:
            return None
        theirs, ours = (folder, made) if plan.to_trine else (made, folder)
        return check_equivalence(theirs, plan.source_class, ours, type(plan.model))


def tell_ignored(plan: Plan) -> None:
    """Warns of what the class that the source is read as leaves out of it."""
    if plan.ignored:
        logger.warning(
            f"{plan.source_class.__name__} ignores {len(plan.ignored)} tensors of {plan.reader.folder}, which are "
            f"left out: {shorten(plan.ignored)}."
        )


def write_weights(plan: Plan, folder: Path, max_shard_size: int | str, show_progress: bool) -> None:
    """Writes all tensors of a plan, each step by itself."""
    writer = CheckpointWriter(folder, plan.outputs, max_shard_size)
    with tqdm(total=len(plan.outputs), unit="tensor", disable=not show_progress) as bar:
        for step in plan.steps:
            for name, tensor in plan.apply(step, plan.reader.read(*plan.inputs(step))).items():
                writer.write(name, tensor)
                bar.update()
