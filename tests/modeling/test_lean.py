"""Evaluation on twins of modules: the same results to the last bit, and every hook, adapter and change is noticed."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.tiny import SPARSE, tiny_model
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig
from trine.configuration.kinds import ATTENTION_KINDS
from trine.modeling import lean
from trine.modeling.feed_forward.mlp import GatedMLP


TEXTS = torch.randint(3, 61, (2, 13), generator=torch.Generator().manual_seed(0))
PADDED = torch.ones_like(TEXTS).index_put((torch.tensor(1), torch.arange(4)), torch.tensor(0))


@torch.no_grad()
def logits_of_steps(model, mask=None, count=4):
    """Logits of a text's first tokens, and of each of its last ones by itself: (batch, length, vocabulary)."""
    start = TEXTS.shape[1] - count
    mask = torch.ones_like(TEXTS) if mask is None else mask
    outputs = model(TEXTS[:, :start], attention_mask=mask[:, :start], use_cache=True)
    logits = [outputs.logits]
    for end in range(start + 1, TEXTS.shape[1] + 1):
        outputs = model(TEXTS[:, end - 1 : end], attention_mask=mask[:, :end], past_key_values=outputs.past_key_values)
        logits.append(outputs.logits)
    return torch.cat(logits, dim=1)


@pytest.fixture
def ordinarily(monkeypatch):
    """Runs a function without twins."""

    def run(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(lean, "may_be_lean", lambda *args: False)
            return function(*args, **kwargs)

    return run


@pytest.fixture
def calls(monkeypatch):
    """The classes of the modules that PyTorch calls, in order."""
    called, call = [], nn.Module._call_impl

    def count(self, *args, **kwargs):
        called.append(type(self).__name__)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "_call_impl", count)
    return called


@pytest.mark.parametrize("mask", [None, PADDED], ids=["whole", "padded"])
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_steps_equal_those_of_modules_to_the_last_bit(kind, mask, ordinarily):
    model = tiny_model(attention_types=kind)
    expected = ordinarily(logits_of_steps, model, mask)
    assert model.model not in lean.TWINS
    assert torch.equal(logits_of_steps(model, mask), expected)
    assert model.model in lean.TWINS


FIELDS = [
    {"position_type": "learned", "norm_type": "layernorm", "gated_mlp": False, "hidden_act": "gelu_new"},
    {"position_type": "relative", "norm_position": "post"},
    {"position_type": "sinusoidal", "qk_norm": True, "embedding_norm": True, "scale_embedding": True},
    {"position_type": "rope", "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}},
    {"attention_types": "sliding, chunked, linear", "num_hidden_layers": 3, **SPARSE},
    {"attn": "eager", "hidden_dropout": 0.5, "attention_dropout": 0.5},
]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: "-".join(map(str, fields)))
def test_every_part_takes_part(fields, ordinarily):
    model = tiny_model(**fields)
    expected = ordinarily(logits_of_steps, model)
    assert torch.equal(logits_of_steps(model), expected)


def test_an_encoder_decoder_decodes_leanly(ordinarily, calls):
    sides = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 40}
    torch.manual_seed(0)
    config = TrineSeq2SeqConfig(encoder=sides, decoder=sides, vocab_size=61, decoder_start_token_id=1)
    model = TrineForConditionalGeneration(config).eval()
    options = {"max_new_tokens": 6, "num_beams": 2, "return_dict_in_generate": True, "output_logits": True}
    expected = ordinarily(model.generate, TEXTS, attention_mask=PADDED, **options)
    assert calls.count("Linear") > 100
    calls.clear()
    found = model.generate(TEXTS, attention_mask=PADDED, **options)
    assert calls.count("Linear") == 6  # the head's
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))


def test_nothing_in_a_trunk_is_called_as_a_module(calls):
    logits_of_steps(tiny_model(**SPARSE))
    assert {*calls} == {"TrineForCausalLM", "TrineModel", "Linear"}


def test_gradients_and_training_take_the_modules(calls):
    model = tiny_model()
    model(TEXTS, labels=TEXTS).loss.backward()
    assert calls.count("TrineLayer") == 2
    calls.clear()
    with torch.no_grad():
        model.train()(TEXTS)
    assert calls.count("TrineLayer") == 2


@pytest.mark.parametrize("name", ["model.layers.1", "model.layers.0.self_attn.q_proj", "model.norm", "model"])
def test_a_hook_of_later_is_called_and_goes(name, ordinarily):
    model = tiny_model()
    before = logits_of_steps(model)
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda *args: seen.append(name))
    assert torch.equal(logits_of_steps(model), before)
    assert len(seen) == 5
    handle.remove()
    logits_of_steps(model)
    assert len(seen) == 5


def test_a_hook_may_change_what_it_sees():
    model = tiny_model()
    before = logits_of_steps(model)
    model.model.layers[0].mlp.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    assert not torch.allclose(logits_of_steps(model), before)


def test_hooks_of_all_modules_are_called():
    model, seen = tiny_model(), []
    logits_of_steps(model)
    handle = register_module_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    try:
        logits_of_steps(model)
    finally:
        handle.remove()
    assert seen.count("RMSNorm") == 5 * 5


def test_another_way_of_calling_all_modules_is_taken(monkeypatch):
    model, called, call = tiny_model(), [], nn.Module.__call__
    logits_of_steps(model)
    monkeypatch.setattr(
        nn.Module, "__call__", lambda self, *args, **kwargs: called.append(self) or call(self, *args, **kwargs)
    )
    logits_of_steps(model)
    assert called.count(model.model.norm) == 5


