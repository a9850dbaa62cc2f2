"""Other families' checkpoints to ours and back, lifts to other architectures, programs, weights of fewer bits.

The functions `convert`, `lift` and `export` are in `trine` itself.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .families.base import Family
    from .families.table import FAMILIES
    from .lifts.change import exact_length, largest_change
    from .lifts.checkpoint import lift_checkpoint
    from .lifts.smaller_vocabulary import smaller_vocabulary
    from .lifts.student import shrink, take_by_config
    from .lifts.table import LIFTS
    from .programs.export import FORMATS
    from .quantization.fast import fast_on_cpu
    from .quantization.qat import QATCallback
    from .quantization.quality import measure_quality
    from .quantization.quantize import quantize
    from .quantization.schemes import SCHEMES
    from .stream import CheckpointReader, CheckpointWriter

__all__ = [
    "FAMILIES",
    "FORMATS",
    "LIFTS",
    "SCHEMES",
    "CheckpointReader",
    "CheckpointWriter",
    "Family",
    "QATCallback",
    "exact_length",
    "fast_on_cpu",
    "largest_change",
    "lift_checkpoint",
    "measure_quality",
    "quantize",
    "shrink",
    "smaller_vocabulary",
    "take_by_config",
]

__getattr__, __dir__ = lazy_names(__name__)
