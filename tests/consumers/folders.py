"""Write a folder with a tiny random model and its tokenizer for every contender: `python -m consumers.folders FOLDER`.

A process of its own, since it needs trine: those that read the folders as remote code must not.
"""

import sys
from pathlib import Path

import torch
from consumers.contenders import CONTENDERS, KINDS
from consumers.texts import PAIRS, TEXTS
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineSeq2SeqConfig,
    train_byte_level_bpe,
    train_unigram,
    train_wordpiece,
)


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
UNTIED = {"tie_word_embeddings": False}  # as Llama's, Mixtral's
DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}  # a few steps show the direction without noise
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "mlp_layer_types": "sparse"}
WINDOWS = {
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "simplicial_window": 8,
    "simplicial_second_window": 4,
    "bigbird_block_size": 8,
    "bigbird_num_random_blocks": 1,
    "lsh_chunk_length": 8,
    "lsh_num_buckets": 4,
}
T5_SIZES = {"dropout_rate": 0.0, "d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4}


def decoder(**fields):
    return lambda ids: TrineForCausalLM(TrineConfig(**GROUPED, **WINDOWS, **ids, **UNTIED, **fields))


def encoder(**fields):
    return lambda ids: TrineForMaskedLM(TrineConfig.from_preset("bert-base", **{**SIZES, **DROPOUT, **ids, **fields}))


def encoder_decoder(**fields):
    stack = {**SIZES, **DROPOUT, "head_dim": 8, **fields}
    return lambda ids: TrineForConditionalGeneration(TrineSeq2SeqConfig.from_preset("t5-like", **stack, **ids))


MAKERS = {
    "Llama": lambda ids: LlamaForCausalLM(LlamaConfig(**GROUPED, **ids)),
    "Mixtral": lambda ids: MixtralForCausalLM(MixtralConfig(**GROUPED, num_local_experts=4, **ids)),
    "BERT": lambda ids: BertForMaskedLM(
        BertConfig(**SIZES, **ids, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ),
    "T5": lambda ids: T5ForConditionalGeneration(T5Config(**T5_SIZES, **ids)),
    "dense": decoder(),
    "sparse": decoder(**EXPERTS),
    **{kind: decoder(attention_types=f"{kind}, full") for kind in KINDS},
    "encoder": encoder(),
    "encoder without segments": encoder(type_vocab_size=0),
    "sparse encoder": encoder(**EXPERTS),
    "encoder-decoder": encoder_decoder(),
    "sparse encoder-decoder": encoder_decoder(**EXPERTS),
}


def tokenizers():
    """The tokenizer of each peer's role."""
    texts = [*TEXTS, *(text for pair in PAIRS for text in pair), "yes", "no"] * 3
    quiet = {"show_progress": False, "model_max_length": 256}
    bytes_ = train_byte_level_bpe(texts, 320, chat_template="chatml", eos_token="<|im_end|>", **quiet)
    return {
        "Llama": bytes_,
        "Mixtral": bytes_,
        "BERT": train_wordpiece(texts, 300, **quiet),
        "T5": train_unigram(texts, 400, **quiet),
    }


def special_ids(tokenizer, peer: str) -> dict[str, int]:
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if peer != "BERT":
        ids["eos_token_id"] = tokenizer.eos_token_id
    if peer in ("Llama", "Mixtral"):
        ids["bos_token_id"] = tokenizer.bos_token_id
    if peer == "T5":
        ids["decoder_start_token_id"] = tokenizer.pad_token_id
    return ids


def sharpen(model) -> None:
    """Make every parameter random and its effect large, so that an error in any of them shows in the outputs."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0).add_(torch.randn_like(parameter), alpha=0.05)


def main(root: Path) -> None:
    by_peer = tokenizers()
    for name, contender in CONTENDERS.items():
        peer = contender.peer or name
        torch.manual_seed(0)
        model = MAKERS[name](special_ids(by_peer[peer], peer))
        sharpen(model)
        folder = root / name.replace(" ", "-")
        model.save_pretrained(folder)
        by_peer[peer].save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
