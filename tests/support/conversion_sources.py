"""Random checkpoints of the library's own classes, for the tests of conversion."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig

from trine import convert


TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ENCODER = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}
DECODER = {**ENCODER, **TOKENS, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
T5 = {
    "vocab_size": 61,
    "d_model": 32,
    "num_layers": 3,  # more than in the decoder, after which the library sizes its cache
    "num_decoder_layers": 2,
    "num_heads": 4,
    "d_kv": 6,
    "d_ff": 40,
    "decoder_start_token_id": 5,
    "tie_word_embeddings": True,
}
BART = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "scale_embedding": True,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    **TOKENS,
}
QWEN3 = {**DECODER, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "head_dim": 16}
MODERNBERT = {
    **ENCODER,
    **TOKENS,
    "num_hidden_layers": 4,  # two with full and two with sliding attention
    "local_attention": 8,  # a third of the texts
    "cls_token_id": 1,
    "sep_token_id": 2,
}
MIXTRAL = {**DECODER, "num_local_experts": 4, "intermediate_size": 24}
# Family and fields of its config.
SOURCES = {
    "bert": ("bert", ENCODER),
    "bert_relu": ("bert", {**ENCODER, "hidden_act": "relu", "classifier_dropout": 0.3}),
    "roberta": ("roberta", ENCODER),
    "xlm-roberta": ("xlm-roberta", {**ENCODER, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "modernbert": ("modernbert", MODERNBERT),
    "modernbert_biases": (
        "modernbert",
        {
            **MODERNBERT,
            **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True),
            "hidden_activation": "relu",
            "classifier_activation": "relu",
            "classifier_pooling": "mean",
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
    "gpt2": ("gpt2", {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, **TOKENS}),
    "gpt2_inner": (
        "gpt2",
        {"vocab_size": 61, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 40, "n_inner": 24, **TOKENS},
    ),
    "llama": ("llama", {**DECODER, "attention_bias": True, "mlp_bias": True}),
    "llama_tied": ("llama", {**DECODER, "tie_word_embeddings": True, "head_dim": 16}),
    "llama_scaled": ("llama", {**DECODER, "rope_parameters": LLAMA3}),
    "llama_linear": (
        "llama",
        {**DECODER, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "mistral": ("mistral", {**DECODER, "sliding_window": 8}),
    "mistral_full": ("mistral", {**DECODER, "sliding_window": None}),
    "qwen3": ("qwen3", QWEN3),
    "mixtral": ("mixtral", MIXTRAL),
    "mixtral_balanced": ("mixtral", {**MIXTRAL, "output_router_logits": True, "router_aux_loss_coef": 0.3}),
    "qwen3_moe": (
        "qwen3_moe",
        {**DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 2},
    ),
    "t5": ("t5", T5),
    "t5_v1_1": ("t5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": ("bart", BART),
}


@cache
def random_source(name: str, class_name: str) -> nn.Module:
    """A model of the library in which every parameter, norms and biases too, is random. Nobody changes it.

    Scores of attention are sharp, so that errors in masks and positions show. Those of T5, which are not divided by
    anything, would be so sharp with twice the weights that float32 itself makes differences of 2e-4.
    """
    family, fields = SOURCES[name]
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(AutoConfig.for_model(family, **fields)).eval()
    if name == "t5_v1_1" and class_name.endswith("Generation"):  # the published ones have a head of their own
        model.lm_head.weight = nn.Parameter(0.1 * torch.randn(61, 32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0 if family == "t5" else 2.0).add_(torch.randn_like(parameter), alpha=0.1)
    return model


def saved_source(tmp_path: Path, name: str = "llama", class_name: str = "LlamaForCausalLM", **options) -> Path:
    random_source(name, class_name).save_pretrained(tmp_path / "source", **options)
    return tmp_path / "source"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}


def edit_config(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in {**config, **fields}.items() if value != "REMOVE"}
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, edit) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def outputs(model: nn.Module, inputs: dict) -> dict[str, torch.Tensor]:
    """All outputs with values, of which those of tokens are set to 0 for padding."""
    with torch.no_grad():
        found = {key: value for key, value in model(**inputs).items() if isinstance(value, torch.Tensor)}
    real = inputs["attention_mask"]
    for key, value in found.items():
        if value.shape[: real.ndim] == real.shape and not key.startswith("pooler"):
            found[key] = value * real.reshape(real.shape + (1,) * (value.ndim - real.ndim))
    return found


REFUSALS: list[str] = []  # every message so far


def assert_refused(source: Path, tmp_path: Path, message: str, error=ValueError, **options) -> None:
    """The message is as expected, and nothing is left beside the source."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=re.escape(message)) as refused:
        convert(source, tmp_path / "target", **options)
    REFUSALS.append(str(refused.value))
    assert sorted(tmp_path.iterdir()) == before
