"""Where the blocks of BigBird attention lie: the draws, their number and what they cost."""

import pytest
import torch
from support import reference
from support.bigbird import CAUSAL, EVERY_PATTERN, SIZE, fields_of, layer_of
from support.tiny import random_ids, tiny_config, tiny_model

from trine import TrineForCausalLM
from trine.modeling.attention.bigbird import BigBirdAttention
from trine.modeling.kernels.blocks.bigbird_layout import BigBirdPattern, make_layout, random_blocks
from trine.modeling.kernels.blocks.bigbird_step import step_tokens


@CAUSAL
@EVERY_PATTERN
def test_random_blocks_are_candidates_and_none_comes_twice(numbers, is_causal):
    layer = layer_of(numbers, is_causal, max_position_embeddings=40 * SIZE)
    layout = make_layout(layer.pattern, layer.random_draws, None, None, 40 * SIZE, 40 * SIZE, torch.device("cpu"))
    lists = layout.calls[0][1][0].expand(4, -1, -1).tolist()
    for h in range(4):
        for own in range(40):
            listed = [block for block in lists[h][own] if block >= 0]
            draws = layer.random_draws[h, own].tolist() if numbers[2] else []
            expected = reference.bigbird_blocks(layer.config, own, 40, draws)
            assert len(set(listed)) == len(listed)
            if len(expected) < 40 or len(listed) == 40:  # else a global block, which another call serves
                assert sorted(listed) == sorted(expected)


@CAUSAL
def test_random_blocks_are_uniform_over_the_candidates(is_causal):
    """Chi-square of how often each block of 11 candidates is among 3 that many heads draw."""
    pattern, heads = BigBirdPattern(SIZE, 2, 3, 3, is_causal), 20_000
    draws = torch.randint(2**31, (heads, 16, 3), generator=torch.Generator().manual_seed(0)).int()
    own, count = torch.tensor([[15 if is_causal else 7]]), torch.tensor([[16]])
    chosen = random_blocks(pattern, own, count, draws)[0, :, 0]
    candidates = [*range(2, 13)] if is_causal else [*range(1, 6), *range(9, 15)]
    assert set(chosen.flatten().tolist()) == set(candidates)
    for drawn, size in ((chosen[:, 0], heads), (chosen[:, 2], heads)):
        counts, mean = torch.bincount(drawn, minlength=16)[candidates], size / len(candidates)
        assert ((counts - mean) ** 2 / mean).sum() < 29.6  # 10 degrees of freedom, p = 0.001
    pairs = torch.zeros(16, 16).index_put_((chosen[:, 0], chosen[:, 1]), torch.ones(heads), accumulate=True)
    pairs, mean = pairs[candidates][:, candidates], heads / 110
    assert not pairs.diagonal().any()
    assert ((pairs - mean) ** 2 / mean).sum() - 11 * mean < 159  # 109 degrees of freedom, p = 0.001


def test_heads_and_layers_draw_their_own(tmp_path):
    model = tiny_model(attention_types="bigbird", dtype=torch.float32, max_position_embeddings=64 * SIZE)
    draws = [layer.self_attn.random_draws for layer in model.model.layers]
    assert draws[0].dtype == torch.int32 and draws[0].shape == (4, 64, 1)
    tables = [head for table in draws for head in table]
    assert all(not torch.equal(tables[i], tables[j]) for i in range(8) for j in range(i))
    model.save_pretrained(tmp_path)
    torch.manual_seed(7)
    loaded = TrineForCausalLM.from_pretrained(tmp_path)
    for layer, expected in zip(loaded.model.layers, draws, strict=True):
        assert torch.equal(layer.self_attn.random_draws, expected)
    tokens = random_ids(1, 60)
    assert torch.equal(loaded.eval()(tokens).logits, model(tokens).logits)
    assert tiny_model(**fields_of((1, 1, 0), True)).model.layers[0].self_attn.random_draws is None


@CAUSAL
def test_seeds_decide_the_draws(is_causal):
    config = tiny_config(attention_types="bigbird", is_causal=is_causal)
    tables = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        layer = BigBirdAttention(config, 0)
        layer.initialize()
        tables.append(layer.random_draws)
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])


def count_scores(pattern: BigBirdPattern, segments, num_queries: int, num_keys: int) -> int:
    draws = torch.zeros(1, 8, pattern.num_random, dtype=torch.int32)
    layout = make_layout(pattern, draws, None, segments, num_queries, num_keys, torch.device("cpu"))
    return sum(queries.numel() * lists.shape[-1] * layout.key_blocks.shape[-1] for queries, lists in layout.calls)


@CAUSAL
def test_the_number_of_scores_is_that_of_the_blocks(is_causal):
    pattern = BigBirdPattern(16, 2, 3, 3, is_causal)
    for length in (1024, 4096, 16384):
        whole = 0 if is_causal else 2 * 16 * length
        assert count_scores(pattern, None, length, length) == length * 8 * 16 + whole
    lengths = torch.tensor([4096] + [2] * 2048)  # short sequences do not pay for a long one
    segments = torch.repeat_interleave(torch.arange(2049), lengths).int()[None]
    places = 4096 + 2048 * 16
    assert count_scores(pattern, segments, 8192, 8192) == places * 8 * 16 + (0 if is_causal else whole_scores(lengths))


def whole_scores(lengths: torch.Tensor) -> int:
    """Of global blocks, in blocks of 16: sequences of one block have one, the others two."""
    counts = [-(-length // 16) for length in lengths.tolist()]
    return sum(min(2, count) * 16 * 16 * count for count in counts)


@pytest.mark.parametrize("length", [512, 8192, 8200])
def test_a_step_of_decoding_costs_what_it_sees(length):
    pattern, draws = BigBirdPattern(16, 2, 3, 3, True), torch.zeros(4, 8, 3, dtype=torch.int32)
    assert step_tokens(pattern, draws, None, length, torch.device("cpu")).shape == (1, 4, 8 * 16)
    for num_queries in (2, 16, 17):  # these may touch two blocks
        assert count_scores(pattern, None, num_queries, length) == 2 * min(16, num_queries) * 8 * 16
