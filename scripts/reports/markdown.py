"""Parts of Markdown reports, facts about the machine, and measurements of time and memory."""

import multiprocessing
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from trine.configuration.plugin_files import load_plugin
from trine.configuration.plugin_rows import registered_files


T = TypeVar("T")


def write_part(path: Path, text: str) -> None:
    """Put a part that begins with a heading into a Markdown file, in place of the part of that heading.

    A part ends at the next heading of its level, or of a higher one. What stands outside of it is kept; a new part
    comes last.
    """
    heading = text.partition("\n")[0]
    level = len(heading) - len(heading.lstrip("#"))
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = [part.strip("\n") + "\n" for part in re.split(rf"(?m)^(?=#{{1,{level}}} )", old) if part.strip()]
    headings = [part.partition("\n")[0] for part in parts]
    if heading in headings:
        parts[headings.index(heading)] = text
    else:
        parts.append(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def process_memory(name: str) -> float:
    """`VmRSS`, the memory of this process now, or `VmHWM`, the peak, in MiB.

    `getrusage` would not do: its peak includes that of the parent, from before this process became its own program.
    """
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def in_fresh_process(function: Callable[..., T], *args, is_forked: bool = False) -> T:
    """Runs a function in a process of its own and returns its result. Function and arguments must be picklable.

    A forked process begins within milliseconds, as the copy of one that has only imported the function's module.
    """
    context: Any = multiprocessing.get_context("forkserver" if is_forked else "spawn")
    if is_forked:
        context.set_forkserver_preload([function.__module__])
    results = context.Queue()
    process = context.Process(target=_put, args=(results, torch.get_num_threads(), registered_files(), function, args))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__name__}{args} failed with exit status {process.exitcode}.")
    return results.get()


def _put(results, threads: int, plugins: list[str], function: Callable, args: tuple) -> None:
    torch.set_num_threads(threads)
    for plugin in plugins:
        load_plugin(plugin)
    results.put(function(*args))


@dataclass(frozen=True)
class Target:
    """A target for a ratio: the peer's figure over ours is at least `bound`, or ours over the peer's at most.

    Of speeds, whose unit ends in `/s`, ours over the peer's is at least `bound`. Without a bound there is no target.
    """

    bound: float | None
    is_least: bool = True

    def row(self, what: str, beside: str, ours: list[float], peer: list[float], unit: str) -> str:
        """A row of the report, from the figures of each round."""
        is_inverse = self.is_least and not unit.endswith("/s")
        ratios = [theirs / our if is_inverse else our / theirs for our, theirs in zip(ours, peer, strict=True)]
        ratio = statistics.median(ratios)
        spread = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else f"{ratio:.2f}"
        figures = " | ".join(f"{statistics.median(column):,.2f} {unit}" for column in (ours, peer))
        return f"| {what} | {beside} | {figures} | {spread} | {self.judge(ratio)} |"

    def judge(self, ratio: float) -> str:
        """The cells for the target and for whether a ratio meets it."""
        if self.bound is None:
            return " | "
        is_met = ratio >= self.bound if self.is_least else ratio <= self.bound
        return f"at {'least' if self.is_least else 'most'} {self.bound:g} | {'yes' if is_met else '**no**'}"


def measure(runs: dict[str, Callable[[], object]], rounds: int, repeats: int = 1) -> dict[str, list[float]]:
    """CPU time of the process in ms for each, round by round, after a round to warm up; the order alternates."""
    results = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            start = time.process_time()
            for _ in range(repeats):
                runs[name]()
            results[name].append((time.process_time() - start) * 1000 / repeats)
    return {name: values[1:] for name, values in results.items()}
