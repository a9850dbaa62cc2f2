"""BigBird attention: each pattern against the loop, its limits, the library's own layer, and where its blocks lie."""

import copy

import pytest
import torch
from support import reference
from support.bigbird import CAUSAL, EVERY_PATTERN, EXACT, PATTERNS, SIZE, blocks_of, fields_of, layer_of
from support.tiny import (
    assert_gradients_equal,
    expected_output,
    leaves,
    output_of,
    random_ids,
    tiny_config,
    tiny_model,
)
from transformers import BigBirdConfig
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

from trine import TrineConfig, TrineForConditionalGeneration, TrineSeq2SeqConfig
from trine.modeling.attention.bigbird import BigBirdAttention
from trine.modeling.kernels.blocks.bigbird_layout import random_blocks
from trine.modeling.masks.visibility import Visibility


def expected_layer(layer: BigBirdAttention, x: torch.Tensor) -> torch.Tensor:
    """The loop's output for one sequence (N, hidden)."""
    weights = reference.Weights({**dict(layer.named_parameters()), **dict(layer.named_buffers())})
    return reference.bigbird_attention(layer.config, weights, x, reference.NoPositions(layer.config, weights))


def gradients(layer, x, output, direction) -> list[torch.Tensor]:
    inputs = [x, *layer.parameters()]
    return torch.autograd.grad((output * direction).sum(), inputs)


def check_against_the_oracle(length: int, **fields) -> None:
    """Outputs and the gradients of every parameter, for a random projection of the outputs."""
    model = tiny_model(**{"num_hidden_layers": 1, **fields})
    tokens, tensors = random_ids(length), leaves(model)
    expected, actual = expected_output(model, tokens.tolist(), tensors), output_of(model(tokens[None]))[0]
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for output in (expected, actual):
        (output * direction).sum().backward()
    assert_gradients_equal(model, tensors, rtol=1e-8, atol=1e-10)


@CAUSAL
@EVERY_PATTERN
@pytest.mark.parametrize("length", [1, 2, SIZE - 1, SIZE, SIZE + 1, 29])
def test_every_pattern_equals_the_loop(length, numbers, is_causal):
    check_against_the_oracle(length, **fields_of(numbers, is_causal))


@CAUSAL
def test_longer_texts_than_the_draws_begin_them_again(is_causal):
    check_against_the_oracle(30, max_position_embeddings=2 * SIZE + 1, **fields_of((1, 3, 2), is_causal))


@CAUSAL
@EVERY_PATTERN
def test_packed_rows_equal_separate_sequences(numbers, is_causal):
    """In outputs and gradients, also where rows differ and one of their sequences is far longer than others."""
    layer, generator = layer_of(numbers, is_causal), torch.Generator().manual_seed(2)
    rows = [(5, 1, 27, 3, 2), (12, 4, 22)]
    x = torch.randn(2, 38, 32, dtype=torch.float64, generator=generator).requires_grad_()
    direction = torch.randn(2, 38, 32, dtype=torch.float64, generator=generator)
    numbered = [torch.repeat_interleave(torch.arange(1, len(row) + 1), torch.tensor(row)) for row in rows]
    actual = layer(x, Visibility(segments=torch.stack(numbered).int()))[0]
    expected = torch.stack(
        [torch.cat([expected_layer(layer, part) for part in x[i].split(row)]) for i, row in enumerate(rows)]
    )
    torch.testing.assert_close(actual, expected, **EXACT)
    pairs = zip(gradients(layer, x, actual, direction), gradients(layer, x, expected, direction), strict=True)
    for gradient, other in pairs:
        torch.testing.assert_close(gradient, other, **EXACT)


