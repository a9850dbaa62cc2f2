"""What a drawn model computes. It needs nothing of trine, so that a process without the package asks the same."""

from typing import Any

import torch


NEW_TOKENS = 5  # what is generated behind a prompt
OUTPUTS = ("logits", "start_logits", "prediction_logits", "last_hidden_state")


def generation_settings(model: Any) -> dict[str, Any]:
    """Greedy generation of `NEW_TOKENS` tokens, whatever the config says of the end."""
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "output_logits": True, "eos_token_id": None}
    settings |= {"return_dict_in_generate": True, "pad_token_id": model.config.pad_token_id or 0}
    if model.config.is_encoder_decoder and model.config.decoder_start_token_id is None:
        settings["decoder_start_token_id"] = 0
    return settings


def source_of(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs that generation begins with."""
    return {name: value for name, value in inputs.items() if not name.startswith("decoder")}


@torch.no_grad()
def first_output(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    outputs = model(**inputs, return_dict=True)
    output = next(outputs[name] for name in OUTPUTS if name in outputs)
    assert output.isfinite().all(), "outputs that are not finite"
    return output


def outputs_of(model: Any, inputs: dict[str, torch.Tensor], writes: bool) -> dict[str, torch.Tensor]:
    """The first output of a forward pass, and where the model `writes` the tokens and logits of greedy generation."""
    outputs = {"output": first_output(model, inputs).contiguous()}
    if writes:
        written = model.generate(**source_of(inputs), **generation_settings(model))
        outputs |= {"tokens": written.sequences, "token logits": torch.stack(written.logits)}
    return outputs
