"""Exported programs compute what their models do, in ONNX Runtime too, and are refused with a reason."""

import json
import logging
import re

import onnxruntime
import pytest
import torch
from support.tiny import output_of, random_ids, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertModel, DynamicCache
from transformers.exporters import ExportedModel

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineForMaskedLM,
    TrineForSequenceClassification,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    export,
    train_wordpiece,
)
from trine.conversion.programs import check as export_check
from trine.conversion.programs import export as exporting


TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """What torch logs of every shape takes long to collect."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def small(model_class, **fields):
    fields = {"num_hidden_layers": 1, "num_experts": 2, **TOKENS, **fields}
    return tiny_model(model_class, dtype=torch.float32, attn="sdpa", scale=1.5, **fields)


def exported(model, folder, **options):
    """Saves a model, exports it, and returns it as loaded from there."""
    model.save_pretrained(folder / "model")
    difference = export(folder / "model", folder / "program", **options)
    assert 0 <= difference < 1e-5
    return type(model).from_pretrained(folder / "model").eval()


def texts(*lengths: int, longest: int = 0, seed: int = 7) -> dict[str, torch.Tensor]:
    """Texts of these lengths, padded on the left."""
    longest = max(*lengths, longest)
    mask = (torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]).long()
    return {"input_ids": random_ids(len(lengths), longest, seed=seed) * mask, "attention_mask": mask}


class Operators(TorchDispatchMode):
    """Notes whose operators run."""

    def __init__(self):
        super().__init__()
        self.namespaces: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.namespaces.add(func.namespace)
        return func(*args, **(kwargs or {}))


def run_onnx(path, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What ONNX Runtime alone computes, without anything of Trine or transformers."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert {node.name for node in session.get_inputs()} == inputs.keys()
    outputs = session.run(None, {name: ids.numpy() for name, ids in inputs.items()})
    names = [node.name for node in session.get_outputs()]
    return {name: torch.from_numpy(output) for name, output in zip(names, outputs, strict=True)}


@torch.no_grad()
def test_an_encoder_in_onnx_runtime_with_its_tokenizer(tmp_path):
    """An operator of Trine, experts, token types, a head: one graph for any number of texts."""
    fields = {"attention_types": "simplicial", "mlp_layer_types": "sparse", "is_causal": False}
    fields |= {"type_vocab_size": 2, "num_labels": 3}
    model = small(TrineForSequenceClassification, **fields)
    train_wordpiece(["some words of a text"] * 9, vocab_size=120).save_pretrained(tmp_path / "model")
    model = exported(model, tmp_path)
    written = {path.name for path in (tmp_path / "program").iterdir()}
    expected = {"config.json", "export.json", "model.onnx", "model.onnx.data", "tokenizer.json"}
    assert written == expected | {"tokenizer_config.json"}
    graph = (tmp_path / "program" / "model.onnx").read_bytes()
    assert str(exporting.__file__.rpartition("/")[0]).encode() not in graph
    for lengths in ((1,), (19, 8, 1, 14, 3)):
        inputs = texts(*lengths)
        inputs["token_type_ids"] = random_ids(*inputs["input_ids"].shape) % 2
        outputs = run_onnx(tmp_path / "program" / "model.onnx", inputs)
        assert outputs.keys() == {"logits"}
        torch.testing.assert_close(outputs["logits"], model(**inputs).logits, **CLOSE)


@torch.no_grad()
@pytest.mark.slow
def test_a_decoder_with_a_cache_in_onnx_runtime(tmp_path):
    model = exported(small(TrineForCausalLM), tmp_path, cache=True)
    program = ExportedModel.from_pretrained(tmp_path / "program")
    assert isinstance(program.config, TrineConfig) and program.generation_config.eos_token_id == 2
    inputs = texts(12, 5, 9)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = model(ids, attention_mask=mask).logits
    states = DynamicCache(config=model.config)
    for start, end in ((0, 7), (7, 8), (8, 12)):
        part = {
            "input_ids": ids[:, start:end],
            "attention_mask": mask[:, :end],
            "position_ids": positions[:, start:end],
        }
        outputs = program.runners["decode" if start else "prefill"](**part, past_key_values=states)
        states, real = outputs.past_key_values, mask[:, start:end] == 1
        torch.testing.assert_close(outputs.logits[real], expected[:, start:end][real], **CLOSE)


@torch.no_grad()
def test_a_recurrent_model_in_onnx_runtime(tmp_path):
    """Padding on either side never enters a state: ONNX's LSTM takes lengths."""
    config = TrineRecurrentConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1, **TOKENS)
    model = exported(TrineRecurrentForConditionalGeneration(config), tmp_path)
    inputs = texts(2, 11, 6) | {"decoder_input_ids": random_ids(3, 5)}
    inputs["attention_mask"][2] = inputs["attention_mask"][2].flip(0)
    outputs = run_onnx(tmp_path / "program" / "model.onnx", inputs)
    torch.testing.assert_close(outputs["logits"], model(**inputs).logits, **CLOSE)


@torch.no_grad()
def test_programs_of_torch_export_serve_all_lengths(tmp_path):
    """Kinds that cut texts into blocks, whose number depends on the length."""
    model = small(TrineForCausalLM, attention_types="linear, lsh", num_hidden_layers=2)
    model = exported(model, tmp_path, format="torch")
    program = ExportedModel.from_pretrained(tmp_path / "program")
    for lengths in ((1,), (2, 1), (21, 8, 16)):
        inputs = texts(*lengths)
        real = inputs["attention_mask"] == 1
        torch.testing.assert_close(program(**inputs).logits[real], model(**inputs).logits[real], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["simplicial", "bigbird", "lsh"])
