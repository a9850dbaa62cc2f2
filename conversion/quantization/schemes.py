"""The schemes of `trine quantize`: which weights get how many bits, by which tool."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple


GROUP_SIZE = 32


def int8_dynamic(group_size: int) -> Any:
    """Weights of 8 bits with a scale for each output; activations are rounded to 8 bits token by token."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig  # pyright: ignore[reportMissingImports] optional

    return Int8DynamicActivationInt8WeightConfig()


def int8_weights(group_size: int) -> Any:
    """Weights of 8 bits with a scale for each output; activations stay as they are."""
    from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports] optional

    return Int8WeightOnlyConfig()


def grouped_weights(bits: int, group_size: int) -> Any:
    """Weights of so many bits with a scale for each group of inputs; activations stay as they are."""
    import torch
    from torchao.quantization import IntxWeightOnlyConfig  # pyright: ignore[reportMissingImports] optional
    from torchao.quantization.granularity import PerGroup  # pyright: ignore[reportMissingImports] optional

    return IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=PerGroup(group_size))


class Rule(NamedTuple):
    """How one kind of weight is stored.

    Attributes:
        stored: What the table calls it.
        make: torchao's config for it.
        note: Why it is another one than the scheme's name says.
        is_grouped: Whether inputs share scales in groups, whose size has to divide the width.
    """

    stored: str
    make: Callable[[int], Any]
    note: str = ""
    is_grouped: bool = False


class Scheme(NamedTuple):
    """A choice of `scheme`.

    Attributes:
        about: One sentence for users.
        packages: What it takes beside transformers, with the extra that brings it.
        rules: For each kind of weight (see `weights.py`); none for a scheme of another tool.
    """

    about: str
    packages: tuple[str, ...]
    extra: str
    rules: dict[str, Rule]

    @property
    def is_grouped(self) -> bool:
        """Whether it has weights of few bits in groups."""
        return any(rule.is_grouped for rule in self.rules.values())


def few_bits(bits: int, about: str) -> Scheme:
    """A scheme of linear layers with weights of few bits in groups, and of 8 bits where torchao has no fewer."""
    return Scheme(
        about,
        ("torchao",),
        "quantization",
        {
            "linear": Rule(f"int{bits}", partial(grouped_weights, bits), is_grouped=True),
            "experts": WEIGHTS_ONLY._replace(note=f"torchao has no int{bits} of stacked experts"),
            "embedding": WEIGHTS_ONLY._replace(note="a table is read by rows"),
            "lstm": WEIGHTS_ONLY._replace(note="an LSTM is read whole"),
        },
    )


WEIGHTS_ONLY = Rule("int8", int8_weights)
SCHEMES = {
    "int8": Scheme(
        "weights and, token by token, activations of 8 bits",
        ("torchao",),
        "quantization",
        {
            **dict.fromkeys(("linear", "experts"), Rule("int8", int8_dynamic)),
            **dict.fromkeys(("embedding", "lstm"), WEIGHTS_ONLY),
        },
    ),
    "int8-weights": Scheme(
        "weights of 8 bits",
        ("torchao",),
        "quantization",
        dict.fromkeys(("linear", "experts", "embedding", "lstm"), WEIGHTS_ONLY),
    ),
    "int4": few_bits(4, "weights of 4 bits in groups, of which torchao stores each in a byte"),
    "int2": few_bits(2, "weights of 2 bits, likewise, to see what they cost and what training repairs"),
    "onnx-int8": Scheme(
        "an ONNX graph with weights and activations of 8 bits, for ONNX Runtime",
        ("onnx", "onnxruntime", "onnxscript"),
        "export",
        {},
    ),
}


def check_scheme(name: str) -> Scheme:
    """The scheme of a name.

    Raises:
        ValueError: There is none, or a package that it needs is missing.
    """
    if name not in SCHEMES:
        raise ValueError(f"scheme={name!r} is not one of {[*SCHEMES]}.")
    scheme = SCHEMES[name]
    missing = [package for package in scheme.packages if find_spec(package) is None]
    if missing:
        raise ValueError(f"scheme={name!r} needs {', '.join(missing)}: pip install 'trine[{scheme.extra}]'.")
    return scheme
