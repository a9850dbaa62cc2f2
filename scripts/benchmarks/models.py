"""Measure speed and memory beside Llama, Mixtral, BERT and T5 of transformers, in one run."""

import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from trine.modeling.checks.ids import IGNORE_INDEX
from trine.scripts.arguments.parsing import check_known, parse_arguments
from trine.scripts.benchmarks.model_peers import PEERS, make_model
from trine.scripts.reports.markdown import Target, in_fresh_process, process_memory, processor, write_part
from trine.training.data.padding_free import PaddingFreeCollator


Step = Callable[[], int]  # it returns the number of its tokens

# Lengths of Debian's package descriptions in tokens of an 8,000-piece WordPiece: the 0th, 5th, ... 95th percentile.
# The longest twentieth is represented by its shortest; its mean is higher, so padding costs more than here.
DESCRIPTION_LENGTHS = (7, 25, 29, 34, 39, 43, 47, 50, 55, 59, 64, 70, 76, 82, 89, 99, 111, 125, 149, 191)


def synchronize(device: str) -> None:
    """Waits until an accelerator has finished."""
    if device != "cpu":
        torch.accelerator.synchronize()


def some_labels(tokens: torch.Tensor, share: float) -> torch.Tensor:
    """The tokens as labels, of which the given share, spread evenly, is predicted."""
    numbers = torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape)
    predicted = ((numbers + 1) * share).floor() > (numbers * share).floor()
    return tokens.masked_fill(~predicted, IGNORE_INDEX)


