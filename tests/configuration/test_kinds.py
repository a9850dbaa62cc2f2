"""The rows of `kinds.py`, the classes of the tables and the loops of the reference name the same kinds."""

import pytest
from support import reference
from transformers import cache_utils

from trine import TrineConfig
from trine.configuration import kinds
from trine.modeling.attention.table import ATTENTIONS
from trine.modeling.block import LAYERS
from trine.modeling.feed_forward.balancing import BALANCING_LOSSES
from trine.modeling.feed_forward.routers import ROUTERS
from trine.modeling.feed_forward.table import FEED_FORWARDS
from trine.modeling.initialization import STANDARD_DEVIATIONS
from trine.modeling.norms import NORMS
from trine.modeling.positions.table import POSITIONS


TABLES = {
    "attention": (kinds.ATTENTION_KINDS, ATTENTIONS),
    "position": (kinds.POSITION_KINDS, POSITIONS),
    "feed_forward": (kinds.FEED_FORWARD_KINDS, FEED_FORWARDS),
    "router": (kinds.ROUTER_KINDS, ROUTERS),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_kind_has_a_class_and_a_reference(name):
    rows, classes = TABLES[name]
    assert set(rows) == set(classes) == set(reference.REFERENCES[name])
    assert all(row.about.source for row in rows.values())
    assert len(set(classes.values())) == len(classes)


def test_every_choice_without_a_row_has_an_implementation():
    assert set(kinds.NORM_TYPES) == set(NORMS) == set(reference.NORMS)
    assert set(kinds.NORM_POSITIONS) == set(LAYERS)
    assert set(kinds.INITIALIZERS) == set(STANDARD_DEVIATIONS)
    assert set(kinds.BALANCING_REDUCTIONS) == set(BALANCING_LOSSES)


@pytest.mark.parametrize("kind", kinds.ATTENTION_KINDS)
def test_every_attention_has_caches_and_a_window_field(kind):
    row = kinds.ATTENTION_KINDS[kind]
    for mapping in (cache_utils.DYNAMIC_LAYER_TYPE_MAPPING, cache_utils.STATIC_LAYER_TYPE_MAPPING):
        assert row.layer_type in mapping
    assert row.window_field is None or hasattr(TrineConfig(), row.window_field)
