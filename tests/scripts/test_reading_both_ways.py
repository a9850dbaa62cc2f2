"""Training of decoders that read both ways: prefixes in pretraining and tuning, and encoders made of decoders."""

import json
from inspect import signature

import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.tiny import SIZES
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trine import TrineConfig, TrineForCausalLM, TrineForMaskedLM, train_byte_level_bpe, train_wordpiece
from trine.scripts import finetune_lora, lift, pretrain, train_embeddings
from trine.tokenization.text_files import Piece
from trine.training.data.packing import PackedBlocks
from trine.training.data.token_store import read_tokens, write_tokens
from trine.training.data.word_cache import TokenEncoder
from trine.training.objectives.masked_text import MaskedSequences
from trine.training.objectives.prefixes import PrefixCollator


NUMBERS = ["one", "two", "three", "four", "five"]
FEW = ["--max_steps", "2", "--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prompts with completions as texts, pairs and records; and a decoder of Trine, and one of another family."""
    folder = tmp_path_factory.mktemp("both ways")
    pairs = [{"prompt": f"say {a} and {b}", "completion": f"{a} and {b}"} for a in NUMBERS for b in NUMBERS]
    texts = [" ".join(pair.values()) for pair in pairs]
    write(folder / "pairs.jsonl", pairs)
    write(folder / "texts.jsonl", [{"text": f"{text}. " * 6} for text in texts])
    tokenizer = train_byte_level_bpe(texts, 280, show_progress=False)
    fields = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    TrineForCausalLM(TrineConfig(**fields)).save_pretrained(folder / "decoder")
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "llama")
    for name in ("decoder", "llama"):
        tokenizer.save_pretrained(folder / name)
    return folder


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def train(folder, output, *argv) -> int:
    words = ["--files", str(folder / "texts.jsonl"), "--cache_dir", str(folder / "cache"), "--block_length", "16"]
    words += ["--vocab_size", "280", "--validation_fraction", "0.2", "--precision", "fp32", *FEW]
    sizes = {**SIZES, "vocab_size": 280}
    words += ["--config_overrides", *(f"{name}={sizes[name]}" for name in ("hidden_size", "intermediate_size"))]
    words += ["num_hidden_layers=1", "num_attention_heads=4", "attention_types=full", "mlp_layer_types=dense"]
    return pretrain.main([*words, "--output_dir", str(output), *argv])


def tune(folder, output, *argv) -> int:
    words = ["--files", str(folder / "pairs.jsonl"), "--format", "completion", "--max_length", "32", "--prefix_lm"]
    return finetune_lora.main([*words, "--output_dir", str(output), *FEW, *argv])


def test_a_prefix_has_no_labels_and_any_length():
    blocks = PackedBlocks(torch.arange(3000), 6)
    torch.manual_seed(0)
    batch = PrefixCollator()([blocks[index] for index in range(500)])
    counts = torch.bincount(batch["prefix_length"], minlength=7).tolist()
    assert counts[0] == counts[6] == 0 and min(counts[1:6]) > 60
    for ids, labels, prefix in zip(*(batch[name] for name in ("input_ids", "labels", "prefix_length")), strict=True):
        assert labels.tolist() == [-100] * int(prefix) + ids[prefix:].tolist()


def test_pretraining_with_prefixes_leaves_a_decoder_that_reads_them(folder, tmp_path):
    assert train(folder, tmp_path / "model", "--objective", "prefix_lm") == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(model) is TrineForCausalLM and model.config.prefix_lm
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["loss"].keys() >= {"model", "bigram"}
    ids = torch.arange(10, 18)[None]
    causal = AutoModelForCausalLM.from_pretrained(tmp_path / "model", prefix_lm=False)
    assert (model(ids, prefix_length=8).logits - causal(ids).logits).abs().max() > 1e-6
    assert torch.equal(model(ids).logits, causal(ids).logits)


def test_pretraining_with_prefixes_keeps_no_documents_apart(folder, tmp_path):
    with pytest.raises(SystemExit, match="document_boundaries=True does not apply to objective='prefix_lm'"):
        train(folder, tmp_path / "model", "--objective", "prefix_lm", "--document_boundaries")


