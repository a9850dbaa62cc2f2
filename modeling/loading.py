"""Refuses a checkpoint that has lost tensors or settings, where transformers warns at most."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from .pickling import PICKLING


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WITHOUT_DECODER = "TrineSeq2SeqForTokenClassification"


class CheckedLoading(*PICKLING.values(), PreTrainedModel):  # pyright: ignore[reportGeneralTypeIssues] one or none
    """A `PreTrainedModel` that loads a checkpoint whole, or raises an error."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Loads a model; arguments are those of transformers.

        Raises:
            OSError: A JSON file is damaged, or the weights lack a tensor that the saved model had. Who asks for
                `output_loading_info` is told which tensors are missing instead.
        """
        check_json(Path(pretrained_model_name_or_path or ""))
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        wants_report = kwargs.get("output_loading_info", False)
        fault = vars(loaded[0] if wants_report else loaded).pop("loading_fault", None)
        if fault and not wants_report:
            raise OSError(fault)
        return loaded

    @staticmethod
    def _finalize_model_loading(model, load_config, loading_info):
        """Called when its tensors are in the model, and those that are missing have random values."""
        loading_info = PreTrainedModel._finalize_model_loading(model, load_config, loading_info)
        model.loading_fault = describe_loss(model, load_config, loading_info.missing_keys)
        return loading_info


def check_json(folder: Path) -> None:
    """Reads the configs and the index of a local checkpoint, since transformers does not name the damaged file.

    Without a readable generation config transformers would generate with other settings, and not say so.

    Raises:
        OSError: One of them is no JSON object. The message names it.
    """
    for path in [folder / "config.json", folder / "generation_config.json", *sorted(folder.glob("*.index.json"))]:
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (ValueError, RecursionError) as error:
            raise OSError(f"'{path}' is damaged or incomplete ({error}). Copy or download it again.") from error
        if not isinstance(content, dict):
            raise OSError(f"'{path}' holds a {type(content).__name__}, but must hold a JSON object.")


def describe_loss(model: Any, load_config: Any, missing: Collection[str]) -> str | None:
    """A message about the tensors that a Trine checkpoint should have but lacks, or None.

    A new head is no loss, and neither is a pooler or a decoder, which only some classes have.
    `ignore_mismatched_sizes=True` lets everything pass.
    """
    quantizer, source = load_config.hf_quantizer, load_config.pretrained_model_name_or_path
    if load_config.ignore_mismatched_sizes or source is None or getattr(quantizer, "pre_quantized", False):
        return None
    lost = sorted(lost_tensors(model, missing))
    if not lost:
        return None
    places = (load_config.sharded_metadata or {}).get("weight_map")
    file = WEIGHTS if places is None else places.get(lost[0], INDEX)
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    written = model.config.architectures[0]
    return (
        f"{source}: {file} lacks the tensor '{lost[0]}'{more}, which the {written} that was saved there has. Copy "
        "or download the checkpoint again. If the config was changed on purpose, so that parts are new, "
        "ignore_mismatched_sizes=True starts them with random values."
    )


def lost_tensors(model: Any, missing: Collection[str]) -> Collection[str]:
    """The missing tensors that the Trine class which wrote the checkpoint has."""
    written = next(iter(model.config.architectures or []), "")
    if not written.startswith("Trine"):
        return []
    if written == type(model).__name__:
        return missing
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    absent = {"pooler", "decoder"} if written == WITHOUT_DECODER else {"pooler"}
    return [name for name in missing if name.startswith(prefix) and absent.isdisjoint(name.split("."))]
