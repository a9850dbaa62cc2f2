"""`trine train-tokenizer`: files become a folder that `AutoTokenizer` loads."""

import json

import pytest
from support.tokenizer_texts import TEXTS
from transformers import AutoTokenizer

from trine.scripts import train_tokenizer
from trine.tokenization.training import TOKENIZERS


@pytest.fixture
def folder(tmp_path):
    lines = (json.dumps({"body": text}) for text in TEXTS)
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "template.jinja").write_text("{{ messages[0].content }}")
    return tmp_path


def run(folder, *argv):
    train_tokenizer.main(
        ["--files", str(folder / "corpus.jsonl"), "--output_dir", str(folder / "out"), "--text_field", "body", *argv]
    )
    return AutoTokenizer.from_pretrained(folder / "out")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_kind_equals_its_function(folder, capsys, kind):
    options = ["--vocab_size", "480", "--language_tags", "en", "zh", "--chat_template", "chatml"]
    tokenizer = run(folder, "--kind", kind, *options, "--extra_special_tokens", "<a>", "--model_max_length", "32")
    expected = TOKENIZERS[kind](
        TEXTS, 480, extra_special_tokens=["<a>"], language_tags=["en", "zh"], chat_template="chatml"
    )
    assert tokenizer.get_vocab() == expected.get_vocab() and tokenizer.model_max_length == 32
    assert tokenizer.chat_template == expected.chat_template
    assert f"Saved a tokenizer of {len(expected)} tokens to '{folder / 'out'}'." in capsys.readouterr().out


def test_the_default_is_byte_level_bpe(folder):
    tokenizer = run(folder, "--vocab_size", "300", "--chat_template_file", str(folder / "template.jinja"))
    assert tokenizer.get_vocab() == TOKENIZERS["byte-level-bpe"](TEXTS, 300).get_vocab()
    assert tokenizer.chat_template == "{{ messages[0].content }}"


def test_words_are_cut_as_another_model_does(folder):
    tokenizer = run(folder, "--vocab_size", "380", "--pre_tokenizer", "qwen2")
    assert tokenizer.tokenize("'string'")[0] == "'s" and len(tokenizer.tokenize("2024")) == 4
    expected = TOKENIZERS["byte-level-bpe"](TEXTS, 380, pre_tokenizer="qwen2")
    assert tokenizer.get_vocab() == expected.get_vocab()


def test_options_of_wordpiece(folder):
    tokenizer = run(folder, "--kind", "wordpiece", "--lowercase", "false", "--min_frequency", "25")
    assert (
        tokenizer.get_vocab() == TOKENIZERS["wordpiece"](TEXTS, 32_000, lowercase=False, min_frequency=25).get_vocab()
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--kind", "wordpeice"], "Unknown kind 'wordpeice'. Did you mean 'wordpiece'?"),
        (["--kind", "unigram", "--min_frequency", "3"], "--min_frequency does not apply to --kind unigram."),
        (["--pre_tokenizer", "qwen3"], "pre_tokenizer='qwen3' is not one of ['trine', 'gpt-2', 'llama-3', 'qwen2', "),
        (["--lowercase", "true"], "--lowercase does not apply to --kind byte-level-bpe."),
        (
            ["--chat_template", "chatml", "--chat_template_file", "x"],
            "--chat_template and --chat_template_file are both",
        ),
        (["--chat_template_file", "absent.jinja"], "No such file or directory: 'absent.jinja'"),
        (["--vocab_size", "100"], "vocab_size=100 is below 258, for 256 bytes"),
        (["--output_dir", __file__], f"output_dir='{__file__}' is a file, not a folder."),
        (["--text_field", "text"], "the field 'text' is missing from"),
    ],
)
def test_errors(folder, argv, message):
    with pytest.raises(SystemExit) as stop:
        run(folder, *argv)
    assert str(stop.value.code).startswith("trine train-tokenizer: ") and message in stop.value.code
    assert not (folder / "out").exists()
