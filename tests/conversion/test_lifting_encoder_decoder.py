"""Encoders get decoders, of their own layers or given ones."""

from copy import deepcopy

import pytest
import torch
from support.encoders import MORE, encoder
from support.tiny import random_ids, tiny_model

from trine import TrineForCausalLM, lift, train_wordpiece
from trine.conversion.lifts.change import largest_change
from trine.conversion.lifts.layers import choose_layers


@pytest.mark.parametrize("cross_attention", ["self", "zero"])
@pytest.mark.parametrize("fields", [{}, {"norm_position": "pre", "attention_types": "sliding, simplicial"}])
def test_an_encoder_keeps_its_states_behind_a_decoder_of_its_own_layers(fields, cross_attention):
    model = encoder(**fields)
    lifted = lift(model, "encoder_decoder", cross_attention=cross_attention, **MORE)
    assert largest_change(model, lifted) == 0.0
    assert lifted.lm_head.weight is lifted.model.encoder.embed_tokens.weight
    assert lifted.config.decoder.is_causal and not lifted.config.encoder.is_causal
    ids, other = random_ids(2, 9), random_ids(2, 5)
    states = lifted.get_encoder()(ids).last_hidden_state
    torch.testing.assert_close(states, model(ids).last_hidden_state, rtol=0, atol=0)
    logits = lifted(input_ids=ids, decoder_input_ids=other).logits
    reads_source = not torch.equal(lifted(input_ids=ids.flip(0), decoder_input_ids=other).logits, logits)
    assert reads_source == (cross_attention == "self")
    prefix = lifted(input_ids=ids, decoder_input_ids=other[:, :3]).logits
    torch.testing.assert_close(prefix, logits[:, :3], rtol=0, atol=1e-10)  # the decoder is causal
    weights = lifted.state_dict()
    for name, tensor in model.state_dict().items():
        if "pooler" not in name:
            assert torch.equal(weights[f"model.decoder.{name}"], tensor)


def test_cross_attention_begins_as_self_attention():
    model = encoder(norm_position="pre", qk_norm=True)
    lifted = lift(model, "encoder_decoder", **MORE)
    cross, self_attention = lifted.model.decoder.layers[1].cross_attn, model.layers[1].self_attn
    ids = random_ids(1, 6)
    states = model(ids).last_hidden_state
    kwargs = {"position_embeddings": None}
    torch.testing.assert_close(cross(states, states)[0], self_attention(states, **kwargs)[0])


def test_it_writes_as_a_language_model_does_and_trains_on():
    lifted = lift(encoder().float(), "encoder_decoder", **MORE).train()
    assert lifted.generation_config.eos_token_id == 2 and lifted.generation_config.decoder_start_token_id == 1
    optimizer, losses, ids = torch.optim.Adam(lifted.parameters(), lr=1e-3), [], random_ids(4, 6)
    for _ in range(5):
        loss = lifted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert all(p.grad is not None for name, p in lifted.named_parameters() if "cross_attn" in name)
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    assert lifted.eval().generate(ids, max_new_tokens=3, do_sample=False)[:, 0].tolist() == [1] * 4


@pytest.mark.parametrize("fields", [{}, {"attention_types": "linear, lsh", "tie_word_embeddings": False}])
def test_a_given_decoder_keeps_its_logits_whatever_the_source(fields, tmp_path):
    model, decoder = encoder(), tiny_model(hidden_size=24, head_dim=6, vocab_size=50, **fields)
    lifted = lift(model, "encoder_decoder", decoder=decoder, **MORE)
    assert largest_change(model, lifted) == 0.0 and largest_change(decoder, lifted) <= 1e-12
    settings = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": 2, "pad_token_id": 0}
    start = torch.tensor([[1]])  # what it begins with behind the encoder
    expected = decoder.generate(start, **settings)
    actual = lifted.generate(random_ids(1, 5), **settings)
    assert torch.equal(actual, expected)
    decoder.save_pretrained(tmp_path)
    from_folder = lift(model, "encoder_decoder", decoder=str(tmp_path), **MORE)
    weights = from_folder.state_dict()
    name = "model.decoder.layers.0.self_attn.q_proj.weight"
    assert torch.equal(weights[name], lifted.state_dict()[name]) and weights[name].dtype == torch.float64


