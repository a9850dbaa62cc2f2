"""Training before weights are rounded: what the command refuses, and the texts that it reads; all without torchao."""

from types import SimpleNamespace

import pytest
import torch
from support.tiny import tiny_model

from trine import train_byte_level_bpe
from trine.conversion import QATCallback
from trine.scripts.jobs.rounded_training import draw_texts, make_features
from trine.scripts.quantize import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--qat_steps", "2"], "qat_steps=2 and files=[]: give both, or none"),
        (["--files", "a.txt"], "qat_steps=0 and files=['a.txt']: give both, or none"),
        (["--qat_steps", "-1", "--files", "a.txt"], "qat_steps=-1 must be at least 0"),
        (["--batch_size", "0"], "batch_size=0 must be at least 1"),
        (["--max_length", "1"], "max_length=1 must be at least 2"),
        (["--learning_rate", "0"], "learning_rate=0.0 must be a finite number above 0"),
    ],
)
def test_arguments_of_training_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["source", "target", *words])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_texts_to_train_on(tmp_path):
    """Those that are drawn are as many as are read; without one there is nothing to train on."""
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "a{n}"}}\n' for n in range(9)))
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "model").mkdir()
    options = {"qat_steps": 2, "batch_size": 2, "text_field": "text", "seed": 1}
    drawn = draw_texts(SimpleNamespace(**options, files=[str(tmp_path / "texts.jsonl")]))
    assert len({*drawn}) == 4 and {*drawn} < {f"a{n}" for n in range(9)}
    with pytest.raises(ValueError, match="files=.* has no text to train on"):
        draw_texts(SimpleNamespace(**options, files=[str(tmp_path / "empty.txt")]))
    tokenizer = train_byte_level_bpe(["a b"], vocab_size=270, show_progress=False)
    lengths = [
        len(each["input_ids"]) for each in make_features(tokenizer, ["a b a b a"], 4, tiny_model(dtype=torch.float32))
    ]
    assert max(lengths) <= 4 and sum(lengths) == len(tokenizer("a b a b a")["input_ids"]) + 1
    with pytest.raises(ValueError, match="The 1 texts to train on have no token to predict"):
        make_features(tokenizer, [""], 4, tiny_model(dtype=torch.float32))


def test_eight_bits_are_not_trained_for():
    with pytest.raises(ValueError, match=r"scheme='int8' leaves nothing for .* one of \['int4', 'int2'\]"):
        QATCallback("int8")
    with pytest.raises(ValueError, match=r"scheme='int3' is not one of \['int8'"):
        QATCallback("int3")
