"""Small models for the tests, and the oracle's answer for them."""

import torch
from support import reference

from trine import TrineConfig, TrineForCausalLM, TrineModel
from trine.modeling.heads.deferred_logits import DeferredLogits


SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "simplicial_window": 8,
    "simplicial_second_window": 3,
    "performer_num_features": 12,
    "bigbird_block_size": 4,
    "bigbird_num_random_blocks": 1,
    "lsh_chunk_length": 4,
    "lsh_num_buckets": 4,
    "lsh_num_hashes": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
MIXED = {"num_hidden_layers": 3, "attention_types": "sliding, full, chunked"}
SPARSE = {"mlp_layer_types": "sparse", "num_shared_experts": 1}
GPT2 = {
    "position_type": "learned",
    "norm_type": "layernorm",
    "hidden_act": "gelu_new",
    "gated_mlp": False,
    "attention_bias": True,
    "mlp_bias": True,
}


def tiny_config(**fields) -> TrineConfig:
    return TrineConfig(**{**SIZES, **fields})


def tiny_model(model_class=None, *, dtype=torch.float64, attn=None, experts="eager", scale=4.0, seed=0, **fields):
    """An evaluation-mode model in which every parameter, norms and biases too, is random.

    It has the attention that users get, unless `attn` names another: `eager` alone returns weights.

    Projections are `scale` times larger than at initialisation, so that attention is sharp and errors in it show.
    """
    config = tiny_config(attn_implementation=attn, experts_implementation=experts, **fields)
    model_class = model_class or (TrineForCausalLM if config.is_causal else TrineModel)
    torch.manual_seed(seed)
    model = model_class(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale).add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_()
    return model


def random_ids(*shape: int, seed: int = 0, vocab_size: int = SIZES["vocab_size"]) -> torch.Tensor:
    return torch.randint(3, vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def has_deferred_logits(outputs) -> bool:
    """Whether the logits of a training step have not been computed, because nobody has read them."""
    return any(isinstance(value, DeferredLogits) for value in dict.values(outputs))


def leaves(model) -> dict[str, torch.Tensor]:
    """Copies of the parameters that collect gradients, and the buffers: what the oracle reads."""
    copies = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters(remove_duplicate=True)}
    copies |= {name: buffer for name, buffer in model.named_buffers() if name not in copies}
    if model.config.tie_word_embeddings and "model.embed_tokens.weight" in copies:
        copies["lm_head.weight"] = copies["model.embed_tokens.weight"]
    return copies


def expected_output(model, tokens, tensors: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Logits, or the hidden states of a model without a head, of one sequence by the oracle."""
    compute = reference.trunk if isinstance(model, TrineModel) else reference.logits
    return compute(model.config, reference.Weights(tensors or leaves(model)), list(tokens))


def output_of(outputs) -> torch.Tensor:
    """What `expected_output` predicts, from a model's outputs."""
    return outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state


def assert_gradients_equal(model, tensors: dict[str, torch.Tensor], **tolerances) -> None:
    """Compares the gradient of every parameter with that of the oracle's copy; None counts as zero."""
    for name, parameter in model.named_parameters():
        expected, actual = tensors[name].grad, parameter.grad
        expected = torch.zeros_like(parameter, dtype=torch.float64) if expected is None else expected
        actual = torch.zeros_like(parameter) if actual is None else actual
        torch.testing.assert_close(actual.double(), expected, **tolerances, msg=lambda m, name=name: f"{name}: {m}")


TOLERANCES = {"rtol": 1e-8, "atol": 1e-10}


def check_against_the_oracle(length, **fields):
    """Outputs and the gradients of every parameter, for a random projection of the outputs, eager and sdpa."""
    model = tiny_model(**{"position_type": "none", "num_hidden_layers": 1, **fields})
    tokens = random_ids(length)
    tensors = leaves(model)
    expected = expected_output(model, tokens.tolist(), tensors)
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (expected * direction).sum().backward()
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        actual = output_of(model(tokens[None], use_cache=False))[0]
        torch.testing.assert_close(actual, expected, **TOLERANCES)
        (actual * direction).sum().backward()
        assert_gradients_equal(model, tensors, **TOLERANCES)
