"""Measure how time and memory of every attention kind grow with the length of the text, in one run."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.benchmarks.attention_arguments import AttentionBenchmarkArguments
from trine.scripts.benchmarks.attention_layers import EAGER, TASKS, Layer, decoding, make_model, training_memory
from trine.scripts.benchmarks.attention_peers import PEERS
from trine.scripts.benchmarks.attention_report import Figures, draw, report
from trine.scripts.jobs.memory import keep_freed_memory
from trine.scripts.reports.markdown import Target, in_fresh_process, measure, write_part


def measure_times(arguments: AttentionBenchmarkArguments, progress: tqdm) -> dict[str, dict[str, Figures]]:
    """Milliseconds of each round: by task, way and length. All ways of a length take turns."""
    results: dict[str, dict] = {task: {way: {} for way in arguments.kinds} for task in TASKS}
    for length in arguments.lengths:
        ways = arguments.ways_of(length)
        layers = {way: Layer(way, arguments.is_causal, max(arguments.lengths)) for way in ways}
        for task, make in TASKS.items():
            progress.set_description(f"{task}, {length} tokens")
            runs = {way: make(layer, length) for way, layer in layers.items()}
            for way, times in measure(runs, arguments.rounds_of(length)).items():
                results[task][way][length] = times
            progress.update()
    return results


def memory_of(way: str, length: int, arguments: AttentionBenchmarkArguments) -> float:
    """Peak MiB of one kind at one length, measured in a process of its own."""
    longest = max(arguments.lengths)
    return in_fresh_process(training_memory, way, arguments.is_causal, longest, length, is_forked=True)


def measure_memory(arguments: AttentionBenchmarkArguments) -> Mapping[str, Figures]:
    """Peak MiB of a forward and backward pass by way and length, each in a process of its own, two at a time."""
    jobs = [(way, length) for length in arguments.lengths for way in arguments.ways_of(length)]
    with ThreadPoolExecutor(2) as pool:
        sizes = pool.map(lambda job: memory_of(job[0], job[1], arguments), jobs)
    results: dict[str, dict] = {way: {} for way in arguments.kinds}
    for (way, length), size in zip(jobs, sizes, strict=True):
        results[way][length] = [size]
    return results


def measure_decoding(arguments: AttentionBenchmarkArguments) -> Mapping[str, Figures]:
    """Milliseconds per token with a cache by way and context."""
    results: dict[str, dict] = {way: {} for way in arguments.kinds if way != EAGER}
    for context in arguments.lengths:
        if context <= arguments.longest_full:
            runs = {way: decoding(way, context, max(arguments.lengths)) for way in results}
            for way, times in measure(runs, 3 * arguments.rounds, 5).items():
                results[way][context] = times
    return results


def compare_with_peers(arguments: AttentionBenchmarkArguments) -> list[str]:
    """Rows beside other implementations at equal settings, where they are installed."""
    rows, length = [], arguments.peer_length
    for name, peer in PEERS.items():
        if peer.kind not in arguments.kinds or arguments.is_causal not in peer.shapes or not length:
            continue
        fields = peer.fields(length)
        try:
            theirs = peer.build(make_model(peer.kind, arguments.is_causal, length, **fields).config)
        except ImportError as error:
            print(f"{name} is left out: {error}.")
            continue
        ours = Layer(peer.kind, arguments.is_causal, length, **fields)
        for task, make in TASKS.items():
            times = measure({"ours": make(ours, length), "theirs": make(theirs, length)}, arguments.rounds)
            what = f"{peer.kind}, {task}, {length} tokens"
            rows.append(Target(1).row(what, name, times["ours"], times["theirs"], "ms"))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark attention` with these arguments, by default the process's."""
    words = sys.argv[1:] if argv is None else argv
    (arguments,) = parse_arguments(
        [AttentionBenchmarkArguments], argv, command="benchmark attention", description=__doc__
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tqdm(total=2 * len(arguments.lengths) + 3) as progress:
        progress.set_description("memory")
        results: dict = {"memory": measure_memory(arguments)}
        progress.update()
        keep_freed_memory()
        results |= measure_times(arguments, progress)
        progress.set_description("decoding")
        results["decoding"] = measure_decoding(arguments) if arguments.is_causal else {}
        progress.update()
        progress.set_description("peers")
        results["peers"] = compare_with_peers(arguments)
        progress.update()
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps({"arguments": asdict(arguments), **results}, indent=1)
    (folder / f"{arguments.shape}.json").write_text(numbers, encoding="utf-8")
    draw(results, arguments)
    text = report(results, arguments, shlex.join(["trine", "benchmark", "attention", *words]))
    write_part(Path(arguments.report), text)
    print(text)


if __name__ == "__main__":
    main()
