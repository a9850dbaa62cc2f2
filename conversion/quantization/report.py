"""Reports how each weight of a checkpoint was quantised, as a table and as JSON."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from .weights import Weight


HEADING = "## Quantisation"


@dataclass
class Report:
    """The outcome of a quantisation.

    Attributes:
        source: As it was given.
        target: As it was given.
        scheme: Of `SCHEMES`.
        weights: All tensors of the source.
        bytes_before: Of the weight files of the source.
        bytes_after: Of those of the target.
        quality: Figures on texts; see `quality.py`.
    """

    source: str
    target: str
    scheme: str
    weights: list[Weight]
    bytes_before: int
    bytes_after: int
    quality: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Bytes after for each byte before."""
        return self.bytes_after / max(1, self.bytes_before)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**asdict(self), "ratio": self.ratio}

    def table(self) -> str:
        """A Markdown table: a row for the same weight of all layers, with what became of it, and why not."""
        rows: dict[tuple[str, str, str], list[Weight]] = {}
        for weight in self.weights:
            rows.setdefault((re.sub(r"\.\d+\.", ".*.", weight.name), weight.stored, weight.why), []).append(weight)
        lines = [("weights", "number", "before", "after", "stored as", "why not, or why so")]
        for (name, stored, why), group in rows.items():
            before, after = (sum(getattr(weight, when) for weight in group) for when in ("before", "after"))
            lines.append((f"`{name}`", f"{len(group)}", f"{before:,}", f"{after:,}", stored, why))
        quantized = sum(weight.before for weight in self.weights if weight.is_quantized)
        share = f"{quantized / max(1, sum(weight.before for weight in self.weights)):.1%} of the bytes quantised"
        total = (f"{self.bytes_before:,}", f"{self.bytes_after:,}", f"{self.ratio:.3f} of before", share)
        return align([*lines, ("all files", f"{len(self.weights)}", *total)])

    def card(self) -> str:
        """A section for the model card."""
        lines = [HEADING, "", f"`{self.scheme}` of `trine quantize`; sizes in bytes.", "", self.table()]
        return "\n".join([*lines, *(["", *self.told()] if self.quality else [])]) + "\n"

    def told(self) -> list[str]:
        """The quality on texts, a line for each figure."""
        return [
            f"{name}: {value if isinstance(value, str) else f'{value:.4g}'}" for name, value in self.quality.items()
        ]


def align(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table that can be read as it is; numbers stand to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = (1, 2, 3)
    lines = [
        "| " + " | ".join(cell.rjust(width) if n in right else cell.ljust(width) for n, (cell, width) in cells) + " |"
        for cells in (list(enumerate(zip(row, widths, strict=True))) for row in rows)
    ]
    rule = "| " + " | ".join("-" * (width - 1) + (":" if n in right else "-") for n, width in enumerate(widths)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])
