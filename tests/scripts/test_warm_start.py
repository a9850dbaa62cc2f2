"""Every command that trains goes on from a checkpoint: in part, with adapters, with other tokenizers."""

import importlib
import json
import re
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from support import forks
from support.encoders import encoder
from support.tiny import tiny_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
)

from trine import TrineForMaskedLM, train_byte_level_bpe, train_wordpiece
from trine.generation import Translator
from trine.scripts import finetune_classifier, lift, pretrain, train_summarizer
from trine.scripts.jobs import text_pairs
from trine.training import encode_sources


NUMBERS = ["one", "two", "three", "four", "five", "six"]
PAIRS = [{"long": f"{a} and then {b}, of course", "short": f"{a} {b}"} for a in NUMBERS for b in NUMBERS]
TRAINS = ("pretrain", "finetune-classifier", "finetune-tagger", "finetune-lora", "train-embeddings")
TRAINS += ("train-translation", "train-summarizer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder with its tokenizer, what it was lifted to, and pairs."""
    folder = tmp_path_factory.mktemp("warm")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), encoding="utf-8")
    texts = [text for pair in PAIRS for text in pair.values()]
    tokenizer = train_wordpiece(texts, vocab_size=200, show_progress=False)
    fields = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "scale": 1.0}
    encoder(**fields, dtype=torch.float32).save_pretrained(folder / "encoder")
    tiny_model(**fields, eos_token_id=tokenizer.sep_token_id, dtype=torch.float32).save_pretrained(folder / "decoder")
    for name in ("encoder", "decoder"):
        tokenizer.save_pretrained(folder / name)
    words = ["--to", "encoder_decoder", "--decoder_layers", "1"]
    lift.main([str(folder / "encoder"), str(folder / "lifted"), *words])
    return folder


def run(folder, output, *argv, script=train_summarizer):
    words = ["--max_steps", "4", "--save_steps", "2", "--per_device_train_batch_size", "4", "--use_cpu"]
    words += ["--disable_tqdm", "true", "--precision", "fp32", "--learning_rate", "1e-2"]
    return script.main([*words, "--output_dir", str(output), *argv])


def run_pairs(folder, output, *argv):
    words = ["--files", str(folder / "pairs.jsonl"), "--max_length", "16", "--validation_pairs", "4"]
    return run(folder, output, *words, "--samples", "1", "--score_pairs", "2", *argv)


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_a_lifted_model_is_trained_with_a_frozen_encoder(folder, tmp_path, capsys):
    words = ["--model", str(folder / "lifted"), "--freeze", "encoder", "--layerwise_lr_decay", "0.9"]
    assert run_pairs(folder, tmp_path, *words) == 0
    before, after = weights_of(folder / "lifted"), weights_of(tmp_path)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        shared = name in ("model.decoder.embed_tokens.weight", "lm_head.weight")
        assert torch.equal(before[name], tensor) == (name.startswith("model.encoder.") or shared), name
    trained = sum(tensor.numel() for name, tensor in after.items() if not torch.equal(before[name], tensor))
    assert re.search(rf"{trained:,} parameters are trained, [\d,]+ are frozen \(encoder\)", capsys.readouterr().out)
    assert json.loads((tmp_path / "metrics.json").read_text())["trained_parameters"] == trained
    assert len(Translator.from_pretrained(tmp_path, device="cpu")("one and two", max_new_tokens=3)) >= 0


def test_states_of_a_frozen_encoder_are_kept(folder, tmp_path, capsys):
    words = ["--model", str(folder / "lifted"), "--freeze", "encoder", "--scheduled_sampling", "linear"]
    words += ["--per_device_train_batch_size", "8"]
    kept = ["--cache_encoder", "true", "--cache_dir", str(tmp_path / "states")]
    assert run_pairs(folder, tmp_path / "usual", *words) == 0
    assert run_pairs(folder, tmp_path / "kept", *words, *kept) == 0
    usual, after = weights_of(tmp_path / "usual"), weights_of(tmp_path / "kept")
    assert any(not torch.equal(usual[name], tensor) for name, tensor in after.items())  # 16 bits
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, usual[name], rtol=0, atol=5e-3)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "states").rglob("states")}
    assert len(files) == 2
    assert run_pairs(folder, tmp_path / "again", *words, *kept) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "states").rglob("states")} == files
    again = weights_of(tmp_path / "again")
    assert all(torch.equal(again[name], tensor) for name, tensor in after.items())
    with pytest.raises(SystemExit, match="The encoder is trained: .* Freeze all of it"):
        run_pairs(folder, tmp_path / "trained", "--model", str(folder / "lifted"), *kept)


