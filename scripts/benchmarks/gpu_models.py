"""Training, decoding and experts beside Llama and Mixtral on a GPU, for `trine benchmark gpu`."""

import gc
import statistics
from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedModel

from trine.scripts.benchmarks.gpu_setting import Setting, attempt
from trine.scripts.benchmarks.model_peers import PEERS, QUICK
from trine.scripts.benchmarks.models import decode, time_pair, train_step


BESIDE = ("Llama", "Mixtral")
# What replaces the sizes that suit a CPU.
SIZES = {
    "Llama": {"hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 4, "intermediate_size": 5632},
    "Mixtral": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 3, "intermediate_size": 2048},
}
ROUNDS = 5
IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
SHAPES = "; ".join(f"{peer}: {', '.join(f'{k} {v}' for k, v in SIZES[peer].items())}" for peer in BESIDE)

TRAINING_COLUMNS = ("beside", "what", "Trine", "peer", "ratio")
TRAINING_NOTE = f"""Both models of a row have the same shape ({SHAPES}; vocabulary 32000, 4 key-value heads), weights
and AdamW in the type named above, and run in turn in one process: medians of {ROUNDS} rounds, the ratio with the
smallest and the largest. Peak memory is that of the tensors of a model's first three steps, its weights and the
optimizer's states included. Above 1.00 Trine is faster, and below 1.00 takes less memory."""
DECODING_NOTE = f"""Greedy generation of 64 tokens after 32, models and rows as in training, {ROUNDS} rounds. With a
static cache transformers' `generate` compiles the model."""
EXPERTS_COLUMNS = ("experts_implementation", "training, 512 tokens", "training, 8192 tokens", "decoding, batch 8")
EXPERTS_NOTE = f"""Trine in the shape of Mixtral, as above, with 8 experts, 2 for each token: tokens per second of a
training step and of generation, medians of {ROUNDS} rounds."""


def training_jobs(setting: Setting) -> dict[str, tuple]:
    """A job for each peer as it is, then one for each compiled."""
    compiled = BESIDE[: setting.pick(2, 1)]
    return {
        **{peer: (measure_training, peer, False) for peer in BESIDE},
        **{f"{peer}, compiled": (measure_training, peer, True) for peer in compiled},
    }


def decoding_jobs(setting: Setting) -> dict[str, tuple]:
    """A job for each peer and cache, what compiles last."""
    return {
        f"{peer}, {cache} cache": (measure_decoding, peer, cache) for cache in ("dynamic", "static") for peer in BESIDE
    }


def experts_jobs(setting: Setting) -> dict[str, tuple]:
    """A job for each implementation."""
    return {name: (measure_experts, name) for name in IMPLEMENTATIONS}


def make(peer: str, who: str, setting: Setting) -> PreTrainedModel:
    """The model of `who`, "Trine" or the peer itself, with fresh weights, on the device."""
    torch.manual_seed(0)
    build = PEERS[peer].ours if who == "Trine" else PEERS[peer].theirs
    with torch.device(setting.device):
        model = build({**PEERS[peer].shape, **setting.pick(SIZES[peer], QUICK)})
    return model.to(setting.dtype)  # pyright: ignore[reportArgumentType] typed for quantised models


def compare(setting: Setting, runs: list[Callable[[], int]]) -> list[str]:
    """Cells for tokens per second of both and their ratio."""
    speeds = time_pair(*runs, rounds=setting.pick(ROUNDS, 1), device=setting.device)
    ratios = [ours / theirs for ours, theirs in speeds]
    ours, theirs = (f"{statistics.median(column):,.0f} tokens/s" for column in zip(*speeds, strict=True))
    return [ours, theirs, f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]


def measure_training(setting: Setting, peer: str, is_compiled: bool) -> Iterator[list[str]]:
    """Rows for peak memory and speed of a training step."""
    batch, length = setting.pick((8, 2048), (1, 16))
    what = f"training, {batch} x {length} tokens" + (", compiled" if is_compiled else "")
    steps, sizes = [], []

    def add(who: str) -> None:
        model = make(peer, who, setting)
        if is_compiled:
            model.compile(backend=setting.pick("inductor", "eager"))
        steps.append(train_step(model, peer, batch, length))
        for _ in range(3):
            steps[-1]()

    def memories() -> list[str]:
        sizes.extend(setting.peak_memory(lambda who=who: add(who)) for who in ("Trine", peer))
        return [*(f"{size:,.0f} MiB" for size in sizes), f"{sizes[0] / sizes[1]:.2f}"]

    yield [peer, f"peak memory, {what}", *attempt(memories)]
    if len(sizes) == 2:
        yield [peer, what, *attempt(lambda: compare(setting, steps))]


def clear(setting: Setting) -> None:
    """Frees what nothing holds any more, so that it does not count for the next."""
    gc.collect()
    torch.compiler.reset()
    if not setting.is_rehearsal:
        torch.cuda.empty_cache()


def measure_decoding(setting: Setting, peer: str, cache: str) -> Iterator[list[str]]:
    """Rows for batches of 1 and 8."""
    models = [make(peer, who, setting) for who in ("Trine", peer)]
    for model in models:  # the loss that balances experts is of training alone; Mixtral's fails after the first token
        model.config.output_router_logits = False
    options = {} if cache == "dynamic" else {"cache_implementation": cache}
    new_tokens = setting.pick(64, 3)
    for batch in (1, 8) if cache == "dynamic" else (1,):
        runs = [decode(model, new_tokens, batch, **options) for model in models]
        if cache == "static":
            for run in runs:
                attempt(lambda run=run: [str(run())])  # compiles; the second call records what the GPU replays
        what = f"decoding, {cache} cache, batch {batch}, {new_tokens} tokens"
        yield [peer, what, *attempt(lambda runs=runs: compare(setting, runs))]


def measure_experts(setting: Setting, implementation: str) -> Iterator[list[str]]:
    """A row for one implementation; a cell fails alone."""
    model = make("Mixtral", "Trine", setting)
    model.set_experts_implementation(implementation)
    shapes = setting.pick([(1, 512), (4, 2048)], [(1, 8), (1, 16)])
    cells = []
    for make_run in (
        *(lambda shape=shape: train_step(model, "Mixtral", *shape) for shape in shapes),
        lambda: decode(model, setting.pick(32, 2), 8),
    ):
        cells += attempt(lambda make_run=make_run: [tokens_per_second(setting, make_run())])
        clear(setting)
    yield [implementation, *cells]


def tokens_per_second(setting: Setting, run: Callable[[], int]) -> str:
    """The median of some rounds."""
    speeds = time_pair(run, lambda: 1, rounds=setting.pick(ROUNDS, 1), device=setting.device)
    return f"{statistics.median(ours for ours, _ in speeds):,.0f}"
