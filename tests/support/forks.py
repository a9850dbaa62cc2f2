"""Programs in processes of their own, which are forked from one that has imported transformers, and nothing of trine.

A fresh process takes seconds to import torch and transformers; a fork has them from the beginning. Variables that they
read while they are imported are those of the first call, but for HF_MODULES_CACHE; HF_HOME is a new folder. Where the
start of a process is what is tested, take `subprocess`.
"""

import gc
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch


CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = ["torch", "transformers.dynamic_module_utils", "transformers.trainer"]
HOME = tempfile.TemporaryDirectory()
SECONDS: list[float] = []  # of one core, that each program took which was run to its end


def start(program: Sequence[str], folder: Path, env: Mapping[str, str], logs: tuple[Path, Path]) -> BaseProcess:
    """Start `program`, the arguments that python would get: `-c CODE`, `-m MODULE` or a file, and its own."""
    if forkserver._forkserver._preload_modules != PRELOAD:  # another user of the only one may have it import trine
        forkserver._forkserver._stop()
        CONTEXT.set_forkserver_preload(PRELOAD)
    process = CONTEXT.Process(target=_run, args=([*program], str(folder), {**env}, [str(log) for log in logs]))
    with patch.dict(os.environ, HF_HOME=HOME.name):  # for the server, if this is the first call
        process.start()
    return process


def run(program: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run `program` in `folder` to its end."""
    return run_all([program], folder, [env or os.environ])[0]


def run_ranks(count: int, program: Sequence[str], folder: Path) -> list[CompletedProcess[str]]:
    """Run `program` in `count` processes that find each other, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = str(count)
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return run_all([program] * count, folder, [os.environ | common | place for place in places])


def run_all(programs, folder: Path, environments, seconds: float = 400) -> list[CompletedProcess[str]]:
    with tempfile.TemporaryDirectory() as place:
        logs = [(Path(place, f"{index}.out"), Path(place, f"{index}.err")) for index in range(len(programs))]
        processes = [start(p, folder, env, log) for p, env, log in zip(programs, environments, logs, strict=True)]
        try:
            for process in processes:
                process.join(seconds)
        finally:
            for process in processes:
                process.kill()
        SECONDS.extend(float(path.read_text()) for path in Path(place).glob("*.seconds"))
        texts = [[log.read_text(encoding="utf-8") if log.exists() else "" for log in pair] for pair in logs]
        return [CompletedProcess([], p.exitcode, *text) for p, text in zip(processes, texts, strict=True)]


def _run(program: list[str], folder: str, env: dict[str, str], logs: list[str]) -> None:
    """In the fork: stand where a new process would, and run the program."""
    for stream, log in zip((sys.stdout, sys.stderr), logs, strict=True):
        with open(log, "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    gc.freeze()  # what was imported before the fork is there for good
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.modules["torch"].set_num_threads(1)  # the order of additions depends on the number of threads
    # The process that forks may have loaded remote code, whose folder it found by its path.
    sys.path[:] = [place for place in sys.path if not Path(place, "transformers_modules").is_dir()]
    if "HF_MODULES_CACHE" in env:
        for name in ("utils", "utils.hub", "dynamic_module_utils"):
            vars(sys.modules[f"transformers.{name}"])["HF_MODULES_CACHE"] = env["HF_MODULES_CACHE"]
    begun = sum(os.times()[:4])
    try:
        _execute(*program)
    finally:
        Path(f"{logs[0]}.seconds").write_text(str(sum(os.times()[:4]) - begun))


def _execute(kind: str, *rest: str) -> None:
    if kind == "-m":
        sys.argv = [*rest]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(module))
    else:
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")
