"""With equal weights, Trine computes what the library's own models compute."""

import pytest
import torch
from support.tiny import GPT2, has_deferred_logits, random_ids, tiny_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from trine import TrineConfig, TrineForCausalLM
from trine.modeling.feed_forward.experts import SparseMLP


SHARED = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "attn_implementation": "sdpa",
    "bos_token_id": None,
    "eos_token_id": None,
}
MIXTRAL = {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.3,
    "output_router_logits": True,
    "experts_implementation": "eager",
    "intermediate_size": 24,
}
OURS_AS_MIXTRAL = {"mlp_layer_types": "sparse", "router_aux_loss_coef": 0.3, "output_router_logits": True}
# Peer class and config, its fields, and ours. Weight names are the same, so a state dict moves over as it is.
PEERS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}, {}),
    "llama_biases": (LlamaForCausalLM, LlamaConfig, *[{"attention_bias": True, "mlp_bias": True}] * 2),
    "llama_untied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False}, {"tie_word_embeddings": False}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 8}, {"attention_types": "sliding"}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}, {"qk_norm": True}),
    "mixtral": (MixtralForCausalLM, MixtralConfig, {**MIXTRAL, "num_hidden_layers": 1}, OURS_AS_MIXTRAL),
}
# The peers compute norms and softmax in float32, whatever the model's type.
TOLERANCES = {"rtol": 1e-5, "atol": 1e-5, "check_dtype": False}


def peer_pair(name: str) -> tuple[nn.Module, TrineForCausalLM]:
    peer_class, config_class, peer_fields, fields = PEERS[name]
    settings = {"tie_word_embeddings": True, **SHARED, **peer_fields}
    ours = tiny_model(num_hidden_layers=settings["num_hidden_layers"], attn="sdpa", scale=2.0, **fields)
    peer = peer_class(config_class(**settings)).double().eval()
    peer.load_state_dict(ours.state_dict())
    return peer, ours


def compare(peer: nn.Module, ours: TrineForCausalLM, move=lambda state: state) -> None:
    """Logits with and without left padding, evaluation loss, and training loss and gradients of the chunked loss."""
    ids = random_ids(3, 20)
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[1, 6] = -100  # else padding predicts it, and what padding computes has no meaning
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)  # the peers derive them in `generate` only
    for inputs, peer_inputs in (
        ({}, {}),
        ({"attention_mask": mask}, {"attention_mask": mask, "position_ids": positions}),
    ):
        expected, actual = peer(ids, labels=labels, **peer_inputs), ours(ids, labels=labels, **inputs)
        real = mask == 1 if inputs else torch.ones_like(mask) == 1
        torch.testing.assert_close(actual.logits[real], expected.logits[real], **TOLERANCES)
        expected_loss = expected.loss
        if "router_logits" in expected:  # it adds the router loss in evaluation too
            torch.testing.assert_close(actual.aux_loss, expected.aux_loss, **TOLERANCES)
            expected_loss = expected_loss - 0.3 * expected.aux_loss
        torch.testing.assert_close(actual.loss, expected_loss, **TOLERANCES)
    expected, actual = peer.train()(ids, labels=labels), ours.train()(ids, labels=labels)
    assert has_deferred_logits(actual)
    torch.testing.assert_close(actual.loss, expected.loss, **TOLERANCES)
    expected.loss.backward()
    actual.loss.backward()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    peer_gradients = move({name: p.grad for name, p in peer.named_parameters()})
    assert gradients.keys() == peer_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, peer_gradients[name], **TOLERANCES, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("name", PEERS)
def test_equal_weights_give_equal_logits_losses_and_gradients(name):
    compare(*peer_pair(name))


def gpt2_to_ours(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights, or gradients, of GPT-2 under our names: its `Conv1D` stores (in, out), and q, k, v as one."""
    names = {"ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "attn.c_proj": "self_attn.o_proj"}
    names |= {"mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
    tops = {"transformer.wte.weight": "model.embed_tokens.weight"}
    tops |= {"transformer.wpe.weight": "model.positions.embed_positions.weight"}
    tops |= {f"transformer.ln_f.{kind}": f"model.norm.{kind}" for kind in ("weight", "bias")}
    tops |= {"lm_head.weight": "lm_head.weight"}
    moved = {}
    for key, tensor in state.items():
        if key in tops:
            moved[tops[key]] = tensor
            continue
        _, _, index, rest = key.split(".", 3)
        module, kind = rest.rsplit(".", 1)
        tensor = tensor.T if tensor.ndim == 2 else tensor
        if module == "attn.c_attn":
            for name, part in zip("qkv", tensor.split(32), strict=True):
                moved[f"model.layers.{index}.self_attn.{name}_proj.{kind}"] = part
        else:
            moved[f"model.layers.{index}.{names[module]}.{kind}"] = tensor
    return moved


def test_gpt2():
    config = GPT2Config(
        vocab_size=61, n_positions=96, n_embd=32, n_layer=2, n_head=4, n_inner=40, layer_norm_epsilon=1e-5,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    peer = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.mul_(3.0).add_(torch.randn_like(parameter), alpha=0.1)
    ours = tiny_model(num_key_value_heads=4, norm_eps=1e-5, **GPT2)
    ours.load_state_dict(gpt2_to_ours(peer.state_dict()))
    compare(peer, ours, gpt2_to_ours)


def test_sigmoid_routing_equals_deepseek():
    """One group of experts, so that its group limit chooses nothing."""
    sizes = {"hidden_size": 32, "moe_intermediate_size": 24, "num_experts_per_tok": 2, "norm_topk_prob": True}
    config = DeepseekV3Config(
        n_routed_experts=4, n_group=1, topk_group=1, n_shared_experts=2, routed_scaling_factor=2.5, **sizes
    )
    config._experts_implementation = "eager"
    peer = DeepseekV3MoE(config).double()
    ours = SparseMLP(
        TrineConfig(
            router_type="sigmoid",
            mlp_layer_types="sparse",
            num_experts=4,
            num_shared_experts=2,
            routed_scaling_factor=2.5,
            num_attention_heads=4,
            experts_implementation="eager",
            **sizes,
        )  # fmt: skip
    ).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in [*ours.parameters(), *ours.buffers()]:
            tensor.normal_(std=0.5)
    peer.load_state_dict(ours.state_dict())
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x), peer(x), **TOLERANCES)


def test_the_gpt2_preset_has_the_parameters_of_gpt2():
    with torch.device("meta"):
        peer, ours = GPT2LMHeadModel(GPT2Config()), TrineForCausalLM(TrineConfig.from_preset("gpt2"))
    assert ours.num_parameters() == peer.num_parameters() == 124_439_808
