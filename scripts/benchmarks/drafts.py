"""Measure decoding with drafts by smaller models: how many tokens are kept, and the speed beside plain decoding."""

import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

import trine  # noqa: F401 - registers the models of this package with the Auto classes
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.jobs.assistants import PassCounter, load_assistant, set_drafts
from trine.scripts.reports.markdown import processor, write_part
from trine.tokenization.text_files import iterate_text_files
from trine.training.measures.intervals import resampled_interval


COLUMNS = (
    "assistant",
    "temperature",
    "drafted",
    "kept",
    "tokens for a pass",
    "equal to plain",
    "plain, tokens/s",
    "with drafts",
    "beside plain",
)


@dataclass
class DraftArguments:
    """Options of `trine benchmark drafts`."""

    model: str = field(kw_only=True, metadata={"help": "Folder or Hub id of the model whose text is written."})
    assistants: list[str] = field(
        kw_only=True, metadata={"help": "Models of the same vocabulary that draft, such as its distilled students."}
    )
    files: list[str] = field(kw_only=True, metadata={"help": "Texts that prompts are the beginnings of."})
    text_field: str = field(default="text", metadata={"help": "Name of the text in a record."})
    prompts: int = field(default=12, metadata={"help": "Texts: the first that are long enough."})
    prompt_tokens: int = field(default=32, metadata={"help": "Tokens of each that are its prompt."})
    new_tokens: int = field(default=64, metadata={"help": "Tokens that are written after it."})
    drafted: list[int] = field(default_factory=lambda: [2, 4], metadata={"help": "Tokens of a draft."})
    temperatures: list[float] = field(
        default_factory=lambda: [0.0, 1.0], metadata={"help": "0 always takes the best token; others sample."}
    )
    rounds: int = field(default=3, metadata={"help": "Measurements of each, in turn."})
    seed: int = field(default=0, metadata={"help": "Random seed of sampling."})
    threads: int = field(default=1, metadata={"help": "Threads of PyTorch on the CPU."})
    device: str = field(default="cpu", metadata={"help": "Such as cpu or cuda."})
    report: str | None = field(default=None, metadata={"help": "Markdown file whose part is replaced."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with a model. Trine's own needs none."}
    )

    def __post_init__(self):
        for name in ("prompts", "prompt_tokens", "new_tokens", "rounds", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        for name, least in (("drafted", 1), ("temperatures", 0), ("assistants", None)):
            values = getattr(self, name)
            if not values or (least is not None and not min(values) >= least):
                raise ValueError(
                    f"{name}={values} must be one or more" + ("." if least is None else f", from {least}.")
                )


class Written(NamedTuple):
    """Texts after all prompts: tokens of each, passes of the model, drafted tokens, and the time in seconds."""

    tokens: list[list[int]]
    passes: np.ndarray
    drafted: np.ndarray
    seconds: float


class Row(NamedTuple):
    """A row of the report: an assistant, a temperature, a length of drafts, and all rounds with and without."""

    assistant: str
    temperature: float
    length: int
    drafted: list[Written]
    plain: list[Written]


def read_prompts(arguments: DraftArguments, tokenizer: Any, device: torch.device) -> list[torch.Tensor]:
    """The first tokens of texts (1, prompt_tokens), of those that are longer than that.

    Raises:
        ValueError: No text is long enough.
    """
    rows = (tokenizer(text)["input_ids"] for text in iterate_text_files(arguments.files, arguments.text_field))
    long = (row for row in rows if len(row) > arguments.prompt_tokens)
    prompts = [row[: arguments.prompt_tokens] for row in islice(long, arguments.prompts)]
    if not prompts:
        raise ValueError(f"files={arguments.files} hold no text of more than prompt_tokens={arguments.prompt_tokens}.")
    return [torch.tensor([prompt], device=device) for prompt in prompts]


def write(
    model: Any, prompts: Sequence[torch.Tensor], temperature: float, assistant: Any, arguments: DraftArguments
) -> Written:
    """Continues each prompt alone, with an assistant or with None, by as many tokens.

    The time is that of the process on one thread of a CPU, else that on the clock.
    """
    options: dict[str, Any] = {"max_new_tokens": arguments.new_tokens, "eos_token_id": None, "pad_token_id": 0}
    options |= {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    clock = time.process_time if arguments.device == "cpu" and arguments.threads == 1 else time.perf_counter
    tokens, counts, seconds = [], [], 0.0
    torch.manual_seed(arguments.seed)
    for prompt in prompts:
        with PassCounter(model) as ours, PassCounter(assistant or torch.nn.Identity()) as theirs:
            started = clock()
            ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), assistant_model=assistant, **options)
            tokens.append(ids[0, prompt.shape[1] :].tolist())
            seconds += clock() - started
        counts.append((ours.count, theirs.count))
    passes, drafted = np.array(counts).T
    return Written(tokens, passes, drafted, seconds)


def measure(arguments: DraftArguments) -> list[Row]:
    """All rows: each assistant at each temperature with each length of drafts, in turn with decoding without."""
    remote = {"trust_remote_code": arguments.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, **remote)
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, **remote)
    model.to(arguments.device).eval()
    assistants = {name: load_assistant(name, tokenizer, model, **remote) for name in arguments.assistants}
    for assistant in assistants.values():
        assistant.generation_config.eos_token_id = None
    prompts = read_prompts(arguments, tokenizer, model.device)
    write(model, prompts[:1], 0.0, None, arguments)  # warms up
    rows = []
    for temperature in arguments.temperatures:
        drafts: dict[tuple[str, int], list[Written]] = {
            (name, length): [] for name in assistants for length in arguments.drafted
        }
        plain = []
        for _ in tqdm(range(arguments.rounds), desc=f"temperature {temperature:g}"):
            plain.append(write(model, prompts, temperature, None, arguments))
            for (name, length), rounds in drafts.items():
                set_drafts(assistants[name], length)
                rounds.append(write(model, prompts, temperature, assistants[name], arguments))
        rows += [Row(name, temperature, length, rounds, plain) for (name, length), rounds in drafts.items()]
    return rows


