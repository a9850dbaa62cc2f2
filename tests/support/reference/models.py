"""The whole model: a trunk, and what its heads read from it."""

import math

import torch
from support.reference.attention import ATTENTIONS, cross_attention
from support.reference.feed_forward import ACTIVATIONS, FEED_FORWARDS
from support.reference.norms import NORMS
from support.reference.positions import POSITIONS
from support.reference.weights import Weights, linear


def trunk(config, weights: Weights, tokens: list[int], segments=None, source=None) -> torch.Tensor:
    """Last hidden states (N, hidden) of one sequence.

    `segments` are numbers, one a token, all 0 by default; `source` is what cross-attention looks at, (M, hidden).
    """
    scale = math.sqrt(config.hidden_size) if config.scale_embedding else 1.0
    positions = POSITIONS[config.position_type](config, weights["positions"])
    table = weights["embed_tokens.weight"]
    x = torch.stack([positions.add(scale * table[token], p) for p, token in enumerate(tokens)])
    if config.type_vocab_size:  # Devlin et al. 2018, arXiv 1810.04805, figure 2
        x = x + weights["token_type_embeddings.weight"][segments or [0] * len(tokens)]

    def norm(name, states):
        return NORMS[config.norm_type](states, weights[name], config.norm_eps)

    if config.embedding_norm:
        x = norm("embedding_norm", x)

    for index in range(config.num_hidden_layers):
        layer = weights[f"layers.{index}"]
        first, second = f"layers.{index}.input_layernorm", f"layers.{index}.post_attention_layernorm"
        attention, feed_forward = (
            ATTENTIONS[config.attention_types[index]],
            FEED_FORWARDS[config.mlp_layer_types[index]],
        )
        between = f"layers.{index}.cross_attention_layernorm"
        here = positions.of_layers(config.layer_types[index])
        has_norm = index > 0 or config.first_attention_norm
        if config.norm_position == "pre":  # Xiong et al. 2020, arXiv 2002.04745, figure 1b
            x = x + attention(config, layer["self_attn"], norm(first, x) if has_norm else x, here)
            if source is not None:
                x = x + cross_attention(config, layer["cross_attn"], norm(between, x), source)
            x = x + feed_forward(config, layer["mlp"], norm(second, x))
        else:  # figure 1a
            x = norm(first, x + attention(config, layer["self_attn"], x, here))
            if source is not None:
                x = norm(between, x + cross_attention(config, layer["cross_attn"], x, source))
            x = norm(second, x + feed_forward(config, layer["mlp"], x))
    return norm("norm", x) if config.norm_position == "pre" else x


def logits(config, weights: Weights, tokens: list[int]) -> torch.Tensor:
    """Logits (N, V) of a `TrineForCausalLM`."""
    return linear(trunk(config, weights["model"], tokens), weights["lm_head"])


def masked_lm_logits(config, weights: Weights, tokens: list[int], segments=None) -> torch.Tensor:
    """Logits (N, V) of a masked language model: Devlin et al. 2018, arXiv 1810.04805, as released."""
    states = trunk(config, weights["model"], tokens, segments)
    return linear(transform(config, weights["transform"], states), weights["lm_head"])


def transform(config, weights: Weights, states: torch.Tensor) -> torch.Tensor:
    """What a head makes of hidden states (N, hidden) before it reads them."""
    states = ACTIVATIONS[config.hidden_act](linear(states, weights["dense"]))
    return NORMS[config.norm_type](states, weights["norm"], config.norm_eps)


def next_sentence_logits(config, weights: Weights, tokens: list[int], segments=None) -> torch.Tensor:
    """Logits (2,) of next-sentence prediction, from the pooled first token."""
    first = trunk(config, weights["model"], tokens, segments)[:1]
    pooled = torch.tanh(linear(first, weights["model"]["pooler"]["dense"]))
    return linear(pooled, weights["seq_relationship"])[0]


def translation_logits(config, weights: Weights, source: list[int], target: list[int]) -> torch.Tensor:
    """Logits (N, V) of an encoder-decoder that reads `source` and then `target`: Vaswani et al. 2017, section 3.1."""
    memory = trunk(config.encoder, weights["model"]["encoder"], source)
    states = trunk(config.decoder, weights["model"]["decoder"], target, source=memory)
    return linear(states * config.logit_scale, weights["lm_head"])
