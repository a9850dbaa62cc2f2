"""A checkpoint's own code, where trine cannot be imported, refuses what would give other results without a word."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import SPARSE, tiny_model
from transformers import AutoModelForCausalLM


SAVED = {
    "plain": {},
    "linear": {"attention_types": "linear"},
    "simplicial": {"attention_types": "simplicial"},
    "sparse": SPARSE,
}
NAME = "layers.0.mlp.up_proj.weight"
# Name to folder, what `from_pretrained` is given in place of what was saved, and how the error begins.
REFUSED = {
    "a lost tensor": (
        "lost",
        {},
        f"OSError: lost: model.safetensors lacks the tensor 'model.{NAME}', which",
    ),
    "settings that cannot be read": ("cut", {}, "OSError: 'cut/generation_config.json' is damaged or incomplete"),
    "parts that were never trained": (
        "plain",
        {"qk_norm": True},
        "OSError: plain: model.safetensors lacks the tensor 'model.layers.0.self_attn.k_norm.weight' and 3 more",
    ),
    "a loss of nothing": (
        "plain",
        {"loss_chunk_size": -1},
        "ValueError: loss_chunk_size=-1 must be at least 1, or None for ordinary logits.",
    ),
    "dropout of weights that there are not": (
        "linear",
        {"attention_dropout": 0.1},
        "ValueError: attention_dropout=0.1 drops the weights of pairs of tokens, but attention_types[0]='linear'",
    ),
    "absolute positions": (
        "simplicial",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "ValueError: simplicial_form='complex' reads relative positions only if the rotation turns 1 of a head",
    ),
    "experts that nobody visits": (
        "sparse",
        {"num_experts_per_tok": 0},
        "ValueError: num_experts_per_tok=0 must be at least 1",
    ),
}
PROGRAM = """
import json, sys
sys.modules["trine"] = None
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

found, options = {}, {"trust_remote_code": True}
for name, (folder, fields, _) in json.loads(sys.argv[1]).items():
    try:
        AutoModelForCausalLM.from_pretrained(folder, **fields, **options)
        found[name] = "nothing"
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
model = AutoModelForSequenceClassification.from_pretrained("plain", num_labels=3, **options)
_, report = AutoModelForCausalLM.from_pretrained("lost", output_loading_info=True, **options)
found["new head"] = [model.classifier.weight.shape[0], *report["missing_keys"]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What each case came to in a process without trine."""
    folder = tmp_path_factory.mktemp("carried")
    for name, fields in SAVED.items():
        tiny_model(dtype=torch.float32, scale=1.0, num_hidden_layers=2, **fields).save_pretrained(folder / name)
    for name in ("lost", "cut"):
        tiny_model(dtype=torch.float32, scale=1.0, num_hidden_layers=1).save_pretrained(folder / name)
    weights = load_file(folder / "lost" / "model.safetensors")
    del weights[f"model.{NAME}"]
    save_file(weights, folder / "lost" / "model.safetensors", metadata={"format": "pt"})
    settings = folder / "cut" / "generation_config.json"
    settings.write_text(settings.read_text()[:-5])
    command = [sys.executable, "-c", PROGRAM, json.dumps(REFUSED)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {"folder": folder, **json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_give_other_results_without_a_word_is_refused(found, name, monkeypatch):
    """So it is with the package."""
    folder, fields, message = REFUSED[name]
    assert found[name].startswith(message), found[name]
    monkeypatch.chdir(found["folder"])
    with pytest.raises((OSError, ValueError)) as caught:
        AutoModelForCausalLM.from_pretrained(folder, **fields)
    assert f"{type(caught.value).__name__}: {caught.value}".startswith(message)


def test_a_new_head_is_no_loss_and_a_report_tells_of_one(found):
    assert found["new head"] == [3, f"model.{NAME}"]
