"""The weights of the recurrent models: their names, how they begin, ties, resizing, saving, loading, precision."""

import pytest
import torch
from support.recurrent import PAD, VARIANTS, random_ids, tiny_config, tiny_model
from support.recurrent_errors import changed
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from trine.modeling.modeling_trine_recurrent import TrineRecurrentForConditionalGeneration, TrineRecurrentModel


EVERY_VARIANT = pytest.mark.parametrize("name", VARIANTS)
LSTM_KEYS = [f"lstm.{kind}_{way}_l0" for kind in ("weight", "bias") for way in ("ih", "hh")]


def test_state_dict_keys_are_frozen():
    """A key that changes breaks every published checkpoint."""
    keys = set(tiny_model("dot").state_dict())
    reverse = [f"{key}_reverse" for key in LSTM_KEYS]
    assert keys == {
        "lm_head.weight",
        "model.encoder.embed_tokens.weight",
        "model.decoder.combine.weight",
        *(f"model.encoder.layers.{index}.{key}" for index in (0, 1) for key in LSTM_KEYS + reverse),
        *(f"model.decoder.layers.{index}.{key}" for index in (0, 1) for key in LSTM_KEYS),
    }
    assert set(tiny_model("none").state_dict()) == keys


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_tied_exactly_when_the_config_says_so(tied):
    model = tiny_model(tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.model.encoder.embed_tokens.weight) == tied
    assert model.get_input_embeddings() is model.model.encoder.embed_tokens
    assert model.get_output_embeddings() is model.lm_head


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [50, 35])
def test_resized_embeddings_keep_the_old_tokens(size, tied, tmp_path):
    model, ids = tiny_model(tie_word_embeddings=tied, dtype=torch.float32), random_ids(2, 6) % 30
    with torch.no_grad():
        before = model(ids, decoder_input_ids=ids).logits
    model.resize_token_embeddings(size)
    kept = min(size, 41)
    assert model.config.vocab_size == size and (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    torch.testing.assert_close(model(ids, decoder_input_ids=ids).logits[..., :kept], before[..., :kept])
    largest = torch.full((1, 3), size - 1)
    model.train()(largest, labels=largest).loss.backward()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(largest, labels=largest).logits, model.eval()(largest, labels=largest).logits)


@EVERY_VARIANT
def test_saved_and_loaded_models_are_identical(name, tmp_path):
    model, ids = tiny_model(name, dtype=torch.float32), random_ids(2, 5)
    model.save_pretrained(tmp_path / "head")
    head, trunk = (auto.from_pretrained(tmp_path / "head") for auto in (AutoModelForSeq2SeqLM, AutoModel))
    assert (type(head), type(trunk)) == (TrineRecurrentForConditionalGeneration, TrineRecurrentModel)
    torch.testing.assert_close(dict(head.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    expected = model(ids, labels=ids)
    assert torch.equal(head(ids, labels=ids).logits, expected.logits)
    inputs = model.prepare_decoder_input_ids_from_labels(ids)
    assert torch.equal(
        trunk(ids, decoder_input_ids=inputs).last_hidden_state,
        model.model(ids, decoder_input_ids=inputs).last_hidden_state,
    )
    if model.config.tie_word_embeddings:
        trunk.save_pretrained(tmp_path / "trunk")
        again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "trunk")
        assert torch.equal(again(ids, labels=ids).logits, expected.logits)
    assert AutoConfig.from_pretrained(tmp_path / "head").to_dict() == head.config.to_dict()


@EVERY_VARIANT
def test_weights_begin_as_described_also_from_the_meta_device(name):
    config = tiny_config(**{**VARIANTS[name], "vocab_size": 500, "hidden_size": 64, "initializer_range": 0.03})
    model_class = TrineRecurrentForConditionalGeneration
    for model in (model_class(config), model_class.from_pretrained(None, config=config, state_dict={})):
        assert model.get_input_embeddings().weight[PAD].eq(0).all()
        for key, tensor in model.named_parameters():
            if "weight_ih" in key:
                for gate in tensor.chunk(4):
                    assert gate.std().item() == pytest.approx((2 / sum(gate.shape)) ** 0.5, rel=0.1), key
            elif "weight_hh" in key:
                for gate in tensor.chunk(4):
                    torch.testing.assert_close(gate @ gate.T, torch.eye(len(gate)), atol=1e-5, rtol=0)
            elif "bias" in key:
                expected = torch.zeros_like(tensor)
                expected[len(tensor) // 4 : len(tensor) // 2] = float("bias_ih" in key)
                assert torch.equal(tensor, expected), key
            else:
                assert tensor.std().item() == pytest.approx(0.03, rel=0.1), key


def test_missing_weights_begin_anew_and_loaded_ones_stay(tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    config = changed(AutoConfig.from_pretrained(tmp_path), num_hidden_layers=3)
    loaded, info = TrineRecurrentForConditionalGeneration.from_pretrained(
        tmp_path, config=config, output_loading_info=True
    )
    assert info["missing_keys"] and all("layers.2." in key for key in info["missing_keys"])
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]) if "layers.2." not in key else tensor.isfinite().all(), key
    assert loaded(random_ids(1, 3), decoder_input_ids=random_ids(1, 3)).logits.isfinite().all()


@EVERY_VARIANT
def test_half_precision_is_close(name, tmp_path):
    model, ids = tiny_model(name, dtype=torch.float32), random_ids(2, 6)
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    expected = model(**inputs).logits
    model.save_pretrained(tmp_path)
    half = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    logits = half(**inputs).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(**inputs).logits.float(), expected, rtol=0.1, atol=0.2)
        loss = model.train()(**inputs).loss
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
