"""Measure decoding and training of small decoders of several sizes beside Llama of transformers, in one run."""

import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.generation.configuration_utils import CompileConfig

from trine import TrineConfig, TrineForCausalLM
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.benchmarks.models import decode, optimizer_step, speed_row, time_pair
from trine.scripts.reports.markdown import processor, write_part


SIZES: dict[str, dict[str, int]] = {
    "1M": {"vocab_size": 2048, "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 384},
    "7M": {"vocab_size": 8192, "hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 704},
    "34M": {"vocab_size": 32000, "hidden_size": 512, "num_hidden_layers": 6, "intermediate_size": 1408},
}
HEADS = {
    "1M": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "7M": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "34M": {"num_attention_heads": 8, "num_key_value_heads": 4},
}


@dataclass
class SizeArguments:
    """Options of `trine benchmark sizes`."""

    sizes: list[str] = field(default_factory=lambda: list(SIZES), metadata={"help": f"Which of {', '.join(SIZES)}."})
    rounds: int = field(default=7, metadata={"help": "Measurements of each model, the two in turn."})
    threads: int = field(default=1, metadata={"help": "Threads of PyTorch on the CPU."})
    new_tokens: int = field(default=64, metadata={"help": "Tokens that decoding adds to a prompt of 32."})
    train_batch: int = field(default=4, metadata={"help": "Sequences in a training step."})
    length: int = field(default=256, metadata={"help": "Tokens in each of them."})
    tasks: list[str] = field(
        default_factory=lambda: list(TASKS), metadata={"help": "Which of one, eight, compiled, training, half."}
    )
    output: str = field(
        default="docs/measurements/benchmarks.md", metadata={"help": "Markdown file whose part is replaced."}
    )

    def __post_init__(self):
        for name in ("rounds", "threads", "length", "train_batch", "new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        for name, known in (("sizes", SIZES), ("tasks", TASKS)):
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown:
                raise ValueError(f"{name}={unknown} are not among {list(known)}.")


def train(model: PreTrainedModel, arguments: SizeArguments, is_half: bool = False) -> Callable[[], int]:
    """Forward, backward and AdamW on random tokens, in float32 or under autocast in bfloat16."""
    tokens = torch.randint(5, model.config.vocab_size, (arguments.train_batch, arguments.length))
    step = optimizer_step(model, {"input_ids": tokens, "labels": tokens, "use_cache": False}, tokens.numel())

    def run() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            return step()

    return run


def decode_compiled(model: PreTrainedModel, arguments: SizeArguments) -> Callable[[], int]:
    """Greedy generation of one text with a static cache, whose steps are compiled. The first run compiles."""
    compile_config = CompileConfig(mode="default")
    compile_config._compile_all_devices = True  # pyright: ignore[reportAttributeAccessIssue] a CPU, too
    options: dict[str, Any] = {"cache_implementation": "static", "compile_config": compile_config}
    return decode(model, arguments.new_tokens, **options)


TASKS: dict[str, tuple[str, Callable[[PreTrainedModel, SizeArguments], Callable[[], int]]]] = {
    "one": ("decoding, 1 text", lambda model, arguments: decode(model, arguments.new_tokens)),
    "eight": ("decoding, 8 texts", lambda model, arguments: decode(model, arguments.new_tokens, batch=8)),
    "compiled": ("decoding, 1 text, static cache, compiled", decode_compiled),
    "training": ("training, {train_batch} x {length} tokens, float32", train),
    "half": (
        "training, {train_batch} x {length} tokens, bfloat16",
        lambda model, arguments: train(model, arguments, is_half=True),
    ),
}


def make_pair(size: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Trine's model and Llama, of one shape."""
    models = []
    shape: dict[str, Any] = {
        **SIZES[size],
        **HEADS[size],
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    for model_class, config in ((TrineForCausalLM, TrineConfig(**shape)), (LlamaForCausalLM, LlamaConfig(**shape))):
        torch.manual_seed(0)
        models.append(model_class(config))
    ours, theirs = (model.num_parameters() for model in models)
    if ours != theirs:
        raise RuntimeError(f"Trine has {ours:,} parameters, Llama {theirs:,}: the shapes are not equal.")
    return models[0], models[1]


def report(rows: list[str], arguments: SizeArguments, command: str) -> str:
    """The part of the Markdown file."""
    shapes = [f"* {size}: {', '.join(f'{key} {value}' for key, value in SIZES[size].items())}" for size in SIZES]
    return f"""## Small decoders beside Llama

Made on {date.today()} by `{command}`: {processor()}, {arguments.threads} thread(s), torch {torch.__version__}, \
transformers {transformers.__version__}, Python {platform.python_version()}.

Both models of a row have the same shape and number of parameters, and run in turn in one process. Speeds are medians
of {arguments.rounds} rounds; the ratio is the median of the rounds' ratios, with the smallest and the largest.
Decoding is the whole of `generate`, greedy, {arguments.new_tokens} tokens after a prompt of 32. Training is forward,
backward and AdamW, bfloat16 by autocast.

| size | what | Trine | Llama | ratio |
|---|---|---|---|---|
{chr(10).join(rows)}

{chr(10).join(shapes)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark sizes` with these arguments, by default the process's."""
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments([SizeArguments], argv, command="benchmark sizes", description=__doc__)
    torch.set_num_threads(arguments.threads)
    transformers.logging.disable_progress_bar()
    rows = []
    with tqdm(total=len(arguments.sizes) * len(arguments.tasks)) as progress:
        for size in arguments.sizes:
            ours, theirs = make_pair(size)
            for task in arguments.tasks:
                description, make = TASKS[task]
                progress.set_description(f"{size}: {task}")
                speeds = time_pair(make(ours, arguments), make(theirs, arguments), arguments.rounds, "cpu")
                rows.append(speed_row(size, description.format(**vars(arguments)), speeds))
                progress.update()
    text = report(rows, arguments, shlex.join(["trine", "benchmark", "sizes", *words]))
    write_part(Path(arguments.output), text)
    print(text)


if __name__ == "__main__":
    main()
