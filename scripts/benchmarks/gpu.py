"""Check the Triton kernels on a GPU, then measure kernels, models, decoding, experts and attention kinds there."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import torch
import transformers

from trine.modeling.kernels.simplicial.triton.rows import triton
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.benchmarks import gpu_checks, gpu_models, gpu_simplicial, gpu_states
from trine.scripts.benchmarks.gpu_setting import Setting, failure
from trine.scripts.reports.markdown import write_part
from trine.scripts.reports.processes import stream


REHEARSAL = "No GPU: rehearsal on CPU, figures mean nothing, and no page is written."
LEAST_SECONDS = 5  # a job that has fewer left is not begun


@dataclass(frozen=True)
class Part:
    """One part of the page: its heading, what to say of it, and the jobs that make its rows.

    Attributes:
        jobs: The jobs by name: a generator function of rows, which is called in a process of its own with the setting
            and what stands behind it.
        seconds: The most that a job may take.
        together: Whether jobs run at a time, as they measure no time.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    jobs: Callable[[Setting], dict[str, tuple]]
    seconds: int
    together: bool = False

    @property
    def heading(self) -> str:
        """The line that begins the part."""
        return f"## On a GPU: {self.title}"


# In the order of what is worth most, should the time not suffice.
PARTS = {
    "checks": Part(
        "kernels beside their definition", gpu_checks.NOTE, gpu_checks.COLUMNS, gpu_checks.jobs, 75, together=True
    ),
    "simplicial": Part("2-simplicial attention", gpu_simplicial.NOTE, gpu_simplicial.COLUMNS, gpu_simplicial.jobs, 40),
    "training": Part("training", gpu_models.TRAINING_NOTE, gpu_models.TRAINING_COLUMNS, gpu_models.training_jobs, 60),
    "decoding": Part("decoding", gpu_models.DECODING_NOTE, gpu_models.TRAINING_COLUMNS, gpu_models.decoding_jobs, 50),
    "states": Part("attention kinds against length", gpu_states.NOTE, gpu_states.COLUMNS, gpu_states.jobs, 30),
    "experts": Part("experts", gpu_models.EXPERTS_NOTE, gpu_models.EXPERTS_COLUMNS, gpu_models.experts_jobs, 30),
}


@dataclass
class GpuArguments:
    """Options of `trine benchmark gpu`."""

    minutes: float = field(default=8.0, metadata={"help": "What does not fit into so many is left out, and named."})
    parts: list[str] = field(
        default_factory=lambda: list(PARTS), metadata={"help": f"Which of {', '.join(PARTS)} to run."}
    )
    dry: bool = field(
        default=False, metadata={"help": "Rehearse everything in small on the CPU, as happens where there is no GPU."}
    )
    report: str = field(
        default="docs/measurements/benchmarks.md", metadata={"help": "Markdown file whose parts are replaced."}
    )

    def __post_init__(self):
        if self.minutes <= 0:
            raise ValueError(f"minutes={self.minutes} must be positive.")
        unknown = [name for name in self.parts if name not in PARTS]
        if unknown or not self.parts:
            raise ValueError(f"parts={self.parts} are not among {list(PARTS)}.")


