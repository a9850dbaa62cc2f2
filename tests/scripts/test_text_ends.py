"""What a command trains stops where its texts end, whatever the tokenizer calls its beginning and its end."""

import json

import pytest
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

from trine import train_wordpiece
from trine.generation.translation.translator import Translator
from trine.scripts import finetune_lora, pretrain, train_summarizer, train_translation
from trine.tokenization.text_ends import encode_targets, end_ids, name_ends


WORDS = ["one", "two", "three", "four"]
# Targets of one word and of two. The last pair is held out.
PAIRS = [(f"{a} {b}", f"{b} {a}" if a < b else b) for a in WORDS for b in WORDS if a != b]
SMALL = ["hidden_size=64", "intermediate_size=64", "num_hidden_layers=1", "num_attention_heads=4", "hidden_dropout=0"]


def word_tokenizer(special: dict[str, str], template: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer of words, whose special tokens have unusual ids, and which adds what the template says."""
    tokens = ["zero", "unused", *special.values(), *WORDS]
    backend = Tokenizer(WordLevel({token: number for number, token in enumerate(dict.fromkeys(tokens))}, "zero"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        ids = [(token, backend.token_to_id(token)) for token in special.values()]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


TOKENIZERS = {
    "bert": ({"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}, "[CLS] $A [SEP]"),
    "gpt2": ({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}, None),
    "t5": ({"pad_token": "<pad>", "eos_token": "</s>"}, "$A </s>"),
    "bart": ({"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}, "<s> $A </s>"),
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request, tmp_path):
    word_tokenizer(*TOKENIZERS[request.param]).save_pretrained(tmp_path / "tokenizer")
    return request.param, tmp_path / "tokenizer"


def write_pairs(folder) -> list[str]:
    """The arguments that name them, with the text of a document for each pair."""
    files = {"files": PAIRS[:-1] * 8, "validation_files": PAIRS[-1:]}
    for name, pairs in files.items():
        records = [{"source": source, "target": target, "text": f"{source} {target}"} for source, target in pairs]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return [text for name in files for text in (f"--{name}", str(folder / f"{name}.jsonl"))]


def train(command, tokenizer, tmp_path, *argv, steps="100"):
    words = [*write_pairs(tmp_path), "--samples", "0"]
    words += ["--source_field", "source", "--target_field", "target", "--preset", "tiny"]
    words += ["--tokenizer", str(tokenizer), "--config_overrides", *SMALL, "--max_steps", steps]
    words += ["--learning_rate", "5e-3", "--label_smoothing_factor", "0", "--eval_strategy", "no", "--use_cpu"]
    words += ["--disable_tqdm", "true", "--max_length", "16", "--output_dir", str(tmp_path / "model")]
    assert command.main([*words, *argv]) == 0
    return tmp_path / "model"


def test_a_translator_stops(tokenizer, tmp_path):
    """Trained to convergence, it writes each target and no more, by `generate` alone and as `Translator`."""
    kind, source = tokenizer
    folder = train(train_translation, source, tmp_path)
    model, saved = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    special = {name: saved.convert_tokens_to_ids(token) for name, token in TOKENIZERS[kind][0].items()}
    end = special.get("eos_token", special.get("sep_token"))
    start = special.get("bos_token", special.get("cls_token", special.get("pad_token")))
    found = model.config.pad_token_id, model.config.eos_token_id, model.config.decoder_start_token_id
    assert found == (special.get("pad_token", end), end, start)
    held_out = model.generation_config
    assert (held_out.eos_token_id, held_out.decoder_start_token_id) == (end, start)
    for text, target in PAIRS[:-1]:
        ids = model.generate(**saved(text, return_tensors="pt", return_token_type_ids=False), max_new_tokens=12)
        words = saved(target, add_special_tokens=False)["input_ids"]
        assert ids[0].tolist() == [start, *words, end], (text, saved.decode(ids[0]))
    translator = Translator.from_pretrained(folder)
    assert translator([text for text, _ in PAIRS[:-1]], num_beams=2) == [target for _, target in PAIRS[:-1]]


@pytest.mark.parametrize("tokenizer", ["bert"], indirect=True)
def test_a_summarizer_takes_the_same_ids(tokenizer, tmp_path):
    _, source = tokenizer
    folder = train(train_summarizer, source, tmp_path, "--metrics", "chrf", steps="2")
    expected = train(train_translation, source, tmp_path, "--output_dir", str(tmp_path / "other"), steps="2")
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    configs = [json.loads((path / "config.json").read_text()) for path in (folder, expected.with_name("other"))]
    assert [configs[0][name] for name in names] == [configs[1][name] for name in names]


@pytest.mark.parametrize("tokenizer", ["bert", "gpt2"], indirect=True)
def test_a_decoder_stops(tokenizer, tmp_path):
    """Pretrained on documents, it knows what ends them; then taught completions, it ends these."""
    kind, source = tokenizer
    common = ["--use_cpu", "--disable_tqdm", "true", "--learning_rate", "5e-3", "--eval_strategy", "no"]
    files, data = write_pairs(tmp_path)[:2], write_pairs(tmp_path)
    words = [
        "--tokenizer",
        str(source),
        "--config_overrides",
        *SMALL[:-1],
        "num_key_value_heads=4",
        "num_hidden_layers=2",
        "--max_steps",
        "2",
    ]
    words += ["--block_length", "16", "--cache_dir", str(tmp_path / "cache"), "--baselines", "false"]
    assert pretrain.main([*common, *files, *words, "--output_dir", str(tmp_path / "base")]) == 0
    words = ["--model", str(tmp_path / "base"), "--format", "completion", "--full", "--max_length", "32"]
    words += ["--prompt_field", "source", "--completion_field", "target", "--max_steps", "120", "--samples", "0"]
    assert finetune_lora.main([*common, *data, *words, "--output_dir", str(tmp_path / "model")]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    saved = AutoTokenizer.from_pretrained(tmp_path / "model")
    end = end_ids(saved)["eos_token_id"]
    for text, target in PAIRS[:-1]:
        prompt = saved(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        if saved.cls_token_id is not None:
            prompt = saved(text, return_tensors="pt")["input_ids"][:, :-1]
        written = model.generate(prompt, max_new_tokens=12)[0, prompt.shape[1] :].tolist()
        assert written == [*saved(target, add_special_tokens=False)["input_ids"], end]


def test_labels_of_a_trained_tokenizer():
    """Truncated ones end, too; nothing is added where there is no end."""
    tokenizer = train_wordpiece(["one two three four"], 200, show_progress=False)
    assert name_ends(tokenizer) == {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    assert name_ends(tokenizer) == {}
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    words = tokenizer("one two three", add_special_tokens=False)["input_ids"]
    assert encode_targets(tokenizer, ["one two three"], start, end, 99) == [[*words, end]]
    assert encode_targets(tokenizer, ["one two three"], start, [7, end], 3) == [[*words[:2], end]]
    assert encode_targets(tokenizer, ["one two three"], start, [7], 3) == [[*words[:2], 7]]
    assert encode_targets(tokenizer, ["one two three"], None, None, 99) == [[start, *words, end]]
    # A decoder that begins with another token, as T5's with padding, does not write [CLS] first either, unless forced.
    padding = tokenizer.pad_token_id
    assert encode_targets(tokenizer, ["one two three"], padding, end, 99) == [[*words, end]]
    forced = encode_targets(tokenizer, ["one two three"], padding, end, 99, start)
    assert forced == [[start, *words, end]]


def test_a_tokenizer_without_an_end(tmp_path):
    word_tokenizer({"pad_token": "<pad>"}, None).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(SystemExit, match="tokenizer': The tokenizer has neither eos_token nor sep_token"):
        train(train_translation, tmp_path / "tokenizer", tmp_path)
