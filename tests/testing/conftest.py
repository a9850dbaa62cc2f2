"""Processes without the package are forked here from one that has transformers; `test_docs.py` starts one anew."""

from types import SimpleNamespace

import pytest
from support import forks

from trine.testing import sharing


@pytest.fixture(autouse=True)
def forked_strangers(monkeypatch):
    def run(program, cwd, env, **_):
        return forks.run(program[1:], cwd, env)

    monkeypatch.setattr(sharing, "subprocess", SimpleNamespace(run=run))
