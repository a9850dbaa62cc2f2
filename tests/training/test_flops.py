"""Model FLOPs against PyTorch's own count of what runs, and windows against masks."""

import pytest
import torch
from support import reference
from support.tiny import tiny_config
from torch.utils.flop_counter import FlopCounterMode

from trine import TrineForCausalLM, TrineForMaskedLM
from trine.configuration.kinds import ATTENTION_KINDS
from trine.training.run.flops import active_parameters, flops_per_token


LENGTH = 24
PAIRS = {kind: row.about.pairs for kind, row in ATTENTION_KINDS.items() if row.about.pairs}


def visible(kind: str, config) -> torch.Tensor:
    """What each query sees: (L, L), or for simplicial layers (L, L, L), from the definition of the windows."""
    steps = torch.arange(LENGTH) - torch.arange(LENGTH)[:, None]
    past = steps <= 0 if config.is_causal else torch.ones_like(steps, dtype=torch.bool)
    if kind == "sliding":
        past &= steps.abs() < config.sliding_window + (not config.is_causal)
    if kind == "chunked":
        chunk = torch.arange(LENGTH) // config.attention_chunk_size
        past &= chunk == chunk[:, None]
    if kind == "bigbird":  # all blocks are full, so it does not matter which one is drawn
        size = config.bigbird_block_size
        rows = [reference.bigbird_blocks(config, own, LENGTH // size, [0]) for own in range(LENGTH // size)]
        past &= torch.tensor([[key // size in rows[i // size] for key in range(LENGTH)] for i in range(LENGTH)])
    if kind == "simplicial":
        windows = []
        for size in (config.simplicial_window, config.simplicial_second_window):
            left = size - 1 if config.is_causal else size // 2
            windows.append((steps >= -left) & (steps <= size - 1 - left) & past)
        return windows[0][:, :, None] & windows[1][:, None]
    return past


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("kind", sorted(PAIRS.keys() - {"lsh"}))
def test_pairs_are_those_of_the_windows(kind, is_causal):
    config = tiny_config(is_causal=is_causal, attention_types=kind)
    assert PAIRS[kind](config, LENGTH) == visible(kind, config).sum()


@pytest.mark.parametrize("is_causal", [True, False])
def test_hashes_with_one_long_chunk_see_everything_each(is_causal):
    config = tiny_config(is_causal=is_causal, lsh_chunk_length=LENGTH, lsh_num_hashes=3)
    assert PAIRS["lsh"](config, LENGTH) == 3 * PAIRS["full"](config, LENGTH)
    config = tiny_config(is_causal=is_causal, lsh_chunk_length=2, lsh_num_hashes=1, lsh_num_adjacent_chunks=1)
    assert PAIRS["lsh"](config, LENGTH) == (1 + 2 + 3 + 21 * 4 if is_causal else LENGTH * 6)


def test_every_kind_is_counted_once():
    counted = {kind for kind, row in ATTENTION_KINDS.items() if row.about.products}
    assert counted | PAIRS.keys() == set(ATTENTION_KINDS) and not counted & PAIRS.keys()


@pytest.mark.parametrize(
    "fields",
    [
        {"is_causal": False},
        {"is_causal": False, "attention_types": "linear", "position_type": "none"},
        {"is_causal": False, "attention_types": "linear, performer", "linear_feature_map": "dpfp"},
        {},
        {"attention_types": "sliding, chunked"},
        {"mlp_layer_types": "dense, sparse", "num_shared_experts": 1},
        {"tie_word_embeddings": False, "gated_mlp": False, "mlp_bias": True},
        {"position_type": "learned"},
    ],
)
def test_flops_are_those_that_run(fields):
    """Eager attention multiplies with all tokens, so what a mask hides is taken off PyTorch's count."""
    config = tiny_config(attn_implementation="eager", experts_implementation="eager", loss_chunk_size=None, **fields)
    model = (TrineForCausalLM if config.is_causal else TrineForMaskedLM)(config)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.randint(3, 60, (2, LENGTH))).logits.sum().backward()
    pairwise = [kind for kind in config.attention_types if kind in PAIRS]
    hidden = sum(int((~visible(kind, config)).sum()) for kind in pairwise)
    expected = counter.get_total_flops() / (2 * LENGTH) - 3 * 4 * config.hidden_size * hidden / LENGTH
    assert flops_per_token(model, LENGTH) == pytest.approx(expected, rel=1e-9)


def test_a_trunk_has_no_head():
    model = TrineForCausalLM(tiny_config())
    assert active_parameters(model) - active_parameters(model.model) == 61 * 32
