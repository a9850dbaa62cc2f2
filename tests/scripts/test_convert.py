"""`trine convert SOURCE TARGET`."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from trine.scripts import convert


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama") / "source"
    sizes = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=24)).save_pretrained(folder)
    return folder


def test_both_ways_with_a_check(source, tmp_path, capsys):
    there, back = tmp_path / "there", tmp_path / "back"
    convert.main([str(source), str(there), "--check"])
    shown = capsys.readouterr()
    assert f"{source} -> {there}" in shown.out and "12/12" in shown.err
    assert float(shown.out.rsplit(": ", 1)[1]) <= 1e-5
    convert.main(["--source", str(there), "--target", str(back), "--to", "llama"])
    first, second = (load_file(folder / "model.safetensors") for folder in (source, back))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "TARGET"], "trine: source='nowhere' is no folder, and cannot be had from the Hub"),
        (["SOURCE", "SOURCE"], "trine: target='.*' is there already"),
        (["SOURCE", "TARGET", "--to", "bert"], "trine: to='bert', but the source has model_type='llama'"),
    ],
)
def test_errors_are_one_line(source, tmp_path, words, message):
    places = {"SOURCE": str(source), "TARGET": str(tmp_path / "target")}
    with pytest.raises(SystemExit, match=message):
        convert.main([places.get(word, word) for word in words])
    assert not list(tmp_path.iterdir())


def test_help_names_the_families(capsys):
    with pytest.raises(SystemExit, match="0"):
        convert.main(["--help"])
    assert "qwen3_moe" in capsys.readouterr().out