@pytest.mark.parametrize("is_causal", [False, True], ids=["encoder", "decoder"])
def test_operators_written_out_compute_the_same(kind, is_causal):
    """As they are traced for ONNX, but run at once."""
    model = small(None, attention_types=kind, is_causal=is_causal).double()
    inputs = texts(23, 1, 12)
    real = inputs["attention_mask"] == 1
    with Operators() as own:
        expected = output_of(model(**inputs, use_cache=False))[real]
    with exporting.plain_operators(model, "onnx"), Operators() as plain:
        actual = output_of(model(**inputs, use_cache=False))[real]
    assert "trine" in own.namespaces and "trine" not in plain.namespaces
    torch.testing.assert_close(actual, expected)


def test_a_backend_is_set_aside_while_it_is_traced():
    model = small(TrineForCausalLM, attention_types="simplicial", simplicial_backend="flex")
    with exporting.plain_operators(model, "torch"):
        assert model.config.simplicial_backend == "auto"
    assert model.config.simplicial_backend == "flex"


def saved(folder, model=None):
    (model or small(TrineForCausalLM)).save_pretrained(folder / "model")
    return folder / "model"


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, {"format": "onxx"}, "format='onxx' is not one of ['onnx', 'torch', 'gguf']."),
        (
            {"attention_types": "full, lsh", "num_hidden_layers": 2},
            {"cache": True},
            "cache=True cannot be exported with attention_types[1]='lsh' as format='onnx', which takes ['full', "
            "'sliding', 'chunked', 'linear']. Choose cache=False.",
        ),
        (
            {"attention_types": "sliding"},
            {"cache": True, "format": "torch"},
            "cache=True cannot be exported with attention_types[0]='sliding' as format='torch', which takes []. "
            "Choose cache=False, or format='onnx'.",
        ),
    ],
)
def test_what_cannot_be_exported_is_named_before_the_work(fields, options, message, tmp_path, monkeypatch):
    source = saved(tmp_path, small(TrineForCausalLM, **fields))
    monkeypatch.setattr(exporting, "trace", None)
    monkeypatch.setattr(exporting, "trace_generation", None)
    with pytest.raises(ValueError, match=re.escape(message)):
        export(source, tmp_path / "program", **options)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_cache_is_a_decoders(tmp_path):
    source = saved(tmp_path, small(TrineForMaskedLM, is_causal=False))
    with pytest.raises(ValueError, match="cache=True is for a TrineForCausalLM, not a TrineForMaskedLM"):
        export(source, tmp_path / "program", cache=True)


def test_no_program_reads_prefixes(tmp_path):
    with pytest.raises(ValueError, match="prefix_lm=True reads a prompt both ways, which no exported program does"):
        export(saved(tmp_path, small(TrineForCausalLM, prefix_lm=True)), tmp_path / "program")


def test_only_models_of_trine_are_exported(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    source = saved(tmp_path, BertModel(BertConfig(vocab_size=9, **sizes)))
    with pytest.raises(ValueError, match=r"architectures=\['BertModel'\] of .* is not one of .*`trine convert`"):
        export(source, tmp_path / "program")
    fields = json.loads((saved(tmp_path) / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps(fields | {"architectures": None}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"architectures=None of .*'TrineRecurrentModel'.*\]\.$"):
        export(source, tmp_path / "program")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("onnxscript", "format='onnx' needs onnxscript: pip install 'trine[export]'."),
        ("transformers.exporters.metadata", "Exports need transformers 5.23, not "),
    ],
)
def test_missing_packages_are_named(missing, message, tmp_path, monkeypatch):
    find = exporting.find_spec
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ValueError, match=re.escape(message)):
        export(saved(tmp_path), tmp_path / "program")


class Wrong:
    """A program whose outputs are a little off, or that fails."""

    def __init__(self, model, error=None):
        self.model, self.error = model, error
        self.runners = {"prefill": self, "decode": self}

    def __call__(self, **inputs):
        if self.error:
            raise RuntimeError(self.error)
        outputs = self.model(**inputs)
        outputs.logits = outputs.logits + 0.01
        return outputs


@pytest.mark.parametrize("check", [export_check.check_program, export_check.check_generation])
@pytest.mark.parametrize(
    ("error", "message"), [(None, "differ by up to 0.01"), ("no", r"does not run for \(batch, length\) = \(1, 1\)")]
)
def test_a_wrong_program_is_found(check, error, message, monkeypatch, tmp_path):
    model = small(TrineForCausalLM)
    monkeypatch.setattr(export_check, "load_program", lambda folder: Wrong(model, error))
    with pytest.raises(ValueError, match=message):
        check(tmp_path, model)


def test_nothing_remains_of_a_wrong_program(tmp_path, monkeypatch):
    class Program:
        def save_pretrained(self, folder):
            (folder / "model.pt2").write_text("half")

    def refuse(folder, model):
        assert (folder / "model.pt2").exists() and (folder / "config.json").exists()
        raise ValueError("wrong")

    source = saved(tmp_path)
    monkeypatch.setattr(exporting, "trace", lambda model, format: Program())
    monkeypatch.setattr(exporting, "check_program", refuse)
    with pytest.raises(ValueError, match="wrong"):
        export(source, tmp_path / "program", format="torch")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
