"""The precision of training: which one is fast on a device, and what `--precision` and transformers' flags ask for."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils.import_utils import is_torch_bf16_gpu_available


HALVES = ("bf16", "fp16")
PRECISIONS = ("auto", "fp32", *HALVES)
# Instructions for products of bfloat16, on x86 and ARM as Linux names them, and PyTorch's checks for them elsewhere.
CPU_INSTRUCTIONS = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported", "bf16": ""}
LAUNCHED = "ACCELERATE_MIXED_PRECISION"  # what `accelerate launch` says


def bfloat16_instructions(cpu_info: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The instructions of this CPU for products of bfloat16; without any, these are slower than those of float32."""
    if cpu_info.exists():
        lines = re.findall(r"(?m)^(?:flags|Features)\s*:(.*)$", cpu_info.read_text())
        return [name for name in CPU_INSTRUCTIONS if lines and name in lines[0].split()]
    return [name for name, check in CPU_INSTRUCTIONS.items() if getattr(torch.cpu, check, bool)()]


def has_fast_bfloat16(device: str) -> bool:
    """Whether a type of device (`cpu`, `cuda`, ...) computes in bfloat16 by itself, and so faster than in float32."""
    if device == "cpu":
        return bool(bfloat16_instructions())
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return is_torch_bf16_gpu_available()


def choose_precision(device: str) -> str:
    """Chooses for `--precision auto` on a type of device: `bf16` where that is fast, else `fp32`."""
    return "bf16" if has_fast_bfloat16(device) else "fp32"


def asked_precisions(training: Any) -> dict[str, str]:
    """The precisions that the flags of transformers and the launcher ask for, by the words that do."""
    asked = {f"{name}=True": name for name in HALVES if getattr(training, name)}
    if (launched := os.environ.get(LAUNCHED)) in HALVES:
        asked[f"{LAUNCHED}={launched}"] = launched
    return {"bf16=False": "fp32"} if training.bf16 is False and not asked else asked


def settle_precision(training: Any) -> str | None:
    """Sets `bf16` and `fp16` as `precision` says, which is one of `PRECISIONS`, before transformers reads them.

    `auto` takes what the two flags or the launcher ask for, and else what suits the device. A `bf16` of None asks for
    nothing.

    Returns:
        A sentence for the user if nobody asked for the half precision that is taken, else None.

    Raises:
        ValueError: The precision is unknown, or a flag or the launcher asks for another one.
    """
    wanted, asked = training.precision, asked_precisions(training)
    if wanted not in PRECISIONS:
        raise ValueError(f"precision='{wanted}' is not one of {list(PRECISIONS)}.")
    if wanted != "auto":
        for words, name in asked.items():
            if name != wanted:
                raise ValueError(f"precision='{wanted}' and {words} contradict each other: leave one of them out.")
        training.bf16, training.fp16 = wanted == "bf16", wanted == "fp16"
        return None
    if asked:
        training.bf16 = bool(training.bf16)
        return None
    device = "cpu" if training.use_cpu else str(getattr(torch.accelerator.current_accelerator(), "type", "cpu"))
    training.bf16 = choose_precision(device) == "bf16"
    name = "CPU" if device == "cpu" else "GPU"
    sentence = f"Training in bf16, in which this {name} is fast; --precision fp32 trains in float32."
    return sentence if training.bf16 else None


def half_precision(training: Any) -> torch.dtype | None:
    """The type that training computes matrix products in, if it is not the weights'."""
    return torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None


def check_half_precision(training: TrainingArguments) -> None:
    """Raises a ValueError for float16 on a CPU, where the trainer computes in float32 without a word."""
    if training.fp16 and training.device.type == "cpu":
        raise ValueError("fp16=True trains in float16 on accelerators only: on a CPU use bf16, or neither.")
