"""PEFT, sentence-transformers and Trainer work on the models as on the library's own."""

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from support.tiny import SPARSE, random_ids, tiny_model
from torch import nn
from transformers import Trainer, TrainingArguments, pipeline

from trine import TrineModel, train_byte_level_bpe


ADAPTED = {
    "attention": ({}, {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
    "mlp": ({}, {"target_modules": ["gate_proj", "up_proj", "down_proj"]}),
    "all": ({}, {"target_modules": "all-linear"}),
    "experts": (
        SPARSE,
        {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs"]
    return train_byte_level_bpe(texts, 280, show_progress=False, model_max_length=32)


@pytest.mark.parametrize(
    ("part", "experts"), [*((part, "eager") for part in ADAPTED), ("experts", "batched_mm"), ("experts", "grouped_mm")]
)
def test_lora_trains_saves_loads_and_merges(part, experts, tmp_path):
    fields, settings = ADAPTED[part]
    model = tiny_model(dtype=torch.float32, experts=experts, scale=1.0, **fields)
    ids = random_ids(2, 9)
    model.save_pretrained(tmp_path / "base")
    before = model(ids).logits
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, **settings))
    outputs = adapted.train()(ids, labels=ids)
    outputs.loss.backward()
    gradients = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
    assert gradients and all("lora" in name for name in gradients)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in gradients.values())
    expected = adapted.eval()(ids).logits
    assert not torch.allclose(expected, before)
    adapted.save_pretrained(tmp_path / "adapter")
    base = type(model).from_pretrained(tmp_path / "base", experts_implementation=experts)
    torch.testing.assert_close(PeftModel.from_pretrained(base, tmp_path / "adapter")(ids).logits, expected)
    torch.testing.assert_close(adapted.merge_and_unload()(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_folder_loads_by_itself(tmp_path):
    model = tiny_model(dtype=torch.float32, scale=1.0)
    model.save_pretrained(tmp_path / "base")
    model.name_or_path = model.config.name_or_path = str(tmp_path / "base")
    settings = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    ids = random_ids(2, 9)
    torch.testing.assert_close(loaded(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
def test_sentence_transformers_loads_saves_and_pools(is_causal, tokenizer, tmp_path):
    """Embeddings are the mean of a text's own hidden states, whatever it is batched with."""
    size = len(tokenizer)
    model = tiny_model(TrineModel, dtype=torch.float32, attn="sdpa", vocab_size=size, is_causal=is_causal, scale=1.0)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    transformer = Transformer(str(tmp_path / "model"))
    embedder = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode="mean")], device="cpu")
    texts = ["the quick brown fox", "dog", "five dozen liquor jugs jump over the box"]
    embeddings = torch.tensor(embedder.encode(texts))
    for text, embedding in zip(texts, embeddings, strict=True):
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(embedding, states.mean(dim=0), rtol=1e-4, atol=1e-5)
    embedder.save_pretrained(str(tmp_path / "embedder"))
    again = SentenceTransformer(str(tmp_path / "embedder"), device="cpu")
    torch.testing.assert_close(torch.tensor(again.encode(texts)), embeddings)
    assert list((tmp_path / "embedder").rglob("modeling_trine.py")), "the code travels with the folder"


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_compares_with_the_next_token(smoothing):
    """The mean over targets of `(1 - e) * nll + e * mean over the vocabulary of -log p`, on shifted labels."""
    model = tiny_model(dtype=torch.float32, scale=1.0, loss_chunk_size=None)
    arguments = TrainingArguments(label_smoothing_factor=smoothing, use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model, arguments)
    ids = random_ids(3, 10)
    labels = ids.clone()
    labels[1, 6:] = -100
    loss = trainer.compute_loss(model, {"input_ids": ids, "labels": labels})
    logits, targets = model(ids).logits[:, :-1].reshape(-1, 61), labels[:, 1:].reshape(-1)
    expected = nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)


def test_pipelines_generate_and_extract(tokenizer):
    model = tiny_model(dtype=torch.float32, vocab_size=len(tokenizer), scale=1.0)
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer)
    text = generate("the quick", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    assert text.startswith("the quick")
    extract = pipeline("feature-extraction", model=model.model, tokenizer=tokenizer)
    inputs = tokenizer("the quick", return_tensors="pt")
    torch.testing.assert_close(torch.tensor(extract("the quick")), model.model(**inputs).last_hidden_state)
