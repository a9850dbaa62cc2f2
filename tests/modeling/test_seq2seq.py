"""Encoder-decoders: the loop, T5 itself, caches without windows, ties, and the two tasks that copy and reverse."""

import pytest
import torch
from support import reference
from support.tiny import SIZES, SPARSE, has_deferred_logits, random_ids
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from trine import (
    TrineForConditionalGeneration,
    TrineModel,
    TrineSeq2SeqConfig,
    TrineSeq2SeqForSequenceClassification,
    TrineSeq2SeqModel,
)


TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
POST = {
    "norm_position": "post",
    "norm_type": "layernorm",
    "position_type": "sinusoidal",
    "scale_embedding": True,
    "hidden_act": "relu",
    "gated_mlp": False,
    "mlp_bias": True,
}
T5 = {"position_type": "relative", "hidden_act": "gelu_new", "num_key_value_heads": 4, "norm_eps": 1e-6}
# Fields of the encoder, of the decoder, and of both at once.
MODELS = {
    "transformer": (POST, POST, {}),
    "t5": (T5, T5, {"tie_word_embeddings": False}),
    "scaled": ({**T5, "attention_scale": 1.0}, {**T5, "attention_scale": 0.5}, {"logit_scale": 0.2}),
    "mixed": (
        {"attention_types": "sliding, full", "num_hidden_layers": 3},
        {"attention_types": "chunked, sliding", "position_type": "learned", "hidden_size": 48, "qk_norm": True},
        {"share_embeddings": False},
    ),
    "windows": ({"attention_types": "chunked"}, {"attention_types": "sliding", "sliding_window": 4}, {}),
    "kernelized": ({"attention_types": "linear, performer"}, {"attention_types": "performer, linear"}, {}),
    "blocks": ({"attention_types": "bigbird, lsh"}, {"attention_types": "lsh, bigbird"}, {}),
    "sparse": (SPARSE, {**SPARSE, "router_type": "sigmoid"}, {}),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
TOLERANCES = {"rtol": 1e-5, "atol": 1e-5, "check_dtype": False}  # rotary angles are float32
NEW_TOKENS = 12


def seq2seq_config(name: str, attn: str = "sdpa", **fields) -> TrineSeq2SeqConfig:
    encoder, decoder, shared = MODELS[name]
    return TrineSeq2SeqConfig(
        encoder={**SIZES, **encoder},
        decoder={**SIZES, **TOKENS, **decoder},
        attn_implementation=attn,
        experts_implementation="eager",
        **{**shared, **fields},
    )


def seq2seq_model(name: str, model_class=TrineForConditionalGeneration, attn="sdpa", dtype=torch.float64, **fields):
    """As `tiny_model`: every parameter is random and large, so that errors show."""
    torch.manual_seed(0)
    model = model_class(seq2seq_config(name, attn, **fields)).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0).add_(torch.randn_like(parameter), alpha=0.1)
    return model


