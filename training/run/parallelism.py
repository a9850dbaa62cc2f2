"""Parallelism by transformers: tensor, expert, and fully sharded data parallelism.

Transformers spreads a model out only where it loads one. Its trainer saves the weights of such a model, whole, but not
its optimizer, so that such a run cannot be resumed from a checkpoint.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator, DistributedType, ParallelismConfig
from packaging.version import Version
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.distributed.configuration_utils import DistributedConfig

from ..new_heads import check_shapes, describe_new_weights, without_load_report


# Before, the trainer did not know models that were spread out when they were loaded.
NEEDED = "5.23"


@dataclass
class Parallelism:
    """The sizes by which a model is spread over `tp_size * fsdp_size` processes.

    Args:
        tp_size: Processes that share a batch, and the heads and the widths of every layer.
        fsdp_size: Such groups, each with its own batch, that share weights, gradients and optimizer states.
        ep_size: Processes among which the experts are dealt out whole; a multiple of `tp_size`.
    """

    tp_size: int = 1
    fsdp_size: int = 1
    ep_size: int = 1

    @property
    def is_one(self) -> bool:
        """Whether nothing is spread."""
        return max(self.tp_size, self.fsdp_size, self.ep_size) <= 1

    def __str__(self) -> str:
        sizes = {name: getattr(self, name) for name in ("tp_size", "fsdp_size", "ep_size")}
        return ", ".join(f"{name}={size}" for name, size in sizes.items() if size != 1)


def check_sizes(parallel: Parallelism) -> None:
    """Raises a ValueError for sizes that do not fit together, an ImportError where transformers is too old."""
    tp_size, fsdp_size, ep_size = parallel.tp_size, parallel.fsdp_size, parallel.ep_size
    if min(tp_size, fsdp_size, ep_size) < 1:
        raise ValueError(f"{parallel}: a number of processes must be at least 1.")
    if ep_size > 1 and (ep_size % tp_size or tp_size * fsdp_size % ep_size):
        raise ValueError(
            f"ep_size={ep_size} must be a multiple of tp_size={tp_size} and divide the number of processes, "
            f"tp_size * fsdp_size={tp_size * fsdp_size}."
        )
    if not parallel.is_one and Version(transformers.__version__) < Version(NEEDED):
        raise ImportError(f"{parallel} needs transformers {NEEDED} or newer; this is {transformers.__version__}.")


def check_launch(parallel: Parallelism, training: TrainingArguments) -> None:
    """Raises what `check_sizes` does, and a ValueError where processes or the trainer's arguments do not fit."""
    check_sizes(parallel)
    if parallel.is_one:
        return
    wanted = parallel.tp_size * parallel.fsdp_size
    if training.world_size != wanted:
        raise ValueError(
            f"{parallel}: tp_size * fsdp_size={wanted} must be the number of processes, which is "
            f"{training.world_size}. Start them with `torchrun --nproc_per_node {wanted} -m trine.scripts.cli`, or "
            "change the sizes."
        )
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type != training.device.type:
        raise ValueError(
            f"use_cpu={training.use_cpu} trains on '{training.device.type}', and {parallel} spreads the model over "
            f"the machine's devices of type '{accelerator.type}': hide them (CUDA_VISIBLE_DEVICES=) or use them."
        )
    for name in ("fsdp", "deepspeed", "load_best_model_at_end"):
        if value := getattr(training, name):
            raise ValueError(f"{name}={value!r} does not go together with {parallel}.")
    if training.resume_from_checkpoint is not None:
        raise ValueError(
            f"resume_from_checkpoint='{training.resume_from_checkpoint}': with {parallel} no run can go on from a "
            "checkpoint, as transformers saves no optimizer of a model that is spread out."
        )
    if not training.save_only_model:
        raise ValueError(
            f"save_only_model=False, but with {parallel} transformers saves no optimizer: with --save_only_model, "
            "checkpoints hold the weights, and no run can go on from them."
        )


def check_model(parallel: Parallelism, config: PreTrainedConfig) -> None:
    """Raises a ValueError for a model that cannot be spread out so, or would learn something else."""
    for name in ("tie_word_embeddings", "share_embeddings"):
        if parallel.fsdp_size > 1 and getattr(config, name, False):
            raise ValueError(
                f"{name}=True with {parallel}: transformers' FSDP2 trains tied embeddings otherwise than one process "
                f"does; untie them with --config_overrides {name}=false."
            )
    stacks = {f"{name}.": getattr(config, name) for name in ("encoder", "decoder") if hasattr(config, name)}
    for prefix, stack in (stacks or {"": config}).items():
        check_stack(parallel, stack, prefix)


