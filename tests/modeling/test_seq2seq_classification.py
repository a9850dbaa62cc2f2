"""Classes of tokens and spans on an encoder-decoder: the loop, T5 itself, padding, experts, and checkpoints."""

import pytest
import torch
from safetensors import safe_open
from support import reference
from support.tiny import SIZES, SPARSE, random_ids
from torch import nn
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    T5Config,
    T5ForQuestionAnswering,
    T5ForTokenClassification,
    T5Model,
    pipeline,
)

from trine import (
    TrineForConditionalGeneration,
    TrineSeq2SeqConfig,
    TrineSeq2SeqForQuestionAnswering,
    TrineSeq2SeqForTokenClassification,
    TrineSeq2SeqModel,
    convert,
    train_wordpiece,
)


HEADS = (TrineSeq2SeqForTokenClassification, TrineSeq2SeqForQuestionAnswering)
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = {"attention_types": "sliding, full", "classifier_transform": True}
DECODER = {"attention_types": "chunked, sliding", "hidden_size": 48, "position_type": "learned"}
TOLERANCES = {"rtol": 1e-5, "atol": 1e-5, "check_dtype": False}  # rotary angles are float32


def two_sizes(head, encoder=ENCODER, decoder=DECODER, **fields):
    """A head on random stacks of different widths, in float64."""
    torch.manual_seed(0)
    config = TrineSeq2SeqConfig(
        encoder={**SIZES, **encoder},
        decoder={**SIZES, **TOKENS, **decoder},
        share_embeddings=False,
        num_labels=5,
        experts_implementation="eager",
        **fields,
    )
    model = head(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0).add_(torch.randn_like(parameter), alpha=0.1)
    return model


