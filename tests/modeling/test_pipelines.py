"""The library's pipelines load a saved folder and give what the model gives."""

import pytest
import torch
from support.tiny import tiny_model
from support.tokenizer_texts import TEXTS
from transformers import GenerationConfig, pipeline

from trine import (
    TrineForCausalLM,
    TrineForMaskedLM,
    TrineForSequenceClassification,
    TrineForTokenClassification,
    TrineModel,
    train_byte_level_bpe,
    train_wordpiece,
)


TEXT = "It's the reader who don't see 'strings'"
LABELS = {0: "PER", 1: "LOC", 2: "ORG"}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def decoder_tokenizer():
    return train_byte_level_bpe(TEXTS, 420, show_progress=False, model_max_length=96)


@pytest.fixture(scope="module")
def encoder_tokenizer():
    return train_wordpiece(TEXTS, 420, show_progress=False, model_max_length=96)


@pytest.fixture
def save(tmp_path):
    """Saves a model of a class with a tokenizer and returns it with its folder."""

    def save(model_class, tokenizer, **fields):
        fields = {"vocab_size": len(tokenizer), "is_causal": model_class is TrineForCausalLM, **fields}
        model = tiny_model(model_class, dtype=torch.float32, attn="sdpa", scale=2.0, **fields)
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return model, str(tmp_path)

    return save


def test_text_generation(save, decoder_tokenizer):
    """A batch of texts of different lengths, and a chat."""
    model, folder = save(TrineForCausalLM, decoder_tokenizer)
    generate = pipeline("text-generation", model=folder)
    settings = GenerationConfig(max_new_tokens=9, do_sample=False, pad_token_id=decoder_tokenizer.pad_token_id)
    outputs = generate([TEXT, "the"], generation_config=settings, batch_size=2)
    for text, (output,) in zip([TEXT, "the"], outputs, strict=True):
        ids = decoder_tokenizer(text, return_tensors="pt")["input_ids"]
        made = model.generate(ids, generation_config=settings)
        assert output["generated_text"] == decoder_tokenizer.decode(made[0], skip_special_tokens=True)
    (output,) = generate(TEXT, generation_config=settings, return_full_text=False)
    assert TEXT + output["generated_text"] == outputs[0][0]["generated_text"]


def test_text_generation_of_chats(save):
    tokenizer = train_byte_level_bpe(TEXTS, 420, show_progress=False, chat_template="chatml")
    model, folder = save(TrineForCausalLM, tokenizer)
    chat = [{"role": "user", "content": TEXT}]
    settings = GenerationConfig(max_new_tokens=9, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    (output,) = pipeline("text-generation", model=folder)(chat, generation_config=settings)
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    made = model.generate(ids, generation_config=settings)[0, ids.shape[1] :]
    answer = {"role": "assistant", "content": tokenizer.decode(made, skip_special_tokens=True)}
    assert output["generated_text"] == [*chat, answer]


def test_fill_mask(save, encoder_tokenizer):
    model, folder = save(TrineForMaskedLM, encoder_tokenizer)
    text = f"the {encoder_tokenizer.mask_token} who"
    answers = pipeline("fill-mask", model=folder, top_k=5)(text)
    inputs = encoder_tokenizer(text, return_tensors="pt")
    place = inputs["input_ids"][0] == encoder_tokenizer.mask_token_id
    expected = model(**inputs).logits[0, place][0].softmax(dim=-1).topk(5)
    assert [answer["token"] for answer in answers] == expected.indices.tolist()
    torch.testing.assert_close(torch.tensor([answer["score"] for answer in answers]), expected.values, **CLOSE)


@pytest.mark.parametrize("pooler", [False, True])
def test_feature_extraction(save, encoder_tokenizer, pooler):
    model, folder = save(TrineModel, encoder_tokenizer, add_pooling_layer=pooler)
    extract = pipeline("feature-extraction", model=folder)
    for text, states in zip([TEXT, "the"], extract([TEXT, "the"], batch_size=2), strict=True):
        expected = model(**encoder_tokenizer(text, return_tensors="pt")).last_hidden_state
        torch.testing.assert_close(torch.tensor(states)[:, : expected.shape[1]], expected, **CLOSE)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_text_classification(save, encoder_tokenizer, problem):
    labels = {0: "value"} if problem == "regression" else LABELS
    model, folder = save(
        TrineForSequenceClassification, encoder_tokenizer, id2label=labels, problem_type=problem, type_vocab_size=2
    )
    classify = pipeline("text-classification", model=folder, top_k=None)
    squash = {"single_label_classification": lambda x: x.softmax(-1), "multi_label_classification": torch.sigmoid}
    for given, arguments in (([TEXT], (TEXT,)), ([{"text": TEXT, "text_pair": "the"}], (TEXT, "the"))):
        logits = model(**encoder_tokenizer(*arguments, return_tensors="pt")).logits[0]
        expected = squash.get(problem, lambda x: x)(logits).tolist()
        scores = {answer["label"]: answer["score"] for answer in classify(given)[0]}
        assert scores == pytest.approx({labels[index]: score for index, score in enumerate(expected)}, rel=1e-4)


def test_token_classification(save, encoder_tokenizer):
    model, folder = save(TrineForTokenClassification, encoder_tokenizer, id2label=LABELS)
    inputs = encoder_tokenizer(TEXT, return_tensors="pt", return_offsets_mapping=True)
    offsets = inputs.pop("offset_mapping")[0].tolist()
    best = model(**inputs).logits[0].softmax(dim=-1).max(dim=-1)
    answers = pipeline("token-classification", model=folder, ignore_labels=[])(TEXT)
    assert [answer["entity"] for answer in answers] == [LABELS[index] for index in best.indices[1:-1].tolist()]
    assert [answer["score"] for answer in answers] == pytest.approx(best.values[1:-1].tolist(), rel=1e-4)
    assert [[answer["start"], answer["end"]] for answer in answers] == offsets[1:-1]
    groups = pipeline("token-classification", model=folder, aggregation_strategy="simple")(TEXT)
    assert {group["entity_group"] for group in groups} <= set(LABELS.values())
    assert all(TEXT[group["start"] : group["end"]] for group in groups)
