"""Losses of texts against one forward pass a text, in windows too; they do not depend on the tokens' number."""

import math

import pytest
import torch
from support.tiny import tiny_model
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trine import train_byte_level_bpe
from trine.training import bootstrap_interval, text_losses


TEXTS = ["the cat sat on the mat", "a", "what the cat saw 猫 " * 3, ""]


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(TEXTS, vocab_size=300, show_progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(vocab_size=len(tokenizer), attn="sdpa")


def nats(model, ids: list[int]) -> torch.Tensor:
    """Of each token but the first, from one forward pass."""
    row = torch.tensor(ids)
    with torch.no_grad():
        return functional.cross_entropy(model(row[None]).logits[0, :-1], row[1:], reduction="none")


def test_each_text_is_measured_by_itself(model, tokenizer):
    losses = text_losses(model, tokenizer, TEXTS, batch_size=3)
    rows = [[tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False).input_ids] for text in TEXTS[:3]]
    expected = [nats(model, row).sum().item() for row in rows]
    assert losses.nats.tolist() == pytest.approx(expected, rel=1e-6)
    assert losses.tokens.tolist() == [len(row) - 1 for row in rows]
    assert losses.bytes.tolist() == [22, 1, 63]
    assert losses.per_token == pytest.approx(sum(expected) / sum(len(row) - 1 for row in rows), rel=1e-6)
    assert losses.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / 86, rel=1e-6)
    low, high = losses.interval()
    assert low < losses.bits_per_byte < high


@pytest.mark.parametrize("length", [2, 5, 8, 1000])
def test_windows_score_each_token_once(model, tokenizer, length):
    ids = [tokenizer.eos_token_id, *tokenizer(TEXTS[2], add_special_tokens=False).input_ids]
    expected = nats(model, ids[:length]).sum().item()
    for end in range(length + max(length // 2, 1), len(ids) + max(length // 2, 1), max(length // 2, 1)):
        stop, first = min(end, len(ids)), end - max(length // 2, 1)
        if first < len(ids):
            expected += nats(model, ids[stop - length : stop])[first - stop :].sum().item()
    losses = text_losses(model, tokenizer, TEXTS[2:3], max_length=length)
    assert losses.nats.tolist() == pytest.approx([expected], rel=1e-6)


def test_a_start_of_the_tokenizers_own_is_kept(model, tokenizer):
    from tokenizers.processors import TemplateProcessing

    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="a", eos_token="t")
    own.backend_tokenizer.post_processor = TemplateProcessing(single="a $A", special_tokens=[("a", own.bos_token_id)])
    (found,) = text_losses(model, own, ["cat"]).nats
    ids = own("cat").input_ids
    assert ids[0] == own.bos_token_id and found == pytest.approx(nats(model, ids).sum().item(), rel=1e-6)


def test_what_cannot_be_measured_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="max_length=1 must be at least 2"):
        text_losses(model, tokenizer, TEXTS, max_length=1)
    with pytest.raises(ValueError, match="No text has a token"):
        text_losses(model, tokenizer, ["", ""])
    endless = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="neither a bos_token that it puts before texts nor an eos_token"):
        text_losses(model, endless, TEXTS)


def test_weights_are_how_often_an_example_counts():
    values, weights = [1.0, 2.0, 5.0], [1, 3, 2]
    low, high = bootstrap_interval(values, weights=weights, samples=4000)
    assert (low, high) == (1.0, 5.0) and bootstrap_interval(values, weights=[2, 2, 2]) == bootstrap_interval(values)
    narrow = bootstrap_interval([1.0, 9.0] * 50, weights=[99, 1] * 50)
    assert narrow[1] - narrow[0] < 0.2 and narrow[0] < 1.08 < narrow[1]
