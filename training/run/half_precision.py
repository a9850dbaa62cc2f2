"""Training in half precision: where the trainer would not do what it is told."""

from transformers import TrainingArguments


def check_half_precision(training: TrainingArguments) -> None:
    """Raises a ValueError for float16 on a CPU, where the trainer computes in float32 without a word."""
    if training.fp16 and training.device.type == "cpu":
        raise ValueError("fp16=True trains in float16 on accelerators only: on a CPU use bf16, or neither.")
