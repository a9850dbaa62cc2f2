"""The configuration of a dual encoder: a stack that reads texts, one that reads images, and one space for both."""

from math import log
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .adapter_targets import AdapterTargetsMixin
from .bounds import check_fields
from .choices import in_package
from .configuration_trine import DERIVED, DerivedFloat, DerivedString, TrineConfig
from .hub_export import HubExportMixin
from .keywords import StrictKeywordsMixin
from .nested_configs import NestedConfigsMixin
from .patterns import check_choice


# None only until `__post_init__` derives it. The strict dataclass checks annotations at run time.
if TYPE_CHECKING:
    Stack = TrineConfig
else:
    Stack = PreTrainedConfig | dict[str, Any] | None
CHOICES = {
    "text_pooling": ("cls", "mean", "last", "eos", "highest_id", "end"),
    "vision_pooling": ("cls", "mean", "attention"),
    "text_projection": ("linear", "affine", "none"),
    "vision_projection": ("linear", "affine", "none"),
    "contrastive_loss": ("softmax", "sigmoid"),
}


@strict
class TrineDualEncoderConfig(
    HubExportMixin, AdapterTargetsMixin, NestedConfigsMixin, StrictKeywordsMixin, PreTrainedConfig
):
    """Configuration of a `TrineDualEncoder`: texts and images as vectors of one space.

    Both stacks are complete configurations, so that they may differ in every part. A causal stack reads texts as well:
    CLIP's does.

    Args:
        text_config: A `TrineConfig` of a stack that reads tokens, or its fields.
        vision_config: A `TrineConfig` of an encoder that reads images, or its fields.
        projection_dim: Size of the vectors.
        text_pooling: What stands for a text: the state of its first token (`cls`, through the pooler where there is
            one), the `mean` of its tokens, its `last` token, the first `eos_token_id` (`eos`), the token with the
            `highest_id`, or the last place of the row, padding or not (`end`). Default: `last` for a causal stack,
            else `mean`.
        vision_pooling: What stands for an image: the class token (`cls`, through the pooler where there is one), the
            `mean` of its patches, or the `attention` of a learned query to all of its tokens, with a feed-forward
            behind it. Default: `cls` where `vision_config.use_cls_token`, else `mean`.
        text_projection: How the state becomes a vector: `linear` (a matrix), `affine` (with a bias) or `none` (as it
            is, so that `hidden_size` must be `projection_dim`).
        vision_projection: Likewise for images.
        contrastive_loss: `softmax` (a text is told from the other texts of its batch, and an image from the other
            images) or `sigmoid` (each pair of the batch belongs together or not).
        logit_scale_init_value: Natural logarithm of the first factor on the cosines, which is learned. Default:
            `log(1 / 0.07)` with `softmax`, `log(10)` with `sigmoid`.
        logit_bias_init_value: First value of what is added to the logits, which `sigmoid` alone has and learns.
        initializer_range: Standard deviation of the projections where a stack's `initializer` is `normal`.
        export_code: Whether saving writes the model's code beside the weights.

    Raises:
        ValueError: For an unknown keyword, a stack that reads something else, sizes that do not fit together, or what
            `TrineConfig` raises.

    Example:
        >>> config = TrineDualEncoderConfig(vision_config={"image_size": 32, "patch_size": 8}, projection_dim=64)
        >>> config.text_pooling, config.vision_pooling, config.vision_config.input_type
        ('mean', 'cls', 'image')
    """

    model_type = "trine_dual_encoder"
    sub_configs_defaults = {"text_config": TrineConfig, "vision_config": TrineConfig}  # pyright: ignore[reportAssignmentType] as in transformers
    stacks = {"text_config": {"is_causal": False}, "vision_config": {"input_type": "image", "is_causal": False}}
    needed = {"text_config": {"input_type": "tokens"}, "vision_config": {"input_type": "image", "is_causal": False}}
    hub_auto_map = {
        "AutoModelForZeroShotImageClassification": "TrineDualEncoder",
        "AutoModel": "TrineDualEncoder",
    }
    hub_entry_modules = (
        "trine.configuration.configuration_trine_dual",
        "trine.modeling.modeling_trine_dual",
        "trine.modeling.heads.table",
    )

    text_config: Stack = DERIVED
    vision_config: Stack = DERIVED
    projection_dim: int = 512
    text_pooling: DerivedString = DERIVED
    vision_pooling: DerivedString = DERIVED
    text_projection: str = "linear"
    vision_projection: str = "linear"
    contrastive_loss: str = "softmax"
    logit_scale_init_value: DerivedFloat = DERIVED
    logit_bias_init_value: float | int = -10.0
    initializer_range: float | int = 0.02
    export_code: bool = True

    def __post_init__(self, **kwargs):
        self.check_given(kwargs)
        self.settle_stacks()
        if self.text_pooling is None:
            self.text_pooling = "last" if self.text_config.is_causal else "mean"
        if self.vision_pooling is None:
            self.vision_pooling = "cls" if getattr(self.vision_config, "use_cls_token", False) else "mean"
        if self.logit_scale_init_value is None:
            self.logit_scale_init_value = log(10) if self.contrastive_loss == "sigmoid" else log(1 / 0.07)
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Applies the rules of both stacks, and those between them; raises a `ValueError` at the first that fails."""
        self.check_stacks()
        for rule in RULES:
            rule(self)

    def validate_architecture(self) -> None:
        self.check()


def check_dual(config: Any) -> None:
    """Raises a `ValueError` for a choice that is none, a stack that reads something else, or sizes that do not fit."""
    check_fields(config)
    for name, choices in CHOICES.items():
        check_choice(name, getattr(config, name), choices)
    for side in ("text_config", "vision_config"):
        for field in ("add_cross_attention", "prefix_lm"):
            if getattr(getattr(config, side), field):
                raise ValueError(f"{side}.{field}=True, but the stacks of a dual encoder read one input each.")
    if config.vision_pooling == "cls" and not config.vision_config.use_cls_token:
        raise ValueError(
            "vision_pooling='cls' reads the class token, but vision_config.use_cls_token=False: take 'mean' or "
            "'attention'."
        )
    if config.text_pooling == "cls" and config.text_config.is_causal:
        raise ValueError(
            "text_pooling='cls' reads the first token, which sees no other with text_config.is_causal=True: take "
            "'last', 'eos' or 'mean'."
        )
    if config.text_pooling == "eos" and config.text_config.eos_token_id is None:
        raise ValueError("text_pooling='eos' reads the state of text_config.eos_token_id, which is None.")
    if config.projection_dim < 1:
        raise ValueError(f"projection_dim={config.projection_dim} must be at least 1.")
    for side in ("text", "vision"):
        size = getattr(config, f"{side}_config").hidden_size
        if getattr(config, f"{side}_projection") == "none" and size != config.projection_dim:
            raise ValueError(
                f"{side}_projection='none' needs {side}_config.hidden_size={size} to be "
                f"projection_dim={config.projection_dim}."
            )


RULES = in_package((check_dual,))

__all__ = ["TrineDualEncoderConfig"]