def test_states_are_computed_of_what_is_read_in_the_precision_of_training(folder, tmp_path, monkeypatch, capsys):
    calls = []

    def spy(*args, **options):
        calls.append(options)
        return encode_sources(*args, **options)

    monkeypatch.setattr(text_pairs, "encode_sources", spy)
    words = ["--model", str(folder / "lifted"), "--freeze", "encoder", "--max_steps", "3", "--precision", "bf16"]
    words += ["--cache_encoder", "true", "--cache_dir", str(tmp_path / "states"), "--gradient_accumulation_steps", "2"]
    assert run_pairs(folder, tmp_path / "model", *words) == 0
    assert [options["compute_dtype"] for options in calls] == [torch.bfloat16] * 2
    assert "3 steps read 24 of 32 pairs; the others are left out." in capsys.readouterr().out
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["training_pairs"] == 24


STRANGER = """
import sys
sys.modules["trine"] = None
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
inputs = tokenizer(sys.argv[2], return_tensors="pt")
written = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=6)
print(tokenizer.decode(written[0], skip_special_tokens=True))
"""


def test_the_whole_chain_ends_with_a_model_for_a_process_without_the_package(folder, tmp_path, monkeypatch):
    """A smaller vocabulary, a decoder with a head of its own, a pointer and cached states."""
    words = ["--files", str(folder / "pairs.jsonl"), "--text_fields", "long", "short", "--to", "smaller_vocabulary"]
    lift.main([str(folder / "encoder"), str(tmp_path / "small"), *words])
    words = ["--to", "encoder_decoder", "--decoder_layers", "1", "--tie_word_embeddings", "false"]
    lift.main([str(tmp_path / "small"), str(tmp_path / "start"), *words])
    words = ["--model", str(tmp_path / "start"), "--freeze", "encoder", "--cache_encoder", "true"]
    words += ["--cache_dir", str(tmp_path / "states"), "--config_overrides", "pointer_size=8"]
    assert run_pairs(folder, tmp_path / "model", *words) == 0
    before, after = weights_of(tmp_path / "start"), weights_of(tmp_path / "model")
    assert not torch.equal(after["lm_head.weight"], before["lm_head.weight"])
    table = "model.decoder.embed_tokens.weight"  # of both
    assert torch.equal(after[table], before[table])
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    result = forks.run(["-c", STRANGER, str(tmp_path / "model"), "one and two"], tmp_path)
    assert result.returncode == 0, result.stderr
    translator = Translator.from_pretrained(tmp_path / "model", device="cpu")
    assert result.stdout.strip() == translator("one and two", max_new_tokens=6)


def test_batches_of_like_lengths(folder, tmp_path, monkeypatch):
    """Targets, then sources, are of nearly one length in a batch."""
    seen = []
    collate = DataCollatorForSeq2Seq.__call__

    def spy(self, rows, *args, **kwargs):
        seen.append([len(row["labels"]) for row in rows])
        return collate(self, rows, *args, **kwargs)

    monkeypatch.setattr(DataCollatorForSeq2Seq, "__call__", spy)
    records = [{"long": "one " * (1 + i % 5), "short": "two " * (1 + i % 12)} for i in range(256)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    words = ["--model", str(folder / "lifted"), "--train_sampling_strategy", "group_by_length", "--max_steps", "8"]
    words += ["--files", str(tmp_path / "r.jsonl"), "--validation_files", str(folder / "pairs.jsonl")]
    assert run_pairs(folder, tmp_path / "model", *words, "--eval_strategy", "no") == 0
    spreads = [max(batch) - min(batch) for batch in seen[:8]]  # of 12 lengths; 7 in a batch of any
    assert sum(spreads) / len(spreads) < 2


def test_it_begins_with_the_weights_and_settings_of_the_checkpoint(folder, tmp_path):
    words = ["--model", str(folder / "lifted"), "--learning_rate", "0", "--config_overrides", "hidden_dropout=0.25"]
    assert run_pairs(folder, tmp_path, *words) == 0
    before, after = weights_of(folder / "lifted"), weights_of(tmp_path)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    models = [AutoModelForSeq2SeqLM.from_pretrained(place) for place in (folder / "lifted", tmp_path)]
    assert models[1].config.decoder.hidden_dropout == models[1].config.encoder.hidden_dropout == 0.25
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(models[0].generation_config, name) == getattr(models[1].generation_config, name)


def test_a_model_learns_tags_that_its_tokenizer_lacks(folder, tmp_path, capsys):
    records = [{"long": a, "short": b, "to": to} for a, b in pairwise(NUMBERS) for to in ("up", "down")]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    words = ["--model", str(folder / "lifted"), "--target_language_field", "to", "--learning_rate", "0"]
    assert run_pairs(folder, tmp_path / "model", *words, "--files", str(tmp_path / "r.jsonl")) == 0
    assert "The tokenizer gets the tags <2down>, <2up>." in capsys.readouterr().out
    before, after = weights_of(folder / "lifted"), weights_of(tmp_path / "model")
    for name, tensor in before.items():
        assert torch.equal(after[name][: len(tensor)], tensor)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert {len(tensor) for name, tensor in after.items() if "embed_tokens" in name} == {len(tokenizer)}
    translator = Translator.from_pretrained(tmp_path / "model", device="cpu")
    (ids,) = translator.encode(["one"], "up")
    assert tokenizer.convert_tokens_to_ids("<2up>") in ids


def test_adapters_of_an_encoder_decoder_are_merged(folder, tmp_path, capsys):
    words = ["--model", str(folder / "lifted"), "--lora", "--rank", "2"]
    assert run_pairs(folder, tmp_path / "apart", *words) == 0
    assert run_pairs(folder, tmp_path / "merged", *words, "--merge") == 0
    adapters = [
        load_file(place / "adapter_model.safetensors") for place in (tmp_path / "apart", tmp_path / "merged/adapter")
    ]
    assert all(torch.equal(adapters[1][name], tensor) for name, tensor in adapters[0].items())
    kinds = {re.sub(r".*layers\.\d\.(\w+)\.(\w+)\..*", r"\1", name) for name in adapters[0]}
    assert kinds == {"self_attn", "cross_attn", "mlp"}
    metrics = json.loads((tmp_path / "merged" / "metrics.json").read_text())
    assert metrics["trained_parameters"] == sum(tensor.numel() for tensor in adapters[0].values())
    for place in ("apart", "merged"):  # merging writes a card of its own
        card = (tmp_path / place / "README.md").read_text(encoding="utf-8")
        assert f"| first 8 words | {metrics['scores']['first 8 words']['ROUGE-1']:.4f} |" in card
    texts = ["one and then two, of course", "six and"]
    written = [
        Translator.from_pretrained(place, device="cpu")(texts, max_new_tokens=6)
        for place in (tmp_path / "apart", tmp_path / "merged")
    ]
    assert written[0] == written[1]  # PEFT's own loading beside ours
    before, after = weights_of(folder / "lifted"), weights_of(tmp_path / "merged")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if name.endswith("proj.weight")
    }


