"""`trine generate` with presets: what they set, what wins over them, and what is refused."""

import re

import pytest
import torch
from support.tiny import tiny_model
from transformers import AutoTokenizer, set_seed

from trine import train_byte_level_bpe
from trine.generation.presets import SAMPLING_PRESETS
from trine.scripts import generate


TEXTS = ["the cat sat on the mat", "what the cat saw"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_byte_level_bpe(TEXTS, vocab_size=300, show_progress=False)
    tiny_model(vocab_size=len(tokenizer), dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options(*argv):
    (arguments,) = generate.parse_arguments(
        [generate.GenerateArguments], ["--model", "x", *argv], command="generate", description=""
    )
    (temperature,) = arguments.all_temperatures
    return generate._generation_options(arguments, temperature)


@pytest.mark.parametrize("name", SAMPLING_PRESETS)
def test_a_preset_sets_what_is_not_given(name):
    preset = SAMPLING_PRESETS[name]
    found = options("--preset", name)
    assert (found["temperature"], found["top_k"], found["top_p"]) == (preset.temperature, preset.top_k, preset.top_p)
    found = options("--preset", name, "--top_k", "7", "--temperature", "0.1")
    assert (found["temperature"], found["top_k"], found["top_p"]) == (0.1, 7, preset.top_p)


def test_without_a_preset_the_defaults_stay():
    found = options()
    assert (found["temperature"], found["top_k"], found["top_p"]) == (0.8, 0, 1.0)
    assert options("--preset", "code", "--temperature", "0")["do_sample"] is False


def test_a_preset_samples_as_its_numbers_do(folder, capsys):
    rest = ["--model", str(folder), "--text", "the cat", "--max_new_tokens", "12", "--no_stream"]
    generate.main([*rest, "--preset", "factual"])
    by_name = capsys.readouterr().out
    generate.main([*rest, "--temperature", "0.5", "--top_k", "5"])
    assert capsys.readouterr().out == by_name
    set_seed(0)
    generate.main([*rest, "--preset", "creative"])
    assert capsys.readouterr().out != by_name


def test_the_folder_of_an_interrupted_run_names_its_last_checkpoint(tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(SystemExit, match="a run that did not end: give --model .*/checkpoint-10\\."):
        generate.main(["--model", str(tmp_path), "--text", "a"])


def test_what_generate_refuses_is_no_traceback(folder, capsys):
    with pytest.raises(SystemExit):
        generate.main(["--model", str(folder), "--text", "a", "--preset", "cod"])
    assert "preset='cod' is not one of ['code', " in capsys.readouterr().err
    with pytest.raises(SystemExit, match="trine generate: .*top_p"):
        generate.main(["--model", str(folder), "--text", "a", "--top_p", "1.5"])


def test_a_chat_prints_the_answer_alone(tmp_path, capsys):
    tokenizer = train_byte_level_bpe(TEXTS, vocab_size=300, show_progress=False, chat_template="plain")
    model = tiny_model(vocab_size=len(tokenizer), dtype=torch.float32)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    words = ["--model", str(tmp_path), "--chat", "--temperature", "0", "--max_new_tokens", "5", "--text", "the cat"]
    prompt = tokenizer(f"{tokenizer.bos_token}User:\nthe cat\n\nAssistant:\n", return_tensors="pt").input_ids
    written = model.eval().generate(prompt, max_new_tokens=5, do_sample=False)[0, prompt.shape[1] :]
    answer = tokenizer.decode(written, skip_special_tokens=True)
    generate.main(words)
    streamed = capsys.readouterr().out
    generate.main([*words, "--no_stream"])
    assert answer and streamed.strip() == capsys.readouterr().out.strip() == answer.strip()
    generate.main([*words, "a mat", "--regex", "[ab]{3}"])
    texts = capsys.readouterr().out.split("\n---\n")
    assert len(texts) == 2 and all(re.fullmatch("[ab]{3}", text.strip()) for text in texts)


def test_a_chat_needs_a_template_that_takes_the_message(folder, tmp_path):
    words = ["--chat", "--text", "the cat"]
    with pytest.raises(SystemExit, match="trine generate: The tokenizer has no chat template, which --chat needs"):
        generate.main(["--model", str(folder), *words])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="The chat template refuses the message: roles must alternate"):
        generate.write_message(tokenizer, "the cat")
