"""Where pretraining starts: a new model of a named size, or the weights of a checkpoint."""

from typing import Any

from transformers import PreTrainedConfig


PRESET = "tiny"


def start_config(config_class: Any, preset: str | None, model: str | None, overrides: dict[str, Any]) -> Any:
    """The config of a preset, by default `PRESET`, or of the checkpoint `model`, with other fields.

    Raises:
        OSError: There is no such checkpoint.
        ValueError: It is of another family, besides the errors of the config.
    """
    if model is None:
        return config_class.from_preset(preset or PRESET, **overrides)
    found = PreTrainedConfig.get_config_dict(model)[0].get("model_type")
    if found != config_class.model_type:
        raise ValueError(
            f"model='{model}' has model_type={found!r}, but this objective needs {config_class.model_type!r}. "
            "`trine convert` makes models of other families Trine's, and `trine lift` gives an encoder a decoder."
        )
    return config_class.from_pretrained(model, **overrides)
