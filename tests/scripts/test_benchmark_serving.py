"""The benchmark of serving measures equal outputs, and refuses what it cannot measure."""

import re

import pytest
import torch
from support.tiny import tiny_model

from trine.scripts.benchmarks.serving import Request, continuously, greedy, in_padded_batches, main


SMALL = ["--hidden_size", "32", "--num_hidden_layers", "2", "--attention_types", "sliding, full", "--requests", "4"]
SMALL += ["--prompt_lengths", "2", "9", "--new_tokens", "2", "6", "--batch_sizes", "3", "--rounds", "1"]


def test_it_prints_and_writes_a_table(tmp_path, capsys):
    (tmp_path / "report.md").write_text("# Figures\n\n## Serving\n\nold\n\n## Other\n", encoding="utf-8")
    main([*SMALL, "--report", str(tmp_path / "report.md")])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "old" not in text and "## Other" in text
    assert capsys.readouterr().out.strip() in text
    rows = re.findall(r"^\| (.*?) \| [0-9.]+ \(.*?\) \| [0-9.]+ x \| (.*?) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == [
        "generate, one by one",
        "generate, padded batches of 3",
        "continuous batching, at most 3",
    ]
    assert {equal for _, equal in rows} == {"4 of 4"}


@pytest.mark.parametrize("run", [in_padded_batches, continuously])
def test_every_request_gets_its_own_tokens(run):
    model = tiny_model(dtype=torch.float32, attn="sdpa", scale=2.0)
    requests = [Request([7, 8, 9], 4), Request([10], 2), Request([11, 12, 13, 14, 15], 6)]
    for output, request in zip(run(model, requests, 2), requests, strict=True):
        alone = model.generate(torch.tensor([request.prompt]), generation_config=greedy(request.new_tokens))
        assert output == alone[0, len(request.prompt) :].tolist()
        assert len(output) == request.new_tokens


def test_wrong_options_are_named(capsys):
    for given, message in {
        ("--prompt_lengths", "9", "2"): "prompt_lengths=[9, 2] is not a least and a most number",
        ("--requests", "0"): "requests=0 must be at least 1",
        ("--batch_sizes", "0"): "batch_sizes=[0] must be at least 1",
    }.items():
        with pytest.raises(SystemExit):
            main([*given])
        assert message in capsys.readouterr().err


def test_models_that_cannot_be_served_are_named(tmp_path):
    with pytest.raises(SystemExit, match="trine benchmark serving: .*nowhere"):
        main([*SMALL, "--model", str(tmp_path / "nowhere")])
    tiny_model(dtype=torch.float32, attention_types="chunked").save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match="trine benchmark serving: attention_types.0.='chunked' is not one of"):
        main([*SMALL, "--model", str(tmp_path)])
