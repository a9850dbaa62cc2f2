"""Block-sparse attention against the masked full product: outputs, normalizers, gradients."""

import pytest
import torch

from trine.modeling.kernels.blocks import sparse as module
from trine.modeling.kernels.blocks.sparse import BlockSparseInputs, block_sparse_attention, block_sparse_operator


EXACT = {"rtol": 1e-10, "atol": 1e-11}


def make_inputs(num_queries=24, num_keys=24, heads=4, groups=2, size=6, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(heads, num_queries), (groups, num_keys), (groups, num_keys)]
    return [torch.randn(2, *shape, size, dtype=dtype, requires_grad=True) for shape in shapes]


def blocks_of(length: int, size: int) -> torch.Tensor:
    """Consecutive tokens, the last block partly empty: (1, 1, T, size)."""
    index = torch.arange(-(-length // size) * size)
    return torch.where(index < length, index, -1).view(1, 1, -1, size)


def make_lists(num_queries: int, num_keys: int, heads: int, offset: int) -> torch.Tensor:
    """For each head and block of queries its own block of keys, and others at random."""
    lists = torch.full((2, heads, num_queries, 4), -1)
    for table in lists.view(-1, num_queries, 4):
        for block in range(num_queries):
            own = min(block + offset, num_keys - 1)
            others = [other for other in torch.randperm(num_keys).tolist() if other != own][:3]
            chosen = [own, *others[: int(torch.randint(0, 4, ()))]]
            table[block, : len(chosen)] = torch.tensor(chosen)
    return lists


def visible_pairs(query_blocks, key_blocks, lists, labels, *, is_causal, adjacent, length) -> torch.Tensor:
    """(2, H, K, K): what the tables say, a pair at a time."""
    heads = lists.shape[1]
    table = torch.zeros(2, heads, length, length, dtype=torch.bool)
    for row in range(2):
        for head in range(heads):
            for block, queries in enumerate(query_blocks[0, 0].tolist()):
                for chosen in lists[row, head, block].tolist():
                    for query in queries if chosen >= 0 else []:
                        for key in key_blocks[0, 0, chosen].tolist():
                            seen = query >= 0 and key >= 0 and (key <= query or not is_causal)
                            if seen and labels is not None:
                                step = labels[key] - labels[query]
                                seen = -adjacent <= step <= (0 if is_causal else adjacent)
                            table[row, head, query, key] |= seen
    return table


def masked_product(query, key, value, visible, masks_self):
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    scores = 0.3 * query @ key.transpose(-1, -2)
    if masks_self:
        scores = scores.masked_fill(torch.eye(scores.shape[-1], dtype=torch.bool), -1e5)
    scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(dim=-1) @ value, scores.logsumexp(dim=-1)


@pytest.mark.parametrize("budget", [1, 2**20], ids=["block by block", "at once"])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("is_causal", [True, False])
def test_outputs_and_gradients_equal_the_masked_product(is_causal, labelled, budget, monkeypatch):
    monkeypatch.setitem(module.BLOCK_SCORES, "cpu", budget)
    length, size = 22, 4
    inputs = make_inputs(length, length)
    blocks = blocks_of(length, size)
    lists = make_lists(6, 6, 4, 0)
    labels = torch.randint(0, 3, (24,)) if labelled else None
    tables = [] if labels is None else [labels.view(1, 1, 6, 4)] * 2
    options = {"is_causal": is_causal, "adjacent": 1}
    visible = visible_pairs(
        blocks, blocks, lists, None if labels is None else labels.tolist(), length=length, **options
    )
    expected, sums = masked_product(*inputs, visible, labelled)
    output, normalizers = block_sparse_attention(
        BlockSparseInputs(*inputs, blocks, blocks, lists, *tables, scale=0.3, masks_self=labelled, **options)
    )
    actual = output.flatten(2, 3)[:, :, :length]
    torch.testing.assert_close(actual, expected, **EXACT)
    direction, other = torch.randn_like(expected), torch.randn_like(sums)
    wanted, got = (expected * direction).sum(), (actual * direction).sum()
    if labelled:
        normalizers = normalizers.flatten(2, 3)[:, :, :length]
        torch.testing.assert_close(normalizers, sums, **EXACT)
        wanted, got = wanted + (sums * other).sum(), got + (normalizers * other).sum()
    for gradient, truth in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(gradient, truth, **EXACT)


def test_queries_are_the_last_of_the_keys():
    inputs = make_inputs(3, 21)
    query_blocks, key_blocks = torch.arange(3).view(1, 1, 3, 1), blocks_of(21, 4)
    lists = torch.tensor([[4, 1], [4, 0], [5, 4]])[None, None]
    tables = query_blocks, key_blocks, lists
    output, _ = block_sparse_attention(BlockSparseInputs(*inputs, *tables, is_causal=True, scale=0.3))
    for place, seen in enumerate(([16, 17, 18, 4, 5, 6, 7], [16, 17, 18, 19, 0, 1, 2, 3], [20, 16, 17, 18, 19])):
        key, value = (states[:, :, seen].repeat_interleave(2, dim=1) for states in inputs[1:])
        scores = 0.3 * (inputs[0][:, :, place, None] * key).sum(-1)
        expected = (scores.softmax(-1)[..., None] * value).sum(2)
        torch.testing.assert_close(output[:, :, place, 0], expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("labelled", [False, True])
def test_lower_precision_is_near_float64(labelled, dtype):
    low = make_inputs(dtype=dtype, size=16)
    high = [tensor.detach().double().requires_grad_() for tensor in low]
    blocks, lists = blocks_of(24, 4), make_lists(6, 6, 4, 0)
    labels = [torch.zeros(1, 1, 6, 4, dtype=torch.long)] * 2 if labelled else []
    results = []
    for inputs in (low, high):
        tables = (blocks, blocks, lists, *labels)
        output, _ = block_sparse_attention(
            BlockSparseInputs(*inputs, *tables, is_causal=True, masks_self=labelled, scale=0.25)
        )
        results.append([output, *torch.autograd.grad(output.square().sum(), inputs)])
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == dtype
        assert (actual.double() - expected).norm() <= tolerance * expected.norm()


def test_the_operator_is_well_formed():
    inputs, blocks = make_inputs(), blocks_of(24, 4)
    arguments = (*inputs, blocks, blocks, make_lists(6, 6, 4, 0), None, None, True, 0, False, 0.3)
    torch.library.opcheck(block_sparse_operator, arguments)
