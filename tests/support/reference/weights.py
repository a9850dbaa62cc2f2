"""What every loop reads: weights by their names in the state dict, in float64."""

import torch


class Weights:
    """The part of a state dict below a prefix, in float64: `weights["mlp"]["up_proj.weight"]`."""

    def __init__(self, tensors: dict[str, torch.Tensor], prefix: str = ""):
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str):
        if self.prefix + name in self.tensors:
            return self.tensors[self.prefix + name].double()
        return Weights(self.tensors, f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return any(key == self.prefix + name or key.startswith(f"{self.prefix}{name}.") for key in self.tensors)


def linear(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    """`y = W x + b` (b where there is one) for each row of `x`."""
    y = torch.stack([weights["weight"] @ row for row in x])
    return y + weights["bias"] if "bias" in weights else y


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """`exp(s_j) / sum_k exp(s_k)` of a vector, shifted by its largest entry, which cancels."""
    powers = torch.exp(scores - scores.max())
    return powers / powers.sum()