def padded(rows: list[torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    """Rows as a batch, padded by something that is no padding token, so that only the mask tells."""
    length = max(map(len, rows))
    pads = [(0, length - len(row)) if side == "right" else (length - len(row), 0) for row in rows]
    pairs = list(zip(rows, pads, strict=True))
    return {
        "input_ids": torch.stack([nn.functional.pad(row, pad, value=7) for row, pad in pairs]),
        "attention_mask": torch.stack([nn.functional.pad(torch.ones_like(row), pad) for row, pad in pairs]),
    }


def of_row(values: torch.Tensor, row: int, length: int, side: str) -> torch.Tensor:
    return values[row, :length] if side == "right" else values[row, values.shape[1] - length :]


def weights_of(model):
    return reference.Weights({**dict(model.named_parameters()), **dict(model.named_buffers())})["model"]


ROWS = [random_ids(length, seed=length) for length in (13, 1, 9)]
SIDES = pytest.mark.parametrize("side", ["left", "right"])


@SIDES
@torch.no_grad()
def test_tokens_are_classified_by_the_encoder(side):
    model = two_sizes(TrineSeq2SeqForTokenClassification)
    inputs = padded(ROWS, side)
    labels = (inputs["input_ids"] % 5).masked_fill(inputs["attention_mask"] == 0, -100)
    outputs = model(**inputs, labels=labels)
    assert outputs.logits.shape == (3, 13, 5)
    expected = []
    for index, row in enumerate(ROWS):
        states = reference.trunk(model.config.encoder, weights_of(model)["encoder"], row.tolist())
        expected.append(model.classifier(model.transform(states)))
        torch.testing.assert_close(of_row(outputs.logits, index, len(row), side), expected[-1], **TOLERANCES)
    total, count = reference.cross_entropy(torch.cat(expected), (torch.cat(ROWS) % 5).tolist())
    torch.testing.assert_close(outputs.loss, total / count, **TOLERANCES)


@SIDES
@torch.no_grad()
def test_spans_are_found_by_the_decoder_after_the_start_token(side):
    model = two_sizes(TrineSeq2SeqForQuestionAnswering)
    outputs = model(**padded(ROWS, side))
    for index, row in enumerate(ROWS):
        weights, target = weights_of(model), [1, *row[:-1].tolist()]
        memory = reference.trunk(model.config.encoder, weights["encoder"], row.tolist())
        states = reference.trunk(model.config.decoder, weights["decoder"], target, source=memory)
        for column, logits in enumerate((outputs.start_logits, outputs.end_logits)):
            expected = model.qa_outputs(states)[:, column]
            torch.testing.assert_close(of_row(logits, index, len(row), side), expected, **TOLERANCES)


@torch.no_grad()
def test_the_losses_of_both_ends_are_averaged():
    model = two_sizes(TrineSeq2SeqForQuestionAnswering)
    outputs = model(
        random_ids(3, 6), start_positions=torch.tensor([1, 0, 9]), end_positions=torch.tensor([5, -100, 2])
    )
    start, start_count = reference.cross_entropy(outputs.start_logits, [1, 0, -100])
    end, end_count = reference.cross_entropy(outputs.end_logits, [5, -100, 2])
    assert (start_count, end_count) == (2, 2)
    torch.testing.assert_close(outputs.loss, (start / 2 + end / 2) / 2, **TOLERANCES)


@torch.no_grad()
def test_what_the_decoder_reads_may_be_given():
    model, ids = two_sizes(TrineSeq2SeqForQuestionAnswering), random_ids(2, 6)
    shifted = torch.cat([torch.tensor([[1], [1]]), ids[:, :-1]], dim=1)
    expected = model(ids)
    embedded = {
        "inputs_embeds": model.get_input_embeddings()(ids),
        "decoder_inputs_embeds": model.get_decoder().embed_tokens(shifted),
    }
    for inputs in ({"input_ids": ids, "decoder_input_ids": shifted}, embedded):
        torch.testing.assert_close(model(**inputs).end_logits, expected.end_logits)
    assert model(ids, decoder_input_ids=shifted[:, :4]).start_logits.shape == (2, 4)


T5 = T5Config(
    **{"vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0},
    **{"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0, "classifier_dropout": 0.0},
    num_labels=2,
)
PEERS = {
    TrineSeq2SeqForTokenClassification: (T5ForTokenClassification, "transformer.", {"labels": random_ids(3, 8) % 2}),
    TrineSeq2SeqForQuestionAnswering: (
        T5ForQuestionAnswering,
        "",
        {"start_positions": torch.tensor([0, 3, 9]), "end_positions": torch.tensor([4, 7, 1])},
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_t5_with_the_same_weights_computes_the_same(head, tmp_path):
    """The trunk comes by way of a conversion, the classifier is copied."""
    torch.manual_seed(0)
    trunk = T5Model(T5).eval()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    peer_class, prefix, labels = PEERS[head]
    peer = peer_class(T5).eval()
    loaded = peer.load_state_dict({prefix + name: weight for name, weight in trunk.state_dict().items()}, strict=False)
    assert all(name.startswith(("classifier", "qa_outputs")) for name in loaded.missing_keys)
    trunk.save_pretrained(tmp_path / "t5")
    convert(tmp_path / "t5", tmp_path / "trine")
    model = head.from_pretrained(tmp_path / "trine", num_labels=2, classifier_dropout=0.0).eval()
    name = "classifier" if hasattr(model, "classifier") else "qa_outputs"
    getattr(model, name).load_state_dict(getattr(peer, name).state_dict())
    ids, mask = random_ids(3, 8, seed=1), torch.ones(3, 8, dtype=torch.long)
    mask[1, 5:] = 0
    expected, outputs = (net(input_ids=ids, attention_mask=mask) for net in (peer, model))
    assert expected.keys() - {"past_key_values"} <= outputs.keys()
    for key in [key for key in expected if key.endswith("logits")]:
        torch.testing.assert_close(outputs[key][mask == 1], expected[key][mask == 1], rtol=1e-4, atol=1e-5)
    losses = [net(input_ids=ids, **labels).loss for net in (model, peer)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


@pytest.mark.parametrize("share", [True, False])
def test_a_checkpoint_with_a_decoder_gives_the_encoder_of_the_token_head(share, tmp_path):
    """No decoder is made, and none is missed; shared embeddings stand under the decoder's name in every checkpoint."""
    torch.manual_seed(0)
    config = TrineSeq2SeqConfig(encoder=SIZES, decoder={**SIZES, **TOKENS}, share_embeddings=share)
    source = TrineForConditionalGeneration(config).eval()
    source.save_pretrained(tmp_path / "source")
    model, report = AutoModelForTokenClassification.from_pretrained(tmp_path / "source", output_loading_info=True)
    assert type(model) is TrineSeq2SeqForTokenClassification
    assert report["missing_keys"] == {"classifier.weight", "classifier.bias"} and not report["unexpected_keys"]
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model, source.get_encoder(), model.classifier)]
    assert sizes[0] == sizes[1] + sizes[2]
    ids = random_ids(2, 7)
    states = source.get_encoder()(ids).last_hidden_state
    torch.testing.assert_close(model.eval()(ids).logits, model.classifier(states))

    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path / "tagger")
    with safe_open(tmp_path / "tagger/model.safetensors", "pt") as file:
        tables = [name for name in file.keys() if "embed_tokens" in name]  # noqa: SIM118 it is no dictionary
    assert tables == [f"model.{'decoder' if share else 'encoder'}.embed_tokens.weight"]
    again, report = AutoModelForTokenClassification.from_pretrained(tmp_path / "tagger", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and again.config.vocab_size == 70
    assert torch.equal(again.eval()(ids).logits, model(ids).logits)
    trunk = TrineSeq2SeqModel.from_pretrained(tmp_path / "tagger").eval()
    assert torch.equal(trunk(ids).last_hidden_state, again.model(ids).last_hidden_state)


@pytest.mark.parametrize("share", [True, False])
def test_new_embeddings_are_those_of_the_encoder_without_a_decoder(share):
    config = TrineSeq2SeqConfig(encoder=SIZES, decoder={**SIZES, **TOKENS}, share_embeddings=share)
    model = TrineSeq2SeqForTokenClassification(config)
    table = nn.Embedding(61, 32)
    model.set_input_embeddings(table)
    model.tie_weights()
    assert model.get_input_embeddings().weight is table.weight and model.model.encoder.embed_tokens is table


@pytest.mark.parametrize("head", HEADS)
def test_experts_are_balanced_in_training(head):
    """The router losses of the stacks that are run are added, and every parameter of the model has a gradient."""
    model = two_sizes(head, SPARSE, {**SPARSE, "router_aux_loss_coef": 0.5}, classifier_dropout=0.0)
    ids = random_ids(3, 6)
    labels = (
        {"labels": ids % 5} if head is HEADS[0] else {"start_positions": ids[:, 0] % 6, "end_positions": ids[:, 1] % 6}
    )
    plain = model(ids, **labels)
    assert plain.aux_loss is None
    asked = model(ids, **labels, output_router_logits=True)
    trained = model.train()(ids, **labels)
    if head is HEADS[0]:
        assert len(asked.router_logits) == 2 and trained.router_logits is None
        added = model.config.encoder.router_aux_loss_coef * asked.aux_loss
        torch.testing.assert_close(trained.loss, plain.loss + added, **TOLERANCES)
    else:
        assert len(asked.encoder_router_logits) == len(asked.decoder_router_logits) == 2
        assert trained.loss > plain.loss and trained.decoder_router_logits is None
    trained.loss.backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == []


def test_what_is_recorded_of_the_encoder():
    model = two_sizes(TrineSeq2SeqForTokenClassification, attn_implementation="eager")
    outputs = model(random_ids(2, 6), output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in outputs.hidden_states] == [(2, 6, 32)] * 3
    assert [weights.shape for weights in outputs.attentions] == [(2, 4, 6, 6)] * 2
    again = model(encoder_outputs=(outputs.hidden_states[-1],))
    assert torch.equal(again.logits, outputs.logits)


def test_errors():
    ids = random_ids(2, 6)
    tagger, finder = (two_sizes(head) for head in HEADS)
    with pytest.raises(ValueError, match="There is no decoder: decoder_input_ids and decoder_inputs_embeds cannot"):
        tagger(ids, decoder_input_ids=ids)
    with pytest.raises(
        ValueError, match="One of decoder_input_ids, decoder_inputs_embeds and input_ids must be given"
    ):
        finder(inputs_embeds=finder.get_input_embeddings()(ids))
    finder.config.decoder_start_token_id = None
    with pytest.raises(
        ValueError, match="decoder_start_token_id=None is needed to make decoder_input_ids from input_"
    ):
        finder(ids)


def test_spans_of_a_saved_model(tmp_path):
    model, ids = two_sizes(TrineSeq2SeqForQuestionAnswering).float(), random_ids(2, 6)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert type(loaded) is TrineSeq2SeqForQuestionAnswering
    torch.testing.assert_close(loaded(ids).start_logits, model(ids).start_logits)


@torch.no_grad()
def test_the_pipeline_of_taggers(tmp_path):
    text = "the quick brown fox"
    tokenizer = train_wordpiece([text] * 5, 120, show_progress=False, model_max_length=64)
    stack = {**SIZES, **TOKENS, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = TrineSeq2SeqConfig(encoder=stack, decoder=stack, num_labels=3)
    tagger = TrineSeq2SeqForTokenClassification(config).eval()
    rows = pipeline("token-classification", model=tagger, tokenizer=tokenizer)(text)
    states = tagger.get_encoder()(tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state[0]
    expected = {index: f"LABEL_{label}" for index, label in enumerate(tagger.classifier(states).argmax(dim=-1))}
    assert len(rows) > 3 and {row["index"]: row["entity"] for row in rows}.items() <= expected.items()
