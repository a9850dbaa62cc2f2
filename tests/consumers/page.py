"""The page that shows what works as the peer, with a special step, or is refused by name."""

from collections import Counter

from consumers.contenders import CONTENDERS, KINDS, PEERS


FAILS = "**fails**"
OUTCOMES = ("works", "special step", "refused", "does not work", FAILS)
OURS = [name for name in CONTENDERS if name not in PEERS]
ONE_WAY = "only with the package"
INTRODUCTION = """\
# Through other libraries

What users of a model do with it, done alike to Trine and to transformers' own Llama, Mixtral, BERT and T5: tiny random
models, on a CPU, with the default attention (`sdpa`). `make consumers` runs it all and writes this page; it fails
where a peer works and Trine does not.

* *works*: what the second column says holds, as it does for the peer in the same run.
* *special step*: it works, after a step that the peer does not need.
* *refused*: an error names the cause.
* *does not work*: with these versions, for the peer either.

`dense` and `sparse` are decoders, with one feed-forward or experts, beside Llama and Mixtral; a name of an attention
kind is a decoder with one layer of it and one of `full`, beside Llama. Encoders stand beside BERT, encoder-decoders
beside T5. *Remote code* is a process in which trine cannot be imported: it runs the code in the folder, with
`trust_remote_code=True`.
"""
TITLES = ("case", "works means", "transformers' own", "Trine, package", "Trine, remote code")


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


def counts(package: dict, remote: dict) -> list[str]:
    """A table: for each library, how many pairs of a case and one of Trine's models came to which outcome."""
    lines = [f"| library, way | cases | {' | '.join(OUTCOMES)} |", "|---" * (2 + len(OUTCOMES)) + "|"]
    total = {}
    for library in dict.fromkeys(row["library"] for row in package["rows"].values()):
        for way, part in (("package", package), ("remote code", remote)):
            rows = [row for row in part["rows"].values() if row["library"] == library]
            found = Counter(row["outcomes"][name] for row in rows for name in OURS if name in row["outcomes"])
            total.setdefault(way, Counter()).update({"cases": len(rows), **found})
            lines.append(f"| {library}; {way} | {len(rows)} | {' | '.join(str(found[one]) for one in OUTCOMES)} |")
    for way, found in total.items():
        lines.append(f"| all; {way} | {found['cases']} | {' | '.join(str(found[one]) for one in OUTCOMES)} |")
    return lines


def remark_of(row: dict, there: dict) -> str:
    """Below a table: why a case works for nobody, what its special step is, what is refused and how."""
    steps = row["special"] if "special step" in {*row["outcomes"].values(), *there.values()} else ""
    messages = " ".join(f"`{message}`." for message in dict.fromkeys(row["messages"]))
    parts = [steps, row["refusal"], messages and f"The message: {messages}", row["reason"]]
    return " ".join(filter(None, parts))


def section(library: str, package: dict, remote: dict) -> list[str]:
    """The table of a library, and the remarks on its rows."""
    lines = [f"## {library}", "", f"| {' | '.join(TITLES)} |", "|---" * len(TITLES) + "|"]
    remarks = []
    for key, row in package["rows"].items():
        if row["library"] != library:
            continue
        there = remote["rows"].get(key, {"outcomes": {}})["outcomes"]
        if remark := remark_of(row, there):
            if remark not in remarks:
                remarks.append(remark)
            remark = f" ({remarks.index(remark) + 1})"
        peers, ours, remotely = (
            summary(*pair) for pair in ((row["outcomes"], PEERS), (row["outcomes"], OURS), (there, OURS))
        )
        remotely = "the same" if remotely == ours else remotely or ONE_WAY
        lines.append(f"| {row['case']}{remark} | {row['works']} | {peers} | {ours} | {remotely} |")
    return [
        *lines,
        "",
        *(f"{number}. {remark}" for number, remark in enumerate(remarks, 1)),
        *([""] if remarks else []),
    ]


def page(package: dict, remote: dict) -> str:
    """The page, from the parts of both runs."""
    lines = [INTRODUCTION, "Cases, and the pairs of a case and a model of Trine's:", "", *counts(package, remote), ""]
    for library in dict.fromkeys(row["library"] for row in package["rows"].values()):
        lines += section(library, package, remote)
    versions = ", ".join(f"{name} {number}" for name, number in package["versions"].items())
    lines.append(f"Versions: {versions}.")
    lines.append(f"Command: `make consumers WORKERS={package['workers']}` on {package['cores']} cores.")
    for way, part in (("With the package", package), ("As remote code", remote)):
        lines.append(f"{way}: {part['seconds'] / 60:.1f} minutes; load average {part['load']:.1f} at the end.")
    return "\n".join(lines) + "\n"
