"""Every tick of the README has its row in docs/evidence.md, and behind it tests that exist."""

import ast
import re

import pytest
from tables import README, ROOT


EVIDENCE = ROOT / "docs" / "evidence.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def ticked(text: str) -> list[str]:
    """The promises of a table whose second column is a tick, without their links."""
    return [plain(row) for row in re.findall(r"^\| (.+) \| ✓ \|$", text, flags=re.MULTILINE)]


def plain(text: str) -> str:
    """A text without its links."""
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)


def backed(text: str) -> dict[str, list[tuple[str, str]]]:
    """The tests of each promise: files and functions."""
    part = text.partition("<!-- promises -->\n")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines()[2:]]
    return {row[0]: TEST.findall(row[1]) for row in rows}


def problems(readme: str, evidence: str) -> list[str]:
    """What is wrong with the ticks of a README, by the rows of its evidence."""
    promises, rows = ticked(readme), backed(evidence)
    found = [f"no evidence: {promise}" for promise in promises if promise not in rows]
    found += [f"not promised: {promise}" for promise in rows if promise not in promises]
    for promise, tests in rows.items():
        found += [] if tests else [f"no test: {promise}"]
        found += [f"no such test: {file}::{name}" for file, name in tests if name not in functions(file)]
    return found


def functions(file: str) -> set[str]:
    """The tests of a file, or nothing where there is none."""
    path = ROOT / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_tick_has_a_test():
    readme, evidence = README.read_text(encoding="utf-8"), EVIDENCE.read_text(encoding="utf-8")
    assert len(ticked(readme)) == readme.count("✓") >= 8
    assert problems(readme, evidence) == []


ROW = "| it works ([how](how.md)) | ✓ |\n"
EVIDENCE_OF_IT = "<!-- promises -->\n| promise | test | measured |\n|---|---|---|\n| it works (how) | {} | never |\n\n"
HERE = "`tests/test_evidence.py::test_every_tick_has_a_test`"


@pytest.mark.parametrize(
    ("readme", "test", "said"),
    [
        (ROW, HERE, []),
        (ROW, "by eye", ["no test: it works (how)"]),
        (ROW, HERE.replace("every", "each"), ["no such test: tests/test_evidence.py::test_each_tick_has_a_test"]),
        (ROW, "`tests/test_none.py::test_one`", ["no such test: tests/test_none.py::test_one"]),
        (ROW + "| it flies | ✓ |\n", HERE, ["no evidence: it flies"]),
        ("", HERE, ["not promised: it works (how)"]),
    ],
)
def test_a_tick_without_a_test_is_told(readme, test, said):
    assert problems(readme, EVIDENCE_OF_IT.format(test)) == said
