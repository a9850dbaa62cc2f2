"""States of a frozen encoder that are computed once train a decoder as the encoder itself would."""

import pytest
import torch
from support import recurrent
from tokenizers import Tokenizer, models
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast, Seq2SeqTrainingArguments

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig
from trine.training import EncodedSources, EncodedSourcesCollator, TrineSeq2SeqTrainer, encode_sources


SIZES = {"vocab_size": 41, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LENGTHS = (5, 1, 9, 3, 8, 4)


def make_model(dtype=torch.float32, **fields):
    torch.manual_seed(0)
    config = TrineSeq2SeqConfig.from_preset("tiny", intermediate_size=16, **{**SIZES, **fields})
    model = TrineForConditionalGeneration(config).to(dtype)
    return model.requires_grad_(True), model.get_encoder().requires_grad_(False)


def make_rows():
    generator = torch.Generator().manual_seed(0)

    def draw(length):
        return torch.randint(3, 41, (length,), generator=generator).tolist()

    return [{"input_ids": draw(length), "labels": draw(12 - length)} for length in LENGTHS]


def make_collator(model, padding_side="right"):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), pad_token="a", padding_side=padding_side
    )
    return DataCollatorForSeq2Seq(tokenizer, model=model)


@pytest.mark.parametrize("batch_tokens", [1, 10, 1000])
@pytest.mark.parametrize("kinds", ["full", "sliding, chunked", "bigbird", "lsh", "simplicial"])
def test_states_are_those_of_each_source_alone(kinds, batch_tokens, tmp_path):
    model, encoder = make_model(torch.float64, encoder={"attention_types": kinds})
    rows = make_rows()
    encoded = encode_sources(model.train(), rows, tmp_path, dtype=torch.float64, batch_tokens=batch_tokens)
    assert len(encoded) == len(rows) and encoder.training
    encoder.eval()
    for row, found in zip(rows, encoded, strict=True):
        expected = encoder(torch.tensor([row["input_ids"]])).last_hidden_state[0]
        torch.testing.assert_close(found["encoder_states"], expected)
        assert found["input_ids"] == row["input_ids"] and found["labels"] == row["labels"]


def train(folder, is_kept, dtype=torch.float64):
    model, encoder = make_model(torch.float64, hidden_dropout=0.0, attention_dropout=0.0)
    rows, collator = make_rows(), make_collator(model)
    if is_kept:
        rows = encode_sources(model, rows, folder / "cache", dtype=dtype, show_progress=False)
        collator = EncodedSourcesCollator(collator, encoder.dtype)
    args = Seq2SeqTrainingArguments(
        str(folder), max_steps=5, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none",
        remove_unused_columns=False, use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = TrineSeq2SeqTrainer(model, args, train_dataset=rows, eval_dataset=rows, data_collator=collator)
    trainer.train()
    return model.state_dict(), trainer.evaluate()["eval_loss"]


def test_training_is_that_beside_the_encoder(tmp_path):
    (expected, loss), (weights, kept_loss) = (train(tmp_path / str(is_kept), is_kept) for is_kept in (False, True))
    torch.testing.assert_close(weights, expected)
    assert kept_loss == pytest.approx(loss, rel=1e-12)
    before = make_model(torch.float64)[0].state_dict()
    assert all(torch.equal(before[name], expected[name]) for name in before if "model.encoder" in name)
    assert not torch.equal(before["model.decoder.norm.weight"], expected["model.decoder.norm.weight"])


def test_sixteen_bits_are_near(tmp_path):
    (expected, loss), (_, kept_loss) = (
        train(tmp_path / str(dtype), True, dtype) for dtype in (torch.float64, torch.float16)
    )
    assert kept_loss != loss and kept_loss == pytest.approx(loss, rel=1e-3)


def test_states_are_found_again(tmp_path, monkeypatch):
    model, encoder = make_model()
    rows = make_rows()
    first = encode_sources(model, rows, tmp_path)
    calls = []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    again = encode_sources(model, rows, tmp_path)
    assert torch.equal(again.states, first.states) and not calls
    encode_sources(model, rows[::-1], tmp_path)
    encode_sources(model, rows, tmp_path, dtype=torch.float32)
    assert len(calls) == 2
    with torch.no_grad():
        encoder.layers[1].mlp.down_proj.weight.mul_(2)
    assert not torch.equal(encode_sources(model, rows, tmp_path).states, first.states)
    borders = [{"input_ids": rows[0]["input_ids"] + rows[1]["input_ids"]}, *rows[2:]]  # the same tokens in a row
    assert len(encode_sources(model, borders, tmp_path)) == 5 and len(calls) == 4


def test_states_in_half_precision_are_those_of_autocast(tmp_path):
    model, encoder = make_model()
    rows = make_rows()
    plain = encode_sources(model, rows, tmp_path, dtype=torch.float32)
    half = encode_sources(model, rows, tmp_path, dtype=torch.float32, compute_dtype=torch.bfloat16)
    assert not torch.equal(half.states, plain.states)
    torch.testing.assert_close(half.states, plain.states, rtol=0, atol=0.1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        alone = [encoder.eval()(torch.tensor([row["input_ids"]])).last_hidden_state[0].float() for row in rows]
    torch.testing.assert_close(half.states, torch.cat(alone), rtol=0, atol=0.02)


def test_a_killed_run_leaves_no_half(tmp_path, monkeypatch):
    model, encoder = make_model()
    monkeypatch.setattr(encoder, "forward", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        encode_sources(model, make_rows(), tmp_path)
    assert not list(tmp_path.iterdir())


def trained(folder):
    model, encoder = make_model()
    encoder.layers[1].requires_grad_(True)
    encode_sources(model, make_rows(), folder)


def another_model(folder):
    encode_sources(recurrent.tiny_model(), make_rows(), folder)


def no_token(folder):
    encode_sources(make_model()[0], [{"input_ids": []}], folder)


def too_large(folder):
    model, encoder = make_model(encoder={"norm_position": "pre"})
    with torch.no_grad():
        encoder.norm.weight.mul_(1e6)
    encode_sources(model, make_rows(), folder)


def padded_on_the_left(folder):
    model, encoder = make_model()
    rows = encode_sources(model, make_rows(), folder)
    EncodedSourcesCollator(make_collator(model, "left"), encoder.dtype)([rows[0], rows[1]])


def cut_off(folder):
    rows = EncodedSources([{**row, "labels": [3]} for row in make_rows()], torch.zeros(sum(LENGTHS), 16))
    collator = make_collator(None)
    EncodedSourcesCollator(lambda rows: collator([{**row, "input_ids": [5]} for row in rows]), torch.float32)(
        [rows[0]]
    )


ERRORS = {
    trained: "The encoder is trained: 9 of its tensors, as 'layers.1",
    another_model: "A model of the type 'trine_recurrent' has no encoder whose states could be kept: it must be "
    "'trine_seq2seq'.",
    no_token: "1 sources have no token to encode.",
    too_large: "dtype=torch.float16 cannot hold the states, up to ",
    padded_on_the_left: "attention_mask tells [5, 1] tokens, padded on the left: pad on the right.",
    cut_off: "attention_mask tells [1] tokens, but the states of [5] tokens are there: cut nothing off.",
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_is_said(case, tmp_path):
    with pytest.raises(ValueError) as caught:
        case(tmp_path)
    assert str(caught.value).startswith(ERRORS[case])
