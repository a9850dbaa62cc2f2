"""The scores of a training in the model's card."""

from collections.abc import Mapping
from pathlib import Path


HEADING = "## Scores"


def write_scores(card: Path, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Puts a table of scores at the end of a card, in the place of one that a former training left there.

    Args:
        card: The card, as Markdown. Where there is none, none is made.
        scores: For each row, such as `model` or a baseline, its scores by their names.
    """
    if not card.is_file():
        return
    names = [*dict.fromkeys(name for row in scores.values() for name in row)]
    lines = [
        HEADING,
        "",
        "On data that were held out; `metrics.json` says more.",
        "",
        f"| | {' | '.join(names)} |",
        "|---" * len(names) + "|---|",
    ]
    for row, values in scores.items():
        cells = [f"{values[name]:.4f}" if name in values else "" for name in names]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    text = card.read_text(encoding="utf-8").split(f"\n{HEADING}\n")[0]
    card.write_text(text.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
