"""Measure speed and memory beside the Llama and Mixtral of transformers, in one run."""

import multiprocessing
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

from trine import TrineConfig, TrineForCausalLM
from trine.scripts.arguments import parse_arguments


SIZES = {
    "full": {"vocab_size": 32000, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4},
    "quick": {"vocab_size": 512, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2},
}
LAYERS = {"full": {"Llama": 6, "Mixtral": 4}, "quick": {"Llama": 2, "Mixtral": 2}}
WIDTHS = {"full": {"Llama": 1408, "Mixtral": 704}, "quick": {"Llama": 128, "Mixtral": 64}}


@dataclass
class BenchmarkArguments:
    rounds: int = field(default=5, metadata={"help": "Measurements of each model, the two in turn."})
    threads: int = field(default=1, metadata={"help": "Threads of PyTorch on the CPU."})
    device: str = field(default="cpu", metadata={"help": "Such as cpu or cuda."})
    dtype: str = field(default="float32", metadata={"help": "Such as float32 or bfloat16."})
    length: int = field(default=1024, metadata={"help": "Tokens in a sequence."})
    train_batch: int = field(default=2, metadata={"help": "Sequences in the training step that is timed."})
    memory_batches: list[int] = field(
        default_factory=lambda: [2, 4], metadata={"help": "Sequences in the training steps whose memory is measured."}
    )
    new_tokens: int = field(default=64, metadata={"help": "Tokens that decoding adds to a prompt of 32."})
    output: str = field(default="docs/benchmarks.md", metadata={"help": "Markdown file that gets the report."})
    quick: bool = field(default=False, metadata={"help": "Tiny models: tries the benchmark out, measures nothing."})

    def __post_init__(self):
        for name in ("rounds", "threads", "length", "train_batch", "new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        self.size = "quick" if self.quick else "full"


def make_model(peer: str, who: str, size: str, device: str, dtype: str) -> PreTrainedModel:
    """The model of `who`, "Trine" or the peer itself, with the peer's architecture and fresh weights."""
    shape = {**SIZES[size], "num_hidden_layers": LAYERS[size][peer], "tie_word_embeddings": False}
    width = WIDTHS[size][peer]
    experts = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.01, "output_router_logits": True}
    builders = {
        ("Llama", "Llama"): lambda: LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=width)),
        ("Llama", "Trine"): lambda: TrineForCausalLM(TrineConfig(**shape, intermediate_size=width)),
        ("Mixtral", "Mixtral"): lambda: MixtralForCausalLM(
            MixtralConfig(**shape, **experts, intermediate_size=width, num_local_experts=8)
        ),
        ("Mixtral", "Trine"): lambda: TrineForCausalLM(
            TrineConfig(**shape, **experts, mlp_layer_types="sparse", moe_intermediate_size=width, num_experts=8)
        ),
    }
    torch.manual_seed(0)
    return builders[peer, who]().to(device=device, dtype=getattr(torch, dtype))


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def train_step(model: PreTrainedModel, batch: int, length: int) -> Callable[[], int]:
    """A step of AdamW on random tokens; it returns the number of tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(model.config.vocab_size, (batch, length), device=model.device)

    def step() -> int:
        model.train()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return tokens.numel()

    return step


def prefill(model: PreTrainedModel, length: int) -> Callable[[], int]:
    """The first pass of generation over a prompt."""
    tokens = torch.randint(model.config.vocab_size, (1, length), device=model.device)

    @torch.no_grad()
    def run() -> int:
        model.eval()(input_ids=tokens, use_cache=True, logits_to_keep=1)
        return length

    return run


def decode(model: PreTrainedModel, new_tokens: int) -> Callable[[], int]:
    """Greedy generation with a cache, from 32 tokens."""
    tokens = torch.randint(3, model.config.vocab_size, (1, 32), device=model.device)
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}

    def run() -> int:
        model.eval()
        model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)  # pyright: ignore[reportCallIssue]
        return new_tokens

    return run


def time_pair(ours: Callable[[], int], theirs: Callable[[], int], arguments: BenchmarkArguments) -> list[tuple]:
    """Tokens per second of both, round by round; which of the two goes first alternates."""
    results = []
    for run in (ours, theirs):
        run()
    for number in range(arguments.rounds):
        speeds = {}
        for run in (ours, theirs) if number % 2 else (theirs, ours):
            synchronize(arguments.device)
            start = time.perf_counter()
            tokens = run()
            synchronize(arguments.device)
            speeds[run] = tokens / (time.perf_counter() - start)
        results.append((speeds[ours], speeds[theirs]))
    return results


def process_memory(name: str) -> float:
    """`VmRSS`, the memory of this process now, or `VmHWM`, its peak, in MiB.

    `getrusage` would not do: its peak includes that of the parent, from before this process became its own program.
    """
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def peak_memory(peer: str, who: str, batch: int, arguments: BenchmarkArguments, results) -> None:
    """Peak memory of three training steps in MiB, put into `results`: weights, gradients, optimizer and activations.

    On the CPU it is the largest resident size of a process of its own, less its size before the model was made.
    """
    torch.set_num_threads(arguments.threads)
    before = process_memory("VmRSS")
    model = make_model(peer, who, arguments.size, arguments.device, arguments.dtype)
    step = train_step(model, batch, arguments.length)
    for _ in range(3):
        step()
    if arguments.device == "cpu":
        results.put(process_memory("VmHWM") - before)
    else:
        results.put(torch.cuda.max_memory_allocated() / 2**20)


def measure_memory(peer: str, who: str, batch: int, arguments: BenchmarkArguments) -> float:
    """`peak_memory` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=peak_memory, args=(peer, who, batch, arguments, results))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"Measuring the memory of {who} beside {peer} failed with exit status {process.exitcode}.")
    return results.get()


