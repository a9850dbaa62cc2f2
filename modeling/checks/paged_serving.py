"""Refuses models that servers with a paged cache would serve wrongly: continuous batching and vLLM."""

from typing import Any

from ...configuration.choices import Choices
from ...configuration.kinds import ATTENTION_KINDS, POSITION_KINDS


VLLM = "vllm"  # how the attention implementation that vLLM chooses begins
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")  # whose frequencies follow the longest sequence of a batch


def check_paged(config: Any, server: str) -> None:
    """Refuses a model that a server would not serve, or not with the outputs of `generate`.

    Args:
        config: A stack of layers, or more.
        server: What it is called in messages.

    Raises:
        ValueError: The model is not a stack by itself, or one of its kinds does not fit, with what does.
    """
    if config.is_encoder_decoder or config.add_cross_attention:
        crossed = getattr(config, "add_cross_attention", None)
        raise ValueError(
            f"model_type='{config.model_type}' has is_encoder_decoder={config.is_encoder_decoder}, "
            f"add_cross_attention={crossed}, but {server} serves single stacks; use generate."
        )
    for check in PREFIX_CHECKS.values():
        check(config, server)
    used = [(f"attention_types[{index}]", kind, ATTENTION_KINDS) for index, kind in enumerate(config.attention_types)]
    for field, kind, rows in [*used, ("position_type", config.position_type, POSITION_KINDS)]:
        served = [name for name, row in rows.items() if row.paged]
        if kind not in served:
            raise ValueError(f"{field}='{kind}' is not one of {served}, which {server} serves; use generate.")
    for layer_type in config.layer_types:
        rope_type = config.rope_parameters_of(layer_type).get("rope_type")
        if rope_type in LENGTH_DEPENDENT_ROPE:
            raise ValueError(
                f"rope_parameters['rope_type']='{rope_type}' is one of {list(LENGTH_DEPENDENT_ROPE)}: its frequencies "
                "follow the longest sequence, so that requests served together would change each other; use generate."
            )


def check_paged_prefix(config: Any, server: str) -> None:
    """Refuses a model that reads its prompt both ways."""
    if getattr(config, "prefix_lm", False):
        raise ValueError(f"prefix_lm=True reads a prompt both ways, which {server} does not; use generate.")


PREFIX_CHECKS = Choices("prefix_lm", {True: check_paged_prefix})


def is_for_vllm(config: Any) -> bool:
    """Whether vLLM is making the model."""
    return str(config._attn_implementation).startswith(VLLM)


def check_vllm(config: Any) -> None:
    """Raises a `ValueError`, before any weight is read, for a model that vLLM would serve wrongly.

    It makes the model with its own attention. Its kernel of experts was seen to write other tokens for other
    activations than SiLU, without a word.

    Raises:
        ValueError: As `check_paged`, for windows of an encoder, or for other experts than gated ones with SiLU.
    """
    if is_for_vllm(config):
        check_paged(config, "vLLM")
        for check in WINDOW_CHECKS.values():
            check(config)
        for check in EXPERT_CHECKS.values():
            check(config)


def check_vllm_windows(config: Any) -> None:
    """Refuses windows of an encoder."""
    if not config.is_causal and "sliding" in config.attention_types:
        raise ValueError(
            f"attention_types={config.attention_types} with is_causal=False: to each side vLLM's window reaches "
            f"{config.sliding_window - 1} tokens, one less than sliding_window={config.sliding_window}; use AutoModel."
        )


def check_vllm_experts(config: Any) -> None:
    """Refuses other experts than gated ones with SiLU."""
    if "sparse" in config.mlp_layer_types and not (config.gated_mlp and config.hidden_act == "silu"):
        raise ValueError(
            f"hidden_act='{config.hidden_act}', gated_mlp={config.gated_mlp}: vLLM serves experts with 'silu' and "
            "gated_mlp=True; use generate."
        )


WINDOW_CHECKS = Choices("attention_types", {"sliding": check_vllm_windows})
EXPERT_CHECKS = Choices("mlp_layer_types", {"sparse": check_vllm_experts})


def check_vllm_classifier(config: Any) -> None:
    """Refuses a classifier of sequences, of which vLLM would take the linear layer alone.

    Raises:
        ValueError: It is vLLM that makes the model.
    """
    if is_for_vllm(config):
        raise ValueError(
            f"num_labels={config.num_labels}: vLLM reads the classifier's linear layer alone, without "
            f"classifier_pooling='{config.classifier_pooling}', pooler and transform, and serves no classifiers of "
            "Trine; use transformers' pipelines."
        )