def check_stack(parallel: Parallelism, stack: Any, prefix: str) -> None:
    """Raises a ValueError for a stack of layers that cannot be spread out so; `prefix` goes before its fields."""
    tp_size, ep_size = parallel.tp_size, parallel.ep_size
    if tp_size > 1 and stack.base_model_tp_plan is None:
        raise ValueError(
            f"{prefix}position_type='{stack.position_type}' has no tensor-parallel plan, and tp_size={tp_size}: every "
            "process would need the bias of its own heads only."
        )
    divided = {"num_attention_heads": tp_size, "num_key_value_heads": tp_size}
    if "sparse" in stack.mlp_layer_types:
        divided |= {"num_experts": ep_size} if ep_size > 1 else {"moe_intermediate_size": tp_size}
    elif ep_size > 1:
        raise ValueError(
            f"{prefix}mlp_layer_types has no 'sparse' layer, whose experts ep_size={ep_size} could spread."
        )
    for name, size in divided.items():
        if (value := getattr(stack, name)) % size:
            raise ValueError(f"{prefix}{name}={value} is not a multiple of {size}, which {parallel} needs.")


def make_model(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    parallel: Parallelism,
    training: TrainingArguments,
    source: str | None = None,
) -> PreTrainedModel:
    """Makes a new model. If it is to be spread out, one process makes and saves it, and all load their parts.

    Until all have loaded, it lies in the output folder, which several machines share or, with `save_on_each_node`,
    have each. The trainer's arguments are told which processes share a batch.

    Args:
        source: A checkpoint to load, in float32, not to make a new model; what it lacks is random, and printed.
    """
    if parallel.is_one:
        return model_class(config) if source is None else load_start(model_class, config, source)
    distributed = DistributedConfig(tp_size=parallel.tp_size, fsdp_size=parallel.fsdp_size, ep_size=parallel.ep_size)
    folder = Path(str(training.output_dir)) / "initial-model"
    if training.should_save:
        model = model_class(config) if source is None else load_start(model_class, config, source)
        model.save_pretrained(folder)
    torch.distributed.barrier()
    model = model_class.from_pretrained(folder, distributed_config=distributed)
    torch.distributed.barrier()
    if training.should_save:
        shutil.rmtree(folder)
    # Gathered, tied weights are copies, which transformers does not know as tied.
    model._keys_to_ignore_on_save = list(model.all_tied_weights_keys)
    if parallel.tp_size > 1:
        training.parallelism_config = BatchSharing(tp_size=parallel.tp_size, dp_shard_size=parallel.fsdp_size)
    return model


def load_start(model_class: type[PreTrainedModel], config: PreTrainedConfig, source: str) -> PreTrainedModel:
    """Loads a checkpoint in float32 with another config, and prints which weights it lacks.

    Raises:
        ValueError: Tensors of the checkpoint do not fit that config.
    """
    options = {"dtype": "float32", "output_loading_info": True, "ignore_mismatched_sizes": True}  # are refused below
    with without_load_report():
        loaded: Any = model_class.from_pretrained(source, config=config, **options)
    model, info = loaded
    check_shapes(info, source)
    if news := describe_new_weights(model, info):
        print(news)
    return model


class BatchSharing(ParallelismConfig):
    """transformers' config of which processes share a batch, allowed on CPUs, where only its check refuses it."""

    def _validate_accelerator(self, accelerator: Accelerator) -> None:
        if accelerator.distributed_type != DistributedType.MULTI_CPU:
            super()._validate_accelerator(accelerator)


class SharedBatchCallback(TrainerCallback):
    """Counts the tokens of a batch once; the trainer counts them in each of the `copies` processes that share it.

    Goes before callbacks that read `state.num_input_tokens_seen`.
    """

    def __init__(self, copies: int):
        self.copies, self._seen = copies, 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Remembers the number of tokens at the start."""
        self._seen = state.num_input_tokens_seen

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Corrects the trainer's count of tokens."""
        self._seen += (state.num_input_tokens_seen - self._seen) // self.copies
        state.num_input_tokens_seen = self._seen

    on_step_end = on_substep_end
