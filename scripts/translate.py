"""Translate, or summarise, texts with a trained encoder-decoder or an ensemble of several; score what is written."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trine.generation.translation.metrics import check_metrics
from trine.generation.translation.post_processing import check_language
from trine.scripts.arguments.devices import check_device
from trine.scripts.arguments.parsing import INPUT_ERRORS, RECORDS_HELP, parse_arguments
from trine.scripts.arguments.text import read_standard_input, text_field
from trine.scripts.jobs.memory import keep_freed_memory
from trine.tokenization.records import BadRecords


@dataclass
class TranslateArguments:
    """Options of `trine translate`."""

    model: list[str] = field(
        metadata={"help": "Folder or Hub id of an encoder-decoder with its tokenizer; several are an ensemble."}
    )
    text: list[str] = text_field("Texts to translate, in place of --files; in standard input each line is one.")
    files: list[str] = field(
        default_factory=list,
        metadata={"help": RECORDS_HELP},
    )
    source_field: str = field(default="source", metadata={"help": "Name of the text in a record that is read."})
    references: str | None = field(
        default=None,
        metadata={"help": "Name of the right translation in a record: with it, what is written is scored."},
    )
    metrics: list[str] = field(
        default_factory=lambda: ["bleu", "chrf", "meteor"], metadata={"help": "Scores: bleu, chrf, meteor, rouge."}
    )
    most_records: int = field(default=0, metadata={"help": "Only the first records are translated; 0 is all."})
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    output_file: str | None = field(
        default=None,
        metadata={
            "help": "File for a line per text, or, if it ends in .jsonl, a record with both. Else all is printed."
        },
    )
    target_language: str | None = field(
        default=None, metadata={"help": "Language to write, for a model trained with language tags: zh."}
    )
    language: str | None = field(
        default=None,
        metadata={
            "help": "Language that is written, for post-processing and words of scores: en, zh; none by default."
        },
    )
    num_beams: int = field(default=5, metadata={"help": "Beams of beam search; 1 is greedy search."})
    length_penalty: float = field(
        default=1.0,
        metadata={"help": "Power of the length that a beam's score is divided by; above 1 favours length."},
    )
    coverage_penalty: float = field(
        default=0.0,
        metadata={
            "help": "How much beams lose that leave parts of the source unread: 0.2 in the paper, too much for models "
            "whose attention is spread, or which leave things out as summaries do."
        },
    )
    no_repeat_ngram_size: int = field(
        default=0, metadata={"help": "Tokens in a row that are not written twice: 3 for summaries. 0: anything is."}
    )
    max_new_tokens: int | None = field(default=None, metadata={"help": "Default: the most that the model reads."})
    batch_size: int = field(default=32, metadata={"help": "Texts, of like length, at a time."})
    truncation: bool = field(default=False, metadata={"help": "Cut off texts that are too long, instead of stopping."})
    device: str | None = field(default=None, metadata={"help": "Such as cpu or cuda:1. By default the accelerator."})
    dtype: str = field(
        default="auto", metadata={"help": "Such as float32 or bfloat16. By default that of the weights."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        check_device(self.device)
        if self.text and self.files:
            raise ValueError("Give either --text or --files: what is to be translated.")
        if self.references is not None and not self.files:
            raise ValueError(f"references='{self.references}' is a field of records: it needs --files.")
        least_values = {
            "num_beams": 1,
            "batch_size": 1,
            "most_records": 0,
            "coverage_penalty": 0,
            "no_repeat_ngram_size": 0,
        }
        for name, least in {**least_values, **({} if self.max_new_tokens is None else {"max_new_tokens": 1})}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.coverage_penalty and self.num_beams < 2:
            raise ValueError(f"coverage_penalty={self.coverage_penalty} needs num_beams of 2 or more.")
        check_language(self.language)
        if self.references is not None:
            check_metrics(self.metrics)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine translate` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([TranslateArguments], argv, command="translate", description=__doc__)
    keep_freed_memory()
    try:
        sources, references = read_sources(arguments)
        if arguments.output_file:
            Path(arguments.output_file).touch()  # to know now whether it can be written
        texts = load_translator(arguments)(sources, show_progress=sys.stderr.isatty(), **decoding_options(arguments))
    except INPUT_ERRORS as error:
        sys.exit(f"trine: {error}")
    if arguments.output_file:
        write_texts(Path(arguments.output_file), sources, references, texts)
    else:
        print(*texts, sep="\n")
    if references:
        from trine.generation.translation.metrics import describe_scores, score_texts

        scores = score_texts(texts, references, arguments.metrics, arguments.language)
        print(f"\n{len(texts):,} texts:\n{describe_scores({'model': scores})}")


def read_sources(arguments: TranslateArguments) -> tuple[list[str], list[str]]:
    """The texts, and their references if they are asked for.

    Raises:
        OSError: A file cannot be read.
        ValueError: A record lacks a text, or holds an empty one, or there is no record.
    """
    from trine.scripts.jobs.text_pairs import read_texts

    if not arguments.files:
        texts = arguments.text or read_standard_input("texts, one a line,").splitlines()
        if not texts:
            raise ValueError("There is no text to translate: give --text, --files or lines in standard input.")
        return texts, []
    bad = BadRecords(arguments.skip_bad_records)
    names = [arguments.source_field] + ([arguments.references] if arguments.references else [])
    records = read_texts(arguments.files, names, bad)
    bad.check()
    if not records:
        raise ValueError(f"files={arguments.files} hold no record.")
    sources, *references = ([*column] for column in zip(*records[: arguments.most_records or None], strict=True))
    return sources, references[0] if references else []


def write_texts(path: Path, sources: list[str], references: list[str], texts: list[str]) -> None:
    """Writes a line per text, or a record with its source and reference if the file is one of JSON lines."""
    lines = texts
    if path.suffix == ".jsonl":
        columns = {"source": sources, "text": texts} | ({"reference": references} if references else {})
        rows = zip(*columns.values(), strict=True)
        lines = [json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def load_translator(arguments: TranslateArguments) -> Any:
    """The model, or the ensemble, with attention weights where coverage needs them."""
    from trine.generation.translation.translator import Translator

    options: dict[str, Any] = {"attn_implementation": "eager"} if arguments.coverage_penalty else {}
    return Translator.from_pretrained(
        arguments.model,
        language=arguments.language,
        device=arguments.device,
        dtype=arguments.dtype,
        trust_remote_code=arguments.trust_remote_code,
        **options,
    )


def decoding_options(arguments: TranslateArguments) -> dict[str, Any]:
    """The options for `Translator`."""
    options: dict[str, Any] = {"do_sample": False, "num_beams": arguments.num_beams}
    if arguments.num_beams > 1:
        options["length_penalty"] = arguments.length_penalty
    if arguments.no_repeat_ngram_size:
        options["no_repeat_ngram_size"] = arguments.no_repeat_ngram_size
    names = ("target_language", "coverage_penalty", "max_new_tokens", "batch_size", "truncation")
    return options | {name: getattr(arguments, name) for name in names}


if __name__ == "__main__":
    main()
