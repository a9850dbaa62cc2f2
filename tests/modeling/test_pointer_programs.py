"""What leaves the package with a pointer: a checkpoint's own code, programs and lifts, but no conversion."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import forks
from support.pointers import SMALL, TOKENS, pointer_model, sources
from support.tiny import random_ids

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig, convert, export, lift
from trine.configuration.bundle import files_of


STRANGER = """
import sys
sys.modules["trine"] = None
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM
folder = sys.argv[1]
inputs = load_file(f"{folder}/inputs.safetensors")
model = AutoModelForSeq2SeqLM.from_pretrained(f"{folder}/model", trust_remote_code=True).eval()
written = model.generate(**inputs, max_new_tokens=5, num_beams=2, do_sample=False)
loss = model.train()(**inputs, labels=written.clone()).loss
loss.backward()
save_file({"written": written.contiguous(), "loss": loss.detach()}, f"{folder}/outputs.safetensors")
"""


def small_model() -> TrineForConditionalGeneration:
    stack = {**SMALL, **TOKENS, "num_hidden_layers": 1, "position_type": "learned"}
    torch.manual_seed(0)
    return TrineForConditionalGeneration(TrineSeq2SeqConfig(encoder=stack, decoder=stack, pointer_size=8))


def test_a_process_without_the_package_copies_the_same(tmp_path, monkeypatch):
    model, (_, inputs) = pointer_model("t5", torch.float32, coverage_loss_coef=0.5), sources()
    model.save_pretrained(tmp_path / "model")
    save_file(inputs, tmp_path / "inputs.safetensors")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    result = forks.run(["-c", STRANGER, str(tmp_path)], tmp_path)
    assert result.returncode == 0, result.stderr
    found = load_file(tmp_path / "outputs.safetensors")
    written = model.generate(**inputs, max_new_tokens=5, num_beams=2, do_sample=False)
    assert torch.equal(found["written"], written)
    torch.testing.assert_close(found["loss"], model.train()(**inputs, labels=written.clone()).loss.detach())


def test_code_without_a_pointer_has_none():
    stack = {**SMALL, **TOKENS}
    without, with_pointer = (
        "".join(files_of(TrineSeq2SeqConfig(encoder=stack, decoder=stack, pointer_size=size)).values())
        for size in (None, 8)
    )
    for name in ("class PointerHead(", "class ChunkedCopyLoss(", "class TrinePointerSource("):
        assert name in with_pointer and name not in without


def test_a_lift_keeps_the_pointer():
    model, (_, inputs) = pointer_model("t5"), sources()
    deeper = lift(model, "deeper", num_hidden_layers=3)
    labels = random_ids(3, 5, vocab_size=9)
    torch.testing.assert_close(deeper(**inputs, labels=labels).logits, model(**inputs, labels=labels).logits)


def test_no_other_family_has_one(tmp_path):
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 8}
    config = TrineSeq2SeqConfig.from_preset("t5-like", **sizes, pointer_size=12)
    TrineForConditionalGeneration(config).save_pretrained(tmp_path / "source")
    message = "pointer_size=12 cannot be represented in model_type='t5', where it is None"
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "source", tmp_path / "target", to="t5")


@pytest.mark.slow
def test_a_program_computes_what_the_model_does(tmp_path):
    """`export` itself compares the program with the model, for other lengths than it was traced with.

    That for ONNX is made from one of `torch.export`.
    """
    small_model().save_pretrained(tmp_path / "model")
    assert export(tmp_path / "model", tmp_path / "program", format="onnx") < 1e-5


def test_compiled_it_is_the_same():
    model, (_, inputs), labels = small_model().train(), sources(), random_ids(3, 5, vocab_size=9)
    expected = model(**inputs, labels=labels).loss
    compiled = torch.compile(model, backend="eager", fullgraph=True)(**inputs, labels=labels)
    torch.testing.assert_close(compiled.loss, expected)
