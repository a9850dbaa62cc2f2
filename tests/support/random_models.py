"""What must hold of every model that its config allows: the properties that the tests draw configs for."""

import re
from dataclasses import fields
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from support.random_configs import CONFIG_CLASSES
from support.random_outputs import first_output, generation_settings, source_of
from support.tally import Refused
from transformers import PreTrainedModel

import trine


REFUSALS = (ValueError, StrictDataclassError)
# The heads that a shape is drawn with.
HEADS = {
    "decoder": ("TrineForCausalLM", "TrineForCausalLM", "TrineModel", "TrineForSequenceClassification"),
    "encoder": (
        "TrineModel",
        "TrineForMaskedLM",
        "TrineForPreTraining",
        "TrineForSequenceClassification",
        "TrineForTokenClassification",
        "TrineForQuestionAnswering",
        "TrineForMultipleChoice",
    ),
    "encoder-decoder": (
        "TrineForConditionalGeneration",
        "TrineForConditionalGeneration",
        "TrineSeq2SeqModel",
        "TrineSeq2SeqForSequenceClassification",
        "TrineSeq2SeqForTokenClassification",
        "TrineSeq2SeqForQuestionAnswering",
    ),
    "lstm": ("TrineRecurrentForConditionalGeneration", "TrineRecurrentModel"),
}


def names_a_field(error: Exception, config_class: type) -> bool:
    own = {field.name for field in fields(config_class)} | {field.name for field in fields(trine.TrineConfig)}
    return bool(own & set(re.findall(r"\w+", str(error))))


def build(shape: str, model_class: type, values: dict) -> PreTrainedModel:
    """The model, or `Refused`. An error that names no field passes through."""
    try:
        return model_class(CONFIG_CLASSES[shape](**values))
    except REFUSALS as error:
        if names_a_field(error, CONFIG_CLASSES[shape]):
            raise Refused(str(error)) from error
        raise


def inputs_of(model: PreTrainedModel, length: int, rows: int = 2) -> dict[str, torch.Tensor]:
    """Ids and mask, a row with one padding token at the left, and what the head needs beside them."""
    config = model.config
    vocabularies = [getattr(config, side).vocab_size for side in ("encoder", "decoder") if hasattr(config, side)]
    ids = torch.randint(0, min([config.vocab_size, *vocabularies]), (rows, length))
    mask = torch.ones_like(ids)
    if length > 1:
        mask[0, 0] = 0
    name = type(model).__name__
    if name.endswith("ForMultipleChoice"):
        ids, mask = ids[:, None].expand(-1, 3, -1), mask[:, None].expand(-1, 3, -1)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if config.is_encoder_decoder and not name.endswith(("Classification", "ForQuestionAnswering")):
        inputs["decoder_input_ids"] = torch.randint(0, config.vocab_size, (rows, max(1, length - 2)))
    return inputs


def labels_of(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Random targets of the head, under the names that it takes them by."""
    config, name = model.config, type(model).__name__
    rows, length = inputs["input_ids"].shape[0], inputs["input_ids"].shape[-1]
    if name.endswith("ForSequenceClassification"):
        regression = config.num_labels == 1
        return {"labels": torch.rand(rows) if regression else torch.randint(0, config.num_labels, (rows,))}
    if name.endswith("ForMultipleChoice"):
        return {"labels": torch.randint(0, 3, (rows,))}
    if name.endswith("ForTokenClassification"):
        return {"labels": torch.randint(0, config.num_labels, (rows, length))}
    if name.endswith("ForQuestionAnswering"):
        return {key: torch.randint(0, length, (rows,)) for key in ("start_positions", "end_positions")}
    tokens = torch.randint(0, config.vocab_size, inputs.get("decoder_input_ids", inputs["input_ids"]).shape)
    extra = {"next_sentence_label": torch.randint(0, 2, (rows,))} if name.endswith("ForPreTraining") else {}
    return {"labels": tokens, **extra}


def check_training(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """One step in training mode: a finite loss, and finite gradients for every parameter that has any."""
    model.train()
    if type(model).__name__.endswith("Model"):
        loss = model(**inputs, return_dict=True).last_hidden_state.square().sum()
    else:
        loss = model(**inputs, **labels_of(model, inputs), return_dict=True).loss
    assert loss.isfinite(), f"loss {loss.item()}"
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), f"gradient of {name}"
    assert any(parameter.grad is not None for parameter in model.parameters()), "no parameter has a gradient"
    model.zero_grad()
    model.eval()


def sharpen(model: PreTrainedModel) -> PreTrainedModel:
    """In float64 and with every parameter random, so that logits lie apart and rounding decides no token."""
    model.set_experts_implementation("eager")  # the grouped kernel has no float64
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def check_generation(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """Greedy generation gives the same tokens and logits without a cache, with one, and with a static one."""
    inputs, settings = source_of(inputs), generation_settings(model)
    expected = model.generate(**inputs, **settings, use_cache=False)
    modes = {"dynamic": {}, "static": {"cache_implementation": "static"}}
    if model.config.model_type == "trine_recurrent":
        del modes["static"]  # its state has one size anyway
    for mode, options in modes.items():
        actual = model.generate(**inputs, **settings, use_cache=True, **options)
        for step, (logits, other) in enumerate(zip(actual.logits, expected.logits, strict=True)):
            difference = (logits - other).abs().max().item()
            assert difference < 1e-6, f"{mode} cache: logits of step {step} differ by {difference:.3g}"
        assert torch.equal(actual.sequences, expected.sequences), f"{mode} cache: other tokens"


def can_write(model: PreTrainedModel) -> bool:
    return hasattr(model, "generate") and getattr(model.config, "decoder_is_causal", True) and model.can_generate()


def check_saving(model: PreTrainedModel, inputs: dict[str, torch.Tensor], folder: Path) -> None:
    """The loaded model has the same tensors, bit by bit, and computes the same but for the order of additions.

    Loaded tensors may lie in memory otherwise than made ones, which decides how a processor adds.
    """
    expected = first_output(model, inputs)
    model.save_pretrained(folder)
    loaded, info = type(model).from_pretrained(folder, output_loading_info=True, experts_implementation="eager")
    assert not any(info.values()), info
    actual = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(actual[name], tensor), f"{name} after loading"
    torch.testing.assert_close(first_output(loaded.eval(), inputs), expected, rtol=1e-9, atol=1e-9)


def check_model(shape: str, head: str, values: dict, length: int, folder: Path) -> PreTrainedModel:
    """Everything above for one draw.

    Raises:
        Refused: The config is refused by an error that names a field.
    """
    torch.manual_seed(0)
    model_class = getattr(trine, head)
    model = build(shape, model_class, values)
    inputs = inputs_of(model, length)
    check_training(model, inputs)
    sharpen(model)
    check_saving(model, inputs, folder)
    if can_write(model):
        check_generation(model, inputs)
    return model
