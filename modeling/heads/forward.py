"""The `forward` of heads: arguments are named in order; what they are stands with the trunk and in `predict`."""

from collections.abc import Callable
from functools import wraps
from inspect import Signature, signature
from typing import Any, Unpack

import torch
from transformers.utils.generic import TransformersKwargs, can_return_tuple


Target = torch.Tensor | None
Kept = int | torch.Tensor
# What classifiers and their like read, and with labels.
TEXT = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
LABELLED = (*TEXT, "labels", "output_router_logits")
SPAN = ("start_positions", "end_positions", "output_router_logits")


def make_forward(trunk: type, names: tuple[str, ...], predict: Callable, output_class: type) -> Callable[..., Any]:
    """The `forward` of a head, which sorts its arguments and hands them to `answer`.

    Whoever inspects it finds a signature as if it were written out. transformers' `Trainer` keeps the columns of a
    data set that it names.

    Args:
        trunk: The class of the trunk. What its `forward` takes is passed on to it.
        names: All arguments, in order.
        predict: The head's `predict`. What it takes are targets, where the default is None, or options.
        output_class: What is returned.
    """

    def forward(self, output_router_logits: bool | None = None, **kwargs: Unpack[TransformersKwargs]) -> Any:  # pyright: ignore[reportGeneralTypeIssues] as in transformers
        """Computes what the class predicts, and the loss if there are targets. Other arguments are those of the trunk.

        Args:
            output_router_logits: Whether to return router logits and the load-balancing loss, `aux_loss`.
            kwargs: Also `num_items_in_batch`, the number of targets in all micro-batches of an optimizer step.

        Returns:
            `loss`: a mean over the targets. In training the router losses, times their coefficients, are added for
            sparse models; in evaluation they are not, so that losses compare. The predictions, and what was asked for.

        Raises:
            ValueError: Targets have another type or shape, or are none of the classes, or what the trunk raises.
        """

    reads, asks, own = (dict(signature(function).parameters) for function in (trunk.forward, predict, forward))
    parameters = [(asks | reads | own)[name] for name in ("self", *names, "kwargs")]
    forward.__annotations__ = {"return": output_class}
    inputs = [name for name in names if name in reads]
    targets = [name for name in names if name in asks and asks[name].default is None]
    options = [name for name in names if name in asks and asks[name].default is not None]

    @can_return_tuple
    @wraps(forward)
    def sort_and_answer(self, *args, **kwargs):
        if len(args) > len(names):
            raise TypeError(f"forward takes {len(names)} arguments without their names, but {len(args)} were given.")
        given: dict[str, Any] = dict(**dict(zip(names, args, strict=False)), **kwargs)
        read, compared = ({name: given.pop(name, None) for name in part} for part in (inputs, targets))
        chosen = {name: given.pop(name) for name in options if name in given}
        return self.answer(read, compared, given.pop("output_router_logits", None), given, **chosen)

    # Not before it is wrapped, which would copy it, `self` included, to whatever wraps the bound method.
    forward.__signature__ = Signature(parameters, return_annotation=output_class)
    return sort_and_answer
