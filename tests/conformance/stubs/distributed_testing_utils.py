"""Stands in for a module that the source distribution leaves out: ranks on the CPU, as processes of this machine.

The processes are forked from a server that has imported the libraries, which takes a fraction of a fresh start's time.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes


multiprocessing.set_forkserver_preload(["torch.distributed.tensor", "transformers.modeling_utils", "trine"])


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_distributed_backend() -> str:
    return "gloo"


def _get_rank_device(rank: int) -> torch.device:
    return torch.device("cpu")


def _set_rank_device(rank: int) -> None:
    """All ranks share the CPU."""


def _start_rank_processes(function: Callable, args: tuple, nprocs: int) -> None:
    """Call `function(rank, *args)` in `nprocs` processes; raise what one of them raised."""
    start_processes(function, args=args, nprocs=nprocs, start_method="forkserver")


def run_distributed(world_size: int) -> Callable:
    """Return a decorator: the function is called as `function(rank, *args)` in each process of a new group."""

    def decorate(function: Callable) -> Callable:
        def call(*args) -> None:
            with tempfile.TemporaryDirectory() as folder:
                _start_rank_processes(_in_group, (function, world_size, f"file://{folder}/store", args), world_size)

        return call

    return decorate


def _in_group(rank: int, function: Callable, world_size: int, store: str, args: tuple) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    try:
        function(rank, *args)
    finally:
        dist.destroy_process_group()
