"""Training of parts of a model: frozen parts, smaller rates for lower layers, unfreezing from the top."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


STACKS = ("encoder", "decoder")
LAYER_LISTS = ("layers", "layer", "h", "block", "blocks")  # names of lists of layers, of Trine and of others
TABLES = re.compile(r".*embed.*|wte|wpe|shared|positions")  # names of what makes vectors of tokens and places


class Place(NamedTuple):
    """Where a parameter is: in which stack ("" if there is one only), in which group, in which layer of it."""

    stack: str
    group: str  # embeddings, layers, or "" for norms after the layers and for heads
    layer: int = 0


def place_of(name: str, has_two_stacks: bool) -> Place:
    """The place of a parameter, by its name."""
    steps = name.split(".")
    stack = next((step for step in steps if step in STACKS), "") if has_two_stacks else ""
    for step, number in zip(steps, steps[1:], strict=False):
        if step in LAYER_LISTS and number.isdecimal():
            return Place(stack, "layers", int(number))
    return Place(stack, "embeddings" if any(TABLES.fullmatch(step) for step in steps) else "")


def places_of(model: nn.Module) -> dict[str, Place]:
    """The places of all parameters by their names; a tensor that several parts share has several."""
    has_two_stacks = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    return {name: place_of(name, has_two_stacks) for name, _ in model.named_parameters(remove_duplicate=False)}


def list_parts(places: Mapping[str, Place]) -> dict[str, list[str]]:
    """The names of the parameters of each part; a part is a stack, a group or a layer, such as `encoder.layers.3`."""
    parts: dict[str, list[str]] = {}
    for name, (stack, group, layer) in places.items():
        whole = [stack, group] if stack else [group or "head"]
        found = {".".join(filter(None, whole)), stack or whole[0]}
        found |= {f"{'.'.join(whole)}.{layer}"} if group == "layers" else {group} if group else set()
        for part in found:
            parts.setdefault(part, []).append(name)
    return parts


def find_parts(model: nn.Module, chosen: Sequence[str]) -> list[str]:
    """The names of the parameters of the chosen parts.

    Args:
        model: Of Trine or of transformers, also within PEFT's or in a sentence encoder.
        chosen: Parts such as `embeddings`, `head`, `layers`, `layers.0-5`; with two stacks `encoder`,
            `decoder.embeddings`, `encoder.layers.0-2`, too.

    Raises:
        ValueError: There is no such part; the message lists those that there are.
    """
    parts, names = list_parts(places_of(model)), []
    for part in chosen:
        ranged = re.fullmatch(r"(.*\.)(\d+)-(\d+)", part)
        single = [f"{ranged[1]}{layer}" for layer in range(int(ranged[2]), int(ranged[3]) + 1)] if ranged else [part]
        if not single or any(each not in parts for each in single):
            raise ValueError(f"freeze has {part!r}, which is no part of the model, but {describe_parts(parts)}.")
        names += [name for each in single for name in parts[each]]
    return names


def describe_parts(parts: Mapping[str, Sequence[str]]) -> str:
    """The names of parts as a list, all layers of a stack as one."""
    numbers: dict[str, int] = {}
    for part in parts:
        stack, _, number = part.rpartition(".")
        if number.isdecimal():
            numbers[stack] = max(numbers.get(stack, 0), int(number))
    ranges = [f"{stack}.0-{last}" if last else f"{stack}.0" for stack, last in numbers.items()]
    return str(sorted([*(part for part in parts if not part.rpartition(".")[2].isdecimal()), *ranges]))


def find_depths(model: nn.Module) -> dict[str, int]:
    """How many steps below the output each parameter is, by its name.

    Heads and last norms 0, the top layer of each stack 1, and so on; embeddings, also tied ones, below all layers.
    """
    places, depths = places_of(model), {}
    counts: dict[str, int] = dict.fromkeys(("", *STACKS), 0)
    for place in places.values():
        counts[place.stack] = max(counts[place.stack], place.layer + (place.group == "layers"))
    rules = {
        "": lambda place: 0,
        "layers": lambda place: counts[place.stack] - place.layer,
        "embeddings": lambda place: max(counts.values()) + 1,
    }
    deepest: dict[int, int] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        deepest[id(tensor)] = max(deepest.get(id(tensor), 0), rules[places[name].group](places[name]))
    for name, tensor in model.named_parameters():
        depths[name] = deepest[id(tensor)]
    return depths


@dataclass
class PartialTraining:
    """Which parts of a model are trained, from when, and how fast.

    Sources: Howard and Ruder 2018, ULMFiT, arXiv 1801.06146, section 3.2 (a rate for each layer) and 3.3 (unfreezing
    from the top); rates that fall by one factor: Clark et al. 2020, ELECTRA, arXiv 2003.10555, appendix A.
    """

    freeze: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Parts that stay as they are: embeddings, layers.0-5, head; of an encoder-decoder encoder, "
            "decoder.embeddings, encoder.layers.0-2 ... A tensor that two parts share is frozen with each of them."
        },
    )
    layerwise_lr_decay: float = field(
        default=1.0,
        metadata={
            "help": "Factor on the learning rate from each layer to the one below it, from the head to the embeddings "
            "(discriminative fine-tuning): 0.9. 1 is one rate for all."
        },
    )
    unfreeze_every: int = field(
        default=0,
        metadata={
            "help": "Steps after which one more layer of each stack is trained, from the top, the embeddings last "
            "(gradual unfreezing). 0 trains all from the start."
        },
    )

    def __post_init__(self):
        if not 0 < self.layerwise_lr_decay <= 1:
            raise ValueError(f"layerwise_lr_decay={self.layerwise_lr_decay} must be above 0, and at most 1.")
        if self.unfreeze_every < 0:
            raise ValueError(f"unfreeze_every={self.unfreeze_every} must be at least 0.")

    def apply(self, model: nn.Module, *, processes: int = 1) -> None:
        """Freezes the parts, and prints what is trained if there is any option.

        Args:
            model: Changed in place.
            processes: That train it together.

        Raises:
            ValueError: There is no such part, nothing is left to train, or several processes would unfreeze.
        """
        if self.unfreeze_every and processes > 1:
            raise ValueError(
                f"unfreeze_every={self.unfreeze_every} needs one process: {processes} would not share the gradients "
                "of what is frozen at the start."
            )
        if self.freeze:
            tensors = dict(model.named_parameters(remove_duplicate=False))
            for name in find_parts(model, self.freeze):
                tensors[name].requires_grad_(False)
        if self.freeze or self.unfreeze_every or self.layerwise_lr_decay < 1:
            print(self.describe(model))

    def describe(self, model: nn.Module) -> str:
        """A line about what is trained; a `ValueError` if that is nothing."""
        sizes = {True: 0, False: 0}
        for parameter in model.parameters():
            sizes[parameter.requires_grad] += parameter.numel()
        if not sizes[True]:
            raise ValueError(f"freeze={self.freeze} leaves nothing to train.")
        line = f"{sizes[True]:,} parameters are trained, {sizes[False]:,} are frozen"
        line += f" ({', '.join(self.freeze)})." if self.freeze else "."
        if self.layerwise_lr_decay < 1:
            line += f" The learning rate is multiplied by {self.layerwise_lr_decay:g} from layer to layer downwards."
        if self.unfreeze_every:
            line += f" One more layer from the top is trained after every {self.unfreeze_every} steps."
        return line


def frozen_modules(model: nn.Module, chosen: Sequence[str]) -> list[nn.Module]:
    """The largest modules all of whose tensors are in the chosen parts, as of `find_parts`."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    frozen, found, waiting = {id(tensors[name]) for name in find_parts(model, chosen)}, [], [model]
    while waiting:
        module = waiting.pop()
        own = {id(tensor) for tensor in module.parameters()}
        if own and own <= frozen:
            found.append(module)
        else:
            waiting += module.children()
    return found