def oracle_tensors(model) -> dict[str, torch.Tensor]:
    """Copies that collect gradients, under all the names that a tied tensor has."""
    copies = {id(p): p.detach().double().requires_grad_() for p in model.parameters()}
    tensors = {name: copies[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    return tensors | dict(model.named_buffers())


def sources(side: str = "right") -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Rows of different length, and the padded batch of them."""
    rows = [random_ids(length, seed=length) for length in (13, 5, 9)]
    pads = [(0, 13 - len(row)) if side == "right" else (13 - len(row), 0) for row in rows]
    ids = torch.stack([nn.functional.pad(row, pad) for row, pad in zip(rows, pads, strict=True)])
    mask = torch.stack([nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(rows, pads, strict=True)])
    return rows, {"input_ids": ids, "attention_mask": mask}


@EVERY_MODEL
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_encoder_decoders_equal_the_loop(attn, name):
    """Logits of padded sources, the loss, and in training every gradient."""
    model = seq2seq_model(name, attn=attn)
    rows, inputs = sources()
    labels = random_ids(3, 7, seed=5)
    labels[1, 4:] = -100
    tensors = oracle_tensors(model)
    targets = model.prepare_decoder_input_ids_from_labels(labels)
    assert targets[:, 0].tolist() == [1, 1, 1] and targets[1, 5:].tolist() == [0, 0]
    expected = torch.stack(
        [
            reference.translation_logits(model.config, reference.Weights(tensors), row.tolist(), target.tolist())
            for row, target in zip(rows, targets, strict=True)
        ]
    )
    outputs = model(**inputs, labels=labels)
    torch.testing.assert_close(outputs.logits, expected, **TOLERANCES)
    total, count = reference.cross_entropy(expected.flatten(0, 1), labels.flatten().tolist())
    torch.testing.assert_close(outputs.loss, total / count, **TOLERANCES)
    for stack in (model.config.encoder, model.config.decoder):
        stack.router_aux_loss_coef = 0.0
    trained = model.train()(**inputs, labels=labels)
    assert has_deferred_logits(trained)
    torch.testing.assert_close(trained.loss, total / count, **TOLERANCES)
    trained.loss.backward()
    (total / count).backward()
    for key, parameter in model.named_parameters():
        other = tensors[key].grad if tensors[key].grad is not None else torch.zeros_like(tensors[key])
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


def t5_to_ours(state: dict[str, torch.Tensor], query_scale: float) -> dict[str, torch.Tensor]:
    """T5's weights under our names. T5 does not divide scores by the root of the head size."""
    names = {
        ".block.": ".layers.",
        ".layer.0.SelfAttention.relative_attention_bias": ".RELATIVE",
        ".layer.0.SelfAttention.": ".self_attn.",
        ".layer.0.layer_norm": ".input_layernorm",
        ".layer.1.EncDecAttention.": ".cross_attn.",
        ".final_layer_norm": ".norm",
        "attn.q.": "attn.q_proj.",
        "attn.k.": "attn.k_proj.",
        "attn.v.": "attn.v_proj.",
        "attn.o.": "attn.o_proj.",
        ".DenseReluDense.wi_0": ".gate_proj",
        ".DenseReluDense.wi_1": ".up_proj",
        ".DenseReluDense.wo": ".down_proj",
    }
    moved = {}
    for key, tensor in state.items():
        if key == "shared.weight":
            moved["model.encoder.embed_tokens.weight"] = moved["model.decoder.embed_tokens.weight"] = tensor
            continue
        for theirs, ours in names.items():
            key = key.replace(theirs, ours)
        mlp, between = (".layer.1.", None) if key.startswith("encoder") else (".layer.2.", ".layer.1.layer_norm")
        if between:
            key = key.replace(between, ".cross_attention_layernorm")
        key = key.replace(f"{mlp}layer_norm", ".post_attention_layernorm").replace(mlp[:-1], ".mlp")
        if "RELATIVE" in key:
            key = f"{key.split('.')[0]}.positions.relative_attention_bias.weight"
        if "q_proj" in key:
            tensor = tensor * query_scale
        moved[key if key.startswith("lm_head") else f"model.{key}"] = tensor
    return moved


def test_equal_weights_give_what_t5_gives():
    sizes = {"vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
    config = T5Config(
        **sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False, dropout_rate=0.0, decoder_start_token_id=1
    )
    config.scale_decoder_outputs = False
    torch.manual_seed(0)
    peer = T5ForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.mul_(1.5).add_(torch.randn_like(parameter), alpha=0.05)
    ours = seq2seq_model("t5")
    missing = ours.load_state_dict(t5_to_ours(peer.state_dict(), 8**0.5), strict=False)
    assert not missing.missing_keys and all("embed_tokens" in key for key in missing.unexpected_keys)
    _, inputs = sources()
    labels = random_ids(3, 7, seed=5)
    expected, actual = peer(**inputs, labels=labels), ours(**inputs, labels=labels)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-4, atol=1e-4, check_dtype=False)
    torch.testing.assert_close(actual.loss, expected.loss, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_the_base_transformer_has_the_parameters_that_the_paper_implies():
    """Six encoder layers of 4 attention projections, two norms and the feed-forward; six decoder layers with twice
    the attention and a third norm; one embedding for both vocabularies and the head."""
    width, inner, attention, norm = 512, 2048, 4 * 512 * 512, 2 * 512
    feed_forward = 2 * width * inner + inner + width
    expected = (
        37000 * width + 6 * (attention + 2 * norm + feed_forward) + 6 * (2 * attention + 3 * norm + feed_forward)
    )
    with torch.device("meta"):
        model = TrineForConditionalGeneration(TrineSeq2SeqConfig.from_preset("transformer-base"))
    assert model.num_parameters() == expected


def test_overrides_reach_both_stacks_or_one():
    config = TrineSeq2SeqConfig.from_preset(
        "transformer-base", vocab_size=100, hidden_size=64, encoder={"num_hidden_layers": 3}, tie_word_embeddings=False
    )
    assert (config.vocab_size, config.encoder.vocab_size, config.decoder.hidden_size) == (100, 100, 64)
    assert (config.encoder.num_hidden_layers, config.decoder.num_hidden_layers) == (3, 6)
    assert not config.tie_word_embeddings and config.decoder.cross_attention_hidden_size == 64
    assert config.encoder.is_causal is False and config.decoder.is_causal is True


# Generation


def generate(model, inputs, seed: int = 0, **settings):
    torch.manual_seed(seed)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, **settings}
    return model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **settings)


def assert_same(actual, expected) -> None:
    assert actual.sequences.tolist() == expected.sequences.tolist()
    for step, other in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, other, **TOLERANCES)


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 2.0, "top_k": 20, "top_p": 0.9},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.6},
    "beam_sampling": {"num_beams": 3, "do_sample": True, "temperature": 2.0},
}


