"""Shows what a model attends to: attention maps, experts and next tokens, as pictures and as one page."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .attention import NoWeights, Reading, WeightMap, alignment, attention_maps, read
    from .copies import CopyShare, copy_map
    from .expert_routing import expert_maps, experts_by_tag
    from .next_tokens import NextToken, next_token_probabilities
    from .page import write_page
    from .pictures import draw_map

__all__ = [
    "CopyShare",
    "NextToken",
    "NoWeights",
    "Reading",
    "WeightMap",
    "alignment",
    "attention_maps",
    "copy_map",
    "draw_map",
    "expert_maps",
    "experts_by_tag",
    "next_token_probabilities",
    "read",
    "write_page",
]

__getattr__, __dir__ = lazy_names(__name__)