def optimizer_step(model: PreTrainedModel, inputs: dict[str, Any], num_tokens: int) -> Callable[[], int]:
    """A step of fused AdamW, the optimizer of transformers' `Trainer`; it returns the number of tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> int:
        model.train()
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return num_tokens

    return step


def train_step(model: PreTrainedModel, peer: str, batch: int, length: int) -> Callable[[], int]:
    """A training step on random tokens; the target of an encoder-decoder is as long as its source."""
    length = min(length, PEERS[peer].longest)
    tokens = torch.randint(5, model.config.vocab_size, (batch, length), device=model.device)
    inputs: dict[str, Any] = {"input_ids": tokens, "labels": some_labels(tokens, PEERS[peer].labels)}
    if peer in ("Llama", "Mixtral", "T5"):
        inputs["use_cache"] = False
    return optimizer_step(model, inputs, tokens.numel() * (2 if model.config.is_encoder_decoder else 1))


def prefill(model: PreTrainedModel, length: int) -> Callable[[], int]:
    """The first pass of generation over a prompt."""
    tokens = torch.randint(5, model.config.vocab_size, (1, length), device=model.device)

    @torch.no_grad()
    def run() -> int:
        model.eval()(input_ids=tokens, use_cache=True, logits_to_keep=1)
        return length

    return run


def decode(model: PreTrainedModel, new_tokens: int, batch: int = 1, **options) -> Callable[[], int]:
    """Greedy generation with a cache, after 32 tokens; it returns the number of new tokens of all sequences."""
    tokens = torch.randint(5, model.config.vocab_size, (batch, 32), device=model.device)
    options |= {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    if getattr(model.config, "output_router_logits", False):
        options["output_router_logits"] = False  # the loss that balances experts is of training alone

    def run() -> int:
        model.eval()
        model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)  # pyright: ignore[reportCallIssue]
        return batch * new_tokens

    return run


def ragged_steps(model: PreTrainedModel, quick: bool) -> tuple[Step, Step]:
    """Steps on 40 sequences of the lengths that descriptions have: without padding, and with it."""
    lengths = [max(2, length // (16 if quick else 1)) for length in DESCRIPTION_LENGTHS * 2]
    rows = [torch.randint(5, model.config.vocab_size, (length,)) for length in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(model.device)
    features = {"input_ids": padded, "labels": some_labels(padded, 0.15).masked_fill(mask == 0, IGNORE_INDEX)}
    features["attention_mask"] = mask
    packed = PaddingFreeCollator(lambda batch: batch[0])([features])
    return tuple(optimizer_step(model, inputs, sum(lengths)) for inputs in (packed, features))  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Task:
    """A row of the report, of two steps that are timed in turn.

    Attributes:
        description: A format of the arguments.
        steps: Makes a step of ours and one of the peer's, from both models and what else the benchmark hands over.
        factor: How many times as many rounds it gets: short steps vary more.
        beside: The name of the peer, where that is not the other model.
    """

    description: str
    steps: Callable[..., tuple[Step, Step]]
    factor: int = 1
    beside: str | None = None


def both(make: Callable[..., Callable[[], int]]) -> Callable[..., tuple[Step, Step]]:
    """Makes the same step of each of two models."""
    return lambda ours, theirs, *rest: (make(ours, *rest), make(theirs, *rest))


MEMORY = "memory"  # measured in processes of their own
TASKS = {
    "training": Task(
        "training, {train_batch} x {length} tokens",
        both(lambda model, peer, arguments: train_step(model, peer, arguments.train_batch, arguments.length)),
    ),
    "prefill": Task(
        "prefill, {length} tokens", both(lambda model, peer, arguments: prefill(model, arguments.length)), factor=3
    ),
    "decoding": Task(
        "decoding, {new_tokens} tokens",
        both(lambda model, peer, arguments: decode(model, arguments.new_tokens)),
        factor=4,
    ),
    "ragged": Task(
        "training on ragged texts, padding-free",
        lambda ours, theirs, peer, arguments: ragged_steps(ours, arguments.quick),
        beside="Trine with padding",
    ),
}


@dataclass
class BenchmarkArguments:
    """Options of `trine benchmark models`."""

    rounds: int = field(default=5, metadata={"help": "Measurements of each model, the two in turn."})
    threads: int = field(default=1, metadata={"help": "Threads of PyTorch on the CPU."})
    device: str = field(default="cpu", metadata={"help": "Such as cpu or cuda."})
    dtype: str = field(default="float32", metadata={"help": "Such as float32 or bfloat16."})
    length: int = field(default=1024, metadata={"help": "Tokens in a sequence."})
    train_batch: int = field(default=2, metadata={"help": "Sequences in the training step that is timed."})
    memory_batches: list[int] = field(
        default_factory=lambda: [4], metadata={"help": "Sequences in the training steps whose memory is measured."}
    )
    new_tokens: int = field(default=64, metadata={"help": "Tokens that decoding adds to a prompt of 32."})
    output: str = field(
        default="docs/measurements/benchmarks.md", metadata={"help": "Markdown file whose part is replaced."}
    )
    peers: list[str] = field(
        default_factory=lambda: list(PEERS), metadata={"help": f"Which of {', '.join(PEERS)} to compare with."}
    )
    tasks: list[str] = field(
        default_factory=lambda: [*TASKS, MEMORY], metadata={"help": f"Which of {', '.join(TASKS)}, {MEMORY}."}
    )
    quick: bool = field(default=False, metadata={"help": "Tiny models: tries the benchmark out, measures nothing."})

    def __post_init__(self):
        for name in ("rounds", "threads", "length", "train_batch", "new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        check_known(self, peers=PEERS, tasks=[*TASKS, MEMORY])


def time_pair(ours: Callable[[], int], theirs: Callable[[], int], rounds: int, device: str) -> list[tuple]:
    """Tokens per second of both, round by round; which of the two goes first alternates.

    On one thread of a CPU it is the time of the process, which other processes leave alone.
    """
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    results = []
    for run in (ours, theirs):
        run()
    for number in range(rounds):
        speeds = {}
        for run in (ours, theirs) if number % 2 else (theirs, ours):
            synchronize(device)
            start = clock()
            tokens = run()
            synchronize(device)
            speeds[run] = tokens / (clock() - start)
        results.append((speeds[ours], speeds[theirs]))
    return results


def time_task(
    task: Task, what: str, peer: str, bound: float | None, steps: tuple[Step, Step], rounds: int, device: str = "cpu"
) -> str:
    """A row of the report for a task, and the same on the screen."""
    ours, theirs = map(list, zip(*time_pair(*steps, task.factor * rounds, device), strict=True))
    row = Target(bound).row(what, task.beside or peer, ours, theirs, "tokens/s")
    tqdm.write(row)
    return row


def peak_memory(peer: str, who: str, batch: int, arguments: BenchmarkArguments) -> float:
    """Peak memory of two training steps in MiB: weights, gradients, optimizer and activations.

    On the CPU it is the largest resident size of the process, less its size before the model was made.
    """
    before = process_memory("VmRSS")
    model = make_model(peer, who, arguments.quick, arguments.device, arguments.dtype)
    step = train_step(model, peer, batch, arguments.length)
    for _ in range(2):  # the second has the optimizer's states from the beginning
        step()
    if arguments.device == "cpu":
        return process_memory("VmHWM") - before
    return torch.cuda.max_memory_allocated() / 2**20


def memory_row(peer: str, batch: int, what: str, arguments: BenchmarkArguments) -> str:
    """A row of the report for the peak memory of training, and the same on the screen."""
    ours, theirs = ([in_fresh_process(peak_memory, peer, who, batch, arguments)] for who in ("Trine", peer))
    bound = PEERS[peer].targets.get(MEMORY) if batch == 4 else None
    row = Target(bound, is_least=False).row(what, peer, ours, theirs, "MiB")
    tqdm.write(row)
    return row


def tasks_of(peer: str, arguments: BenchmarkArguments) -> list[str]:
    """The tasks of a peer that were asked for."""
    return [name for name in PEERS[peer].tasks if name in arguments.tasks]


def benchmark_peer(peer: str, arguments: BenchmarkArguments, progress: tqdm) -> list[str]:
    """Rows of the report for one peer."""
    shared = (arguments.quick, arguments.device, arguments.dtype)
    models = [make_model(peer, who, *shared) for who in ("Trine", peer)]
    sizes = [model.num_parameters() for model in models]
    if sizes[0] != sizes[1]:
        raise RuntimeError(f"Trine has {sizes[0]:,} parameters, {peer} {sizes[1]:,}: the shapes are not equal.")
    numbers = {**vars(arguments), "length": min(arguments.length, PEERS[peer].longest)}
    rows = []
    for name in tasks_of(peer, arguments):
        progress.set_description(f"{peer}: {name}")
        task = TASKS[name]
        steps, bound = task.steps(*models, peer, arguments), PEERS[peer].targets.get(name)
        what = task.description.format(**numbers)
        rows.append(time_task(task, what, peer, bound, steps, arguments.rounds, arguments.device))
        progress.update()
    del models
    for batch in arguments.memory_batches if MEMORY in arguments.tasks else ():
        progress.set_description(f"{peer}: memory")
        what = f"training peak memory, {batch} x {numbers['length']} tokens"
        rows.append(memory_row(peer, batch, what, arguments))
        progress.update()
    return rows


def report(rows: list[str], arguments: BenchmarkArguments, command: str) -> str:
    """The part of the Markdown file."""
    hardware = processor() if arguments.device == "cpu" else torch.cuda.get_device_name()
    shapes = {peer: ", ".join(f"{key} {size}" for key, size in PEERS[peer].shape.items()) for peer in arguments.peers}
    return f"""## Beside {", ".join(PEERS)}

