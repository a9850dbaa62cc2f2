"""Models are pickled, copied and sent to other processes, whatever records their states."""

import copy
import io
import pickle

import pytest
import torch
from support.tiny import SIZES, SPARSE, random_ids, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from trine import (
    TrineForConditionalGeneration,
    TrineModel,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    TrineSeq2SeqConfig,
)
from trine.configuration.kinds import ATTENTION_KINDS


def seq2seq():
    stack = {**SIZES, **SPARSE}
    return TrineForConditionalGeneration(TrineSeq2SeqConfig(encoder=stack, decoder=stack, decoder_start_token_id=0))


def recurrent():
    config = TrineRecurrentConfig(vocab_size=61, hidden_size=8, num_hidden_layers=2, decoder_start_token_id=0)
    return TrineRecurrentForConditionalGeneration(config)


MODELS = {
    **{kind: lambda kind=kind: tiny_model(attn="sdpa", attention_types=kind) for kind in ATTENTION_KINDS},
    "sparse": lambda: tiny_model(attn="sdpa", **SPARSE),
    "sparse encoder": lambda: tiny_model(TrineModel, attn="sdpa", is_causal=False, **SPARSE),
    "encoder-decoder": seq2seq,
    "recurrent": recurrent,
}


def saved_and_loaded(model):
    """By `torch.save` of the module itself."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch": saved_and_loaded,
    "deepcopy": copy.deepcopy,
}


def record(model) -> list[torch.Tensor]:
    """Everything that a forward pass gives, recorded states too."""
    ids = random_ids(2, 9)
    inputs = {"input_ids": ids, "output_hidden_states": True, "use_cache": False}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    if "sparse" in getattr(model.config, "mlp_layer_types", ()) or model.config.model_type == "trine_seq2seq":
        inputs["output_router_logits"] = True
    outputs = model(**inputs).to_tuple()
    return [tensor for part in outputs for tensor in (part if isinstance(part, tuple) else [part])]


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_a_copy_records_what_the_model_does(name, way):
    """A fresh model, and one that recorded before; the copy of a copy, and the model itself go on as before."""
    model = MODELS[name]().eval()
    fresh = WAYS[way](model)
    expected = record(model)
    for other in (fresh, WAYS[way](model), WAYS[way](WAYS[way](fresh)), model):
        actual = record(other)
        assert len(actual) == len(expected) > 3
        assert all(map(torch.equal, actual, expected))


def test_what_transformers_itself_does():
    """Without the mending a model of transformers cannot be pickled once it recorded. When it can, ours needs none."""
    fields = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=9, **fields))
    pickle.dumps(model)
    model(torch.tensor([[3]]), output_hidden_states=True)
    with pytest.raises((AttributeError, pickle.PicklingError), match="output_capturing_hook"):
        pickle.dumps(model)


def test_a_copied_sparse_model_compiles_whole():
    """Training reads router logits, and installing hooks would break the graph."""
    model = tiny_model(attn="sdpa", **SPARSE).train()
    ids = random_ids(2, 9)
    expected = model(ids, labels=ids).loss
    for other in (pickle.loads(pickle.dumps(model)), model):
        compiled = torch.compile(other, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(ids, labels=ids).loss, expected)
