"""The table that closes a run of the property tests."""

import pytest
import transformers
from support.tally import IS_LONG, TALLY


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """No bars for thousands of small models, and no warnings of transformers about what was drawn."""
    level = transformers.logging.get_verbosity()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.enable_progress_bar()
    transformers.logging.set_verbosity(level)


def pytest_terminal_summary(terminalreporter) -> None:
    if not IS_LONG or not TALLY.counts:
        return
    terminalreporter.section("random draws")
    terminalreporter.write_line("| property | tried | refused | failed |")
    terminalreporter.write_line("|---|---|---|---|")
    for name, counts in TALLY.counts.items():
        terminalreporter.write_line(f"| {name} | {counts['tried']} | {counts['refused']} | {counts['failed']} |")
