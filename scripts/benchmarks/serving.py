"""Measure continuous batching on ragged requests, beside generate one by one and on padded batches."""

import math
import os
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, logging, set_seed

from trine import TrineConfig, TrineForCausalLM
from trine.modeling.checks.batching import check_continuous_batching
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.reports.markdown import processor, write_part


PAGE_SIZE = 16


@dataclass
class ServingBenchmarkArguments:
    """Options of `trine benchmark serving`."""

    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a decoder. By default a small one of random weights."}
    )
    attention_types: str = field(default="sliding*3, full", metadata={"help": "Layers of the small one."})
    hidden_size: int = field(default=256, metadata={"help": "Its width."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Its layers."})
    requests: int = field(default=32, metadata={"help": "Number of requests."})
    prompt_lengths: list[int] = field(default_factory=lambda: [8, 128], metadata={"help": "Least and most tokens."})
    new_tokens: list[int] = field(
        default_factory=lambda: [8, 128], metadata={"help": "Least and most tokens that a request asks for."}
    )
    batch_sizes: list[int] = field(
        default_factory=lambda: [32, 8], metadata={"help": "Most requests at a time, for padded and for continuous."}
    )
    rounds: int = field(default=3, metadata={"help": "Repetitions, of which the median counts."})
    seed: int = field(default=0, metadata={"help": "Random seed of weights and requests."})
    report: str | None = field(default=None, metadata={"help": "Markdown file whose part is replaced."})

    def __post_init__(self):
        for name in ("prompt_lengths", "new_tokens"):
            low, high = (*getattr(self, name), 0, 0)[:2]
            if len(getattr(self, name)) != 2 or not 1 <= low <= high:
                raise ValueError(f"{name}={getattr(self, name)} is not a least and a most number, as 8 128.")
        for name in ("requests", "rounds", "hidden_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError(f"batch_sizes={self.batch_sizes} must be at least 1.")


@dataclass(frozen=True)
class Request:
    """A request: the tokens of a prompt, and the number of tokens to add."""

    prompt: list[int]
    new_tokens: int  # that it asks for, exactly: nothing ends a text before


def make_requests(arguments: ServingBenchmarkArguments, vocab_size: int) -> list[Request]:
    """Draws random requests."""
    chooser = random.Random(arguments.seed)
    return [
        Request(
            chooser.choices(range(3, vocab_size), k=chooser.randint(*arguments.prompt_lengths)),
            chooser.randint(*arguments.new_tokens),
        )
        for _ in range(arguments.requests)
    ]


def greedy(new_tokens: int) -> GenerationConfig:
    """Greedy generation of exactly so many tokens."""
    return GenerationConfig(max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, eos_token_id=-1)


def in_padded_batches(model, requests: list[Request], batch_size: int) -> list[list[int]]:
    """New tokens of each prompt by `generate`, in batches padded on the left, each as long as its longest output."""
    outputs = []
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        length = max(len(request.prompt) for request in batch)
        pads = [length - len(request.prompt) for request in batch]
        ids = torch.tensor([[0] * pad + request.prompt for pad, request in zip(pads, batch, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (length - pad) for pad in pads])
        longest = greedy(max(request.new_tokens for request in batch))
        made = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), generation_config=longest)
        outputs += [
            row[length : length + request.new_tokens].tolist() for row, request in zip(made, batch, strict=True)
        ]
    return outputs


def continuously(model, requests: list[Request], batch_size: int) -> list[list[int]]:
    """New tokens of each prompt by continuous batching: a finished request makes room for the next."""
    longest = max(len(request.prompt) + request.new_tokens for request in requests)
    settings = ContinuousBatchingConfig(
        page_size=PAGE_SIZE,
        num_blocks=batch_size * (math.ceil(longest / PAGE_SIZE) + 1),
        max_batch_tokens=max(256, batch_size),
        max_requests_per_batch=batch_size,
        allow_block_sharing=False,
    )
    with model.continuous_batching_context_manager(
        generation_config=greedy(1), continuous_batching_config=settings
    ) as manager:
        names = [manager.add_request(request.prompt, max_new_tokens=request.new_tokens) for request in requests]
        done: dict[str, list[int]] = {}
        while len(done) < len(requests):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                done[result.request_id] = result.generated_tokens
            elif result is None and not manager.is_running():
                raise RuntimeError(f"Continuous batching stopped after {len(done)} of {len(requests)} requests.")
    return [done[name] for name in names]


def ways(batch_sizes: Sequence[int]) -> dict[str, Callable]:
    """Functions of model and requests to measure, by name. The outputs of all must equal those of the first."""
    measured: dict[str, Callable] = {"generate, one by one": partial(in_padded_batches, batch_size=1)}
    for size in batch_sizes:
        measured[f"generate, padded batches of {size}"] = partial(in_padded_batches, batch_size=size)
        measured[f"continuous batching, at most {size}"] = partial(continuously, batch_size=size)
    return measured


def measure(model, requests: list[Request], arguments: ServingBenchmarkArguments) -> list[str]:
    """Rows of a table: tokens per second, the spread, and the ratio to one by one. Ways take turns within a round."""
    # The time of this process, on which others that share the processor have less influence.
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    measured = ways(arguments.batch_sizes)
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    outputs = {}
    for _ in tqdm(range(arguments.rounds + 1), desc="rounds"):  # the first warms up
        for name, run in measured.items():
            start = clock()
            outputs[name] = run(model, requests)
            seconds[name].append(clock() - start)
    tokens, base, rows = sum(request.new_tokens for request in requests), 0.0, []
    expected = next(iter(outputs.values()))
    for name, taken in seconds.items():
        speeds = sorted(tokens / second for second in taken[1:])
        median = statistics.median(speeds)
        base = base or median
        equal = sum(one == other for one, other in zip(outputs[name], expected, strict=True))
        rows.append(
            f"| {name} | {median:.0f} ({speeds[0]:.0f} to {speeds[-1]:.0f}) | {median / base:.2f} x | "
            f"{equal} of {len(expected)} |"
        )
    return rows


def report(rows: list[str], arguments: ServingBenchmarkArguments, model, command: str) -> str:
    """The part of the Markdown file."""
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"""## Serving

Made on {date.today()} by `{command}`: {processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores, on \
{model.device.type}, {model.dtype}.

{arguments.requests} requests with prompts of {arguments.prompt_lengths[0]} to {arguments.prompt_lengths[1]} tokens \
that ask for {arguments.new_tokens[0]} to {arguments.new_tokens[1]} more,
greedily, from a model of {size:.1f} million parameters. Tokens are those that were asked for; a second is one of \
{"the processor" if model.device.type == "cpu" else "the clock"}, from the first request to the last token, managers \
and caches made within. The median of {arguments.rounds} rounds and their range.

| way | tokens per second | beside one by one | equal outputs |
|---|---|---|---|
{chr(10).join(rows)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark serving` with these arguments, by default the process's."""
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments([ServingBenchmarkArguments], argv, command="benchmark serving", description=__doc__)
    logging.set_verbosity_error()
    set_seed(arguments.seed)
    model: Any
    try:
        model = AutoModelForCausalLM.from_pretrained(arguments.model) if arguments.model else small_model(arguments)
        if model.config.model_type == TrineConfig.model_type:
            check_continuous_batching(model.config)
    except (OSError, ValueError) as error:
        sys.exit(f"trine benchmark serving: {error}")
    model.to(torch.accelerator.current_accelerator() or "cpu").eval()
    rows = measure(model, make_requests(arguments, model.config.vocab_size), arguments)
    text = report(rows, arguments, model, f"trine benchmark serving {shlex.join(words)}".strip())
    print(text)
    if arguments.report is not None:
        write_part(Path(arguments.report), text)


def small_model(arguments: ServingBenchmarkArguments) -> TrineForCausalLM:
    """A small decoder with random weights."""
    config = TrineConfig(
        vocab_size=8192,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=max(1, arguments.hidden_size // 32),
        num_key_value_heads=max(1, arguments.hidden_size // 64),
        attention_types=arguments.attention_types,
        sliding_window=64,
        initializer_range=0.1,  # sharp enough that rounding decides no token
    )
    return TrineForCausalLM(config)


if __name__ == "__main__":
    main()
