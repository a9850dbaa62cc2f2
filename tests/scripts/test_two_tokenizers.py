"""An encoder-decoder that reads one vocabulary and writes another: trained, resumed, lifted, inspected."""

import json
import re

import pytest
import torch
from support.encoders import encoder
from support.tiny import tiny_model
from support.translators import tiny_translator
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from trine import train_byte_level_bpe, train_wordpiece
from trine.generation import Translator
from trine.inspection.attention import read
from trine.scripts import evaluate_translation, inspect_model, lift, pretrain, train_translation, translate
from trine.scripts.arguments.text_pairs import PairArguments
from trine.scripts.jobs import pair_models
from trine.scripts.jobs.text_pairs import Pair
from trine.tokenization import load_target_tokenizer


NUMBERS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs"}
PAIRS = [{"source": f"{a} and {b}", "target": f"{NUMBERS[b]} und {NUMBERS[a]}"} for a in NUMBERS for b in NUMBERS]
SMALL = ["hidden_size=16", "intermediate_size=32", "num_hidden_layers=1", "num_attention_heads=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), encoding="utf-8")
    texts = [pair["target"] for pair in PAIRS]
    train_byte_level_bpe(texts, 280, show_progress=False).save_pretrained(folder / "german")
    new = ["--target_tokenizer", str(folder / "german"), "--vocab_size", "400", "--preset", "tiny"]
    new += ["--config_overrides", *SMALL]
    assert run(folder, folder / "new", *new) == 0
    return folder


def run(folder, output, *argv):
    words = ["--files", str(folder / "pairs.jsonl"), "--max_length", "16", "--validation_pairs", "4", "--samples", "1"]
    words += ["--max_steps", "4", "--save_steps", "2", "--per_device_train_batch_size", "4", "--use_cpu"]
    words += ["--disable_tqdm", "true", "--precision", "fp32", "--output_dir", str(output)]
    return train_translation.main([*words, *argv])


def test_both_are_trained_on_their_side_and_saved(folder):
    source, target = AutoTokenizer.from_pretrained(folder / "new"), load_target_tokenizer(folder / "new")
    assert len(source) != len(target)
    assert target.get_vocab() == AutoTokenizer.from_pretrained(folder / "german").get_vocab()
    assert source.decode(source("two and six")["input_ids"], skip_special_tokens=True) == "two and six"
    config = AutoModelForSeq2SeqLM.from_pretrained(folder / "new").config
    assert (config.encoder.vocab_size, config.decoder.vocab_size) == (len(source), len(target))
    assert not config.share_embeddings and config.vocab_size == len(target)
    assert (config.eos_token_id, config.decoder_start_token_id) == (target.eos_token_id, target.bos_token_id)
    assert config.encoder.pad_token_id == source.pad_token_id
    assert load_target_tokenizer(folder / "new" / "checkpoint-2").get_vocab() == target.get_vocab()
    assert 'subfolder="target_tokenizer"' in (folder / "new" / "README.md").read_text(encoding="utf-8")


def test_each_may_be_trained_on_its_side(monkeypatch):
    monkeypatch.setattr(pair_models, "train_unigram", lambda texts, size, **options: (*texts, size))
    pairs = [Pair(*pair.values()) for pair in PAIRS]
    arguments = PairArguments(files=["f"], vocab_size=400, target_vocab_size=300)
    source, target = pair_models.make_tokenizers(arguments, pairs, None, False)
    assert source == (*(pair.source for pair in pairs), 400) and target == (*(pair.target for pair in pairs), 300)
    one = pair_models.make_tokenizers(PairArguments(files=["f"], vocab_size=400), pairs, None, False)
    assert not one.are_two and one.source == (*(text for pair in pairs for text in pair[:2]), 400)


def test_a_run_is_resumed_and_gone_on_from_with_both(folder, tmp_path):
    target = load_target_tokenizer(folder / "new")
    resumed = ["--resume_from_checkpoint", str(folder / "new" / "checkpoint-2"), "--preset", "tiny"]
    assert run(folder, tmp_path / "resumed", *resumed, "--config_overrides", *SMALL) == 0
    assert run(folder, tmp_path / "more", "--model", str(folder / "new"), "--learning_rate", "0") == 0
    weights = [
        AutoModelForSeq2SeqLM.from_pretrained(place).state_dict() for place in (folder / "new", tmp_path / "more")
    ]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    for place in ("resumed", "more"):
        assert load_target_tokenizer(tmp_path / place).get_vocab() == target.get_vocab()


def test_commands_read_with_one_and_write_with_the_other(folder, tmp_path, capsys):
    translate.main(
        ["--model", str(folder / "new"), "--text", "one and two", "--max_new_tokens", "5", "--num_beams", "1"]
    )
    written = capsys.readouterr().out.strip()
    model, source = (
        AutoModelForSeq2SeqLM.from_pretrained(folder / "new"),
        AutoTokenizer.from_pretrained(folder / "new"),
    )
    ids = model.generate(**source("one and two", return_tensors="pt"), max_new_tokens=5, do_sample=False)
    target = load_target_tokenizer(folder / "new")
    assert written == target.decode(ids[0], skip_special_tokens=True).strip()
    words = ["--models", str(folder / "new"), "--files", str(folder / "pairs.jsonl"), "--pairs", "2"]
    evaluate_translation.main([*words, "--num_beams", "2", "--max_new_tokens", "3"])
    assert "| greedy |" in capsys.readouterr().out
    words = ["--model", str(folder / "new"), "--text", "one and two", "--target", "zwei und eins"]
    assert inspect_model.main([*words, "--output_dir", str(tmp_path)]) == 0
    reading = read(model, source, "one and two", "zwei und eins", target_tokenizer=target)
    assert reading.predicted_ids == [
        *target("zwei und eins", add_special_tokens=False)["input_ids"],
        target.eos_token_id,
    ]


def test_an_alignment_has_the_tokens_of_both(folder):
    translator = Translator.from_pretrained(folder / "new", device="cpu", attn_implementation="eager")
    (found,) = translator.translate(["one and two"], alignments=True, max_new_tokens=4)
    assert found.alignment is not None and found.alignment.shape == (
        len(found.source_tokens),
        len(found.target_tokens),
    )
    ids = translator.tokenizer("one and two")["input_ids"]
    assert len(found.source_tokens) == len(ids)
    assert translator.target_tokenizer.get_vocab() == load_target_tokenizer(folder / "new").get_vocab()


def test_a_lift_keeps_the_tokenizer_of_a_given_decoder(tmp_path):
    source, target = (
        train_wordpiece(["one two three"], 120, show_progress=False),
        train_byte_level_bpe(["eins zwei"], 270, show_progress=False),
    )
    encoder(vocab_size=len(source), pad_token_id=0, dtype=torch.float32).save_pretrained(tmp_path / "encoder")
    ids = {"eos_token_id": target.eos_token_id, "bos_token_id": target.bos_token_id}
    tiny_model(vocab_size=len(target), dtype=torch.float32, **ids).save_pretrained(tmp_path / "decoder")
    for name, tokenizer in {"encoder": source, "decoder": target}.items():
        tokenizer.save_pretrained(tmp_path / name)
    words = [str(tmp_path / "encoder"), str(tmp_path / "both"), "--to", "encoder_decoder"]
    lift.main([*words, "--decoder", str(tmp_path / "decoder")])
    assert AutoTokenizer.from_pretrained(tmp_path / "both").get_vocab() == source.get_vocab()
    assert load_target_tokenizer(tmp_path / "both").get_vocab() == target.get_vocab()
    translator = Translator.from_pretrained(tmp_path / "both", device="cpu")
    assert translator.model.config.eos_token_id == target.eos_token_id
    assert isinstance(translator("one two", max_new_tokens=3), str)


NEEDED = "The model reads a vocabulary of 120 tokens and writes one of 61: it needs a second tokenizer"


def test_a_missing_second_tokenizer_is_named_by_all(folder, tmp_path):
    sizes = {"hidden_size": 32}
    model = tiny_translator().config
    config = type(model)(
        encoder={**sizes, "vocab_size": 120}, decoder={**sizes, "vocab_size": 61}, share_embeddings=False
    )
    model = AutoModelForSeq2SeqLM.from_config(config)
    tokenizer = train_wordpiece(["a b"], 120, show_progress=False)
    with pytest.raises(ValueError, match=re.escape(NEEDED)):
        Translator(model, tokenizer)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    name = str(tmp_path / "model")
    with pytest.raises(SystemExit, match=re.escape(NEEDED)):
        translate.main(["--model", name, "--text", "a"])
    with pytest.raises(SystemExit, match=re.escape(NEEDED)):
        evaluate_translation.main(["--models", name, "--files", str(folder / "pairs.jsonl")])
    with pytest.raises(SystemExit, match=re.escape(NEEDED)):
        inspect_model.main(["--model", name, "--text", "a", "--target", "b", "--output_dir", str(tmp_path / "page")])
    with pytest.raises(SystemExit, match="120 tokens and writes one of 61: name the second tokenizer with --"):
        run(folder, tmp_path / "more", "--model", name)
    words = ["--model", name, "--files", str(folder / "pairs.jsonl"), "--text_field", "source"]
    with pytest.raises(SystemExit, match="reads and writes pieces of one text, but encoder.vocab_size=120 and"):
        pretrain.main([*words, "--objective", "span_corruption", "--output_dir", str(tmp_path / "pretrained")])
    with pytest.raises(SystemExit, match="new' has a second tokenizer, 'target_tokenizer'"):
        words = [str(folder / "new"), str(tmp_path / "small"), "--to", "smaller_vocabulary"]
        lift.main([*words, "--texts", "a"])
