"""Every mechanism of Trine as loops in float64, straight from the papers: the truth that the package is compared with.

Nothing here imports the package. One sequence is computed at a time, without batches, padding, packing or caches, so
that those cannot be wrong here; the tests compare each row or segment of a batch with the sequence by itself.
Functions read a config's plain values and a model's weights by their names in the state dict. All of it is
differentiable, so gradients are compared too.
"""

# Shapes: N tokens, H query heads, G key-value heads, D head size, E experts, V vocabulary.

from support.reference.attention import ATTENTIONS
from support.reference.blocks import bigbird_attention, bigbird_blocks
from support.reference.feed_forward import ACTIVATIONS, FEED_FORWARDS, ROUTERS, mixture, mlp
from support.reference.linear_attention import FEATURE_MAPS
from support.reference.losses import balancing_loss, cross_entropy, z_loss
from support.reference.models import (
    logits,
    masked_lm_logits,
    next_sentence_logits,
    transform,
    translation_logits,
    trunk,
)
from support.reference.norms import NORMS
from support.reference.pointer import copy_attention, pointer_coverage, pointer_log_probs
from support.reference.positions import (
    POSITIONS,
    NoPositions,
    RotaryPositions,
    SinusoidalPositions,
    t5_bucket,
)
from support.reference.visibility import SEES
from support.reference.weights import Weights, linear


__all__ = [
    "ACTIVATIONS",
    "ATTENTIONS",
    "FEATURE_MAPS",
    "FEED_FORWARDS",
    "NORMS",
    "POSITIONS",
    "REFERENCES",
    "ROUTERS",
    "SEES",
    "NoPositions",
    "RotaryPositions",
    "SinusoidalPositions",
    "Weights",
    "balancing_loss",
    "bigbird_attention",
    "bigbird_blocks",
    "copy_attention",
    "cross_entropy",
    "linear",
    "logits",
    "masked_lm_logits",
    "mixture",
    "mlp",
    "next_sentence_logits",
    "pointer_coverage",
    "pointer_log_probs",
    "t5_bucket",
    "transform",
    "translation_logits",
    "trunk",
    "z_loss",
]

# Keyed like the rows of `trine.configuration.kinds`; a test fails where a kind has no loop here.
REFERENCES = {"attention": ATTENTIONS, "position": POSITIONS, "feed_forward": FEED_FORWARDS, "router": ROUTERS}