def test_a_new_pointer_is_trained_beside_adapters(folder, tmp_path):
    """It begins with random weights, of which adapters alone would change nothing."""
    words = ["--model", str(folder / "lifted"), "--lora", "--merge", "--config_overrides", "pointer_size=8"]
    gates = []
    for name, rate in (("before", "0"), ("after", "1e-2")):
        assert run_pairs(folder, tmp_path / name, *words, "--learning_rate", rate) == 0
        gates.append({key: value for key, value in weights_of(tmp_path / name).items() if "pointer" in key})
    assert gates[0] and all(not torch.equal(gates[1][key], value) for key, value in gates[0].items())


def test_adapters_learn_alike_in_large_and_in_small_batches(folder, tmp_path):
    """The loss of a step is divided by the tokens of all its micro-batches, also through PEFT's model."""
    found = []
    for size, steps in ((4, 1), (1, 4)):
        words = ["--per_device_train_batch_size", str(size), "--gradient_accumulation_steps", str(steps)]
        words += ["--model", str(folder / "lifted"), "--lora", "--config_overrides", "hidden_dropout=0"]
        assert run_pairs(folder, tmp_path / f"{size}", *words, "--optim", "sgd", "--max_steps", "2") == 0
        found.append(load_file(tmp_path / f"{size}" / "adapter_model.safetensors"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-4, atol=1e-7)


def test_pretraining_goes_on_from_an_encoder(folder, tmp_path, capsys):
    """The trunk is the encoder's; its head of masked tokens is new."""
    words = ["--model", str(folder / "encoder"), "--objective", "masked", "--files", str(folder / "pairs.jsonl")]
    words += [
        "--text_field",
        "long",
        "--block_length",
        "16",
        "--cache_dir",
        str(tmp_path / "cache"),
        "--freeze",
        "layers",
    ]
    assert run(folder, tmp_path / "model", *words, "--freeze", "layers", script=pretrain) == 0
    assert "The head is new" in capsys.readouterr().out
    model, source = TrineForMaskedLM.from_pretrained(tmp_path / "model"), weights_of(folder / "encoder")
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(tensor, source[name]) == ("layers." in name), name


def test_pretraining_goes_on_from_a_decoder(folder, tmp_path):
    words = ["--model", str(folder / "decoder"), "--files", str(folder / "pairs.jsonl"), "--learning_rate", "0"]
    words += ["--text_field", "long", "--block_length", "16", "--cache_dir", str(tmp_path / "cache")]
    assert run(folder, tmp_path / "model", *words, "--validation_fraction", "0.3", script=pretrain) == 0
    models = [AutoModelForCausalLM.from_pretrained(place) for place in (folder / "decoder", tmp_path / "model")]
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], tensor)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab() == (
        AutoTokenizer.from_pretrained(folder / "decoder").get_vocab()
    )
    metrics, card = ((tmp_path / "model" / name).read_text(encoding="utf-8") for name in ("metrics.json", "README.md"))
    assert all(f"| {name} | {loss:.4f} |" in card for name, loss in json.loads(metrics)["loss"].items())


