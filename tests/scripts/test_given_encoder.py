"""A new encoder-decoder that reads with a trained encoder, and the optimizer Muon for pairs of texts."""

import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.encoders import encoder
from support.tiny import tiny_model
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from trine import train_wordpiece
from trine.generation import Translator
from trine.scripts import train_translation
from trine.scripts.arguments.text_pairs import PairArguments
from trine.scripts.jobs import pair_models, pair_trainer
from trine.scripts.jobs.text_pairs import Pair
from trine.tokenization import load_target_tokenizer
from trine.training.run.muon import Muon


NUMBERS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs"}
PAIRS = [{"source": f"{a} and {b}", "target": f"{NUMBERS[b]} und {NUMBERS[a]}"} for a in NUMBERS for b in NUMBERS]
BACK = [{"source": pair["target"], "target": pair["source"]} for pair in PAIRS]
SMALL = ["hidden_size=24", "intermediate_size=32", "num_hidden_layers=1", "num_attention_heads=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder of three layers with its tokenizer, a decoder, and pairs."""
    folder = tmp_path_factory.mktemp("given")
    languages = [{"to": to, **pair} for to, pairs in (("de", PAIRS), ("en", BACK)) for pair in pairs]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in languages), encoding="utf-8")
    tokenizer = train_wordpiece([pair["source"] for pair in languages], vocab_size=200, show_progress=False)
    fields = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "dtype": torch.float32}
    encoder(**fields, num_hidden_layers=3, scale=1.0).save_pretrained(folder / "encoder")
    tiny_model(**fields).save_pretrained(folder / "decoder")
    for name in ("encoder", "decoder"):
        tokenizer.save_pretrained(folder / name)
    return folder


def run(folder, output, *argv):
    words = ["--files", str(folder / "pairs.jsonl"), "--max_length", "16", "--validation_pairs", "4", "--samples", "1"]
    words += ["--max_steps", "3", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--use_cpu"]
    words += ["--disable_tqdm", "true", "--precision", "fp32", "--preset", "tiny", "--config_overrides", *SMALL]
    return train_translation.main([*words, "--output_dir", str(output), *argv])


def test_a_new_decoder_learns_behind_the_first_layers_of_an_encoder(folder, tmp_path, monkeypatch, capsys):
    optimizers = []
    create = pair_trainer.PairTrainer.create_optimizer

    def note(self, *args):
        optimizers.append(create(self, *args))
        return optimizers[-1]

    monkeypatch.setattr(pair_trainer.PairTrainer, "create_optimizer", note)
    words = ["--encoder", str(folder / "encoder"), "--encoder_layers", "2", "--target_vocab_size", "380"]
    words += ["--freeze", "encoder", "--cache_encoder", "true", "--cache_dir", str(tmp_path / "states")]
    assert run(folder, tmp_path / "new", *words, "--optim", "muon") == 0
    after, before = load_file(tmp_path / "new" / "model.safetensors"), load_file(folder / "encoder/model.safetensors")
    kept = {name.removeprefix("model.encoder."): each for name, each in after.items() if ".encoder." in name}
    assert {name for name in before if not re.match(r"layers\.2\.|pooler\.", name)} == kept.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in kept.items())

    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "new").eval()
    source: Any = AutoTokenizer.from_pretrained(tmp_path / "new")
    target: Any = load_target_tokenizer(tmp_path / "new")
    assert source.get_vocab() == AutoTokenizer.from_pretrained(folder / "encoder").get_vocab()
    assert (model.config.decoder.hidden_size, model.config.decoder.vocab_size) == (24, len(target))
    inputs = source("two and six", return_tensors="pt")
    whole = AutoModel.from_pretrained(folder / "encoder").eval()
    states = whole(**inputs, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(model.get_encoder()(**inputs).last_hidden_state, states)
    assert len(Translator.from_pretrained(tmp_path / "new", device="cpu")("two and six", max_new_tokens=3)) >= 0

    (optimizer,) = optimizers
    assert isinstance(optimizer, Muon)
    sizes = {flag: sum(p.numel() for g in optimizer.param_groups if g["is_matrix"] is flag for p in g["params"])
             for flag in (True, False)}  # fmt: skip
    assert sum(sizes.values()) == sum(t.numel() for name, t in after.items() if name.startswith("model.decoder."))
    table = after["model.decoder.embed_tokens.weight"].numel()
    assert sizes[False] - table == sum(t.numel() for n, t in after.items() if ".decoder." in n and t.dim() == 1)
    assert f"{sum(sizes.values()):,} parameters are trained" in capsys.readouterr().out


def test_an_encoder_gets_tags_that_differ(folder):
    arguments = PairArguments(files=["f"], encoder=str(folder / "encoder"), preset="tiny", max_length=16)
    pairs = [Pair("one", "eins", "de"), Pair("eins", "one", "en")]
    tokenizers = pair_models.make_tokenizers(arguments, pairs, None, False)
    model = pair_models.make_model(arguments, tokenizers)
    table, old = model.get_encoder().embed_tokens.weight, load_file(folder / "encoder/model.safetensors")
    assert torch.equal(table[:-2], old["embed_tokens.weight"]) and not tokenizers.are_two
    german, english = (table[tokenizers.source.convert_tokens_to_ids(tag)] for tag in ("<2de>", "<2en>"))
    assert torch.nn.functional.cosine_similarity(german, english, dim=0).abs() < 0.9
    assert not model.config.share_embeddings and model.config.encoder.vocab_size == model.config.decoder.vocab_size


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--encoder", "DECODER"], "is no encoder of Trine's: model_type='trine', is_causal=True. `trine convert`"),
        (["--encoder", "nowhere/at-all"], "encoder='nowhere/at-all' cannot be read"),
        (["--encoder", "ENCODER", "--encoder_layers", "4"], "encoder_layers=4 must be from 1 to 3"),
        (["--encoder", "ENCODER", "--max_length", "200"], "max_length=200 is above encoder.max_position_embeddings="),
        (["--encoder", "ENCODER", "--config_overrides", "encoder={hidden_size: 8}"], "config_overrides have encoder="),
        (["--optim", "muon", "--fsdp", "full_shard"], "optim='muon' needs whole matrices"),
    ],
)
def test_what_cannot_be_read_with(folder, tmp_path, monkeypatch, argv, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = [str(folder / word.lower()) if word.isupper() else word for word in argv]
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(folder, tmp_path, *words)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": "e", "model": "m"}, "encoder='e' is read with by a new model: leave it out with --model."),
        ({"encoder_layers": 2}, "encoder_layers=2 are those of an --encoder, which is not given."),
    ],
)
def test_options_of_an_encoder_that_do_not_fit_together(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PairArguments(files=["f"], **values)
