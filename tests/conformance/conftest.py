"""Counts what the common tests did for each class, and fails the run on a skip that no peer has."""

from collections import Counter

import pytest
from conformance import peers
from conformance.adapted import common
from conformance.cases import PEERS, RUNS, Run
from conformance.known import row_for
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
    "generate",
    "timeout",
    "torch_export_test",
    "onnx_export_test",
    "executorch_export_test",
)
COLUMNS = ("passed", "failed", "skipped", "known")
TITLES = ("class", "shape", "configurations", "passed", "failed", "skipped", "known exceptions")


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: set by the common tests of transformers")
    if config.option.tbstyle == "auto":
        config.option.tbstyle = "native"  # the other styles parse the library's long test files for every exception
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Summary(is_whole=not config.option.keyword), "conformance-summary")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by mark
def pytest_collection_modifyitems(items):
    """Marks every test of generation: transformers marks most, so that `-m generate` would leave some out."""
    for item in items:
        if getattr(item, "originalname", "") in vars(common.GenerationTesterMixin):
            item.add_marker("generate")


class Summary:
    """What each run did: `outcomes` and `reasons` go from run to test to outcome, or to the reasons of its skips.

    `is_whole` says that no test was deselected by name, so that one that a peer did not run is one that it lacks.
    """

    def __init__(self, is_whole: bool):
        self.is_whole = is_whole
        self.outcomes = {}
        self.reasons = {}

    def pytest_runtest_logreport(self, report):
        name, _, test = report.nodeid.partition("::")[2].partition("::")
        if name not in RUNS or (report.when != "call" and report.passed):
            return
        known = hasattr(report, "wasxfail")
        if report.skipped and not known:
            self.reasons.setdefault(name, {}).setdefault(test, set()).add(anonymous(RUNS[name], report.longrepr[2]))
        self.outcomes.setdefault(name, {})[test] = "known" if known else report.outcome

    def unexplained(self):
        """List the skips of ours that neither the peers nor the table of known exceptions have."""
        of_peers = self.reasons if peers.ARE_RUN else peers.recorded()
        for name, tests in self.reasons.items():
            for peer in RUNS[name].peers:
                for test, reasons in sorted(tests.items()):
                    comparable = self.is_whole or not peers.ARE_RUN or test in self.outcomes.get(peer, {})
                    if comparable and row_for(RUNS[name], test) is None:
                        for reason in sorted(reasons - of_peers.get(peer, {}).get(test, set())):
                            yield f"{name}::{test}: {reason} (unlike {peer})"

    def known_reasons(self):
        """Map each reason in the table of known exceptions to the tests and cases that it explains."""
        explained = {}
        for name, tests in self.outcomes.items():
            for test, outcome in tests.items():
                row = row_for(RUNS[name], test)
                if outcome in ("known", "skipped") and row is not None:
                    names, cases = explained.setdefault(row.reason, (set(), set()))
                    names.add(test)
                    cases.add(RUNS[name].case.name)
        return explained

    def table(self):
        """Lines of a Markdown table, one row a class."""
        rows = {}
        for run in (run for run in RUNS.values() if run.name in self.outcomes):
            key = (run.case.name in PEERS, run.case.shape, run.model_class.__name__)
            counts, cases = rows.setdefault(key, (Counter(), []))
            counts.update(self.outcomes[run.name].values())
            cases.append(run.case.name)
        yield "| " + " | ".join(TITLES) + " |"
        yield "|---" * len(TITLES) + "|"
        for (is_peer, shape, model_class), (counts, cases) in sorted(rows.items(), key=lambda row: row[0][0]):
            label = f"*transformers' {model_class}*" if is_peer else f"`{model_class}`"
            yield "| " + " | ".join([label, shape, str(len(cases)), *(str(counts[c]) for c in COLUMNS)]) + " |"

    def pytest_sessionfinish(self, session):
        if peers.IS_WRITTEN and self.is_whole:
            peers.write(self.reasons)
        if session.exitstatus == pytest.ExitCode.OK and any(self.unexplained()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        write = terminalreporter.write_line
        terminalreporter.section(f"common tests of transformers {VERSION}")
        for line in self.table():
            write(line)
        for reason, (tests, cases) in self.known_reasons().items():
            write(f"known: {', '.join(sorted(tests))} ({', '.join(sorted(cases))}): {reason}")
        for line in self.unexplained():
            write(f"SKIPPED, BUT NOT BY THE PEER: {line}", red=True)


def anonymous(run: Run, reason: str) -> str:
    """Replace the names of the run's classes, so that reasons of different models compare."""
    for place, cls in (("Config", run.case.config_class), ("Model", run.model_class)):
        reason = reason.replace(repr(cls), place).replace(cls.__name__, place)
    return reason
