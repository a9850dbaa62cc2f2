"""Measures how much a lift changed the outputs, on texts or on random tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...modeling.modeling_trine import TrineModel
from ..equivalence import compare_outputs, random_inputs


def largest_change(
    model: Any, lifted: Any, inputs: dict[str, torch.Tensor] | None = None, *, length: int | None = None
) -> float:
    """The largest difference between the outputs of a model and of its lift, for all tokens but padding.

    Where an encoder has got a decoder, its states are compared; `model` may also be the decoder that it was given,
    whose logits are then compared.

    Args:
        inputs: `input_ids` and `attention_mask`, (texts, length), as a tokenizer makes them. Default: random tokens of
            two texts, one padded on the right.
        length: Tokens of the random texts. Default: 24, or half of the positions where they are fewer.

    Returns:
        The difference, in the type of the models: their rounding is part of it.
    """
    if inputs is None:
        inputs = random_inputs(model.config, type(model).__name__, length)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    if model.config.is_encoder_decoder:  # one and the same text will do
        ids = inputs["input_ids"].flatten(0, -2)
        inputs = {"decoder_input_ids": ids % model.config.vocab_size, **inputs}
        inputs["input_ids"] = inputs["input_ids"] % model.config.encoder.vocab_size
    given, lifted_inputs = inputs, inputs
    if lifted.config.is_encoder_decoder and not model.config.is_encoder_decoder:
        if model.config.is_causal:
            lifted_inputs = {"decoder_input_ids": inputs["input_ids"], **inputs}
            lifted_inputs["decoder_attention_mask"] = inputs["attention_mask"]
            limit = lifted.config.encoder.vocab_size
            lifted_inputs["input_ids"] = inputs["input_ids"] % limit  # any source will do
        else:
            model = next(module for module in model.modules() if isinstance(module, TrineModel))
            lifted = lifted.get_encoder()
    with torch.no_grad(), evaluating(model, lifted):
        before, after = model(**given, use_cache=False), lifted(**lifted_inputs, use_cache=False)
    return compare_outputs(before, after, inputs)[0]


@contextmanager
def evaluating(*models: Any) -> Iterator[None]:
    """Sets models to evaluation mode, and back at the end."""
    modules = {module: module.training for model in models for module in model.modules()}
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modules.items():
            module.training = mode


def exact_length(model: Any, lifted: Any, made: Any) -> int | None:
    """Tokens up to which all stacks of a lifted model compute the same; None for any number."""
    stacks = [[part.config for part in each.modules() if isinstance(part, TrineModel)] for each in (model, lifted)]
    lengths = [made.exact_length(before, after) for before, after in zip(*stacks, strict=False)]
    return min((length for length in lengths if length is not None), default=None)
