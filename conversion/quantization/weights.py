"""Which weights of a model can have fewer bits, and why the others cannot; the rules that tell torchao."""

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import reduce
from math import gcd
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ...modeling.feed_forward.experts import StackedExperts
from .schemes import GROUP_SIZE, SCHEMES, Scheme


@dataclass
class Weight:
    """A tensor of a checkpoint, and how it is stored in the quantised one.

    Attributes:
        name: In the state dict; tied ones have several, of which this is the first.
        names: All of them.
        shape: Outputs before inputs.
        kind: Of `KINDS`, or "".
        before: Bytes in the source.
        after: Bytes in the target.
        stored: Such as "int8", or the type of its numbers.
        why: The reason why it is not quantised, or quantised otherwise than the others.
    """

    name: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    kind: str
    before: int
    after: int
    stored: str
    why: str = ""

    @property
    def is_quantized(self) -> bool:
        """Whether it has fewer bits than before."""
        return self.stored.startswith("int")


# The kinds of weights that can have fewer bits: by the module that holds them, and the dimensions of the weight.
KINDS: dict[str, tuple[tuple[type, ...], int]] = {
    "linear": ((nn.Linear,), 2),
    "experts": ((StackedExperts,), 3),
    "lstm": ((nn.LSTM,), 2),
}
NOT_ASKED = "embeddings and the head over the vocabulary: --embeddings"


def find_weights(model: Any, scheme: Scheme, embeddings: bool = False) -> list[Weight]:
    """The tensors of a model with what a scheme makes of each; `after` is that of the source until it is stored.

    Args:
        model: Any model of transformers; a meta device will do.
        scheme: One with rules.
        embeddings: Whether the embeddings of tokens and the head over the vocabulary are quantised, too.
    """
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    tables = [table for part in parts for table in (input_embeddings(part), part.get_output_embeddings()) if table]
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    found = {}
    for module in model.modules():
        is_table = any(module is table for table in tables) or is_lookup(module, tables)
        for name, tensor in own_tensors(module):
            if id(tensor) in names:
                kind = kind_of(module, name, tensor, is_table)
                found.setdefault(id(tensor), (tensor, kind, "" if kind else why_not(module, name, tensor)))
    weights = []
    for key, own in names.items():
        tensor, kind, reason = found[key]
        stored = str(tensor.dtype).removeprefix("torch.")
        weight = Weight(own[0], tuple(own), tuple(tensor.shape), kind, tensor.nbytes, tensor.nbytes, stored, reason)
        if kind == "embedding" and not embeddings:
            weight.why = NOT_ASKED
        elif kind in scheme.rules:
            weight.stored, weight.why = scheme.rules[kind].stored, scheme.rules[kind].note
        weights.append(weight)
    return weights


def input_embeddings(model: PreTrainedModel) -> nn.Module | None:
    """The embeddings of a model's tokens, or None where a part has none."""
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def is_lookup(module: nn.Module, tables: Collection[Any]) -> bool:
    """Whether a module reads the same table as one of `tables`: a tied embedding of an encoder, for example."""
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Embedding | nn.Linear) and any(
        weight is getattr(table, "weight", None) for table in tables
    )


