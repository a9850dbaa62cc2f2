"""Finds the weights that get LoRA adapters by their role in the model."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from ...configuration.patterns import check_choice


PARTS = ("attention", "feed_forward", "experts")
ROUTERS = ("gate", "router", "shared_expert_gate")


def lora_targets(
    config_or_model: PreTrainedConfig | nn.Module, parts: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """The names of the chosen parts of every layer, for `peft.LoraConfig(**lora_targets(model))`.

    `attention` is all projections of self- and cross-attention, second keys and values of simplicial layers included;
    `feed_forward` the dense feed-forwards and the shared experts; `experts` the routed ones, whose fused
    three-dimensional weights PEFT reaches as parameters. Embeddings, norms, routers and heads are left alone.
    It serves encoders, decoders and encoder-decoders, of Trine and of others.

    Args:
        config_or_model: A model, or a config, of whose model only the shapes are made.
        parts: Some of `PARTS`. Default: all that the model has.

    Returns:
        `target_modules` and `target_parameters`, endings of names that match the chosen parts and nothing else.

    Raises:
        ValueError: An unknown part, a part that the model does not have, or a model with none of them.
    """
    if isinstance(parts, str):
        raise TypeError(f"parts={parts!r} is one part; pass a list.")
    for part in parts or ():
        check_choice("parts", part, PARTS)
    model = config_or_model if isinstance(config_or_model, nn.Module) else _shapes_of(config_or_model)
    found: dict[str, dict[str, list[str]]] = {part: {"modules": [], "parameters": []} for part in PARTS}
    for kind, part, name in _adaptable(model):
        found[part][kind].append(name)
    present = [part for part in PARTS if any(found[part].values())]
    missing = [part for part in parts or () if part not in present]
    if missing or not present:
        raise ValueError(f"parts={parts} are not all in {type(model).__name__}, which has {present}.")
    chosen = [found[part] for part in parts or present]
    modules, parameters = ([name for names in chosen for name in names[kind]] for kind in ("modules", "parameters"))
    return {
        "target_modules": _endings(modules, [name for name, _ in model.named_modules()], 1),
        "target_parameters": _endings(parameters, [name for name, _ in model.named_parameters()], 2),
    }


def make_lora_config(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    use_dora: bool = False,
    targets: Sequence[str] | None = None,
    **fields: Any,
) -> LoraConfig:
    """A `LoraConfig` for the parts `targets` of `model`; `fields` are more of its fields, such as `task_type`.

    Source: Hu et al. 2021, LoRA, arXiv 2106.09685; `use_dora`: Liu et al. 2024, DoRA, arXiv 2402.09353.

    Raises:
        ValueError: As `lora_targets`; or dropout or DoRA with fused experts, for which neither is defined.
    """
    names = lora_targets(model, targets)
    if names["target_parameters"]:
        for name, value in (("dropout", dropout), ("use_dora", use_dora)):
            if value:
                raise ValueError(
                    f"{name}={value} does not go with the fused experts {names['target_parameters']}: turn it off, or "
                    "leave 'experts' out of targets."
                )
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, use_dora=use_dora, **names, **fields)  # pyright: ignore[reportArgumentType] fractions of alpha are fine


def _shapes_of(config: PreTrainedConfig) -> nn.Module:
    with torch.device("meta"):
        return AutoModel.from_config(config)


def _adaptable(model: nn.Module) -> Iterator[tuple[str, str, str]]:
    """The kind ("modules", "parameters"), the part and the name of all in numbered layers that can be adapted."""
    for name, module in model.named_modules():
        steps = name.lower().split(".")
        if not any(step.isdigit() for step in steps):
            continue
        if "experts" in steps:
            part = "experts"
        elif any("attn" in step or "attention" in step for step in steps):
            part = "attention"
        else:
            part = "feed_forward"
        if isinstance(module, (nn.Linear, Conv1D)) and steps[-1] not in ROUTERS:
            yield "modules", part, name
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if part == "experts" and parameter.ndim == 3:
                yield "parameters", part, f"{name}.{parameter_name}"


def _endings(names: Sequence[str], others: Sequence[str], least: int) -> list[str]:
    """The shortest ending of each name, of at least `least` steps, that no name of `others` except `names` has."""
    chosen, everywhere = (
        Counter(ending for name in group for ending in _all_endings(name)) for group in (names, others)
    )
    endings = {
        next(ending for ending in (*_all_endings(name)[least - 1 :], name) if chosen[ending] == everywhere[ending])
        for name in names
    }
    return sorted(endings)


def _all_endings(name: str) -> list[str]:
    """All endings of a name with dots, the shortest first: `b.c` ends in `c` and `b.c`."""
    steps = name.split(".")
    return [".".join(steps[-length:]) for length in range(1, len(steps) + 1)]
