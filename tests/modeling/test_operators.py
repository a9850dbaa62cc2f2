"""Copies of the code, which checkpoints bring along, live in one process without taking each other's operators."""

import importlib
from collections.abc import Iterator

import pytest
import torch
from support import bundles
from support.plugins import CACHE_LAYERS, tables_restored

from trine.configuration.bundle import files_of
from trine.modeling.kernels.blocks import sparse


OPERATORS = {
    "modeling_trine": (
        *("block_sparse_operator", "block_sparse_backward_operator", "chunked_operator", "chunked_backward_operator"),
        *("forward_operator", "backward_operator"),
    ),
    "modeling_trine_recurrent": ("lstm_operator",),
}


@pytest.fixture
def copies(tmp_path, monkeypatch) -> Iterator[list[str]]:
    """Names of packages that hold the code as checkpoints do, in the folder of each."""
    monkeypatch.syspath_prepend(tmp_path)
    names = ["first_copy", "second_copy"]
    for name in names:
        (tmp_path / name).mkdir()
        for shape in ("everything", "recurrent"):
            for file, text in files_of(bundles.CONFIGS[shape]()).items():
                (tmp_path / name / file).write_text(text)
    with tables_restored(CACHE_LAYERS):
        yield names


def test_every_copy_has_operators_of_its_own(copies):
    for file, operators in OPERATORS.items():
        modules = [importlib.import_module(f"{copy}.{file}") for copy in copies]
        for operator in operators:
            made = [getattr(module, operator)._opoverload for module in modules]
            assert made[0] is not made[1]
            for each in made:  # PyTorch still knows it
                namespace, name = each._schema.name.split("::")
                assert getattr(getattr(torch.ops, namespace), name).default is each


def test_an_older_copy_computes_after_a_newer_one_came(copies):
    query, key, value = torch.randn(3, 1, 2, 4, 8).unbind()
    places = torch.arange(4).view(1, 1, 2, 2).expand(1, 2, -1, -1)
    lists = torch.tensor([[0, -1], [0, 1]]).expand(1, 2, -1, -1)
    arguments, options = (query, key, value, places, places, lists), {"is_causal": True, "scale": 0.5}
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.5)
    modules = [importlib.import_module(f"{copy}.modeling_trine") for copy in copies]
    for module in (sparse, *modules):
        output, _ = module.block_sparse_attention(module.BlockSparseInputs(*arguments, **options))
        torch.testing.assert_close(output.flatten(2, 3), expected)