class Run:
    """A run of some parts: what it has found, and the time that is left."""

    def __init__(self, arguments: GpuArguments, command: str):
        self.setting = Setting(arguments.dry or not torch.cuda.is_available())
        self.page, self.command = Path(arguments.report), command
        self.start = time.monotonic()
        self.end = self.start + 60 * arguments.minutes
        self.method = "forkserver"
        self.failures = 0

    def rows_of(self, job: tuple, seconds: float) -> Iterator[list[str]]:
        """The rows of a job, which ends after so many seconds."""
        function, *args = job
        options = {"seconds": seconds, "method": self.method, "preload": __name__}
        return stream(function, self.setting, *args, **options)

    def try_forks(self) -> None:
        """Starts processes from nothing where copies of one cannot use the GPU."""
        try:
            list(self.rows_of((use_device,), 60))
        except (RuntimeError, TimeoutError) as error:
            print(f"Each job imports everything anew, as copies of a process cannot use the GPU: {error}", flush=True)
            self.method = "spawn"

    def run_job(self, part: Part, name: str, job: tuple) -> list[list[str]]:
        """The rows of a job; the last says why there are no more, if it failed or had no time."""
        seconds = min(part.seconds, self.end - time.monotonic())
        rows = []
        if seconds < LEAST_SECONDS:
            rows.append([name, "left out: no time was left"])
        try:
            for row in self.rows_of(job, seconds) if not rows else ():
                rows.append(row)
                self.tell(" | ".join(row))
        except (RuntimeError, TimeoutError) as error:
            rows.append([name, failure(str(error))])
        if not rows or len(rows[-1]) == 2:
            self.tell(" | ".join(rows[-1]) if rows else name)
        return rows

    def tell(self, text: str) -> None:
        """Prints progress."""
        print(f"[{time.monotonic() - self.start:5.0f} s] {text}", flush=True)

    def run_part(self, part: Part) -> None:
        """Runs the jobs of a part, and writes it anew after each."""
        self.tell(part.heading)
        jobs, found = part.jobs(self.setting), {}
        pool = ThreadPoolExecutor(workers() if part.together and not self.setting.is_rehearsal else 1)
        futures = {pool.submit(self.run_job, part, name, job): name for name, job in jobs.items()}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                self.write(part, [row for name in jobs for row in found.get(name, ())])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        self.failures += sum("**" in cell for rows in found.values() for row in rows for cell in row)

    def write(self, part: Part, rows: list[list[str]]) -> None:
        """Puts a part with these rows in its place on the page; what was left out replaces no earlier rows."""
        is_measured = any(len(row) > 2 for row in rows)
        has_place = self.page.exists() and part.heading in self.page.read_text(encoding="utf-8").splitlines()
        if not self.setting.is_rehearsal and (is_measured or not has_place):
            write_part(self.page, text_of(part, rows, self.command))


def use_device(setting: Setting) -> Iterator[list[str]]:
    """Allocates a number on the device."""
    yield [str(torch.zeros(1, device=setting.device).item())]


def workers() -> int:
    """How many jobs compile kernels at a time."""
    return max(1, min(12, (os.cpu_count() or 2) - 2))


def text_of(part: Part, rows: list[list[str]], command: str) -> str:
    """A part of the page."""
    empty = [""] * len(part.columns)
    lines = [f"| {' | '.join([*row, *empty[len(row) :]])} |" for row in [list(part.columns), *rows]]
    lines.insert(1, "|---" * len(part.columns) + "|")
    return f"""{part.heading}

Made on {date.today()} by `{command}`: {torch.cuda.get_device_name()}, bfloat16, torch {torch.__version__}, \
Triton {getattr(triton, "__version__", "none")}, transformers {transformers.__version__}, \
Python {platform.python_version()}.

{part.note}

{chr(10).join(lines)}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine benchmark gpu` with these arguments, by default the process's; return 1 if anything failed."""
    words = list(sys.argv[1:] if argv is None else argv)
    (arguments,) = parse_arguments([GpuArguments], words, command="benchmark gpu", description=__doc__)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # to ask for a GPU must not keep copies from using it
    run = Run(arguments, shlex.join(["trine", "benchmark", "gpu", *words]))
    if run.setting.is_rehearsal:
        print(REHEARSAL, flush=True)
        os.environ["TRITON_INTERPRET"] = "1"  # for the processes of the jobs, which import Triton after this
        torch.set_num_threads(1)
    run.try_forks()
    for name in arguments.parts:
        run.run_part(PARTS[name])
    run.tell(f"failed: {run.failures}")
    if run.setting.is_rehearsal:
        print(REHEARSAL)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
