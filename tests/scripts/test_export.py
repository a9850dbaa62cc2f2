"""`trine export SOURCE TARGET`."""

import importlib
import logging
import re
import sys
import warnings

import pytest
import torch
from gguf import GGUFReader
from support import forks
from support.tiny import SIZES, random_ids, tiny_model
from support.tokenizer_texts import TEXTS
from transformers.exporters import ExportedModel

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig, train_byte_level_bpe
from trine.conversion.programs.noise import LOGGED, without_export_noise
from trine.scripts import export


BAR = r"((load|trace|write|check): |Loading weights: )? *\d+%\|.*\| \d+/\d+ \[.*\]"


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """What torch logs of every shape takes long to collect."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def loud():
    logging.disable(logging.NOTSET)
    yield
    logging.disable(logging.CRITICAL)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "source"
    side = {**SIZES, "num_hidden_layers": 1}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    TrineForConditionalGeneration(TrineSeq2SeqConfig(encoder=side, decoder=side, **tokens)).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_an_encoder_decoder_becomes_a_program_of_torch(source, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        export.main([str(source), str(tmp_path / "program"), "--format", "torch"])
    shown = capsys.readouterr()
    assert f"{source} -> {tmp_path / 'program'}" in shown.out and "check: 100%" in shown.err
    assert float(shown.out.rsplit(": ", 1)[1]) <= 1e-5
    mask = torch.ones(3, 17, dtype=torch.long)
    mask[1, :11] = 0
    inputs = {"input_ids": random_ids(3, 17), "attention_mask": mask, "decoder_input_ids": random_ids(3, 9)}
    actual = ExportedModel.from_pretrained(tmp_path / "program")(**inputs)
    expected = TrineForConditionalGeneration.from_pretrained(source).eval()(**inputs)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-5, atol=1e-5)


def test_a_decoder_becomes_a_file_for_llama_cpp(tmp_path, capsys):
    """`--to` is `--format`, and the type is an option; gguf's own reader finds the model and its words."""
    tokenizer = train_byte_level_bpe(TEXTS, 300, show_progress=False, pre_tokenizer="qwen2")
    model = tiny_model(dtype=torch.float32, vocab_size=300, eos_token_id=0)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "source")
    export.main([str(tmp_path / "source"), str(tmp_path / "made"), "--to", "gguf", "--dtype", "f16"])
    shown = capsys.readouterr().out
    assert "Largest difference of a weight, read back from the file: " in shown
    assert 0 < float(shown.rsplit(": ", 1)[1]) < 2**-9
    fields = GGUFReader(tmp_path / "made" / "model.gguf").fields
    assert fields["general.architecture"].contents() == "llama"
    assert fields["tokenizer.ggml.pre"].contents() == "qwen2" and fields["general.name"].contents() == "source"
    with pytest.raises(SystemExit, match="intermediate_size=40 is not a multiple of 32, which dtype='q8_0' needs"):
        export.main([str(tmp_path / "source"), str(tmp_path / "other"), "--format", "gguf", "--dtype", "q8_0"])


def test_the_command_prints_its_own_lines_only(tmp_path):
    """Of a decoder, whose one program has a cache."""
    source = tmp_path / "source"
    tiny_model(num_hidden_layers=1, dtype=torch.float32, pad_token_id=0).save_pretrained(source)
    program = ["-m", "trine.scripts.cli", "export", str(source), str(tmp_path / "program")]
    result = forks.run(program, tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == f"{source} -> {tmp_path / 'program'}" and second.startswith("Largest difference of outputs, ")
    bars = re.sub(r"\x1b\[A", "", result.stderr)  # the bar within the bar moves up
    lines = [line for line in re.split(r"[\r\n]+", bars) if line.strip()]
    assert lines and [line for line in lines if not re.fullmatch(BAR, line.strip())] == []


def test_what_is_no_noise_is_shown(loud, monkeypatch, capsys, caplog):
    seen = []
    for module, texts in LOGGED.items():
        logger = importlib.import_module(module).logger
        caplog.set_level(logging.WARNING, logger=logger.name)  # whatever it is
        monkeypatch.setattr(logger, "handlers", [handler := logging.Handler()])
        handler.emit = lambda record: seen.append(record.getMessage())
        with without_export_noise():
            for text in (*texts, "an operator is missing"):
                logger.warning("%s, and so on", text)
        logger.warning(texts[0])
        assert seen == ["an operator is missing, and so on", texts[0]]
        seen.clear()
    with pytest.warns(FutureWarning) as warned, without_export_noise():
        warnings.warn("`treespec.children_specs` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("the model is wrong", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in warned] == ["the model is wrong"]
    with pytest.raises(ValueError, match="no graph"), without_export_noise():
        print("[torch.onnx] Run decompositions...\nreason")
        raise ValueError("no graph")
    assert capsys.readouterr() == ("", "reason\n")


def test_without_the_packages_of_onnx_there_is_less_to_hold_back(monkeypatch):
    """Where they are missing, torch's part for ONNX cannot be imported; a program of torch needs none of it."""
    monkeypatch.setitem(sys.modules, "torch.onnx._internal.exporter._registration", None)
    logger = importlib.import_module("transformers.exporters.utils").logger
    with without_export_noise():
        assert any(
            not each(logging.LogRecord("", 0, "", 0, "Version drift detected", None, None)) for each in logger.filters
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "TARGET"], "trine: source='nowhere' is no folder, and cannot be had from the Hub"),
        (["SOURCE", "SOURCE"], "trine: target='.*' is there already"),
        (["SOURCE", "TARGET", "--format", "tf"], r"trine: format='tf' is not one of \['onnx', 'torch', 'gguf'\]"),
        (["SOURCE", "TARGET", "--cache"], "trine: cache=True is for a TrineForCausalLM, not a TrineForConditional"),
    ],
)
def test_errors_are_one_line(source, tmp_path, words, message):
    places = {"SOURCE": str(source), "TARGET": str(tmp_path / "target")}
    with pytest.raises(SystemExit, match=message):
        export.main([places.get(word, word) for word in words])
    assert not list(tmp_path.iterdir())


def test_help_names_the_formats(capsys):
    with pytest.raises(SystemExit, match="0"):
        export.main(["--help"])
    assert "One of onnx, torch, gguf." in " ".join(capsys.readouterr().out.split())
