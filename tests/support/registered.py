"""Mechanisms that are registered for a while: other tests loop over the tables."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, STATIC_LAYER_TYPE_MAPPING

from trine.configuration.kinds import KIND_TABLES
from trine.configuration.plugin_rows import PLUGINS
from trine.configuration.validation import KIND_RULES
from trine.modeling.checks.caches import OWN_LAYER_TYPES
from trine.testing.subjects import MECHANISMS


@contextmanager
def registrations_end() -> Iterator[None]:
    """Takes back what is registered within."""
    tables = [
        *KIND_TABLES.values(),
        *MECHANISMS.values(),
        *(KIND_RULES, DYNAMIC_LAYER_TYPE_MAPPING, STATIC_LAYER_TYPE_MAPPING),
    ]
    before = [set(table) for table in tables]
    plugins, types = list(PLUGINS), set(OWN_LAYER_TYPES)
    try:
        yield
    finally:
        for table, names in zip(tables, before, strict=True):
            for name in set(table) - names:
                del table[name]
        PLUGINS[:] = plugins
        OWN_LAYER_TYPES.intersection_update(types)
