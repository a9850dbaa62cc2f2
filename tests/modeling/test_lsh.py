"""LSH attention: its variants against the loop, its limits, the library's own Reformer layer, and what it costs."""

import math

import pytest
import torch
from support.tiny import (
    TOLERANCES,
    check_against_the_oracle,
    expected_output,
    output_of,
    random_ids,
    tiny_config,
    tiny_model,
)
from transformers import ReformerConfig
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

from trine import TrineForCausalLM
from trine.modeling.attention.lsh import LSHAttention
from trine.modeling.kernels.blocks.lsh_chunks import recent_of_bucket, sort_into_chunks


CAUSAL = pytest.mark.parametrize("is_causal", [True, False], ids=["decoder", "encoder"])
VARIANTS = {
    "no adjacent chunk": {"lsh_num_adjacent_chunks": 0},
    "two adjacent chunks": {"lsh_num_adjacent_chunks": 2, "lsh_chunk_length": 3},
    "one hash": {"lsh_num_hashes": 1},
    "many hashes": {"lsh_num_hashes": 5, "lsh_num_buckets": 2},
    "many buckets": {"lsh_num_buckets": 64},
    "chunks of one": {"lsh_chunk_length": 1},
    "biases and norms": {"attention_bias": True, "qk_norm": True},
    "one value head": {"num_key_value_heads": 1},
    "odd heads": {"head_dim": 5},
}


@CAUSAL
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_equals_the_loop(variant, is_causal):
    check_against_the_oracle(29, attention_types="lsh", is_causal=is_causal, **VARIANTS[variant])


@CAUSAL
def test_rotary_positions_turn_vectors_after_the_hash(is_causal):
    model, tokens = tiny_model(attention_types="lsh", is_causal=is_causal), random_ids(29)
    actual, expected = output_of(model(tokens[None])), expected_output(model, tokens.tolist())
    torch.testing.assert_close(actual[0], expected, rtol=1e-3, atol=1e-4)  # angles are computed in float32
    layer, states = model_layer(model), torch.randn(1, 20, 32, dtype=torch.float64)
    near, far = (
        layer(states, position_embeddings=model_trunk(model).positions.rotate(states, ids))[0] for ids in ids_of(20)
    )
    torch.testing.assert_close(far, near, rtol=1e-3, atol=1e-4)


def ids_of(length: int) -> list[torch.Tensor]:
    return [torch.arange(length)[None] + shift for shift in (0, 31)]


def model_trunk(model):
    return getattr(model, "model", model)


def model_layer(model) -> LSHAttention:
    return model_trunk(model).layers[0].self_attn


@CAUSAL
def test_tokens_left_out_by_a_mask_are_as_if_they_were_not_there(is_causal):
    model = tiny_model(attention_types="lsh", is_causal=is_causal, position_type="none")
    tokens, mask = random_ids(1, 40), torch.arange(40)[None] % 5 != 3
    output = output_of(model(tokens, attention_mask=mask.long()))
    torch.testing.assert_close(output[mask], expected_output(model, tokens[mask].tolist()), **TOLERANCES)


@CAUSAL
def test_rows_may_pack_different_sequences(is_causal):
    model = tiny_model(attention_types="lsh", is_causal=is_causal, position_type="learned")
    rows = [[random_ids(length, seed=length) for length in lengths] for lengths in ((5, 21, 3), (17, 12))]
    positions = torch.stack([torch.cat([torch.arange(len(part)) for part in row]) for row in rows])
    output = output_of(model(torch.stack([torch.cat(row) for row in rows]), position_ids=positions, use_cache=False))
    for actual, row in zip(output, rows, strict=True):
        expected = torch.cat([expected_output(model, part.tolist()) for part in row])
        torch.testing.assert_close(actual, expected, **TOLERANCES)


@CAUSAL
def test_one_bucket_as_long_as_the_text_is_full_attention(is_causal):
    """Of queries to themselves, as keys of unit length, and not to a token's own but where it is the only one."""
    fields = {"attention_types": "lsh", "is_causal": is_causal, "position_type": "none", "lsh_chunk_length": 40}
    layer = model_layer(tiny_model(**fields))
    layer.directions.zero_()  # every direction is as near as every other
    states = torch.randn(2, 33, 32, dtype=torch.float64)
    query = layer.split_heads(layer.q_proj(states)).transpose(1, 2)
    key = query / query.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    scores = query @ key.transpose(2, 3) / math.sqrt(8)
    scores = scores.masked_fill(torch.eye(33, dtype=torch.bool), -1e5)
    if is_causal:
        scores = scores.masked_fill(torch.ones(33, 33).triu(1).bool(), -torch.inf)
    value = layer.split_heads(layer.v_proj(states)).transpose(1, 2).repeat_interleave(2, dim=1)
    expected = layer.o_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(states)[0], expected, **TOLERANCES)


def reformer_and_ours(monkeypatch, buckets: torch.Tensor, is_causal: bool, adjacent: int):
    """The library's layer and ours with the same weights and buckets (1, heads, length, hashes)."""
    hashes = buckets.shape[-1]
    fields = {"num_key_value_heads": 4, "lsh_num_hashes": hashes, "lsh_num_adjacent_chunks": adjacent}
    ours = model_layer(tiny_model(attention_types="lsh", is_causal=is_causal, position_type="none", **fields))
    config = ReformerConfig(
        attention_head_size=8,
        num_attention_heads=4,
        hidden_size=32,
        is_decoder=is_causal,
        lsh_attn_chunk_length=4,
        lsh_num_chunks_before=adjacent,
        lsh_num_chunks_after=0,
        num_buckets=8,
        num_hashes=hashes,
        lsh_attention_probs_dropout_prob=0.0,
        attn_layers=["lsh"],
    )
    theirs = LSHSelfAttention(config, layer_idx=0).double().eval()
    theirs.load_state_dict({"query_key.weight": ours.q_proj.weight, "value.weight": ours.v_proj.weight}, strict=False)
    torch.nn.init.eye_(ours.o_proj.weight)
    monkeypatch.setattr(ours, "hash", lambda states: buckets)
    return theirs, ours


