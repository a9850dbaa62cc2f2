"""The plan of a conversion: all names, shapes and config fields are checked before the first tensor is read."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..configuration.configuration_trine import TrineConfig
from ..configuration.configuration_trine_dual import TrineDualEncoderConfig
from ..configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from ..configuration.patterns import shorten
from ..modeling.heads.table import HEADS, OTHER_HEADS, PATCH_HEADS, SEQ2SEQ_HEADS
from ..modeling.modeling_trine import TrineModel
from ..modeling.modeling_trine_dual import TrineDualEncoder
from ..modeling.modeling_trine_seq2seq import TrineSeq2SeqModel
from .config_rules import differences
from .families.base import Family, Head
from .families.table import FAMILIES
from .stream import CheckpointReader
from .weight_rules import Step, make_steps


CONFIGS = {config.model_type: config for config in (TrineConfig, TrineSeq2SeqConfig, TrineDualEncoderConfig)}
CLASSES: dict[str, Any] = {
    model.__name__: model
    for models in (HEADS.values(), PATCH_HEADS.values(), SEQ2SEQ_HEADS.values(), OTHER_HEADS)
    for model in (TrineModel, TrineSeq2SeqModel, TrineDualEncoder, *models)
}


@dataclass
class Plan:
    """A conversion, checked and ready to run.

    Args:
        to_trine: Its direction.
        reader: The tensors, under the names that the steps use.
        steps: Which tensors are made of which.
        ours: Our tensors without content, by name.
        config: The config to write.
        model: Our model, without content.
        source_class: Transformers' class.
        outputs: The tensors that will be written, without content. `check_shapes` fills it.
        ignored: Names of the source's tensors that its class leaves out when it is loaded.
    """

    to_trine: bool
    reader: CheckpointReader
    steps: list[Step]
    ours: dict[str, torch.Tensor]
    config: Any
    model: Any
    source_class: Any
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def inputs(self, step: Step) -> tuple[str, ...]:
        """The names of the tensors that a step reads."""
        return step.source if self.to_trine else step.trine

    def apply(self, step: Step, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs a step on the tensors that it reads; returns the results by name.

        Raises:
            ValueError: Their shapes or values forbid it.
        """
        try:
            if self.to_trine:
                return step.to_trine(tensors, [self.ours[name] for name in step.trine])
            return step.to_source(tensors)
        except (RuntimeError, IndexError, ValueError) as error:
            names = ", ".join(map(self.reader.describe, self.inputs(step)))
            raise ValueError(f"The tensor {names}: {error}") from error

    def check_shapes(self) -> None:
        """Follows all shapes through the steps, which fills `outputs`."""
        metas = self.reader.metas
        for step in self.steps:
            made = self.apply(step, [metas[name] for name in self.inputs(step)])
            self.outputs |= made
            for name, tensor in (made if self.to_trine else {name: metas[name] for name in step.trine}).items():
                if tensor.shape != self.ours[name].shape:
                    names = ", ".join(map(self.reader.describe, self.inputs(step)))
                    raise ValueError(
                        f"The tensor {names} has another shape than config.json says: '{name}' would be "
                        f"{tuple(tensor.shape)} instead of {tuple(self.ours[name].shape)}."
                    )


class UnfitTensorsError(ValueError):
    """The names of a checkpoint's tensors are not those of a class."""


def plan_import(folder: Path, model_type: str, head_name: str | None, leave_out: Sequence[str] = ()) -> Plan:
    """Plans a conversion from transformers to Trine.

    Raises:
        ValueError: The source has a family, a class, a setting or a tensor that we have no counterpart of.
        OSError: Its files are damaged.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"model_type={model_type!r} of {folder} is not one of {sorted([*FAMILIES, *CONFIGS])}.")
    family, config = FAMILIES[model_type], AutoConfig.from_pretrained(folder)
    head = family.choose_head(head_name or next(iter(config.architectures or []), None))
    try:
        return plan_head(folder, family, head, leave_out)
    except UnfitTensorsError as error:
        others = [other for other in family.heads if other is not head and fits(folder, family, other, leave_out)]
        if others:
            advice = f"All of its tensors are read with head='{others[0].source}' (--head {others[0].source})."
        else:
            names = [other.source for other in family.heads]
            advice = (
                f"If it is of another class, name that as head: one of {names}. Tensors that are not wanted are left "
                "out by name: leave_out=['PATTERN'] (--leave_out PATTERN)."
            )
        raise ValueError(f"{error} {advice}") from error


def fits(folder: Path, family: Family, head: Head, leave_out: Sequence[str]) -> bool:
    """Whether a class has all tensors of a checkpoint, and no others."""
    try:
        plan_head(folder, family, head, leave_out)
    except ValueError:
        return False
    return True


def plan_head(folder: Path, family: Family, head: Head, leave_out: Sequence[str]) -> Plan:
    """Plans a conversion to Trine for a given class of the source."""
    reader, config = CheckpointReader(folder), AutoConfig.from_pretrained(folder)
    drop_unwanted(reader, leave_out)
    reader.rename(family.new_name(head, reader.places.keys()))
    source_class = getattr(transformers, head.source)
    config.dtype = main_dtype(reader)
    drop_copies(reader, source_class, config)
    trine_class = CLASSES[head.trine]
    ours = trine_class.config_class(**family.read_config(config, head, reader.places.keys()))
    ours.architectures, ours.dtype = [head.trine], config.dtype
    model = empty_model(trine_class, ours)
    tensors = saved_tensors(model)
    steps = make_steps(tensors, family.rules(config, head), count_experts(ours))
    needed = {name for step in steps for name in step.source}
    ignored = drop_ignored(reader, source_class, needed)
    check_names(reader, needed, head.source)
    plan = Plan(True, reader, steps, tensors, ours, model, source_class, ignored=ignored)
    plan.check_shapes()
    return plan


def drop_unwanted(reader: CheckpointReader, patterns: Sequence[str]) -> None:
    """Forgets the tensors that are to be left out; a `ValueError` where a pattern names none."""
    for pattern in patterns:
        names = {name for name in reader.places if fnmatchcase(name, pattern)}
        if not names:
            raise ValueError(f"leave_out={pattern!r} names none of the tensors {shorten(sorted(reader.places))}.")
        reader.rename(lambda name, unwanted=names: None if name in unwanted else name)


def drop_ignored(reader: CheckpointReader, source_class: Any, needed: Collection[str]) -> list[str]:
    """Forgets what the source's own class ignores when it is loaded, such as a decoder; returns the names."""
    patterns = source_class._keys_to_ignore_on_load_unexpected or ()
    others = sorted(reader.places.keys() - set(needed))
    ignored = [name for name in others if any(re.search(pattern, name) for pattern in patterns)]
    reader.rename(lambda name: None if name in ignored else name)
    return ignored


