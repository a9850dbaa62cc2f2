"""Measure how much sooner the first token comes when a prompt's beginning was read before, for every attention."""

import math
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from trine import TrineConfig, TrineForCausalLM
from trine.configuration.kinds import ATTENTION_KINDS
from trine.generation.prefixes.prefix_cache import PrefixCache
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.reports.markdown import processor, write_part


PEER = "Llama"
OPTIONS: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}


@dataclass
class PrefixArguments:
    """Options of `trine benchmark prefixes`."""

    attention_types: list[str] = field(
        default_factory=lambda: [*ATTENTION_KINDS, "sliding*3, full"],
        metadata={"help": "Layers of the models; beside each other they are tried with Llama of transformers."},
    )
    prompt: int = field(default=792, metadata={"help": "Tokens of a prompt."})
    shared: int = field(default=768, metadata={"help": "How many of them were read before."})
    block_size: int = field(default=128, metadata={"help": "Tokens between two states that are kept."})
    turns: int = field(default=10, metadata={"help": "Turns of the chat whose hits are counted."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the models."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Their layers."})
    rounds: int = field(default=5, metadata={"help": "Prompts of each model, of which the median counts."})
    threads: int = field(default=1, metadata={"help": "Threads of PyTorch on the CPU."})
    report: str | None = field(default=None, metadata={"help": "Markdown file whose part is replaced."})

    def __post_init__(self):
        for name in ("shared", "block_size", "turns", "hidden_size", "num_hidden_layers", "rounds", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.prompt <= self.shared:
            raise ValueError(f"prompt={self.prompt} must be above shared={self.shared}.")


def make_model(layers: str, arguments: PrefixArguments) -> Any:
    """A model of random weights: Llama, or Trine's with these layers."""
    shape: dict[str, Any] = {
        "vocab_size": 2048,
        "hidden_size": arguments.hidden_size,
        "intermediate_size": 4 * arguments.hidden_size,
        "num_hidden_layers": arguments.num_hidden_layers,
        "num_attention_heads": max(1, arguments.hidden_size // 64),
    }
    torch.manual_seed(0)
    if layers == PEER:
        return LlamaForCausalLM(LlamaConfig(**shape)).eval()
    return TrineForCausalLM(TrineConfig(**shape, attention_types=layers, sliding_window=128)).eval()


def first_token(model: Any, cache: PrefixCache | None, prompt: torch.Tensor) -> tuple[float, list[int]]:
    """Time to the first token in ms, and the tokens."""
    options = {**OPTIONS, "attention_mask": torch.ones_like(prompt), "max_new_tokens": 1}
    started = time.process_time()
    ids = model.generate(prompt, **options) if cache is None else cache.generate(model, prompt, **options)
    return 1000 * (time.process_time() - started), ids[0].tolist()


def time_prompts(model: Any, arguments: PrefixArguments) -> tuple[list[float], list[float], int, int]:
    """Times without and with what was read, bytes for the shared tokens, and how many outputs are equal."""
    shared = torch.randint(5, 2048, (1, arguments.shared))
    cache = PrefixCache(block_size=arguments.block_size)
    first_token(model, cache, torch.cat([shared, shared[:, :1]], dim=1))
    held, cold, warm, equal = cache.state.bytes, [], [], 0
    for number in range(arguments.rounds + 1):
        ids = torch.cat([shared, torch.randint(5, 2048, (1, arguments.prompt - arguments.shared))], dim=1)
        without, expected = first_token(model, None, ids)
        with_it, output = first_token(model, cache, ids)
        if number:  # the first warms up
            cold.append(without)
            warm.append(with_it)
            equal += output == expected
    return cold, warm, held, equal


def chat_hits(model: Any, arguments: PrefixArguments) -> float:
    """The share of a chat's prompt tokens that were not read again: a system prompt, then questions and answers."""
    cache = PrefixCache(block_size=arguments.block_size)
    history = torch.randint(5, 2048, (1, arguments.shared // 3))
    for _ in range(arguments.turns):
        history = torch.cat([history, torch.randint(5, 2048, (1, 12))], dim=1)
        mask = torch.ones_like(history)
        history = cache.generate(model, history, attention_mask=mask, max_new_tokens=24, **OPTIONS)
    return cache.state.cached_tokens / cache.state.prompt_tokens


def measure(arguments: PrefixArguments) -> list[str]:
    """Rows of the report."""
    rows = []
    for layers in tqdm([PEER, *arguments.attention_types], desc="models"):
        model = make_model(layers, arguments)
        cold, warm, held, equal = time_prompts(model, arguments)
        ratios = [without / with_it for without, with_it in zip(cold, warm, strict=True)]
        rows.append(
            f"| {layers} | {statistics.median(cold):.1f} | {statistics.median(warm):.1f} | "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) | {equal} of {len(ratios)} | "
            f"{held / 2**20:.1f} | {chat_hits(model, arguments):.2f} |"
        )
        tqdm.write(rows[-1])
    return rows


def report(rows: list[str], arguments: PrefixArguments, command: str) -> str:
    """The part of the Markdown file."""
    blocks = math.ceil(arguments.shared / arguments.block_size)
    return f"""## Prompts that begin alike

Made on {date.today()} by `{command}`: {processor()}, {arguments.threads} thread(s), torch {torch.__version__}, \
transformers {transformers.__version__}.

Time to the first token in ms of the process, without and with a prefix cache. Prompts have {arguments.prompt} \
tokens, the first {arguments.shared} of which
were read before. Medians of {arguments.rounds} prompts in turn, and the range of the ratios; models of \
{arguments.num_hidden_layers} layers, {arguments.hidden_size} wide. MiB are
those of the shared tokens, after each of {blocks} blocks. Hits: the share of all prompt tokens in a chat of \
{arguments.turns} turns
that were not read again.

| layers | ms without | ms with | ratio | equal outputs | MiB | hits |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark prefixes` with these arguments, by default the process's."""
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments([PrefixArguments], argv, command="benchmark prefixes", description=__doc__)
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    rows = measure(arguments)
    text = report(rows, arguments, shlex.join(["trine", "benchmark", "prefixes", *words]))
    print(text)
    if arguments.report is not None:
        write_part(Path(arguments.report), text)


if __name__ == "__main__":
    main()
