"""Measure how fast text is read, tokenised and packed, and in how much memory, beside the usual datasets pipeline."""

import json
import os
import random
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from itertools import chain
from pathlib import Path

from tqdm.auto import tqdm
from transformers import AutoTokenizer, logging

from trine import train_byte_level_bpe
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.datasets.python_corpus import collect_python_documents
from trine.scripts.reports.markdown import in_fresh_process, processor, write_part
from trine.training.data.corpus import PARTS, Corpus
from trine.training.data.packing import PackedBlocks
from trine.training.data.token_store import read_tokens, write_tokens
from trine.training.data.word_cache import TokenEncoder


BLOCK_LENGTH = 1024
VOCAB_SIZE = 16_384


@dataclass
class DataBenchmarkArguments:
    """Options of `trine benchmark data`."""

    sizes: list[int] = field(
        default_factory=lambda: [100, 1000], metadata={"help": "Megabytes of text; the first is that of the peer."}
    )
    report: str = field(
        default="docs/measurements/benchmarks.md", metadata={"help": "Markdown file whose part is replaced."}
    )

    def __post_init__(self):
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes={self.sizes} must be at least 1.")


@dataclass
class Measurement:
    """One way through the pipeline: tokens, seconds, and the peak of its memory beyond that of the libraries, in MiB.

    Pages of files that are mapped do not count: the system takes them back when it needs to.
    """

    tokens: int
    seconds: float
    memory: float


class MemoryPeak(threading.Thread):
    """Watches the memory of this process, and of those that it starts, until it is stopped."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.peak = anonymous_memory()
        self.stopped = threading.Event()

    def run(self) -> None:
        """Measures the memory every second."""
        while not self.stopped.wait(1.0):  # to count shared pages is slow
            self.peak = max(self.peak, anonymous_memory())

    def stop(self) -> float:
        """Ends the measurement; returns the growth of memory in MiB."""
        self.stopped.set()
        self.join()
        return self.peak - self.before


def anonymous_memory() -> float:
    """Memory of this process and of those that it started, without files, in MiB; what they share counts once."""
    children = (number for file in Path("/proc/self/task").glob("*/children") for number in file.read_text().split())
    total = 0
    for number in ("self", *children):
        with suppress(OSError):  # it has ended
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
    return total / 1024


def write_text(path: Path, megabytes: int, documents: Sequence[str]) -> None:
    """Writes JSON lines of that size: texts of 20 lines, drawn from the documents, so that none is like another."""
    chooser = random.Random(0)
    lines = [line for document in documents for line in document.splitlines() if line.strip()]
    size = 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 10**6:
            size += file.write(json.dumps({"text": "\n".join(chooser.choices(lines, k=20))}) + "\n")


def with_trine(path: str, tokenizer_path: str) -> Measurement:
    """Reads the text twice (once to split it), tokenises and writes it, and reads every block."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    peak, start, tokens = MemoryPeak(), time.perf_counter(), 0
    peak.start()
    corpus = Corpus([path], validation_fraction=0.01)
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        write_tokens(Path(folder), corpus.pieces(), TokenEncoder(tokenizer), ends_with=tokenizer.eos_token_id)
        for part in PARTS:
            blocks = PackedBlocks(read_tokens(Path(folder, part)).tokens, BLOCK_LENGTH)
            tokens += sum(blocks[index]["input_ids"].numel() for index in range(len(blocks)))
    return Measurement(tokens, time.perf_counter() - start, peak.stop())


def with_datasets(path: str, tokenizer_path: str) -> Measurement:
    """The pipeline of transformers' examples: tokenise by batches in two processes, then join and cut."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    peak, start = MemoryPeak(), time.perf_counter()
    peak.start()
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        text = load_dataset("json", data_files=path, split="train", cache_dir=folder)

        def tokenize(batch: dict) -> dict:
            return {"input_ids": tokenizer([text + tokenizer.eos_token for text in batch["text"]])["input_ids"]}

        def join(batch: dict) -> dict:
            ids = list(chain.from_iterable(batch["input_ids"]))
            stop = len(ids) // BLOCK_LENGTH * BLOCK_LENGTH
            return {"input_ids": [ids[place : place + BLOCK_LENGTH] for place in range(0, stop, BLOCK_LENGTH)]}

        options = {"batched": True, "num_proc": 2}
        blocks = text.map(tokenize, remove_columns=["text"], **options).map(join, **options).with_format("torch")
        tokens = sum(block["input_ids"].numel() for block in iterate(blocks))
    return Measurement(tokens, time.perf_counter() - start, peak.stop())


def iterate(rows) -> Iterator[dict]:
    """Yields the rows of a data set, one by one."""
    return (rows[index] for index in range(len(rows)))


def report(rows: list[str], command: str) -> str:
    """The part of the Markdown file."""
    return f"""## Reading text

Made on {date.today()} by `{command}`: {processor()}, {os.cpu_count()} cores, Python \
{sys.version.partition(" ")[0]}.

JSON lines, each a text of 20 lines drawn from Python's own documentation; a byte-level BPE of {VOCAB_SIZE:,} tokens; \
blocks of {BLOCK_LENGTH}. All the
way from the file to the blocks as tensors, in a process of its own, run once. Memory is the peak of all processes
together beyond what the libraries take, without pages of mapped files. Trine tokenises in a process for each core;
`datasets` is the pipeline of transformers' examples, with two processes.

| pipeline | text | tokens | seconds | tokens per second | memory |
|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark data` with these arguments, by default the process's."""
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments([DataBenchmarkArguments], argv, command="benchmark data", description=__doc__)
    logging.set_verbosity_error()
    documents = collect_python_documents()
    runs = [("Trine", with_trine, size) for size in arguments.sizes]
    runs.append(("datasets", with_datasets, arguments.sizes[0]))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder, "tokenizer")
        train_byte_level_bpe(documents[:2000], VOCAB_SIZE, show_progress=False).save_pretrained(tokenizer)
        for name, pipeline, size in (progress := tqdm(runs)):
            progress.set_description(f"{name}, {size} MB")
            path = Path(folder, "text.jsonl")
            write_text(path, size, documents)
            result = in_fresh_process(pipeline, str(path), str(tokenizer))
            rows.append(
                f"| {name} | {size:,} MB | {result.tokens:,} | {result.seconds:,.1f} "
                f"| {result.tokens / result.seconds:,.0f} | {result.memory:,.0f} MiB |"
            )
            tqdm.write(rows[-1])
    text = report(rows, shlex.join(["trine", "benchmark", "data", *words]))
    write_part(Path(arguments.report), text)
    print(text)


if __name__ == "__main__":
    main()