def benchmark_peer(peer: str, arguments: BenchmarkArguments, progress: tqdm) -> list[str]:
    """Rows of the report for one peer."""
    shared = (arguments.size, arguments.device, arguments.dtype)
    models = [make_model(peer, who, *shared) for who in ("Trine", peer)]
    sizes = [model.num_parameters() for model in models]
    if sizes[0] != sizes[1]:
        raise RuntimeError(f"Trine has {sizes[0]:,} parameters, {peer} {sizes[1]:,}: the shapes are not equal.")
    tasks = {
        f"training, {arguments.train_batch} x {arguments.length} tokens": lambda model: train_step(
            model, arguments.train_batch, arguments.length
        ),
        f"prefill, {arguments.length} tokens": lambda model: prefill(model, arguments.length),
        f"decoding, {arguments.new_tokens} tokens": lambda model: decode(model, arguments.new_tokens),
    }
    rows = []
    for task, make in tasks.items():
        progress.set_description(f"{peer}: {task}")
        speeds = time_pair(make(models[0]), make(models[1]), arguments)
        ratios = [ours / theirs for ours, theirs in speeds]
        ours, theirs = (statistics.median(column) for column in zip(*speeds, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append(f"| {peer} | {task} | {ours:,.1f} tokens/s | {theirs:,.1f} tokens/s | {spread} |")
        progress.update()
    del models
    for batch in arguments.memory_batches:
        progress.set_description(f"{peer}: memory")
        ours, theirs = (measure_memory(peer, who, batch, arguments) for who in ("Trine", peer))
        task = f"training peak memory, {batch} x {arguments.length} tokens"
        rows.append(f"| {peer} | {task} | {ours:,.0f} MiB | {theirs:,.0f} MiB | {ours / theirs:.2f} |")
        progress.update()
    return rows


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(rows: list[str], arguments: BenchmarkArguments, command: str) -> str:
    """The Markdown file."""
    hardware = processor() if arguments.device == "cpu" else torch.cuda.get_device_name()
    shape = ", ".join(f"{key} {value}" for key, value in SIZES[arguments.size].items())
    return f"""# Benchmarks

Made on {date.today()} by `{command}`: {hardware}, {arguments.threads} thread(s), {arguments.dtype}, torch \
{torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}.

Both models of a row have the same shape and number of parameters ({shape}, untied; beside Llama \
{LAYERS[arguments.size]["Llama"]} layers with feed-forwards {WIDTHS[arguments.size]["Llama"]} wide, beside Mixtral \
{LAYERS[arguments.size]["Mixtral"]} layers with 2 of 8 experts {WIDTHS[arguments.size]["Mixtral"]} wide), and run in
turn in one process. Speeds are medians of {arguments.rounds} rounds; the ratio is the median of the rounds' ratios,
with the smallest and the largest. Training is forward, backward and AdamW. Peak memory is that of three training
steps in a process of their own, without what the process held before the model was made. Above 1.00 is faster, below
1.00 is smaller than the peer.

| beside | what | Trine | peer | ratio |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments([BenchmarkArguments], argv, command="benchmark-models", description=__doc__)
    torch.set_num_threads(arguments.threads)
    transformers.logging.disable_progress_bar()
    rows = []
    with tqdm(total=2 * (3 + len(arguments.memory_batches))) as progress:
        for peer in ("Llama", "Mixtral"):
            rows += benchmark_peer(peer, arguments, progress)
    text = report(rows, arguments, shlex.join(["trine", "benchmark-models", *words]))
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.output).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