def test_another_forward_of_a_class_is_taken(monkeypatch):
    model = tiny_model()
    before = logits_of_steps(model)
    for kind in (nn.Linear, type(model.model.layers[0].mlp)):
        with monkeypatch.context() as patch:
            patch.setattr(kind, "forward", lambda self, states, forward=kind.forward: 2 * forward(self, states))
            assert not torch.allclose(logits_of_steps(model), before)
        assert torch.equal(logits_of_steps(model), before)


class Doubled(GatedMLP):
    def forward(self, hidden_states):
        return 2 * super().forward(hidden_states)


def replace_a_module(model):
    model.model.layers[1].mlp.up_proj = nn.Linear(32, 40, bias=False, dtype=torch.float64)


def replace_a_weight(model):
    model.model.layers[0].self_attn.k_proj.weight = nn.Parameter(torch.randn(16, 32, dtype=torch.float64))


def change_a_weight(model):
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight.mul_(2)


def change_an_attribute(model):
    model.model.layers[0].self_attn.scaling = 3.0


def put_a_forward(model):
    layer = model.model.layers[0].mlp.down_proj
    layer.forward = lambda states, forward=layer.forward: 2 * forward(states)


def be_of_another_class(model):
    model.model.layers[0].mlp.__class__ = Doubled


def drop_in_evaluation(model):
    model.model.layers[0].dropout.p = 0.5
    model.model.layers[0].dropout.train()


def leave_early(model):
    model.config.num_hidden_layers = 1


def choose_eager(model):
    model.set_attn_implementation("eager")


CHANGES = [
    replace_a_module,
    replace_a_weight,
    change_a_weight,
    change_an_attribute,
    put_a_forward,
    be_of_another_class,
    drop_in_evaluation,
    leave_early,
    choose_eager,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change, ordinarily):
    model = tiny_model()
    before = logits_of_steps(model)
    change(model)
    torch.manual_seed(1)
    expected = ordinarily(logits_of_steps, model)
    assert not torch.equal(expected, before)
    torch.manual_seed(1)
    assert torch.equal(logits_of_steps(model), expected)


def test_adapters_take_part(calls):
    model = tiny_model()
    before = logits_of_steps(model)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
    calls.clear()
    found = logits_of_steps(adapted)
    assert calls.count("TrineLayer") == 0
    assert not torch.allclose(found, before)
    assert torch.allclose(logits_of_steps(adapted.merge_and_unload()), found)


def test_adapters_of_fused_experts_take_part():
    """They parametrise the experts anew in each pass."""
    model = tiny_model(mlp_layer_types="sparse")
    before = logits_of_steps(model)
    config = LoraConfig(target_parameters=["mlp.experts.down_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    found = logits_of_steps(adapted)
    assert not torch.allclose(found, before)
    assert torch.allclose(logits_of_steps(adapted.merge_and_unload()), found)


def test_what_is_recorded_is_recorded(ordinarily):
    model = tiny_model(attn="eager")
    logits_of_steps(model)
    with torch.no_grad():
        outputs = model(TEXTS, output_hidden_states=True, output_attentions=True)
        assert len(outputs.hidden_states) == 3
        assert len(outputs.attentions) == 2
        assert model(TEXTS).hidden_states is None
        model.config.output_hidden_states = True
        assert len(model(TEXTS).hidden_states) == 3


def test_recording_once_does_not_end_leanness(calls):
    model = tiny_model()
    with torch.no_grad():
        model(TEXTS, output_hidden_states=True)
    calls.clear()
    logits_of_steps(model)
    assert "TrineLayer" not in calls


def test_waves_that_grow_with_the_text_grow_for_both(ordinarily):
    """The dynamic scaling of RoPE sets attributes and buffers while it runs."""
    waves = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}
    models = [tiny_model(rope_parameters=waves, max_position_embeddings=8) for _ in range(2)]
    expected = ordinarily(logits_of_steps, models[0])
    assert torch.equal(logits_of_steps(models[1]), expected)
    lengths = [model.model.positions.max_seq_len_cached for model in models]
    assert lengths == [13, 13]
    assert torch.equal(models[0].model.positions.inv_freq, models[1].model.positions.inv_freq)


def test_a_model_is_let_go():
    model = tiny_model()
    logits_of_steps(model)
    gone = weakref.ref(model.model)
    del model
    gc.collect()
    assert gone() is None


def test_copies_and_pickles_are_of_the_model_alone():
    model = tiny_model()
    before = logits_of_steps(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits_of_steps(other), before)


def test_compiled_code_does_not_meet_twins(calls):
    model = tiny_model(dtype=torch.float32)
    with torch.no_grad():
        expected = model(TEXTS).logits
        found = torch.compile(model, backend="eager", fullgraph=True)(TEXTS, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 8, 9])
def test_a_large_head_multiplies_few_rows_the_other_way_round(rows, calls):
    torch.manual_seed(0)
    model = tiny_model(vocab_size=2**16, dtype=torch.float32, tie_word_embeddings=False)
    states = torch.randn(rows, 1, 32)
    expected = model.lm_head(states)
    calls.clear()
    with torch.no_grad():
        logits = model.project(states)
    assert calls == ([] if 2 <= rows <= 8 else ["Linear"])
    assert logits.is_contiguous()
    torch.testing.assert_close(logits, expected)
    calls.clear()
    model.project(states)
    model.lm_head.register_forward_hook(lambda module, args, output: 2 * output)
    with torch.no_grad():
        torch.testing.assert_close(model.project(states), 2 * expected)
    assert calls == ["Linear", "Linear"]