def test_a_given_decoder_can_copy_its_self_attention():
    decoder = tiny_model(attention_types="full")
    cross = lift(encoder(), "encoder_decoder", decoder=decoder, cross_attention="self", **MORE).model.decoder.layers
    for layer, source in zip(cross, decoder.model.layers, strict=True):
        assert torch.equal(layer.cross_attn.v_proj.weight, source.self_attn.v_proj.weight)


def test_relative_positions_of_earlier_keys_stay():
    model = encoder(position_type="relative", norm_position="pre")
    decoder = lift(model, "encoder_decoder", **MORE).model.decoder
    indices = torch.arange(60)
    before, after = (trunk.positions.bias(indices, indices)[0] for trunk in (model, decoder))
    assert decoder.config.relative_attention_num_buckets == 16
    assert torch.equal(before.tril(), after.tril()) and not torch.equal(before, after)


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_an_encoder_keeps_its_first_layers_and_the_decoder_has_any(norm_position):
    """The states are those that the whole encoder has after these layers, before its last norm."""
    model = encoder(norm_position=norm_position, num_hidden_layers=4, attention_types="full*2, sliding*2")
    lifted = lift(model, "encoder_decoder", encoder_layers=2, decoder_layers=3, **MORE)
    ids = random_ids(2, 9)
    states = lifted.get_encoder()(ids).last_hidden_state
    assert torch.equal(states, model.norm(model(ids, output_hidden_states=True).hidden_states[2]))
    assert lifted.config.encoder.attention_types == ["full"] * 2 and lifted.config.encoder.sliding_window is None
    assert lifted.config.decoder.attention_types == ["full", "sliding", "sliding"]
    for layer, source in zip(lifted.model.decoder.layers, (0, 2, 3), strict=True):
        assert torch.equal(layer.self_attn.q_proj.weight, model.layers[source].self_attn.q_proj.weight)
        assert torch.equal(layer.cross_attn.q_proj.weight, model.layers[source].self_attn.q_proj.weight)


@pytest.mark.parametrize(("number", "chosen"), [(1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4])])
def test_layers_are_spread_evenly(number, chosen):
    assert choose_layers("decoder_layers", number, None, 5) == chosen


def test_both_stacks_share_a_table_unless_their_tables_differ():
    model = encoder()
    decoder = TrineForCausalLM(deepcopy(tiny_model(add_pooling_layer=False).config)).double()
    assert not lift(model, "encoder_decoder", decoder=decoder, **MORE).config.share_embeddings
    decoder.model.embed_tokens.weight.data = model.embed_tokens.weight.data.clone()
    lifted = lift(model, "encoder_decoder", decoder=decoder, **MORE)
    assert lifted.model.decoder.embed_tokens.weight is lifted.model.encoder.embed_tokens.weight
    lifted = lift(model, "encoder_decoder", share_embeddings=False, **MORE)
    tables = [stack.embed_tokens.weight for stack in (lifted.model.encoder, lifted.model.decoder)]
    assert tables[0] is not tables[1] and torch.equal(*tables)


def test_a_head_of_its_own_begins_as_the_table():
    model, ids = encoder(), random_ids(2, 9)
    tied, own = (lift(model, "encoder_decoder", tie_word_embeddings=tie, **MORE) for tie in (None, False))
    assert own.lm_head.weight is not own.model.decoder.embed_tokens.weight
    assert own.model.decoder.embed_tokens.weight is own.model.encoder.embed_tokens.weight
    inputs = {"input_ids": ids, "decoder_input_ids": ids}
    assert torch.equal(own(**inputs).logits, tied(**inputs).logits)
    decoder = TrineForCausalLM(deepcopy(tiny_model().config)).double()
    lifted = lift(model, "encoder_decoder", decoder=decoder, tie_word_embeddings=False, **MORE)
    assert largest_change(decoder, lifted) == 0.0 and not lifted.config.tie_word_embeddings


def test_ids_are_those_of_the_tokenizer_where_they_are_not_given():
    tokenizer = train_wordpiece(["some words"], vocab_size=120, show_progress=False)
    lifted = lift(encoder(vocab_size=120), "encoder_decoder", tokenizer=tokenizer, bos_token_id=7)
    assert (
        lifted.config.eos_token_id == tokenizer.sep_token_id and lifted.config.pad_token_id == tokenizer.pad_token_id
    )
    assert lifted.config.bos_token_id == lifted.config.decoder_start_token_id == 7
    assert tokenizer.eos_token is None  # it is read, not changed
