"""Commands train in float32 in these tests, whatever the machine is fast in."""

import pytest

from trine.training.run import precision


@pytest.fixture(autouse=True)
def slow_bfloat16(monkeypatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_instructions", lambda: [])