@EVERY_MODEL
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", MODES)
def test_cached_equals_uncached(mode, side, name):
    """Sources are longer than the decoder's windows, which the cross-attention's cache must not inherit."""
    model, (_, inputs) = seq2seq_model(name), sources(side)
    assert_same(generate(model, inputs, **MODES[mode]), generate(model, inputs, use_cache=False, **MODES[mode]))


@EVERY_MODEL
def test_static_cache_equals_uncached(name):
    model, (_, inputs) = seq2seq_model(name), sources()
    static = generate(model, inputs, cache_implementation="static")
    assert type(static.past_key_values.self_attention_cache).__name__ == "StaticCache"
    assert_same(static, generate(model, inputs, use_cache=False))


@EVERY_MODEL
def test_a_padded_source_equals_the_source_alone(name):
    model, (rows, inputs) = seq2seq_model(name), sources()
    batch = generate(model, inputs).sequences
    for row, tokens in zip(rows, batch, strict=True):
        assert generate(model, {"input_ids": row[None]}).sequences[0].tolist() == tokens.tolist()


@pytest.mark.parametrize("name", ["transformer", "windows"])
def test_assistants_and_prompt_lookup_change_nothing(name):
    model, inputs = seq2seq_model(name), {"input_ids": random_ids(1, 13)}
    expected = generate(model, inputs, use_cache=False)
    assert_same(generate(model, inputs, prompt_lookup_num_tokens=3), expected)
    assistant = seq2seq_model(name)
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    assert_same(generate(model, inputs, assistant_model=assistant), expected)


def test_the_encoder_runs_once_a_generation():
    model, (_, inputs) = seq2seq_model("transformer"), sources()
    runs = []
    model.get_encoder().register_forward_hook(lambda *args: runs.append(1))
    generate(model, inputs)
    assert len(runs) == 1


# Saving, ties, sizes


@EVERY_MODEL
def test_saved_and_loaded_models_are_identical(name, tmp_path):
    model, (_, inputs) = seq2seq_model(name, dtype=torch.float32), sources()
    model.save_pretrained(tmp_path)
    options = {"attn_implementation": "sdpa", "experts_implementation": "eager"}
    loaded, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True, **options)
    assert type(loaded) is TrineForConditionalGeneration and not info["missing_keys"] and not info["unexpected_keys"]
    labels = random_ids(3, 7)
    assert torch.equal(loaded(**inputs, labels=labels).logits, model(**inputs, labels=labels).logits)
    config = model.config
    encoder, decoder = loaded.model.encoder.embed_tokens.weight, loaded.model.decoder.embed_tokens.weight
    assert (encoder is decoder) == config.share_embeddings
    assert (loaded.lm_head.weight is decoder) == config.tie_word_embeddings
    assert type(AutoModel.from_pretrained(tmp_path)) is TrineSeq2SeqModel


@EVERY_MODEL
def test_the_encoder_is_a_model_of_its_own(name, tmp_path):
    model, (_, inputs) = seq2seq_model(name, dtype=torch.float32), sources()
    model.get_encoder().save_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path, attn_implementation="sdpa", experts_implementation="eager")
    assert type(encoder) is TrineModel and encoder.config.is_causal is False
    assert torch.equal(encoder(**inputs).last_hidden_state, model.get_encoder()(**inputs).last_hidden_state)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("size", [70, 50])
