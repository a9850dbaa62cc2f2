"""What the common tests run on: configurations of ours and of the library's own models, and their classes."""

import re
from dataclasses import dataclass, field
from typing import Any

from support.tiny import SIZES
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    MixtralConfig,
    MixtralForCausalLM,
    MixtralForQuestionAnswering,
    MixtralForSequenceClassification,
    MixtralForTokenClassification,
    MixtralModel,
    T5Config,
    T5ForConditionalGeneration,
    T5ForQuestionAnswering,
    T5ForSequenceClassification,
    T5ForTokenClassification,
    T5Model,
)

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineForMultipleChoice,
    TrineForNextSentencePrediction,
    TrineForPreTraining,
    TrineForQuestionAnswering,
    TrineForRetrieval,
    TrineForSequenceClassification,
    TrineForTokenClassification,
    TrineModel,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    TrineRecurrentModel,
    TrineSeq2SeqConfig,
    TrineSeq2SeqForQuestionAnswering,
    TrineSeq2SeqForSequenceClassification,
    TrineSeq2SeqForTokenClassification,
    TrineSeq2SeqModel,
)
from trine.configuration.kinds import ATTENTION_KINDS


@dataclass(frozen=True)
class Case:
    """A configuration and the model classes that are tested with it.

    `peers` names the cases of the library's models whose skipped tests ours are compared with; `distributed` names the
    tests that spread the language model over processes (`DISTRIBUTED` in adapted.py), which take long: the peers go
    without.
    """

    name: str
    shape: str
    config_class: type
    classes: tuple[type, ...]
    fields: dict[str, Any] = field(default_factory=dict)
    peers: tuple[str, ...] = ()
    distributed: tuple[str, ...] = ()

    def stacks(self) -> list[dict[str, Any]]:
        """The fields of each stack of layers."""
        return [self.fields[side] for side in ("encoder", "decoder") if side in self.fields] or [self.fields]


@dataclass(frozen=True)
class Run:
    """One class of a case: what one test class of the run is about."""

    case: Case
    model_class: type

    @property
    def name(self) -> str:
        return f"{self.case.name}_{self.model_class.__name__}"

    @property
    def role(self) -> str:
        """What is left of the class's name without its family: `Model`, `ForCausalLM` and so on."""
        families = "|".join(("Trine(Seq2Seq|Recurrent)?", *PEERS))
        return re.sub(f"^({families})", "", self.model_class.__name__)

    @property
    def repeats_its_trunk(self) -> bool:
        """Whether the bare model of the case runs, too, and the class has an earlier case of the same shape."""
        runs = [Run(case, self.model_class) for case in OURS if case.shape == self.case.shape]
        first = next((run for run in runs if run.model_class in run.case.classes), self)
        roles = {Run(self.case, model_class).role for model_class in self.case.classes} - {self.role}
        return first.case is not self.case and "Model" in roles

    @property
    def peers(self) -> list[str]:
        """The runs of the peers' classes that have the same role."""
        named = [PEERS[name] for name in self.case.peers]
        runs = [Run(peer, model_class) for peer in named for model_class in peer.classes]
        return [run.name for run in runs if run.role == self.role]


TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# The inputs have 7 tokens: windows and chunks are smaller than those of other tests, so that they matter.
TRINE = SIZES | TOKENS | {"sliding_window": 3, "attention_chunk_size": 4, "simplicial_window": 4}
TRINE |= {"simplicial_second_window": 2, "bigbird_block_size": 2, "lsh_chunk_length": 2}
SMALL = {name: SIZES[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
SMALL |= TOKENS | {name: SIZES[name] for name in ("num_attention_heads", "max_position_embeddings")}
GROUPED = SMALL | {"num_key_value_heads": SIZES["num_key_value_heads"]}
EXPERTS = {"mlp_layer_types": ["sparse"] * 2}
PLAIN = {"norm_type": "layernorm", "gated_mlp": False, "hidden_act": "gelu", "mlp_bias": True}

DECODER = (TrineModel, TrineForCausalLM)
CLASSIFIERS = (TrineForSequenceClassification, TrineForTokenClassification, TrineForQuestionAnswering)
ENCODER = (
    *(TrineModel, TrineForMaskedLM, TrineForPreTraining, TrineForNextSentencePrediction),
    *(*CLASSIFIERS, TrineForMultipleChoice),
)
RECURRENT = (TrineRecurrentModel, TrineRecurrentForConditionalGeneration)
SEQ2SEQ = (TrineSeq2SeqModel, TrineForConditionalGeneration)

LLAMA = (LlamaForSequenceClassification, LlamaForTokenClassification, LlamaForQuestionAnswering)
MIXTRAL = (MixtralForSequenceClassification, MixtralForTokenClassification, MixtralForQuestionAnswering)
T5_CLASSES = (T5Model, T5ForConditionalGeneration, T5ForSequenceClassification, T5ForQuestionAnswering)
BERT = (
    *(BertModel, BertForMaskedLM, BertForPreTraining, BertForNextSentencePrediction, BertForSequenceClassification),
    *(BertForTokenClassification, BertForQuestionAnswering, BertForMultipleChoice),
)
T5 = {
    **{"vocab_size": SIZES["vocab_size"], "d_model": SIZES["hidden_size"], "d_ff": SIZES["intermediate_size"]},
    **{"d_kv": 8, "num_layers": SIZES["num_hidden_layers"], "num_heads": SIZES["num_attention_heads"]},
    **{"relative_attention_num_buckets": 8, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0},
}
PEERS = {
    peer.name: peer
    for peer in (
        Case("Llama", "decoder", LlamaConfig, (LlamaModel, LlamaForCausalLM, *LLAMA), GROUPED),
        Case(
            "Mixtral",
            "decoder",
            MixtralConfig,
            (MixtralModel, MixtralForCausalLM, *MIXTRAL),
            GROUPED | {"intermediate_size": 24, "num_local_experts": SIZES["num_experts"]},
        ),
        Case("Bert", "encoder", BertConfig, BERT, SMALL | {"type_vocab_size": 2}),
        Case("T5", "encoder-decoder", T5Config, T5_CLASSES, T5),
        Case("T5Encoder", "encoder of two", T5Config, (T5ForTokenClassification,), T5 | {"is_encoder_decoder": False}),
    )
}

# Every attention kind, position, norm placement, feed-forward and router occurs at least once.
DENSE_DECODERS = {
    "Full": {},
    "Sliding": {
        **PLAIN,
        "attention_types": ["sliding"] * 2,
        "position_type": "learned",
        "tie_word_embeddings": False,
        "initializer": "kaiming",
    },
    "Chunked": {
        "attention_types": ["chunked"] * 2,
        "position_type": "sinusoidal",
        "norm_type": "layernorm",
        "norm_position": "post",
        "scale_embedding": True,
        "head_dim": 16,
    },
    "Mixed": {"attention_types": ["sliding", "full"], "position_type": "relative", "initializer": "xavier"},
    "MultiQuery": {
        "position_type": "none",
        "num_key_value_heads": 1,
        "qk_norm": True,
        "attention_bias": True,
        "norm_position": "post",
    },
    "Simplicial": {"attention_types": ["simplicial", "full"], "qk_norm": True},
    "Linear": {"attention_types": ["linear", "full"], "linear_feature_map": "softmax"},
    "Performer": {"attention_types": ["performer"] * 2, "qk_norm": True},
    "BigBird": {"attention_types": ["bigbird", "sliding"], "position_type": "learned"},
    "Lsh": {"attention_types": ["lsh"] * 2, "position_type": "sinusoidal"},
}
# A kind that no case above names has one of its own.
NAMED = {kind for fields in DENSE_DECODERS.values() for kind in fields.get("attention_types", ["full"])}
DENSE_DECODERS |= {kind.title(): {"attention_types": [kind] * 2} for kind in ATTENTION_KINDS if kind not in NAMED}
SPARSE_DECODERS = {
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
DENSE_ENCODERS = {
    "BertLike": {
        **PLAIN,
        "position_type": "learned",
        "norm_position": "post",
        "embedding_norm": True,
        "add_pooling_layer": True,
        "type_vocab_size": 2,
        "attention_bias": True,
        "num_key_value_heads": 4,
    },
    "ModernBertLike": {
        "attention_types": ["full", "sliding"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        "norm_type": "layernorm",
        "embedding_norm": True,
        "hidden_act": "gelu",
        "classifier_pooling": "mean",
    },
    "ChunkedEncoder": {
        "attention_types": ["chunked"] * 2,
        "position_type": "relative",
        "relative_attention_num_buckets": 8,
        "classifier_pooling": "last",
        "tie_word_embeddings": False,
    },
    "SimplicialEncoder": {
        "attention_types": ["simplicial"] * 2,
        "simplicial_form": "hadamard",
        "position_type": "learned",
    },
    "KernelizedEncoder": {"attention_types": ["linear", "performer"]},
    "BlockEncoder": {"attention_types": ["bigbird", "lsh"], "position_type": "learned"},
}
SPARSE_ENCODERS = {
    "SparseEncoder": {"attention_types": ["sliding", "full"], "num_shared_experts": 1, "router_z_loss_coef": 0.001},
}
# Of these no other class is tested: what else a checkpoint with such outputs becomes is in the cases above.
RETRIEVAL = {
    "is_causal": False,
    "retrieval_outputs": ["dense", "sparse", "multi_vector"],
    "unscored_token_ids": [0, 1, 2],
    "multi_vector_dim": 8,
}
RETRIEVAL_ENCODERS = {
    "Retrieval": {**PLAIN, "position_type": "learned", "norm_position": "post", "embedding_norm": True},
    "SparseRetrieval": {**EXPERTS, "attention_types": ["sliding", "full"]},
}
DENSE_SEQ2SEQ = {
    "TransformerBase": (
        {},
        post := PLAIN
        | {"position_type": "sinusoidal", "norm_position": "post", "hidden_act": "relu", "scale_embedding": True},
        post,
    ),
    "T5Like": (
        {"tie_word_embeddings": False},
        relative := {"position_type": "relative", "relative_attention_num_buckets": 8, "hidden_act": "gelu_new"},
        relative,
    ),
    "TwoSizes": (
        {"share_embeddings": False},
        {"attention_types": ["sliding", "full"], "hidden_size": 48, "head_dim": 12, "vocab_size": 53},
        {"attention_types": ["sliding", "chunked"], "position_type": "learned", "intermediate_size": 24},
    ),
    "SimplicialStacks": (
        {},
        {"attention_types": ["full", "simplicial"]},
        {
            "attention_types": ["simplicial", "sliding"],
            "simplicial_form": "determinant",
            "head_dim": 12,
            "position_type": "sinusoidal",
        },
    ),
    "EfficientStacks": (
        {},
        {"attention_types": ["linear", "bigbird"]},
        {"attention_types": ["performer", "lsh"]},
    ),
}
SPARSE_SEQ2SEQ = {
    "SparseStacks": ({}, EXPERTS, EXPERTS | {"attention_types": ["full", "sliding"], "router_type": "sigmoid"}),
}
# With the default's smaller embeddings, so narrow an LSTM learns nothing but frequencies for hundreds of steps.
LSTM = {name: SIZES[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")} | TOKENS
LSTM |= {"initializer_range": 0.3}
RECURRENT_BASELINES = {
    "LstmAttention": {"attention": "dot"},
    "LstmVector": {"attention": "none", "bidirectional_encoder": False, "tie_word_embeddings": False},
}
# The tests that spread a case over processes. Simplicial layers have plans of their own for tensor parallelism. Shards
# are of whole layers, whatever their kind; those of experts have plans of their own, too.
SPREAD = {
    "Full": ("tensors", "experts", "shards"),
    "Simplicial": ("tensors",),
    "SoftmaxExperts": ("tensors", "experts", "shards of experts"),
    "BertLike": ("tensors of an encoder",),
}


def decoder(name: str, fields: dict[str, Any], peer: str) -> Case:
    """A decoder. One dense and one sparse case have the heads of classifiers, too."""
    classes = (*DECODER, *CLASSIFIERS) if name in ("Full", "SoftmaxExperts") else DECODER
    return Case(name, "decoder", TrineConfig, classes, fields, (peer,), SPREAD.get(name, ()))


def encoder(name: str, fields: dict[str, Any], peers: tuple[str, ...]) -> Case:
    """An encoder. One dense and the sparse case have all heads, those that pool otherwise a classifier, too."""
    heads = CLASSIFIERS[:1] if "classifier_pooling" in fields else ()
    classes = ENCODER if name in ("BertLike", "SparseEncoder") else (TrineModel, TrineForMaskedLM, *heads)
    fields = fields | {"is_causal": False}
    return Case(name, "encoder", TrineConfig, classes, fields, peers, SPREAD.get(name, ()))


def seq2seq(name: str, shared: dict, encoder: dict, decoder: dict, peers: tuple[str, ...]) -> Case:
    """An encoder-decoder. One dense and the sparse case classify texts and find spans, too."""
    heads = (TrineSeq2SeqForSequenceClassification, TrineSeq2SeqForQuestionAnswering)
    classes = (*SEQ2SEQ, *heads) if name in ("T5Like", "SparseStacks") else SEQ2SEQ
    fields = shared | {"encoder": TRINE | encoder, "decoder": TRINE | decoder}
    return Case(name, "encoder-decoder", TrineSeq2SeqConfig, classes, fields, peers)


def encoder_of_two(name: str, shared: dict, encoder: dict, decoder: dict) -> Case:
    """An encoder-decoder whose head reads the encoder alone."""
    fields = shared | {"encoder": TRINE | encoder, "decoder": TRINE | decoder}
    classes = (TrineSeq2SeqForTokenClassification,)
    return Case(f"{name}Encoder", "encoder of two", TrineSeq2SeqConfig, classes, fields, ("T5Encoder",))


OURS = (
    *(decoder(name, TRINE | fields, "Llama") for name, fields in DENSE_DECODERS.items()),
    *(decoder(name, TRINE | EXPERTS | fields, "Mixtral") for name, fields in SPARSE_DECODERS.items()),
    *(encoder(name, TRINE | fields, ("Bert",)) for name, fields in DENSE_ENCODERS.items()),
    *(encoder(name, TRINE | EXPERTS | fields, ("Bert", "Mixtral")) for name, fields in SPARSE_ENCODERS.items()),
    *(
        Case(name, "encoder", TrineConfig, (TrineForRetrieval,), TRINE | RETRIEVAL | fields)
        for name, fields in RETRIEVAL_ENCODERS.items()
    ),
    *(seq2seq(name, *fields, ("T5",)) for name, fields in DENSE_SEQ2SEQ.items()),
    *(seq2seq(name, *fields, ("T5", "Mixtral")) for name, fields in SPARSE_SEQ2SEQ.items()),
    *(encoder_of_two(name, *DENSE_SEQ2SEQ[name]) for name in ("T5Like", "TwoSizes")),
    encoder_of_two("SparseStacks", *SPARSE_SEQ2SEQ["SparseStacks"]),
    *(
        Case(name, "recurrent", TrineRecurrentConfig, RECURRENT, LSTM | fields, ("T5",))
        for name, fields in RECURRENT_BASELINES.items()
    ),
)
RUNS = {run.name: run for case in (*PEERS.values(), *OURS) for run in (Run(case, cls) for cls in case.classes)}
