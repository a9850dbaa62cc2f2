"""Checks of the trainer's arguments that the trainer makes late, obscurely or not at all."""

import math
from typing import Any

from transformers import TrainingArguments


LEAST = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1}
FINITE = ("learning_rate", "weight_decay", "max_grad_norm", "num_train_epochs")
# Steps between two evaluations, or two checkpoints, at least, where they are a share of `max_steps`.
STEPS_APART = 10
# Trackers of whose packages transformers cannot tell whether they are installed.
UNCHECKED = {"flyte", "kubeflow"}


def check_numbers(training: Any) -> None:
    """Raises a ValueError that names the field if nothing could be trained so."""
    for name, least in LEAST.items():
        if getattr(training, name) < least:
            raise ValueError(f"{name}={getattr(training, name)} must be at least {least}.")
    for name in FINITE:
        value = getattr(training, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}={value} must be a finite number, at least 0.")
    if training.max_steps == 0:
        raise ValueError("max_steps=0 would train nothing. Give at least 1, or leave it out for num_train_epochs.")
    if training.max_steps < 0 and training.num_train_epochs == 0:
        raise ValueError("num_train_epochs=0 and no max_steps: nothing would be trained.")


def check_trackers(training: TrainingArguments) -> None:
    """Raises a ValueError if a tracker in `report_to` is unknown or its package is not installed."""
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    names = training.report_to if isinstance(training.report_to, list) else [training.report_to]
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"report_to='{name}' is not one of {['none', 'all', *INTEGRATION_TO_CALLBACK]}.")
        if name not in UNCHECKED and name not in get_available_reporting_integrations():
            raise ValueError(f"report_to='{name}' needs the package of that tracker, which is not installed.")


def keep_apart(training: TrainingArguments) -> None:
    """Evaluates and saves every `STEPS_APART` steps at most where a share of a few `max_steps` asks for more.

    What is changed is printed. Where the best checkpoint is kept, there is one after some of the evaluations still.
    """
    apart, unit = min(STEPS_APART, training.max_steps), 1
    for event, strategy in (("eval", training.eval_strategy), ("save", training.save_strategy)):
        name = f"{event}_steps"
        share = getattr(training, name)
        if strategy != "steps" or not share or share >= 1 or training.max_steps <= 0:
            continue
        asked = math.ceil(share * training.max_steps)
        steps = unit * math.ceil(max(asked, apart) / unit)
        if steps != asked:
            setattr(training, name, steps)
            if training.should_log:  # one process of each machine
                every = "every step" if asked == 1 else f"every {asked} steps"
                print(f"{name}={share:g} of max_steps={training.max_steps} is {every}: {steps} are taken.")
        if training.load_best_model_at_end:
            unit = steps
