"""A student: a model that begins with some layers of a larger one, perhaps of other kinds."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch

from ...configuration.configuration_trine import TrineConfig
from ...configuration.patterns import check_choice
from ...modeling.modeling_trine import TrineModel
from .base import STACKS
from .layers import choose_layers, keep_layers
from .sparse import copy_experts
from .weights import build, class_options, copy_tensors, old_name


NO_LAYERS = "none"
TAKE_LAYERS = {
    "every second": lambda number, count: choose_layers("student_layers", number, None, count),
    "first": lambda number, count: list(range(number)),
    "last": lambda number, count: list(range(count - number, count)),
}


class Student(NamedTuple):
    """A student, and what it has of its teacher.

    Attributes:
        model: The student.
        layers: For each stack, by its name within the model, the teacher's layer that each of its layers begins with.
        taken: Number of the weights that are the teacher's.
        random: Names of the parameters that are not, those of all layers as one.
    """

    model: Any
    layers: dict[str, list[int]]
    taken: int
    random: list[str]


def pick_layers(take: str, number: int | None, count: int) -> list[int]:
    """The layers, of a teacher's `count`, that a student of `number` layers begins with.

    Args:
        take: `every second`, evenly spread with the first and the last among them, which of 12 are DistilBERT's 0, 2,
            4, 7, 9, 11; `first`; `last`; or numbers such as `0,3,5`.
        number: Layers of the student. Default: as many as are named, or half of them all.

    Raises:
        ValueError: There are fewer layers, no such choice, or not as many numbers.
    """
    if number is not None and not 1 <= number <= count:
        raise ValueError(f"student_layers={number} must be from 1 to {count}, the layers of the teacher.")
    if not re.fullmatch(r"\d+([ ,]+\d+)*", take.strip()):
        check_choice("take_layers", take, [*TAKE_LAYERS, NO_LAYERS, "0,3,5"])
        return TAKE_LAYERS[take](number or (count + 1) // 2, count)
    layers = [int(word) for word in re.findall(r"\d+", take)]
    for place, layer in enumerate(layers):
        if layer >= count:
            raise ValueError(f"take_layers[{place}]={layer} is no layer of the teacher, which has 0 to {count - 1}.")
    if number is not None and number != len(layers):
        raise ValueError(f"take_layers='{take}' names {len(layers)} layers, but the student has {number}.")
    return layers


def stacks_of(model: Any) -> dict[str, TrineModel]:
    """The stacks of layers of a model, by their names within it."""
    return {name: module for name, module in model.named_modules() if isinstance(module, TrineModel)}


def config_of(config: Any, name: str) -> TrineConfig:
    """The config of a stack, by its name within the model, in the config of that model."""
    return config if isinstance(config, TrineConfig) else getattr(config, name.rpartition(".")[2])


def change_fields(config_class: Any, saved: dict[str, Any], overrides: Mapping[str, Any]) -> Any:
    """The config of saved fields with others in place of some; a `ValueError` for one that is no field."""
    for message in config_class.unknown_keywords(
        [name for name in overrides if not config_class.takes(name)]
    ).values():
        raise ValueError(f"student_config_overrides: {message}")
    return config_class.from_dict(saved, **overrides)


def shrink(
    teacher: Any,
    number: int | None,
    take: str = "every second",
    stack: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Student:
    """A student with some layers of its teacher.

    Args:
        teacher: A Trine model with one stack of layers or two.
        number: Layers of the student, in each stack that is made smaller.
        take: As for `pick_layers`; with `none` all weights are random.
        stack: Which stack of an encoder-decoder is made smaller. Default: both.
        overrides: Fields of the student's config that differ: other kinds, as `attention_types="linear"`.

    Raises:
        ValueError: As of `pick_layers`, of `teach`, of the config, or there is no such stack.
    """
    if stack is not None:
        if not teacher.config.is_encoder_decoder:
            raise ValueError(f"stack={stack!r}, but {type(teacher).__name__} has one stack only. Leave it out.")
        check_choice("stack", stack, STACKS)
    config, layers = deepcopy(teacher.config), {}
    spread = "every second" if take == NO_LAYERS else take
    for name, module in stacks_of(teacher).items():
        count = len(module.layers)
        is_kept = stack is not None and name.rpartition(".")[2] != stack
        layers[name] = list(range(count)) if is_kept else pick_layers(spread, number, count)
        keep_layers(config_of(config, name), layers[name])
    config.check()
    if overrides:
        config = change_fields(type(config), config.to_dict(), overrides)
    return teach(teacher, config, None if take == NO_LAYERS else layers)


def take_by_config(teacher: Any, config: Any, take: str = NO_LAYERS) -> Student:
    """A student of a config of its own; its layers begin as those of the teacher that `take` says, or random.

    Raises:
        ValueError: As of `pick_layers` and `teach`, or the config is of another family or role than the teacher's.
    """
    if type(config) is not type(teacher.config) or config.is_encoder_decoder != teacher.config.is_encoder_decoder:
        raise ValueError(
            f"student has model_type={config.model_type!r}, but the teacher model_type="
            f"{teacher.config.model_type!r}: both must be of one."
        )
    if isinstance(config, TrineConfig) and config.is_causal != teacher.config.is_causal:
        raise ValueError(f"student has is_causal={config.is_causal}, but the teacher {teacher.config.is_causal}.")
    if take == NO_LAYERS:
        return teach(teacher, config, None)
    stacks = stacks_of(teacher)
    numbers = {name: config_of(config, name).num_hidden_layers for name in stacks}
    return teach(
        teacher,
        config,
        {name: pick_layers(take, numbers[name], len(module.layers)) for name, module in stacks.items()},
    )


def teach(teacher: Any, config: Any, layers: dict[str, list[int]] | None) -> Student:
    """A model of the teacher's class with that config, which begins with weights of the teacher where they fit.

    Where a dense feed-forward becomes experts of its width, each begins as its copy, as in the lift `sparse`.

    Args:
        layers: As in `Student`; None for random weights.

    Raises:
        ValueError: Layers are to be taken, but the width or the vocabulary is another one.
    """
    model = build(type(teacher), config, teacher, **class_options(teacher))
    if layers is None:
        return Student(model, {}, 0, collapse(name for name, _ in model.named_parameters()))
    for name in layers:
        mine, its = config_of(model.config, name), config_of(teacher.config, name)
        for field in ("hidden_size", "vocab_size"):
            if getattr(mine, field) != getattr(its, field):
                raise ValueError(
                    f"{field}={getattr(mine, field)} of the student differs from {field}={getattr(its, field)} of the "
                    f"teacher, so that no layers can be taken: make them equal, or choose take_layers='{NO_LAYERS}'."
                )
    copy_tensors(teacher, model, lambda name: old_name(name, layers))
    copied = copy_all_experts(teacher, model, layers)
    saved = dict(teacher.state_dict())
    taken, others = 0, []
    for name, parameter in model.named_parameters():
        source = saved.get(old_name(name, layers))
        if name in copied or (source is not None and source.shape == parameter.shape):
            taken += parameter.numel()
        else:
            others.append(name)
    return Student(model, layers, taken, collapse(others))


@torch.no_grad()
def copy_all_experts(teacher: Any, model: Any, layers: Mapping[str, Sequence[int]]) -> set[str]:
    """Makes experts copies of the dense feed-forwards whose place they take; returns the names of their parameters."""
    names: set[str] = set()
    for stack, sources in layers.items():
        old, new = teacher.get_submodule(stack), model.get_submodule(stack)
        if new.config.moe_intermediate_size != old.config.intermediate_size:
            continue
        if new.config.gated_mlp != old.config.gated_mlp or new.config.mlp_bias != old.config.mlp_bias:
            continue
        for index, source in enumerate(sources):
            kinds = old.config.mlp_layer_types[source], new.config.mlp_layer_types[index]
            if kinds == ("dense", "sparse"):
                place = ".".join(filter(None, [stack, f"layers.{index}.mlp.experts"]))
                copy_experts(old.layers[source].mlp, new.layers[index].mlp.experts)
                names |= {f"{place}.{name}" for name, _ in model.get_submodule(place).named_parameters()}
    return names


def collapse(names: Any) -> list[str]:
    """Names of parameters, those of all layers as one, each once."""
    return list(dict.fromkeys(re.sub(r"(^|\.)layers\.\d+\.", r"\1layers.*.", name) for name in names))


def describe_student(teacher: Any, student: Student) -> list[str]:
    """Lines that tell how much smaller a student is, and what it has of its teacher."""
    sizes = [sum(each.numel() for each in model.parameters()) for model in (teacher, student.model)]
    inner = [
        sum(each.numel() for stack in stacks_of(model).values() for each in stack.layers.parameters())
        for model in (teacher, student.model)
    ]
    lines = [
        f"{what}: {before:,} weights of the teacher, {after:,} of the student ({after / before - 1:+.1%})."
        for what, (before, after) in {"All": sizes, "Layers": inner}.items()
    ]
    for name, layers in student.layers.items():
        stack = f" in {name.rpartition('.')[2]}" if len(student.layers) > 1 else ""
        lines.append(f"Layers taken from the teacher{stack}: {', '.join(map(str, layers))}.")
    share = student.taken / sizes[1]
    lines.append(f"Weights taken from the teacher: {student.taken:,}, {share:.1%} of the student's.")
    if student.random:
        lines.append(f"Random weights: {', '.join(student.random) if student.layers else 'all'}.")
    return lines
