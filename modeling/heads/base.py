"""The template of all heads, what the heads on one trunk share, and what hidden states pass before one reads them."""

from collections.abc import Callable
from functools import wraps
from inspect import Signature, signature
from typing import Any, Generic, TypeVar, Unpack

import torch
from torch import nn
from transformers.utils import logging
from transformers.utils.generic import ModelOutput, TransformersKwargs, can_return_tuple

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from ..checks.ids import REQUEST_CHECKS
from ..feed_forward.balancing import router_losses
from ..feed_forward.mlp import make_activation
from ..feed_forward.routers import TrineRouter
from ..losses import batch_share
from ..modeling_trine import TrineModel, TrinePreTrainedModel
from ..norms import make_norm


logger = logging.get_logger(__name__)

Output = TypeVar("Output", bound=ModelOutput)
Prediction = tuple[torch.Tensor | None, torch.Tensor | None, dict[str, Any]]  # loss, targets, fields of the output


def routers_of(trunk: TrineModel) -> dict[int, TrineRouter]:
    """The routers of a trunk, by the number of their layer."""
    kinds = trunk.config.mlp_layer_types[: trunk.config.num_hidden_layers]  # fewer where a draft leaves early
    layers: Any = trunk.layers[: len(kinds)]
    return {index: layers[index].mlp.gate for index, kind in enumerate(kinds) if kind == "sparse"}


def balancing_losses(
    trunk: TrineModel, router_logits: tuple[torch.Tensor, ...], attention_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The load-balancing loss of a trunk's forward pass, and all router losses times their coefficients.

    Args:
        router_logits: (batch * length, experts) for each sparse layer.
        attention_mask: 1 for a token, 0 for padding, (batch, length); any other form says nothing about padding.
    """
    if trunk.training and torch.is_grad_enabled() and not router_logits[0].requires_grad:
        logger.warning_once(
            "The router losses have no gradient: reentrant gradient checkpointing hides it. "
            "Use gradient_checkpointing_kwargs={'use_reentrant': False}."
        )
    is_padding_mask = isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2
    mask = attention_mask if is_padding_mask else None
    config = trunk.config
    aux_loss, z_loss = router_losses(
        list(routers_of(trunk).values()), router_logits, mask, config.router_aux_loss_reduction
    )
    return aux_loss, config.router_aux_loss_coef * aux_loss + config.router_z_loss_coef * z_loss


def add_router_losses(
    loss: torch.Tensor | None,
    targets: torch.Tensor | None,
    routed: list[tuple[Any, Any, Any]],
    num_items_in_batch: torch.Tensor | int | None,
    is_training: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The loss with the router losses, which training adds, and the mean load-balancing loss of the stacks.

    Args:
        loss: The loss of the head, or None.
        targets: What the head predicts; with `num_items_in_batch` it tells the share of this micro-batch in the
            optimizer step, which weighs the router losses.
        routed: Each stack of layers, its router logits, and the mask of what it read.
    """
    losses = [balancing_losses(trunk, logits, mask) for trunk, logits, mask in routed if logits]
    if not losses:
        return loss, None
    if loss is not None and is_training:
        share = 1.0 if targets is None else batch_share(targets, num_items_in_batch)
        loss = loss + sum(total.to(loss.device) for _, total in losses) * share
    return loss, sum(aux_loss for aux_loss, _ in losses) / len(losses)  # pyright: ignore[reportReturnType] a tensor


ROUTER_LOSSES = Choices("mlp_layer_types", {"sparse": add_router_losses})


class Head(Generic[Output]):
    """A model with a head on a trunk, which its subclasses make and call `model`.

    A head is its `__init__`, its `output_class` and `predict`; its `forward` hands its arguments to `answer`, by name.
    """

    model: Any
    config: Any
    training: bool
    output_class: type[Output]
    records: dict[str, str]  # what the trunk recorded: the field of the output, and that of the trunk's

    def answer(
        self, inputs: dict[str, Any], targets: dict[str, Any], output_router_logits: bool | None, kwargs: Any, **asked
    ) -> Output:
        """The forward pass of every head: trunk, prediction, loss, router losses, output.

        Args:
            inputs: What the trunk reads, by name.
            targets: What the head compares its predictions with, by name; None where there is none.
            output_router_logits: Whether to return router logits. Default: what the config says.
            kwargs: What else `forward` was given, for the trunk and for the losses.
            asked: What `predict` alone reads.
        """
        for check in REQUEST_CHECKS:
            check(self.config, output_router_logits)
        wanted = self.config.output_router_logits if output_router_logits is None else output_router_logits
        has_targets = any(target is not None for target in targets.values())
        needed = self.has_experts() and (wanted or self.training and has_targets)
        outputs = self.model(**{**kwargs, **inputs, "output_router_logits": needed, "return_dict": True})
        loss, counted, fields = self.predict(outputs, inputs, **targets, **kwargs, **asked)
        if needed:
            routed, items = self.routed(outputs, inputs), kwargs.get("num_items_in_batch")
            loss, fields["aux_loss"] = ROUTER_LOSSES["sparse"](loss, counted, routed, items, self.training)
        names = {field: name for field, name in self.records.items() if wanted or "router" not in name}
        return self.output_class(
            loss=loss, **fields, **{field: getattr(outputs, name) for field, name in names.items()}
        )

    def predict(self, outputs: Any, inputs: dict[str, Any], **kwargs) -> Prediction:
        """Predicts from the trunk's outputs, and computes the loss with the targets, which are among `kwargs`.

        Returns:
            The loss if there are labels; what is predicted, whose number tells the share of this micro-batch in the
            optimizer step; and the other fields of the output.
        """
        raise NotImplementedError

    def has_experts(self) -> bool:
        return "sparse" in self.config.mlp_layer_types

    def routed(self, outputs: Any, inputs: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
        """Each stack of layers, its router logits, and the mask of what it read."""
        return [(self.model, outputs.router_logits, inputs["attention_mask"])]


class TrineHead(TrinePreTrainedModel, Head[Output]):  # FSDP2 compares layouts, which the first base decides
    """A head on one trunk."""

    model: TrineModel
    records = {name: name for name in ("hidden_states", "attentions", "second_attentions", "router_logits")}


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
        """Computes what the class predicts, and the loss if there are targets. Other arguments are the trunk's.

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


class HeadTransform(nn.Module):
    """`norm(act(W x + b))` on every state by itself, (..., hidden) to the same shape.

    Source: Devlin et al. 2018, BERT, arXiv 1810.04805, as released; for classifiers Warner et al. 2024, ModernBERT,
    arXiv 2412.13663, likewise.
    """

    def __init__(self, config: TrineConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = make_activation(config)
        self.norm = make_norm(config, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.act_fn(self.dense(hidden_states)))


CLASSIFIER_TRANSFORMS = Choices("classifier_transform", {False: nn.Identity, True: HeadTransform})


def make_transform(config: TrineConfig) -> nn.Module:
    """The transform that a classifier applies to its states, as `config.classifier_transform` says."""
    return CLASSIFIER_TRANSFORMS[config.classifier_transform](config)


__all__ = ["TrineHead"]
