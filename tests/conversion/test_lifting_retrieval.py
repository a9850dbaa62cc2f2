"""Lifts of a `TrineForRetrieval`: the same vectors from other layers and fewer tokens, and a decoder behind it."""

from typing import Any

import pytest
import torch
from support.tiny import SIZES
from transformers import AutoTokenizer

from trine import TrineConfig, TrineForConditionalGeneration, TrineForRetrieval, train_wordpiece
from trine.conversion.lifts.checkpoint import lift_checkpoint
from trine.conversion.lifts.lift import make_lift


TEXTS = ["red house", "a red house on the old hill"]
LIFTS: dict[str, dict[str, Any]] = {
    "sliding": {"sliding_window": 64},
    "sparse": {"num_experts": 2, "num_experts_per_tok": 1},
    "smaller_vocabulary": {"texts": TEXTS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieval")
    tokenizer = train_wordpiece(["other words come first", *TEXTS, "some words"], 120, show_progress=False)
    fields = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    fields |= {"retrieval_outputs": ["dense", "sparse", "multi_vector"], "multi_vector_dim": 6}
    torch.manual_seed(0)
    config = TrineConfig(**fields, is_causal=False, unscored_token_ids=sorted(tokenizer.all_special_ids))
    TrineForRetrieval(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def encode(folder) -> Any:
    model = TrineForRetrieval.from_pretrained(folder)
    return model.encode(TEXTS, return_sparse=True, return_multi_vector=True)


@pytest.mark.parametrize("kind", LIFTS)
def test_the_vectors_stay(kind, folder):
    _, lifted = lift_checkpoint(folder / "model", folder / kind, make_lift(kind, LIFTS[kind]))
    assert isinstance(lifted, TrineForRetrieval)
    before, after = encode(folder / "model"), encode(folder / kind)
    for name, scores in before.scores(before).items():
        torch.testing.assert_close(after.scores(after)[name], scores, rtol=1e-5, atol=1e-6)
    assert [len(each) for each in after.multi_vector] == [len(each) for each in before.multi_vector]


def test_special_tokens_are_found_again_under_their_new_ids(folder):
    """In a vocabulary whose special tokens are not the first ones."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<last>"]})
    last = tokenizer.convert_tokens_to_ids("<last>")
    model = TrineForRetrieval.from_pretrained(folder / "model")
    model.resize_token_embeddings(len(tokenizer))
    model.config.unscored_token_ids = [*model.config.unscored_token_ids, last]
    made = make_lift("smaller_vocabulary", {"texts": TEXTS, "tokenizer": tokenizer})
    lifted: Any = made.apply(model)
    smaller: Any = made
    new = smaller.smaller.convert_tokens_to_ids("<last>")
    assert new < last and lifted.config.unscored_token_ids == [*range(5), new]


def test_a_decoder_behind_it(folder):
    _, lifted = lift_checkpoint(folder / "model", folder / "both", make_lift("encoder_decoder", {}))
    assert isinstance(lifted, TrineForConditionalGeneration)
    assert all(stack.retrieval_outputs is None for stack in (lifted.config.encoder, lifted.config.decoder))