def with_holes(layer: BigBirdAttention, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Attention as a table of scores of one sequence (N, hidden) whose blocks keep the places of missing tokens."""
    config, (n, _) = layer.config, x.shape
    places = real.nonzero()[:, 0]
    start, count = int(places[0]), -(-int(places[-1] + 1 - places[0]) // SIZE)
    query, key, value = (states[0] for states in layer.project(x[None], None))
    seen = torch.zeros(4, n, n, dtype=torch.bool)
    for h in range(4):
        for i in places.tolist():
            own = (i - start) // SIZE
            draws = layer.random_draws[h, own % layer.random_draws.shape[1]].tolist()
            for block in reference.bigbird_blocks(config, own, count, draws):
                seen[h, i, start + block * SIZE : start + (block + 1) * SIZE] = True
    seen &= real & (torch.ones(n, n).tril().bool() | (not config.is_causal))
    scores = query @ key.repeat_interleave(2, dim=0).transpose(1, 2) * layer.scaling
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0.0)
    return layer.o_proj((weights @ value.repeat_interleave(2, dim=0)).transpose(0, 1).flatten(1))


@CAUSAL
@pytest.mark.parametrize("numbers", [(2, 3, 1), (3, 1, 2)], ids=str)
def test_padding_and_holes_are_seen_by_nobody(numbers, is_causal):
    layer, generator = layer_of(numbers, is_causal), torch.Generator().manual_seed(3)
    x = torch.randn(4, 30, 32, dtype=torch.float64, generator=generator)
    real = torch.rand(4, 30, generator=generator) < 0.7
    real[0, :7], real[1, 20:], real[2] = False, False, False
    real[2, 13] = True
    real[3] = True
    output = layer(x, Visibility(is_token=real))[0]
    for row in range(4):
        torch.testing.assert_close(output[row][real[row]], with_holes(layer, x[row], real[row])[real[row]], **EXACT)
    assert not output[~real].any(), "padding's output is 0"


@CAUSAL
@pytest.mark.parametrize("random", [0, 2])
def test_all_blocks_global_or_in_the_window_is_full_attention(random, is_causal):
    tokens = random_ids(2, 4 * SIZE + 1)  # 5 blocks
    full = tiny_model(attention_types="full", is_causal=is_causal)
    expected = output_of(full(tokens))
    for numbers in ((5, 1, random), (8, 3, random), (0, 5 if is_causal else 9, random), (1, 17, random)):
        fields = {**fields_of(numbers, is_causal), "position_type": "rope"}
        model = tiny_model(seed=1, **fields)
        missing = model.load_state_dict(full.state_dict(), strict=False).missing_keys
        assert all(name.endswith("random_draws") for name in missing)
        torch.testing.assert_close(output_of(model(tokens)), expected, rtol=1e-12, atol=1e-12)
    shorter = tiny_model(**{**fields_of((1, 3, 0), is_causal), "position_type": "rope"})
    shorter.load_state_dict(full.state_dict())
    assert not torch.allclose(output_of(shorter(tokens)), expected), "fewer blocks are not"


@pytest.mark.parametrize("random", [1, 2, 3])
@pytest.mark.parametrize("length", [8 * SIZE, 13 * SIZE])
def test_it_is_the_librarys_layer_where_both_say_the_same(length, random, monkeypatch):
    """An encoder with one global block at each end and a window of three, at a multiple of the block size.

    The library's pattern is then this one, of the second and the last but one block, too. It differs in which random
    blocks it allows (the second block never draws the last but one, nor the other way round; a text of 1024, 3072 or
    4096 tokens draws otherwise), in drawing them in each training step and never in evaluation, where block 0 stands
    for each of them and counts several times, and with padding, where its last global block is one of padding. So its
    random blocks are replaced by those of the layer, of which there must be enough: from `random + 5` blocks on.
    """
    layer = layer_of((2, 3, random), is_causal=False, num_key_value_heads=4)
    config = BigBirdConfig(
        hidden_size=32, num_attention_heads=4, block_size=SIZE, num_random_blocks=random, use_bias=False
    )
    other = BigBirdBlockSparseAttention(config).double()
    for ours, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        getattr(other, theirs).load_state_dict(getattr(layer, ours).state_dict())
    own = torch.arange(length // SIZE)[None]
    pattern = random_blocks(layer.pattern, own, torch.full_like(own, length // SIZE), layer.random_draws)[0, :, 1:-1]
    assert (pattern > 0).all()
    monkeypatch.setattr(other, "_bigbird_block_rand_mask_with_head", lambda **kwargs: list(pattern.numpy()))
    masks = BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(2, length, dtype=torch.float64), SIZE)
    blocked, band, from_mask, to_mask = masks
    x = torch.randn(2, length, 32, dtype=torch.float64, requires_grad=True)
    expected = layer.o_proj(other(x, band, from_mask, to_mask, blocked, blocked)[0])
    actual = layer(x)[0]
    torch.testing.assert_close(actual, expected, **EXACT)
    direction = torch.randn_like(actual)
    pair = [torch.autograd.grad((output * direction).sum(), x)[0] for output in (actual, expected)]
    torch.testing.assert_close(*pair, **EXACT)


def test_a_step_copies_no_earlier_keys():
    """Unless the buffer is full, or the states were replaced."""
    model, ids = tiny_model(attention_types="bigbird", dtype=torch.float32), random_ids(1, 260)
    with torch.no_grad():
        cache, places = model(ids[:, :20], use_cache=True).past_key_values, []
        for token in ids[:, 20:].split(1, dim=1):
            model(token, past_key_values=cache)
            places.append(cache.layers[0].keys.data_ptr())
    keys = cache.layers[0].keys
    assert keys.shape == (1, 2, 260, 8) and len(set(places)) == 4
    assert keys.untyped_storage().nbytes() <= 1.25 * keys.numel() * 4 + 64 * 16 * 4


@torch.no_grad()
def test_the_cache_may_be_changed_between_steps():
    """Cropped, copied, reordered and repeated, it goes on as if its text had been read at once."""
    model, ids = tiny_model(**fields_of((2, 3, 1), True)), random_ids(2, 40)

    def go_on(cache, ids, start):
        parts = [model(token, past_key_values=cache).logits for token in ids[:, start:].split(1, dim=1)]
        expected = model(ids, use_cache=False).logits[:, start:]
        torch.testing.assert_close(torch.cat(parts, dim=1), expected, **EXACT)

    cache = model(ids[:, :21], use_cache=True).past_key_values
    go_on(cache, ids[:, :30], 21)
    copied = copy.deepcopy(cache)
    cache.crop(-7)
    other = torch.cat([ids[:, :23], random_ids(2, 9, seed=4)], dim=1)
    go_on(cache, other, 23)
    go_on(copied, ids, 30)
    cache.reorder_cache(torch.tensor([1, 1]))
    longer = torch.cat([other, ids[:, :3]], dim=1)[[1, 1]]
    go_on(cache, longer, 32)
    cache.batch_repeat_interleave(2)
    go_on(cache, torch.cat([longer, ids[:, :5]], dim=1).repeat_interleave(2, dim=0), 35)
    cache.batch_select_indices(torch.tensor([2]))
    go_on(cache, torch.cat([longer, ids[:, :5], ids[:, :4]], dim=1)[[1]], 40)
    cache.reset()
    assert model(ids, past_key_values=cache).past_key_values.get_seq_length() == 40


@CAUSAL
def test_memory_of_a_long_text_is_no_table_of_pairs(is_causal):
    """16384 tokens forward and backward: a table of pairs alone would be 1024 MB a head."""
    layer = layer_of(is_causal=is_causal, bigbird_block_size=64).float()
    x = torch.randn(1, 2**14, 32, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        layer(x)[0].sum().backward()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 2**14 * 32 * 4 < peak < (30e6 if is_causal else 120e6)


@pytest.mark.parametrize("numbers", PATTERNS, ids=str)
def test_texts_in_parts_equal_the_whole(numbers):
    """Single tokens and longer parts, from the middle of blocks and across them; padding on the left, and a hole."""
    model, ids = tiny_model(**fields_of(numbers, True)), random_ids(3, 42)
    mask = torch.ones_like(ids)
    mask[0, :6], mask[1, :21], mask[1, 25] = 0, 0, 0
    for seen in (None, mask):
        expected = model(ids, attention_mask=seen, use_cache=False).logits
        cache, parts, start = None, [], 0
        for size in (1, 1, 2, 9, 4, 1, 3, 12, 1, 1, 7):
            stop = start + size
            now = None if seen is None else seen[:, :stop]
            step = model(ids[:, start:stop], attention_mask=now, past_key_values=cache, use_cache=True)
            cache, start = step.past_key_values, stop
            parts.append(step.logits)
        real = torch.ones_like(ids).bool() if seen is None else seen == 1
        torch.testing.assert_close(torch.cat(parts, dim=1)[real], expected[real], **EXACT)


def test_an_encoder_decoder_generates_alike_with_and_without_a_cache():
    part = {"attention_types": "bigbird", **blocks_of((1, 1, 1))}
    sizes = {name: value for name, value in tiny_config().to_dict().items() if name in ("hidden_size", "vocab_size")}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 4, "bigbird_block_size": SIZE, "position_type": "none"}
    config = TrineSeq2SeqConfig(
        encoder=TrineConfig(is_causal=False, **sizes, **part).to_dict(),
        decoder=TrineConfig(**sizes, **part).to_dict(),
        decoder_start_token_id=1,
    )
    torch.manual_seed(0)
    model = TrineForConditionalGeneration(config).double().eval()
    ids = random_ids(2, 30)
    mask = torch.ones_like(ids)
    mask[0, 11:] = 0
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
    both = [model.generate(ids, attention_mask=mask, use_cache=use, **settings) for use in (True, False)]
    assert torch.equal(*both)
    alone = model.generate(ids[:1, :11], **settings)
    assert torch.equal(alone[0], both[0][0])


@pytest.mark.parametrize(("is_causal", "masked"), [(True, False), (True, True), (False, True)])
def test_it_compiles_without_a_break(masked, is_causal):
    fields = {**fields_of((2, 3, 1), is_causal), "num_hidden_layers": 1}
    model, ids = tiny_model(**fields, dtype=torch.float32), random_ids(2, 21)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    inputs = {"input_ids": ids} | ({"attention_mask": mask} if masked else {})
    expected = output_of(model(**inputs))
    expected.square().mean().backward()
    gradient = model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    torch.compiler.reset()
    actual = output_of(torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    actual.square().mean().backward()
    torch.testing.assert_close(model.get_input_embeddings().weight.grad, gradient, rtol=1e-3, atol=1e-4)


@CAUSAL
def test_it_is_exported_and_then_reads_other_masks(is_causal):
    model, ids = tiny_model(attention_types="bigbird", is_causal=is_causal, use_cache=False), random_ids(2, 21)
    program = torch.export.export(model, (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, strict=False)
    mask, other = torch.ones_like(ids), random_ids(2, 21, seed=5)
    mask[1, :9] = 0
    actual = output_of(program.module()(input_ids=other, attention_mask=mask))
    real = mask == 1
    torch.testing.assert_close(actual[real], output_of(model(other, attention_mask=mask))[real])


def test_positions_are_traced_but_packed_sequences_are_refused():
    model, ids = tiny_model(attention_types="bigbird", use_cache=False), random_ids(1, 8)
    positions = torch.arange(8)[None]
    program = torch.export.export(model, (), {"input_ids": ids, "position_ids": positions}, strict=False).module()
    other = random_ids(1, 8, seed=5)
    actual = program(input_ids=other, position_ids=positions).logits[0]
    torch.testing.assert_close(actual, expected_output(model, other[0].tolist()), rtol=1e-3, atol=1e-4)
    packed = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])
    with pytest.raises(RuntimeError, match="position_ids of packed sequences cannot be traced by a 'bigbird' layer"):
        program(input_ids=ids, position_ids=packed)
    expected = expected_output(model, ids[0, :5].tolist())
    actual = model(ids, position_ids=packed).logits[0, :5]
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@CAUSAL
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_lower_precision_is_near_float64(dtype, tolerance, is_causal):
    layer, x = layer_of(is_causal=is_causal), torch.randn(2, 50, 32, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.3).copy_(parameter.to(torch.bfloat16))
        x = x.to(torch.bfloat16)
        expected = layer(x.double())[0]
        actual = layer.to(dtype)(x.to(dtype))[0].double()
    assert (actual - expected).norm() / expected.norm() < tolerance
