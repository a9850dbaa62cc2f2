"""The models that `trine benchmark models` compares: ours and transformers', of one shape."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from trine import TrineConfig, TrineForCausalLM, TrineForConditionalGeneration, TrineForMaskedLM, TrineSeq2SeqConfig


Builder = Callable[[dict], PreTrainedModel]


@dataclass(frozen=True)
class Peer:
    """A model of transformers, and how both it and ours are made of the fields of a shape.

    `labels` is the share of tokens that a training step predicts; `tasks` are names in `TASKS` of `models.py`, and
    `targets` say how many times as fast as the peer ours should be in them, and what share of memory it may take.
    """

    shape: dict
    ours: Builder
    theirs: Builder
    tasks: tuple[str, ...]
    longest: int = 10**6
    labels: float = 1.0
    targets: dict[str, float] = field(default_factory=dict)


VOCABULARY = {"vocab_size": 32000, "hidden_size": 512, "num_attention_heads": 8}
ROUTER = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.01, "output_router_logits": True}
SPARSE = {"mlp_layer_types": "sparse", "num_experts": 8}
# What makes a shape tiny, to try the benchmark out.
QUICK = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
}


def our_llama(shape: dict) -> PreTrainedModel:
    """Trine's model in the shape of Llama."""
    return TrineForCausalLM(TrineConfig(**shape, tie_word_embeddings=False))


def llama(shape: dict) -> PreTrainedModel:
    """transformers' Llama."""
    return LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))


def our_mixtral(shape: dict) -> PreTrainedModel:
    """Trine's model in the shape of Mixtral."""
    return TrineForCausalLM(TrineConfig(**shape, **ROUTER, **SPARSE, tie_word_embeddings=False))


def mixtral(shape: dict) -> PreTrainedModel:
    """transformers' Mixtral."""
    return MixtralForCausalLM(MixtralConfig(**shape, **ROUTER, num_local_experts=8, tie_word_embeddings=False))


def our_bert(shape: dict) -> PreTrainedModel:
    """Trine's model in the shape of BERT."""
    dropouts = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
    return TrineForMaskedLM(TrineConfig.from_preset("bert-base", **shape, **dropouts))


def bert(shape: dict) -> PreTrainedModel:
    """transformers' BERT."""
    return BertForMaskedLM(BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


def our_t5(shape: dict) -> PreTrainedModel:
    """Trine's model in the shape of T5."""
    stack = {**shape, "head_dim": shape["hidden_size"] // shape["num_attention_heads"], "hidden_dropout": 0.0}
    return TrineForConditionalGeneration(TrineSeq2SeqConfig.from_preset("t5-like", **stack, tie_word_embeddings=True))


def t5(shape: dict) -> PreTrainedModel:
    """transformers' T5."""
    config = T5Config(
        vocab_size=shape["vocab_size"],
        d_model=shape["hidden_size"],
        d_kv=shape["hidden_size"] // shape["num_attention_heads"],
        d_ff=shape["intermediate_size"],
        num_layers=shape["num_hidden_layers"],
        num_heads=shape["num_attention_heads"],
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    config.decoder_start_token_id = 0
    return T5ForConditionalGeneration(config)


GENERATORS = ("training", "prefill", "decoding")
GROUPED = {"num_key_value_heads": 4}
PEERS = {
    "Llama": Peer(
        {**VOCABULARY, **GROUPED, "num_hidden_layers": 6, "intermediate_size": 1408},
        our_llama,
        llama,
        GENERATORS,
        targets={"memory": 0.65},
    ),
    "Mixtral": Peer(
        {**VOCABULARY, **GROUPED, "num_hidden_layers": 4, "intermediate_size": 704},
        our_mixtral,
        mixtral,
        GENERATORS,
        targets={"decoding": 1.1},
    ),
    "BERT": Peer(
        {**VOCABULARY, "num_hidden_layers": 6, "intermediate_size": 2048},
        our_bert,
        bert,
        ("training", "ragged"),
        longest=512,
        labels=0.15,
        targets={"training": 1.4, "ragged": 2.8},
    ),
    "T5": Peer(
        {**VOCABULARY, "num_hidden_layers": 4, "intermediate_size": 1024},
        our_t5,
        t5,
        ("training", "decoding"),
        longest=512,
        targets={"decoding": 1.1},
    ),
}


def make_model(peer: str, who: str, quick: bool, device: str, dtype: str) -> PreTrainedModel:
    """The model of `who`, "Trine" or the peer itself, with the peer's architecture and fresh weights."""
    entry = PEERS[peer]
    shape = {**entry.shape, **(QUICK if quick else {})}
    torch.manual_seed(0)
    model = (entry.ours if who == "Trine" else entry.theirs)(shape)
    return model.to(device=device, dtype=getattr(torch, dtype))  # pyright: ignore[reportCallIssue] typed for quantised models