def test_a_classifier_trains_its_head_alone(folder, tmp_path):
    records = [{"text": pair["long"], "label": pair["short"][0]} for pair in PAIRS]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    words = ["--model", str(folder / "encoder"), "--files", str(tmp_path / "r.jsonl"), "--max_length", "16"]
    words += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    words += ["--freeze", "embeddings", "layers"]
    assert run(folder, tmp_path / "model", *words, script=finetune_classifier) == 0
    before, after = weights_of(folder / "encoder"), weights_of(tmp_path / "model")
    for name, tensor in after.items():
        old = before.get(name.removeprefix("model."))
        stays = re.search(r"embed|positions|layers\.", name) is not None
        assert stays == (old is not None and torch.equal(old, tensor)), name


@pytest.mark.parametrize("command", TRAINS)
def test_all_commands_have_the_same_words(command, capsys):
    module = importlib.import_module(f"trine.scripts.{command.replace('-', '_')}")
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    printed = capsys.readouterr().out
    for option in ("--model", "--freeze", "--layerwise_lr_decay", "--unfreeze_every"):
        assert option in printed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--model", "ENCODER"],
            r"model='.*encoder' has model_type='trine', .*`trine lift MODEL TARGET --to encod",
        ),
        (["--model", "LLAMA"], r"model='.*llama' has model_type='llama', .* first, with `trine convert`"),
        (["--model", "nowhere/at-all"], "model='nowhere/at-all' cannot be read: "),
        (["--model", "ADAPTER"], "model='.*adapter' is an adapter, no model: make one of it by training with --merge"),
        (
            ["--model", "LIFTED", "--config_overrides", "intermediate_size=7"],
            r"config_overrides do not fit the weights of model='.*lifted': .* shape \(\d+, \d+\), where .* \(32, 7\)",
        ),
        (["--model", "LIFTED", "--freeze", "encodr"], r"freeze has 'encodr', which is no part .*'encoder.layers.0-1'"),
        (["--model", "LIFTED", "--max_length", "100"], "max_length=100 is above encoder.max_position_embeddings=96"),
        (["--model", "LIFTED", "--tokenizer", "LARGE"], "The tokenizer of the encoder has .* tokens, more than the"),
        (["--model", "LIFTED", "--lora", "--targets", "experts"], r"parts=\['experts'\] are not all in"),
    ],
)
def test_what_cannot_be_gone_on_from(folder, tmp_path, argv, message):
    if not (folder / "llama").is_dir():
        config = LlamaConfig(
            vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
        LlamaForCausalLM(config).save_pretrained(folder / "llama")
        train_byte_level_bpe(["many other words"], 270, show_progress=False).save_pretrained(folder / "large")
    (folder / "adapter").mkdir(exist_ok=True)
    (folder / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    words = [str(folder / word.lower()) if word.isupper() else word for word in argv]
    with pytest.raises(SystemExit, match=message):
        run_pairs(folder, tmp_path, *words)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "m", "--preset", "tiny"], "preset='tiny' is the size of a new model: leave it out with --model."),
        (
            ["--target_tokenizer", "a", "--target_vocab_size", "9"],
            "target_tokenizer='a' and target_vocab_size=9: ",
        ),
        (["--merge"], "merge=True has nothing to merge without lora=True."),
        (["--layerwise_lr_decay", "2"], "layerwise_lr_decay=2.0 must be above 0, and at most 1."),
    ],
)
def test_arguments_that_do_not_fit_together(folder, tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit):
        run_pairs(folder, tmp_path, *argv)
    assert message in capsys.readouterr().err


def test_pretraining_refuses_a_checkpoint_of_another_kind(folder, tmp_path):
    words = ["--files", str(folder / "pairs.jsonl"), "--text_field", "long"]
    with pytest.raises(SystemExit, match="is_causal=False, but objective='causal' needs True"):
        run(folder, tmp_path, *words, "--model", str(folder / "encoder"), script=pretrain)
    with pytest.raises(SystemExit, match="has model_type='trine_seq2seq', but this objective needs 'trine'. `trine "):
        run(folder, tmp_path, *words, "--model", str(folder / "lifted"), script=pretrain)
    words += ["--model", str(folder / "encoder"), "--objective", "masked", "--block_length", "16"]
    words += ["--config_overrides", "intermediate_size=7"]
    with pytest.raises(SystemExit, match=r"do not fit the weights of .* where the config now asks for \(32, 7\)"):
        run(folder, tmp_path, *words, script=pretrain)
