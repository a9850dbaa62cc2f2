"""Measure `trine serve` beside `transformers serve` under load: throughput, latency, first tokens, and embeddings."""

import os
import random
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from trine import TrineConfig, TrineForCausalLM, train_byte_level_bpe
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.benchmarks.server_load import Load, arrivals, running, send
from trine.scripts.benchmarks.server_soak import CACHES, chats, soak
from trine.scripts.reports.markdown import processor, write_part


OURS, THEIRS, PAGED = "trine serve", "transformers serve", "transformers serve, continuous batching"
# transformers' command, which knows Trine's models once trine is imported.
START = "import trine; from transformers.cli.transformers import app; app()"


TEXT_WORDS = ((1, 8), (3, 60))  # of a text to embed: queries, and passages
WORDS = ["river", "stone", "bird", "house", "red", "small", "old", "tree", "water", "light", "city", "road"]


@dataclass
class ServersArguments:
    """Options of `trine benchmark servers`."""

    attention_types: str = field(default="full", metadata={"help": "Layers of Trine's model beside Llama."})
    requests: int = field(default=200, metadata={"help": "Requests to each server at each rate."})
    rates: list[float] = field(
        default_factory=lambda: [0.0, 2.0],
        metadata={"help": "Requests in a second, by a Poisson process; 0: at once."},
    )
    prompt_lengths: list[int] = field(default_factory=lambda: [8, 128], metadata={"help": "Least and most tokens."})
    new_tokens: list[int] = field(
        default_factory=lambda: [8, 128], metadata={"help": "Least and most tokens that a request asks for."}
    )
    hidden_size: int = field(default=256, metadata={"help": "Width of the models."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Their layers."})
    batch_requests: int = field(default=32, metadata={"help": "Of trine serve."})
    embedding_model: str | None = field(
        default=None,
        metadata={"help": "Model of sentence-transformers, to embed one by one and together."},
    )
    embeddings_only: bool = field(default=False, metadata={"help": "Measure no decoders."})
    rounds: int = field(
        default=1,
        metadata={"help": "How often all is asked; the servers of a model take turns, and ratios are medians."},
    )
    chat_turns: int = field(default=0, metadata={"help": "Turns of eight chats with a prefix cache; 0 for none."})
    soak_seconds: float = field(
        default=0.0,
        metadata={"help": "Length of a run of requests of all kinds, with both caches, that watches memory."},
    )
    threads: int = field(default=1, metadata={"help": "Threads of PyTorch in each server."})
    seed: int = field(default=0, metadata={"help": "Random seed of weights, requests and times."})
    report: str | None = field(default=None, metadata={"help": "Markdown file whose part is replaced."})

    def __post_init__(self):
        for name in ("prompt_lengths", "new_tokens"):
            low, high = (*getattr(self, name), 0, 0)[:2]
            if len(getattr(self, name)) != 2 or not 1 <= low <= high:
                raise ValueError(f"{name}={getattr(self, name)} is not a least and a most number, as 8 128.")
        for name in ("requests", "hidden_size", "num_hidden_layers", "batch_requests", "threads", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not self.rates or min(*self.rates, self.soak_seconds, self.chat_turns) < 0:
            raise ValueError(
                f"rates={self.rates}, soak_seconds={self.soak_seconds}, chat_turns={self.chat_turns} must be at "
                "least 0."
            )


def save_models(folder: Path, arguments: ServersArguments) -> dict[str, Path]:
    """Saves Trine's model and a Llama of equal shape, of random weights, with a tokenizer. Returns their folders."""
    torch.manual_seed(arguments.seed)
    tokenizer = train_byte_level_bpe(["the quick brown fox jumps over the lazy dog"] * 4, 300, show_progress=False)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": arguments.hidden_size,
        "intermediate_size": 4 * arguments.hidden_size,
        "num_hidden_layers": arguments.num_hidden_layers,
        "num_attention_heads": max(1, arguments.hidden_size // 32),
        "num_key_value_heads": max(1, arguments.hidden_size // 64),
        "initializer_range": 0.1,  # sharp enough that rounding decides no token
    }
    models = {
        f"Trine, {arguments.attention_types}": TrineForCausalLM(
            TrineConfig(**shape, attention_types=arguments.attention_types, sliding_window=64)
        ),
        "Llama": LlamaForCausalLM(LlamaConfig(**shape)),
    }
    folders = {}
    for name, model in models.items():
        model.generation_config.eos_token_id = model.config.eos_token_id = None  # each text gets all its tokens
        model.generation_config.pad_token_id = 0
        folders[name] = folder / name.split(",")[0]
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def commands(folder: Path, is_llama: bool, arguments: ServersArguments) -> dict[str, list[str]]:
    """The servers of a model, by name."""
    theirs = ["-c", START, "serve", str(folder), "--port", "{port}", "--device", "cpu", "--dtype", "float32"]
    ours = ["-m", "trine.scripts.cli", "serve", "--model", str(folder), "--port", "{port}", "--device", "cpu"]
    found = {OURS: [*ours, "--batch_requests", str(arguments.batch_requests)], THEIRS: theirs}
    return found | ({PAGED: [*theirs, "--continuous-batching", "--cb-num-blocks", "64"]} if is_llama else {})


def make_bodies(arguments: ServersArguments) -> list[dict]:
    """Greedy completions of random letters, streamed."""
    chooser = random.Random(arguments.seed)
    return [
        {
            "prompt": "".join(
                chooser.choices("abcdefghijklmnopqrstuvwxyz", k=chooser.randint(*arguments.prompt_lengths))
            ),
            "max_tokens": chooser.randint(*arguments.new_tokens),
            "temperature": 0.0,
            "stream": True,
        }
        for _ in range(arguments.requests)
    ]


def measure(arguments: ServersArguments, folder: Path) -> list[str]:
    """Rows of the table: each server of each model at each rate, beside transformers' own, in turns."""
    bodies, rows = make_bodies(arguments), []
    if arguments.embeddings_only:
        return rows
    for name, path in save_models(folder, arguments).items():
        loads: dict[tuple[str, float], list[Load]] = {}
        with ExitStack() as stack:
            processes = {
                server: stack.enter_context(running(command, arguments.threads))
                for server, command in commands(path, name == "Llama", arguments).items()
            }
            for process in processes.values():
                send(process, "/v1/completions", bodies[:4], [0.0] * 4)  # warms up
            for rate in tqdm(arguments.rates * arguments.rounds, desc=name):
                for server, process in processes.items():
                    times = arrivals(len(bodies), rate, arguments.seed)
                    loads.setdefault((server, rate), []).append(send(process, "/v1/completions", bodies, times))
        for server in processes:
            for rate in dict.fromkeys(arguments.rates):
                rows.append(row(name, server, rate, loads[server, rate], loads[THEIRS, rate]))
                tqdm.write(rows[-1])
    return rows


def row(model: str, server: str, rate: float, loads: Sequence[Load], bases: Sequence[Load]) -> str:
    """A row of the table: medians of the rounds, and of their ratios, with the least and the most of the clock's."""

    def median(value: Callable[[Load], float]) -> float:
        return float(np.median([value(load) for load in loads]))

    def beside(value: Callable[[Load], float]) -> list[float]:
        return [value(load) / value(base) for load, base in zip(loads, bases, strict=True)]

    def speed(load: Load) -> float:
        return load.tokens / load.seconds

    def each(load: Load) -> float:
        return load.tokens / load.cpu_seconds

    ratios = beside(speed)
    spread = f"; {min(ratios):.2f} to {max(ratios):.2f}" if len(loads) > 1 else ""
    times = " | ".join(
        f"{median(lambda load, percent=percent: load.percentile(percent)):.2f}" for percent in (50, 95, 99)
    )
    first = ", ".join(
        f"{median(lambda load, percent=percent: load.percentile(percent, 'first')):.2f}" for percent in (50, 95)
    )
    late = np.median(beside(lambda load: load.percentile(95)))
    pairs = [
        (one, other)
        for load, base in zip(loads, bases, strict=True)
        for one, other in zip(load.answers, base.answers, strict=True)
    ]
    good, equal = sum(one.status == 200 for one, _ in pairs), sum(one.content == other.content for one, other in pairs)
    return (
        f"| {model} | {server} | {rate or 'at once'} | {median(speed):.0f} ({np.median(ratios):.2f} x{spread}) | "
        f"{median(each):.0f} ({np.median(beside(each)):.2f} x) | {times} | {late:.2f} x | {first} | {good}, {equal} |"
    )


def measure_embeddings(arguments: ServersArguments) -> list[str]:
    """Rows of the table of embeddings: queries and longer texts, all at once, with and without batches."""
    rows = []
    for least, most in TEXT_WORDS if arguments.embedding_model is not None else ():
        chooser = random.Random(arguments.seed)
        texts = [" ".join(chooser.choices(WORDS, k=chooser.randint(least, most))) for _ in range(arguments.requests)]
        bodies, loads = [{"input": text, "encoding_format": "float"} for text in texts], {}
        command = ["-m", "trine.scripts.cli", "serve", "--embedding_model", str(arguments.embedding_model)]
        command += ["--port", "{port}", "--device", "cpu", "--batch_requests"]
        for size in (1, 64):
            with running([*command, str(size)], arguments.threads) as process:
                send(process, "/v1/embeddings", bodies[:8], [0.0] * 8)
                loads[size] = send(process, "/v1/embeddings", bodies, [0.0] * len(bodies))
        vectors = [np.array([each.content[0]["embedding"] for each in load.answers]) for load in loads.values()]
        apart = np.abs(vectors[0] - vectors[1]).max()
        for size, load in loads.items():
            speed, base = len(bodies) / load.seconds, len(bodies) / loads[1].seconds
            each, base_each = len(bodies) / load.cpu_seconds, len(bodies) / loads[1].cpu_seconds
            name = "one by one" if size == 1 else "together"
            rows.append(
                f"| {least} to {most} | {name} | {speed:.1f} ({speed / base:.2f} x) | {each:.1f} "
                f"({each / base_each:.2f} x) | {load.percentile(50):.2f} | {load.percentile(95):.2f} | {apart:.1e} |"
            )
    return rows


def watch(arguments: ServersArguments, folder: Path) -> list[str]:
    """Lines about a server with both caches: chats, and its memory under requests of all kinds."""
    if not arguments.soak_seconds and not arguments.chat_turns:
        return []
    model = save_models(folder, arguments)[f"Trine, {arguments.attention_types}"]
    command = commands(model, False, arguments)[OURS] + ["--chat_template", "plain"]
    bodies, lines = make_bodies(arguments)[:50], []
    if arguments.chat_turns:
        with running([*command, "--prefix_cache", "1GiB"], arguments.threads) as process:
            lines.append(chats(process, bodies[:8], arguments.chat_turns))
    if arguments.soak_seconds:
        command += [word for name, size in CACHES.items() for word in (f"--{name}_cache", size)]
        has_vectors = arguments.embedding_model is not None
        command += ["--embedding_model", str(arguments.embedding_model)] if has_vectors else []
        with running(command, arguments.threads) as process:
            lines.append(soak(process, bodies, arguments.soak_seconds, has_vectors))
    return lines


def report(
    rows: list[str], embeddings: list[str], memory: list[str], arguments: ServersArguments, command: str
) -> str:
    """The part of the Markdown file."""
    table = ""
    if embeddings:
        head = "| words | embeddings | texts/s | texts per CPU s | p50 s | p95 s | apart |"
        table = "\n\n" + "\n".join([head, "|---" * 7 + "|", *embeddings])
    return f"""## Servers

Made on {date.today()} by `{command}`: {processor()}, {arguments.threads} thread(s) of {os.cpu_count()} cores, torch \
{torch.__version__}, transformers {transformers.__version__}.

{arguments.requests} completions, streamed and greedy, with prompts of {arguments.prompt_lengths[0]} to \
{arguments.prompt_lengths[1]} letters that ask for {arguments.new_tokens[0]} to {arguments.new_tokens[1]} tokens, from
models of {arguments.num_hidden_layers} layers, {arguments.hidden_size} wide; Poisson arrivals, or all at once;
{arguments.rounds} round(s), in which \
the servers take turns. In parentheses: beside transformers' own server with the same model. First: seconds to
the first piece, p50 and p95. Good: answers with status 200; =: those equal to transformers'.

| model | server | requests/s | tokens/s | tokens per CPU s | p50 s | p95 s | p99 s | p95 beside | first s | good, = |
|---|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}{table}

{chr(10).join(memory)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark servers` with these arguments, by default the process's."""
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments([ServersArguments], argv, command="benchmark servers", description=__doc__)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = measure(arguments, Path(folder))
            embeddings, memory = measure_embeddings(arguments), watch(arguments, Path(folder))
        except RuntimeError as error:
            sys.exit(f"trine benchmark servers: {error}")
    text = report(rows, embeddings, memory, arguments, shlex.join(["trine", "benchmark", "servers", *words]))
    print(text)
    if arguments.report is not None:
        write_part(Path(arguments.report), text)


if __name__ == "__main__":
    main()
