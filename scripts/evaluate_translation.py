"""Compare ways of decoding on held-out translations: greedy, beams, beams with penalties, an ensemble; as a table."""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trine.generation.translation.metrics import check_metrics
from trine.generation.translation.post_processing import check_language
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.jobs.memory import keep_freed_memory
from trine.scripts.reports.markdown import write_part
from trine.tokenization.records import BadRecords


METRICS = ("bleu", "chrf", "meteor")


@dataclass
class EvaluationArguments:
    """Options of `trine evaluate-translation`."""

    models: list[str] = field(
        metadata={
            "help": "Folders of translators that differ in their seed: of each way of decoding, mean and spread."
        }
    )
    files: list[str] = field(metadata={"help": "Held-out records, as trine translate reads them."})
    source_field: str = field(default="source", metadata={"help": "Name of the text that is read."})
    target_field: str = field(default="target", metadata={"help": "Name of its right translation."})
    pairs: int = field(default=500, metadata={"help": "Pairs that are translated: the first of the files."})
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    language: str | None = field(
        default=None,
        metadata={
            "help": "Language that is written, for post-processing and words of scores: en, zh; none by default."
        },
    )
    num_beams: int = field(default=5, metadata={"help": "Beams of beam search."})
    length_penalty: float = field(
        default=1.2,
        metadata={"help": "Power of the length that a beam's score is divided by; without it, 1 is taken."},
    )
    coverage_penalty: float = field(
        default=0.05, metadata={"help": "How much beams lose that leave parts of the source unread (beta)."}
    )
    max_new_tokens: int | None = field(default=None, metadata={"help": "Default: the most that the model reads."})
    batch_size: int = field(default=32, metadata={"help": "Texts, of like length, at a time."})
    title: str = field(default="Ways of decoding a translation", metadata={"help": "Heading of the report."})
    description: str = field(default="", metadata={"help": "What the report says of data and models."})
    report: str | None = field(
        default=None, metadata={"help": "Markdown file that gets the part; its other parts stay. Printed by default."}
    )

    def __post_init__(self):
        for name, least in (("pairs", 1), ("num_beams", 2), ("batch_size", 1), ("coverage_penalty", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        check_language(self.language)
        check_metrics(METRICS)


@dataclass
class Row:
    """A way of decoding, with the texts and scores of each seed, or of the ensemble."""

    name: str
    scores: list[dict[str, float]]
    seconds: list[float]
    texts: list[str]  # of the last seed


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine evaluate-translation` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([EvaluationArguments], argv, command="evaluate-translation", description=__doc__)
    keep_freed_memory()
    from trine.generation.translation.translator import Translator

    options: dict[str, Any] = {"language": arguments.language, "attn_implementation": "eager"}
    try:
        sources, references = read_columns(arguments)
        translators = [Translator.from_pretrained(folder, **options) for folder in arguments.models]
        everyone = Translator.from_pretrained(arguments.models, **options)
        everyone.encode(sources, truncation=True)
    except INPUT_ERRORS as error:
        sys.exit(f"trine: {error}")
    rows = [decode(name, translators, sources, references, arguments) for name in ways(arguments)]
    if len(translators) > 1:
        rows.append(decode(f"beam {arguments.num_beams}", [everyone], sources, references, arguments))
        rows[-1].name = f"ensemble of {len(translators)}, {rows[-1].name}"
    text = describe(arguments, rows, sources, references, parameters=translators[0].model.num_parameters())
    print(text)
    if arguments.report:
        write_part(Path(arguments.report), text)


def read_columns(arguments: EvaluationArguments) -> tuple[list[str], list[str]]:
    """Sources and references. Raises an OSError or a ValueError for files and records that cannot be used."""
    from trine.scripts.jobs.text_pairs import read_texts

    bad = BadRecords(arguments.skip_bad_records)
    records = read_texts(arguments.files, [arguments.source_field, arguments.target_field], bad)
    bad.check()
    if not records:
        raise ValueError(f"files={arguments.files} hold no record.")
    sources, references = zip(*records[: arguments.pairs], strict=True)
    return [*sources], [*references]


def ways(arguments: EvaluationArguments) -> dict[str, dict[str, Any]]:
    """The options of each way of decoding, by its name."""
    beams, length, coverage = arguments.num_beams, arguments.length_penalty, arguments.coverage_penalty
    plain = {"num_beams": beams, "length_penalty": 1.0}
    return {
        "greedy": {"num_beams": 1},
        f"beam {beams}": plain,
        f"beam {beams}, length penalty {length:g}": {**plain, "length_penalty": length},
        f"beam {beams}, coverage penalty {coverage:g}": {**plain, "coverage_penalty": coverage},
        f"beam {beams}, length penalty {length:g}, coverage penalty {coverage:g}": {
            "num_beams": beams,
            "length_penalty": length,
            "coverage_penalty": coverage,
        },
    }


def decode(
    name: str, translators: Sequence[Any], sources: list[str], references: list[str], arguments: EvaluationArguments
) -> Row:
    """Decodes with each translator in one way, and scores the texts."""
    from trine.generation.translation.metrics import score_texts

    row = Row(name, [], [], [])
    settings = {"batch_size": arguments.batch_size, "max_new_tokens": arguments.max_new_tokens, "truncation": True}
    for translator in translators:
        start = time.perf_counter()
        row.texts = translator(sources, do_sample=False, **settings, **ways(arguments)[name])
        row.seconds.append(time.perf_counter() - start)
        row.scores.append(score_texts(row.texts, references, METRICS, arguments.language))
        print(f"{name}: {row.scores[-1]}, {row.seconds[-1]:.0f} s", file=sys.stderr, flush=True)
    return row


def describe(
    arguments: EvaluationArguments, rows: list[Row], sources: list[str], references: list[str], parameters: int
) -> str:
    """The table, and the three best and worst sentences of the last row by chrF, those of middling length."""
    from trine.generation.translation.metrics import sentence_chrf

    names = list(rows[0].scores[0])
    steps = {step for folder in arguments.models if (step := read_steps(Path(folder))) is not None}
    trained = f", trained for {' or '.join(f'{step:,}' for step in sorted(steps))} steps" if steps else ""
    models = f"{len(arguments.models)} seeds of a model with {parameters:,} parameters{trained}"
    facts = (
        f"{len(sources):,} held-out pairs, {models}: mean (smallest to largest). Seconds are those of one decoding."
    )
    lines = [f"| decoding | {' | '.join(names)} | seconds |", "|---" * (len(names) + 2) + "|"]
    for row in rows:
        cells = [spread([scores[name] for scores in row.scores]) for name in names]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {statistics.fmean(row.seconds):.0f} |")
    last, scores = rows[-1], sentence_chrf(rows[-1].texts, references)
    order = sorted(range(len(sources)), key=lambda index: scores[index])
    right = [index for index in order if last.texts[index] == references[index]]
    samples = {
        "Word for word": sorted(right, key=lambda index: -len(references[index]))[:3],
        "Middling": order[len(order) // 2 - 1 : len(order) // 2 + 2],
        "Worst": order[:3],
    }
    parts = [f"## {arguments.title}", *filter(None, [arguments.description]), facts, "\n".join(lines)]
    parts.append(
        f"Samples of {last.name}, chosen by the chrF of the sentence; {len(right)} of all are as the reference:"
    )
    parts.append(
        "\n".join(
            f"* {kind}, {scores[index]:.0f}: {sources[index]} → {last.texts[index]} (reference: {references[index]})"
            for kind, chosen in samples.items()
            for index in chosen
        )
    )
    return "\n\n".join(parts) + "\n"


def read_steps(folder: Path) -> int | None:
    """The number of steps that a model was trained, if its folder tells."""
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")).get("steps") if path.is_file() else None


def spread(values: Sequence[float]) -> str:
    """The mean, and the least and greatest of several values."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