Made on {date.today()} by `{command}`: {hardware}, {arguments.threads} thread(s), {arguments.dtype}, torch \
{torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}.

Both models of a row have the same shape and number of parameters, and run in turn in one process. Speeds are medians
of {arguments.rounds} rounds (prefill 3, decoding 4 times as many), on one thread of a CPU by the process's own time;
the ratio is the median of the rounds' ratios, with the smallest and the largest. Decoding is the whole of `generate`,
greedy. Training is forward, backward and fused AdamW, without dropout. Peak memory is that of two training steps in a
process of their own, beyond what the process held before the model was made. Speeds above 1.00 are faster, memory
below 1.00 is less than the peer's.

| what | beside | Trine | peer | ratio | target | met |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Shapes:

{chr(10).join(f"* {peer}: {shape}" for peer, shape in shapes.items())}

The padding-free row is the encoder beside itself with padding, on 40 sequences of the lengths of Debian's package
descriptions (0th, 5th, ... 95th percentile); only real tokens are counted.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark models` with these arguments, by default the process's."""
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments([BenchmarkArguments], argv, command="benchmark models", description=__doc__)
    torch.set_num_threads(arguments.threads)
    transformers.logging.disable_progress_bar()
    rows = []
    batches = arguments.memory_batches if MEMORY in arguments.tasks else ()
    steps = sum(len(tasks_of(peer, arguments)) + len(batches) for peer in arguments.peers)
    with tqdm(total=steps) as progress:
        for peer in arguments.peers:
            rows += benchmark_peer(peer, arguments, progress)
    text = report(rows, arguments, shlex.join(["trine", "benchmark", "models", *words]))
    write_part(Path(arguments.output), text)
    print(text)


if __name__ == "__main__":
    main()
