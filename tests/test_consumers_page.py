"""The page that `make consumers` writes says what came out, and the one that is committed has no failure."""

from pathlib import Path

import pytest
from consumers.cases import WAY, Case
from consumers.contenders import KINDS
from consumers.page import FAILS, page


ROOT = Path(__file__).parents[1]
PLAIN = {"works": "it works", "special": "", "refusal": "", "messages": [], "reason": ""}


def part(seconds: int, **rows: dict) -> dict:
    made = {f"{place} {case}": {**PLAIN, "case": case, **row} for place, (case, row) in enumerate(rows.items())}
    return {"seconds": seconds, "workers": 2, "cores": 4, "load": 1.5, "rows": made, "versions": {"peft": "1.2.3"}}


def rows(**kinds: str) -> dict:
    everyone = {"Llama": "works", "dense": "works", **dict.fromkeys(KINDS, "works"), **kinds}
    refused = {"refusal": "No states are prefixes.", "messages": ["are not its states"]}
    return {
        "tune": {"library": "PEFT", "outcomes": everyone},
        "prefix": {
            "library": "PEFT",
            "outcomes": {"Llama": "works", "dense": "works", "linear": "refused"},
            **refused,
        },
        "serve": {"library": "OpenAI", "outcomes": {"Llama": "works", "dense": "works"}},
    }


def test_the_page_tells_outcomes_refusals_and_counts():
    package, remote = part(90, **rows()), part(30, **rows(lsh=FAILS))
    del remote["rows"]["2 serve"]
    lines = page(package, remote).splitlines()
    tune = next(line for line in lines if line.startswith("| tune"))
    assert tune.split(" | ")[2:4] == ["works: Llama", "works: dense, every kind"]
    others = ", ".join(kind for kind in KINDS if kind != "lsh")
    assert tune.split(" | ")[4] == f"works: dense, {others}; {FAILS}: lsh |"
    prefix = next(line for line in lines if line.startswith("| prefix (1)"))
    assert prefix.endswith("| works: dense; refused: linear | the same |")
    assert "1. No states are prefixes. The message: `are not its states`." in lines
    assert next(line for line in lines if line.startswith("| serve")).endswith("| only with the package |")
    assert "| PEFT; package | 2 | 9 | 0 | 1 | 0 | 0 |" in lines
    assert "| all; package | 3 | 10 | 0 | 1 | 0 | 0 |" in lines
    assert "| all; remote code | 2 | 8 | 0 | 1 | 0 | 1 |" in lines
    assert "With the package: 1.5 minutes; load average 1.5 at the end." in lines


def test_a_case_may_not_say_that_trine_fails_where_its_peer_works(monkeypatch):
    monkeypatch.setenv(WAY, "package")
    with pytest.raises(AssertionError, match="may not fail where the peer works"):
        Case("tune", lambda *_: None, "it works", ("Llama", "dense"), fails=("dense",), reason="We like it so.")


def test_the_committed_page_has_no_failure():
    lines = (ROOT / "docs" / "measurements" / "consumers.md").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if FAILS in line]) == 1, "the title of the counts, and nothing else"
