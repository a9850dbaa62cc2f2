"""The table of next tokens is the softmax of the last logits, in batches too, and is refused where there is none."""

import io

import pytest
import torch
from support.tiny import MIXED, tiny_model
from support.translators import BOS, tiny_translator
from transformers import AutoTokenizer

from trine import TrineForMaskedLM, train_byte_level_bpe
from trine.generation.ensembles.model import Ensemble
from trine.inspection.next_tokens import next_token_probabilities
from trine.scripts import next_tokens


TEXTS = ["the cat sat on the mat", "a", "what the cat saw 猫"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(TEXTS, vocab_size=300, show_progress=False)


def model_for(name: str, tokenizer):
    tokens = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if name == "decoder":
        return tiny_model(vocab_size=len(tokenizer), **MIXED, **tokens)
    return tiny_translator(name, vocab_size=len(tokenizer))


def expected(model, tokenizer, text: str) -> torch.Tensor:
    """Probabilities after one text, from the forward pass of that text alone."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(ids, decoder_input_ids=torch.tensor([[BOS]])).logits[0, 0].softmax(-1)
        return model(ids).logits[0, -1].softmax(-1)


@pytest.mark.parametrize("name", ["decoder", "transformer", "recurrent"])
def test_rows_are_the_best_of_the_softmax(name, tokenizer):
    model = model_for(name, tokenizer)
    tables = next_token_probabilities(model, tokenizer, TEXTS, k=7)
    assert [len(table) for table in tables] == [7] * 3
    for text, table in zip(TEXTS, tables, strict=True):
        probabilities = expected(model, tokenizer, text)
        assert [row.id for row in table] == probabilities.argsort(descending=True)[:7].tolist()
        for row in table:
            assert row.probability == pytest.approx(probabilities[row.id].item(), rel=1e-6)
        alone = next_token_probabilities(model, tokenizer, text, k=7)
        assert [row.id for row in alone] == [row.id for row in table]


def test_all_tokens_together_have_probability_one(tokenizer):
    rows = next_token_probabilities(model_for("decoder", tokenizer), tokenizer, "the", k=len(tokenizer))
    assert sum(row.probability for row in rows) == pytest.approx(1.0)
    spelled = {row.id: row.token for row in rows}
    (cat,) = tokenizer(" cat", add_special_tokens=False)["input_ids"]
    assert spelled[cat] == " cat"
    assert len(set(spelled.values())) == len(tokenizer), "parts of characters have names of their own"


def test_an_empty_text_begins_with_the_first_token(tokenizer):
    model = model_for("decoder", tokenizer)
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.bos_token_id]])).logits[0, -1]
    assert next_token_probabilities(model, tokenizer, "", k=1)[0].id == logits.argmax()


def test_dropout_is_off_and_the_mode_is_kept(tokenizer):
    model = tiny_model(vocab_size=len(tokenizer), hidden_dropout=0.5).train()
    first, second = (next_token_probabilities(model, tokenizer, "the cat") for _ in range(2))
    assert first == second and model.training


def test_an_ensemble_has_a_table_too(tokenizer):
    members = [
        model_for("decoder", tokenizer),
        tiny_model(vocab_size=len(tokenizer), seed=3, bos_token_id=1, pad_token_id=0),
    ]
    members[1].generation_config = members[0].generation_config
    best = next_token_probabilities(Ensemble(members), tokenizer, TEXTS[0], k=1)[0]
    mean = sum(expected(member, tokenizer, TEXTS[0]) for member in members) / 2
    assert best.id == mean.argmax() and best.probability == pytest.approx(mean.max().item(), rel=1e-6)


class Silent:
    """A tokenizer that has no tokens for anything, and none to begin with."""

    bos_token = None

    def __call__(self, text, **settings):
        return {"input_ids": []}


ERRORS = {
    "k": (lambda model, t: next_token_probabilities(model, t, "a", k=0), "k=0 must be a number from 1 to vocab_size="),
    "many": (
        lambda model, t: next_token_probabilities(model, t, "a", k=10_000),
        "k=10000 must be a number from 1 to vocab_size=",
    ),
    "none": (lambda model, t: next_token_probabilities(model, t, []), "text is an empty list."),
    "empty": (
        lambda model, t: next_token_probabilities(model, Silent(), ["a", ""]),
        "text[1] is empty, and the tokenizer has no bos_token to begin with.",
    ),
    "no tokens": (lambda model, t: next_token_probabilities(model, Silent(), ["a"]), "text[0] has no tokens."),
    "masked": (
        lambda model, t: next_token_probabilities(tiny_model(TrineForMaskedLM, is_causal=False), t, "a"),
        "TrineForMaskedLM predicts no next token. For tokens behind a mask there is pipeline('fill-mask').",
    ),
    "both sides": (
        lambda model, t: next_token_probabilities(reading_both_sides(t), t, "a"),
        "TrineForConditionalGeneration predicts no next token.",
    ),
    "start": (
        lambda model, t: next_token_probabilities(without_a_start(t), t, "a"),
        "decoder_start_token_id=None and bos_token_id=None: nothing begins the target.",
    ),
}


def reading_both_sides(tokenizer):
    model = model_for("transformer", tokenizer)
    model.config.decoder_is_causal = False
    return model


def without_a_start(tokenizer):
    model = model_for("transformer", tokenizer)
    model.generation_config.decoder_start_token_id = model.generation_config.bos_token_id = None
    return model


@pytest.mark.parametrize("case", ERRORS)
def test_bad_requests_are_named(case, tokenizer):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as caught:
        call(model_for("decoder", tokenizer), tokenizer)
    assert str(caught.value).startswith(message)


# The script


@pytest.fixture(scope="module", params=["decoder", "transformer"])
def folder(request, tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp(request.param)
    model_for(request.param, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_script_prints_a_table_for_each_prompt(folder, tokenizer, capsys):
    next_tokens.main(["--model", str(folder), "--text", "the cat", "a", "--k", "3"])
    first, second = capsys.readouterr().out.split("\n\n")[:2]
    assert first.startswith("after 'the cat':\n") and second.startswith("after 'a':\n")
    kind = "transformer" if "transformer" in folder.name else "decoder"
    rows = next_token_probabilities(model_for(kind, tokenizer), AutoTokenizer.from_pretrained(folder), "the cat", k=3)
    for line, row in zip(first.splitlines()[1:], rows, strict=True):
        assert line.startswith(repr(row.token)) and f" {row.id} " in line and f"{row.probability:.3%}" in line


def test_the_script_reads_standard_input(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\n"))
    next_tokens.main(["--model", str(folder), "--k", "3"])
    read = capsys.readouterr().out
    next_tokens.main(["--model", str(folder), "--text", "the cat", "--k", "3"])
    assert read == capsys.readouterr().out


def test_the_script_names_errors(folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match="trine next-tokens: k=999 must be a number from 1 to vocab_size="):
        next_tokens.main(["--model", str(folder), "--text", "a", "--k", "999"])
    with pytest.raises(SystemExit, match="trine next-tokens: "):
        next_tokens.main(["--model", str(tmp_path), "--text", "a"])
    with pytest.raises(SystemExit):
        next_tokens.main(["--model", str(folder), "--text", "a", "--k", "0"])
    assert "k=0 must be at least 1." in capsys.readouterr().err


def test_the_script_refuses_an_encoder(tmp_path, tokenizer):
    tiny_model(TrineForMaskedLM, is_causal=False, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        SystemExit, match="is_causal=False describes an encoder; TrineForCausalLM needs is_causal=True"
    ):
        next_tokens.main(["--model", str(tmp_path), "--text", "a"])
