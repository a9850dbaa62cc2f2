"""The benchmark of energy measures models and precisions in turn, and refuses what it cannot compare."""

import re

import pytest
import torch
from support.tiny import tiny_model

from trine import TrineModel
from trine.scripts.benchmarks.energy import main


pytest.importorskip("codecarbon")
SMALL = ["--seconds", "0.3", "--rounds", "2", "--batch", "2", "--length", "8", "--new_tokens", "2"]


@pytest.fixture
def decoder(tmp_path):
    tiny_model(dtype=torch.float32, attn="sdpa").save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


@pytest.fixture
def encoder(tmp_path):
    tiny_model(TrineModel, dtype=torch.float32, attn="sdpa", is_causal=False).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize(("name", "task"), [("decoder", "decoding"), ("encoder", "encoding")])
def test_it_prints_and_writes_a_table(name, task, request, tmp_path, capsys):
    folder = request.getfixturevalue(name)
    page = tmp_path / "report.md"
    main(["--models", str(folder), "--dtypes", "float32", "bfloat16", *SMALL, "--report", str(page)])
    text = page.read_text(encoding="utf-8")
    assert f"## Energy of {task}" in text and capsys.readouterr().out.strip() in text
    number = r"([\d.,]+) \([\d.,]+ to [\d.,]+\)"
    rows = re.findall(
        rf"^\| (.*?) \| ([\d.]+) MB \| {number} \| (.*?) \| {number} \| {number} \|$", text, re.MULTILINE
    )
    assert [row[0] for row in rows] == [f"`{name}`, float32", f"`{name}`, bfloat16"]
    sizes = [float(row[1]) for row in rows]
    assert sizes[1] == pytest.approx(sizes[0] / 2, abs=0.1)
    assert rows[0][3] == "1" and re.fullmatch(number, rows[1][3])


def test_a_model_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        SystemExit, match=r"trine benchmark energy: models: 'nowhere' cannot be read: there is no such"
    ):
        main(["--models", "nowhere", *SMALL])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"trine benchmark energy: models: '.*empty' cannot be read: .*config.json"):
        main(["--models", str(tmp_path / "empty"), *SMALL])


def test_encoders_are_not_compared_with_decoders(decoder, encoder, capsys):
    with pytest.raises(SystemExit, match=r"trine benchmark energy: models: '.*encoder' is for encoding, '.*decoder'"):
        main(["--models", str(decoder), str(encoder), *SMALL])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "0.01"], r"seconds=0.01 must be at least 0.1"),
        (["--rounds", "-1"], r"rounds=-1 must be at least 1"),
        (["--dtypes", "int8"], r"int8.*float32"),
    ],
)
def test_bad_options(decoder, options, message, capsys):
    with pytest.raises(SystemExit):
        main(["--models", str(decoder), *options])
    assert re.search(message, capsys.readouterr().err)
