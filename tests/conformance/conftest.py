"""Counts what the common tests did for each case, and fails the run on a skip that the peer does not have."""

from collections import Counter

import pytest
from conformance.cases import CASES, Case
from conformance.known import reason_for
from conformance.upstream import VERSION


collect_ignore = ["stubs"]
MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "torch_compile_test",
    "is_training_test",
    "is_tensor_parallel_test",
    "is_expert_parallel_test",
    "is_fsdp_test",
)
COLUMNS = ("passed", "failed", "skipped", "known")


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: set by the common tests of transformers")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Summary(), "conformance-summary")


class Summary:
    """What each case did: `outcomes` and `reasons` go from case to test to outcome, or to the reasons of its skips."""

    def __init__(self):
        self.outcomes = {}
        self.reasons = {}

    def pytest_runtest_logreport(self, report):
        name, _, test = report.nodeid.partition("::")[2].partition("::")
        if name not in CASES or (report.when != "call" and report.passed):
            return
        known = hasattr(report, "wasxfail")
        if report.skipped and not known:
            self.reasons.setdefault(name, {}).setdefault(test, set()).add(anonymous(CASES[name], report.longrepr[2]))
        is_whole_test = not hasattr(report, "context")  # and not one of its subtests
        if is_whole_test:
            self.outcomes.setdefault(name, {})[test] = "known" if known else report.outcome

    def unexplained(self):
        """List the skips of ours that neither the peer nor the table of known exceptions has."""
        for name, tests in self.reasons.items():
            case = CASES[name]
            for test, reasons in sorted(tests.items()):
                peer_ran = test in self.outcomes.get(case.peer, {})
                if peer_ran and reason_for(case, test) is None:
                    for reason in sorted(reasons - self.reasons.get(case.peer, {}).get(test, set())):
                        yield f"{name}::{test}: {reason}"

    def known_reasons(self):
        """Map each reason in the table of known exceptions to the tests that it explains."""
        explained = {}
        for name, tests in self.outcomes.items():
            for test, outcome in tests.items():
                reason = reason_for(CASES[name], test)
                if outcome in ("known", "skipped") and reason is not None:
                    explained.setdefault(reason, set()).add(test)
        return explained

    def pytest_sessionfinish(self, session):
        if session.exitstatus == pytest.ExitCode.OK and any(self.unexplained()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        write = terminalreporter.write_line
        terminalreporter.section(f"common tests of transformers {VERSION}")
        write("".join(f"{title:>17}" for title in ("case", *COLUMNS)))
        for name in CASES:
            if name in self.outcomes:
                counts = Counter(self.outcomes[name].values())
                write(f"{name:>17}" + "".join(f"{counts[column]:>17}" for column in COLUMNS))
        for reason, tests in self.known_reasons().items():
            write(f"known: {', '.join(sorted(tests))}: {reason}")
        for line in self.unexplained():
            write(f"SKIPPED, BUT NOT BY THE PEER: {line}", red=True)


def anonymous(case: Case, reason: str) -> str:
    """Replace the names of the case's classes, so that reasons of different models compare."""
    for place, cls in zip(("Config", "Model", "Head"), case.classes, strict=True):
        reason = reason.replace(repr(cls), place).replace(cls.__name__, place)
    return reason
