"""The configuration of a decoder that reads pictures among its tokens."""

from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .adapter_targets import AdapterTargetsMixin
from .bounds import check_fields
from .choices import in_package
from .configuration_trine import DERIVED, TrineConfig
from .hub_export import HubExportMixin
from .keywords import StrictKeywordsMixin
from .nested_configs import NestedConfigsMixin


# None only until `__post_init__` derives it. The strict dataclass checks annotations at run time.
if TYPE_CHECKING:
    Stack = TrineConfig
else:
    Stack = PreTrainedConfig | dict[str, Any] | None


@strict
class TrineImageTextConfig(
    HubExportMixin, AdapterTargetsMixin, NestedConfigsMixin, StrictKeywordsMixin, PreTrainedConfig
):
    """Configuration of a `TrineForImageTextToText`: a decoder whose tokens may stand for patches of pictures.

    Both stacks are complete configurations, so that they may differ in every part.

    Args:
        text_config: A `TrineConfig` of a decoder, or its fields.
        vision_config: A `TrineConfig` of an encoder that reads images, or its fields.
        image_token_id: Id of the token that stands for a patch. Default: the last of the vocabulary.
        projector_hidden_act: Activation between the two layers that make patches tokens.
        initializer_range: Standard deviation of these layers where the decoder's `initializer` is `normal`.
        export_code: Whether saving writes the model's code beside the weights.

    Raises:
        ValueError: For an unknown keyword, a stack of another kind, an id outside the vocabulary, or what
            `TrineConfig` raises.

    Example:
        >>> config = TrineImageTextConfig(text_config={"vocab_size": 100}, vision_config={"image_size": 32})
        >>> config.image_token_id, config.text_config.is_causal
        (99, True)
    """

    model_type = "trine_image_text"
    keys_to_ignore_at_inference = ["past_key_values"]
    sub_configs_defaults = {"text_config": TrineConfig, "vision_config": TrineConfig}  # pyright: ignore[reportAssignmentType] as in transformers
    stacks = {"text_config": {}, "vision_config": {"input_type": "image", "is_causal": False}}
    needed = {
        "text_config": {"input_type": "tokens", "is_causal": True, "add_cross_attention": False, "prefix_lm": False},
        "vision_config": {"input_type": "image", "is_causal": False},
    }
    hub_auto_map = {"AutoModelForImageTextToText": "TrineForImageTextToText"}
    hub_entry_modules = (
        "trine.configuration.configuration_trine_image_text",
        "trine.modeling.modeling_trine_image_text",
        "trine.modeling.heads.table",
    )

    text_config: Stack = DERIVED
    vision_config: Stack = DERIVED
    image_token_id: int | None = None
    projector_hidden_act: str = "gelu"
    initializer_range: float | int = 0.02
    export_code: bool = True

    def __post_init__(self, **kwargs):
        self.check_given(kwargs)
        self.settle_stacks()
        if self.image_token_id is None:
            self.image_token_id = self.text_config.vocab_size - 1
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Applies the rules of both stacks, and those between them; raises a `ValueError` at the first that fails."""
        self.check_stacks()
        for rule in RULES:
            rule(self)

    def validate_architecture(self) -> None:
        self.check()


def check_image_token(config: Any) -> None:
    """Raises a `ValueError` for an image token that is none of the vocabulary."""
    check_fields(config)
    size = config.text_config.vocab_size
    if not 0 <= config.image_token_id < size:
        raise ValueError(f"image_token_id={config.image_token_id} must lie in the vocabulary, 0 to {size - 1}.")


RULES = in_package((check_image_token,))

__all__ = ["TrineImageTextConfig"]
