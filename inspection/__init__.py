"""Shows what a model attends to and what words are to it: attention, experts, next tokens, as pictures and pages."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .attention import NoWeights, Reading, WeightMap, alignment, attention_maps, read
    from .copies import CopyShare, copy_map
    from .expert_routing import expert_maps, experts_by_tag
    from .next_tokens import NextToken, next_token_probabilities
    from .page import write_page
    from .pictures import draw_map
    from .word_contexts import WordUse, cosines_between, cosines_to_words, word_uses
    from .word_map import WordMap, draw_words, write_word_page
    from .words import read_vectors, word_vectors

__all__ = [
    "CopyShare",
    "NextToken",
    "NoWeights",
    "Reading",
    "WeightMap",
    "WordMap",
    "WordUse",
    "alignment",
    "attention_maps",
    "copy_map",
    "cosines_between",
    "cosines_to_words",
    "draw_map",
    "draw_words",
    "expert_maps",
    "experts_by_tag",
    "next_token_probabilities",
    "read",
    "read_vectors",
    "word_uses",
    "word_vectors",
    "write_page",
    "write_word_page",
]

__getattr__, __dir__ = lazy_names(__name__)
