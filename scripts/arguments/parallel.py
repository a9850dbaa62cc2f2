"""Arguments of training that spreads one model over several processes."""

from dataclasses import dataclass, field

from trine.training.run.parallelism import Parallelism


@dataclass
class ParallelArguments(Parallelism):
    """Sizes of parallelism; under `torchrun --nproc_per_node N`, N is tp_size * fsdp_size."""

    _argument_group_name = "one model over several processes (transformers.DistributedConfig)"

    tp_size: int = field(
        default=1,
        metadata={
            "help": "Tensor parallelism: processes that share a batch, and the heads and widths of every layer."
        },
    )
    fsdp_size: int = field(
        default=1,
        metadata={
            "help": "Fully sharded data parallelism (FSDP2): processes, or groups of tp_size, that share weights, "
            "gradients and optimizer states, each with its own batch. Needs untied embeddings."
        },
    )
    ep_size: int = field(
        default=1,
        metadata={
            "help": "Expert parallelism: processes among which the experts are dealt out whole; a multiple of tp_size "
            "that divides tp_size * fsdp_size."
        },
    )
