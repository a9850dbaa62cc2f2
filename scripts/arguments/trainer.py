"""The trainer's arguments with other defaults than transformers', for all commands that train."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from trine.configuration.patterns import check_choice
from trine.scripts.arguments.training_checks import check_numbers, check_trackers, keep_apart
from trine.training.run.muon import MUON
from trine.training.run.precision import PRECISIONS, check_half_precision, settle_precision


def trainer_default(name: str, value: Any):
    """A field of `TrainingArguments` with another default and the same help."""
    (original,) = [item for item in fields(TrainingArguments) if item.name == name]
    return field(default=value, metadata=dict(original.metadata))


@dataclass
class UsualTraining:
    """Mix in before `TrainingArguments`, or a class made of it."""

    lr_scheduler_type: str = trainer_default("lr_scheduler_type", "cosine")
    warmup_steps: float = trainer_default("warmup_steps", 0.05)
    max_grad_norm: float = trainer_default("max_grad_norm", 1.0)
    logging_steps: float = trainer_default("logging_steps", 10)
    logging_nan_inf_filter: bool = trainer_default("logging_nan_inf_filter", False)
    eval_strategy: str = trainer_default("eval_strategy", "steps")
    eval_steps: float | None = trainer_default("eval_steps", 0.1)
    save_strategy: str = trainer_default("save_strategy", "steps")
    save_steps: float = trainer_default("save_steps", 500)
    save_total_limit: int | None = trainer_default("save_total_limit", 2)
    dataloader_pin_memory: bool = trainer_default("dataloader_pin_memory", torch.accelerator.is_available())
    bf16: bool = trainer_default("bf16", None)  # neither asked for nor refused
    precision: str = field(
        default="auto",
        metadata={
            "help": f"What matrix products are computed in, one of {', '.join(PRECISIONS)}. 'auto' is bf16 where the "
            "CPU has instructions for it, or the GPU computes in it, else fp32."
        },
    )
    report_to: str = trainer_default("report_to", "none")
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to go on from, or 'last': that of output_dir, or from the start without one."},
    )

    def __post_init__(self):
        training: Any = self  # the class that this one stands before has the other arguments
        check_numbers(training)
        if not torch.accelerator.is_available():
            training.use_cpu = True  # else transformers refuses bf16, which CPUs compute, too
        chosen = settle_precision(training)
        super().__post_init__()  # pyright: ignore[reportAttributeAccessIssue] likewise
        check_trackers(training)
        check_half_precision(training)
        keep_apart(training)
        if chosen and training.should_log:  # one process of each machine
            print(chosen)


@dataclass
class MuonTraining(UsualTraining):
    """The usual training of commands that know the optimizer Muon, whose trainers take that of `choose_optimizer`."""

    optim: str = field(
        default=TrainingArguments.optim,
        metadata={
            "help": "The optimizer. 'muon' moves matrices along orthogonal ones and all else as AdamW does, with one "
            "learning rate for both; the others are transformers' `OptimizerNames`."
        },
    )

    def __post_init__(self):
        wanted = self.optim
        check_choice("optim", wanted, [MUON, *(name.value for name in OptimizerNames)])
        if wanted == MUON:
            self.optim = TrainingArguments.optim  # transformers checks the name, and does not know this one
        super().__post_init__()
        if wanted == MUON:
            self.optim = MUON