def test_tuning_reads_prompts_both_ways(folder, tmp_path, monkeypatch, capsys):
    """Each step gets the length of every prompt, in rows without padding; the loss is that of each text alone."""
    seen, forward = [], TrineForCausalLM.forward

    def watch(self, *args, **kwargs):
        outputs = forward(self, *args, **kwargs)
        if "labels" in kwargs and kwargs.get("prefix_length") is not None:
            seen.append(({name: each.clone() for name, each in kwargs.items() if torch.is_tensor(each)}, outputs.loss))
        return outputs

    watch.__signature__ = signature(forward)
    monkeypatch.setattr(TrineForCausalLM, "forward", watch)
    assert (
        tune(folder, tmp_path / "model", "--model", str(folder / "decoder"), "--full", "--validation_fraction", "0.2")
        == 0
    )
    inputs, loss = seen[0]  # of the evaluation before training
    starts = [*(inputs["position_ids"][0] == 0).nonzero()[:, 0].tolist(), inputs["input_ids"].shape[1]]
    assert len(inputs["prefix_length"]) == len(starts) - 1 > 1
    model, total, count = TrineForCausalLM.from_pretrained(folder / "decoder", prefix_lm=True), 0.0, 0
    for prefix, start, stop in zip(inputs["prefix_length"].tolist(), starts[:-1], starts[1:], strict=True):
        ids, labels = inputs["input_ids"][:, start:stop], inputs["labels"][0, start:stop]
        assert (labels >= 0).nonzero()[0] == prefix
        logits = forward(model, ids, prefix_length=prefix).logits[0]
        total += torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] >= 0).sum())
    torch.testing.assert_close(loss, total / count, rtol=1e-5, atol=1e-6)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.prefix_lm


def test_adapters_with_prefixes_are_merged(folder, tmp_path):
    decoder = ["--model", str(folder / "decoder")]
    with pytest.raises(SystemExit, match="prefix_lm=True is a field of the config, which adapters alone do not hold"):
        tune(folder, tmp_path / "alone", *decoder)
    with pytest.raises(SystemExit, match="prefix_lm=True needs a decoder of Trine, but model_type='llama'"):
        tune(folder, tmp_path / "llama", "--model", str(folder / "llama"), "--merge")
    assert tune(folder, tmp_path / "merged", *decoder, "--merge") == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").config.prefix_lm


def test_masked_next_tokens_train_the_head_of_a_decoder(folder, tmp_path):
    assert train(folder, tmp_path / "model", "--objective", "masked_next_token") == 0
    model = TrineForMaskedLM.from_pretrained(tmp_path / "model")
    assert model.config.masked_lm_head == "next_token" and not list(model.transform.parameters())


def test_texts_lie_between_the_tokens_that_there_are(tmp_path):
    """Those of an encoder first; else those of a decoder."""
    texts = ["one two", "three"]
    for name, make, names in (
        ("encoder", train_wordpiece, ("cls_token_id", "sep_token_id")),
        ("decoder", train_byte_level_bpe, ("bos_token_id", "eos_token_id")),
    ):
        tokenizer = make(texts, 270, show_progress=False)
        tokenizer.add_special_tokens({"mask_token": "[MASK]"})
        (tmp_path / name).mkdir()
        write_tokens(
            tmp_path / name, (Piece(number, text) for number, text in enumerate(texts)), TokenEncoder(tokenizer)
        )
        data = MaskedSequences(read_tokens(tmp_path / name), tokenizer, 40)
        assert [data[0]["input_ids"][place] for place in (0, -1)] == [getattr(tokenizer, each) for each in names]


def test_a_lifted_decoder_learns_masked_tokens_and_then_to_embed(folder, tmp_path):
    lift.main([str(folder / "decoder"), str(tmp_path / "lifted"), "--to", "encoder"])
    words = ["--files", str(folder / "texts.jsonl"), "--cache_dir", str(folder / "cache"), "--block_length", "16"]
    words += ["--objective", "masked_next_token", "--model", str(tmp_path / "lifted"), "--precision", "fp32", *FEW]
    assert pretrain.main([*words, "--output_dir", str(tmp_path / "encoder")]) == 0
    before, after = (TrineForMaskedLM.from_pretrained(tmp_path / name) for name in ("lifted", "encoder"))
    assert after.config.masked_lm_head == "next_token" and after.config.vocab_size == before.config.vocab_size
    change = (after.model.embed_tokens.weight - before.model.embed_tokens.weight).abs().max()
    assert 0 < change < 0.05  # two steps from there
    words = ["--model", str(tmp_path / "encoder"), "--files", str(folder / "pairs.jsonl"), "--max_length", "32"]
    words += ["--anchor_field", "prompt", "--positive_field", "completion", "--validation_fraction", "0.2"]
    words += ["--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--eval_strategy", "no", *FEW]
    assert train_embeddings.main([*words, "--output_dir", str(tmp_path / "output")]) == 0
    model = SentenceTransformer(str(tmp_path / "output"))
    assert model[1].pooling_mode == "mean" and not model[0].model.config.is_causal
    assert AutoTokenizer.from_pretrained(tmp_path / "output").mask_token == "[MASK]"