class PartialTrainingMixin:
    """Base of trainers with rates for layers and unfreezing: name it before a trainer among the bases of a class.

    Modules that `partial.freeze` freezes stay in evaluation mode: no dropout, no counts of experts, no new random
    features, so that their function stays as it is, as that of states that are computed once.

    Args:
        partial: What is trained and how; its `apply` has frozen parts of the model. None trains it as it is.
    """

    def __init__(self, *args, partial: PartialTraining | None = None, **kwargs):
        self.partial = partial or PartialTraining()
        super().__init__(*args, **kwargs)
        if self.partial.unfreeze_every:
            callback = GradualUnfreezing(self.partial.unfreeze_every)
            self.add_callback(callback)  # pyright: ignore[reportAttributeAccessIssue] the trainer's
        model: Any = self.model  # pyright: ignore[reportAttributeAccessIssue] likewise
        self._resting = frozen_modules(model, self.partial.freeze)

    def compute_loss(self, model, inputs, *args, **kwargs):
        """The trainer's loss, with frozen modules in evaluation mode."""
        for module in self._resting:
            module.eval()
        return super().compute_loss(model, inputs, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The trainer's optimizer, with a group for each rate."""
        trainer: Any = self
        is_new = trainer.optimizer is None
        optimizer: Any = super().create_optimizer(model)  # pyright: ignore[reportAttributeAccessIssue] the trainer's
        if is_new and self.partial.layerwise_lr_decay < 1:
            scale_rates(optimizer, trainer.model if model is None else model, self.partial.layerwise_lr_decay)
        return optimizer


class PartialTrainer(PartialTrainingMixin, Trainer):
    """The trainer of transformers with rates for layers and unfreezing."""


def scale_rates(optimizer: torch.optim.Optimizer, model: nn.Module, decay: float) -> None:
    """Divides the groups of a new optimizer by the depths of parameters; a rate is multiplied by `decay**depth`."""
    depths = find_depths(model)
    depth_of = {id(parameter): depths[name] for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        members: dict[int, list[Any]] = {}
        for parameter in group["params"]:
            members.setdefault(depth_of.get(id(parameter), 0), []).append(parameter)  # a loss's own: as a head's
        for depth, parameters in sorted(members.items()):
            groups.append({**group, "params": parameters, "lr": group["lr"] * decay**depth})
    optimizer.param_groups[:] = groups


class GradualUnfreezing(TrainerCallback):
    """Trains the head and the top layer first, and one more layer of each stack after every so many steps.

    What was frozen before training stays so. A resumed run goes on where it was.

    Args:
        every: Steps from one layer to the next.

    Source: Howard and Ruder 2018, arXiv 1801.06146, section 3.3.
    """

    def __init__(self, every: int):
        self.every = every
        self._groups: list[list[nn.Parameter]] = []  # by depth, those at the top first

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Finds the layers, after the optimizer has been told of all parameters that will be trained."""
        model: nn.Module = kwargs["model"]
        depths, groups = find_depths(model), {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(max(1, depths[name]), []).append(parameter)
        self._groups = [groups[depth] for depth in sorted(groups)]

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Freezes what is trained later."""
        trained = 1 + state.global_step // self.every
        for place, group in enumerate(self._groups):
            for parameter in group:
                parameter.requires_grad_(place < trained)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Leaves all parameters that it found trained as they were."""
        for parameter in (parameter for group in self._groups for parameter in group):
            parameter.requires_grad_(True)