def kept_share(written: Written) -> tuple[float, float, float]:
    """The share of drafted tokens that was kept, with its 95 % interval over prompts.

    A pass of the model writes the tokens that it keeps, and one of its own.
    """
    kept = np.array([len(row) for row in written.tokens]) - written.passes

    def share(counts: np.ndarray) -> float:
        return float((kept * counts).sum() / max(1, (written.drafted * counts).sum()))

    return share(np.ones(len(kept))), *resampled_interval(share, len(kept))


def line(row: Row) -> str:
    """A row of the table."""
    first, plain = row.drafted[0], row.plain[0]
    share, low, high = kept_share(first)
    total = sum(map(len, first.tokens))
    equal = sum(ours == theirs for ours, theirs in zip(first.tokens, plain.tokens, strict=True))
    ratios = [ours.seconds / theirs.seconds for ours, theirs in zip(row.plain, row.drafted, strict=True)]
    cells = (
        f"`{Path(row.assistant).name}`",
        f"{row.temperature:g}",
        str(row.length),
        f"{share:.3f} ({low:.3f} to {high:.3f})",
        f"{total / first.passes.sum():.2f}",
        f"{equal} of {len(first.tokens)}" if not row.temperature else "",
        f"{total / statistics.median(each.seconds for each in row.plain):,.0f}",
        f"{total / statistics.median(each.seconds for each in row.drafted):,.0f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
    )
    return f"| {' | '.join(cells)} |"


def report(rows: list[Row], arguments: DraftArguments, command: str) -> str:
    """The part of the Markdown file."""
    machine = torch.cuda.get_device_name() if arguments.device != "cpu" else processor()
    return f"""## Drafts for {Path(arguments.model).name}

Made on {date.today()} by `{command}`: {machine}, {arguments.threads} thread(s), torch {torch.__version__}, \
transformers {transformers.__version__}.

{len(rows[0].plain[0].tokens)} prompts of {arguments.prompt_tokens} tokens, one at a time, {arguments.new_tokens} new \
tokens. `kept` is the share of drafted tokens that the model keeps, with its 95 %
interval over prompts; speeds are medians of {arguments.rounds} rounds, in turn, with the smallest and the largest.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
{chr(10).join(map(line, rows))}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark drafts` with these arguments, by default the process's."""
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments([DraftArguments], argv, command="benchmark drafts", description=__doc__)
    torch.set_num_threads(arguments.threads)
    transformers.logging.disable_progress_bar()
    try:
        rows = measure(arguments)
    except INPUT_ERRORS as error:
        sys.exit(f"trine benchmark drafts: {error}")
    text = report(rows, arguments, shlex.join(["trine", "benchmark", "drafts", *words]))
    print(text)
    if arguments.report is not None:
        write_part(Path(arguments.report), text)


if __name__ == "__main__":
    main()
