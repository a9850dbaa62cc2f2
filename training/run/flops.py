"""Model FLOPs: operations that a training step of one stack must compute, however it is computed."""

# Shapes: L tokens of a sequence.

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ...configuration.attention_costs import PASSES
from ...configuration.configuration_trine import TrineConfig
from ...configuration.kinds import ATTENTION_KINDS


def flops_per_token(model: PreTrainedModel, length: int) -> float:
    """Floating-point operations for one token of a training step, forward and backward, averaged over a sequence.

    Counted are matrix products with weights (experts by the share that a token visits; embeddings that are only looked
    up not at all) and the products of attention with the tokens that a token sees. Recomputation is not counted, nor
    are norms, activations and softmax; the head counts for all tokens.

    Args:
        length: L, tokens of a sequence.

    Source: Chowdhery et al. 2022, PaLM, arXiv 2204.02311, appendix B.
    """
    config: Any = model.config
    products = sum(attention_products(kind, config, length) for kind in config.attention_types)
    return PASSES * (2 * active_parameters(model) + products)


def attention_products(kind: str, config: TrineConfig, length: int) -> float:
    """Operations per token that mix tokens, in a forward pass of one layer over `length` tokens."""
    about = ATTENTION_KINDS[kind].about
    if about.products is not None:
        return about.products(config)
    # A pair takes a multiplication and an addition a feature in the logits, and as much in the weighted sum.
    return 4 * config.num_attention_heads * config.head_dim * about.pairs(config, length) / length


def active_parameters(model: PreTrainedModel) -> float:
    """The number of parameters in matrix products that a token meets, on average."""
    config, embeddings, total = model.config, model.get_input_embeddings(), 0.0
    head: Any = model.get_output_embeddings()
    is_tied = head is not None and head.weight is embeddings.weight
    for name, module in model.named_modules():
        # A tied head is counted once, as the head; other embeddings are only looked up.
        if isinstance(module, nn.Embedding) and not (module is embeddings and is_tied):
            continue
        if module is head and is_tied:
            continue
        weights = [
            weight.numel()
            for part, weight in module.named_parameters(recurse=False)
            if weight.dim() > 1 and not part.endswith("_proj_bias")  # those of experts are stacked
        ]
        share = config.num_experts_per_tok / config.num_experts if name.endswith(".experts") else 1.0
        total += share * sum(weights)
    return total
