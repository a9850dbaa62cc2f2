"""What a decoder must be that reads prefixes both ways."""

from .choices import Choices
from .kinds import ATTENTION_KINDS


def check_prefix(config) -> None:
    """Raises a `ValueError` for `prefix_lm=True` where no mask of pairs of tokens tells what a token sees."""
    if not config.is_causal or config.add_cross_attention:
        raise ValueError(
            f"prefix_lm=True is for a decoder by itself, but is_causal={config.is_causal}, "
            f"add_cross_attention={config.add_cross_attention}."
        )
    choices = [kind for kind, row in ATTENTION_KINDS.items() if row.sees_by != "tokens"]
    for index, kind in enumerate(config.attention_types):
        if kind not in choices:
            raise ValueError(
                f"prefix_lm=True needs layers with a mask of pairs of tokens, but attention_types[{index}]={kind!r} "
                f"is not one of {choices}."
            )


# It goes along with a checkpoint: what it forbids would change results without an error.
PREFIX_RULES = Choices("prefix_lm", {True: check_prefix})