@pytest.mark.parametrize(
    ("is_causal", "hashes", "adjacent"), [(True, 1, 1), (True, 2, 0), (False, 2, 0), (False, 1, 0)]
)
def test_the_chunks_are_those_of_the_librarys_reformer(is_causal, hashes, adjacent, monkeypatch):
    """Where both cut alike: one bucket in a decoder, whose chunks see the one before, or buckets of a chunk each.

    Elsewhere they differ on purpose: the Reformer's chunks begin where the sorted text is cut, not where buckets do,
    and look into the bucket before.
    """
    length = 32
    torch.manual_seed(0)
    if adjacent:
        buckets = torch.zeros(1, 4, length, 1, dtype=torch.int32)
    else:
        shuffled = [[torch.randperm(length) for _ in range(hashes)] for _ in range(4)]
        buckets = torch.stack([torch.stack([order // 4 for order in head], dim=-1) for head in shuffled])[None].int()
    theirs, ours = reformer_and_ours(monkeypatch, buckets, is_causal, adjacent)
    states = torch.randn(1, length, 32, dtype=torch.float64)
    offsets = torch.arange(hashes)[:, None] * 8  # the library keeps the hashes apart by the numbers of their buckets
    numbered = (buckets.transpose(2, 3) + offsets).flatten(2).long()
    expected = theirs(states, buckets=numbered).hidden_states
    torch.testing.assert_close(ours(states)[0], expected, **TOLERANCES)


def test_buckets_are_those_of_the_librarys_reformer():
    config = ReformerConfig(
        attention_head_size=8, num_attention_heads=1, hidden_size=8, num_buckets=16, num_hashes=3, hash_seed=5
    )
    theirs = LSHSelfAttention(config, layer_idx=0)
    fields = {"num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": 8, "lsh_num_hashes": 3}
    ours = LSHAttention(tiny_config(attention_types="lsh", lsh_num_buckets=16, **fields), 0)
    torch.manual_seed(5)
    ours.directions = torch.nn.Buffer(torch.randn(1, 8, 3, 8)[0])
    states = torch.randn(2, 1, 50, 8)
    expected = theirs._hash_vectors(states, 3, None).view(2, 1, 3, 50) - 16 * torch.arange(3)[:, None]
    assert torch.equal(ours.hash(states).transpose(2, 3), expected.int())


def test_near_vectors_share_buckets_more_often():
    layer = LSHAttention(tiny_config(attention_types="lsh", lsh_num_hashes=64, lsh_num_buckets=16), 0)
    torch.manual_seed(0)
    layer.initialize()
    states = torch.randn(1, 4, 200, 8)
    shares = []
    for noise in (0.1, 0.5, 3.0):
        near = states + noise * torch.randn_like(states)
        shares.append((layer.hash(states) == layer.hash(near)).float().mean())
    assert shares[0] > 0.8 and shares[0] > shares[1] > shares[2] > 1 / 16
    assert torch.equal(layer.hash(states), layer.hash(7 * states)), "the length does not matter"


@pytest.mark.parametrize("adjacent", [0, 1, 2])
def test_what_is_seen_is_found_without_sorting_too(adjacent):
    torch.manual_seed(0)
    length, chunk = 37, 3
    buckets = torch.randint(0, 4, (2, 3, length, 2))
    is_token = torch.arange(length) >= torch.tensor([[9], [0]])
    seen = recent_of_bucket(buckets, 11, is_token, chunk, adjacent).unflatten(2, (11, 2))
    for row, head, place, number in [
        (r, h, p, n) for r in range(2) for h in range(3) for p in range(11) for n in range(2)
    ]:
        query = length - 11 + place
        same = [
            key for key in range(query + 1) if is_token[row, key] and equal(buckets[row, head, :, number], key, query)
        ]
        rank = same.index(query)
        expected = [key for key in same if same.index(key) // chunk >= rank // chunk - adjacent]
        assert sorted(key for key in seen[row, head, place, number].tolist() if key >= 0) == expected


def equal(values: torch.Tensor, first: int, second: int) -> bool:
    return bool(values[first] == values[second])


def test_the_scores_grow_with_the_text():
    counts = []
    for length in (512, 2048):
        buckets = torch.randint(0, 16, (1, 2, length, 4))
        chunks = sort_into_chunks(buckets, None, None, 16, 1, is_causal=True)
        counts.append(chunks.block_indices.numel() * 16 * 16 / length)
    assert counts[0] == counts[1] == 4 * 3 * 16


def test_the_directions_follow_the_seed_and_are_stored(tmp_path):
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(TrineForCausalLM(tiny_config(attention_types="lsh")))
    first, again, other = (model_layer(model).directions for model in models)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, models[0].model.layers[1].self_attn.directions)
    models[0].save_pretrained(tmp_path)
    loaded = TrineForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model_layer(loaded).directions, first)
    assert {name for name in loaded.state_dict() if "layers.0.self_attn" in name} == {
        f"model.layers.0.self_attn.{name}"
        for name in ("directions", "o_proj.weight", "q_proj.weight", "v_proj.weight")
    }