def test_resizing_reaches_both_stacks_and_the_head(size, share, tmp_path):
    model = seq2seq_model("transformer", dtype=torch.float32, share_embeddings=share)
    model.resize_token_embeddings(size)
    config = model.config
    assert config.vocab_size == config.encoder.vocab_size == config.decoder.vocab_size == size
    assert model.lm_head.weight.shape[0] == model.model.encoder.embed_tokens.weight.shape[0] == size
    assert model.model.decoder.embed_tokens.weight is model.lm_head.weight
    assert (model.model.encoder.embed_tokens.weight is model.lm_head.weight) == share
    ids = torch.full((1, 4), size - 1)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, attn_implementation="sdpa")
    assert torch.equal(loaded(ids, labels=ids).logits, model(ids, labels=ids).logits)


def test_both_stacks_balance_their_experts():
    model, (_, inputs) = seq2seq_model("sparse").train(), sources()
    labels = random_ids(3, 7)
    outputs = model(**inputs, labels=labels, output_router_logits=True)
    assert len(outputs.encoder_router_logits) == len(outputs.decoder_router_logits) == 2
    for stack in (model.config.encoder, model.config.decoder):
        stack.router_aux_loss_coef = 0.0
    plain = model(**inputs, labels=labels)
    assert plain.decoder_router_logits is None
    torch.testing.assert_close(outputs.loss, plain.loss + 0.01 * 2 * outputs.aux_loss)


def test_hidden_states_and_attentions_of_both_sides_are_recorded():
    model, (_, inputs) = seq2seq_model("mixed", attn="eager"), sources()
    outputs = model(**inputs, labels=random_ids(3, 7), output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in outputs.encoder_hidden_states] == [(3, 13, 32)] * 4
    assert [state.shape for state in outputs.decoder_hidden_states] == [(3, 7, 48)] * 3
    assert [weights.shape for weights in outputs.encoder_attentions] == [(3, 4, 13, 13)] * 3
    assert [weights.shape for weights in outputs.decoder_attentions] == [(3, 4, 7, 7)] * 2
    assert [weights.shape for weights in outputs.cross_attentions] == [(3, 4, 7, 13)] * 2
    padding = inputs["attention_mask"][:, None, None] == 0
    assert all((weights.masked_select(padding) == 0).all() for weights in outputs.cross_attentions)


def test_texts_are_classified_by_the_last_token_of_the_decoder():
    model = seq2seq_model("mixed", TrineSeq2SeqForSequenceClassification, num_labels=5, share_embeddings=False)
    rows, inputs = sources()
    outputs = model(**inputs, labels=torch.tensor([0, 3, 4]))
    weights = reference.Weights(oracle_tensors(model))["model"]
    for row, actual in zip(rows, outputs.logits, strict=True):
        memory = reference.trunk(model.config.encoder, weights["encoder"], row.tolist())
        states = reference.trunk(model.config.decoder, weights["decoder"], row.tolist(), source=memory)
        torch.testing.assert_close(actual, model.classifier(states[-1]), **TOLERANCES)
    loss = nn.functional.cross_entropy(outputs.logits, torch.tensor([0, 3, 4]))
    torch.testing.assert_close(outputs.loss, loss, **TOLERANCES)


@pytest.mark.slow
def test_reversing_is_learned_exactly():
    """Sequences of 4 to 8 tokens that were never seen in training come out right, every one of 200."""
    torch.manual_seed(0)
    stack = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = TrineSeq2SeqConfig.from_preset("transformer-base", vocab_size=20, **stack, hidden_dropout=0.0)
    model = TrineForConditionalGeneration(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 100))

    def batch(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(4, 9, (size,), generator=generator)
        ids, labels = torch.zeros(size, 9, dtype=torch.long), torch.full((size, 9), -100)
        for row, length in enumerate(lengths.tolist()):
            tokens = torch.randint(3, 20, (length,), generator=generator)
            ids[row, :length] = tokens
            labels[row, :length] = tokens.flip(0)
            labels[row, length] = 2
        return ids, (ids != 0).long(), labels

    for step in range(600):
        ids, mask, labels = batch(64, step)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    ids, mask, labels = batch(200, 10**6)
    outputs = model.eval().generate(input_ids=ids, attention_mask=mask, max_new_tokens=9, do_sample=False)[:, 1:]
    outputs = nn.functional.pad(outputs, (0, 9 - outputs.shape[1]))
    assert torch.equal(outputs * (labels != -100), labels.clamp(min=0))
