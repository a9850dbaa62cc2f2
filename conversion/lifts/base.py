"""The base classes of lifts: checked options, and changes of stacks and layers."""

from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from ...configuration.configuration_trine import TrineConfig
from ...configuration.patterns import check_choice
from ...configuration.sharding_plans import tensor_parallel_plan
from ...modeling.modeling_trine import TrineModel
from ..companions import copy_companions
from .change import largest_change
from .rope import carry_rope
from .weights import rebuild


STACKS = ("encoder", "decoder")


@dataclass
class Lift:
    """A change of a model's architecture that leaves its function as it is. The fields of a subclass are its options.

    Options whose default is None are taken from the model's config.

    Attributes:
        kind: The lift's name.
        becomes: What becomes what, for the documentation.
        stays: Up to where the function stays the same.
        source: The paper, or "".
        keeps_function: Whether there are texts of more than one token for which the function stays.
    """

    kind: ClassVar[str]
    becomes: ClassVar[str]
    stays: ClassVar[str]
    source: ClassVar[str] = ""
    keeps_function: ClassVar[bool] = True

    def apply(self, model: Any) -> Any:
        """Makes the lifted copy of a Trine model.

        Raises:
            ValueError: An option or a field of the config forbids it.
        """
        raise NotImplementedError

    def read_companions(self, folder: Path) -> None:
        """Takes what the options leave open from the files beside the weights of the source."""

    def write_companions(self, source: Path, target: Path) -> None:
        """Writes the files beside the weights, by default those of the source."""
        copy_companions(source, target, generates=False)

    def keeps(self, model: Any) -> Any:
        """The model whose function stays: the one that is lifted, or a part of it."""
        return model

    def measure(self, model: Any, lifted: Any, inputs: dict[str, torch.Tensor] | None, length: int) -> float:
        """The largest change of outputs on inputs of the model, by default random ones; see `largest_change`."""
        return largest_change(model, lifted, inputs, length=length)

    def describe(self, model: Any, lifted: Any) -> Iterator[str]:
        """Lines that tell more than how much outputs change."""
        yield from ()

    def exact_length(self, before: TrineConfig, after: TrineConfig) -> int | None:
        """Tokens up to which a stack computes the same as before; None for any number."""
        return None

    def finish(self, lifted: Any, folder: Path) -> None:
        """Fits the files beside the weights, which lie in `folder` already, and the model to each other."""


@dataclass
class StackLift(Lift):
    """A lift that changes each stack of layers by itself, and neither class nor heads of the model."""

    stack: str | None = field(
        default=None, metadata={"help": "Which stack of an encoder-decoder: encoder or decoder. Default: both."}
    )

    def change(self, config: TrineConfig) -> Sequence[int]:
        """Changes a stack's config in place.

        Returns:
            The layer of the old stack that each of the new stack's layers has its weights from.
        """
        raise NotImplementedError

    def fill(self, old: Any, new: Any) -> None:
        """Fills weights of `new` that have no counterpart in `old`, if their initialisation changes the function."""

    def apply(self, model: Any) -> Any:
        """Makes the lifted copy: configs first, then the weights that are the same, then `fill`."""
        config, sources = deepcopy(model.config), {}
        for name in self.stack_names(model):
            stack = config if isinstance(config, TrineConfig) else getattr(config, name.rpartition(".")[2])
            sources[name] = self.change(stack)
            stack.base_model_tp_plan = tensor_parallel_plan(stack)  # pyright: ignore[reportAttributeAccessIssue] per instance
        config.check()
        lifted = rebuild(model, config, sources)
        for name in sources:
            self.fill(model.get_submodule(name), lifted.get_submodule(name))
        return lifted

    def stack_names(self, model: Any) -> list[str]:
        """The names, within the model, of the stacks to change."""
        names = [name for name, module in model.named_modules() if isinstance(module, TrineModel)]
        if self.stack is None:
            return names
        if not model.config.is_encoder_decoder:
            raise ValueError(f"stack={self.stack!r}, but {type(model).__name__} has one stack only. Leave it out.")
        check_choice("stack", self.stack, STACKS)
        return [name for name in names if name.rpartition(".")[2] == self.stack]


@dataclass
class LayerLift(StackLift):
    """A lift that changes layers of one kind into layers of another."""

    field_name: ClassVar[str]  # the config field that names the kind of each layer
    sources: ClassVar[Collection[str]] = ()  # kinds that it can change
    target: ClassVar[str]  # what they become
    read_fields: ClassVar[Collection[str]]  # config fields that layers of that kind read, and that are options

    layers: list[int] | None = field(
        default=None, metadata={"help": "Indices of the layers to change, from 0. Default: all that can be."}
    )

    def change(self, config: TrineConfig) -> Sequence[int]:
        """Changes the kinds of the chosen layers and the fields that they read."""
        kinds, layer_types = list(getattr(config, self.field_name)), config.layer_types
        own = config.plugin_fields_in_use()
        readers = [index for index, kind in enumerate(kinds) if kind == self.target]
        for name in self.read_fields:
            change_field(config, name, getattr(self, name), readers)
        for index in self.choose_layers(kinds, self.find_sources(config)):
            kinds[index] = self.target
        setattr(config, self.field_name, kinds)
        config.settle_window()
        settle_plugin_fields(config, own)
        carry_rope(config, layer_types)
        return range(len(kinds))

    def find_sources(self, config: TrineConfig) -> Collection[str]:
        """The kinds that it can change."""
        return self.sources

    def choose_layers(self, kinds: list[str], sources: Collection[str]) -> list[int]:
        """The layers to change; a `ValueError` for one that is not there, or is of another kind."""
        fitting = [index for index, kind in enumerate(kinds) if kind in sources]
        if self.layers is None and not fitting:
            raise ValueError(
                f"{self.field_name}={kinds} has no layer that the lift {self.kind!r} changes: one of {list(sources)}."
            )
        for place, index in enumerate(self.layers or []):
            if not 0 <= index < len(kinds):
                raise ValueError(f"layers[{place}]={index} is no layer of the model, which has 0 to {len(kinds) - 1}.")
            if index not in fitting:
                raise ValueError(
                    f"layers[{place}]={index}, but {self.field_name}[{index}]={kinds[index]!r} is not one of "
                    f"{list(sources)}, which the lift {self.kind!r} changes."
                )
        return fitting if self.layers is None else self.layers


def change_field(config: TrineConfig, name: str, value: Any, readers: Sequence[int] = ()) -> None:
    """Sets a config field, unless `value` is None; a `ValueError` if that would change the layers `readers`, too."""
    if value is None:
        return
    current = getattr(config, name, None)  # a plugin's field is there when layers read it
    if readers and value != current:
        raise ValueError(
            f"{name}={value!r} would change the layers {list(readers)}, too, which read {name}={current!r} already. "
            "Leave it out."
        )
    setattr(config, name, value)


def settle_plugin_fields(config: TrineConfig, before: Collection[str]) -> None:
    """Gives a config the fields of the registered kinds that it names now, and takes those away that it named before.

    Args:
        config: With new kinds.
        before: Names of the fields that it had for the old ones.
    """
    now = config.plugin_fields_in_use()
    for name in before:
        if name not in now:
            delattr(config, name)
    for name, spec in now.items():
        if not hasattr(config, name):
            setattr(config, name, spec.default)


def layers_of(old: Any, new: Any, field_name: str) -> list[int]:
    """The numbers of the layers whose kind has changed."""
    kinds = zip(getattr(old.config, field_name), getattr(new.config, field_name), strict=True)
    return [index for index, (before, after) in enumerate(kinds) if before != after]
