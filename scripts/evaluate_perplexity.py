"""Measure how well causal language models predict texts, in bits per byte, beside compressors and n-grams."""

import bz2
import gzip
import json
import lzma
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trine.scripts.arguments.devices import check_device
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.tokenization.records import BadRecords, iterate_records


COMPRESSORS = {
    "gzip": lambda data: gzip.compress(data, 9),
    "bzip2": lambda data: bz2.compress(data, 9),
    "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
}


@dataclass
class PerplexityArguments:
    """Options of `trine evaluate-perplexity`."""

    models: list[str] = field(metadata={"help": "Folders or Hub ids of causal language models."})
    files: list[str] = field(metadata={"help": "Held-out records, as trine pretrain reads them."})
    text_field: str = field(default="text", metadata={"help": "Name of the text in a record."})
    texts: int = field(default=1000, metadata={"help": "Texts that are measured: the first of the files."})
    ngram_files: list[str] = field(
        default_factory=list,
        metadata={"help": "What the models were trained on: adds n-gram models of it, of the first model's tokens."},
    )
    ngram_field: str | None = field(default=None, metadata={"help": "Name of their text. By default text_field."})
    ngram_order: int = field(default=5, metadata={"help": "Tokens of the longest n-grams."})
    max_length: int | None = field(
        default=None,
        metadata={"help": "Tokens in a window. By default what the model reads, and at most 1024."},
    )
    batch_size: int = field(default=8, metadata={"help": "Windows at a time."})
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    device: str | None = field(default=None, metadata={"help": "Such as cpu or cuda:1. By default the accelerator."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the models. Trine's own needs none."}
    )
    output: str | None = field(default=None, metadata={"help": "JSON file that gets the figures, too."})

    def __post_init__(self):
        check_device(self.device)
        for name, least in (("texts", 1), ("batch_size", 1), ("ngram_order", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine evaluate-perplexity` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([PerplexityArguments], argv, command="evaluate-perplexity", description=__doc__)
    try:
        texts = read_texts(arguments.files, arguments.text_field, arguments)[: arguments.texts]
        counted = read_ngram_texts(arguments)
        if arguments.output:
            open_output(Path(arguments.output))
        rows = [measure_model(name, texts, arguments) for name in arguments.models]
        if counted:
            rows.append(measure_ngrams(texts, counted, arguments))
    except INPUT_ERRORS as error:
        sys.exit(f"trine evaluate-perplexity: {error}")
    data = "\n".join(texts).encode()
    rows += [
        {"name": f"{name}, all texts as one", "bits_per_byte": 8 * len(compress(data)) / len(data)}
        for name, compress in COMPRESSORS.items()
    ]
    print(f"{len(texts):,} texts, {len(data):,} bytes\n\n{format_table(rows)}")
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def read_texts(files: list[str], text_field: str, arguments: PerplexityArguments) -> list[str]:
    """The texts of files. Raises an OSError or a ValueError for files and records that cannot be used."""
    bad = BadRecords(arguments.skip_bad_records)
    texts = [record[text_field] for record in iterate_records(files, {text_field: str}, bad)]
    bad.check()
    if not any(texts):
        raise ValueError(f"files={files} hold no text in the field '{text_field}'.")
    return texts


def read_ngram_texts(arguments: PerplexityArguments) -> list[str]:
    """The texts that n-grams are counted in, if any are named."""
    field_name = arguments.ngram_field or arguments.text_field
    return read_texts(arguments.ngram_files, field_name, arguments) if arguments.ngram_files else []


def open_output(path: Path) -> None:
    """Makes the file and its folder, before minutes go by. Raises an OSError where that cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("a").close()


def measure_model(name: str, texts: list[str], arguments: PerplexityArguments) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import trine  # noqa: F401 - registers the models of this package with the Auto classes
    from trine.training.measures.perplexity import text_losses

    remote = {"trust_remote_code": arguments.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(name, **remote)
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype="auto", **remote)
    model.to(arguments.device or torch.accelerator.current_accelerator() or "cpu").eval()
    start = time.perf_counter()
    losses = text_losses(model, tokenizer, texts, arguments.batch_size, arguments.max_length)
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return row_of(name, losses) | {"parameters": model.num_parameters()}


def measure_ngrams(texts: list[str], counted: list[str], arguments: PerplexityArguments) -> dict[str, Any]:
    import numpy as np
    import torch
    from transformers import AutoTokenizer

    import trine  # noqa: F401 - registers the tokenizers of this package with the Auto classes
    from trine.training.measures.baselines import NgramModel
    from trine.training.measures.perplexity import TextLosses, first_token

    tokenizer = AutoTokenizer.from_pretrained(arguments.models[0], trust_remote_code=arguments.trust_remote_code)
    start = first_token(tokenizer)

    def encode(texts: list[str]) -> list[list[int]]:
        return [[start, *ids] for ids in tokenizer(texts, add_special_tokens=False, verbose=False).input_ids]

    stream = torch.from_numpy(np.concatenate([np.array(ids) for ids in encode(counted)]))
    model = NgramModel(stream, len(tokenizer), arguments.ngram_order)
    rows = [(row, text) for row, text in zip(encode(texts), texts, strict=True) if len(row) > 1]
    nats = [-model.probabilities(torch.tensor([row]))[0, 1:].log().sum().item() for row, _ in rows]
    sizes = (np.array([len(row) - 1 for row, _ in rows]), np.array([len(text.encode()) for _, text in rows]))
    return row_of(f"{arguments.ngram_order}-grams of the training text", TextLosses(np.array(nats), *sizes))


def row_of(name: str, losses: Any) -> dict[str, Any]:
    return {
        "name": name,
        "nats_per_token": losses.per_token,
        "bits_per_byte": losses.bits_per_byte,
        "interval": losses.interval(),
    }


def format_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| | parameters | nats per token | bits per byte (95 %) |", "|---|---|---|---|"]
    for row in rows:
        parameters = f"{row['parameters']:,}" if "parameters" in row else ""
        nats = f"{row['nats_per_token']:.3f}" if "nats_per_token" in row else ""
        interval = " ({:.3f} to {:.3f})".format(*row["interval"]) if "interval" in row else ""
        lines.append(f"| {row['name']} | {parameters} | {nats} | {row['bits_per_byte']:.3f}{interval} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