def own_tensors(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The parameters and buffers of a module itself, with their names there."""
    for tensors in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in tensors.items() if tensor is not None)


def kind_of(module: nn.Module, name: str, tensor: Any, is_table: bool) -> str:
    """The kind of a tensor of a module, or "" for one that stays as it is."""
    if is_table and name == "weight":
        return "embedding"
    if name.endswith(("bias", REVERSE)) or not tensor.is_floating_point():
        return ""
    kinds = (
        kind for kind, (types, dimensions) in KINDS.items() if isinstance(module, types) and tensor.ndim == dimensions
    )
    return next(kinds, "")


REVERSE = "_reverse"  # of an LSTM
REASONS: tuple[tuple[Callable[[nn.Module, str, Any], bool], str], ...] = (
    (lambda module, name, tensor: not tensor.is_floating_point(), "not floating-point"),
    (lambda module, name, tensor: tensor.ndim < 2 or name.endswith("bias"), "a norm, a bias or the like"),
    (lambda module, name, tensor: isinstance(module, nn.Embedding), "a small table, whose rows are added"),
    (
        lambda module, name, tensor: name.endswith(REVERSE),
        "torchao loads its parts under the name of the other direction",
    ),
    (lambda module, name, tensor: "Router" in type(module).__name__, "a router: small differences choose the experts"),
)


def why_not(module: nn.Module, name: str, tensor: Any) -> str:
    """The reason why a tensor of no kind stays as it is."""
    reasons = (reason for holds, reason in REASONS if holds(module, name, tensor))
    return next(reasons, "no layer of a kind that is quantised")


GROUPED = {rule.stored for scheme in SCHEMES.values() for rule in scheme.rules.values() if rule.is_grouped}


def check_groups(weights: list[Weight], group_size: int = GROUP_SIZE) -> None:
    """Refuses a group size that does not divide the inputs of a weight of few bits.

    Raises:
        ValueError: The message names the weight, and the sizes that divide all.
    """
    if group_size < 1:
        raise ValueError(f"group_size={group_size} must be at least 1.")
    grouped = [weight for weight in weights if weight.stored in GROUPED]
    bad = [weight for weight in grouped if weight.shape[-1] % group_size]
    if not bad:
        return
    common = reduce(gcd, (weight.shape[-1] for weight in grouped))
    fitting = [size for size in range(2, common + 1) if common % size == 0]
    more = f" and of {len(bad) - 1} more" if len(bad) > 1 else ""
    choice = f"Choose one of {fitting}" if fitting else "No size divides all"
    raise ValueError(
        f"group_size={group_size} does not divide the {bad[0].shape[-1]} inputs of {bad[0].name}{more}. {choice}, or "
        "scheme='int8', which has no groups."
    )


def make_settings(weights: list[Weight], scheme: Scheme, group_size: int = GROUP_SIZE) -> Any:
    """The `TorchAoConfig` with which transformers loads and quantises these weights, and no others."""
    from torchao.quantization import FqnToConfig  # pyright: ignore[reportMissingImports] optional
    from transformers import TorchAoConfig

    everything = [name for weight in weights for name in weight.names]
    rules: OrderedDict[str, Any] = OrderedDict()
    for kind, rule in scheme.rules.items():
        wanted = {name for weight in weights if weight.kind == kind and weight.is_quantized for name in weight.names}
        rules |= dict.fromkeys(make_patterns(wanted, everything), rule.make(group_size))
    return TorchAoConfig(FqnToConfig(rules), modules_to_not_convert=[], include_input_output_embeddings=True)


def make_patterns(wanted: Collection[str], everything: Collection[str]) -> list[str]:
    """Patterns of torchao for some tensors: one for the same tensor of all layers, if it means no other.

    They are for whole names of tensors: the name of a module would stand for its bias, too.
    """
    patterns: dict[str, list[str]] = {}
    for name in sorted(wanted):
        patterns.setdefault(re.sub(r"\\\.\d+(?=\\\.)", r"\\.\\d+", re.escape(name)), []).append(name)
    made = []
    for pattern, names in patterns.items():
        meant = {name for name in everything if re.fullmatch(pattern, name)}
        made += [f"re:{pattern}"] if meant <= set(wanted) and len(names) > 1 else names
    return made


def stored_bytes(tensors: dict[str, int]) -> dict[str, int]:
    """Bytes of each tensor of a model, of the bytes of the tensors in its files: a quantised one is several there."""
    found: dict[str, int] = {}
    for name, size in tensors.items():
        match = re.fullmatch(r"(.*\.)_(\w+?)_(qdata|scale|zero_point)", name)
        found[match[1] + match[2] if match else name] = found.get(match[1] + match[2] if match else name, 0) + size
    return found
