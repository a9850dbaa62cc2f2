"""What the heads on a Trine trunk share: the trunk, and the router losses of its experts."""

from typing import Any

import torch
from transformers.utils import logging

from ...configuration.choices import Choices
from ..checks.ids import check_router_request
from ..feed_forward.balancing import router_losses
from ..feed_forward.routers import TrineRouter
from ..losses import batch_share
from ..modeling_trine import TrineModel, TrinePreTrainedModel
from ..outputs import TrineModelOutput


logger = logging.get_logger(__name__)


def routers_of(trunk: TrineModel) -> list[TrineRouter]:
    """The routers of a trunk, in the order of its sparse layers."""
    kinds = trunk.config.mlp_layer_types[: trunk.config.num_hidden_layers]  # fewer where a draft leaves early
    layers: Any = trunk.layers[: len(kinds)]
    return [layer.mlp.gate for layer, kind in zip(layers, kinds, strict=True) if kind == "sparse"]


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
    aux_loss, z_loss = router_losses(routers_of(trunk), router_logits, mask, config.router_aux_loss_reduction)
    return aux_loss, config.router_aux_loss_coef * aux_loss + config.router_z_loss_coef * z_loss


BALANCING = Choices("mlp_layer_types", {"sparse": balancing_losses})


def wants_router_logits(config, output_router_logits: bool | None) -> bool:
    """The argument of a head's `forward`, or what its config says in its place."""
    return config.output_router_logits if output_router_logits is None else output_router_logits


INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


class TrineHead(TrinePreTrainedModel):
    """A model with a head on a trunk, which its subclasses make and call `model`."""

    model: TrineModel

    def run_trunk(self, output_router_logits: bool | None, has_labels: bool, **inputs) -> TrineModelOutput:
        """The trunk's outputs, with router logits if they are asked for or if training needs them for its losses."""
        check_router_request(self.config, output_router_logits)
        is_sparse = "sparse" in self.config.mlp_layer_types
        needed = wants_router_logits(self.config, output_router_logits) or (self.training and has_labels)
        return self.model(**inputs, output_router_logits=is_sparse and needed)

    def read(self, inputs: tuple, router_logits: bool | None, has_labels: bool, **kwargs) -> TrineModelOutput:
        """`run_trunk` of what all classifiers take: the arguments `INPUTS`, in this order."""
        return self.run_trunk(router_logits, has_labels, **dict(zip(INPUTS, inputs, strict=True)), **kwargs)

    def recorded(self, outputs: TrineModelOutput, output_router_logits: bool | None) -> dict:
        """What the trunk recorded, as the outputs of the heads name it; router logits only if they are asked for."""
        wanted = wants_router_logits(self.config, output_router_logits)
        return {
            "hidden_states": outputs.hidden_states,
            "attentions": outputs.attentions,
            "second_attentions": outputs.second_attentions,
            "router_logits": outputs.router_logits if wanted else None,
        }

    def add_router_losses(
        self,
        loss: torch.Tensor | None,
        outputs: TrineModelOutput,
        attention_mask: torch.Tensor | None,
        targets: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The loss with the router losses, which training adds, and the load-balancing loss alone.

        Args:
            loss: The loss of the head, or None.
            targets: What the head predicts; with `num_items_in_batch` it tells the share of this micro-batch in the
                optimizer step, which weighs the router losses.
        """
        if not outputs.router_logits:
            return loss, None
        aux_loss, total = BALANCING["sparse"](self.model, outputs.router_logits, attention_mask)
        if loss is not None and self.training:
            share = 1.0 if targets is None else batch_share(targets, num_items_in_batch)
            loss = loss + total.to(loss.device) * share
        return loss, aux_loss


__all__ = ["TrineHead"]
