"""Mechanisms of somebody's own as files, and tables that forget them after a test."""

import sys
from contextlib import contextmanager
from pathlib import Path

from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, STATIC_LAYER_TYPE_MAPPING

from trine.configuration import plugin_rows
from trine.configuration.kinds import KIND_TABLES
from trine.configuration.validation import KIND_RULES
from trine.modeling.attention.table import ATTENTIONS
from trine.modeling.feed_forward.routers import ROUTERS
from trine.modeling.feed_forward.table import FEED_FORWARDS
from trine.modeling.positions.table import POSITIONS


SIGMOID = '''\
"""Sigmoid attention."""

import torch
from torch import nn

from trine import (
    KindField,
    PairwiseAttention,
    register_attention,
)

from .{module}_helper import positive


@register_attention(
    "{name}",
    fields={{"{name}_bias": KindField(-1.0, "Where biases begin.", maximum=0)}},
    source="Ramapuram et al. 2024, arXiv 2409.04431",
)
class SigmoidAttention(PairwiseAttention):
    """Weights are sigmoids of scores."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.bias = nn.Parameter(torch.empty(config.num_attention_heads, 1, 1))

    def initialize(self):
        super().initialize()
        nn.init.constant_(self.bias, self.config.{name}_bias)

    def weights(self, scores, visible):
        weights = positive(scores + self.bias)
        return weights if visible is None else weights * visible
'''
HELPER = '"""A function."""\n\nimport torch\n\n\ndef positive(x):\n    return torch.sigmoid(x)\n'
TABLES = (*KIND_TABLES.values(), ATTENTIONS, POSITIONS, FEED_FORWARDS, ROUTERS, KIND_RULES)
CACHE_LAYERS = (DYNAMIC_LAYER_TYPE_MAPPING, STATIC_LAYER_TYPE_MAPPING)  # a copy of the code puts its own there


def write_sigmoid(folder: Path, module: str, name: str) -> Path:
    """Writes a plugin of two files that registers sigmoid attention; returns the file that does."""
    (folder / f"{module}_helper.py").write_text(HELPER)
    file = folder / f"{module}.py"
    file.write_text(SIGMOID.format(module=module, name=name))
    return file


@contextmanager
def tables_restored(tables=TABLES):
    """Takes out again what is registered inside, and forgets the modules that did so."""
    before = [dict.copy(table) for table in tables]
    plugins, modules = list(plugin_rows.PLUGINS), set(sys.modules)
    try:
        yield
    finally:
        for table, rows in zip(tables, before, strict=True):
            table.clear()
            dict.update(table, rows)
        plugin_rows.PLUGINS[:] = plugins
        for name in set(sys.modules) - modules:
            if "/tmp" in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
