"""What the common tests skip for transformers' own models: as `skips.json` has it, or as they do when they run.

They run where their skips are not known, which is for another version of transformers or with a checkout of its tests,
and where `PEERS` is set, which writes the file anew.
"""

import json
import os
from pathlib import Path

from conformance.cases import PEERS, RUNS, Run
from conformance.upstream import CHECKOUT, VERSION


FILE = Path(__file__).parent / "skips.json"
RECORD = json.loads(FILE.read_text(encoding="utf-8"))
IS_WRITTEN = bool(os.environ.get("PEERS"))
ARE_RUN = IS_WRITTEN or bool(CHECKOUT) or RECORD["transformers"] != VERSION
TESTED = {name: run for name, run in RUNS.items() if ARE_RUN or run.case.name not in PEERS}


RUNS_OF = {peer.name: [Run(peer, model_class).name for model_class in peer.classes] for peer in PEERS.values()}


def recorded() -> dict[str, dict[str, set[str]]]:
    """Map runs of peers to their skipped tests, and these to their reasons."""
    skips = {}
    for reason, tests in RECORD["skips"].items():
        for test, names in tests.items():
            for run in (run for name in names.split() for run in RUNS_OF.get(name, [name])):
                skips.setdefault(run, {}).setdefault(test, set()).add(reason)
    return skips


def write(reasons: dict[str, dict[str, set[str]]]) -> None:
    """Write the skips of the peers' runs among `reasons`, by reason and test: a peer's name is for all its runs."""
    skips = {}
    for name in sorted(name for name in reasons if RUNS[name].case.name in PEERS):
        for test, found in reasons[name].items():
            for reason in found:
                skips.setdefault(reason, {}).setdefault(test, []).append(name)
    texts = {reason: {test: shorten(names) for test, names in tests.items()} for reason, tests in skips.items()}
    record = {"transformers": VERSION, "skips": texts}
    FILE.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def shorten(names: list[str]) -> str:
    whole = [peer for peer, runs in RUNS_OF.items() if {*runs} <= {*names}]
    return " ".join([*whole, *(name for name in names if not any(name in RUNS_OF[peer] for peer in whole))])
