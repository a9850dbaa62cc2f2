"""Where `trine benchmark gpu` runs, a GPU or a rehearsal without one, and how it measures there."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from trine.scripts.reports.markdown import process_memory
from trine.scripts.reports.processes import one_line


T = TypeVar("T")
WARM_UPS, REPEATS = 5, 20


class Setting(NamedTuple):
    """A GPU in bfloat16; in a rehearsal the CPU in float32, with the kernels in Triton's interpreter."""

    is_rehearsal: bool

    @property
    def device(self) -> str:
        """Where models and kernels run."""
        return "cpu" if self.is_rehearsal else "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights and states: Triton's interpreter has no bfloat16."""
        return torch.float32 if self.is_rehearsal else torch.bfloat16

    def pick(self, full: T, small: T) -> T:
        """The first on a GPU, the second in a rehearsal."""
        return small if self.is_rehearsal else full

    def seconds(self, run: Callable[[], object]) -> float:
        """Median seconds of a run, by the GPU's own clock where there is one."""
        if self.is_rehearsal:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        return gpu_seconds(run)

    def peak_memory(self, run: Callable[[], object]) -> float:
        """The most MiB that new tensors took while this ran; in a rehearsal, that the process has ever taken."""
        if self.is_rehearsal:
            run()
            return process_memory("VmHWM")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20


def gpu_seconds(run: Callable[[], object]) -> float:
    """Median seconds of a run by the GPU's own clock."""
    for _ in range(WARM_UPS):
        run()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]
    for start, stop in events:
        start.record()
        run()
        stop.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in events) / 1000


def attempt(measure: Callable[[], list[str]]) -> list[str]:
    """The cells that this measures, or one that says why there are none.

    Raises:
        Exception: An error of the GPU, after which its process can compute nothing more.
    """
    try:
        return measure()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return ["out of memory"]
    except Exception as error:
        if "CUDA error" in str(error):
            raise
        return [failure(one_line(error))]


def failure(reason: str) -> str:
    """A cell that says what failed."""
    return f"**failed**: {reason.replace('|', '/')}"
