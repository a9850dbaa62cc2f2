"""Configs of every shape, for what concerns the code that a checkpoint carries."""

from support.tiny import SIZES, tiny_config

from trine import TrineConfig, TrineRecurrentConfig, TrineSeq2SeqConfig
from trine.configuration.kinds import ATTENTION_KINDS


KINDS = list(ATTENTION_KINDS)
EVERYTHING = {
    "attention_types": KINDS,
    "num_hidden_layers": len(KINDS),
    "mlp_layer_types": "dense, sparse",
    "require_shift_invariance": False,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1}


def seq2seq(**fields) -> TrineSeq2SeqConfig:
    stack = {**SIZES, **TOKENS, **fields}
    return TrineSeq2SeqConfig(encoder=stack, decoder=stack)


CONFIGS = {
    "decoder": TrineConfig,
    "encoder": lambda: TrineConfig(is_causal=False),
    **{kind: lambda kind=kind: tiny_config(attention_types=kind) for kind in KINDS[1:]},
    "sparse": lambda: tiny_config(mlp_layer_types="sparse"),
    "prefixes": lambda: tiny_config(prefix_lm=True, num_hidden_layers=3, attention_types="sliding, full, chunked"),
    "masked next token": lambda: tiny_config(is_causal=False, masked_lm_head="next_token"),
    "retrieval": lambda: tiny_config(is_causal=False, retrieval_outputs=["sparse"], unscored_token_ids=[0]),
    "images": lambda: tiny_config(
        input_type="image", image_size=16, patch_size=4, is_causal=False, position_type="learned"
    ),
    "images, rotary": lambda: tiny_config(input_type="image", image_size=16, patch_size=4, is_causal=False),
    "series": lambda: tiny_config(input_type="series", is_causal=False),
    "sounds": lambda: tiny_config(input_type="audio", is_causal=False, num_mel_bins=16, patch_size=8, num_frames=32),
    "bert": lambda: TrineConfig.from_preset("bert-base"),
    "everything": lambda: tiny_config(**EVERYTHING),
    "everything, encoder": lambda: tiny_config(is_causal=False, **EVERYTHING),
    "seq2seq": seq2seq,
    "seq2seq, pointer": lambda: TrineSeq2SeqConfig(encoder=SIZES, decoder={**SIZES, **TOKENS}, pointer_size=8),
    "seq2seq, everything": lambda: seq2seq(**EVERYTHING),
    "recurrent": TrineRecurrentConfig,
    "recurrent, none": lambda: TrineRecurrentConfig(attention="none"),
}
# A small config for every head of a family.
HEAD_CONFIGS = {
    TrineConfig: lambda: tiny_config(is_causal=False, add_pooling_layer=False, num_labels=3),
    TrineSeq2SeqConfig: lambda: seq2seq(attention_types="full, sliding"),
    TrineRecurrentConfig: lambda: TrineRecurrentConfig(
        vocab_size=41, hidden_size=12, pad_token_id=0, bos_token_id=1, num_labels=3
    ),
}
