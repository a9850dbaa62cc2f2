"""Quantised layers that are fast on a CPU: PyTorch's kernels for products of 8 bits, in place of torchao's.

On a CPU torchao computes a product of 8 bits in several steps of Python, which take longer than the product of a small
layer, and one of 4 bits by writing out the weight. PyTorch's `linear_dynamic` is one call (FBGEMM, oneDNN). It rounds
activations with one scale for the whole batch, where torchao has one for each token: what stands in a batch beside a
text changes its outputs a little.
"""

# Shapes: O outputs, I inputs, E experts, T tokens, C experts per token, H hidden size.

import warnings
from typing import Any

import torch
from torch import nn

from ...modeling.feed_forward.experts import StackedExperts
from ...modeling.quantized import is_packed


LIMIT = 127  # the largest integer of a weight


def to_int8(weight: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers (O, I) and scales (O) of a weight of torchao; those of groups are rounded once more."""
    if weight.qdata.shape == weight.shape and weight.scale.numel() == weight.shape[0]:
        zero_point = getattr(weight, "zero_point", None)
        if zero_point is None or not zero_point.any():
            return weight.qdata, weight.scale.flatten().float()
    full = weight.dequantize().float()
    scale = (full.abs().amax(dim=1) / LIMIT).clamp(min=torch.finfo(torch.float32).tiny)
    return (full / scale[:, None]).round().to(torch.int8), scale


class PackedLayer(nn.Module):
    """A layer whose weight lies in a form of its own, without parameters; it is for inference, and is not saved."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        raise ValueError(
            f"'{prefix.rstrip('.')}' was packed by `fast_on_cpu`, and cannot be saved. Save the model before that, or "
            "load it again."
        )


class FastLinear(PackedLayer):
    """A linear layer with weights of 8 bits. Any floating-point type comes in and goes out; float32 is computed.

    Args:
        weight: Of torchao, (O, I).
        bias: (O), or None.
    """

    def __init__(self, weight: Any, bias: torch.Tensor | None = None):
        super().__init__()
        values, scale = to_int8(weight)
        self.out_features, self.in_features = values.shape
        # Without VNNI, sums of two products of 8 bits overflow: activations get 7.
        self.reduce_range = not torch.cpu._is_vnni_supported()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch advises torchao
            packed = torch._make_per_channel_quantized_tensor(  # pyright: ignore[reportPrivateImportUsage] no other makes one of integers
                values.contiguous(), scale.double(), torch.zeros(len(scale), dtype=torch.long), 0
            )
            bias = None if bias is None else bias.detach().float()
            self.packed = torch.ops.quantized.linear_prepack(packed, bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Maps (..., I) to (..., O)."""
        output = torch.ops.quantized.linear_dynamic(states.float(), self.packed, self.reduce_range)
        return output.to(states.dtype)


class FastEmbedding(PackedLayer):
    """Embeddings (vocabulary, H) of 8 bits: only the rows that are asked for become numbers."""

    def __init__(self, weight: Any):
        super().__init__()
        values, scale = to_int8(weight)
        self.num_embeddings, self.embedding_dim = values.shape
        self.dtype = weight.dtype
        self.values, self.scale = nn.Buffer(values, persistent=False), nn.Buffer(scale[:, None], persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows (..., H) of ids (...)."""
        rows = nn.functional.embedding(ids, self.values).float()
        return (rows * nn.functional.embedding(ids, self.scale)).to(self.dtype)


class FastExperts(PackedLayer):
    """The experts of a layer as linear layers of their own."""

    down_proj = None  # what asks for stacked weights finds none

    def __init__(self, experts: StackedExperts):
        super().__init__()
        self.config, self.act_fn, self.num_experts = experts.config, experts.act_fn, experts.num_experts
        self.is_gated = hasattr(experts, "gate_up_proj")
        enter = "gate_up_proj" if self.is_gated else "up_proj"
        self.enter = nn.ModuleList(self.split(experts, enter))
        self.leave = nn.ModuleList(self.split(experts, "down_proj"))

    @staticmethod
    def split(experts: StackedExperts, name: str) -> list[FastLinear]:
        """A layer for each expert."""
        weight, bias = getattr(experts, name), getattr(experts, f"{name}_bias")
        return [FastLinear(weight[n], None if bias is None else bias[n]) for n in range(experts.num_experts)]

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Sums the outputs (T, H) of the chosen experts; arguments are those of `StackedExperts`."""
        output = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique().tolist():
            tokens, slots = torch.where(top_k_index == expert)
            states = self.enter[expert](hidden_states[tokens])
            if self.is_gated:
                gate, up = states.chunk(2, dim=-1)
                states = self.act_fn(gate) * up
            else:
                states = self.act_fn(states)
            states = self.leave[expert](states) * top_k_weights[tokens, slots, None]
            output.index_add_(0, tokens, states.to(output.dtype))
        return output


def fast_on_cpu(model: Any) -> Any:
    """Replaces the quantised layers of a model by such as are fast on a CPU; the model is changed and returned.

    Linear layers, heads and experts compute with 8 bits, embeddings read 8 bits. The weights are those of the
    checkpoint; those of 4 bits in groups are rounded to 8 bits, and LSTMs written out. Of `int8-weights` and `int4`
    the activations are now rounded, too. For inference only, and not to be saved.

    Args:
        model: Loaded from what `trine quantize` wrote with a scheme of torchao, or any model with such weights, on the
            CPU.

    Raises:
        ValueError: The model has no such layers, or is on another device.

    Example:
        >>> model = fast_on_cpu(AutoModelForCausalLM.from_pretrained("my-model-int8"))  # doctest: +SKIP
    """
    packed = [tensor for tensor in model.parameters() if is_packed(tensor)]
    if not packed:
        raise ValueError("The model has no weights that torchao quantised: see `trine quantize`.")
    if packed[0].device.type != "cpu":
        raise ValueError(f"The model is on {packed[0].device}, but these layers are for the CPU.")
    for module in [*model.modules()]:
        for name, child in [*module.named_children()]:
            made = make_fast(child)
            if made is not None:
                setattr(module, name, made.train(child.training))
    return model


@torch.no_grad()
def make_fast(module: nn.Module) -> PackedLayer | nn.LSTM | None:
    """The fast form of a quantised module, or None for another."""
    weights = [tensor for tensor in module.parameters(recurse=False) if is_packed(tensor)]
    if not weights:
        return None
    if isinstance(module, nn.Linear):
        return FastLinear(weights[0], module.bias)
    if isinstance(module, nn.Embedding):
        return FastEmbedding(weights[0])
    if isinstance(module, StackedExperts):
        return FastExperts(module)
    if isinstance(module, nn.LSTM):
        return write_out(module)
    return None


def write_out(lstm: nn.LSTM) -> nn.LSTM:
    """An LSTM whose quantised weights are numbers again, which its kernel takes."""
    for name, weight in [*lstm.named_parameters()]:
        if is_packed(weight):
            setattr(lstm, name, nn.Parameter(weight.dequantize(), requires_grad=False))
    return lstm
