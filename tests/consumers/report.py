"""The table of the run: what works as the peer, with a special step, or is refused by name."""

import json
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from consumers.contenders import CONTENDERS, KINDS, PEERS, WAYS


ROOT = Path(__file__).parents[2]
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
FAILS = "**fails**"
INTRODUCTION = """\
# Through other libraries

What users of a model do with it, done alike to Trine and to transformers' own Llama, Mixtral, BERT and T5: tiny random
models, on a CPU, with the default attention (`sdpa`). `make consumers` runs it all and writes this page; it fails
where a peer works and Trine does not.

* *works*: what the third column says holds, as it does for the peer in the same run.
* *special step*: it works, after a step that the peer does not need.
* *refused*: an error names the cause.
* *does not work*: with these versions, for the peer either.

`dense` and `sparse` are decoders, with one feed-forward or experts, beside Llama and Mixtral; a name of an attention
kind is a decoder with one layer of it and one of `full`, beside Llama. Encoders stand beside BERT, encoder-decoders
beside T5. *Remote code* is a process in which trine cannot be imported: it runs the code in the folder, with
`trust_remote_code=True`.
"""


class Report:
    """Collects the outcomes of one way of loading, and writes the page once both ways have run."""

    def __init__(self, config):
        self.way = config.option.way
        self.is_whole = not (config.option.keyword or any("::" in name for name in config.args))
        self.start = time.monotonic()
        self.rows = {}

    def pytest_runtest_logreport(self, report):
        facts = getattr(report, "consumer", None)
        if facts is None or (report.when != "call" and report.passed):
            return
        key = f"{facts['place']:06d} {facts['library']}: {facts['case']}"
        row = self.rows.setdefault(key, {**facts, "outcomes": {}})
        row["outcomes"][facts["contender"]] = facts["expected"] if report.passed else FAILS

    def pytest_sessionfinish(self, session):
        seconds = round(time.monotonic() - self.start)
        part = {"seconds": seconds, "rows": dict(sorted(self.rows.items())), "versions": versions()}
        if self.is_whole:
            PARTS.mkdir(parents=True, exist_ok=True)
            (PARTS / f"{self.way}.json").write_text(json.dumps(part, indent=1), encoding="utf-8")
        files = [PARTS / f"{way}.json" for way in WAYS]
        if self.is_whole and all(path.is_file() for path in files):
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
    return {
        "place": 100 * sorted(path.name for path in Path(__file__).parent.glob("test_*.py")).index(item.path.name)
        + module.CASES.index(case),
        "library": module.LIBRARY,
        "case": case.name,
        "works": case.works,
        "special": " ".join(filter(None, [case.special, case.remote_step])),
        "reason": case.reason,
        "refusal": case.refusal,
        "contender": contender.name,
        "expected": case.expected(contender),
    }


def versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def names(chosen: list[str]) -> str:
    """The contenders in a cell; all kinds of attention together are called so."""
    if set(KINDS) <= set(chosen):
        chosen = [name for name in chosen if name not in KINDS] + ["every kind"]
    return ", ".join(chosen)


def summary(outcomes: dict[str, str], among) -> str:
    """A cell: each outcome, and whose it is."""
    by_outcome = {}
    for name in among:
        if name in outcomes:
            by_outcome.setdefault(outcomes[name], []).append(name)
    return "; ".join(f"{outcome}: {names(who)}" for outcome, who in by_outcome.items())


def page(package: dict, remote: dict) -> str:
    """The page, from the parts of both runs."""
    titles = ("library", "case", "works means", "transformers' own", "Trine, package", "Trine, remote code")
    lines = [INTRODUCTION, f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    ours = [name for name in CONTENDERS if name not in PEERS]
    remarks = []
    for key, row in package["rows"].items():
        number = ""
        remark = remark_of(row)
        if remark:
            remarks.append(remark)
            number = f" ({len(remarks)})"
        there = remote["rows"].get(key, {"outcomes": {}})["outcomes"]
        cells = [summary(row["outcomes"], PEERS), summary(row["outcomes"], ours), summary(there, ours)]
        lines.append(f"| {row['library']} | {row['case']}{number} | {row['works']} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {remark}" for number, remark in enumerate(remarks, 1)), ""]
    minutes = (package["seconds"] + remote["seconds"]) / 60
    lines.append(f"Versions: {', '.join(f'{name} {number}' for name, number in package['versions'].items())}.")
    lines.append(f"Command: `make consumers`, {minutes:.0f} minutes on two cores.")
    return "\n".join(lines) + "\n"


def remark_of(row: dict) -> str:
    """The sentences below the table: why it works for nobody, what the special step is, what is refused and how."""
    parts = [text for text in (row["special"], row["refusal"], row["reason"]) if text]
    return f"{row['library']}, {row['case']}: {' '.join(parts)}" if parts else ""
