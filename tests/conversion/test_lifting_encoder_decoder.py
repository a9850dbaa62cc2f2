"""Encoders get decoders, of their own layers or given ones."""

import pytest
import torch
from support.encoders import MORE, encoder
from support.tiny import random_ids, tiny_model

from trine import lift
from trine.conversion.lifts.change import largest_change


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
