"""A checkpoint loads with another vocabulary, of which the embeddings are new, as T5's does."""

import pytest
import torch
from support.tiny import SIZES, random_ids
from transformers import T5Config, T5ForConditionalGeneration

from trine import TrineForConditionalGeneration, TrineRecurrentConfig, TrineSeq2SeqConfig
from trine import TrineRecurrentForConditionalGeneration as Recurrent


TOKENS = {"pad_token_id": 0, "decoder_start_token_id": 0}
T5 = {"vocab_size": 61, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}


def seq2seq(source_size: int = 61, **fields):
    stacks = {"encoder": {**SIZES, "vocab_size": source_size}, "decoder": {**SIZES}}
    return TrineForConditionalGeneration(TrineSeq2SeqConfig(**stacks, **TOKENS, **fields))


MODELS = {
    "T5": lambda: T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0)),
    "shared": seq2seq,
    "separate": lambda: seq2seq(83, share_embeddings=False, tie_word_embeddings=False),
    "recurrent": lambda: Recurrent(TrineRecurrentConfig(vocab_size=61, hidden_size=16, **TOKENS)),
}


def by_keyword(model, folder, size):
    return {"vocab_size": size}


def by_config(model, folder, size):
    config = type(model.config).from_pretrained(folder)
    config.vocab_size = size
    return {"config": config}


def by_text_config(model, folder, size):
    """As transformers itself changes it."""
    config = type(model.config).from_pretrained(folder)
    config.get_text_config().vocab_size = size
    return {"config": config}


@pytest.mark.parametrize("way", [by_keyword, by_config, by_text_config])
@pytest.mark.parametrize("size", [40, 70])
@pytest.mark.parametrize("name", MODELS)
def test_the_rest_of_a_model_stays(name, size, way, tmp_path):
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, ignore_mismatched_sizes=True, **way(model, tmp_path, size))
    old, new = model.state_dict(), loaded.state_dict()
    assert loaded.config.vocab_size == size and new["lm_head.weight"].shape[0] == size
    same = {key for key, tensor in new.items() if tensor.shape == old[key].shape and torch.equal(tensor, old[key])}
    assert all("embed" in key or "shared" in key or key == "lm_head.weight" for key in new.keys() - same)
    assert len(same) > len(new) / 2
    ids = random_ids(2, 5, vocab_size=size)
    assert loaded(input_ids=random_ids(2, 5, vocab_size=40), labels=ids).loss.isfinite()
    loaded.save_pretrained(tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(again[key], new[key]) for key in new)


def test_a_vocabulary_is_changed_in_the_stacks_that_have_it():
    for shared, source in ((True, 50), (False, 61)):
        config = seq2seq(share_embeddings=shared).config
        config.vocab_size = 50
        assert (config.decoder.vocab_size, config.encoder.vocab_size) == (50, source)
        config.check()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 5}, "vocab_size=5 is the decoder's, but decoder.vocab_size=61"),
        ({"source_size": 7}, "share_embeddings=True needs equal sizes, but encoder.vocab_size=7"),
    ],
)
def test_sizes_that_contradict_each_other_stay_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        seq2seq(**fields)
