"""A router whose weights are a softmax with a temperature."""

import torch

from trine import KindField, TrineRouter, register_router


@register_router("start", fields={"start_temperature": KindField(1.0, "What logits are divided by.", above=0)})
class Start(TrineRouter):
    """Chooses the experts of highest score. Override `scores`, `preferences` or `choose`."""

    def scores(self, router_logits):
        """Maps logits (tokens, experts) to affinities in float32 at least."""
        dtype = torch.promote_types(router_logits.dtype, torch.float32)
        return (router_logits.to(dtype) / self.config.start_temperature).softmax(dim=-1)
