"""What the common tests run on: one table of configurations, the peers, and the small models made of them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, MixtralConfig, MixtralForCausalLM, MixtralModel

from trine import TrineConfig, TrineForCausalLM, TrineModel


@dataclass(frozen=True)
class Case:
    """One row of the run: a configuration of `classes` (config, base model, causal head).

    `peer` names the row whose skipped tests this one's are compared with; `distributed` adds the tests that spread the
    model over processes.
    """

    name: str
    classes: tuple[type, type, type] = (TrineConfig, TrineModel, TrineForCausalLM)
    peer: str | None = None
    distributed: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# The inputs have 7 tokens: windows and chunks are smaller, so that they matter.
TRINE = SMALL | {"sliding_window": 3, "attention_chunk_size": 4}
# grouped_mm takes widths that are multiples of 16 bytes.
EXPERTS = {"mlp_layer_types": ["sparse"] * 2, "intermediate_size": 32, "moe_intermediate_size": 16, "num_experts": 4}

# Every attention kind, position, norm placement, feed-forward and router occurs at least once.
DENSE_FIELDS = {
    "Full": {},
    "Sliding": {
        "attention_types": ["sliding"] * 2,
        "position_type": "learned",
        "norm_type": "layernorm",
        "gated_mlp": False,
        "hidden_act": "gelu",
        "mlp_bias": True,
    },
    "Chunked": {
        "attention_types": ["chunked"] * 2,
        "position_type": "sinusoidal",
        "norm_type": "layernorm",
        "norm_position": "post",
        "scale_embedding": True,
    },
    "Mixed": {"attention_types": ["sliding", "full"], "position_type": "relative", "initializer": "xavier"},
    "MultiQuery": {
        "position_type": "none",
        "num_key_value_heads": 1,
        "qk_norm": True,
        "attention_bias": True,
        "norm_position": "post",
    },
    "Untied": {
        "attention_types": ["chunked", "full"],
        "tie_word_embeddings": False,
        "head_dim": 16,
        "initializer": "kaiming",
    },
}
SPARSE_FIELDS = {
    "SoftmaxExperts": {"num_experts_per_tok": 2, "router_z_loss_coef": 0.001},
    "SigmoidExperts": {
        "attention_types": ["sliding", "full"],
        "mlp_layer_types": ["dense", "sparse"],
        "router_type": "sigmoid",
        "num_shared_experts": 1,
        "qk_norm": True,
    },
    "SoftExperts": {
        "attention_types": ["chunked"] * 2,
        "position_type": "learned",
        "num_experts_per_tok": 4,
        "gated_mlp": False,
        "hidden_act": "gelu",
    },
}

PEERS = (
    Case("Llama", (LlamaConfig, LlamaModel, LlamaForCausalLM), distributed=True, fields=SMALL),
    Case(
        "Mixtral",
        (MixtralConfig, MixtralModel, MixtralForCausalLM),
        distributed=True,
        fields=SMALL | {"intermediate_size": 32, "num_local_experts": 4},
    ),
)
DENSE = tuple(Case(n, peer="Llama", distributed=n == "Full", fields=TRINE | f) for n, f in DENSE_FIELDS.items())
SPARSE = tuple(
    Case(n, peer="Mixtral", distributed=n == "SoftmaxExperts", fields=TRINE | EXPERTS | f)
    for n, f in SPARSE_FIELDS.items()
)
CASES = {case.name: case for case in (*PEERS, *DENSE, *SPARSE)}


class DecoderTester:
    """Makes the configuration and the inputs of one case, under the names that the common tests look for."""

    is_training = True
    batch_size = 13
    seq_length = 7

    def __init__(self, case: Case):
        self.fields = dict(case.fields)
        self.config_class, self.base_model_class, self.causal_lm_class = case.classes
        for name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"):
            setattr(self, name, self.fields[name])

    def get_config(self):
        return self.config_class(**self.fields)

    def prepare_config_and_inputs_for_common(self):
        input_ids = torch.randint(3, self.vocab_size, (self.batch_size, self.seq_length))
        attention_mask = torch.ones(self.batch_size, self.seq_length, dtype=torch.long).tril()
        return self.get_config(), {"input_ids": input_ids, "attention_mask": attention_mask}
