"""Collects the outcomes of a run for the page."""

import json
import os
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from consumers.contenders import CONTENDERS, WAYS
from consumers.page import FAILS, page, summary


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS = ROOT / ".cache" / "consumers"
PAGE = ROOT / "docs" / "measurements" / "consumers.md"
LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "captum",
    "langchain-huggingface",
    "llama-index-embeddings-huggingface",
    "llama-index-llms-huggingface",
    "lm-eval",
    "nnsight",
    "openai",
    "peft",
    "sentence-transformers",
    "torchao",
    "trl",
)


class Report:
    """Collects the outcomes of one way of loading, and writes the page once both ways have run whole."""

    def __init__(self, config):
        options = config.option
        self.way = options.way
        self.workers = len(options.tx or []) or 1
        arguments = [Path(config.invocation_params.dir, argument).resolve() for argument in config.args]
        self.is_whole = arguments == [HERE] and not (options.keyword or options.markexpr or options.maxfail)
        self.start = time.monotonic()
        self.rows = {}

    def pytest_runtest_logreport(self, report):
        facts = getattr(report, "consumer", None)
        if facts is None or (report.when != "call" and report.passed):
            return
        key = f"{facts['place']:06d} {facts['library']}: {facts['case']}"
        row = self.rows.setdefault(key, {**facts, "outcomes": {}})
        row["outcomes"][facts["contender"]] = facts["expected"] if report.passed else FAILS

    def pytest_sessionfinish(self, session, exitstatus):
        if not self.is_whole or exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        self.rows = dict(sorted(self.rows.items()))
        part = {
            "seconds": round(time.monotonic() - self.start),
            "workers": self.workers,
            "cores": os.cpu_count(),
            "load": os.getloadavg()[1],
            "rows": self.rows,
            "versions": {name: version(name) for name in LIBRARIES},
        }
        PARTS.mkdir(parents=True, exist_ok=True)
        (PARTS / f"{self.way}.json").write_text(json.dumps(part, indent=1), encoding="utf-8")
        files = [PARTS / f"{way}.json" for way in WAYS]
        if all(path.is_file() for path in files):
            PAGE.write_text(page(*(json.loads(path.read_text(encoding="utf-8")) for path in files)), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section(f"Trine beside its peers, {WAYS[self.way]}")
        for row in self.rows.values():
            write = terminalreporter.write_line
            bad = [name for name, outcome in row["outcomes"].items() if outcome == FAILS]
            write(f"{row['library']}: {row['case']}: {summary(row['outcomes'], CONTENDERS)}", red=bool(bad))


def facts_of(item: pytest.Item) -> dict:
    """What a report of `item` carries from the process that ran it."""
    module, case, contender = item.module, item.funcargs["case"], item.funcargs["contender"]
    files = sorted(path.name for path in HERE.glob("test_*.py"))
    return {
        "place": 100 * files.index(item.path.name) + module.CASES.index(case),
        "library": module.LIBRARY,
        "case": case.name,
        "works": case.works,
        "special": " ".join(filter(None, [case.special, case.remote_step])),
        "reason": case.reason,
        "refusal": case.refusal,
        "messages": list(case.refused.values()),
        "contender": contender.name,
        "expected": case.expected(contender),
    }
