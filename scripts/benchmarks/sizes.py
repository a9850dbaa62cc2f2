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
from trine.scripts.arguments.parsing import check_known, parse_arguments
from trine.scripts.benchmarks.models import Task, both, decode, optimizer_step, time_task
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
TEXTS = {"1M": (16, 128), "7M": (8, 256), "34M": (2, 512)}  # in a training step: texts, and tokens in each


def train(model: PreTrainedModel, size: str, arguments: "SizeArguments", is_half: bool = False) -> Callable[[], int]:
    """Forward, backward and AdamW on random tokens, in float32 or under autocast in bfloat16."""
    tokens = torch.randint(5, model.config.vocab_size, arguments.texts(size))
    step = optimizer_step(model, {"input_ids": tokens, "labels": tokens, "use_cache": False}, tokens.numel())

    def run() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            return step()

    return run


def train_in_half(model: PreTrainedModel, size: str, arguments: "SizeArguments") -> Callable[[], int]:
    """A training step under autocast in bfloat16."""
    return train(model, size, arguments, is_half=True)


def decode_compiled(model: PreTrainedModel, size: str, arguments: "SizeArguments") -> Callable[[], int]:
    """Greedy generation of one text with a static cache, whose steps are compiled. The first run compiles."""
    compile_config = CompileConfig(mode="default")
    compile_config._compile_all_devices = True  # pyright: ignore[reportAttributeAccessIssue] a CPU, too
    options: dict[str, Any] = {"cache_implementation": "static", "compile_config": compile_config}
    return decode(model, arguments.new_tokens, **options)


TASKS = {
    "one": Task("decoding, 1 text", both(lambda model, size, arguments: decode(model, arguments.new_tokens))),
    "eight": Task(
        "decoding, 8 texts", both(lambda model, size, arguments: decode(model, arguments.new_tokens, batch=8))
    ),
    "compiled": Task("decoding, 1 text, static cache, compiled", both(decode_compiled)),
    "training": Task("training, {texts} tokens, float32", both(train)),
    "half": Task("training, {texts} tokens, bfloat16", both(train_in_half)),
    "precisions": Task(
        "training, {texts} tokens, bfloat16",
        lambda ours, theirs, *rest: (train_in_half(ours, *rest), train(ours, *rest)),
        beside="Trine in float32",
    ),
}
# How many times as fast as the peer ours should be.
TARGETS = {
    "one": {"1M": 1.3, "7M": 1.2, "34M": 1.1},
    "eight": {"1M": 1.2, "7M": 1.2, "34M": 1.3},
    "compiled": {"1M": 1.2},
    "training": {"7M": 1.12, "34M": 1.12},
    "half": {"1M": 1.3, "7M": 1.15},
    "precisions": {"34M": 1.6},
}


@dataclass
class SizeArguments:
    """Options of `trine benchmark sizes`."""

    sizes: list[str] = field(default_factory=lambda: list(SIZES), metadata={"help": f"Which of {', '.join(SIZES)}."})
    rounds: int = field(default=7, metadata={"help": "Measurements of each model, the two in turn."})
    threads: int = field(default=1, metadata={"help": "Threads of PyTorch on the CPU."})
    new_tokens: int = field(default=64, metadata={"help": "Tokens that decoding adds to a prompt of 32."})
    train_batch: int | None = field(
        default=None, metadata={"help": "Sequences in a training step. Default: 16, 8 and 2, from small to large."}
    )
    length: int | None = field(
        default=None, metadata={"help": "Tokens in each of them. Default: 128, 256 and 512, from small to large."}
    )
    tasks: list[str] = field(default_factory=lambda: list(TASKS), metadata={"help": f"Which of {', '.join(TASKS)}."})
    output: str = field(
        default="docs/measurements/benchmarks.md", metadata={"help": "Markdown file whose part is replaced."}
    )

    def __post_init__(self):
        for name in ("rounds", "threads", "length", "train_batch", "new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        check_known(self, sizes=SIZES, tasks=TASKS)

    def texts(self, size: str) -> tuple[int, int]:
        """The texts in a training step of models of a size, and the tokens in each."""
        batch, length = TEXTS[size]
        return self.train_batch or batch, self.length or length


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
of {arguments.rounds} rounds, on one thread by the process's own time; the ratio is the median of the rounds' ratios,
with the smallest and the largest.
Decoding is the whole of `generate`, greedy, {arguments.new_tokens} tokens after a prompt of 32. Training is forward,
backward and fused AdamW, bfloat16 by autocast.

| what | beside | Trine | peer | ratio | target | met |
|---|---|---|---|---|---|---|
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
            pair = make_pair(size)
            for name in arguments.tasks:
                progress.set_description(f"{size}: {name}")
                task, bound = TASKS[name], TARGETS[name].get(size)
                what = f"{size}: {task.description.format(texts=' x '.join(map(str, arguments.texts(size))))}"
                steps = task.steps(*pair, size, arguments)
                rows.append(time_task(task, what, "Llama", bound, steps, arguments.rounds))
                progress.update()
    text = report(rows, arguments, shlex.join(["trine", "benchmark", "sizes", *words]))
    write_part(Path(arguments.output), text)
    print(text)


if __name__ == "__main__":
    main()