def plan_export(folder: Path, model_type: str, to: str | None, head_name: str | None) -> Plan:
    """Plans a conversion from Trine to transformers.

    Raises:
        ValueError: The family has no counterpart of our class, of a field or of a tensor.
        OSError: The files are damaged.
    """
    if to not in FAMILIES:
        raise ValueError(f"to={to!r} is not one of {sorted(FAMILIES)}, but {folder} is of model_type={model_type!r}.")
    family, ours = FAMILIES[to], CONFIGS[model_type].from_pretrained(folder)
    head = family.choose_head(head_name or next(iter(ours.architectures or []), "TrineModel"), side="trine")
    reader, trine_class = CheckpointReader(folder), CLASSES[head.trine]
    config = CONFIG_MAPPING[to](**family.write_config(ours, head))
    config.architectures = [head.source]
    config.dtype = ours.dtype = main_dtype(reader)
    model = empty_model(trine_class, ours)
    tensors = saved_tensors(model)
    check_names(reader, tensors, head.trine)
    known = [name for name in tensors if not name.startswith("pointer.")]  # which is refused below, by its field
    steps = make_steps(known, family.rules(config, head), count_experts(ours))
    check_fields(family, head, config, ours, {name for step in steps for name in step.source})
    plan = Plan(False, reader, steps, tensors, config, model, getattr(transformers, head.source))
    plan.check_shapes()
    return plan


def check_fields(family: Family, head: Head, config: PreTrainedConfig, ours: Any, tensors: Collection[str]) -> None:
    """Raises a `ValueError` unless the source's config, read again, says all that ours does."""
    again = type(ours)(**family.read_config(config, head, tensors))
    for name, value, other in differences(ours, again, head.trine):
        raise ValueError(
            f"{name}={value!r} cannot be represented in model_type='{family.model_type}', where it is {other!r}."
        )


def empty_model(model_class: Any, config: Any) -> Any:
    """A model without content; a `ValueError` if the config does not make one."""
    try:
        with torch.device("meta"):
            return model_class(config).to(config.dtype)
    except KeyError as error:  # transformers', at the name of an activation for example
        raise ValueError(f"config.json makes no {model_class.__name__}: it does not know {error}.") from error


def saved_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model that are saved: of tied ones, one."""
    return {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}


def drop_copies(reader: CheckpointReader, source_class: Any, config: PreTrainedConfig) -> None:
    """Forgets tensors that are the same as those they are tied to, or calls them by the name of a missing one."""
    for copy, original in empty_model(source_class, config).all_tied_weights_keys.items():
        if copy not in reader.places:
            continue
        if original not in reader.places:
            reader.rename(lambda name, old=copy, new=original: new if name == old else name)
        elif torch.equal(*reader.read(copy, original)):
            reader.rename(lambda name, old=copy: None if name == old else name)


def check_names(reader: CheckpointReader, needed: Collection[str], class_name: str) -> None:
    """Raises an `UnfitTensorsError` that names tensors which are missing, or which nothing reads."""
    if missing := sorted(set(needed) - reader.places.keys()):
        raise UnfitTensorsError(f"{reader.folder} lacks tensors of {class_name}: {shorten(missing)}.")
    if extra := sorted(reader.places.keys() - set(needed)):
        raise UnfitTensorsError(
            f"{reader.folder} has tensors that {class_name} with this config.json has no use for: "
            f"{shorten([reader.describe(name) for name in extra])}."
        )


def main_dtype(reader: CheckpointReader) -> torch.dtype:
    """The type of most weights."""
    dtypes = [meta.dtype for meta in reader.metas.values() if meta.is_floating_point()]
    return max(set(dtypes), key=dtypes.count) if dtypes else torch.float32


def count_experts(config: Any) -> int:
    """The number of experts of a config, 0 without any."""
    return getattr(config, "num_experts", None) or 0
