"""Measure the energy per 1,000 tokens of models and precisions, beside the first of them, in one run."""

import math
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from trine.conversion import fast_on_cpu
from trine.conversion.companions import find_source
from trine.scripts.arguments.parsing import INPUT_ERRORS, check_known, parse_arguments
from trine.scripts.benchmarks.models import Step, decode, synchronize
from trine.scripts.reports.markdown import processor, write_part
from trine.training.measures.energy import EnergyMeter, EnergyUse


DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PARTS = {
    "processors": lambda use: use.processor_joules + use.gpu_joules,
    "memory": lambda use: use.memory_joules,
}


@dataclass
class EnergyBenchmarkArguments:
    """Options of `trine benchmark energy`."""

    models: list[str] = field(
        kw_only=True, metadata={"help": "Folders or Hub ids; the others are compared with the first."}
    )
    dtypes: list[str] = field(
        default_factory=lambda: ["auto"],
        metadata={
            "help": f"Each model is measured in each of them: {', '.join(DTYPES)}; auto is that of the weights, the "
            "only one of quantised models."
        },
    )
    fast_on_cpu: bool = field(
        default=False, metadata={"help": "Let quantised models compute by PyTorch's kernels of 8 bits on a CPU."}
    )
    batch: int = field(default=8, metadata={"help": "Texts at a time."})
    length: int = field(default=128, metadata={"help": "Tokens of a text that an encoder reads."})
    new_tokens: int = field(default=64, metadata={"help": "Tokens that a decoder adds to a prompt of 32."})
    seconds: float = field(default=3.0, metadata={"help": "Least time of a measurement, of the processor."})
    rounds: int = field(default=3, metadata={"help": "Measurements of each, in turn."})
    threads: int = field(default=1, metadata={"help": "Threads of PyTorch on the CPU."})
    device: str = field(default="cpu", metadata={"help": "Such as cpu or cuda."})
    report: str | None = field(default=None, metadata={"help": "Markdown file whose part is replaced."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with a model. Trine's own needs none."}
    )

    def __post_init__(self):
        for name in ("batch", "length", "new_tokens", "rounds", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not self.seconds >= 0.1:
            raise ValueError(f"seconds={self.seconds} must be at least 0.1: processes count hundredths.")
        check_known(self, dtypes=DTYPES)


@dataclass
class Measured:
    """A row: a model in a precision, its step, and the energy and tokens of each round."""

    name: str
    task: str
    step: Step
    megabytes: float
    uses: list[EnergyUse] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def joules(self, part: str = "processors") -> list[float]:
        """Joules of the processors or of the memory per 1,000 tokens, round by round."""
        return [1000 * PARTS[part](use) / tokens for use, tokens in zip(self.uses, self.tokens, strict=True)]


def read_config(name: str, **remote: bool) -> Any:
    """The config of a model; raises an OSError that names it."""
    try:
        return AutoConfig.from_pretrained(name, **remote)
    except (OSError, ValueError) as error:
        why = error if Path(name).exists() else "there is no such folder, nor such a model on the Hub or in its cache."
        raise OSError(f"models: '{name}' cannot be read: {why}") from error


def load(name: str, dtype: str, arguments: EnergyBenchmarkArguments) -> tuple[PreTrainedModel, str]:
    """A model, and what it is measured at: `decoding` if it can continue or translate texts, else `encoding`."""
    remote = {"trust_remote_code": arguments.trust_remote_code}
    (architecture, *_) = read_config(name, **remote).architectures or [""]
    model_class: Any = AutoModel
    if architecture.endswith("LMHeadModel") or "CausalLM" in architecture:
        model_class = AutoModelForCausalLM
    elif "ConditionalGeneration" in architecture or "Seq2SeqLM" in architecture or architecture.endswith("MTModel"):
        model_class = AutoModelForSeq2SeqLM
    model = model_class.from_pretrained(name, dtype=DTYPES[dtype], **remote).to(arguments.device).eval()
    return model, "encoding" if model_class is AutoModel else "decoding"


def dtypes_of(name: str, arguments: EnergyBenchmarkArguments) -> list[str]:
    """The types of numbers that a model is measured in: of a quantised one those of its weights alone."""
    config = read_config(name, trust_remote_code=arguments.trust_remote_code)
    return arguments.dtypes if getattr(config, "quantization_config", None) is None else ["auto"]


def megabytes_of(model: PreTrainedModel, name: str) -> float:
    """Millions of bytes of a model's weights; of quantised ones those of their files."""
    if getattr(model.config, "quantization_config", None) is None:
        return model.get_memory_footprint(return_buffers=False) / 1e6
    return sum(path.stat().st_size for path in find_source(name).glob("*.safetensors")) / 1e6


def encode(model: PreTrainedModel, arguments: EnergyBenchmarkArguments) -> Step:
    """A forward pass over random tokens; it returns their number."""
    shape = (arguments.batch, arguments.length)
    tokens = torch.randint(5, model.config.vocab_size, shape, device=model.device)

    @torch.inference_mode()
    def run() -> int:
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        return tokens.numel()

    return run


def prepare(arguments: EnergyBenchmarkArguments) -> list[Measured]:
    """The rows to measure: all models in all precisions."""
    rows = []
    for name in arguments.models:
        for dtype in dtypes_of(name, arguments):
            model, task = load(name, dtype, arguments)
            if rows and task != rows[0].task:
                raise ValueError(f"models: '{name}' is for {task}, '{arguments.models[0]}' for {rows[0].task}.")
            size = megabytes_of(model, name)
            label = f"`{Path(name).name}`" + (f", {dtype}" if dtype != "auto" else "")
            if arguments.fast_on_cpu and getattr(model.config, "quantization_config", None) is not None:
                model, label = fast_on_cpu(model), f"{label}, fast_on_cpu"
            encodes = task == "encoding"
            step = encode(model, arguments) if encodes else decode(model, arguments.new_tokens, arguments.batch)
            rows.append(Measured(label, task, step, size))
    return rows


def seconds_of(step: Step, repeats: int, arguments: EnergyBenchmarkArguments) -> tuple[float, int]:
    """The time of so many steps and their tokens; on one thread of a CPU it is the process's own time."""
    clock = time.process_time if arguments.device == "cpu" and arguments.threads == 1 else time.perf_counter
    started = clock()
    tokens = sum(step() for _ in range(repeats))
    synchronize(arguments.device)
    return clock() - started, tokens


def measure(rows: list[Measured], meter: EnergyMeter, arguments: EnergyBenchmarkArguments) -> None:
    """Measures each row in each round, after a round that warms up and finds how many steps it needs."""
    repeats: list[int] = []
    for row in tqdm(rows, desc="warm-up"):
        seconds_of(row.step, 1, arguments)
        once, _ = seconds_of(row.step, 2, arguments)
        repeats.append(max(1, round(2 * arguments.seconds / once)))
    for number in tqdm(range(arguments.rounds), desc="rounds"):
        for row, count in list(zip(rows, repeats, strict=True))[:: 1 if number % 2 else -1]:
            meter.start()
            seconds, tokens = seconds_of(row.step, count, arguments)
            row.uses.append(meter.stop())
            row.tokens.append(tokens)
            row.seconds.append(seconds)


def middle(values: Sequence[float], form: str) -> str:
    """The median, with the smallest and the largest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(rows: list[Measured]) -> list[str]:
    """The rows of the report."""
    lines = []
    for row in rows:
        pairs = zip(row.joules(), rows[0].joules(), strict=True)
        ratios = [ours / theirs for ours, theirs in pairs if theirs] or [math.nan]  # too little work measures as none
        speeds = [tokens / seconds for tokens, seconds in zip(row.tokens, row.seconds, strict=True)]
        cells = (
            row.name,
            f"{row.megabytes:.1f} MB",
            middle(row.joules(), ".2f"),
            middle(ratios, ".2f") if row is not rows[0] else "1",
            middle(row.joules("memory"), ".2f"),
            middle(speeds, ",.0f"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def report(rows: list[Measured], arguments: EnergyBenchmarkArguments, command: str) -> str:
    """The part of the Markdown file."""
    on_gpu = arguments.device != "cpu"
    machine = torch.cuda.get_device_name() if on_gpu else f"{processor()}, {arguments.threads} thread(s)"
    shape = f"{arguments.batch} texts of {arguments.length} tokens"
    if rows[0].task == "decoding":
        shape = f"{arguments.batch} texts, {arguments.new_tokens} tokens after a prompt of 32, greedy"
    source = "estimated from the share of its time that the process had and the power that its maker names"
    if not rows[0].uses[0].is_estimated:
        source = "that of its counters, for the whole machine"
    return f"""## Energy of {rows[0].task}

Made on {date.today()} by `{command}`: {machine}, torch {torch.__version__}, transformers {transformers.__version__}, \
codecarbon {version("codecarbon")}.

{shape[0].upper()}{shape[1:]}. Medians of {arguments.rounds} rounds of {arguments.seconds:g} seconds, with the \
smallest and the largest. The energy of the CPU is
{source}. That of the memory is always estimated, from its size and the time on
the clock, so that other work on the machine adds to it.

Joules are those of 1,000 tokens, and `beside` is what the processors take beside the first model.

| model | weights | J of the processors | beside | J of the memory | tokens per second |
|---|---|---|---|---|---|
{chr(10).join(table(rows))}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark energy` with these arguments, by default the process's."""
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments([EnergyBenchmarkArguments], argv, command="benchmark energy", description=__doc__)
    torch.set_num_threads(arguments.threads)
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    try:
        rows = prepare(arguments)
    except INPUT_ERRORS as error:
        sys.exit(f"trine benchmark energy: {error}")
    measure(rows, EnergyMeter(), arguments)
    text = report(rows, arguments, shlex.join(["trine", "benchmark", "energy", *words]))
    print(text)
    if arguments.report is not None:
        write_part(Path(arguments.report), text)


if __name__ == "__main__":
    main()
