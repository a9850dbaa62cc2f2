"""Commands train in float32 in these tests, whatever the machine is fast in."""

from collections.abc import Iterator

import pytest

from trine.training.run import precision


# Of the module, as fixtures of modules train, too.
@pytest.fixture(autouse=True, scope="module")
def slow_bfloat16() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "bfloat16_instructions", lambda: [])
        yield
