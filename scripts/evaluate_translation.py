"""Compare ways of decoding on held-out translations or summaries, with intervals of their differences, as a table."""

import json
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trine.generation.translation.metrics import TextScores, check_metrics, measure_texts, text_habits
from trine.generation.translation.post_processing import check_language
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.jobs.memory import keep_freed_memory
from trine.scripts.reports.markdown import write_part
from trine.tokenization.records import BadRecords
from trine.training.measures.intervals import resampled_interval


# Options of which several values can be tried: what a way of decoding with one of them is called.
TRIED = {
    "length_penalty": "length penalty {:g}",
    "coverage_penalty": "coverage penalty {:g}",
    "no_repeat_ngram_size": "no {} tokens twice",
}
SHOWN = 200  # characters of a source, at most, in a sample
SEVERAL = "Of several, the best on the validation_files is taken."


@dataclass
class EvaluationArguments:
    """Options of `trine evaluate-translation`."""

    models: list[str] = field(
        metadata={
            "help": "Folders of translators that differ in their seed: of each way of decoding, mean and spread."
        }
    )
    files: list[str] = field(metadata={"help": "Held-out records, as trine translate reads them."})
    beside: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders of translators that were trained otherwise: each is compared with the models."},
    )
    source_field: str = field(default="source", metadata={"help": "Name of the text that is read."})
    target_field: str = field(default="target", metadata={"help": "Name of its right translation."})
    target_language: str | None = field(
        default=None,
        metadata={
            "help": "Language to write, for models trained with language tags: zh. One of 'beside' that has no tags "
            "is asked without."
        },
    )
    pairs: int = field(default=500, metadata={"help": "Pairs that are translated: the first of the files."})
    seed: int | None = field(
        default=None,
        metadata={"help": "Draw the pairs instead, as the training commands with this seed draw validation_pairs."},
    )
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    language: str | None = field(
        default=None,
        metadata={
            "help": "Language that is written, for post-processing and words of scores: en, zh; none by default."
        },
    )
    metrics: list[str] = field(
        default_factory=lambda: ["bleu", "chrf", "meteor"], metadata={"help": "Scores: bleu, chrf, meteor, rouge."}
    )
    num_beams: int = field(default=5, metadata={"help": "Beams of beam search."})
    length_penalty: list[float] = field(
        default_factory=list,
        metadata={"help": f"Power of the length that a beam's score is divided by; without it, 1 is taken. {SEVERAL}"},
    )
    coverage_penalty: list[float] = field(
        default_factory=list,
        metadata={"help": f"How much beams lose that leave parts of the source unread (beta). {SEVERAL}"},
    )
    no_repeat_ngram_size: list[int] = field(
        default_factory=list, metadata={"help": f"Tokens in a row that no beam may write twice. {SEVERAL}"}
    )
    validation_files: list[str] = field(
        default_factory=list, metadata={"help": "Records by which the first model's first score chooses of several."}
    )
    validation_pairs: int = field(default=200, metadata={"help": "Pairs of them that are translated: the first."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Default: the most that the model reads."})
    batch_size: int = field(default=32, metadata={"help": "Texts, of like length, at a time."})
    title: str = field(default="Ways of decoding a translation", metadata={"help": "Heading of the report."})
    description: str = field(default="", metadata={"help": "What the report says of data and models."})
    report: str | None = field(
        default=None, metadata={"help": "Markdown file that gets the part; its other parts stay. Printed by default."}
    )

    def __post_init__(self):
        for name, least in (("pairs", 1), ("validation_pairs", 1), ("num_beams", 2), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        for name, least in (("coverage_penalty", 0), ("no_repeat_ngram_size", 1)):
            if any(value < least for value in getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        for name in TRIED:
            if len(getattr(self, name)) > 1 and not self.validation_files:
                raise ValueError(f"{name}={getattr(self, name)}: to choose one of several needs validation_files.")
        check_language(self.language)
        check_metrics(self.metrics)


@dataclass
class Row:
    """A way of decoding, with the texts and scores of each seed, or of the ensemble.

    Attributes:
        base: The name of the row that it is compared with.
        texts: Those of the last seed.
    """

    name: str
    base: str | None
    scores: list[dict[str, TextScores]]
    seconds: list[float]
    texts: list[str]

    def mean(self, name: str, counts: Any = None) -> float:
        """A score, the mean over the seeds, of texts of which each counts as often as `counts` says."""
        return statistics.fmean(scores[name].total(counts) for scores in self.scores)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine evaluate-translation` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([EvaluationArguments], argv, command="evaluate-translation", description=__doc__)
    keep_freed_memory()
    from trine.generation.translation.translator import Translator

    options: dict[str, Any] = {"language": arguments.language, "attn_implementation": "eager"}
    try:
        pairs = read_columns(arguments, arguments.files, arguments.pairs, arguments.seed)
        translators = [Translator.from_pretrained(folder, **options) for folder in arguments.models]
        everyone = Translator.from_pretrained(arguments.models, **options)
        others = {Path(folder).name: Translator.from_pretrained(folder, **options) for folder in arguments.beside}
        everyone.encode(pairs[0], arguments.target_language, truncation=True)
        for translator in others.values():
            translator.encode(pairs[0], language_for(translator, arguments), truncation=True)
        chosen, tried = choose(translators[0], arguments)
    except INPUT_ERRORS as error:
        sys.exit(f"trine: {error}")
    table = ways(arguments.num_beams, chosen)
    rows = [decode(name, base, translators, *pairs, arguments, how) for name, (base, how) in table.items()]
    beam = list(table)[1]
    others |= {f"ensemble of {len(translators)}": everyone} if len(translators) > 1 else {}
    for name, translator in others.items():
        rows.append(decode(f"{name}, {beam}", beam, [translator], *pairs, arguments, table[beam][1]))
    text = describe(arguments, rows, *pairs, tried=tried, parameters=translators[0].model.num_parameters())
    print(text)
    if arguments.report:
        write_part(Path(arguments.report), text)


def read_columns(
    arguments: EvaluationArguments, files: Sequence[str], count: int, seed: int | None = None
) -> tuple[list[str], list[str]]:
    """Sources and references. Raises an OSError or a ValueError for files and records that cannot be used."""
    from trine.scripts.jobs.text_pairs import read_texts

    bad = BadRecords(arguments.skip_bad_records)
    records = read_texts(files, [arguments.source_field, arguments.target_field], bad)
    bad.check()
    if not records:
        raise ValueError(f"files={[*files]} hold no record.")
    if seed is not None:
        random.Random(seed).shuffle(records)
    sources, references = zip(*records[:count], strict=True)
    return [*sources], [*references]


def language_for(translator: Any, arguments: EvaluationArguments) -> str | None:
    """The language that a translator is asked for by its tag; None if it has no tags."""
    from trine.generation.translation.translator import known_languages

    return arguments.target_language if known_languages(translator.tokenizer) else None


def choose(translator: Any, arguments: EvaluationArguments) -> tuple[dict[str, float], list[str]]:
    """A value of each option that is tried, and lines that tell of the values among which it was chosen."""
    several = {name: values for name in TRIED if len(values := getattr(arguments, name)) > 1}
    chosen = {name: values[0] for name in TRIED if (values := getattr(arguments, name))}
    if not several:
        return chosen, []
    pairs = read_columns(arguments, arguments.validation_files, arguments.validation_pairs)
    beams = {"num_beams": arguments.num_beams, "length_penalty": 1.0}

    def score(name: str, **options: Any) -> float:
        row = decode(name, None, [translator], *pairs, arguments, {**beams, **options})
        return row.mean(next(iter(row.scores[0])))

    found = {f"beam {arguments.num_beams}": score("tried: plain beams")}
    for name, values in several.items():
        scores = [score(f"tried: {TRIED[name].format(value)}", **{name: value}) for value in values]
        chosen[name] = values[max(range(len(values)), key=scores.__getitem__)]
        found |= {TRIED[name].format(value): each for value, each in zip(values, scores, strict=True)}
    told = "; ".join(f"{name}: {each:.2f}" for name, each in found.items())
    return chosen, [f"Chosen by the first score of {len(pairs[0]):,} validation pairs with {told}."]


def ways(num_beams: int, chosen: Mapping[str, float]) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """By the name of each way of decoding: that of the way that it is compared with, and its options."""
    beam, plain = f"beam {num_beams}", {"num_beams": num_beams, "length_penalty": 1.0}
    table: dict[str, tuple[str | None, dict[str, Any]]] = {"greedy": (None, {"num_beams": 1}), beam: ("greedy", plain)}
    for name, value in chosen.items():
        table[f"{beam}, {TRIED[name].format(value)}"] = beam, {**plain, name: value}
    penalties = {name: value for name, value in chosen.items() if name != "no_repeat_ngram_size"}
    if len(penalties) > 1:
        both = ", ".join(TRIED[name].format(value) for name, value in penalties.items())
        table[f"{beam}, {both}"] = beam, {**plain, **penalties}
    return table


def decode(
    name: str,
    base: str | None,
    translators: Sequence[Any],
    sources: list[str],
    references: list[str],
    arguments: EvaluationArguments,
    how: Mapping[str, Any],
) -> Row:
    """Decodes with each translator in one way, and scores the texts."""
    row = Row(name, base, [], [], [])
    settings = {"batch_size": arguments.batch_size, "max_new_tokens": arguments.max_new_tokens, "truncation": True}
    for translator in translators:
        start = time.perf_counter()
        language = language_for(translator, arguments)
        row.texts = translator(sources, target_language=language, do_sample=False, **settings, **how)
        row.seconds.append(time.perf_counter() - start)
        scores = measure_texts(row.texts, references, arguments.metrics, arguments.language)
        row.scores.append(scores | text_habits(row.texts, arguments.language))
        told = ", ".join(f"{key} {score.total():.2f}" for key, score in row.scores[-1].items())
        print(f"{name}: {told}, {row.seconds[-1]:.0f} s", file=sys.stderr, flush=True)
    return row


def describe(
    arguments: EvaluationArguments,
    rows: list[Row],
    sources: list[str],
    references: list[str],
    tried: list[str],
    parameters: int,
) -> str:
    """The tables, and the three best and worst sentences of the last row by chrF, those of middling length."""
    from trine.generation.translation.metrics import sentence_chrf

    names = list(rows[0].scores[0])
    steps = {step for folder in arguments.models if (step := read_steps(Path(folder))) is not None}
    trained = f", trained for {' or '.join(f'{step:,}' for step in sorted(steps))} steps" if steps else ""
    seeds = f"{len(arguments.models)} seeds" if len(arguments.models) > 1 else "one seed"
    models = f"{seeds} of a model with {parameters:,} parameters{trained}"
    habits = {name: score.total() for name, score in text_habits(references, arguments.language).items()}
    facts = (
        f"{len(sources):,} held-out pairs, {models}: mean (smallest to largest). References have "
        f"{habits['words']:.2f} words, and {habits['repeating']:.1f} % of them a pair of words twice (`repeating`). "
        "Seconds are those of one decoding."
    )
    lines = [f"| decoding | {' | '.join(names)} | seconds |", "|---" * (len(names) + 2) + "|"]
    for row in rows:
        cells = [spread([scores[name].total() for scores in row.scores]) for name in names]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {statistics.fmean(row.seconds):.0f} |")
    last, scores = rows[-1], sentence_chrf(rows[-1].texts, references)
    order = sorted(range(len(sources)), key=lambda index: scores[index])
    right = [index for index in order if last.texts[index] == references[index]]
    samples = {
        "Word for word": sorted(right, key=lambda index: -len(references[index]))[:3],
        "Middling": order[len(order) // 2 - 1 : len(order) // 2 + 2],
        "Worst": order[:3],
    }
    parts = [f"## {arguments.title}", *filter(None, [arguments.description]), *tried, facts, "\n".join(lines)]
    parts += ["Differences, with 95 % intervals of the paired bootstrap over pairs:", differences(rows, len(sources))]
    parts.append(
        f"Samples of {last.name}, chosen by the chrF of the sentence; {len(right)} of all are as the reference:"
    )
    parts.append(
        "\n".join(
            f"* {kind}, {scores[index]:.0f}: {beginning(sources[index])} → {last.texts[index]} "
            f"(reference: {references[index]})"
            for kind, chosen in samples.items()
            for index in chosen
        )
    )
    return "\n\n".join(parts) + "\n"


def beginning(text: str) -> str:
    """As much of a text as a sample shows, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[:SHOWN] + "…"


def differences(rows: list[Row], size: int) -> str:
    """A table of each row's scores less those of the row that it is compared with."""
    names, by_name = list(rows[0].scores[0]), {row.name: row for row in rows}
    lines = [f"| difference | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        if row.base is None:
            continue
        cells, base = [], by_name[row.base]
        for name in names:

            def gain(counts: Any = None, row: Row = row, name: str = name, base: Row = base) -> float:
                return row.mean(name, counts) - base.mean(name, counts)

            low, high = resampled_interval(gain, size)
            cells.append(f"{gain():+.2f} ({low:+.2f} to {high:+.2f})")
        lines.append(f"| {row.name}, beside {row.base} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
