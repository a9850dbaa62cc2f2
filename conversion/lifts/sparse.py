"""Dense feed-forwards become mixtures of experts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...configuration.configuration_trine import TrineConfig
from .base import LayerLift, layers_of


@dataclass
class SparseLift(LayerLift):
    """Makes `dense` feed-forwards `sparse`: every expert is a copy, and the weights of the chosen ones sum to 1.

    The router is random, so that experts see different tokens and grow apart.
    Source: Komatsuzaki et al. 2022, Sparse Upcycling, arXiv 2212.05055, section 3.
    """

    kind = "sparse"
    becomes = "a feed-forward becomes experts that are its copies, with a random router"
    stays = "everywhere"
    source = "Komatsuzaki et al. 2022, arXiv 2212.05055"
    field_name = "mlp_layer_types"
    sources = ("dense",)
    target = "sparse"
    read_fields = ("num_experts", "num_experts_per_tok", "router_type", "norm_topk_prob")

    num_experts: int | None = field(default=None, metadata={"help": "Experts of a layer."})
    num_experts_per_tok: int | None = field(default=None, metadata={"help": "Experts that a token visits."})
    router_type: str | None = field(default=None, metadata={"help": "softmax or sigmoid."})
    norm_topk_prob: bool | None = field(
        default=None,
        metadata={"help": "Whether the weights of chosen experts are scaled to sum to 1: the function needs it."},
    )
    router_noise: float | None = field(
        default=None,
        metadata={"help": "Standard deviation of the router's weights, above 0. Default: initializer_range."},
    )

    def change(self, config: TrineConfig) -> Sequence[int]:
        """Changes the layers, and checks that equal experts compute together what one does."""
        if self.router_noise is not None and not self.router_noise > 0:
            raise ValueError(
                f"router_noise={self.router_noise} must be above 0: without it every token visits the same experts, "
                "which stay equal."
            )
        readers = [index for index, kind in enumerate(config.mlp_layer_types) if kind == "sparse"]
        layers = super().change(config)
        if not readers:
            config.router_aux_loss_coef = None  # pyright: ignore[reportAttributeAccessIssue] derived, as for a new config
        config.derive_experts()
        change_width(config, readers)
        check_exact(config)
        return layers

    @torch.no_grad()
    def fill(self, old: Any, new: Any) -> None:
        """Makes every expert a copy of the dense feed-forward."""
        for index in layers_of(old, new, self.field_name):
            dense, sparse = (model.get_submodule(f"layers.{index}.mlp") for model in (old, new))
            copy_experts(dense, sparse.experts)
            if self.router_noise is not None:
                sparse.gate.weight.normal_(std=self.router_noise)


def change_width(config: TrineConfig, readers: list[int]) -> None:
    """Makes experts as wide as the dense feed-forward, unless there are experts of another width already."""
    if readers and config.moe_intermediate_size != config.intermediate_size:
        raise ValueError(
            f"moe_intermediate_size={config.moe_intermediate_size} of the layers {readers}, which are sparse already, "
            f"must be intermediate_size={config.intermediate_size}: experts are copies of the dense feed-forward."
        )
    config.moe_intermediate_size = config.intermediate_size


def check_exact(config: TrineConfig) -> None:
    """Raises a `ValueError` unless equal experts compute together what one of them does."""
    required: dict[str, Any] = {"num_shared_experts": 0, "routed_scaling_factor": 1}
    if config.router_type != "softmax" or config.num_experts_per_tok != config.num_experts:
        required["norm_topk_prob"] = True
    for name, value in required.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{name}={getattr(config, name)!r} changes the function: copies of a feed-forward compute the same "
                f"only with {name}={value!r}."
            )


def copy_experts(dense: Any, experts: Any) -> None:
    """Makes every expert a copy of a dense feed-forward, gate and up projection stacked where there are both."""
    up = [dense.gate_proj, dense.up_proj] if hasattr(dense, "gate_proj") else [dense.up_proj]
    name = "gate_up_proj" if len(up) == 2 else "up_proj"
    for target, sources in {name: up, "down_proj": [dense.down_proj]}.items():
        getattr(experts, target).copy_(torch.cat([source.weight for source in sources]))
        if sources[0].bias is not None:
            getattr(experts, f"{target}_bias").copy_(torch.cat([source.bias for source in sources]))
    experts.act_fn.load_state_dict(dense.act_fn.state_dict())  # some activations learn
