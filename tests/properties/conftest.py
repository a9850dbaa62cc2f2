"""The table that closes a run of the property tests."""

from tally import IS_LONG, TALLY


def pytest_terminal_summary(terminalreporter) -> None:
    if not IS_LONG or not TALLY.counts:
        return
    terminalreporter.section("random draws")
    terminalreporter.write_line("| property | tried | refused | failed |")
    terminalreporter.write_line("|---|---|---|---|")
    for name, counts in TALLY.counts.items():
        terminalreporter.write_line(f"| {name} | {counts['tried']} | {counts['refused']} | {counts['failed']} |")
