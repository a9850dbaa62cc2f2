"""Auto classes of encoders: text encoding, next sentences, and sentence-transformers on an encoder-decoder."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.tiny import SIZES, random_ids, tiny_model
from torch import nn
from transformers import AutoModelForNextSentencePrediction, AutoModelForTextEncoding
from transformers.utils import logging

from trine import (
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineForNextSentencePrediction,
    TrineForPreTraining,
    TrineModel,
    TrineSeq2SeqConfig,
    TrineSeq2SeqModel,
    train_wordpiece,
)


TEXTS = ["a man plays the guitar", "somebody makes music", "the sky is blue today"]


def seq2seq(**fields):
    stack = {**SIZES, **fields}
    config = TrineSeq2SeqConfig(encoder=stack, decoder=stack, decoder_start_token_id=0, pad_token_id=0)
    return TrineForConditionalGeneration(config).eval()


@torch.no_grad()
def test_text_encoding(tmp_path):
    ids, model = random_ids(2, 7), tiny_model(TrineForMaskedLM, is_causal=False, dtype=torch.float32, attn="sdpa")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForTextEncoding.from_pretrained(tmp_path, attn_implementation="sdpa")
    assert type(loaded) is TrineModel
    assert torch.equal(loaded(ids)[0], model.model(ids)[0])


@torch.no_grad()
def test_text_encoding_by_an_encoder_decoder(tmp_path):
    ids, model = random_ids(2, 7), seq2seq()
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    model.save_pretrained(tmp_path)
    loaded = AutoModelForTextEncoding.from_pretrained(tmp_path)
    assert type(loaded) is TrineSeq2SeqModel
    outputs = loaded(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    expected = model.get_encoder()(ids, attention_mask=mask)[0]
    assert torch.equal(outputs.last_hidden_state, expected) and torch.equal(outputs[0], expected)
    assert len(outputs.encoder_hidden_states) == 3 and outputs.decoder_hidden_states is None


def test_a_head_is_told_what_to_decode():
    with pytest.raises(ValueError, match="One of decoder_input_ids, decoder_inputs_embeds and labels must be given."):
        seq2seq()(input_ids=random_ids(2, 7))


def test_sentence_transformers_on_an_encoder_decoder(tmp_path, caplog):
    logging.get_logger("transformers").propagate = True
    tokenizer = train_wordpiece(TEXTS * 5, 160, show_progress=False, model_max_length=64)
    model = seq2seq(vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    embedder = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    vectors = embedder.encode(TEXTS, convert_to_tensor=True)
    for text, vector in zip(TEXTS, vectors, strict=True):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        expected = model.get_encoder()(**inputs)[0][0].mean(dim=0)
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)
    embedder.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    torch.testing.assert_close(again.encode(TEXTS, convert_to_tensor=True), vectors)
    weights = {name for name, _ in model.get_encoder().named_parameters()}
    for loaded in (embedder, again):  # as T5's: the decoder stays where it is
        assert {name.rpartition("encoder.")[2] for name, _ in loaded.named_parameters()} == weights
    assert "UNEXPECTED" not in caplog.text, "what is left out on purpose is not reported"


def test_next_sentences(tmp_path):
    """The head of a pretrained encoder goes on by itself."""
    fields = {"is_causal": False, "type_vocab_size": 2, "dtype": torch.float32, "attn": "sdpa"}
    model, ids, labels = tiny_model(TrineForPreTraining, **fields), random_ids(3, 7), torch.tensor([0, 1, 1])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForNextSentencePrediction.from_pretrained(tmp_path, attn_implementation="sdpa")
    assert type(loaded) is TrineForNextSentencePrediction
    outputs = loaded(ids, labels=labels)
    expected = model(ids).seq_relationship_logits
    assert torch.equal(outputs.logits, expected)
    torch.testing.assert_close(outputs.loss, nn.functional.cross_entropy(expected, labels))
    with pytest.raises(ValueError, match="TrineForNextSentencePrediction needs is_causal=False"):
        tiny_model(TrineForNextSentencePrediction)
